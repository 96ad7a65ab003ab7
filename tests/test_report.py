"""From records to tables: what is shown, what is compared with what, and what is refused."""

import csv
import json
import re
from html.parser import HTMLParser

import pytest

from vlm_anchors.apps.cli import main
from vlm_anchors.errors import UnknownName
from vlm_anchors.evaluation import published, statistics
from vlm_anchors.evaluation.benchmarks.base import BadData
from vlm_anchors.evaluation.reading.files import official_files
from vlm_anchors.evaluation.reporting import html as report_page
from vlm_anchors.evaluation.reporting import sheets
from vlm_anchors.evaluation.reporting import tables as report
from vlm_anchors.evaluation.reporting import text as report_text
from vlm_anchors.evaluation.reporting.columns import columns


def pope_records(method, rights, group="coco/random", decoding="greedy", seed=None, **more):
    made = []
    for i, right in enumerate(rights):
        label = "yes" if i % 2 else "no"
        answer = label if right else {"yes": "no", "no": "yes"}[label]
        made.append(
            {
                "id": f"{group}/{i}",
                "image": f"{i // 6}.jpg",
                "group": group,
                "truth": {"label": label},
                "answer": answer,
                "method": method,
                "decoding": decoding,
                "seed": seed,
                "seconds": 0.5,
                **more,
            }
        )
    return made


def write(folder, records, **info):
    folder.mkdir(parents=True, exist_ok=True)
    known = {"benchmark": "pope", "model": "llava-hf/llava-1.5-7b-hf", "protocol": "llava", **info}
    (folder / "run.json").write_text(json.dumps(known))
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture
def run(tmp_path):
    plain, better = [i % 4 > 0 for i in range(120)], [i % 8 > 0 for i in range(120)]
    return write(tmp_path / "run", pope_records("none", plain) + pope_records("clva", better))


def test_what_is_written_as_json_is_read_back_as_it_was(run):
    made = report.tables([run], draws=50, everyone=True)
    assert made[0].published and made[0].rows[1].cells["f1"].difference.interval
    assert report.from_json(json.loads(report.as_json(made))) == made


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


def test_every_format_says_protocol_dialect_unread_and_n(run):
    made = report.tables([run], draws=50)
    for text in (report_text.terminal(made, width=300), report_text.markdown(made), report_page.page(made)):
        for words in (
            "protocol llava",
            "dialect pope",
            "120",
            "0.0 %",
            "unread",
            "McNemar, by question",
            "p by image",
            "against none",
            "bootstrap draws by image",
        ):
            assert words in text, words


def test_published_figures_stand_beside_ours_and_are_called_theirs(run):
    (table,) = report.tables([run], draws=50)
    theirs = {row.method: row for row in table.published}
    assert theirs["CLVA: both"].values == {"f1": 86.99, "accuracy": 88.26}
    assert all(row.model == "LLaVA-1.5-7B" for row in table.published)
    text = report_text.markdown([table])
    assert "CLVA: both — theirs" in text
    assert "arXiv 2603.25088, Table 4" in text
    page = report_page.page([table])
    assert "published figures, not ours" in page


def test_published_figures_of_other_models_only_when_asked(tmp_path):
    run = write(tmp_path / "r", pope_records("none", [True] * 12), model="scenes")
    assert report.tables([run], draws=20)[0].published == []
    assert {row.model for row in report.tables([run], draws=20, everyone=True)[0].published} >= {"LLaVA-1.5-7B"}


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


def test_average_of_the_papers_stands_at_our_average(tmp_path):
    records = [r for kind in ("random", "popular") for r in pope_records("none", [True] * 12, f"coco/{kind}")]
    whole = report.tables([write(tmp_path / "r", records)], draws=20)[0]
    clva = next(row for row in whole.published if row.method == "CLVA")
    assert clva.values == {"mean_f1": 85.67, "mean_accuracy": 85.98}


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


