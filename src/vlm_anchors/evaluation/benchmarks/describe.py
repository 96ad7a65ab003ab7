"""docs/benchmarks.md, written from the catalogue; `make docs` writes it."""

import dataclasses
import inspect
from collections.abc import Sequence

from ..reading.files import official_files
from ..reading.parsing import LETTER_DIALECTS, YES_NO_DIALECTS, parse_yes_no
from . import BENCHMARKS
from .base import Benchmark, Metric
from .protocols import Protocol, protocols

NOTE = "<!-- Written by `make docs`; edit the code, not this page. -->\n"
INTRO = """\
A score is a pure function of saved records: answer once, score again any time. Numbers are on the scale of the official
script; tables show fractions as percents. What a script does with odd answers is kept, and has a name (a *dialect*) that
is printed with the number. An answer that cannot be read is *unread*: counted, shown, and wrong.

Question files are not part of this package. Give the official ones with `--data`, their images with `--images`; an image
is found by its name, or with another ending. A file that is wrong is refused with its line and what was expected.

`vlm-anchors report RUN --answers DIR` writes the answers as official scorers and servers take them, to
`DIR/BENCHMARK/METHOD_DECODING_SEED/`; "answer files" below says which. Scripts that go by line find the questions' order.
"""
ARROWS = {"higher": "higher is better", "lower": "lower is better", "neither": ""}
AWKWARD = ["Yes.", "NO", "There isn't a dog.", "There are none.", "Another dog", "Yes, it is not empty", "\nNo", ""]
COMPARED = ("pope", "opera", "lmms", "mme", "lmms-mme", "vlmevalkit", "amber", "strict")
JUDGE = """\
### Judging LLaVA-Bench

A language model marks each answer beside GPT-4's. The judge is yours to choose: any OpenAI-compatible address, on this machine or
elsewhere. Questions, answers and image captions are sent there; without `--send` the command says how many, and sends nothing.

```bash
vlm-anchors eval llava-bench --model MODEL --data llava-bench --images llava-bench/images --out RUN
vlm-anchors judge RUN --rules LLaVA/llava/eval/table/rule.json --url http://localhost:8000/v1 --judge-model NAME --send
vlm-anchors report RUN
```

`--data` holds `questions.jsonl`, `context.jsonl` and `answers_gpt4.jsonl`. A key, if the address wants one, is read from the
environment variable `OPENAI_API_KEY` (or `--key-variable`), and is neither written nor printed. Each review is stored in
`RUN/reviews.jsonl` as it arrives, with the judge's name, address and time; the records stay as they are. Run the command again
after a stop, or after more answers: what has a review is not sent again. One RUN has one judge, whose name and days stand
beside every number. To judge with LLaVA's own script, take the answer file: `vlm-anchors report RUN --answers DIR`.
"""


def page() -> str:
    """The whole page."""
    parts = [NOTE, "# Benchmarks\n", INTRO, _index(), _dialects()]
    for entry in BENCHMARKS:
        parts.append(_benchmark(entry.name, entry.summary, entry.load()))
        if entry.name == "llava-bench":
            parts.append(JUDGE)
    return "\n".join(parts).rstrip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "\\n") for cell in cells) + " |"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([_row(head), _row(["---"] * len(head)), *map(_row, rows)]) + "\n"


def _index() -> str:
    rows = [(f"[`{e.name}`](#{e.name})", e.summary, e.source) for e in BENCHMARKS]
    return _table(("name", "what it asks", "source"), rows)


def _dialects() -> str:
    known = _table(("dialect", "what it reproduces"), [(f"`{name}`", words) for name, words in YES_NO_DIALECTS.items()])
    rows = []
    for answer in AWKWARD:
        rows.append([f"`{answer!r}`", *(parse_yes_no(answer, dialect) or "–" for dialect in COMPARED)])
    letters = _table(("dialect of letters", "what it reproduces"), [(f"`{n}`", w) for n, w in LETTER_DIALECTS.items()])
    return (
        "## Dialects\n\nThe same words are yes to one script, no to another, and unread (–) to a third. A model that answers "
        f"one bare word makes them agree, so the prompt matters.\n\n{known}\n{_table(('answer', *COMPARED), rows)}\n{letters}"
    )


def _benchmark(name: str, summary: str, cls: type[Benchmark]) -> str:
    module = inspect.getmodule(cls)
    layout = inspect.getdoc(cls.questions) or ""
    files = sorted({row["file"] for row in official_files().values() if row["benchmark"] == name})
    facts = [
        ("version", cls.version),
        ("source", cls.source),
        ("licence of the data", cls.licence),
        ("files", layout.replace("\n", " ")),
        ("answer files", (inspect.getdoc(cls.answer_files) or "").replace("\n", " ")),
        ("beware", cls.note),
    ]
    if files:
        facts.append(("official files known by their SHA-256", ", ".join(files)))
    lines = [
        f"## {name}\n",
        f"{summary}.\n",
        "```text",
        inspect.getdoc(module) or "",
        "```\n",
        _table(("", ""), facts),
        _table(("metric", "shown in", "direction"), [_metric(metric) for metric in cls.metrics_of]),
    ]
    parameters = [field for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    if parameters:
        lines.append(
            _table(
                ("parameter", "default"),
                [(f"`{parameter.name}`", f"`{parameter.default!r}`") for parameter in parameters],
            )
        )
    lines.append(
        _table(("protocol", "prompt", "tokens", "decoding", "source"), [_protocol(p) for p in protocols(name)])
    )
    return "\n".join(lines)


def _metric(metric: Metric) -> tuple[str, str, str]:
    return f"`{metric.name}`", "points" if metric.unit == "points" else "percent", ARROWS[metric.better]


def _protocol(protocol: Protocol) -> tuple[str, ...]:
    decoding = protocol.decoding + ("" if protocol.seed is None else f", seed {protocol.seed}")
    guess = f" (inferred: {', '.join(protocol.inferred)})" if protocol.inferred else ""
    drop = f" after dropping `{protocol.drop.strip()}`" if protocol.drop else ""
    return (
        f"`{protocol.name}`",
        f"`{protocol.template!r}`{drop}",
        str(protocol.max_new_tokens),
        decoding,
        protocol.source + guess,
    )
