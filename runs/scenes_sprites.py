"""Builds the sprite sheet: emoji where a good one exists, shapes drawn here for the rest.

    python runs/scenes_sprites.py /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf

Writes data/sprites.png (tiles of 64 x 64 pixels, 16 a row) and data/sprites.json (category and, for each of nine
angles, width and height of what is drawn). Font: Debian's fonts-noto-color-emoji 2.042.
"""

import json
import sys

from PIL import Image, ImageDraw, ImageFont

from vlm_anchors.scenes.coco import CATEGORIES, DATA
from vlm_anchors.scenes.sprites import ANGLES, COLUMNS, TILE, turned

EMOJI = {
    "person": "🧍🚶🏃👩👨🧑👧", "bicycle": "🚲", "car": "🚗🚙🚘🚖", "motorcycle": "🏍🛵", "airplane": "✈🛩",
    "bus": "🚌🚍🚎", "train": "🚂🚆🚄🚇", "truck": "🚚🚛🛻", "boat": "⛵🚤🛥🛶", "traffic light": "🚦🚥",
    "stop sign": "🛑", "bird": "🐦🦅🦆🦜", "cat": "🐈🐱", "dog": "🐕🐶🐩🦮", "horse": "🐎🐴", "sheep": "🐑🐏",
    "cow": "🐄🐮", "elephant": "🐘", "bear": "🐻", "zebra": "🦓", "giraffe": "🦒", "backpack": "🎒", "umbrella": "☂🌂",
    "handbag": "👜👛", "tie": "👔", "suitcase": "🧳💼", "frisbee": "🥏", "sports ball": "⚽🏀🏐🏈", "kite": "🪁",
    "skateboard": "🛹", "tennis racket": "🎾🏸", "bottle": "🍾🍼", "wine glass": "🍷", "cup": "☕🥤🥛", "knife": "🔪",
    "spoon": "🥄", "bowl": "🥣🍜", "banana": "🍌", "apple": "🍎🍏", "sandwich": "🥪", "orange": "🍊", "broccoli": "🥦",
    "carrot": "🥕", "hot dog": "🌭", "pizza": "🍕", "donut": "🍩", "cake": "🎂🍰", "chair": "🪑💺", "couch": "🛋",
    "potted plant": "🪴", "bed": "🛏", "toilet": "🚽", "tv": "📺", "laptop": "💻", "mouse": "🖱", "keyboard": "⌨",
    "cell phone": "📱", "book": "📕📗📘📖", "clock": "🕐⏰🕰", "vase": "⚱🏺", "scissors": "✂", "teddy bear": "🧸",
    "toothbrush": "🪥",
}  # fmt: skip
BIG = 256  # shapes are drawn large and shrunk: smooth edges


def emoji(character: str, font) -> Image.Image:
    """One glyph, cut to what is drawn."""
    image = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(image).text((8, 8), character, font=font, embedded_color=True)
    return image.crop(image.getbbox())


class Pen:
    """A canvas in units of 0..100 with the few strokes the shapes need."""

    def __init__(self):
        self.image = Image.new("RGBA", (BIG, BIG))
        self.draw = ImageDraw.Draw(self.image)

    def at(self, *numbers):
        return [n * BIG / 100 for n in numbers]

    def box(self, x0, y0, x1, y1, fill, radius=3, edge="#333"):
        self.draw.rounded_rectangle(self.at(x0, y0, x1, y1), radius * 2.56, fill=fill, outline=edge, width=4)

    def oval(self, x0, y0, x1, y1, fill, edge="#333"):
        self.draw.ellipse(self.at(x0, y0, x1, y1), fill=fill, outline=edge, width=4)

    def shape(self, *points, fill):
        self.draw.polygon(self.at(*points), fill=fill, outline="#333", width=4)

    def line(self, *points, fill, width):
        self.draw.line(self.at(*points), fill=fill, width=round(width * 2.56), joint="curve")


