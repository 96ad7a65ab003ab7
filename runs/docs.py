"""Writes the generated pages: docs/cli.md from --help, docs/methods.md from the catalogue.

python runs/docs.py            writes them
python runs/docs.py --check    fails if one is stale (the tests do this)
"""

import dataclasses
import inspect
import os
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
COMMANDS = ["", "ask", "compare", "methods", "families", "benchmarks", "scenes", "scenes render", "scenes train"]
NOTE = "<!-- Written by `make docs`; edit the code, not this page. -->\n"


def cli() -> str:
    parts = [NOTE, "# Command line\n", "`vlm-anchors` and `python -m vlm_anchors` are the same.\n"]
    environment = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    for command in COMMANDS:
        asked = [sys.executable, "-m", "vlm_anchors", *command.split(), "--help"]
        help_text = subprocess.run(asked, capture_output=True, text=True, check=True, env=environment).stdout
        lines = [line.rstrip() for line in help_text.strip("\n").splitlines()]
        parts += [f"## vlm-anchors {command}\n".replace(" \n", "\n"), "```text", *lines, "```\n"]
    parts += [
        "## Exit codes\n",
        "0: done. 2: the input is at fault; one or two sentences on stderr say what was expected, what was found and "
        "what to do. 1: anything else; `--debug` shows where it happened.\n",
        "## Methods and decodings as text\n",
        "A SPEC is a name with its dials: `clva`, `clva:alpha=5,beta=0`, `nucleus:top_p=0.9,seed=1`. Methods that "
        "compose are joined by `+`. `15-32` is a range, `none`, `true` and `false` are themselves. Where a method is asked for, "
        "`greedy`, `beam` and `nucleus` are accepted and set the decoding.",
    ]
    return "\n".join(parts) + "\n"


def methods() -> str:
    from vlm_anchors.decoding import DECODINGS
    from vlm_anchors.methods import METHODS

    parts = [NOTE, "# Methods\n", "| name | class | what it does | source |", "|---|---|---|---|"]
    parts += [f"| [`{e.name}`](#{e.name}) | `va.{e.class_name}` | {e.summary} | {e.source} |" for e in METHODS]
    parts += ["", "Any method goes with any decoding unless it says why not:\n", "| name | class | what it does |"]
    parts += ["|---|---|---|", *[f"| `{e.name}` | `va.{e.class_name}` | {e.summary} |" for e in DECODINGS], ""]
    for entry in METHODS:
        cls = entry.load()
        parts += [f"## {entry.name}\n", "```text", inspect.getdoc(inspect.getmodule(cls)), "```\n"]
        parts += [inspect.getdoc(cls), ""]
        dials = [field for field in dataclasses.fields(cls) if field.init]
        if dials:
            parts += ["| dial | default |", "|---|---|", *[f"| `{d.name}` | `{d.default!r}` |" for d in dials], ""]
    return "\n".join(parts).rstrip() + "\n"


def main() -> int:
    pages = {"cli.md": cli(), "methods.md": methods()}
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
