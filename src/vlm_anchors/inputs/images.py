"""Any image a user may hand in becomes an upright RGB image, or a `BadImage` that says why not.

Kept faithful rather than merely readable: EXIF rotation is applied, transparency shows white as a page would, and
16-bit images are scaled to 8 bits instead of clipped.
"""

import base64
import binascii
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AnchorsWarning, BadImage
from ..text_files import expand, require_regular

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 80_000_000
"""Width times height. Larger files are refused before a pixel is decoded: a small file may unpack to gigabytes."""
MAX_RATIO = 2000
"""Long side over short side. Processors that scale the short side to a fixed length would make gigabytes of more."""
FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000", "TGA", "ICO", "ICNS", "PCX",
    "PSD", "SGI", "DDS", "QOI", "XBM", "XPM", "IM", "MSP",
)  # fmt: skip
"""What is opened, whatever a file's name ends in. Not among them: EPS and WMF, which call other programs or the system."""


def read_image(source: "str | Path | bytes | Image.Image", max_pixels: int = MAX_PIXELS) -> "Image.Image":
    """An upright RGB image from a path, the bytes of a file, a data URL, or a Pillow image.

    Of an animated image the first frame is taken, with an `AnchorsWarning`; a Pillow image stays at the frame it shows.
    Scenes of ours stay recognisable: their mark in `image.info` is kept. An image of more than `max_pixels` is not decoded.
    Raises `BadImage` with what was found and what to do.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        frame = source.tell() if _is_animated(source) else 0
        try:
            return _upright_rgb(source, "the image", max_pixels)
        finally:
            if frame:
                source.seek(frame)
    if isinstance(source, (bytes, bytearray)):
        if not source:
            raise BadImage("The image is empty: 0 bytes. Expected the contents of an image file.")
        return _decode(io.BytesIO(source), f"the image of {len(source)} bytes", max_pixels)
    if isinstance(source, str) and source.startswith("data:"):
        return read_image(inline_bytes(source), max_pixels)
    if isinstance(source, (str, Path)):
        return _decode(_existing_file(source), str(source), max_pixels)
    raise BadImage(
        f"Expected an image as a path, bytes or a PIL image; found {type(source).__name__}. "
        "An array becomes one with PIL.Image.fromarray(array)."
    )


def inline_bytes(url: str, most: int | None = None) -> bytes:
    """The bytes of a data URL, `data:image/png;base64,...`.

    Args:
        url: The data URL.
        most: Largest number of bytes; None: any.

    Raises:
        BadImage: It holds no base64 data, or more than allowed.
    """
    head, comma, text = url.partition(",")
    if not comma or not head.rstrip().lower().endswith(";base64"):
        raise BadImage("A data URL must read data:image/png;base64,DATA; this one has no base64 data.")
    if most is not None and len(text) * 3 // 4 > most:
        raise BadImage(f"The image is larger than {most // 2**20} MiB, which is the most this server reads.")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage(f"The image's base64 data is broken: {error}. Encode the file again.") from error


def _existing_file(source: "str | Path") -> Path:
    """The path, once it is sure that a non-empty file lies there."""
    if str(source).startswith(("http://", "https://")):
        raise BadImage(f"Expected a file on this machine; found the address {source}. Download the image first.")
    if not str(source).strip():
        raise BadImage("The image path is empty. Expected the path of an image file.")
    path = expand(source)
    try:
        if path.is_dir():
            raise BadImage(f"Expected an image file; {source} is a folder. Name one file in it.")
        if not path.exists():
            raise BadImage(f"No image at {source}. Check the path; it is read from {Path.cwd()}.")
        require_regular(path, BadImage)
        if path.stat().st_size == 0:
            raise BadImage(f"The image {source} is empty: 0 bytes. Copy or download it again.")
    except (OSError, ValueError) as error:
        raise BadImage(f"The image path {str(source)[:80]!r} cannot be read: {_reason(error)}.") from error
    return path


def _decode(file: "Path | io.BytesIO", name: str, max_pixels: int) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            Image.init()
            image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        raise BadImage(
            f"{_start(name)} is no image that can be read. Expected PNG, JPEG, WebP or another format Pillow knows."
        ) from error
    except Image.DecompressionBombError as error:
        raise BadImage(_too_large(name, max_pixels)) from error
    except Exception as error:  # Pillow's readers raise whatever a broken header makes them raise
        raise BadImage(f"{_start(name)} cannot be read: {_reason(error)}.") from error
    with image:
        return _upright_rgb(image, name, max_pixels)


def _upright_rgb(image: "Image.Image", name: str, max_pixels: int) -> "Image.Image":
    from PIL import ImageOps

    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(_too_large(name, max_pixels, f" ({width} x {height})"))
    if width == 0 or height == 0:
        raise BadImage(f"{_start(name)} has no pixels: {width} x {height}.")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise BadImage(
            f"{_start(name)} is {width} x {height}, a strip: one side is more than {MAX_RATIO} times the other. "
            "Cut it into pieces first."
        )
    try:
        _warn_if_animated(image, name)
        image.load()
        result = _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # truncated data, unknown colour spaces, broken EXIF: each reader has its own errors
        raise BadImage(
            f"{_start(name)} is broken or cut short: {_reason(error)}. Copy or download it again."
        ) from error
    # Of the metadata, only what this package itself wrote into the file stays (a drawn scene says that it is one).
    kept = {key: value for key, value in image.info.items() if str(key).startswith("vlm-anchors")}
    result = result.copy() if result is image else result
    result.info = kept
    return result


def _is_animated(image: "Image.Image") -> bool:
    # Never n_frames: a TIFF or GIF is read to its end for it. A phone's MPO file holds one photo twice.
    return bool(getattr(image, "is_animated", False)) and image.format != "MPO"


def _warn_if_animated(image: "Image.Image", name: str) -> None:
    if _is_animated(image):
        message = f"{_start(name)} has several frames; only the first one is used."
        warnings.warn(message, AnchorsWarning, stacklevel=2)
        image.seek(0)


def _to_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(page, layer).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: "Image.Image") -> "Image.Image":
    """Gray values of more than 8 bits, scaled; Pillow's own convert() would clip them to white."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and 0 <= low and high <= 1:
        top = 1.0
    elif image.mode == "F" and 0 <= low and high <= 255:
        top = 255.0
    elif 0 <= low and high <= 65535:
        top = 65535.0
    else:  # no known scale: the darkest value becomes black, the brightest white
        values, top = values - low, max(high - low, 1e-9)
    return Image.fromarray((values * (255 / top)).round().astype(np.uint8))


def _too_large(name: str, max_pixels: int, found: str = "") -> str:
    limit = f"{max_pixels / 10**6:g}"
    return f"{_start(name)} is too large{found}: more than {limit} million pixels. Make it smaller first."


def _start(name: str) -> str:
    return name[0].upper() + name[1:] if name.startswith("the ") else f"The image {name}"


def _reason(error: Any) -> str:
    return str(error).strip().rstrip(".").split("\n")[0][:200] or type(error).__name__
