"""Writes the generated pages: docs/cli.md from --help, docs/methods.md from the catalogue, docs/families.md from the
table of families, docs/sentences.md from what the source raises, docs/decisions.md from the notes' titles.

python runs/docs.py            writes them
python runs/docs.py --check    fails if one is stale (the tests do this)
"""

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentences

DOCS = Path(__file__).parent.parent / "docs"
NOTE = "<!-- Written by `make docs`; edit the code, not this page. -->\n"


def commands(command: Any, name: str = "") -> Iterator[str]:
    """Every command's name, "" for the program itself, in the order --help lists them."""
    yield name
    for child, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {child}".strip())


def cli() -> str:
    from typer.main import get_command
    from typer.testing import CliRunner

    from vlm_anchors.apps.cli.commands import app

    parts = [NOTE, "# Command line\n", "`vlm-anchors` and `python -m vlm_anchors` are the same.\n"]
    runner = CliRunner(env={"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"})
    for command in commands(get_command(app)):
        told = runner.invoke(app, [*command.split(), "--help"], prog_name="vlm-anchors", catch_exceptions=False)
        lines = [line.rstrip() for line in told.stdout.strip("\n").splitlines()]
        parts += [f"## {f'vlm-anchors {command}'.strip()}\n", "```text", *lines, "```\n"]
    parts += [
        "## Exit codes\n",
        "0: done. 2: the input is at fault; one or two sentences on stderr say what was expected, what was found and "
        "what to do. 1: anything else; `--debug` shows where it happened.\n",
        "## Methods and decodings as text\n",
        "A SPEC is a name with its parameters: `clva`, `clva:alpha=5,beta=0`, `nucleus:top_p=0.9,seed=1`. Methods that "
        "compose are joined by `+`. `preset=MODEL/TASK` begins with published parameters (see `vlm-anchors methods NAME`). "
        "`15-32` is a range, `none`, `true` and `false` are themselves. Where a method is asked for, "
        "`greedy`, `beam`, `nucleus` and `opera` are accepted and set the decoding.",
    ]
    return "\n".join(parts) + "\n"


def methods() -> str:
    from vlm_anchors.generation.decodings import DECODINGS
    from vlm_anchors.methods import METHODS

    parts = [NOTE, "# Methods\n", "| name | class | what it does | source |", "|---|---|---|---|"]
    parts += [f"| [`{e.name}`](#{e.name}) | `va.{e.class_name}` | {e.summary} | {e.source} |" for e in METHODS]
    parts += ["", "Any method goes with any decoding unless it says why not:\n", "| name | class | what it does |"]
    published = [entry for entry in DECODINGS if hasattr(entry.load(), "presets")]
    parts += ["|---|---|---|", *[decoding_row(entry, entry in published) for entry in DECODINGS], "", PRESETS]
    parts += [WHERE, "| method | tested on | elsewhere |", "|---|---|---|", *map(where_row, METHODS), ""]
    for entry in (*METHODS, *published):
        cls = entry.load()
        parts += [f"## {entry.name}\n", "```text", inspect.getdoc(inspect.getmodule(cls)), "```\n"]
        parts += [as_markdown(inspect.getdoc(cls)), ""]
        parameters = [field for field in dataclasses.fields(cls) if field.init]
        if parameters:
            parts += [
                "| parameter | default |",
                "|---|---|",
                *[f"| `{d.name}` | `{d.default!r}` |" for d in parameters],
                "",
            ]
        if cls.presets:
            parts += ["| preset | parameters | from |", "|---|---|---|", *map(preset_row, cls.presets), ""]
    return "\n".join([*parts, METHODS_AFTER])


def decoding_row(entry: Any, has_section: bool) -> str:
    name = f"[`{entry.name}`](#{entry.name})" if has_section else f"`{entry.name}`"
    return f"| {name} | `va.{entry.class_name}` | {entry.summary} |"


def as_markdown(docstring):
    """A Google docstring with its sections as lists."""
    lines = []
    for line in docstring.splitlines():
        if line in ("Args:", "Returns:", "Raises:"):
            lines.append(f"{'Parameters:' if line == 'Args:' else line}\n")
        elif line.startswith("    ") and not line.startswith("     "):
            name, colon, rest = line.strip().partition(": ")
            lines.append(f"- `{name}`: {rest}" if colon else f"- {line.strip()}")
        elif line.startswith("        "):
            lines.append(f"  {line.strip()}")
        else:
            lines.append(line)
    return "\n".join(lines)


WHERE = """\
**Where a method runs.** CLVA is held against its equations on every family, AttAnchor on every family whose images stand among
the words. The baselines are held against theirs on LLaVA, Qwen2.5-VL and InstructBLIP. VCD, PAI and
M3ID read the prompt a second time with the whole model, other methods that do so are refused where their reading is not known
to be right; the rest run, with a warning, and their promises (off is plain, a batch is its samples) are tested on every decoder
family. [Model families](families.md) shows which method runs on which class.
"""


