"""The commit that a result names."""

import subprocess

import pytest

from vlm_anchors import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one file of code and one result; `provenance` believes to live in it."""
    for name in ("src/code.py", "results/one.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1\n")
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "src" / "code.py"))
    return tmp_path


def test_the_commit_of_a_clean_checkout(checkout):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout
    assert provenance.provenance()["commit"] == head[:12]


def test_changed_code_is_said_and_changed_results_are_not(checkout):
    clean = provenance.provenance()["commit"]
    (checkout / "results" / "one.json").write_text("2\n")
    (checkout / "results" / "two.json").write_text("2\n")
    assert provenance.provenance()["commit"] == clean
    (checkout / "src" / "code.py").write_text("2\n")
    assert provenance.provenance()["commit"] == f"{clean}-dirty"


def test_installed_inside_another_project(checkout, monkeypatch):
    installed = checkout / ".venv" / "provenance.py"
    installed.parent.mkdir()
    installed.write_text("1\n")
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert provenance.provenance()["commit"] is None


def test_without_a_checkout_or_without_git_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "code.py"))
    assert provenance.provenance()["commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.provenance()["commit"] is None
