"""`vlm-anchors judge`: what is sent, what is kept, what is refused. The judge is a server on 127.0.0.1."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from judge_server import JudgeServer

from vlm_anchors.apps.cli import main
from vlm_anchors.errors import BadData, BadRun, BadSetting
from vlm_anchors.evaluation.judging import reviews
from vlm_anchors.evaluation.judging.judge import Judge
from vlm_anchors.evaluation.reporting import tables as report
from vlm_anchors.evaluation.reporting import text as report_text

KEY = "sk-not-a-real-key-5d1f"
QUESTIONS = 6


def records(method="none", seed=None, n=QUESTIONS):
    return [
        {
            "id": str(i),
            "image": f"{i}.jpg",
            "question": f"What is in picture {i}?",
            "group": ("conv", "detail", "complex")[i % 3],
            "truth": {"question_id": i},
            "answer": f"{method} says {i}.",
            "method": method,
            "decoding": "greedy" if seed is None else "nucleus:top_p=0.9",
            "seed": seed,
        }
        for i in range(n)
    ]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def benchmark_files(folder):
    folder.mkdir(exist_ok=True)
    lines(folder / "questions.jsonl", [])
    lines(folder / "context.jsonl", [{"image": f"{i}.jpg", "caption": ["A cat", "a mat"]} for i in range(QUESTIONS)])
    lines(folder / "answers_gpt4.jsonl", [{"question_id": i, "text": f"Reference {i}."} for i in range(QUESTIONS)])
    kinds = ("conv", "detail", "complex")
    (folder / "rule.json").write_text(
        json.dumps({f"llava_bench_{kind}": {"role": "Assistant", "prompt": f"Rate {kind}."} for kind in kinds})
    )
    return folder


def write_run(folder, rows, data, **info):
    folder.mkdir(exist_ok=True)
    summary = {"benchmark": "llava-bench", "model": "scenes", "protocol": "llava", "data": str(data), **info}
    (folder / "run.json").write_text(json.dumps(summary))
    lines(folder / "records.jsonl", rows)
    return folder


@pytest.fixture
def data(tmp_path):
    return benchmark_files(tmp_path / "data")


@pytest.fixture
def run(tmp_path, data):
    return write_run(tmp_path / "run", records(), data)


@pytest.fixture
def say(capsys, data):
    """Runs `vlm-anchors judge`: (exit code, stdout, stderr)."""

    def say(run, url, *more, model="judge-1"):
        code = main(
            ["judge", *map(str, (run, "--rules", data / "rule.json", "--url", url, "--judge-model", model, *more))]
        )
        return code, *capsys.readouterr()

    return say


def kept(run):
    file = run / "reviews.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


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


def command(run, data, url):
    arguments = ["judge", run, "--rules", data / "rule.json", "--url", url, "--judge-model", "judge-1", "--send"]
    return [sys.executable, "-m", "vlm_anchors", *map(str, arguments)]


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


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ((404, b""), "answered 404. Check --url and the model 'judge-1'; run again to go on."),
        (
            (400, {"error": {"message": "max_tokens is\nnot supported"}}),
            "answered 400 (max_tokens is not supported). Check --url and the model 'judge-1'; run again to go on.",
        ),
        ((429, {"error": {"message": "Rate limit"}}), "answered 429 (Rate limit). Wait a while; run again to go on."),
        ((503, {"error": "busy"}), "answered 503. Wait a while; run again to go on."),
        ((307, b""), "answered 307. It points to another address: give that one as --url; run again to go on."),
        ("hang up", "No judge can be reached at"),
        ((200, b""), "replied without text: expected choices[0].message.content, found nothing."),
        ((200, b"<html>"), "found no JSON. Check --url and the model 'judge-1'; run again to go on."),
        ((200, []), "found no object."),
        ((200, {"error": "x"}), "found an object with 'error'."),
        ((200, {"choices": []}), "found an object with 'choices'."),
        ((200, {"choices": [{"message": {"content": None}}]}), "found an object with 'choices'."),
        ((200, {"choices": [{"message": {"content": " \n"}}]}), "found an object with 'choices'."),
    ],
)
def test_a_judge_at_fault_ends_in_a_sentence_and_keeps_what_came(run, say, then, words):
    with JudgeServer(after=2, then=then) as server:
        code, out, err = say(run, server.base, "--send")
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert [row["id"] for row in kept(run)] == ["0", "1"]
    assert len(server.asked) == 3


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_key_is_not_told(run, say, monkeypatch, code):
    echo = {"error": {"message": f"Incorrect API key provided: {KEY[:8]}***{KEY[-4:]}"}}
    with JudgeServer(after=0, then=(code, echo)) as server:
        monkeypatch.setenv("MY_KEY", f" {KEY}\n")
        _, _, err = say(run, server.base, "--send", "--key-variable", "MY_KEY")
        assert f"answered {code}. The key in the environment variable MY_KEY was refused: set the right one; run" in err
        monkeypatch.delenv("MY_KEY")
        _, _, err = say(run, server.base, "--send", "--key-variable", "MY_KEY")
        assert "The key in the environment variable MY_KEY is not set: set the right one" in err
    assert server.keys == [f"Bearer {KEY}", None]


@pytest.mark.parametrize(
    "then",
    [
        None,
        (400, {"error": {"message": f"header Authorization: Bearer {KEY}"}}),
        (200, {"headers": {"Authorization": f"Bearer {KEY}"}}),
        (200, f"you sent {KEY}".encode()),
        (307, b""),
    ],
)
def test_the_key_is_never_written_or_printed(run, say, monkeypatch, then):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with JudgeServer(after=QUESTIONS if then is None else 1, then=then) as server:
        code, out, err = say(run, server.base, "--send")
    assert code == (0 if then is None else 2)
    assert KEY in server.keys[0]
    assert len(server.paths) == (6 if then is None else 2)  # an address that points elsewhere is not followed
    assert KEY not in out + err
    assert all(KEY not in file.read_text() for file in run.iterdir())


def test_a_key_that_cannot_be_a_key(run, say, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nX-More: 1")
    with JudgeServer() as server:
        code, _, err = say(run, server.base, "--send")
    assert (code, server.asked) == (2, [])
    assert err == "The key in OPENAI_API_KEY holds characters that no key has, such as a line break. Set it anew.\n"


def test_an_address_where_nobody_listens(run, say):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code, _, err = say(run, f"http://127.0.0.1:{port}/v1", "--send")
    assert code == 2
    assert f"No judge can be reached at http://127.0.0.1:{port}/v1/chat/completions (" in err
    assert err.strip().endswith("Check --url and that the server runs; run again to go on.")
    assert kept(run) == []


def test_a_judge_that_takes_too_long(run):
    with (
        JudgeServer(seconds=0.5) as server,
        pytest.raises(BadSetting, match=r"No judge can be reached at .* \(timed out\)"),
    ):
        Judge(server.base, "judge-1", timeout=0.05).ask("Rate.")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "file:///etc/hostname",
        "http://",
        "http://user:secret@host/v1",
        "http://a b/",
        "http://x:y/",
        "ä",
    ],
)
def test_what_is_no_address(run, say, url):
    code, out, err = say(run, url, "--send")
    assert (code, out) == (2, "")
    assert err.startswith("Expected --url as an address such as http://localhost:8000/v1, without a user's name or key")
    assert "secret" not in err


def test_the_address_with_its_ending_or_without(monkeypatch):
    monkeypatch.setenv("MY_KEY", "abc")
    with JudgeServer() as server:
        for url in (server.base, f"{server.base}/", f"{server.base}/chat/completions", f"{server.base}?version=2"):
            asked = Judge(url, "judge-1", key_variable="MY_KEY")
            assert asked.address == f"{server.base}/chat/completions"
            assert asked.ask("Rate.") == "8 7\nBoth are good."
    assert server.paths == ["/v1/chat/completions"] * 3 + ["/v1/chat/completions?version=2"]
    assert set(server.keys) == {"Bearer abc"}
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge-1", 0.2, 1024)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


def refused(say, run, *more, model="judge-1"):
    """What is said where nothing may be sent, with --send and without."""
    with JudgeServer() as server:
        code, out, err = say(run, server.base, "--send", *more, model=model)
        assert (code, out) == (2, "")
        assert say(run, server.base, *more, model=model) == (2, "", err)
    assert server.asked == []
    return err


def test_another_judge_is_refused(run, say):
    with JudgeServer() as server:
        say(run, server.base, "--send")
    before = (run / "reviews.jsonl").read_bytes()
    assert refused(say, run, model="judge-2") == (
        f"{run} was judged by 'judge-1'; this is 'judge-2'. Marks of both would not be comparable: go on with the first, or "
        f"move reviews.jsonl away and judge anew.\n"
    )
    assert (run / "reviews.jsonl").read_bytes() == before


def test_reviews_of_two_judges_are_refused(run, data, say):
    row = {
        "method": "none",
        "decoding": "greedy",
        "seed": None,
        "review": "8 7",
        "url": "x",
        "date": "2026-11-21T00:00:00Z",
    }
    lines(run / "reviews.jsonl", [{"id": "0", **row, "judge": "judge-1"}, {"id": "1", **row, "judge": "judge-2"}])
    words = "holds reviews of two judges, 'judge-1' and 'judge-2', whose marks are not comparable. Keep one's lines"
    assert words in refused(say, run)
    with pytest.raises(BadRun, match=words):
        report.tables([run])


def test_a_review_that_lacks_something(run):
    lines(run / "reviews.jsonl", [{"id": "0", "review": "8 7", "date": "2026-11-21"}])
    with pytest.raises(
        BadData, match=r"reviews\.jsonl: the review of '0' has no 'judge'\. Remove the line and judge again"
    ):
        reviews.read(run)
    (run / "reviews.jsonl").write_text('{"id"\n{"id": "1"}\n')
    with pytest.raises(BadData, match=r"reviews\.jsonl, line 1: not a whole record\. Only a last line may be torn"):
        reviews.read(run)


def test_a_run_of_another_benchmark(run, data, say):
    write_run(run, records(), data, benchmark="pope:dialect=vcd")
    assert (
        f"{run} holds answers to pope; a judge reads those to llava-bench and mmhal alone. Next: vlm-anchors report"
        in refused(say, run)
    )
    assert not (run / "reviews.jsonl").exists()


def test_a_run_without_answers(run, say):
    (run / "records.jsonl").write_text("")
    assert refused(say, run) == (
        f"{run} holds no answers to judge. Answer some questions first: vlm-anchors eval llava-bench --out {run}\n"
    )


def test_no_run_no_rules_no_data(run, data, say, tmp_path):
    assert f"{tmp_path / 'none'} is no run: it has no run.json." in refused(say, tmp_path / "none")
    assert (
        f"There is no folder {tmp_path / 'none'} with LLaVA-Bench's context.jsonl and answers_gpt4.jsonl. Give it"
        in (refused(say, run, "--data", tmp_path / "none"))
    )
    (data / "context.jsonl").rename(tmp_path / "context.jsonl")
    assert f"There is no file {data / 'context.jsonl'}. Check the path" in refused(say, run)
    (tmp_path / "context.jsonl").rename(data / "context.jsonl")
    (data / "rule.json").write_text("{}")
    assert "has no rule 'llava_bench_conv' with a role and a prompt. Give LLaVA's llava/eval/table/rule.json." in (
        refused(say, run)
    )
    (data / "rule.json").unlink()
    assert f"There is no file {data / 'rule.json'}." in refused(say, run)
    info = json.loads((run / "run.json").read_text())
    del info["data"]
    (run / "run.json").write_text(json.dumps(info))
    assert "Give it as --data." in refused(say, run)


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
