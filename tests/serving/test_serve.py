"""The OpenAI-compatible server, asked by the real `openai` client over a socket of this machine."""

import base64
import concurrent.futures
import io
import json
import socket
import threading
import time

import httpx
import openai
import pytest
import uvicorn

import vlm_anchors as va
from vlm_anchors import scenes
from vlm_anchors.integrations.serving.problems import RequestProblem
from vlm_anchors.integrations.serving.request_images import ImageReader, public_address
from vlm_anchors.integrations.serving.server import ServerSettings, build_app
from vlm_anchors.scenes.questions import POPE


@pytest.fixture(scope="module")
def vlm():
    return va.load("scenes", device="cpu")


@pytest.fixture(scope="module")
def served(vlm):
    """The bundled model behind a socket; plain unless a request names a method."""
    with serving(vlm, ServerSettings("scenes", max_batch=8, max_wait=0.05, max_body=2**20)) as port:
        yield port


class serving:
    def __init__(self, vlm, settings):
        self.app = build_app(vlm, settings)

    def __enter__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(self.app, "127.0.0.1", port, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        until = time.monotonic() + 60
        while not self.server.started and time.monotonic() < until:
            time.sleep(0.02)
        return port

    def __exit__(self, *exc):
        self.server.should_exit = True
        self.thread.join(60)


def client(port, key="unused"):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)


def url_of(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def scene(*names, seed=0):
    return scenes.render(scenes.from_objects(list(names), seed=seed))


def messages(image, question):
    return [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url_of(image)}}, {"type": "text", "text": question}],
        }
    ]


FORK = POPE.format(a="a fork")
DESCRIBE = "Please describe this image in detail."


def test_an_answer_carries_the_method_and_its_effects(served, vlm):
    image = scene("fork", "cup", "bowl")
    alone = va.ask(vlm, image, FORK, method="clva")
    got = client(served).chat.completions.create(model="scenes@clva", messages=messages(image, FORK), max_tokens=8)
    assert got.choices[0].message.content == alone.text
    assert got.method == "clva" and got.effects["clva"]["rows_edited"] == alone.effects["clva"]["rows_edited"]
    assert got.choices[0].finish_reason == "stop" and got.usage.completion_tokens == len(alone.tokens)


def test_the_field_method_and_the_plain_model(served, vlm):
    image = scene("fork", "cup")
    plain = client(served).chat.completions.create(model="scenes", messages=messages(image, FORK), max_tokens=8)
    assert plain.effects == {} and plain.method == "none"
    body = {"method": "clva:alpha=5"}
    clva = client(served).chat.completions.create(
        model="scenes", messages=messages(image, FORK), max_tokens=8, extra_body=body
    )
    assert clva.method.startswith("clva:alpha=5") and clva.effects["clva"]["rows_edited"] > 0


def test_batches_answer_as_each_alone(served, vlm):
    """Greedy requests of mixed methods at once, and the same alone: equal texts."""
    asked = [
        (scene("fork", "cup", seed=i), POPE.format(a=f"a {thing}"), method)
        for i, (thing, method) in enumerate(
            [("fork", "none"), ("dog", "clva"), ("cup", "none"), ("cup", "clva"), ("bowl", "vcd"), ("fork", "clva")]
        )
    ]
    alone = [va.ask(vlm, image, question, method=method).text for image, question, method in asked]

    def one(each):
        image, question, method = each
        reply = client(served).chat.completions.create(
            model=f"scenes@{method}", messages=messages(image, question), max_tokens=8
        )
        return reply.choices[0].message.content

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, asked)) == alone