def test_json_is_one_document_with_everything(run):
    (table,) = json.loads(report.as_json(report.tables([run], draws=20)))
    assert table["rows"][1]["cells"]["f1"]["difference"]["n"] == 120
    assert table["protocol"].startswith("llava: ")


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.rows = [], [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href", "data", "srcset")]
        if tag in ("table", "svg", "ul", "div", "body", "html", "tr"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1

    def handle_endtag(self, tag):
        if tag in ("table", "svg", "ul", "div", "body", "html", "tr"):
            assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(run):
    text = report_page.page(report.tables([run], draws=20), "A <title>")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.fetched == []
    assert len(set(page.rows)) == 1
    assert "<script" not in text
    assert not re.search(r"https?://|@import|url\(", text)
    assert "A &lt;title&gt;" in text
    assert "<svg" in text


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "run.json").unlink(), "is no run: it has no run.json"),
        (lambda run: (run / "run.json").write_text("{"), "run.json is not valid JSON in line 1"),
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


def test_every_published_figure_is_read_and_most_have_a_place():
    figures = published.figures()
    assert len(figures) == 573
    homeless = {figure.benchmark for figure in figures if (figure.benchmark, figure.split) not in published.PLACES}
    assert homeless == {"POPE on one H20", "negated validation loss"}


def test_misprints_are_shown_with_the_figure():
    rows = published.rows("pope", "")
    imccd = next(row for row in rows if row.method == "IMCCD" and row.model == "Qwen-VL-7B")
    assert any("misprint" in note for note in imccd.notes)


def test_unnamed_metrics_say_so():
    row = next(row for row in published.rows("amber") if row.model == "TinyLLaVA-1B")
    assert published.UNNAMED in row.notes
    assert row.values == {"f1": 81.2}


def test_chair_columns_are_the_papers_text_not_its_heads():
    row = next(row for row in published.rows("chair") if row.method == "Greedy" and row.model == "LLaVA-1.5-7B")
    assert row.values == {"chair_s": 53.0, "chair_i": 15.2, "recall": 76.7}
    assert any("swapped" in note for note in row.notes)


def test_fractions_of_the_second_paper_are_shown_as_our_percents():
    row = next(row for row in published.rows("captions") if row.model == "TinyLLaVA-1B")
    assert row.values["bleu"] == pytest.approx(56.63)
    assert row.values["cider"] == pytest.approx(4.0793)


def test_a_run_named_twice_is_told(run, capsys, monkeypatch):
    assert main(["report", str(run), str(run)]) == 2
    summary = capsys.readouterr().err
    assert (
        summary == f"Expected different RUNs; {run} was named twice, and its answers would count twice. Name it once.\n"
    )
    monkeypatch.chdir(run.parent)
    assert main(["report", "run", str(run)]) == 2
    assert f"run and {run} are the same RUN" in capsys.readouterr().err


MANY = ["none", "clva", *(f"attanchor:tau=0.{n}+clva:alpha=5,beta=0.{n}" for n in range(10, 20))]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_many_methods_are_rows_on_a_narrow_terminal(tmp_path, width):
    """No line is longer than the terminal, every number stands whole, and every block has a line a method."""
    rights = [[i % (2 + n) > 0 for i in range(24)] for n in range(len(MANY))]
    records = [one for method, right in zip(MANY, rights, strict=True) for one in pope_records(method, right)]
    (table,) = report.tables([write(tmp_path / "run", records)], draws=20)
    text = report_text.terminal([table], width=width)
    drawn = [line for line in text.splitlines() if line.startswith(("┃", "│"))]
    assert drawn and max(map(len, drawn)) <= width
    words = [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in drawn]
    blocks = [cells for cells in words if cells[0] == "method"]
    shown = columns(table, narrow="intervals of the other metrics" in text)
    assert [name for cells in blocks for name in cells[1:]] == [column.head for column in shown][1:]
    for name in ("none", "clva"):
        place = next(place for place, row in enumerate(table.rows) if row.method == name)
        found = [cells for cells in words if cells[0] == name]
        assert [value for cells in found for value in cells[1:]] == [column.cells()[place] for column in shown][1:]
    assert len(blocks) == 1 or text.count("(continued)") == len(blocks) - 1
    folded = "".join(cells[0] for cells in words)
    assert all(folded.count(method) >= len(blocks) for method in MANY)


FORMATS = (
    report_text.markdown,
    lambda made: report_text.terminal(made, 300),
    report_page.page,
    sheets.latex,
    report.as_json,
)


def test_score_and_difference_stand_in_one_table_of_eighty_columns(run):
    (table,) = report.tables([run], draws=50)
    first, *more = report_text.terminal([table], width=80).split("(continued)")
    assert all(words in first for words in ("f1 % ↑", "against none"))
    assert len(more) <= 3


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