def dining_table(p):
    p.shape(12, 30, 88, 30, 100, 48, 0, 48, fill="#b5763c")
    p.box(0, 48, 100, 56, "#8d5524")
    for x in (6, 84):
        p.box(x, 56, x + 10, 92, "#8d5524")
    for x in (26, 66):
        p.box(x, 56, x + 7, 78, "#6e3f17")


def bench(p):
    for y in (24, 36):
        p.box(2, y, 98, y + 8, "#a9713a")
    p.box(0, 54, 100, 64, "#c08a4e")
    for x in (10, 82):
        p.box(x, 20, x + 8, 92, "#444", 1)


def sink(p):
    p.box(2, 48, 98, 62, "#e8eef2")
    p.shape(12, 62, 88, 62, 72, 88, 28, 88, fill="#cfd9df")
    p.line(50, 48, 50, 18, 70, 18, 70, 32, fill="#8b98a1", width=8)
    for x in (28, 66):
        p.oval(x, 38, x + 10, 48, "#8b98a1")


def fire_hydrant(p):
    p.box(32, 30, 68, 84, "#e03a2a")
    p.draw.pieslice(p.at(30, 8, 70, 52), 180, 360, fill="#c92c1e", outline="#333", width=4)
    p.box(44, 2, 56, 12, "#c92c1e")
    for x in (14, 68):
        p.box(x, 42, x + 18, 58, "#f2b632")
    p.oval(40, 42, 60, 62, "#f2b632")
    p.box(22, 84, 78, 96, "#a82216")


def oven(p):
    p.box(8, 4, 92, 96, "#d7dade")
    for x in (16, 34, 52, 70):
        p.oval(x, 10, x + 12, 22, "#444")
    p.box(16, 34, 84, 86, "#30343a")
    p.box(26, 46, 74, 76, "#e78b3a")
    p.line(20, 30, 80, 30, fill="#777", width=4)


def refrigerator(p):
    p.box(22, 2, 78, 98, "#e9f0f4", 6)
    p.line(22, 38, 78, 38, fill="#333", width=2)
    p.line(32, 16, 32, 32, fill="#7b8a94", width=4)
    p.line(32, 46, 32, 70, fill="#7b8a94", width=4)


def remote(p):
    p.box(32, 2, 68, 98, "#2b2d31", 8)
    p.oval(44, 8, 56, 20, "#e23b30")
    for y in (30, 44, 58, 72):
        for x in (38, 47, 56):
            p.oval(x, y, x + 7, y + 8, "#cfd3d8")


def baseball_glove(p):
    for i, x in enumerate((14, 30, 46, 62)):
        p.oval(x, (16, 6, 6, 14)[i], x + 20, 64, "#a4582a")
    p.oval(60, 40, 96, 66, "#a4582a")
    p.oval(14, 40, 80, 96, "#8a4520")
    p.oval(32, 44, 60, 72, "#5f2d12")


def baseball_bat(p):
    p.shape(6, 90, 12, 96, 52, 62, 92, 18, 94, 8, 84, 6, 76, 10, 42, 50, fill="#d8a25e")
    p.oval(2, 86, 16, 99, "#9c6b30")


def microwave(p):
    p.box(2, 20, 98, 80, "#c9ced3")
    p.box(10, 28, 66, 72, "#2e3238")
    p.box(18, 36, 58, 64, "#54606b")
    p.box(73, 28, 92, 38, "#63d471")
    for y in (46, 56, 66):
        p.oval(74, y, 80, y + 6, "#555")
        p.oval(85, y, 91, y + 6, "#555")


def parking_meter(p):
    p.box(44, 54, 56, 98, "#6d7781")
    p.draw.pieslice(p.at(24, 2, 76, 60), 180, 360, fill="#5e7f99", outline="#333", width=4)
    p.box(24, 30, 76, 60, "#5e7f99")
    p.box(33, 16, 67, 32, "#f4f4e6")
    p.box(46, 40, 54, 54, "#222", 1)


