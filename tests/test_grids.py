"""What `make test` leaves out of grids: no family and no method, and the same cases every time."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_families
from grids import SHARE, grids_of, left_out, part, values_of

from vlm_anchors.methods import METHODS

ROOT = Path(__file__).parent.parent
CASES = {f"{family}-{method}": {("family", family), ("method", method)} for family in "abcdef" for method in "wxyz"}


def test_a_quarter_is_kept_and_every_value_is_in_it():
    kept = part("test_one", CASES)
    assert len(kept) == len(CASES) / SHARE
    assert set.union(*(CASES[case] for case in kept)) == set.union(*CASES.values())


def test_another_test_keeps_other_cases_and_none_leaves_a_grid_empty():
    parts = [part(f"test_{number}", CASES) for number in range(24)]
    assert set.union(*parts) == set(CASES)
    assert part("test", {"only": set()}) == {"only"}


def test_the_part_is_the_same_in_every_process():
    code = "import grids; print(sorted(grids.part('t', {str(n): {('n', str(n))} for n in range(20)})))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={"PYTHONPATH": str(ROOT / "tests"), "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1] == f"{sorted(part('t', {str(n): {('n', str(n))} for n in range(20)}))}\n"


def test_no_family_and_no_method_is_left_out(collected):
    """Over all tests: what stands in the cases of any grid stands in a kept case of some grid, of most in many."""
    grids = grids_of(collected)
    if len(grids) < 50:
        pytest.skip("only some of the tests were collected")
    out = left_out(collected)
    every, kept = set(), []
    for cases in grids.values():
        for item in cases.values():
            values = {value.partition(":")[0] for _, value in values_of(item.callspec.params)}
            every |= values
            kept += [] if item in out else values
    names = every & ({*tiny_families.FAMILIES, *METHODS.names()})
    assert len(names) > 25
    assert {name for name in names if name not in kept} == set()
