"""`vlm-anchors calibrate`: the tau that anchors a share of the prompts' words."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options, outputs
from .printing import say

if TYPE_CHECKING:
    from ...analysis.calibration import Calibration

QUESTIONS = ("Describe this image in detail.", "What objects are in the image, and where are they?")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@options.takes_model
def calibrate(
    images: Annotated[Path, typer.Option("--images", metavar="DIR", help="A folder of sample images.")],
    model: options.Chosen,
    questions: options.Questions = None,
    fraction: Annotated[float, typer.Option("--fraction", help="Share of the prompts' words to anchor.")] = 0.10,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many images.")] = 64,
    out: Annotated[Path | None, outputs.file(help="Write the figure, .png, .svg or .pdf.")] = None,
    json: options.Json = False,
) -> None:
    """Find the tau at which AttAnchor anchors a share of the words."""
    options.can_draw_into(out)
    paths, asked = sample_images(images)[:limit], read_questions(questions)
    vlm = model.load()
    from ...analysis import calibration

    found = calibration.calibrate(vlm, ((path, question) for path in paths for question in asked), fraction)
    if json:
        options.print_json({"model": vlm.name, "revision": vlm.revision, "images": len(paths), **found.as_dict()})
    else:
        _show(found, len(paths))
    if out is not None:
        found.figure(out)


def sample_images(folder: Path) -> list[Path]:
    from ...errors import BadImage

    if not folder.is_dir():
        raise BadImage(f"Expected a folder of images; {folder} is none. Name one with --images DIR.")
    # macOS leaves a hidden "._a.png" beside each image it copies.
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not paths:
        raise BadImage(f"No images in {folder}. Expected files such as .png or .jpg directly in it.")
    return paths


def read_questions(file: Path | None) -> list[str]:
    from ...errors import BadQuestion
    from ...text_files import read_text

    if file is None:
        return list(QUESTIONS)
    try:
        text = read_text(file, BadQuestion, "Expected text, one question a line.")
    except OSError as error:
        raise BadQuestion(
            f"The questions in {file} cannot be read: {error.strerror or error}. Expected text, one question a line."
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise BadQuestion(f"{file} holds no question. Expected one a line.")
    return lines


def _show(found: "Calibration", images: int) -> None:
    share = found.share(found.tau)
    say(f"tau {found.tau:g}: anchors {share:.1%} of {len(found.cosines)} words in prompts about {images} images")
    for tau, part in found.shares.items():
        say(f"  {tau:<5g} {part:6.1%}")
    say(f"vlm-anchors ask IMAGE QUESTION --method attanchor:tau={found.tau:g}", err=True)
