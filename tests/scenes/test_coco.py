"""The sampler of object sets: the same everywhere, and close to COCO."""

import hashlib
import math

import numpy as np
import pytest

from vlm_anchors.scenes import coco

PINNED_SETS = [("bottle", "dining table", "tv", "laptop", "keyboard"), ("horse",), ("person", "sandwich", "book")]
PINNED_HASH = "0928c597dd747eb7"


def test_the_table_is_whole_and_names_its_source():
    table = coco.counts()
    assert table["names"] == list(coco.CATEGORIES)
    assert len(set(coco.CATEGORIES)) == 80
    assert "CC BY 4.0" in table["licence"]
    assert "COCO" in table["source"]
    assert sum(table["sizes"].values()) == table["images"]
    assert sum(int(k) * n for k, n in table["sizes"].items()) == sum(table["single"])
    pairs = np.array(table["pairs"])
    assert (pairs == pairs.T).all()
    assert sum(math.comb(int(k), 2) * n for k, n in table["sizes"].items()) == np.triu(pairs, 1).sum()


def test_the_same_sets_on_every_machine():
    sets = coco.object_sets(list(range(200)))
    assert sets[:3] == PINNED_SETS
    assert hashlib.sha256(repr(sets).encode()).hexdigest()[:16] == PINNED_HASH


def test_a_set_depends_on_its_number_alone():
    together = coco.object_sets([7, 123, 1 << 41])
    assert together == [coco.object_sets([number])[0] for number in (7, 123, 1 << 41)]


def test_no_chance_hangs_on_the_last_bit_of_exp():
    """The table of the logistic function is rounded; nowhere is the value so near to a half that machines may differ."""
    exact = [(1 << 24) / (1 + math.exp(-x / coco.UNIT)) for x in range(-16 * coco.UNIT, 16 * coco.UNIT + 1)]
    assert min(abs(x - math.floor(x) - 0.5) for x in exact) > 1e-6


@pytest.fixture(scope="module")
def drawn():
    return coco.gibbs(list(range(6000)), coco.parameters())


def test_sizes_are_cocos(drawn):
    table, sizes = coco.counts(), np.bincount(drawn.sum(0), minlength=10)
    assert sizes[0] == sizes[9] == 0
    for k in range(1, coco.MOST + 1):
        assert abs(sizes[k] / 6000 - table["sizes"][str(k)] / table["images"]) < 0.02


def test_frequencies_and_pairs_are_cocos(drawn):
    table, state = coco.counts(), drawn.astype(float)
    have, want = state @ state.T / 6000, np.array(table["pairs"]) / table["images"]
    single = np.array(table["single"]) / table["images"]
    # five standard errors of 6,000 scenes
    assert (abs(have.diagonal() - single) < 5 * np.sqrt(single / 6000) + 1e-3).all()
    above = np.triu_indices(80, 1)
    assert np.corrcoef(have[above], want[above])[0, 1] > 0.99
    assert (abs(have - want)[above] < 5 * np.sqrt(want[above] / 6000) + 2e-3).all()
