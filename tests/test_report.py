"""From records to tables: what is counted, what is compared with what, and what is refused."""

import json
import re

import pytest
from pope_runs import pope_records, two_methods, write

from vlm_anchors.apps.cli import main
from vlm_anchors.errors import UnknownName
from vlm_anchors.evaluation import statistics
from vlm_anchors.evaluation.benchmarks.base import BadData
from vlm_anchors.evaluation.reading.files import official_files
from vlm_anchors.evaluation.reporting import tables as report
from vlm_anchors.evaluation.reporting import text as report_text


@pytest.fixture
def run(tmp_path):
    return two_methods(tmp_path / "run")


def test_a_table_has_numbers_intervals_and_a_paired_difference(run):
    (table,) = report.tables([run], draws=100)
    plain, clva = table.rows
    assert (plain.method, plain.n, plain.unread, plain.seconds) == ("none", 120, 0, 0.5)
    assert plain.cells["accuracy"].value == pytest.approx(75)
    assert plain.cells["accuracy"].low < 75 < plain.cells["accuracy"].high
    assert plain.cells["accuracy"].difference is None
    gap = clva.cells["accuracy"].difference
    assert gap.value == pytest.approx(12.5)
    assert (gap.won, gap.lost, gap.n) == (15, 0, 120)
    assert gap.interval.low > 0
    assert gap.mcnemar < 0.001


def test_groups_get_a_table_each_and_shared_images_are_drawn_together(tmp_path):
    records = [
        r for kind in ("random", "popular", "adversarial") for r in pope_records("none", [True] * 12, f"coco/{kind}")
    ]
    made = report.tables([write(tmp_path / "r", records)], draws=20)
    assert [table.group for table in made] == ["", "coco/random", "coco/popular", "coco/adversarial"]
    assert made[0].rows[0].n == 36
    assert "mean_f1" in {metric.name for metric in made[0].metrics}
    assert "mean_f1" not in {metric.name for metric in made[1].metrics}
    assert len(report.tables([tmp_path / "r"], draws=20, groups=False)) == 1


def test_seeds_make_one_row_with_a_deviation(tmp_path):
    records = pope_records("none", [i % 2 for i in range(24)], decoding="nucleus:top_p=0.9", seed=0)
    records += pope_records("none", [i % 4 for i in range(24)], decoding="nucleus:top_p=0.9", seed=1)
    (table,) = report.tables([write(tmp_path / "r", records)], draws=20)
    (row,) = table.rows
    assert (row.seeds, row.n) == ((0, 1), 24)
    assert row.cells["accuracy"].value == pytest.approx(62.5)
    assert row.cells["accuracy"].deviation == pytest.approx(17.677, abs=0.01)
    assert "(2 seeds)" in report_text.markdown([table])
    assert "± 17.68" in report_text.markdown([table])


def test_a_method_is_compared_under_its_own_decoding(tmp_path):
    records = pope_records("none", [False] * 12) + pope_records("none", [True] * 12, decoding="beam")
    records += pope_records("clva", [True] * 12, decoding="beam")
    (table,) = report.tables([write(tmp_path / "r", records)], draws=20)
    assert table.rows[2].cells["accuracy"].difference.value == 0


def test_runs_of_one_protocol_share_a_table_and_others_do_not(tmp_path):
    one = write(tmp_path / "a", pope_records("none", [True] * 12))
    two = write(tmp_path / "b", pope_records("clva", [True] * 12))
    three = write(tmp_path / "c", pope_records("clva", [True] * 12), protocol="vcd")
    made = report.tables([one, two, three], draws=20)
    assert [len(table.rows) for table in made] == [2, 1]
    assert "one word" in made[1].protocol


def test_against_any_method(run):
    (table,) = report.tables([run], against="clva", draws=20)
    assert table.rows[0].cells["accuracy"].difference.value == pytest.approx(-12.5)
    with pytest.raises(UnknownName, match="No run of the method 'clv' to compare with. Did you mean 'clva'"):
        report.tables([run], against="clv", draws=20)


