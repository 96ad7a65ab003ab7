"""Intervals cover, pairs are compared as pairs, and exact tests are exact."""

import itertools
import math
import random

import pytest

from vlm_anchors.errors import BadSetting
from vlm_anchors.evaluation import statistics as st
from vlm_anchors.evaluation.benchmarks.base import BadData
from vlm_anchors.evaluation.benchmarks.mme import Mme
from vlm_anchors.evaluation.benchmarks.pope import Pope
from vlm_anchors.evaluation.benchmarks.vqa import Vizwiz


def records(rights, per_image=6, group="coco/random"):
    """POPE records that are right where the list says so; labels alternate."""
    made = []
    for i, right in enumerate(rights):
        label = "yes" if i % 2 else "no"
        answer = label if right else {"yes": "no", "no": "yes"}[label]
        made.append(
            {
                "id": str(i),
                "image": f"{i // per_image}.jpg",
                "group": group,
                "truth": {"label": label},
                "answer": answer,
            }
        )
    return made


@pytest.mark.parametrize(
    ("won", "lost", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (6, 0, 2 / 64), (9, 1, 22 / 1024), (1, 9, 22 / 1024)]
)
def test_mcnemar_by_hand(won, lost, p):
    assert st.mcnemar(won, lost) == pytest.approx(p, abs=1e-15)


def test_mcnemar_is_the_sum_over_all_coin_tosses():
    for n in range(1, 9):
        for won in range(n + 1):
            tosses = [sum(toss) for toss in itertools.product((0, 1), repeat=n)]
            uneven = sum(abs(t - n / 2) >= abs(won - n / 2) for t in tosses) / len(tosses)
            assert st.mcnemar(won, n - won) == pytest.approx(uneven)


def test_mcnemar_survives_thousands():
    assert 0 < st.mcnemar(1600, 1400) < 0.001


def test_quantile_is_numpys():
    np = pytest.importorskip("numpy")
    values = sorted(random.Random(0).random() for _ in range(37))
    for share in (0, 0.025, 0.5, 0.975, 1):
        assert st.quantile(values, share) == pytest.approx(np.quantile(values, share))


def test_same_seed_same_interval():
    rights = [i % 5 > 0 for i in range(120)]
    one, two = (st.intervals(Pope(), [records(rights)], draws=200, seed=3) for _ in range(2))
    assert one == two
    assert one != st.intervals(Pope(), [records(rights)], draws=200, seed=4)


def test_interval_of_independent_questions_matches_theory():
    rng = random.Random(1)
    rights = [rng.random() < 0.8 for _ in range(2000)]
    got = st.intervals(Pope(), [records(rights, per_image=1)], draws=2000)["accuracy"]
    p = sum(rights) / len(rights)
    half = 1.96 * math.sqrt(p * (1 - p) / len(rights))
    assert got.high - got.low == pytest.approx(2 * half, rel=0.1)


def test_interval_by_image_is_wider_where_images_decide():
    rng = random.Random(2)
    rights = [right for _ in range(100) for right in [rng.random() < 0.7] * 6]
    width = {n: st.intervals(Pope(), [records(rights, per_image=n)], draws=500)["accuracy"] for n in (1, 6)}
    ratio = (width[6].high - width[6].low) / (width[1].high - width[1].low)
    assert ratio == pytest.approx(math.sqrt(6), rel=0.2)


def test_intervals_cover():
    covered = 0
    for trial in range(60):
        rng = random.Random(trial)
        rights = [rng.random() < 0.8 for _ in range(300)]
        got = st.intervals(Pope(), [records(rights, per_image=1)], draws=200, seed=trial)["accuracy"]
        covered += got.low <= 0.8 <= got.high
    assert covered >= 51  # 95 % of 60 is 57; below 51 has p < 0.01


def test_one_image_has_no_interval():
    assert st.intervals(Pope(), [records([True, False], per_image=2)], draws=20)["accuracy"] is None


def test_undefined_metrics_have_no_interval():
    never_yes = [dict(record, answer="no") for record in records([True] * 12)]
    got = st.intervals(Pope(), [never_yes], draws=50)
    assert got["precision"] is None
    assert got["accuracy"] is not None


