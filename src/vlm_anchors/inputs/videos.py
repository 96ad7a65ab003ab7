"""A video as a processor takes it: a file's path, or its frames."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import BadImage
from ..text_files import expand, require_regular
from .images import read_image

if TYPE_CHECKING:
    from PIL import Image

Video: TypeAlias = "str | tuple[Image.Image, ...]"


def read_video(source: Any) -> Video:
    """The path of a video file, or frames of one size.

    Args:
        source: A path, a list of frames (paths or images), or an array of (frames, height, width, 3) with values up to 255.

    Raises:
        BadImage: With what was found and what to do.
    """
    if isinstance(source, (str, Path)):
        return _existing_file(source)
    shape = getattr(source, "shape", None)
    if shape is not None:
        return _frames_of_array(source, tuple(shape))
    if not isinstance(source, (list, tuple)) or not source:
        found = "an empty list" if source in ([], ()) else type(source).__name__
        raise BadImage(f"Expected a video as a path, a list of frames or an array of them; found {found}.")
    frames = tuple(read_image(frame) for frame in source)
    sizes = {frame.size for frame in frames}
    if len(sizes) > 1:
        one, other = sorted(sizes)[:2]
        raise BadImage(f"Frames of a video have one size; found {one[0]} x {one[1]} and {other[0]} x {other[1]}.")
    return frames


def _existing_file(source: "str | Path") -> str:
    if str(source).startswith(("http://", "https://")):
        raise BadImage(f"Expected a video on this machine; found the address {source}. Download it first.")
    path = expand(source)
    try:
        if path.is_dir():
            raise BadImage(f"Expected a video file or a list of frames; {source} is a folder. List the files in it.")
        if not str(source).strip() or not path.exists():
            raise BadImage(f"No video at {str(source)!r}. Check the path; it is read from {Path.cwd()}.")
        require_regular(path, BadImage)
    except (OSError, ValueError) as error:
        raise BadImage(f"The video path {str(source)[:80]!r} cannot be read: {error}.") from error
    return str(path)


def _frames_of_array(source: Any, shape: tuple[int, ...]) -> "tuple[Image.Image, ...]":
    import numpy as np
    from PIL import Image

    frames = np.asarray(source)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise BadImage(
            f"Expected frames as an array of (frames, height, width, 3) of whole numbers up to 255 (uint8); found "
            f"{shape} of {frames.dtype}."
        )
    return tuple(Image.fromarray(frame) for frame in frames)
