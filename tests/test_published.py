"""The papers' figures: read whole, put beside ours, and called theirs."""

import pytest
from pope_runs import pope_records, two_methods, write

from vlm_anchors.evaluation import published
from vlm_anchors.evaluation.reporting import html as report_page
from vlm_anchors.evaluation.reporting import tables as report
from vlm_anchors.evaluation.reporting import text as report_text


@pytest.fixture
def run(tmp_path):
    return two_methods(tmp_path / "run")


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


def test_average_of_the_papers_stands_at_our_average(tmp_path):
    records = [r for kind in ("random", "popular") for r in pope_records("none", [True] * 12, f"coco/{kind}")]
    whole = report.tables([write(tmp_path / "r", records)], draws=20)[0]
    clva = next(row for row in whole.published if row.method == "CLVA")
    assert clva.values == {"mean_f1": 85.67, "mean_accuracy": 85.98}


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
