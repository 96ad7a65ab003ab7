"""The demo on a tiny model: it runs, it writes what it promises, and it tells the truth about right and wrong."""

import dataclasses
import re

import pytest

from vlm_anchors.apps.demo import __main__ as demo
from vlm_anchors.apps.demo.cases import DemoQuestion, Reply
from vlm_anchors.scenes.examples import chosen_scenes, usual_but_absent
from vlm_anchors.types import Answer


@pytest.fixture(scope="module")
def written(tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    assert demo.main(["--model", str(tiny_folder), "--out", str(out)]) == 0
    return out


def test_questions_are_about_what_is_there_and_what_usually_is():
    scenes = chosen_scenes(3)
    assert len({absent for _, _, absent in scenes}) == 3
    for scene, there, absent in scenes:
        assert len(scene.present) >= 3
        assert there in scene.present
        assert absent not in scene.present
    assert chosen_scenes(3) == scenes


def test_usual_is_what_coco_shows():
    from vlm_anchors import scenes

    assert usual_but_absent(scenes.from_objects(["fork", "knife"])) == "dining table"


def test_the_page_stands_alone(written):
    page = (written / "index.html").read_text("utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "<script" not in page
    assert page.count("<svg") == page.count('class="card"') == 3
    for word in ("plain", "CLVA", "yes − no", "What to type next", "Six questions prove nothing"):
        assert word in page


def test_images_and_figures(written):
    names = {path.name for path in written.iterdir()}
    assert names == {"index.html", "overview.png"} | {
        f"scene-{i}{end}" for i in (1, 2, 3) for end in (".png", "-attention.png")
    }


def test_the_scenes_can_be_asked_about_again(written):
    from vlm_anchors.inputs.images import read_image
    from vlm_anchors.scenes.draw import KEY

    assert KEY in read_image(written / "scene-1.png").info


def test_a_folder_that_cannot_be_written(tiny_folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert demo.main(["--model", str(tiny_folder), "--out", str(tmp_path / "file")]) == 2
    assert "Choose another folder with --out" in capsys.readouterr().err


def reply(text, margin, seconds=1.0, layers=(3, 4)):
    answer = Answer(text, (), seconds, {"clva": {"layers": list(layers)}}, yes_no=(margin, 0.0))
    return Reply(answer, (0.5, 0.5, 0.4, 0.6), seconds)


def test_the_verdict_counts_mended_and_broken():
    from vlm_anchors.apps.demo.cases import Case

    mended = DemoQuestion(
        "?", "dog", False, {"none": reply("Yes.", 1), "clva": reply("No, it is not", -1, seconds=2.0)}
    )
    broken = DemoQuestion("?", "cat", True, {"none": reply("yes", 1), "clva": reply("perhaps", 0)})
    summary = " ".join(demo.verdict([Case("a", None, None, (mended, broken))]))
    assert "plain 1 of 2, CLVA 1 of 2. CLVA mended 1 and broke 1." in summary
    assert "from 50 % to 50 %" in summary
    assert "1.50 times" in summary


@pytest.mark.parametrize(("shares", "drifts"), [((0.9, *[0.1] * 8), False), ((0.1, *[0.5] * 5, *[0.1] * 3), True)])
def test_drift_is_judged_as_diagnose_judges_it(shares, drifts):
    """A first layer that looks at the image a lot is no drift: CLVA goes back to the middle ones."""
    plain = dataclasses.replace(reply("Yes.", 1), shares=shares)
    sentence = demo.drift([DemoQuestion("?", "dog", True, {"none": plain})])
    assert ("does drift" in sentence) == drifts
    assert ("layers 2-6, 10 % in layers 7-9" in sentence) and ("nothing drifts" in sentence) != drifts
