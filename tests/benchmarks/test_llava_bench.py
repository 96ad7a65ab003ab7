"""LLaVA-Bench: the official answer file, a judge that is never called unasked, and the script's arithmetic."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from benchmarks.made import record

from vlm_anchors.benchmarks.base import BadData
from vlm_anchors.benchmarks.llava_bench import Judge, LlavaBench, content, marks, review, write_answers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8 7\nGood.", (8, 7)),
        ("9, 8.5", (-1, -1)),  # the comma becomes a second blank, and three words are no two numbers
        ("8,7", (8, 7)),
        ("8  7", (-1, -1)),
        ("Both are good", (-1, -1)),
        ("", (-1, -1)),
    ],
)
def test_marks_as_the_script_reads_them(text, found):
    assert marks(text) == found


def answered(category="conv", **more):
    return {**record(1, "A cat.", "1.jpg", category, "What is it?", question_id=1), **more}


def test_scores():
    records = [answered(review="8 6\n"), {**answered(review="10 9"), "id": "2"}]
    score = LlavaBench().score(records)
    assert score.metrics == {"relative": round(7.5 / 9 * 100, 1), "reference_mark": 90.0, "mark": 75.0}
    assert LlavaBench().score([answered(review="no marks")]).unread == 1


def test_without_reviews_there_is_no_score():
    with pytest.raises(BadData, match="Question 1 and 0 more have no review. LLaVA-Bench is scored by a judge"):
        LlavaBench().score([answered()])


def files(folder):
    (folder / "context.jsonl").write_text('{"image": "1.jpg", "caption": ["A cat", "on a mat"]}\n')
    (folder / "answers_gpt4.jsonl").write_text('{"question_id": 1, "text": "It is a cat."}\n')
    (folder / "rule.json").write_text('{"llava_bench_conv": {"role": "Assistant", "prompt": "Rate both."}}')
    return folder


EXPECTED = (
    "[Context]\nA cat\non a mat\n\n[Question]\nWhat is it?\n\n[Assistant 1]\nIt is a cat.\n\n[End of Assistant 1]\n\n"
    "[Assistant 2]\nA cat.\n\n[End of Assistant 2]\n\n[System]\nRate both.\n\n"
)


def test_the_judge_is_asked_word_for_word(tmp_path):
    asked = []
    done = review(
        [answered()], files(tmp_path), tmp_path / "rule.json", lambda text: asked.append(text) or "8 7", send=True
    )
    assert asked == [EXPECTED]
    assert done[0]["review"] == "8 7"
    again = review(done, tmp_path, tmp_path / "rule.json", lambda text: pytest.fail("asked twice"), send=True)
    assert again == done
    rule = {"role": "Assistant", "prompt": "Rate both."}
    assert content(answered(), "It is a cat.", "A cat\non a mat", rule) == EXPECTED


def test_nothing_is_sent_unless_said(tmp_path):
    with pytest.raises(
        BadData, match="sends questions and answers to another machine and may cost money; say so with send=True"
    ):
        review([answered()], files(tmp_path), tmp_path / "rule.json", lambda text: pytest.fail("sent"))


def test_faults(tmp_path):
    files(tmp_path)
    with pytest.raises(BadData, match="has no rule 'llava_bench_odd'"):
        review([answered("odd")], tmp_path, tmp_path / "rule.json", str, send=True)
    with pytest.raises(BadData, match="has no context or reference answer for question 9"):
        review([{**answered(), "id": "9"}], tmp_path, tmp_path / "rule.json", str, send=True)


class Server(BaseHTTPRequestHandler):
    seen: list = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((body, self.headers.get("Authorization")))
        good = body["model"] == "judge"
        self.send_response(200 if good else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"message": {"content": "8 7\nFine."}}]}).encode() if good else b"{}")

    def log_message(self, *words):
        pass


def test_an_openai_compatible_address(monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
    monkeypatch.setenv("MY_KEY", "abc")
    try:
        assert Judge(url, "judge", key_variable="MY_KEY").ask("Rate.") == "8 7\nFine."
        body, key = Server.seen[-1]
        assert key == "Bearer abc"
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        assert (body["temperature"], body["max_tokens"]) == (0.2, 1024)
        with pytest.raises(
            BadData, match="gave no review .* Check the address, the model name 'other' and the key in MY_KEY"
        ):
            Judge(url, "other", key_variable="MY_KEY").ask("Rate.")
    finally:
        server.shutdown()
        server.server_close()


def test_questions_and_the_official_answer_file(tmp_path):
    row = {"question_id": 1, "image": "1.jpg", "text": "What is it?", "category": "conv"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    (question,) = LlavaBench().questions(tmp_path)
    assert (question.group, question.truth) == ("conv", {"question_id": 1})
    write_answers([question.record("A cat.", method="clva", model="scenes")], tmp_path / "out.jsonl")
    written = json.loads((tmp_path / "out.jsonl").read_text())
    assert written == {
        "question_id": 1,
        "prompt": "What is it?",
        "text": "A cat.",
        "answer_id": "1-clva",
        "model_id": "scenes",
        "metadata": {},
    }