def where_row(entry: Any) -> str:
    cls = entry.load()
    every = "every decoder family" if cls.hooks == {"prepare"} else "every family"
    tested = ", ".join(cls.families) or every
    return f"| `{entry.name}` | {tested} | {cls.elsewhere if cls.families else ''} |"


PRESETS = """\
A **preset** is a method's parameters for a model and a task, and who says so: the authors' published program
("official-code"), their text ("paper"), a README whose own code runs with another value ("official-readme"), or we ("ours").
In a SPEC, `vcd:preset=llava-1.5-7b/pope`; parameters after it win. In Python, `va.VCD.preset("llava-1.5-7b/pope")`. Without
one for the task, the model's for any task is taken. Layer numbers are no part of them: left alone, a method takes its
paper's, which are those of a decoder of 32 layers, scaled to the depth at hand (layer × depth / 32, to the nearest, halves
up).
"""


def preset_row(preset: Any) -> str:
    from vlm_anchors.parameters import spelled

    parameters = f"`{spelled(preset.parameters)}`" if preset.parameters else "its defaults"
    return f"| `{preset.name}` | {parameters} | {preset.source} |"


METHODS_AFTER = """\
## Not here

- VisFlow (arXiv 2506.12609), ASCD and VHD: no public code was found, and their formulas are not known to us. Nothing is shipped
  under their names.
"""
FAMILIES_INTRO = """\
Every row is one transformers class, unmodified. Tests hold each against a literal double-precision reference, on a tiny
random model of the class: prompt and five decoding steps, left-padded batches, grouped-query heads, several images that
touch or do not, videos where the family has them.

**Visual tokens** are the image placeholders in the prompt, as the processor expands them. **An image** is all its tiles, a
video all its frames: z-scores are taken over each image by itself. **Tags** around an image, and whatever stands between
two visual tokens of one image (row breaks, names of tiles, newlines, timestamps), belong to its frame: they are neither
visual tokens nor text. **Text** is everything else after the first visual token.
"""
FAMILIES_AFTER = """\
*Separated by*: "runs" = an image is an unbroken run of placeholders; "encoder" = the vision encoder returns one entry an
image, so images may touch; "closing tile" = the tag of the whole picture ends an image; "video tags" = a video's frames
have the placeholder of images and are held together by the tags around them.

*Needs the processor*: the tags are known to the tokenizer only, so attach to `(model, processor)` or to what `va.load`
returns. With a bare model they count as text, a warning says so, and Idefics3 and SmolVLM score each tile by itself.

*Prefix reusable*: what stands before the question never sees it, so an image can be prefilled once for many questions.

A family that is not here is tried if its decoder runs on transformers' attention interface and its config names an
`image_token_id` or `video_token_id`. A warning says what was assumed; tags are then unknown and count as text, and an image
is a run. Decoders with layers that are not self-attention are refused, as are kernels with attention sinks.

A timestamp before a video's first frame counts as text if another image stands before it. A window that slides past an
image leaves its tokens in the z-score with weight 0, whether the cache keeps their keys or not.

A prompt may come in pieces (`prefill_chunk_size`) up to its first text. An image cut by a piece stays one image where it is
an unbroken run; tiles, rows and video frames in several pieces are refused, and images that touch count as one, with a
warning, where the encoder would have separated them.

Processors: tests run the real ones around a small tokenizer, except those of SmolVLM and Mistral 3, which cannot be built
without torchvision (and, for SmolVLM, num2words); the video half of the others needs torchvision too.
"""


def families() -> str:
    from vlm_anchors.models.families import FAMILIES

    parts = [NOTE, "# Model families\n", FAMILIES_INTRO]
    parts += [
        "| family | models | acts in | images separated by | needs the processor | M-RoPE | prefix reusable | note |"
    ]
    parts += ["|---|---|---|---|---|---|---|---|"]
    for row in FAMILIES:
        if not row.refused:
            cells = [f"`{row.name}`", row.title, "Q-Former" if row.target == "qformer" else "decoder", _told_apart(row)]
            cells += ["yes" if answer else "no" for answer in (row.tags_in_tokenizer, row.mrope, row.causal_prefix)]
            parts.append(f"| {' | '.join([*cells, row.note])} |")
    parts += ["", FAMILIES_AFTER, *matrix(), "## Refused\n"]
    parts += [f"- `{row.name}` ({row.title}): {row.refused}" for row in FAMILIES if row.refused]
    return "\n".join(parts) + "\n"


