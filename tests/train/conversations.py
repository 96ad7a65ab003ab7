"""Small data to train on: two drawn scenes' worth of images and conversations about them."""

import json

from PIL import Image


def image(folder, name="a.png", shade=0):
    Image.new("RGB", (64, 48), (200, shade, 90)).save(folder / name)
    return name


def llava(name="a.png", question="Is there a cup?", answer="Yes", **more):
    """One row of LLaVA-Instruct's format."""
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"image": name, "conversations": turns} | more


def messages(name="a.png", question="Is there a cup?", answer="Yes"):
    """One row of the messages format."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"images": [name], "messages": turns}


def write(folder, rows, name="data.json"):
    """Rows as one JSON list, or one a line where the name ends so; text goes in as it is."""
    if name.endswith("jsonl"):
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    else:
        text = json.dumps(rows)
    (folder / name).write_text(text)
    return folder / name


def scenes(folder, count=6, each=2):
    """A data file about `count` plain images, `each` questions an image."""
    names = [image(folder, f"{n}.png", 30 * n) for n in range(count)]
    things = ["cup", "fork", "dog", "red car", "bowl"]
    return write(
        folder,
        [
            llava(name, f"Is there a {things[(n + k) % 5]}?", ["Yes", "No"][(n + k) % 2])
            for n, name in enumerate(names)
            for k in range(each)
        ],
    )