def test_a_run_against_itself_differs_by_nothing():
    same = records([i % 3 > 0 for i in range(60)])
    gap = st.difference(Pope(), [same], [same], "accuracy", draws=50)
    assert (gap.value, gap.interval, gap.p, gap.mcnemar, gap.won, gap.lost) == (0, st.Interval(0, 0), 1.0, 1.0, 0, 0)


def test_paired_difference_is_by_id_not_by_order():
    worse, better = [i % 4 > 0 for i in range(240)], [i % 4 > 0 or i % 8 == 0 for i in range(240)]
    mixed = records(better)
    random.Random(0).shuffle(mixed)
    gap = st.difference(Pope(), [mixed], [records(worse)], "accuracy", draws=200)
    assert gap.value == pytest.approx(30 / 240)
    assert (gap.won, gap.lost, gap.n) == (30, 0, 240)
    assert gap.mcnemar == pytest.approx(2 / 2**30)
    assert gap.interval.low > 0
    assert gap.p < 0.02
    assert st.difference(Pope(), [records(worse)], [mixed], "accuracy", draws=200).value == pytest.approx(-30 / 240)


def test_difference_uses_the_questions_both_answered():
    one, two = records([True] * 30), records([False] * 30)[12:]
    gap = st.difference(Pope(), [one], [two], "accuracy", draws=20)
    assert (gap.n, gap.value) == (18, 1.0)
    assert st.difference(Pope(), [one[:6]], [two], "accuracy", draws=20) is None


def test_difference_refuses_an_id_twice():
    one = records([True] * 6)
    with pytest.raises(BadData, match="answered twice in one run; compare one method"):
        st.difference(Pope(), [[*one, one[0]]], [one], "accuracy", draws=20)


def test_nothing_is_found_where_there_is_nothing():
    """Of 40 null comparisons about 2 are below 0.05."""
    small = 0
    for trial in range(40):
        rng = random.Random(trial)
        one, two = (records([rng.random() < 0.7 for _ in range(240)]) for _ in range(2))
        small += st.difference(Pope(), [one], [two], "accuracy", draws=200, seed=trial).p < 0.05
    assert small <= 7


def test_seeds_are_averaged():
    runs = [records([i % k > 0 for i in range(60)]) for k in (2, 3)]
    gap = st.difference(Pope(), runs, [records([True] * 60)], "accuracy", draws=20)
    assert gap.value == pytest.approx((1 / 2 + 2 / 3) / 2 - 1)
    assert gap.mcnemar is None
    assert st.average([{"f1": 0.5}, {"f1": 0.7}])["f1"] == pytest.approx((0.6, math.sqrt(0.02)))
    assert st.average([{"f1": 0.5}])["f1"] == (0.5, None)
    assert st.average([{"f1": None}, {"f1": 0.7}])["f1"] == (None, None)


def few_yes(rng, n, right, says_yes):
    """Answers that are seldom yes: precision and F1 are undefined in some draws."""
    made = records([rng.random() < right for _ in range(n)], per_image=1)
    return [dict(one, answer="yes" if rng.random() < says_yes else "no") for one in made]


def test_value_interval_and_difference_are_of_one_estimator():
    """The mean over seeds; pooled counts of seeds that say yes unequally often give another F1."""
    rng = random.Random(4)
    runs = [few_yes(rng, 90, 0.7, share) for share in (0.1, 0.9)]
    other = [few_yes(rng, 90, 0.7, 0.5)]
    value = st.average([Pope().score(each).metrics for each in runs])["f1"][0]
    pooled = (
        Pope().score([dict(one, id=f"{n}/{one['id']}") for n, each in enumerate(runs) for one in each]).metrics["f1"]
    )
    assert abs(value - pooled) > 0.03
    gap = st.difference(Pope(), runs, other, "f1", draws=100)
    assert gap.value == pytest.approx(value - Pope().score(other[0]).metrics["f1"], abs=1e-12)
    got = st.intervals(Pope(), runs, draws=300)["f1"]
    assert got.low < value < got.high
    # Literally: each draw's metric of each seed, averaged.
    weights = next(st.draws_of(90, 20, 0))
    drawn = [metrics["f1"] for metrics in st.Tally(Pope(), runs, st.clusters_of(Pope(), runs[0])).draws(weights)]
    for row, found in zip(weights, drawn, strict=True):
        seeds = []
        for each in runs:
            many = [
                dict(one, id=f"{one['id']}/{k}")
                for one, times in zip(each, row, strict=True)
                for k in range(int(times))
            ]
            seeds.append(Pope().score(many).metrics["f1"])
        assert found == pytest.approx(sum(seeds) / 2)


