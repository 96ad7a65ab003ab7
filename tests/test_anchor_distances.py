"""Signposts are AttAnchor's own anchors, with the distances before and after."""

import pytest
import torch

from vlm_anchors.analysis.anchor_distances import anchor_table, cosine_map
from vlm_anchors.generation.generate import read_sample
from vlm_anchors.inputs.prompt_builder import prepare
from vlm_anchors.methods.attanchor import AttAnchor


@pytest.fixture
def inputs(tiny, red):
    return prepare(tiny, [read_sample(red, "Is there a dog in the image?")]).tensors


def test_the_table_lists_what_attanchor_inserted(tiny, inputs):
    method = AttAnchor(tau=0.0)
    rows = anchor_table(tiny, inputs, method)
    inserted = method.prepare(tiny, inputs).effects[0]["attanchor"]["anchors"]
    places = {(each["word"], each["row"], each["column"], each["cosine"]) for each in inserted}
    assert {(row["word"], row["row"], row["column"], row["cosine"]) for row in rows} == places
    assert len(rows) == len(inserted) > 0
    assert [row["cosine"] for row in rows] == sorted((row["cosine"] for row in rows), reverse=True)


def test_distances(tiny, inputs):
    """The patch's place among 64 and the word's behind them give the distance; a copy stands right behind its patch."""
    ids = inputs["input_ids"][0]
    first = int((ids == tiny.model.config.image_token_id).nonzero()[0, 0])
    side = int((ids == tiny.model.config.image_token_id).sum()) ** 0.5
    words = [tiny.processor.tokenizer.decode([int(id)]).strip() for id in ids]
    alone: dict[tuple[int, int], list] = {}
    for row in anchor_table(tiny, inputs, AttAnchor(tau=0.0)):
        patch = first + row["row"] * int(side) + row["column"]
        assert words[patch + row["before"]] == row["word"]
        alone.setdefault((row["row"], row["column"]), []).append(row["after"])
    for distances in alone.values():
        assert sorted(distances) == list(range(1, len(distances) + 1))


def test_cosine_map(tiny, inputs):
    words, cosine = cosine_map(tiny, inputs)
    assert "dog" in words
    assert cosine.shape == (len(words), int((inputs["input_ids"] == tiny.model.config.image_token_id).sum()))
    best = cosine.max(1).values
    row = anchor_table(tiny, inputs, AttAnchor(tau=0.0))[0]
    assert row["cosine"] == pytest.approx(float(best.max()), abs=1e-4)
    assert torch.isfinite(cosine).all()


def test_off_has_none(tiny, inputs):
    assert anchor_table(tiny, inputs, AttAnchor(tau=1.0)) == []