def test_streaming_sends_the_same_text_in_pieces(served):
    image, question = scene("fork", "cup", "bowl"), "Please describe this image in detail."
    ask = {"model": "scenes@clva", "messages": messages(image, question), "max_tokens": 24}
    whole = client(served).chat.completions.create(**ask).choices[0].message.content
    chunks = list(client(served).chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    pieces = [one.choices[0].delta.content or "" for one in chunks if one.choices]
    assert "".join(pieces) == whole and sum(bool(piece) for piece in pieces) > 3
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[-2].effects["clva"]["rows_edited"] > 0


def test_sampling_choices_stops_and_logprobs(served):
    image, question = scene("fork", "cup", "bowl"), "Please describe this image in detail."
    ask = {"model": "scenes", "messages": messages(image, question), "max_tokens": 12}
    api = client(served).chat.completions
    drawn = [api.create(**ask, temperature=1.5, seed=7, n=3).choices for _ in range(2)]
    texts = [[one.message.content for one in choices] for choices in drawn]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1
    plain = api.create(**ask).choices[0].message.content
    word = plain.split()[3]
    stopped = api.create(**ask, stop=[word]).choices[0]
    assert stopped.message.content == plain[: plain.index(word)] and stopped.finish_reason == "stop"
    content = api.create(**ask, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert all(one.logprob <= 0 and one.top_logprobs[0].logprob >= one.logprob - 1e-6 for one in content)
    assert api.create(**{**ask, "max_tokens": 2}).choices[0].finish_reason == "length"


def test_turns_a_system_prompt_and_text_alone(served):
    turns = [
        *messages(scene("fork"), FORK),
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Is there a dog in the image?"},
    ]
    api = client(served).chat.completions
    assert api.create(model="scenes", messages=turns, max_tokens=4).choices[0].message.content
    alone = api.create(model="scenes@clva", messages=[{"role": "user", "content": "Is there a dog?"}], max_tokens=4)
    assert alone.choices[0].message.content and alone.effects == {}, "no image: there is nothing to act on"


def user(content):
    return {"messages": [{"role": "user", "content": content}]}


def picture(url):
    return user([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Is there a dog?"}])


BAD = {
    "json": (b"{", 400, "invalid_json"),
    "deep": (b"[" * 100_000, 400, None),
    "list": (b"[]", 400, None),
    "model": ({"model": "scene"}, 404, "model_not_found"),
    "method": ({"model": "scenes@clvaa"}, 404, "method_not_found"),
    "decoding": ({"method": "beam"}, 400, None),
    "no messages": ({"messages": []}, 400, None),
    "role": ({"messages": [{"role": "wizard", "content": "x"}]}, 400, None),
    "base64": (picture("data:image/png;base64,@@"), 400, "invalid_image"),
    "no image": (picture("data:image/png;base64,aGVsbG8="), 400, "invalid_image"),
    "file": (picture("file:///etc/passwd"), 400, "invalid_image"),
    "path": (picture("/etc/passwd"), 400, "invalid_image"),
    "http": (picture("http://127.0.0.1/x.png"), 400, "invalid_image"),
    "tokens": ({"max_tokens": -1}, 400, None),
    "bool": ({"max_tokens": True}, 400, None),
    "temperature": ({"temperature": 9}, 400, None),
    "field": ({"temprature": 1}, 400, "unknown_field"),
    "long": (user("dog " * 10_000), 400, None),
    "mark": (user("<image> what?"), 400, None),
    "large": (b"x" * (2**20 + 1), 413, "too_large"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_get_an_error_object_and_the_server_lives(served, name):
    body, status, code = BAD[name]
    if isinstance(body, dict):
        body = json.dumps(
            {"model": "scenes", "messages": [{"role": "user", "content": "Is there a dog?"}], "max_tokens": 4} | body
        )
    reply = httpx.post(f"http://127.0.0.1:{served}/v1/chat/completions", content=body, timeout=60)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["message"] and "Traceback" not in reply.text and (code is None or error["code"] == code)
    assert httpx.get(f"http://127.0.0.1:{served}/health").json() == {"status": "ok"}


def test_models_metrics_and_unknown_addresses(served):
    names = [one.id for one in client(served).models.list()]
    assert "scenes" in names and "scenes@clva" in names
    page = httpx.get(f"http://127.0.0.1:{served}/metrics").text
    assert 'vlm_anchors_requests_total{method="clva",status="200"}' in page
    for what in ("hits", "misses", "bytes"):
        assert (
            f'vlm_anchors_cache_{what}{{cache="prefix"}}' in page
            and f'vlm_anchors_cache_{what}{{cache="image"}}' in page
        )
    for path in ("/load_model", "/reset", "/docs", "/openapi.json"):
        assert httpx.post(f"http://127.0.0.1:{served}{path}", json={}).status_code in (404, 405)


def test_the_key_is_needed_and_the_queue_is_bounded(vlm):
    settings = ServerSettings("scenes", max_queue=2, max_batch=1, max_wait=0, api_key="sesame")
    ask = {
        "model": "scenes",
        "messages": messages(scene("fork"), "Please describe this image in detail."),
        "max_tokens": 64,
    }
    with serving(vlm, settings) as port:
        with pytest.raises(openai.AuthenticationError):
            client(port, "wrong").chat.completions.create(**ask)

        def one(_):
            try:
                return client(port, "sesame").chat.completions.create(**ask).choices[0].message.content
            except openai.RateLimitError as error:
                return int(error.response.headers["retry-after"])

        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            got = list(pool.map(one, range(10)))
        refused = [each for each in got if isinstance(each, int)]
        answered = {each for each in got if isinstance(each, str)}
        assert refused and all(each >= 1 for each in refused) and len(answered) == 1


def test_a_client_that_leaves_frees_its_place(vlm):
    with serving(vlm, ServerSettings("scenes", max_wait=0)) as port:
        ask = {"model": "scenes", "messages": messages(scene("fork"), "Please describe this image in detail.")}
        stream = client(port).chat.completions.create(**ask, max_tokens=400, stream=True, temperature=2.0, seed=1)
        next(iter(stream))
        stream.close()
        assert client(port).chat.completions.create(**ask, max_tokens=4).choices[0].message.content


def test_private_addresses_are_never_reached():
    for host in ("127.0.0.1", "localhost", "10.0.0.1", "192.168.1.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"):
        with pytest.raises(RequestProblem, match="private"):
            public_address(host, 80)
    with pytest.raises(RequestProblem, match="private"):
        ImageReader(remote=True)("http://127.0.0.1:1/x.png")


def test_stopping_refuses_what_waits(vlm):
    from vlm_anchors.integrations.serving.batching import Batcher, Job
    from vlm_anchors.integrations.serving.chat_request import read_request

    batcher = Batcher(vlm, max_batch=1, max_wait=0)
    body = {"model": "m", "messages": [{"role": "user", "content": "Is there a dog?"}], "max_tokens": 40}
    request = read_request(body, "m", "none", ImageReader(), 64)
    ends = []
    jobs = [Job(request, ends.append) for _ in range(3)]
    for job in jobs:
        batcher.submit(job)
    time.sleep(0.01)
    batcher.close(30)
    assert len(ends) == 3 and sum(isinstance(end, RequestProblem) and end.status == 503 for end in ends) >= 1
    with pytest.raises(RequestProblem, match="stopping"):
        batcher.submit(jobs[0])
