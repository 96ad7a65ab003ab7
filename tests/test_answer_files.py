"""`report --answers`: official answer files, where they lie, and what is refused before one is written."""

import json
from dataclasses import dataclass

import pytest

from vlm_anchors.apps.cli import main
from vlm_anchors.errors import BadData, BadSetting
from vlm_anchors.evaluation.benchmarks import BENCHMARKS
from vlm_anchors.evaluation.benchmarks.base import Benchmark
from vlm_anchors.evaluation.reading.official import in_file_order, safe_name
from vlm_anchors.evaluation.reporting.answer_files import answer_files, folder_name, write_answer_files
from vlm_anchors.registry import Entry

TRUTHS = {
    "pope": {"label": "yes"},
    "chair": {"objects": ["cup"]},
    "mme": {"label": "yes"},
    "amber": {"label": "yes"},
    "hallusion": {
        "label": "yes", "category": "VD", "subcategory": "map", "visual_input": "1", "set_id": "0", "figure_id": "1",
        "question_id": "0",
    },
    "vqav2": {"answers": ["cup"] * 10},
    "vizwiz": {"answers": ["cup"] * 10},
    "gqa": {"answer": "cup"},
    "scienceqa": {"answer": "A", "options": ["a", "b"]},
    "mmbench": {"answer": "A", "options": ["a", "b"], "base": 1, "turn": 0},
    "captions": {"references": ["A cup."]},
    "mmhal": {"gt_answer": "A cup.", "image_content": ["cup"]},
    "llava-bench": {"question_id": 1},
}  # fmt: skip


def record(key=1, truth=None, group="g", **more):
    one = {"id": str(key), "image": "1.jpg", "question": "Is it?", "group": group, "truth": truth or TRUTHS["pope"]}
    return {**one, "answer": "Yes", "method": "none", "decoding": "greedy", "seed": None, **more}


def write_run(folder, rows, benchmark="pope", **info):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"benchmark": benchmark, "model": "scenes", **info}))
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("name", BENCHMARKS.names())
def test_every_benchmark_has_a_format(name):
    records = [record(truth=TRUTHS[name])]
    files = BENCHMARKS.build(name).answer_files(records)
    assert files == BENCHMARKS.build(name).answer_files(records)
    assert all(
        "yes" in text.lower() and text.endswith("\n") and safe_name(file) == file for file, text in files.items()
    )


@dataclass(frozen=True)
class Mine(Benchmark):
    name, metrics_of = "mine", ()

    def questions(self, data, split=None):
        return []

    def counts(self, records):
        return []

    def formulas(self, parts):
        return {}


def test_one_without_a_format_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(BENCHMARKS._entries, "mine", Entry("mine", f"{__name__}:Mine", "Mine", "here"))
    run = write_run(tmp_path / "run", [record()], "mine")
    assert main(["report", str(run), "--answers", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "mine has no official format for answers. They stand in records.jsonl, one a line, as 'answer'.\n"
    )
    assert not (tmp_path / "out").exists()


def test_files_lie_by_benchmark_method_decoding_and_seed(tmp_path, capsys):
    nucleus = {"decoding": "nucleus:top_p=0.9", "method": "clva:alpha=5,beta=0"}
    groups = ("coco/random", "coco/popular")
    rows = [record(f"{group}/1", group=group) for group in groups]
    rows += [record(f"{group}/1", group=group, seed=seed, **nucleus) for seed in (0, 1) for group in groups]
    run = write_run(tmp_path / "run", rows)
    mme = write_run(tmp_path / "mme", [record(f"OCR/{i}", group="OCR") for i in (1, 2)], "mme")
    out = tmp_path / "deep" / "out"
    assert main(["report", str(run), str(mme), "--answers", str(out), "--format", "json"]) == 0
    summary = capsys.readouterr()
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*") if path.is_file()) == [
        "mme/none_greedy/OCR.txt",
        "pope/clva-alpha=5-beta=0_nucleus-top_p=0.9_seed-0/coco-popular.jsonl",
        "pope/clva-alpha=5-beta=0_nucleus-top_p=0.9_seed-0/coco-random.jsonl",
        "pope/clva-alpha=5-beta=0_nucleus-top_p=0.9_seed-1/coco-popular.jsonl",
        "pope/clva-alpha=5-beta=0_nucleus-top_p=0.9_seed-1/coco-random.jsonl",
        "pope/none_greedy/coco-popular.jsonl",
        "pope/none_greedy/coco-random.jsonl",
    ]
    assert summary.err.splitlines() == [
        f"2 answer files lie in {out / 'pope' / 'none_greedy'}",
        f"2 answer files lie in {out / 'pope' / 'clva-alpha=5-beta=0_nucleus-top_p=0.9_seed-0'}",
        f"2 answer files lie in {out / 'pope' / 'clva-alpha=5-beta=0_nucleus-top_p=0.9_seed-1'}",
        f"1 answer file lies in {out / 'mme' / 'none_greedy'}",
    ]
    assert len(json.loads(summary.out)["tables"]) == 4


