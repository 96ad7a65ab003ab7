"""The targets exist, and a machine without a fitting Python is told so. Installing itself is tried by hand in a fresh clone."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def shell(*command, cwd=ROOT, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60, env={**clean, **environment}
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize("target", ["demo", "demo-smollm2", "test", "test-all", "lint", "types", "fix", "docs", "help"])
def test_targets(target, tmp_path):
    """Looked at, not run: `-n` in a copy of what make reads, so that no .venv is touched."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    done = shell("make", "-n", target, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert target == "help" or ".ci/install .venv" in done.stdout


def fake_python(folder, version):
    """A program that calls itself Python of some version and fits nothing."""
    program = folder / "python3"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit 1\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_an_old_python(tmp_path):
    done = shell(".ci/install", str(tmp_path / "venv"), "dev", PYTHON=fake_python(tmp_path, "3.9.2"))
    assert done.returncode == 2
    assert "needs Python 3.11 or later; found Python 3.9.2" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_no_python(tmp_path):
    done = shell(".ci/install", str(tmp_path / "venv"), "dev", PYTHON="/nowhere/python3")
    assert done.returncode == 2
    assert "found no program /nowhere/python3" in done.stderr


def test_versions_are_pinned_without_local_builds():
    pinned = (ROOT / "constraints.txt").read_text()
    assert "torch==2.13.0\n" in pinned
    assert "+" not in pinned
    assert "torchvision" not in pinned + (ROOT / "pyproject.toml").read_text()
