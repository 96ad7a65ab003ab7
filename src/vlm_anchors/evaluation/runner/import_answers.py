"""Answers that another program wrote, as a RUN folder: reported and compared like answers of our own."""

from pathlib import Path

from ...provenance import provenance
from ..benchmarks import BENCHMARKS
from ..reading.answers import answered, mme_answers
from ..reading.files import files_read, sha256
from .folder import RunFolder, key_of

ELSEWHERE = "another program's"
"""The protocol of imported answers: how the questions were put is not known."""


def import_answers(
    benchmark: str, answers: str | Path, out: str | Path, *, data: str | Path, model: str, method: str = "none",
    decoding: str = "not stated", split: str | None = None,
) -> int:  # fmt: skip
    """Write a RUN folder with the answers of an official answer file.

    Args:
        benchmark: A name or SPEC: "pope", "chair:lemma=fixed", ...
        answers: The answer file; for MME the results folder, with the response as each line's fourth column.
        out: The RUN folder. Answers of another method may be added to it later.
        data: File or folder of the questions, in the benchmark's official layout.
        model: Whose answers they are, as tables name it.
        method: The method's name in tables.
        decoding: The decoding's name in tables.
        split: Which of the benchmark's splits was answered; None: all of them.

    Returns:
        How many answers were added.

    Raises:
        BadData: The file does not answer exactly these questions, once each.
        BadRun: `out` holds answers of another model or to other questions.
    """
    data, answers = Path(data), Path(answers)
    bench = BENCHMARKS.build(benchmark).at(data)
    with files_read() as read:
        questions = bench.questions(data, split)
    known = {"method": method, "decoding": decoding, "seed": None}
    records = mme_answers(questions, answers, **known) if answers.is_dir() else answered(questions, answers, **known)
    settings = {
        "model": model, "revision": None, "benchmark": bench.spec(), "version": bench.version, "data": str(data),
        "data_sha256": sha256(data, read), "protocol": ELSEWHERE, "max_new_tokens": None, "seed": None, "dtype": None,
        "attention": None, "answers": str(answers), "questions": len(questions), "skipped": [], **provenance(),
    }  # fmt: skip
    folder = RunFolder(Path(out))
    folder.settle(settings)
    with folder:
        done = folder.done()
        new = [record for record in records if key_of(record) not in done]
        if new:
            folder.append(new)
    return len(new)
