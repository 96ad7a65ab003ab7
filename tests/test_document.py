"""Figures are written whole, in the format that their name says."""

import pytest

from vlm_anchors.document import save_figure
from vlm_anchors.errors import BadSetting

figure_module = pytest.importorskip("matplotlib.figure")


def test_the_ending_says_the_format_and_a_fault_leaves_what_was_there(tmp_path, monkeypatch):
    figure = figure_module.Figure(figsize=(1, 1))
    for name, start in {"a.png": b"\x89PNG", "b": b"\x89PNG", "c.pdf": b"%PDF", "d.svg": b"<?xml"}.items():
        save_figure(figure, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    before = (tmp_path / "a.png").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(BadSetting, match="No space left on device"):
        save_figure(figure_module.Figure(figsize=(2, 2)), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b", "c.pdf", "d.svg"]


def test_an_ending_that_no_figure_has(tmp_path):
    with pytest.raises(BadSetting, match=r"end in one of .*png.*; found 'a.xyz'"):
        save_figure(figure_module.Figure(), tmp_path / "a.xyz")
