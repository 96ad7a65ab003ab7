"""docs/from-model-to-table.md: its five commands, in their order, in a folder with a newcomer's images and questions."""

import json
import re
import shlex
from pathlib import Path

import pytest

from vlm_anchors import scenes
from vlm_anchors.apps.cli import main
from vlm_anchors.experiments.experiment_file import read_experiment
from vlm_anchors.models.load import BUNDLED_FOLDER
from vlm_anchors.scenes import draw
from vlm_anchors.scenes.pope import questions
from vlm_anchors.scenes.questions import POPE, article
from vlm_anchors.specs import choose

PAGE = (Path(__file__).parent.parent / "docs" / "from-model-to-table.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def newcomer(folder, images, rows):
    """A folder of photos and the questions about them, in the layout of the page."""
    (folder / "photos").mkdir()
    drawn = [scene for scene in scenes.sample(4 * images, 5) if len(scene.present) >= 3][:images]
    names = {scene.seed: f"{number:04d}.png" for number, scene in enumerate(drawn, 1)}
    for scene in drawn:
        draw.save(scene, folder / "photos" / names[scene.seed])
    asked = questions(drawn, 5)["adversarial"][:rows]
    lines = [
        {
            "question_id": number,
            "image": names[scene.seed],
            "text": POPE.format(a=article(name)),
            "label": "yes" if there else "no",
        }
        for number, (scene, name, there) in enumerate(asked, 1)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def test_the_page_has_five_commands():
    assert [shlex.split(line)[1] for line in COMMANDS] == ["diagnose", "tune", "report", "report", "ask"]
    assert all(line.startswith("vlm-anchors ") for line in COMMANDS)


@pytest.mark.skipif(not (BUNDLED_FOLDER / "config.json").exists(), reason="the bundled model is not made yet")
@pytest.mark.parametrize(
    ("images", "rows", "less"),
    [
        (4, 24, {"--limit 40": "--limit 2", "--start diagnose --budget 6": "--budget 1"}),
        pytest.param(14, 80, {"--limit 40": "--limit 8", "--budget 6": "--budget 2"}, marks=pytest.mark.slow),
    ],
)
def test_five_commands_lead_to_a_tuned_method_a_table_and_a_settings_file(
    images, rows, less, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    newcomer(tmp_path, images, rows)
    for line in COMMANDS:
        for before, after in less.items():
            line = line.replace(before, after)
        assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
    printed = capsys.readouterr()
    summary = json.loads((tmp_path / "tuned" / "tune.json").read_text("utf-8"))
    assert [one["method"] for one in summary["methods"]] == ["clva", "vcd"]
    assert summary["split"]["validation"]["questions"] + summary["split"]["held_out"]["questions"] == rows
    tuned = next(one["best"] for one in summary["methods"] if one["method"] == "clva")
    assert choose(tuned)[0][0].spec() == tuned
    settings = json.loads((tmp_path / "tuned" / "anchors.json").read_text("utf-8"))
    assert choose(settings["method"])[0] == choose(summary["winner"])[0]
    assert "No setting is better than plain" in printed.out or rows > 24
    table = (tmp_path / "table.tex").read_text("utf-8")
    assert r"\begin{tabular}" in table and "Holm" in table and "accuracy" in table
    assert "<table>" in (tmp_path / "report.html").read_text("utf-8")
    assert printed.out.strip().splitlines()[-1].rstrip(".") in ("Yes", "No")


def test_the_experiment_on_the_page_is_valid(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(text, "utf-8")
    experiment = read_experiment(tmp_path / "mine.yaml")
    assert len(experiment.methods) == 3 and len(experiment.benchmarks) == 2


@pytest.mark.parametrize("content", [None, "{}", "[", '{"method": 3}'])
def test_a_settings_file_that_is_none_ends_with_2(content, tmp_path, capsys):
    file = tmp_path / "anchors.json"
    if content is not None:
        file.write_text(content, "utf-8")
    assert main(["ask", "a.png", "Is it?", "--method", str(file)]) == 2
    assert "Expected a settings file such as the anchors.json that tune writes" in capsys.readouterr().err