def test_different_numbers_of_questions_are_said(tmp_path):
    records = pope_records("none", [True] * 24) + pope_records("clva", [True] * 12)
    (table,) = report.tables([write(tmp_path / "r", records)], draws=20)
    assert "different numbers of questions" in table.notes[0]
    assert table.rows[1].cells["accuracy"].difference.n == 12


def test_unread_answers_are_shown(tmp_path):
    records = pope_records("none", [True] * 10)
    for record in records[:3]:
        record["answer"] = "I cannot tell."
    (table,) = report.tables([write(tmp_path / "r", records, benchmark="pope:dialect=strict")], draws=20)
    assert table.rows[0].unread == pytest.approx(0.3)
    assert "30.0 %" in report_text.markdown([table])
    assert "dialect strict" in report_text.markdown([table])


def test_shards_are_read_together_and_no_answer_counts_twice(tmp_path):
    records = pope_records("none", [True] * 12)
    run = write(tmp_path / "r", records[:6])
    (run / "records.1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records[4:]))
    assert len(report.read_run(run).records) == 12


def test_a_torn_last_line_is_left_out_and_said(tmp_path):
    run = write(tmp_path / "r", pope_records("none", [True] * 12))
    with (run / "records.jsonl").open("a") as lines:
        lines.write('{"id": "coco/random/12", "ans')
    assert report.read_run(run).torn == 1
    (table,) = report.tables([run], draws=20)
    assert any("1 half-written line(s)" in note for note in table.notes)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "run.json").unlink(), "is no run: it has no run.json"),
        (lambda run: (run / "run.json").write_text("{"), "run.json is not valid JSON in line 1"),
        (
            lambda run: (run / "run.json").write_text('{"protocol": []}'),
            "expected a text, or nothing in the field 'protocol'",
        ),
        (
            lambda run: (run / "run.json").write_text('{"data_sha256": {}}'),
            "or nothing in the field 'data_sha256'; found {}",
        ),
        (lambda run: (run / "run.json").write_text("{}"), "names no benchmark; found None. Expected a SPEC"),
        (lambda run: (run / "records.jsonl").unlink(), "holds no records.jsonl. Answer some questions first"),
        (
            lambda run: (run / "records.jsonl").write_text('{"id"\n{"id": 1}\n'),
            "line 1: not a whole record. Only a last line",
        ),
        (lambda run: (run / "records.jsonl").write_text("[1]\n"), "line 1: expected a record with an id"),
        (lambda run: (run / "records.jsonl").write_text('{"id": 1}\n'), "Record 1 of pope has no 'image'"),
        (lambda run: (run / "records.jsonl").write_text(""), "no answers to score for pope"),
    ],
)
def test_what_is_refused(run, damage, words):
    damage(run)
    with pytest.raises(BadData, match=re.escape(words)):
        report.tables([run], draws=20)


def test_a_run_named_twice_is_told(run, capsys, monkeypatch):
    assert main(["report", str(run), str(run)]) == 2
    summary = capsys.readouterr().err
    assert (
        summary == f"Expected different RUNs; {run} was named twice, and its answers would count twice. Name it once.\n"
    )
    monkeypatch.chdir(run.parent)
    assert main(["report", "run", str(run)]) == 2
    assert f"run and {run} are the same RUN" in capsys.readouterr().err


def test_p_is_corrected_for_the_comparisons_of_a_table(tmp_path):
    rights = {"none": 4, "clva": 8, "vcd": 7, "pai": 3}
    records = [one for name, k in rights.items() for one in pope_records(name, [i % k > 0 for i in range(240)])]
    (table,) = report.tables([write(tmp_path / "r", records)], draws=200)
    gaps = [row.cells["accuracy"].difference for row in table.rows[1:]]
    assert [gap.holm for gap in gaps] == pytest.approx(statistics.holm([gap.p for gap in gaps]))
    assert all(gap.holm >= gap.p for gap in gaps)
    assert "p (Holm)" in report_text.markdown([table])
    two = report.tables([write(tmp_path / "two", records[:480])], draws=50)
    assert two[0].rows[1].cells["f1"].difference.holm is None
    assert "Holm" not in report_text.markdown(two)


