"""The bundled benchmarks: POPE, CHAIR and MME over held-out scenes, written in the official files' formats.

The questions follow each benchmark's own rule of construction; scenes of the test split were never seen in training.
"""

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...durable import clear_leftovers, write_whole
from ...errors import BadSetting, UnknownName
from ...registry import did_you_mean
from ..benchmarks import BENCHMARKS

if TYPE_CHECKING:
    from ...scenes import Scene

BUNDLED = ("pope", "chair", "mme")
IMAGES = 500
"""Scenes with at least three categories, as many as POPE takes images."""


def bundled_data(
    benchmark: str, run: Path, images: int = IMAGES, seed: int = 0, split: str | None = None, limit: int | None = None
) -> tuple[Path, Path]:
    """(question files, image folder) of a bundled benchmark below a RUN folder; written the first time.

    All questions are written; drawn are the images of those that are asked, the first `limit` of `split`.
    """
    bench = BENCHMARKS.build(benchmark)
    name = bench.name
    if name not in BUNDLED:
        raise BadSetting(
            f"{name} has no bundled questions (those that do: {', '.join(BUNDLED)}). Give its official files by --data "
            f"and --images."
        )
    data, named = run / "scenes" / name, _scenes(images, seed)
    clear_leftovers(run / "scenes")
    _write(run / "scenes", (name,), named, seed)
    asked = bench.at(data).questions(data, split)[:limit]
    wanted = {question.image for question in asked}
    _draw(run / "scenes" / "images", {image: scene for image, scene in named.items() if image in wanted})
    return data, run / "scenes" / "images"


def export(out: Path, benchmarks: Sequence[str] = BUNDLED, images: int = IMAGES, seed: int = 0) -> Path:
    """Writes question files and images of the bundled benchmarks; images that are there already are left as they are.

    Raises `UnknownName` for a benchmark that is not bundled, `BadSetting` where the folder holds other scenes.
    """
    for name in benchmarks:
        if name not in BUNDLED:
            raise UnknownName(f"No bundled benchmark {name!r}.{did_you_mean(name, BUNDLED)}")
    named = _scenes(images, seed)
    clear_leftovers(out)
    _draw(out / "images", named)
    _write(out, benchmarks, named, seed)
    return out


def _scenes(images: int, seed: int) -> "dict[str, Scene]":
    """The scenes by the names of their images."""
    from ...scenes import sample

    scenes = [scene for scene in sample(4 * images, seed) if len(scene.present) >= 3][:images]
    return {f"scene_{number:04d}.png": scene for number, scene in enumerate(scenes)}


def _write(out: Path, benchmarks: Sequence[str], named: "dict[str, Scene]", seed: int) -> None:
    """The question files."""
    writers = {"pope": _pope, "chair": _chair, "mme": _mme}
    for name in benchmarks:
        (out / name).mkdir(parents=True, exist_ok=True)
        writers[name](out / name, named, seed)


def _draw(folder: Path, named: "dict[str, Scene]") -> None:
    from ...scenes import draw

    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in named.items():
        if not os.path.lexists(folder / name):
            write_whole(folder / name, draw.as_png(scene))
        elif _number_in(folder / name) != scene.seed:
            raise BadSetting(
                f"{folder / name} shows another scene, of another seed. Choose another folder, or empty this one."
            )


def _number_in(file: Path) -> int | None:
    """The number of the scene that a file shows; None where it shows none."""
    from ...scenes import draw

    try:
        return draw.number_in(file)
    except (OSError, ValueError, SyntaxError):  # a broken file, as Pillow's readers tell it
        return None


def _keep(file: Path, text: str) -> None:
    """Writes a question file that is not there; one that is there must hold the same."""
    if os.path.lexists(file) and not (file.is_file() and file.read_bytes() == text.encode()):
        raise BadSetting(
            f"{file} holds other questions than this version writes. Choose another folder, or remove the file."
        )
    write_whole(file, text)


def _pope(folder: Path, named: "dict[str, Scene]", seed: int) -> None:
    from ...scenes.pope import questions
    from ...scenes.questions import POPE, article

    names = {scene.seed: name for name, scene in named.items()}
    for split, rows in questions(list(named.values()), seed).items():
        lines = [
            {
                "question_id": number,
                "image": names[scene.seed],
                "text": POPE.format(a=article(name)),
                "label": "yes" if there else "no",
            }
            for number, (scene, name, there) in enumerate(rows, 1)
        ]
        _keep(folder / f"scenes_pope_{split}.json", "".join(json.dumps(line) + "\n" for line in lines))


def _chair(folder: Path, named: "dict[str, Scene]", seed: int) -> None:
    objects = {name: sorted(scene.present) for name, scene in named.items()}
    _keep(folder / "scenes_chair_objects.json", json.dumps(objects, indent=0) + "\n")


def _mme(folder: Path, named: "dict[str, Scene]", seed: int) -> None:
    """Two questions an image, one true and one false, in each of the four sub-tasks of the hallucination subset."""
    from ...scenes import questions as ask

    makers = {
        "count": ask.yesno_count,
        "color": ask.yesno_colour,
        "position": ask.yesno_side,
    }
    tasks: dict[str, list[str]] = {"existence": [], **{task: [] for task in makers}}
    for name, scene in named.items():
        rng = random.Random(f"{seed} {scene.seed}")
        pair = [(ask.article(sorted(scene.present)[0]), True), (ask.article(ask.absent(rng, scene)), False)]
        tasks["existence"] += [_line(name, f"Is there {what} in this image?", true) for what, true in pair]
        for task, make in makers.items():
            made = [make(rng, scene, true) for true in (True, False)]
            if all(one is not None for one in made):
                tasks[task] += [_line(name, one[0], one[1]) for one in made if one is not None]
    for task, lines in tasks.items():
        _keep(folder / f"{task}.txt", "\n".join(lines) + "\n")


def _line(image: str, question: str, true: bool) -> str:
    return f"{image}\t{question} Please answer yes or no.\t{'Yes' if true else 'No'}"
