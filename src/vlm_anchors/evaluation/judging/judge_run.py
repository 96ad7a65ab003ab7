"""A judge's reviews of a RUN of LLaVA-Bench or MMHal-Bench, kept one by one as they come, so that a kill loses nothing and
no answer is sent twice. Without `judge_run` nothing leaves this machine."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...durable import AppendedLines
from ...errors import BadRun, BadSetting
from ..benchmarks import mmhal
from ..benchmarks.base import Record
from ..benchmarks.llava_bench import LlavaBench, requests
from ..benchmarks.mmhal import Mmhal
from ..reporting.runs import Run, benchmark_of, read_info, read_run
from . import reviews
from .judge import Judge


def judge_settings(path: Path) -> dict[str, Any]:
    """How the official script of a RUN's benchmark asks its judge: fields of `Judge`; none where its own defaults are meant."""
    name = str(read_info(path).get("benchmark")).partition(":")[0]
    return dict(mmhal.JUDGE) if name == Mmhal.name else {}


def waiting(path: Path, rules: Path, model: str, data: Path | None = None) -> list[tuple[Record, str]]:
    """(record, what the judge is asked) of every answer without a review; all that can be wrong is refused here.

    Args:
        path: a RUN of llava-bench or mmhal.
        rules: LLaVA's table/rule.json, or MMHal-Bench's prompt.
        model: The judge. data: LLaVA-Bench's folder; default, the one that run.json names.
    """
    run = read_run(path)
    name = benchmark_of(run).name
    if name not in (LlavaBench.name, Mmhal.name):
        raise BadRun(
            f"{path} holds answers to {name}; a judge reads those to {LlavaBench.name} and {Mmhal.name} alone. Next: "
            f"vlm-anchors report {path}"
        )
    if not run.records:
        raise BadRun(
            f"{path} holds no answers to judge. Answer some questions first: vlm-anchors eval {name} --out {path}"
        )
    if run.judge and run.judge != model:
        raise BadRun(
            f"{path} was judged by {run.judge!r}; this is {model!r}. Marks of both would not be comparable: go on with the "
            f"first, or move {reviews.FILE} away and judge anew."
        )
    records = [record for record in run.records if "review" not in record]
    if name == Mmhal.name:  # its records hold all that the judge is shown
        return list(zip(records, mmhal.requests(records, rules), strict=True))
    return list(zip(records, requests(records, _data_of(run, data), rules), strict=True))


def _data_of(run: Run, data: Path | None) -> Path:
    """The folder with the judge's captions and the reference answers."""
    found = Path(str(run.info.get("data", ""))) if data is None else data
    if not found.exists() or (data is None and "data" not in run.info):
        raise BadSetting(
            f"There is no folder {found} with LLaVA-Bench's context.jsonl and answers_gpt4.jsonl. Give it as --data."
        )
    return found if found.is_dir() else found.parent


def judge_run(
    path: Path,
    rules: Path,
    judge: Judge,
    data: Path | None = None,
    progress: Callable[[int, int], Any] = lambda done, of: None,
) -> int:
    """Sends what `waiting` gives, questions, answers and captions, to the judge; how many reviews were added."""
    if not waiting(path, rules, judge.model, data):
        return 0
    with AppendedLines(path / reviews.FILE) as lines:
        asked = waiting(path, rules, judge.model, data)  # once more: what another process did in between is done
        for number, (record, text) in enumerate(asked, 1):
            names = ("id", "method", "decoding", "seed")
            said = {"review": judge.ask(text), "judge": judge.model, "url": judge.address, "date": _now()}
            lines.append([{**dict(zip(names, reviews.key_of(record), strict=True)), **said}])
            progress(number, len(asked))
    return len(asked)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
