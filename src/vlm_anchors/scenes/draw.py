"""Draws a scene: ground, texture, clutter, objects, then blur and noise. Same scene, same pixels (at one Pillow and
NumPy; other versions may resample a little differently)."""

import io
import json

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps, PngImagePlugin

from . import sprites
from .scene import SIZE, Scene, SceneObject

KEY = "vlm-anchors-scene"  # in a scene's image.info, and as a text chunk in its PNG file
OBJECTS = "vlm-anchors-objects"  # in a scene's PNG file: JSON, [[name, box, visibility], ...]
TINTS = {  # dark, middle and light end of a tinted object
    "red": ("#4a0508", "#d81f26", "#ffa59c"),
    "yellow": ("#6b5200", "#f2cb05", "#fff6b0"),
    "green": ("#06340f", "#1f9e3a", "#a8efb0"),
    "blue": ("#071a55", "#2257e0", "#a9c6ff"),
    "purple": ("#2c0748", "#8a2bc9", "#dcb0ff"),
    "pink": ("#7a1348", "#ff6fb1", "#ffd9ec"),
    "white": ("#8c8c8c", "#e6e6e6", "#ffffff"),
    "black": ("#000000", "#1c1c1c", "#5e5e5e"),
}
GROUNDS = {  # far and near colour
    "street": ((176, 190, 204), (112, 112, 116)),
    "grass": ((168, 206, 232), (110, 158, 84)),
    "sky": ((120, 178, 232), (190, 220, 244)),
    "water": ((170, 212, 236), (64, 132, 168)),
    "snow": ((196, 212, 228), (232, 238, 244)),
    "kitchen": ((222, 224, 214), (176, 182, 186)),
    "table": ((206, 190, 168), (160, 122, 88)),
    "room": ((214, 198, 178), (136, 104, 82)),
    "court": ((150, 178, 150), (170, 112, 92)),
    "plain": ((196, 196, 192), (164, 162, 158)),
}


def ground(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Two colours that meet at a horizon, with coarse and fine texture."""
    shift = rng.normal(0, 12, 3)
    far, near = (np.array(colour) + shift for colour in GROUNDS[scene.background])
    horizon = rng.uniform(0.3, 0.65) * 16
    share = 1 / (1 + np.exp(-(np.arange(16) - horizon) * 1.5))
    coarse = far + share[:, None, None] * (near - far) + rng.normal(0, rng.uniform(3, 14), (16, 16, 3))
    image = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 4)):  # clutter: faint shapes that are no objects
        x, y = rng.integers(0, SIZE, 2)
        w, h = rng.integers(6, 30, 2)
        colour = tuple(int(c) for c in np.clip((far + near) / 2 + rng.normal(0, 30, 3), 0, 255))
        (pen.rectangle if rng.random() < 0.5 else pen.ellipse)([int(x), int(y), int(x + w), int(y + h)], fill=colour)
    return image


def cutout(thing: SceneObject) -> Image.Image:
    """The object as it is pasted: RGBA, exactly as large as its box."""
    image = sprites.picture(thing.sprite, thing.angle, thing.mirrored)
    size = (thing.box[2] - thing.box[0], thing.box[3] - thing.box[1])
    image = image.resize(size, Image.Resampling.BILINEAR)
    if thing.colour is None:
        return image
    dark, middle, light = TINTS[thing.colour]
    tinted = ImageOps.colorize(image.convert("L"), dark, light, mid=middle)
    tinted.putalpha(image.getchannel("A"))
    return tinted


def drawn(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (128, 128, 3) uint8, and whose they are: (128, 128) uint8, 0 for the ground, i + 1 for objects[i]."""
    rng = np.random.default_rng(scene.seed)
    image, owner = ground(scene, rng), Image.new("L", (SIZE, SIZE))
    for i, thing in enumerate(scene.objects):
        picture = cutout(thing)
        alpha = picture.getchannel("A")
        owner.paste(i + 1, thing.box, alpha.point(lambda a: 255 * (a > 40)))
        image.paste(picture, thing.box, alpha.point(lambda a, share=thing.opacity: a * share // 100))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    level = rng.uniform(1, 8) * 1.7  # uniform noise of this half-width has a standard deviation of 1 to 8
    noise = rng.integers(-128, 128, (SIZE, SIZE, 3), dtype=np.int8).astype(np.int16) * int(level * 256 / 128) >> 8
    return np.clip(np.asarray(image, dtype=np.int16) + noise, 0, 255).astype(np.uint8), np.asarray(owner)


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB image of 128 x 128 pixels; its `info` names it as a scene of ours."""
    image = Image.fromarray(drawn(scene)[0])
    image.info[KEY] = str(scene.seed)
    return image


def save(scene: Scene, path) -> None:
    """Writes the scene as a PNG file that still knows it is a scene, and what is where in it (`objects_in`)."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(KEY, str(scene.seed))
    chunks.add_text(OBJECTS, json.dumps([[thing.name, thing.box, thing.visibility] for thing in scene.objects]))
    render(scene).save(path, format="PNG", pnginfo=chunks)


def as_png(scene: Scene) -> bytes:
    """What `save` writes."""
    file = io.BytesIO()
    save(scene, file)
    return file.getvalue()


def number_in(path) -> int | None:
    """The number of the scene that an image file shows; None for any other image."""
    with Image.open(path) as image:
        stored = image.info.get(KEY)
    return None if stored is None else int(stored)


def objects_in(path) -> list[tuple[str, tuple[int, int, int, int], float]] | None:
    """Name, box in pixels and visibility of what a scene's PNG file says is in it; None for any other image."""
    with Image.open(path) as image:
        stored = image.info.get(OBJECTS)
    return None if stored is None else [(name, tuple(box), seen) for name, box, seen in json.loads(stored)]


def not_a_scene(image: "Image.Image") -> str | None:
    """What the bundled model has to say of an image that is no drawn scene; None for a scene."""
    if KEY in image.info:
        return None
    return (
        "The bundled model 'scenes' knows drawn scenes only; about a photograph it says confident nonsense. `vlm-anchors "
        "scenes render` draws scenes; for photographs load a real model, such as llava-hf/llava-1.5-7b-hf."
    )
