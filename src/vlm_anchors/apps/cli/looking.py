"""`vlm-anchors look`: where a model looks, as figures and a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, outputs
from .printing import say

if TYPE_CHECKING:
    from ...analysis.study import Study


@options.takes_model
def look(
    words: Annotated[list[str], typer.Argument(metavar="IMAGE QUESTION", help="An image file, then the question.")],
    out: Annotated[Path, outputs.folder(help="Folder to write into; made if it is not there.")],
    model: options.Chosen,
    method: options.Methods = None,
    max_new_tokens: options.MaxNewTokens = 64,
    json: options.Json = False,
) -> None:
    """Show where a model looks while it answers.

    Writes figures, tables, and one page that opens in any browser, without a network.
    """
    image, question = _one_image(words)
    specs = options.each_method(method) or ["none", "clva"]
    chosen, picture = _checked(image, question, specs)
    vlm = model.load()
    from ...analysis.study import study

    summary = study(vlm, picture, question, chosen, max_new_tokens=max_new_tokens, norms=True)
    start = f"vlm-anchors compare {image} {_quoted(question)} --model {model.name}"
    commands = [start + "".join(f" --method {spec}" for spec in specs), f"vlm-anchors diagnose --model {model.name}"]
    files = _write(summary, out, commands)
    if json:
        options.print_json({"page": str(files[0]), "files": [str(file) for file in files], **_answers(summary)})
        return
    for one in summary.seen:
        say(f"{one.name}: {one.answer.text}")
    say(f"page: {files[0]}")
    say(f"{len(files) - 1} figures and tables beside it", err=True)


def _one_image(words: list[str]) -> tuple[str, str]:
    from ...errors import BadQuestion

    if len(words) != 2:
        raise BadQuestion(
            f"Expected one image and then a question; found {len(words)} {'word' if len(words) == 1 else 'words'}. "
            "Example: vlm-anchors look kitchen.png 'Is there a fork?' --out seen"
        )
    return words[0], words[1]


def _checked(image: str, question: str, specs: list[str]) -> tuple[list[Any], Any]:
    """Methods (as they are named) and image, before a model is loaded; figures need matplotlib, which is checked as early."""
    from ...errors import BadSetting
    from ...inputs.images import read_image
    from ...inputs.prompt_builder import check_question
    from ...specs import choose

    options.can_draw()
    for spec in specs:
        choose(spec)
    if len(set(specs)) < len(specs):
        raise BadSetting(f"A method was named twice: {', '.join(specs)}. Name each once.")
    check_question(question)
    return list(specs), read_image(image)


def _write(summary: "Study", out: Path, commands: list[str]) -> list[Path]:
    """The page first, then figures and tables."""
    import json

    from ...analysis.figures import figures_of, tables_of
    from ...analysis.look_page import write_page
    from ...document import save_figure
    from ...durable import write_whole
    from ...generation.effects_text import in_words

    drawn = figures_of(summary)
    did = [in_words(dict(one.answer.effects)) if one.answer.effects else "–" for one in summary.seen]
    out.mkdir(parents=True, exist_ok=True)
    page = out / "index.html"
    write_whole(page, write_page(summary, {each.caption: each.figure for each in drawn}, commands, did))
    files = [page]
    for each in drawn:
        files.append(out / f"{each.name}.png")
        save_figure(each.figure, files[-1])
    files.append(out / "tables.json")
    write_whole(files[-1], json.dumps(tables_of(summary), indent=1))
    return files


def _answers(summary: "Study") -> dict[str, Any]:
    from .asking import as_dict

    return {
        "model": summary.model,
        "question": summary.question,
        "answers": [as_dict(one.answer) for one in summary.seen],
    }


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
