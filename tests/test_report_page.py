"""The HTML report in a browser: every column is in sight on a screen, and nothing scrolls sideways on a phone."""

from dataclasses import replace

import pytest
from pope_runs import pope_records, write

from vlm_anchors.evaluation.benchmarks.base import Metric
from vlm_anchors.evaluation.reporting import html as report_page
from vlm_anchors.evaluation.reporting import tables as report
from vlm_anchors.evaluation.reporting.table import Cell, Row, Table
from vlm_anchors.evaluation.statistics import Difference, Interval

LONG = "attanchor:tau=0.125,negatives=false+clva:alpha=5,beta=0.1,layers=13-24,positive_layer=3"
METHODS = {"none": 4, "clva": 8, "vcd:alpha=1.0,beta=0.1": 7, "attanchor+clva": 5, LONG: 3}
INFO = {
    "date": "2026-11-28T10:00:00+00:00", "commit": "0123456789abcdef", "device": "cpu, 2 cores, Linux x86_64",
    "versions": {"vlm-anchors": "0.9.0.dev1+g0123456789", "torch": "2.13.0+cpu", "transformers": "5.23.0"},
}  # fmt: skip


def pope_run(folder):
    made = []
    for number, (method, k) in enumerate(METHODS.items()):
        for kind in ("random", "adversarial"):
            made += pope_records(method, [i % k > 0 for i in range(180)], f"coco/{kind}")
        if number < 2:
            for seed in (0, 1):
                rights = [i % (k + seed) > 0 for i in range(180)]
                made += pope_records(method, rights, decoding="nucleus:temperature=1.0,top_p=0.9", seed=seed)
    return write(folder, made, **INFO)


def chair_run(folder):
    made = [
        {
            "id": str(i), "image": f"COCO_val2014_{i:012d}.jpg", "group": "val2014", "truth": {"objects": ["cup", "dog"]},
            "answer": f"A {('cup', 'dog', 'cat')[i % place]} on a table.", "method": method, "decoding": "beam:num_beams=5",
            "seed": None, "seconds": 1.5,
        }
        for place, method in ((2, "none"), (3, "opera:scale=50.0,threshold=15"), (1, LONG))
        for i in range(40)
    ]  # fmt: skip
    return write(folder, made, benchmark="chair", protocol="opera", **INFO)


def many_metrics():
    """A table as AMBER's, with numbers at their widest."""
    metrics = tuple(Metric(f"{name}_f1", "higher", "percent") for name in ("existence", "attribute", "relation") * 4)
    metrics = tuple(replace(metric, name=f"{metric.name}{n}") for n, metric in enumerate(metrics))
    gap = Difference(-13.33, Interval(-15.5, -10.2), 0.001, 0.0004, 1234, 1098, 14216, 0.012)
    cell = Cell(100.0, 100.0, 100.0, None, gap)
    cells = {metric.name: cell for metric in metrics}
    rows = [Row(method, "beam:num_beams=5", (None,), 14216, 0.123, 12.345, cells, images=1004) for method in METHODS]
    return Table("amber", "version 1", "", "llava", "as-asked", "dialect amber", "none", metrics, rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of two benchmarks, with published rows of every model."""
    folder = tmp_path_factory.mktemp("runs")
    shown = report.tables([pope_run(folder / "pope"), chair_run(folder / "chair")], draws=30, everyone=True)
    shown.append(many_metrics())
    page = folder / "report.html"
    page.write_text(report_page.page(shown, "A report"))
    return page, shown


MEASURE = """
() => {
  const width = document.documentElement.clientWidth;
  const hidden = [...document.querySelectorAll("th, td, td *, h1, h2, p, li, svg, figcaption")].filter(part => {
    const box = part.getBoundingClientRect();
    return box.width > 0 && (box.right > width + 0.5 || box.left < -0.5);
  });
  const overlap = [...document.querySelectorAll("td")].filter(cell => cell.scrollWidth > cell.clientWidth + 1);
  return {
    page: document.documentElement.scrollWidth,
    sideways: [...document.querySelectorAll(".wide")].filter(box => box.scrollWidth > box.clientWidth).length,
    hidden: hidden.map(part => part.tagName + " " + part.textContent.slice(0, 40)),
    overlap: overlap.map(cell => cell.textContent.slice(0, 40)),
    heads: [...document.querySelectorAll("th")].filter(head => head.offsetParent !== null).map(head => head.textContent),
    named: [...document.querySelectorAll("td[data-head]")].filter(
      cell => getComputedStyle(cell, "::before").content !== "none").length,
  };
}
"""


def measured(browser, page, width, height):
    view = browser.new_page(viewport={"width": width, "height": height})
    try:
        view.goto(page.as_uri())
        return view.evaluate(MEASURE)
    finally:
        view.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (768, 1024), (390, 844), (320, 568)])
def test_every_column_is_in_sight(browser, made, width, height):
    page, shown = made
    found = measured(browser, page, width, height)
    assert found["page"] <= width, "the page scrolls sideways"
    assert (found["sideways"], found["hidden"], found["overlap"]) == (0, [], [])
    if width == 1280:  # a table with a head; on a phone each value has its own
        wanted = [column.head for table in shown for column in report_page.columns(table)]
        assert set(wanted) <= set(found["heads"]) and len(found["heads"]) <= len(wanted) + 1
    else:
        assert found["heads"] == [] and found["named"] > 0