MATRIX = """\
## Every class, tried

`make family-matrix` builds a tiny random model of each image-text class of the installed transformers and compares CLVA with a
literal double-precision reference of its equations: a prompt and decoding steps, one image and two, in `generate` and in a
forward pass. *Exact*: at most 1e-4 off, and the method moves the logits by more than a hundred times that. *Off is plain*: at
alpha = beta = 0, logits and tokens are those of the plain model, bit for bit. The other methods: *runs* means that the answer
changes. *Refused*: the class or the method says so when it is attached; the reasons stand below.
"""
COLUMNS = {
    "attanchor": "AttAnchor",
    "vcd": "VCD",
    "pai": "PAI",
    "clearsight": "ClearSight",
    "deco": "DeCo",
    "memvr": "MemVR",
}


def matrix() -> list[str]:
    """The matrix of the latest `make family-matrix`, and why what is refused there is."""
    found = json.loads((DOCS.parent / "results" / "families.json").read_text())
    rows, reasons = found["classes"].values(), {}
    parts = [
        MATRIX,
        _counts(list(rows)),
        f"transformers {found['versions']['transformers']}, torch {found['versions']['torch']}.\n",
    ]
    parts += [f"| class | family | CLVA | off by | off is plain | {' | '.join(COLUMNS.values())} |"]
    parts += [f"|---|---|---|--:|---|{'---|' * len(COLUMNS)}"]
    for row in rows:
        off = f"{row['off']:.0e}" if "off" in row else ""
        cells = [f"`{row['class']}`", row["family"], _state(row, "clva", reasons), off]
        cells += [{True: "yes", False: "no"}.get(row.get("neutral"), "")]
        parts.append(f"| {' | '.join([*cells, *(_state(row, name, reasons) for name in COLUMNS)])} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return [*parts, "", "Refused for a reason of the method's own:\n", *notes, ""]


def _state(row: dict[str, Any], name: str, reasons: dict[str, int]) -> str:
    """One cell: what a method does on a class; a reason that is not the family's own gets a number."""
    state, _, reason = row[name].partition(": ")
    if state != "refused" or row["clva"].startswith("refused"):
        return state
    general = reason.replace(row["class"], "the class")
    return f"refused ({reasons.setdefault(general, len(reasons) + 1)})"


def _counts(rows: list[dict[str, Any]]) -> str:
    """How many classes each column runs on."""
    steered = [row for row in rows if not row["clva"].startswith("refused")]
    counts = [f"{title} {sum(row.get(name) == 'runs' for row in steered)}" for name, title in COLUMNS.items()]
    exact = sum(row["clva"] == "exact" for row in steered)
    return (
        f"{len(rows)} classes: CLVA exact on {exact}, refused on {len(rows) - len(steered)}; of the {len(steered)} others: "
        f"{', '.join(counts)}.\n"
    )


def _told_apart(row) -> str:
    if row.target == "qformer":
        return "one an input"
    if row.closing_tile or row.first_tile:
        return f"closing tile `{row.closing_tile}`" if row.closing_tile else f"first tile `{row.first_tile}`"
    if row.image_tags:
        return f"tags `{row.image_tags[0]}`, `{row.image_tags[1]}`"
    return f"{row.images}, video tags" if row.video_tags else row.images


def decisions() -> str:
    """Their titles, which are whole sentences."""
    notes = sorted((DOCS / "decisions").glob("*.md"))
    titles = [note.read_text().partition("\n")[0].removeprefix("# ") for note in notes]
    rows = [f"- [{title}](decisions/{note.name})" for title, note in zip(titles, notes, strict=True)]
    return "\n".join([NOTE, "# Decisions\n", "What was chosen, why, and what else was weighed.\n", *rows]) + "\n"


def comparison() -> str:
    """The page as it is written, its two counts of this package made anew."""
    from vlm_anchors.methods import METHODS
    from vlm_anchors.models.families import FAMILIES

    counts = {"methods": len(METHODS.names()) - 1, "model families": sum(not family.refused for family in FAMILIES)}
    text = (DOCS / "comparison.md").read_text()
    for row, count in counts.items():
        text = re.sub(rf"^\| {row} \| \d+ \|", f"| {row} | {count} |", text, flags=re.M)
    return text


def main() -> int:
    from vlm_anchors.evaluation.benchmarks.describe import page as benchmarks

    pages = {"cli.md": cli(), "methods.md": methods(), "families.md": families(), "comparison.md": comparison()}
    pages |= {"sentences.md": NOTE + sentences.page(), "decisions.md": decisions(), "benchmarks.md": benchmarks()}
    stale = [name for name, text in pages.items() if not (DOCS / name).exists() or (DOCS / name).read_text() != text]
    if "--check" in sys.argv:
        if stale:
            print(f"stale: {', '.join(stale)}; run `make docs`", file=sys.stderr)
        return int(bool(stale))
    for name in stale:
        (DOCS / name).write_text(pages[name])
        print(f"wrote docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