def test_draws_that_are_undefined_widen_the_interval_and_are_told():
    one_yes = [
        dict(record, answer="yes" if record["id"] == "1" else "no") for record in records([True] * 20, per_image=1)
    ]
    got = st.intervals(Pope(), [one_yes], draws=1000)["precision"]
    assert got.undefined == pytest.approx((1 - 1 / 20) ** 20, abs=0.05)
    assert (got.low, got.high) == (0.0, 1.0)
    assert st.intervals(Pope(), [one_yes], draws=100)["accuracy"].undefined == 0
    other = [dict(record, answer="no") for record in one_yes[:1]] + [dict(one_yes[1], answer="yes"), *one_yes[2:]]
    assert st.difference(Pope(), [one_yes], [other], "precision", draws=200).p == 1.0


def test_undefined_draws_by_hand():
    assert st.middle([1.0, 2.0, 3.0], 0.5) == st.Interval(1.5, 2.5)
    assert st.middle([0.4, 0.5, 0.6], 0.5, 4, (0.0, 1.0)) == st.Interval(pytest.approx(0.3), pytest.approx(0.7), 0.25)
    assert st.middle([1.0] * 999, 0.95, 1000, None) == st.Interval(1.0, 1.0, pytest.approx(0.001))
    assert st.middle([1.0, 2.0], 0.95, 4, None) is None
    assert st.middle([], 0.95, 10, (0.0, 1.0)) is None
    assert st.sign_p([1.0] * 99) == pytest.approx(2 / 100)
    assert st.sign_p([1.0] * 90, 99) == pytest.approx(2 * 10 / 100)


@pytest.mark.parametrize(
    ("ps", "corrected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.01, 0.01, 0.2], [0.03, 0.03, 0.2]),
    ],
)
def test_holm_by_hand(ps, corrected):
    assert st.holm(ps) == pytest.approx(corrected)


def test_mcnemar_finds_too_much_where_an_images_answers_are_alike():
    """Two runs without a difference whose answers are right or wrong by image: 5 % is promised."""
    mcnemar, by_image = 0, 0
    for trial in range(60):
        rng = random.Random(trial)
        one, two = (records([right for _ in range(40) for right in [rng.random() < 0.7] * 6]) for _ in range(2))
        gap = st.difference(Pope(), [one], [two], "accuracy", draws=200, seed=trial)
        mcnemar += gap.mcnemar < 0.05
        by_image += gap.p < 0.05
    assert mcnemar >= 15
    assert by_image <= 9


def test_pairs_of_mme_stay_together():
    rows = []
    for i in range(40):
        for label in ("yes", "no"):
            truth = {"label": label}
            rows.append(
                {
                    "id": f"{i}{label}",
                    "image": f"{i}",
                    "group": "count",
                    "truth": truth,
                    "answer": label if i % 2 else "yes",
                }
            )
    got = st.intervals(Mme(), [rows], draws=200)
    assert got["accuracy_plus"].low < 0.5 < got["accuracy_plus"].high
    assert got["perception"] is None


def test_fractions_have_no_mcnemar():
    people = {"answers": ["a dog"] * 2 + ["cat"] * 8}
    rows = [
        {"id": str(i), "image": str(i), "group": "g", "truth": people, "answer": "dog" if i % 2 else "cat"}
        for i in range(20)
    ]
    other = [dict(row, answer="cat") for row in rows]
    gap = st.difference(Vizwiz(), [rows], [other], "accuracy", draws=50)
    assert gap.mcnemar is None
    assert gap.value < 0


@pytest.mark.parametrize(
    ("draws", "level", "words"),
    [(5, 0.95, "draws must be a whole number from 20"), (100, 1.0, "level must be at least 0.5")],
)
def test_bad_settings(draws, level, words):
    with pytest.raises(BadSetting, match=words):
        st.intervals(Pope(), [records([True] * 6)], draws=draws, level=level)
