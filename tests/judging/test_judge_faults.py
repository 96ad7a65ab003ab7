"""A judge, a key, an address or a RUN that is wrong: a sentence, nothing lost, nothing leaked."""

import json
import socket

import pytest
from judge_server import JudgeServer
from judged_runs import KEY, QUESTIONS, kept, lines, records, write_run

from vlm_anchors.errors import BadData, BadRun, BadSetting
from vlm_anchors.evaluation.judging import reviews
from vlm_anchors.evaluation.judging.judge import Judge
from vlm_anchors.evaluation.reporting import tables as report


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
