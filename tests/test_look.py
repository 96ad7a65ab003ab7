"""`vlm-anchors look`: the page in a real browser, the files beside it, and bad input in sentences."""

import json
import re
from pathlib import Path

import pytest

from vlm_anchors.analysis import figures, measures
from vlm_anchors.analysis.study import pieces, study
from vlm_anchors.apps.cli import main
from vlm_anchors.errors import CannotAct

METHODS = ["none", "clva:tau=1", "attanchor:tau=0"]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    from vlm_anchors import scenes
    from vlm_anchors.scenes.draw import save

    path = tmp_path_factory.mktemp("images") / "a cup.png"
    save(scenes.from_objects(["cup", "fork"]), path)
    return path


@pytest.fixture(scope="module")
def written(tiny_folder, image, tmp_path_factory):
    out = tmp_path_factory.mktemp("look") / "seen"
    methods = [part for spec in METHODS for part in ("--method", spec)]
    asked = ["look", str(image), "Is there a <cup>?", "--out", str(out), "--model", str(tiny_folder)]
    assert main([*asked, "--max-new-tokens", "4", *methods]) == 0
    return out


@pytest.fixture(scope="module")
def summary(tiny, image):
    return study(tiny, image, "Is there a cup?", METHODS, max_new_tokens=4, norms=True)


def test_files(written):
    names = {path.name for path in written.iterdir()}
    assert names == {
        "index.html", "tables.json", "shares.png", "heads.png", "drift.png", "layers-none.png", "layers-clva-tau=1.png",
        "layers-attanchor-tau=0.png", "before-after-clva-tau=1.png", "before-after-attanchor-tau=0.png",
        "anchors-attanchor-tau=0.png",
    }  # fmt: skip
    tables = json.loads((written / "tables.json").read_text("utf-8"))
    assert list(tables["methods"]) == ["none", "clva:tau=1", "attanchor:tau=0"]
    assert {"shares", "heads", "entropy", "drift", "anchors", "norms"} == set(tables["methods"]["none"])


def test_the_page_stands_alone(written):
    page = (written / "index.html").read_text("utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "http" not in re.sub(r"data:[^\"]*", "", page).replace("http-equiv", "")
    assert "<cup>" not in page, "what a user typed is escaped"


def test_answers_are_those_of_ask(tiny, image, summary):
    import vlm_anchors as va

    for spec, one in zip(METHODS, summary.seen, strict=True):
        answer = va.ask(tiny, image, "Is there a cup?", method=spec, max_new_tokens=4)
        assert one.answer.tokens == answer.tokens
        assert one.answer.effects == answer.effects
        assert "".join(one.words).strip() == answer.text
        assert len(one.before) == len(one.after) == max(len(one.words), 1)
    assert summary.plain.name == "none"
    assert "".join(summary.asked).startswith("is there a cup")


@pytest.mark.parametrize("method", ["attanchor:tau=0", "attanchor-i2t:tau=0", "attanchor:tau=0+clva"])
def test_a_method_that_changes_the_prompt_may_stand_alone(tiny, image, method):
    """Rows are then counted in the prompt as the method left it; the image lies where it lay."""
    alone = study(tiny, image, "Is there a cup?", [method], max_new_tokens=2)
    assert (alone.grid.rows, alone.grid.columns, alone.grid.whole) == (8, 8, True)
    assert "is there a cup" in "".join(alone.asked)
    figures.figures_of(alone)


def test_the_frame_lies_right(summary):

    grid = summary.grid
    assert (grid.rows, grid.columns) == (8, 8)
    assert grid.token.tolist() == list(range(64))
    assert grid.whole
    assert grid.grid(measures.saliency_maps(summary.plain.before[0])).shape == (4, 8, 8)
    assert grid.image.size == (128, 128)


def test_a_crop_shows_in_the_frame(tiny, image):
    """Of a wide image a processor that crops sees the middle; the frame shows that and nothing else."""
    import torch
    from PIL import Image

    from vlm_anchors.analysis.image_grid import as_seen

    pixels = torch.zeros(1, 3, 4, 6)
    pixels[:, 0, :, 3:] = 1.0
    grid = as_seen(tiny, {"pixel_values": pixels}, Image.new("RGB", (99, 50)))
    assert grid.size == (6, 4)
    assert grid.getpixel((0, 0)) == (128, 128, 128)
    assert grid.getpixel((5, 3)) == (255, 128, 128)


def test_every_figure_can_be_drawn_again(summary):
    names = [drawn.name for drawn in figures.figures_of(summary)]
    assert len(names) == len(set(names)) == 9
    assert figures.slug('a/b:c "d"') == "a-b-c-d"


def test_pieces_are_the_text(tiny):
    tokenizer = tiny.processor.tokenizer
    ids = tokenizer("there is a dog.")["input_ids"]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)
    assert len(pieces(tokenizer, ids)) == len(ids)


