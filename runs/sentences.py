"""Every sentence the package raises or warns with, read from its source: what docs/sentences.md lists."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlm_anchors import errors

SOURCE = Path(errors.__file__).parent
KINDS = [
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type)
    and issubclass(kind, (errors.UserError, errors.AnchorsWarning))
    and kind is not errors.UserError
]
GAP = "…"
"""Stands where a sentence is filled in when it is raised."""


@dataclass(frozen=True, order=True)
class Sentence:
    """kind: the class raised. place: the module, without the package's name. words: the sentence with its gaps."""

    kind: str
    place: str
    words: str


def sentences() -> list[Sentence]:
    """All of them, sorted, each once."""
    found: set[Sentence] = set()
    for path in sorted(SOURCE.rglob("*.py")):
        place = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        found |= {Sentence(kind, place, words) for kind, words in _of_module(ast.parse(path.read_text("utf-8")))}
    return sorted(found)


def _of_module(module: ast.Module) -> Iterator[tuple[str, str]]:
    for call in ast.walk(module):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        kind = _name(call.func)
        if kind == "warn" and len(call.args) > 1 and _name(call.args[1]) == "AnchorsWarning":
            kind = "AnchorsWarning"
        if kind in KINDS:
            for words in _words(call.args[0], module):
                yield kind, words


def _words(node: ast.AST, module: ast.Module, followed: frozenset[str] = frozenset()) -> Iterator[str]:
    """The texts an expression may stand for; a name or a call is followed through the module that holds it."""
    text, name = _text(node), _name(node.func if isinstance(node, ast.Call) else node)
    if text.strip(f"{GAP} ."):
        yield " ".join(text.split())
    elif isinstance(node, ast.JoinedStr):
        for part in node.values:
            yield from _words(getattr(part, "value", part), module, followed)
    elif name and name not in followed:
        sources = _returned(name, module) if isinstance(node, ast.Call) else _inputs_of_output(name, module)
        for source in sources:
            yield from _words(source, module, followed | {name})


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.Call) and _name(node.func) == "did_you_mean":
        return f" Did you mean {GAP}? Known: {GAP}."
    if isinstance(node, ast.FormattedValue):
        return _text(node.value) if isinstance(node.value, ast.Call) else GAP
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return GAP


def _name(node: ast.AST) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def _returned(function: str, module: ast.Module) -> Iterator[ast.AST]:
    for each in ast.walk(module):
        if isinstance(each, ast.FunctionDef) and each.name == function:
            yield from (step.value for step in ast.walk(each) if isinstance(step, ast.Return) and step.value)


def _inputs_of_output(name: str, module: ast.Module) -> Iterator[ast.AST]:
    """What is assigned to a name, or handed to a parameter or field of that name by its place."""
    for each in ast.walk(module):
        if isinstance(each, ast.Assign) and name in [_name(target) for target in each.targets]:
            yield each.value
        elif isinstance(each, (ast.FunctionDef, ast.ClassDef)) and name in (names := _parameters(each)):
            calls = (call for call in ast.walk(module) if isinstance(call, ast.Call) and _name(call.func) == each.name)
            yield from (call.args[names.index(name)] for call in calls if len(call.args) > names.index(name))


def _parameters(made: ast.FunctionDef | ast.ClassDef) -> list[str]:
    if isinstance(made, ast.FunctionDef):
        return [argument.arg for argument in made.args.args]
    return [_name(line.target) for line in made.body if isinstance(line, ast.AnnAssign)]


def page() -> str:
    """docs/sentences.md, below its note."""
    parts = [
        "# Every sentence\n",
        f"All sentences a user can meet, by kind, as they stand in the source ({GAP}: filled in when it happens), and the module "
        "that says them. Each says what was expected, what was found and what to do; [troubles](troubles.md) tells more "
        "about the common ones.\n",
    ]
    for kind in KINDS:
        about = (vars(errors)[kind].__doc__ or "").strip()
        rows = [one for one in sentences() if one.kind == kind]
        parts += [f"## {kind}\n", f"{about}\n", "| sentence | module |", "|---|---|"]
        parts += [f"| {_cell(one.words)} | `{one.place}` |" for one in rows]
        parts.append("")
    return "\n".join(parts)


def _cell(words: str) -> str:
    """Angle brackets and bars would be markup in a table."""
    return words.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
