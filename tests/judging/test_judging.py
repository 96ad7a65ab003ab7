"""`vlm-anchors judge`: what is sent and what is kept. The judge is a server on 127.0.0.1."""

import json
import os
import re
import signal
import subprocess
import sys
import time

from judge_server import JudgeServer
from judged_runs import KEY, QUESTIONS, command, kept, lines, records, write_run

from vlm_anchors.apps.cli import main
from vlm_anchors.evaluation.reporting import tables as report
from vlm_anchors.evaluation.reporting import text as report_text


def test_without_send_it_counts_and_sends_nothing(run, say):
    with JudgeServer() as server:
        code, out, err = say(run, server.base)
    assert (code, server.asked) == (0, [])
    assert out == f"6 questions with their answers would be sent to {server.base}/chat/completions, model judge-1.\n"
    assert err == "Nothing was sent. Add --send to send them.\n"
    assert not (run / "reviews.jsonl").exists()


def test_each_answer_is_reviewed_once_and_records_stay_as_they_are(run, say, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    before = (run / "records.jsonl").read_bytes()
    with JudgeServer() as server:
        code, out, err = say(run, server.base, "--send")
        assert (code, out) == (0, "")
        assert err.endswith(f"6 reviews added to {run}. Next: vlm-anchors report {run}\n")
        code, _, err = say(run, server.base, "--send")
    assert (code, err) == (0, f"Every answer in {run} has its review. Next: vlm-anchors report {run}\n")
    assert len(server.asked) == len(set(server.asked)) == 6
    assert "[Assistant 1]\nReference 4.\n\n" in server.asked[4]
    assert "[Assistant 2]\nnone says 4.\n\n" in server.asked[4]
    assert server.asked[4].endswith("[System]\nRate detail.\n\n")
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert set(server.paths) == {"/v1/chat/completions"}
    assert (run / "records.jsonl").read_bytes() == before
    first = kept(run)[0]
    assert list(first) == ["id", "method", "decoding", "seed", "review", "judge", "url", "date"]
    assert {**first, "date": ""} == {
        "id": "0", "method": "none", "decoding": "greedy", "seed": None, "review": "8 7\nBoth are good.",
        "judge": "judge-1", "url": f"{server.base}/chat/completions", "date": "",
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["date"])


def test_what_was_answered_since_is_what_is_sent(run, data, say):
    with JudgeServer() as server:
        say(run, server.base, "--send")
        lines(run / "records.jsonl", [*records(), *records("clva"), *records("clva", seed=1), *records("clva", seed=2)])
        code, out, _ = say(run, server.base)
        assert (code, out.split()[0]) == (0, "18")
        assert say(run, server.base, "--send")[0] == 0
    assert len(server.asked) == 24
    assert [(row["method"], row["seed"]) for row in kept(run)[::6]] == [
        ("none", None), ("clva", None), ("clva", 1), ("clva", 2),
    ]  # fmt: skip


def test_the_table_reads_the_reviews_and_names_judge_and_days(run, say):
    with JudgeServer(review="8 6\nFine.") as server:
        say(run, server.base, "--send")
    rows = [{**row, "date": f"2026-11-2{i // 3}T10:00:00Z"} for i, row in enumerate(kept(run))]
    lines(run / "reviews.jsonl", rows)
    made = report.tables([run], draws=20)
    assert made[0].rows[0].cells["relative"].value == 75.0
    assert "judge judge-1, reviews of 2026-11-20 to 2026-11-21" in report_text.markdown(made)
    assert "judge judge-1" in report_text.terminal(made, width=200)
    assert "judge judge-1" in made[0].remark


def test_runs_of_two_judges_stand_in_two_tables(tmp_path, data, say):
    one, two = (write_run(tmp_path / name, records(), data) for name in "ab")
    with JudgeServer() as server:
        say(one, server.base, "--send", model="judge-1")
        say(two, server.base, "--send", model="judge-2")
    made = report.tables([one, two], draws=20, groups=False)
    assert [re.search(r"judge-\d", table.remark).group() for table in made] == ["judge-1", "judge-2"]


def test_an_answer_without_review_has_no_score(run, capsys):
    assert main(["report", str(run)]) == 2
    assert "Question 0 and 5 more have no review. Let a judge read them: vlm-anchors judge" in capsys.readouterr().err


def test_killed_in_mid_run_nothing_is_lost_and_nothing_kept_is_asked_again(run, data):
    """Two SIGKILLs at growing numbers of reviews; then a torn line; then the rest."""
    file = run / "reviews.jsonl"
    with JudgeServer(seconds=0.15) as server:
        for lines_there in (1, 3):
            process = subprocess.Popen(command(run, data, server.base), stderr=subprocess.PIPE)
            deadline = time.monotonic() + 120
            while not (file.exists() and file.read_bytes().count(b"\n") >= lines_there):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        whole = file.read_bytes()
        file.write_bytes(whole + whole[:40])  # a line that was being written
        before, asked = len(kept_whole(whole)), len(server.asked)
        assert 3 <= before < QUESTIONS
        done = subprocess.run(command(run, data, server.base), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [row["id"] for row in kept(run)] == [str(i) for i in range(QUESTIONS)]
    assert file.read_bytes().startswith(whole)
    assert len(server.asked) == asked + QUESTIONS - before  # what was kept is not asked again
    assert len(server.asked) <= QUESTIONS + 2  # what was under way at a kill has no review, and is


def kept_whole(data):
    return [json.loads(line) for line in data.decode().splitlines()]


def test_a_torn_review_counts_as_none(run, say):
    with JudgeServer() as server:
        say(run, server.base, "--send")
        file = run / "reviews.jsonl"
        file.write_bytes(file.read_bytes()[:-20])
        code, out, _ = say(run, server.base)
        assert (code, out.split()[0]) == (0, "1")
        assert say(run, server.base, "--send")[0] == 0
    assert [row["id"] for row in kept(run)] == [str(i) for i in range(QUESTIONS)]


def test_two_at_once_are_refused(run, data, say):
    from vlm_anchors.durable import AppendedLines

    with JudgeServer() as server, AppendedLines(run / "reviews.jsonl"):
        code, _, err = say(run, server.base, "--send")
    assert (code, server.asked) == (2, [])
    assert "reviews.jsonl is being written by another process. Wait for it, or choose another folder." in err


def test_the_folder_is_where_the_questions_came_from_or_as_given(tmp_path, data, say):
    for summary, more in ((data / "questions.jsonl", ()), (tmp_path / "moved away", ("--data", data))):
        run = write_run(tmp_path / "run", records(), summary)
        code, out, _ = say(run, "http://127.0.0.1:9/v1", *more)
        assert (code, out.split()[0]) == (0, "6")


def test_judging_needs_neither_torch_nor_transformers(run, data):
    code = (
        "import sys; from vlm_anchors.apps.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(code or [name for name in ('torch', 'transformers', 'numpy') if name in sys.modules] or 0)"
    )
    with JudgeServer() as server:
        done = subprocess.run(
            [sys.executable, "-c", code, *command(run, data, server.base)[3:]],
            capture_output=True, text=True, check=False, env={**os.environ, "OPENAI_API_KEY": KEY},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(kept(run)) == QUESTIONS
