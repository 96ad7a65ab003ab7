"""The Dockerfile as far as it can be checked without a daemon: what it copies, installs and starts exists."""

import fnmatch
import json
import re
import sys
import tomllib
from pathlib import Path

import typer

from vlm_anchors.apps.cli.commands import app

ROOT = Path(__file__).parents[2]
TEXT = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text("utf-8"))
STEPS = [line.split(maxsplit=1) for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def steps(name):
    return [rest for step, rest in STEPS if step == name]


def test_its_steps_are_known_and_in_order():
    assert STEPS[0][0] == "FROM"
    assert {step for step, _ in STEPS} <= {
        "FROM", "ARG", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "ENTRYPOINT", "CMD", "ENV", "HEALTHCHECK",
    }  # fmt: skip
    names = [step for step, _ in STEPS]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN"), "only root can install"
    assert steps("USER") == ["server"] and "useradd --create-home server" in TEXT


def test_what_it_copies_is_there_and_is_sent_to_the_daemon():
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    for step in steps("COPY"):
        *sources, _ = step.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, rule.removeprefix("!")) for rule in ignored if rule[0] == "!"), source
    copied = {source for step in steps("COPY") for source in step.split()[:-1]}
    assert {"pyproject.toml", PROJECT["readme"], "src", "constraints.txt"} <= copied
    # Paths of the build's own settings that lie outside of what is copied would fail it.
    assert all(file.split("/")[0] in copied for file in PROJECT["license-files"])


def test_what_it_installs_is_declared_and_pinned():
    (install,) = [step for step in steps("RUN") if "pip install" in step]
    (extras,) = re.findall(r"\.\[([\w,]+)\]", install)
    wanted = [
        *PROJECT["dependencies"],
        *(one for extra in extras.split(",") for one in PROJECT["optional-dependencies"][extra]),
    ]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    }
    assert {re.split(r"[<>=\[]", one)[0].lower() for one in wanted} <= pinned
    assert "-c constraints.txt" in install and '"$TORCH_INDEX"' in install
    assert [step.split("=")[0] for step in steps("ARG")] == ["TORCH_INDEX"]


def test_its_python_is_one_that_we_take():
    (version,) = re.findall(r"^python:(\d+\.\d+)-slim$", steps("FROM")[0])
    assert tuple(map(int, version.split("."))) >= (3, 11) and sys.version_info >= (3, 11)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_what_it_starts_is_a_command_with_these_options():
    program, command, *options = json.loads(steps("ENTRYPOINT")[0]) + json.loads(steps("CMD")[0])
    assert program in PROJECT["scripts"]
    parameters = typer.main.get_command(app).commands[command].params
    known = {name for parameter in parameters for name in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= known
    ports = {parameter.name: parameter.default for parameter in parameters}
    assert steps("EXPOSE") == [str(ports["port"])]