def toaster(p):
    for x in (24, 54):
        p.box(x, 14, x + 24, 50, "#c98b45", 5)
    p.box(8, 34, 92, 84, "#d94f45", 8)
    p.line(16, 44, 84, 44, fill="#7d211a", width=4)
    p.box(92, 50, 99, 58, "#333")
    p.box(14, 84, 86, 92, "#333")


def hair_drier(p):
    p.shape(40, 56, 62, 56, 58, 98, 44, 98, fill="#b03a8b")
    p.oval(20, 12, 80, 62, "#e05ab4")
    p.shape(70, 24, 99, 16, 99, 58, 70, 50, fill="#7c2a62")
    p.oval(36, 26, 58, 48, "#7c2a62")


def snowboard(p):
    p.box(4, 38, 96, 62, "#3a66d8", 12)
    for x in (26, 60):
        p.box(x, 32, x + 14, 68, "#20242c", 4)
    p.line(44, 42, 56, 58, fill="#f6d743", width=5)


def surfboard(p):
    p.oval(32, 0, 68, 100, "#f3d9a0")
    p.line(50, 4, 50, 96, fill="#2f9aa8", width=5)
    p.shape(35, 62, 65, 62, 63, 74, 37, 74, fill="#e4573d")


def skis(p):
    for x, tip in ((20, 2), (58, 8)):
        p.line(x + 8, 96, x + 8, 14, x + 16, tip, fill="#333", width=12)
        p.line(x + 8, 95, x + 8, 14, x + 15, tip + 1, fill="#38b26b", width=8)
        p.box(x + 2, 50, x + 14, 66, "#222", 1)


SHAPES = (dining_table, bench, sink, fire_hydrant, oven, refrigerator, remote, baseball_glove, baseball_bat, microwave,
          parking_meter, toaster, hair_drier, snowboard, surfboard, skis)  # fmt: skip


def tiles(font_file: str) -> list[tuple[str, Image.Image]]:
    """(category, image) of every sprite, in COCO's order."""
    font = ImageFont.truetype(font_file, 109)  # the one size in which this font has pictures
    found = [(name, emoji(character, font)) for name, characters in EMOJI.items() for character in characters]
    both = emoji("🍴", font)
    middle = both.width // 2
    found += [("fork", both.crop((0, 0, middle, both.height)))]
    found += [("knife", both.crop((middle, 0, both.width, both.height)))]
    for shape in SHAPES:
        pen = Pen()
        shape(pen)
        found.append((shape.__name__.replace("_", " "), pen.image))
    return sorted(found, key=lambda item: CATEGORIES.index(item[0]))


def fitted(image: Image.Image) -> Image.Image:
    """The sprite in the middle of a tile, its longer side filling it."""
    image = image.crop(image.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox())
    scale = TILE / max(image.size)
    image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    tile = Image.new("RGBA", (TILE, TILE))
    tile.paste(image, ((TILE - image.width) // 2, (TILE - image.height) // 2))
    return tile


def main(font_file: str) -> None:
    sprites = [(name, fitted(image)) for name, image in tiles(font_file)]
    assert {name for name, _ in sprites} == set(CATEGORIES)
    sheet = Image.new("RGBA", (COLUMNS * TILE, -(-len(sprites) // COLUMNS) * TILE))
    for i, (_, tile) in enumerate(sprites):
        sheet.paste(tile, (i % COLUMNS * TILE, i // COLUMNS * TILE))
    sheet.save(DATA / "sprites.png", optimize=True)
    rows = [{"name": name, "sides": [turned(tile, angle).size for angle in ANGLES]} for name, tile in sprites]
    (DATA / "sprites.json").write_text("[\n " + ",\n ".join(map(json.dumps, rows)) + "\n]\n")
    print(len(sprites), "sprites")


if __name__ == "__main__":
    main(sys.argv[1])
