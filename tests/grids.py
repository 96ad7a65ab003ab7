"""Tests marked `grid` run for every family, method, decoding or shape: of their cases `make test` runs a part that covers.

Of each grid a quarter is kept, first what adds a family, a method or another value that no kept case has, and otherwise in
an order drawn from the test's name. So the grids keep different cases, and together every family and every method runs
in many of them. The part is the same in every run and every process. `--whole-grids` (`make test-all`) runs all, and so
does asking for a case by its name (`pytest 'FILE::TEST[CASE]'`) or by `-k`.
"""

import hashlib
from collections import defaultdict

SHARE = 4
"""Of so many cases one is kept."""


def values_of(parameters: dict) -> set[tuple[str, str]]:
    """The values of a case that may have to be covered: names and numbers as they are, any other object by its text."""
    return {(name, str(value)) for name, value in parameters.items()}


def part(test: str, cases: dict[str, set]) -> set[str]:
    """Names of the kept cases of a test; `cases`: a case's name -> its values."""
    order = sorted(cases, key=lambda case: hashlib.sha256(f"{test} {case}".encode()).hexdigest())
    kept, seen = [], set()
    for _ in range(-(-len(order) // SHARE)):
        chosen = max((case for case in order if case not in kept), key=lambda case: len(cases[case] - seen))
        kept.append(chosen)
        seen |= cases[chosen]
    return set(kept)


def grids_of(items) -> dict[str, dict]:
    """Test -> its cases among collected items, by their names. Cases that are slow anyway are none of the grid's."""
    grids = defaultdict(dict)
    for item in items:
        if item.get_closest_marker("grid") and not item.get_closest_marker("slow"):
            test, _, case = item.nodeid.partition("[")
            grids[test][case] = item
    return grids


def left_out(items) -> set:
    """The collected items that `make test` leaves out."""
    out = set()
    for test, cases in grids_of(items).items():
        kept = part(test, {case: values_of(item.callspec.params) for case, item in cases.items()})
        out |= {item for case, item in cases.items() if case not in kept}
    return out


def wanted_whole(config) -> bool:
    """Whether all cases are asked for, or some by their names."""
    return config.option.whole_grids or bool(config.option.keyword) or any("[" in each for each in config.args)
