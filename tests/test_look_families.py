"""Looking through the real processor of every family: the frame is a full grid, masses add up, the page can be written."""

import pytest
import tiny_processors
import torch
from PIL import Image
from test_ask_families import TEMPLATE, qformer
from test_families import model_of
from test_family_table import PROCESSORS, noise

import vlm_anchors as va
from vlm_anchors.analysis import Capture
from vlm_anchors.analysis.image_grid import grid_of
from vlm_anchors.analysis.look_page import write_page
from vlm_anchors.analysis.study import study
from vlm_anchors.errors import CannotAct
from vlm_anchors.generation.generate import read_sample
from vlm_anchors.inputs.prompt_builder import prepare
from vlm_anchors.interventions.attachment import attach

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # transformers' own processors
    pytest.mark.filterwarnings("ignore:.*has no chat template"),
]


def check(vlm, summary):
    grid = summary.grid
    assert len(grid.token) == grid.rows * grid.columns
    assert len(set(grid.token.tolist())) == len(grid.token)
    assert int(grid.token.max()) < grid.visual
    for one in summary.seen:
        for trace in (*one.before, *one.after):
            total = trace.visual + trace.system + trace.words
            assert torch.allclose(total, torch.ones_like(total))
            assert float(trace.words.min()) > -1e-5
            assert trace.weights.shape[-1] == grid.visual
            torch.testing.assert_close(
                trace.weights.sum(-1), trace.visual[:, :, -trace.weights.shape[2] :], atol=2e-3, rtol=2e-3
            )
    page = write_page(summary, {}, ["vlm-anchors --help"])
    assert "Where did it look?" in page


@pytest.mark.grid
@pytest.mark.parametrize("name", PROCESSORS)
def test_decoders(name):
    make, image = PROCESSORS[name]
    processor = make()
    processor.chat_template = TEMPLATE.replace("IMAGE", image)
    vlm = va.load((model_of(name), processor))
    summary = study(vlm, noise(40, 20), "w40 w41 w42", ["none", "clva:tau=1"], max_new_tokens=3)
    check(vlm, summary)
    assert summary.grid.rows > 1 and summary.grid.columns > 1, "the frame is an image, not a line"
    assert "w40w41w42" in "".join(summary.asked).replace(" ", "")


def test_the_map_of_a_tiled_image_lies_on_the_tile_that_shows_it_whole():
    """InternVL puts it last, behind the crops."""
    processor = tiny_processors.internvl()
    processor.chat_template = TEMPLATE.replace("IMAGE", PROCESSORS["internvl"][1])
    vlm = va.load((model_of("internvl"), processor))
    stripes = Image.new("RGB", (64, 32), (255, 0, 0))
    stripes.paste((0, 0, 255), (32, 0, 64, 32))
    inputs = prepare(vlm, [read_sample(stripes, "w40 w41")]).tensors
    tiles = len(inputs["pixel_values"])
    shown = grid_of(vlm, inputs, stripes, 16 * tiles)
    assert tiles == 3
    assert int(shown.token.min()) == 16 * (tiles - 1)
    left, right = shown.image.getpixel((2, 16)), shown.image.getpixel((29, 16))
    assert left[0] > left[2] and right[2] > right[0]


@pytest.mark.parametrize("name", ["instructblip", "blip-2"])
def test_latents_of_a_qformer_are_captured_and_words_are_not_pretended(name):
    vlm, seen = qformer(name), Capture(norms=True)
    with pytest.raises(CannotAct, match="looks at its image in a Q-Former, once and before any word"):
        study(vlm, noise(40, 20), "w40 w41 w42", ["none"])
    inputs = prepare(vlm, [read_sample(noise(40, 20), "w40 w41 w42")]).tensors
    with torch.no_grad(), attach(vlm, "none", recorder=seen):
        vlm.model.generate(**inputs, max_new_tokens=2)
    (trace,) = seen.of()
    latents = trace.visual.shape[2]
    assert trace.keys.tolist() == [1 + len(trace.image)] * latents
    assert torch.allclose(trace.visual + trace.system, torch.ones_like(trace.visual)), "patches and the class token"
    assert trace.norms.shape == (2, *trace.visual.shape)
