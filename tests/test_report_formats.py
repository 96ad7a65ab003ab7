"""One table in every format: terminal, Markdown, HTML, LaTeX, CSV and JSON."""

import csv
import json
import re
from html.parser import HTMLParser

import pytest
from pope_runs import pope_records, two_methods, write

from vlm_anchors.errors import UnknownName
from vlm_anchors.evaluation.reporting import html as report_page
from vlm_anchors.evaluation.reporting import sheets
from vlm_anchors.evaluation.reporting import tables as report
from vlm_anchors.evaluation.reporting import text as report_text
from vlm_anchors.evaluation.reporting.columns import columns


@pytest.fixture
def run(tmp_path):
    return two_methods(tmp_path / "run")


def test_what_is_written_as_json_is_read_back_as_it_was(run):
    made = report.tables([run], draws=50, everyone=True)
    assert made[0].published and made[0].rows[1].cells["f1"].difference.interval
    assert report.from_json(json.loads(report.as_json(made))) == made


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


def test_what_fits_stays_one_table(run):
    (table,) = report.tables([run], draws=20)
    assert "(continued)" not in report_text.terminal([table], width=300)
