"""Every kind of image file: read faithfully, or refused with a sentence."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from vlm_anchors.errors import AnchorsWarning, BadImage
from vlm_anchors.inputs.images import MAX_PIXELS, read_image


def png(image, **options):
    file = io.BytesIO()
    image.save(file, **{"format": "PNG", **options})
    return file.getvalue()


def pixel(image, at=(0, 0)):
    return image.getpixel(at)


@pytest.fixture(autouse=True)
def _no_warning_unless_asked():
    with warnings.catch_warnings():
        warnings.simplefilter("error", AnchorsWarning)
        yield


def test_path_bytes_and_pillow_give_the_same(tmp_path):
    image = Image.effect_noise((20, 10), 50).convert("RGB")
    image.save(tmp_path / "a.png")
    read = [read_image(arguments) for arguments in (tmp_path / "a.png", str(tmp_path / "a.png"), png(image), image)]
    assert {each.mode for each in read} == {"RGB"}
    assert {each.tobytes() for each in read} == {image.tobytes()}


def test_a_pillow_image_is_not_changed_or_shared():
    image = Image.new("RGB", (4, 4), "red")
    image.info["dpi"] = (72, 72)
    read_image(image).putpixel((0, 0), (0, 0, 0))
    assert pixel(image) == (255, 0, 0)
    assert image.info == {"dpi": (72, 72)}


def test_missing(tmp_path):
    with pytest.raises(BadImage, match=r"No image at .*nothing\.png\. Check the path"):
        read_image(tmp_path / "nothing.png")


def test_folder(tmp_path):
    with pytest.raises(BadImage, match="is a folder. Name one file in it"):
        read_image(tmp_path)


def test_address():
    with pytest.raises(BadImage, match="Download the image first"):
        read_image("https://example.org/cat.png")


@pytest.mark.parametrize("path", ["", "  "])
def test_no_path(path):
    with pytest.raises(BadImage, match="The image path is empty"):
        read_image(path)


def test_impossible_path():
    with pytest.raises(BadImage, match="cannot be read|No image at"):
        read_image("a\0b.png")


def test_empty_file_and_no_bytes(tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(BadImage, match="is empty: 0 bytes. Copy or download it again"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(BadImage, match="is empty: 0 bytes"):
        read_image(b"")


def test_broken(tmp_path):
    (tmp_path / "broken.png").write_text("this is text")
    with pytest.raises(BadImage, match=r"broken\.png is no image that can be read. Expected PNG, JPEG"):
        read_image(tmp_path / "broken.png")
    with pytest.raises(BadImage, match="The image of 5 bytes is no image"):
        read_image(b"hello")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated(kind):
    whole = png(Image.effect_noise((64, 64), 80).convert("RGB"), format=kind)
    with pytest.raises(BadImage, match="broken or cut short"):
        read_image(whole[: len(whole) // 2])


def bomb(width, height):
    """A PNG header that claims this many pixels, in a few bytes."""
    data = bytearray(png(Image.new("L", (1, 1))))
    import struct
    import zlib

    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.parametrize("side", [9_000, 10_000, 100_000])
def test_gigantic_is_refused_before_decoding(side):
    assert side * side > MAX_PIXELS
    with pytest.raises(BadImage, match="too large.*more than 80 million pixels"):
        read_image(bomb(side, side))


def test_animated_takes_the_first_frame_and_says_so():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    data = png(frames[0], format="GIF", save_all=True, append_images=frames[1:])
    with pytest.warns(AnchorsWarning, match="has several frames; only the first one is used"):
        image = read_image(data)
    assert pixel(image) == (255, 0, 0)


def test_a_moved_on_animation_still_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    active_hooks = Image.open(io.BytesIO(png(frames[0], format="GIF", save_all=True, append_images=frames[1:])))
    active_hooks.seek(1)
    with pytest.warns(AnchorsWarning, match="several frames"):
        assert pixel(read_image(active_hooks)) == (255, 0, 0)


def test_cmyk():
    data = png(Image.new("CMYK", (4, 4), (255, 0, 0, 0)), format="JPEG")
    red, green, blue = pixel(read_image(data))
    assert red < 30
    assert green > 200
    assert blue > 200


def test_16_bit_is_scaled_not_clipped():
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    read = np.asarray(read_image(png(Image.fromarray(values))))[0, :, 0]
    assert read.tolist() == [0, 1, 128, 255]


def test_32_bit_and_float_are_scaled():
    whole = Image.fromarray(np.array([[-100, 0, 100_000]], dtype=np.int32))
    assert np.asarray(read_image(whole))[0, :, 0].tolist() == [0, 0, 255]
    unit = Image.fromarray(np.array([[0.0, 0.5, np.nan, 1.0]], dtype=np.float32))
    assert np.asarray(read_image(unit))[0, :, 0].tolist() == [0, 128, 0, 255]
    bytes_ = Image.fromarray(np.array([[0.0, 100.0, 255.0]], dtype=np.float32))
    assert np.asarray(read_image(bytes_))[0, :, 0].tolist() == [0, 100, 255]


def test_palette_and_gray_and_bilevel():
    assert pixel(read_image(png(Image.new("RGB", (4, 4), "red").quantize(4)))) == (255, 0, 0)
    assert pixel(read_image(png(Image.new("L", (4, 4), 77)))) == (77, 77, 77)
    assert pixel(read_image(png(Image.new("1", (4, 4), 1)))) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparent_shows_white(mode):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    if mode == "P":
        image = Image.new("P", (4, 4), 0)
        image.putpalette([0, 0, 0])
        image.info["transparency"] = 0
    elif mode == "PA":
        image = Image.new("PA", (4, 4), (0, 0))
    elif mode == "LA":
        image = image.convert("LA")
    assert pixel(read_image(image)) == (255, 255, 255)


def test_half_transparent_is_mixed_with_white():
    red, green, _ = pixel(read_image(png(Image.new("RGBA", (4, 4), (255, 0, 0, 128)))))
    assert red == 255
    assert 125 <= green <= 129


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (8, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert read_image(png(image, format="JPEG", exif=exif)).size == (4, 8)


def test_something_else():
    with pytest.raises(BadImage, match="found ndarray. An array becomes one with PIL.Image.fromarray"):
        read_image(np.zeros((4, 4, 3)))
    with pytest.raises(BadImage, match="found NoneType"):
        read_image(None)


def test_no_pixels():
    with pytest.raises(BadImage, match="has no pixels"):
        read_image(Image.new("RGB", (0, 4)))


def test_scenes_stay_recognisable_and_nothing_else_is_kept(tmp_path):
    from vlm_anchors import scenes
    from vlm_anchors.scenes.draw import KEY, save

    scene = scenes.from_objects(["cup", "fork"], seed=1)
    save(scene, tmp_path / "scene.png")
    assert KEY in read_image(tmp_path / "scene.png").info
    assert list(read_image(scenes.render(scene)).info) == [KEY]
    assert read_image(Image.new("RGB", (4, 4))).info == {}