def test_beam_search_is_refused(tiny, image):
    with pytest.raises(CannotAct, match="Beam search moves answers from row to row"):
        study(tiny, image, "cup?", ["beam"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["IMAGE"], "Expected one image and then a question; found 1 word."),
        (["IMAGE", "IMAGE", "cup?"], "found 3 words"),
        (["nothing.png", "cup?"], "No image at nothing.png"),
        (["IMAGE", " "], "The question is empty"),
        (["IMAGE", "cup?", "--method", "clav"], "Did you mean 'clva'?"),
        (["IMAGE", "cup?", "--method", "clva", "--method", "clva"], "A method was named twice: clva, clva"),
        (["IMAGE", "cup?", "--method", "beam", "--model", "MODEL"], "Beam search moves answers"),
    ],
)
def test_bad_input(words, sentence, image, tiny_folder, tmp_path, capsys):
    stand_in = {"IMAGE": str(image), "MODEL": str(tiny_folder)}
    assert main(["look", *[stand_in.get(word, word) for word in words], "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err


def test_a_folder_that_cannot_be_written(image, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["look", str(image), "cup?", "--out", str(tmp_path / "file")]) == 2
    assert "Expected a folder to write into; --out" in capsys.readouterr().err


def test_json(tiny_folder, image, tmp_path, capsys):
    asked = [
        "look",
        str(image),
        "cup?",
        "--out",
        str(tmp_path),
        "--model",
        str(tiny_folder),
        "--json",
        "--method",
        "none",
    ]
    assert main([*asked, "--max-new-tokens", "2"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert Path(summary["page"]).exists()
    assert [answer["method"] for answer in summary["answers"]] == ["none"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser, written, scheme):
    page = browser.new_page(color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{written}/index.html")
    page.wait_for_function("document.querySelectorAll('#shares tr').length === 5")
    captions, canvas = page.locator(".look .caption"), "document.querySelector('.look canvas').toDataURL()"

    before, map_before, rows = captions.all_inner_texts(), page.evaluate(canvas), page.locator("#shares").inner_text()
    assert all("in layer 3" in caption for caption in before)
    page.locator("#layer").fill("0")
    assert page.locator("#layer-shown").inner_text() == "1 of 4"
    assert all("in layer 1" in caption for caption in captions.all_inner_texts())
    assert page.evaluate(canvas) != map_before, "the slider moves the map"
    assert page.locator("#shares tr.now").inner_text().startswith("1")

    map_before = page.evaluate(canvas)
    page.locator(".words button[data-part=question]").nth(2).click()
    assert all("“a”" in caption for caption in captions.all_inner_texts())
    assert page.evaluate(canvas) != map_before, "a click changes the map"
    assert page.locator("#shares").inner_text() != rows
    assert page.locator("button[aria-pressed=true]").count() == 1

    answer = page.locator(".look").nth(0).locator(".words button")
    answer.nth(answer.count() - 1).click()
    assert "of the answer" in page.locator("#table-title").inner_text()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 22)"
    assert dark == (scheme == "dark")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing scrolls sideways on a phone"
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.close()


def test_the_pages_numbers_are_the_traces(summary):
    import base64

    import torch

    from vlm_anchors.analysis.look_page import page_data

    data = page_data(summary)
    for shown, one in zip(data["methods"], summary.seen, strict=True):
        prompt, rows = one.after[0], len(shown["peaks"])
        assert shown["first"] == prompt.weights.shape[2] == len(data["asked"])
        assert rows == shown["first"] + len(shown["words"])
        maps = (
            torch.tensor(list(base64.b64decode(shown["maps"]))).view(rows, 4, 64)
            / 255
            * torch.tensor(shown["peaks"])[..., None]
        )
        first = one.after[0].weights.mean(1)[:, -1]
        torch.testing.assert_close(maps[shown["first"]], first, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(maps[0], prompt.weights.mean(1)[:, 0], atol=2e-3, rtol=2e-3)
        second = one.after[1]
        assert shown["visual"][shown["first"] + 1] == pytest.approx(second.visual.mean(1)[:, 0].tolist(), abs=1e-4)
