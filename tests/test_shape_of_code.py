"""The rules a reader relies on: data flows one way, files and functions stay small, few files know the internals."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "vlm_anchors"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES, MAX_FUNCTION, MAX_MODULES = 400, 80, 24

# What stands further down may import what stands further up, never the other way; type-checking imports count. A name
# is a module or a package under vlm_anchors; a longer name takes a module out of its package.
LAYERS = [
    ["errors", "version"],
    ["text_files"],
    ["registry", "types", "durable", "provenance", "document", "parameters"],
    ["scenes"],
    ["models", "inputs"],
    ["interventions"],
    ["methods"],
    ["generation.decodings", "generation.opera"],
    ["specs"],
    ["generation"],
    ["evaluation", "analysis", "training", "profiling"],
    ["integrations", "tuning", "experiments"],
    ["__init__"],
    ["apps.cli", "apps.web", "apps.demo", "apps"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
APPS = ("apps.cli", "apps.web", "apps.demo")
LAUNCHES = {("apps.cli.web", "apps.web.server")}
"""`vlm-anchors app` starts the web application; nothing else crosses."""


def module_of(path):
    """`interventions.hooks` for a file, `interventions` for a package, "__init__" for the package's own."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(path): path for path in FILES}


def unit(module):
    """The longest name of LAYERS that a module belongs to."""
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next(name for name in names if name in RANK)


def imports(path):
    """Modules of ours that a file imports anywhere in it, for type checkers only as well."""
    package = list(path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - (node.level - 1)]
            elif (node.module or "").split(".")[0] == "vlm_anchors":
                base = []
            else:
                continue
            source = [*base, *(node.module or "").removeprefix("vlm_anchors").strip(".").split(".")]
            source = ".".join(part for part in source if part)
            for alias in node.names:
                whole = f"{source}.{alias.name}" if source else alias.name
                yield whole if whole in MODULES else source or "__init__"


GRAPH = {module: {name for name in imports(path) if name != module} for module, path in MODULES.items()}


def test_imports_point_one_way():
    wrong = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if RANK[unit(other)] > RANK[unit(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_applications_do_not_import_each_other():
    wrong = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if unit(module) in APPS and unit(other) in APPS and unit(module) != unit(other)
        if (module, other) not in LAUNCHES
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_import_circle():
    """Takes off modules that import nothing that is left, until nothing is left; what stays is on a circle or above one."""
    left = {module: others & set(GRAPH) for module, others in GRAPH.items()}
    while free := [module for module, others in left.items() if not others]:
        left = {module: others - set(free) for module, others in left.items() if module not in free}
    above = defaultdict(set)
    for module, others in left.items():
        for other in others:
            above[other].add(module)
    while top := [module for module in left if not above[module] & set(left)]:
        left = {module: others for module, others in left.items() if module not in top}
    assert not left, "\n".join(f"{module}: {', '.join(sorted(others & set(left)))}" for module, others in left.items())


def lines_without_docstring(function):
    """A parameter a line makes docstrings long, and not the code."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return function.end_lineno - function.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)


def test_files_functions_and_folders_stay_small():
    wrong = []
    for path in FILES:
        text = path.read_text("utf-8")
        if len(text.splitlines()) > MAX_LINES:
            wrong.append(f"{path}: {len(text.splitlines())} lines")
        wrong += [
            f"{path}: {node.name} has {lines_without_docstring(node)} lines"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_without_docstring(node) > MAX_FUNCTION
        ]
    folders = defaultdict(int)
    for path in FILES:
        folders[path.parent] += path.name != "__init__.py"
    wrong += [f"{folder}: {count} modules" for folder, count in folders.items() if count > MAX_MODULES]
    assert not wrong, "\n".join(wrong)


def test_test_files_stay_small():
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    wrong = [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > MAX_LINES]
    assert not wrong, "Divide these by what they test:\n" + "\n".join(wrong)


def test_no_two_classes_share_a_name():
    """One meaning each: a reader who saw `Prompt` once knows what the next one is. Private names are a file's own."""
    places = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not twice, twice


INTERNALS = re.compile(
    r"_attn_implementation_internal|AttentionInterface|AttentionMaskInterface|past_key_values|register_forward|modeling_"
)
KNOWS_INTERNALS = ("interventions", "models", "generation", "integrations.vllm")


def test_few_rooms_know_transformers_internals():
    wrong = [
        str(path)
        for module, path in MODULES.items()
        if not module.startswith(KNOWS_INTERNALS) and INTERNALS.search(path.read_text("utf-8"))
    ]
    assert not wrong, wrong


RETIRED = ("seam", "weave", "woven", "twin", "rider", "dial", "dials", "doors", "door", "acted", "told")
"""Words that this project once had of its own; the field's words replaced them (docs/notation.md)."""


def test_retired_words_do_not_come_back():
    word = re.compile(rf"(?<![\w`'-])({'|'.join(RETIRED)})(?![\w'-])", re.IGNORECASE)
    pages = [*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    wrong = []
    for path in [*FILES, *pages]:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if word.search(line) and "vista" not in path.name and "information steering" not in line.lower():
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


def test_file_names_say_what_is_inside():
    wrong = [str(path) for path in FILES if re.search(r"util|helper|manager|handler|misc|common", path.stem)]
    wrong += [str(path) for path in FILES if "from __future__ import annotations" in path.read_text("utf-8")]
    assert not wrong, wrong