def test_a_second_time_writes_the_same(tmp_path):
    run, out = write_run(tmp_path / "run", [record()]), tmp_path / "out"
    for _ in range(2):
        assert write_answer_files(answer_files([run], out)) == {out / "pope" / "none_greedy": 1}
    assert [path.name for path in (out / "pope" / "none_greedy").iterdir()] == ["g.jsonl"]


@pytest.mark.parametrize("method", ["none", "None"])
def test_two_that_would_be_one_file_are_refused_before_anything_is_written(tmp_path, capsys, method):
    """Also where only the case differs, which some file systems do not tell apart."""
    one = write_run(tmp_path / "a", [record()])
    two = write_run(tmp_path / "b", [record(method=method)], model="other")
    out = tmp_path / "out"
    assert main(["report", str(one), str(two), "--answers", str(out)]) == 2
    file = out / "pope" / f"{method}_greedy" / "g.jsonl"
    summary = capsys.readouterr()
    assert summary.err == f"{one} and {two} would both write {file}. Give each run an --answers folder of its own.\n"
    assert (summary.out, out.exists()) == ("", False)


def test_a_table_that_cannot_be_scored_yet_still_gives_its_files(tmp_path, capsys):
    run = write_run(tmp_path / "run", [record(truth=TRUTHS["llava-bench"])], "llava-bench")
    assert main(["report", str(run), "--answers", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "have no review" in err
    place = tmp_path / "out" / "llava-bench" / "none_greedy"
    assert f"1 answer file lies in {place}\n" in err
    assert json.loads((place / "answers.jsonl").read_text())["model_id"] == "scenes"


def test_mme_without_its_pairs_still_gives_its_files(tmp_path, capsys):
    run = write_run(tmp_path / "run", [record("OCR/1", group="OCR")], "mme")
    assert main(["report", str(run), "--answers", str(tmp_path / "out")]) == 2
    assert (tmp_path / "out" / "mme" / "none_greedy" / "OCR.txt").exists()


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    run = write_run(tmp_path / "run", [record()])
    (tmp_path / "file").write_text("x")
    assert main(["report", str(run), "--answers", str(tmp_path / "file")]) == 2
    assert f"--answers {tmp_path / 'file'} is a file. Choose another." in capsys.readouterr().err


def test_records_that_lack_something(tmp_path):
    one = record()
    del one["question"]
    with pytest.raises(BadData, match="Record 1 of pope has no 'question'; a record needs id, image, .*, question"):
        answer_files([write_run(tmp_path / "a", [one])], tmp_path / "out")
    with pytest.raises(BadSetting, match="would both write"):
        answer_files([write_run(tmp_path / name, [record()]) for name in "bc"], tmp_path / "out")
    with pytest.raises(BadData, match="was named twice"):
        answer_files([tmp_path / "b"] * 2, tmp_path / "out")


def test_mmbench_numbers_rotations_as_its_file_does():
    truths = [{**TRUTHS["mmbench"], "base": 7, "turn": turn} for turn in (0, 2)]
    records = [record(f"7/{truth['turn']}", truth) for truth in truths]
    (text,) = BENCHMARKS.build("mmbench:circular=true").answer_files(records).values()
    assert [json.loads(line)["question_id"] for line in text.splitlines()] == [7, 2000007]


def test_the_order_of_the_question_file():
    assert [r["id"] for r in in_file_order([{"id": "a/10"}, {"id": "a/9"}])] == ["a/9", "a/10"]
    assert [r["id"] for r in in_file_order([{"id": "b"}, {"id": "a/9"}])] == ["b", "a/9"]


def test_names_for_any_file_system():
    assert folder_name("clva+attanchor:tau=0.3", "greedy", None) == "clva+attanchor-tau=0.3_greedy"
    assert safe_name("../..") == "-"
    assert safe_name("a/b\\c:d*e?") == "a-b-c-d-e"
    long = [safe_name("x" * 400 + end) for end in "ab"]
    assert len(set(long)) == 2
    assert all(len(name) < 200 for name in long)