def test_another_models_run_is_compared_on_the_same_questions(tmp_path):
    one = write(tmp_path / "a", pope_records("none", [i % 8 > 0 for i in range(120)]), model="A")
    two = write(tmp_path / "b", pope_records("none", [i % 4 > 0 for i in range(120)]), model="B")
    (table,) = report.tables([one], against=str(two), draws=50)
    gap = table.rows[0].cells["accuracy"].difference
    assert (gap.value, gap.n, gap.won) == (pytest.approx(12.5), 120, 15)
    assert "against B" in report_text.markdown([table])
    with pytest.raises(BadData, match="would be compared with itself"):
        report.tables([one], against=str(one), draws=50)
    other = [dict(record, truth={"label": "yes"}) for record in pope_records("none", [True] * 120)]
    with pytest.raises(BadData, match="answers another question"):
        report.tables([one], against=str(write(tmp_path / "c", other)), draws=50)
    mme = write(tmp_path / "d", pope_records("none", [True] * 12), benchmark="mme")
    with pytest.raises(BadData, match="answers mme, not pope"):
        report.tables([one], against=str(mme), draws=50)


def test_few_images_and_undefined_draws_are_told(tmp_path):
    records = pope_records("none", [True] * 30)
    for record in records:
        record["answer"] = "Yes" if record["id"].endswith("/1") else "No"
    (table,) = report.tables([write(tmp_path / "r", records)], draws=200)
    assert "Warning: 5 images. With fewer than 30, intervals are too short" in " ".join(table.notes)
    assert re.search(r"precision is undefined in up to \d+\.\d % of the draws", " ".join(table.notes))


def test_the_version_is_named_only_where_the_hash_is_known(tmp_path, run):
    assert report.tables([run], draws=20)[0].version == "your file, 120 questions"
    known = next(sha for sha, one in official_files().items() if one["benchmark"] == "pope")
    official = write(tmp_path / "o", pope_records("none", [True] * 12), data_sha256=known)
    assert report.tables([official], draws=20)[0].version.startswith("version 2023-10")


def test_test_splits_keep_their_answer_file(tmp_path, capsys):
    record = {**pope_records("none", [True])[0], "id": "7", "truth": {"answers": []}, "question": "What?"}
    run = write(tmp_path / "r", [record], benchmark="vqav2")
    assert main(["report", str(run), "--answers", str(tmp_path / "answers")]) == 0
    assert "known to its server alone" in capsys.readouterr().err
    assert list((tmp_path / "answers").rglob("answers.json"))
    assert main(["report", str(run)]) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", []),
        ("id", {}),
        ("method", []),
        ("method", None),
        ("method", 3),
        ("decoding", {}),
        ("decoding", 0),
        ("seed", [1]),
    ],
)
def test_a_record_that_belongs_to_no_row_is_named(tmp_path, field, value):
    records = pope_records("none", [True] * 6)
    records[3][field] = value
    run = write(tmp_path / "r", records)
    with pytest.raises(BadData, match=r"records\.jsonl, line 4: expected id, method and decoding as texts and seed as"):
        report.tables([run], draws=20)


def test_texts_that_look_like_a_truth_stay_texts(tmp_path):
    """Equal texts, and equal truths, are kept once in memory: never one for the other."""
    records = pope_records("none", [True] * 12)
    for record in records[:4]:
        record["answer"] = repr(record["truth"])
    kept = report.read_run(write(tmp_path / "r", records), scored=True).records
    assert [(one["answer"], one["truth"]) for one in kept] == [(one["answer"], one["truth"]) for one in records]
    assert kept[1]["truth"] is kept[3]["truth"]