def test_the_best_is_bold_and_the_second_underlined(tmp_path):
    rights = {"none": 4, "clva": 8, "vcd": 6}
    records = [one for name, k in rights.items() for one in pope_records(name, [i % k > 0 for i in range(240)])]
    (table,) = report.tables([write(tmp_path / "r", records)], draws=50, metrics=["accuracy"])
    assert "| clva | **87.50** [" in report_text.markdown([table])
    assert "| vcd | <u>83.33</u> [" in report_text.markdown([table])
    assert "| none | 75.00 [" in report_text.markdown([table])
    assert "<strong>87.50</strong>" in report_page.page([table]) and "<u>83.33</u>" in report_page.page([table])
    assert r"\textbf{87.50}" in sheets.latex([table]) and r"\underline{83.33}" in sheets.latex([table])


def test_metrics_are_chosen_and_ordered(run):
    (table,) = report.tables([run], draws=50, metrics=["yes_ratio", "accuracy"])
    assert [metric.name for metric in table.metrics] == ["yes_ratio", "accuracy"]
    with pytest.raises(UnknownName, match="No metric 'acuracy'. Did you mean 'accuracy'"):
        report.tables([run], draws=50, metrics=["acuracy"])


def test_numbers_for_programs_have_the_unit_of_their_name(run):
    (table,) = report.tables([run], draws=50)
    one = table.values()[1]
    assert one["accuracy %"] == pytest.approx(87.5) and one["accuracy % against none"] == pytest.approx(12.5)
    assert {metric.unit for metric in table.metrics} <= {"percent", "points"}
    rows = list(csv.DictReader(sheets.comma_separated([table]).splitlines()))
    assert [row["method"] for row in rows] == ["none", "clva"]
    assert float(rows[1]["accuracy %"]) == pytest.approx(87.5)
    pytest.importorskip("pandas")
    frame = table.to_dataframe()
    assert list(frame["method"]) == ["none", "clva"]
    assert frame["accuracy %"].tolist() == pytest.approx([75.0, 87.5])


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


def test_an_unfinished_run_says_so_in_every_format(tmp_path):
    run = write(tmp_path / "r", pope_records("none", [True] * 18), questions=36)
    made = report.tables([run], draws=20)
    for form in FORMATS:
        assert "18 of 36" in form(made)
    assert "36" in sheets.comma_separated(made)


def test_gibberish_is_seen_where_a_dialect_reads_everything(tmp_path):
    records = pope_records("none", [True] * 60)
    for record in records[:30]:
        record["answer"] = "the the wood"
    (table,) = report.tables([write(tmp_path / "r", records)], draws=20)
    assert (table.rows[0].unread, table.rows[0].wordless) == (0, 0.5)
    for form in FORMATS[:3]:
        text = form([table])
        assert "no yes/no" in text and "50.0 %" in text
        assert "Warning: 50.0 % of the answers of none hold no yes or no word, and dialect pope reads" in text
    (strict,) = report.tables([write(tmp_path / "s", records, benchmark="pope:dialect=strict")], draws=20)
    assert strict.rows[0].wordless is None
    assert "no yes/no" not in report_text.markdown([strict])


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


def test_the_page_says_what_it_was_made_with_and_what_it_draws(tmp_path):
    info = {
        "date": "2026-11-28",
        "commit": "abc",
        "device": "a card",
        "versions": {"torch": "2.9", "transformers": "5.23"},
    }
    run = write(tmp_path / "r", pope_records("none", [True] * 12), model="scenes", **info)
    text = report_page.page(report.tables([run], draws=20))
    assert "2026-11-28, commit abc, a card, torch 2.9, transformers 5.23" in text
    assert "<figcaption>f1 % ↑</figcaption>" in text
    assert "published figures" not in text


def test_test_splits_keep_their_answer_file(tmp_path, capsys):
    record = {**pope_records("none", [True])[0], "id": "7", "truth": {"answers": []}, "question": "What?"}
    run = write(tmp_path / "r", [record], benchmark="vqav2")
    assert main(["report", str(run), "--answers", str(tmp_path / "answers")]) == 0
    assert "known to its server alone" in capsys.readouterr().err
    assert list((tmp_path / "answers").rglob("answers.json"))
    assert main(["report", str(run)]) == 2


def test_what_fits_stays_one_table(run):
    (table,) = report.tables([run], draws=20)
    assert "(continued)" not in report_text.terminal([table], width=300)
