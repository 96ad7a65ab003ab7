"""The page of open questions comes from its results; the sums behind it are right."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "runs" / "open_questions"))


def test_the_page_comes_from_its_results():
    check = [sys.executable, "runs/open_questions/page.py", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_result_says_where_it_comes_from():
    files = sorted((ROOT / "results").glob("open_*.json"))
    assert files
    for file in files:
        told = json.loads(file.read_text("utf-8"))
        assert {"command", "versions", "commit", "device", "seed"} <= told.keys(), file
        assert (ROOT / told["command"].split()[1]).exists()


def test_a_tally_by_hand():
    from asking import Asked, Tally

    tally = Tally()
    asked = [Asked("dog", True, 3), Asked("hot dog", False, 1), Asked("cup", False, 2)]
    tally.add(asked, [True, True, False], [["dog"], ["hot"], []])
    assert tally.counts == [[3, 0, 1, 2]] and tally.absent == [[1, 1, 1, 0]]
    told = tally.report()
    assert told["accuracy"][0] == round(100 * 5 / 6, 3) and told["f1"][0] == round(100 * 6 / 7, 3)
    assert told["absent"] == {"anchored": 1, "anchored yes": 1, "others": 1, "others yes": 0}


def test_paired_differences_are_of_the_same_draws():
    from asking import METRICS, span

    draw = random.Random(0)
    one = np.array([[draw.randint(1, 5) for _ in range(4)] for _ in range(20)])
    assert span(METRICS["accuracy"], [one, one]) == [0.0, 0.0, 0.0]
    value, low, high = span(METRICS["accuracy"], [one])
    assert low < value < high


def test_rank_correlation_by_hand():
    from page_trained import spearman

    assert spearman([1, 2, 3], [10, 20, 40]) == 1 and spearman([1, 2, 3], [3, 2, 1]) == -1
    assert abs(spearman([1, 1, 2, 3], [1, 2, 3, 4]) - 0.9486832980505138) < 1e-12
