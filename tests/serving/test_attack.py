# ruff: noqa: E501
"""The server attacked: every malformed request gets an error of OpenAI's shape or a right answer, and no other client notices."""

import base64
import concurrent.futures
import io
import json
import os
import random
import socket
import struct
import zlib

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_serve import FORK, client, messages, scene, serving, url_of

import vlm_anchors as va
from vlm_anchors.integrations.serving.problems import RequestProblem
from vlm_anchors.integrations.serving.request_images import ImageReader
from vlm_anchors.integrations.serving.server import ServerSettings

GOOD = {"model": "scenes", "messages": [{"role": "user", "content": "Is there a dog?"}], "max_tokens": 2}
FIELDS = [
    "model", "messages", "method", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "n",
    "stream", "stream_options", "logprobs", "top_logprobs", "user", "functions", "",
]  # fmt: skip
TIMES = int(os.environ.get("VLM_ANCHORS_FUZZ", "1"))
FEW = settings(
    max_examples=TIMES * 20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip


@pytest.fixture(scope="module")
def vlm():
    return va.load("scenes", device="cpu")


@pytest.fixture(scope="module")
def port(vlm):
    with serving(vlm, ServerSettings("scenes", max_batch=8, max_wait=0, max_body=2**20, max_tokens=8)) as port:
        yield port


@pytest.fixture(scope="module")
def usual(port):
    """What an ordinary client gets, plain and with a method."""
    return {method: answer(port, method) for method in ("none", "clva")}


@pytest.fixture(autouse=True)
def _unharmed(request):
    """After each attack the server lives, and an ordinary client gets what it got before."""
    if "port" not in request.fixturenames:
        yield
        return
    port, usual = request.getfixturevalue("port"), request.getfixturevalue("usual")
    yield
    assert httpx.get(f"http://127.0.0.1:{port}/health").json() == {"status": "ok"}
    assert {method: answer(port, method) for method in usual} == usual


def answer(port, method):
    got = client(port).chat.completions.create(
        model=f"scenes@{method}", messages=messages(scene("fork", "cup"), FORK), max_tokens=4
    )
    return got.choices[0].message.content, got.effects


def post(port, content, **headers):
    return httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", content=content, headers=headers, timeout=60)


def check(reply):
    """An answer, or an error that a client of OpenAI's can read."""
    assert reply.status_code == 200 or 400 <= reply.status_code < 500, reply.text[:500]
    if reply.status_code == 200:
        assert reply.headers["content-type"].startswith("text/event-stream") or reply.json()["choices"]
        return
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and 0 < len(error["message"]) <= 1000
    assert "Traceback" not in error["message"]


NUMBERS = st.one_of(
    st.integers(-(10**40), 10**40), st.floats(), st.sampled_from([-1, 0, 1, 2, 0.5, 2**63, 2**64, 1e308, -0.0])
)
TEXTS = st.one_of(
    st.text(st.characters(codec=None), max_size=30),
    st.sampled_from(["none", "clva", "clva:alpha=1e999", "clva:alpha=nan", "beam", "scenes@vcd", "\ud800", "\x00", "@", "+", "<image>", "true"]),
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
PART_KEYS = st.sampled_from(["type", "text", "image_url", "url", "role", "content", "detail", "name"])
PART_VALUES = VALUES | st.sampled_from(
    ["text", "image_url", "user", "system", "assistant", "data:image/png;base64,aGk="]
)
PARTS = st.recursive(
    PART_VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PART_KEYS, inner, max_size=3),
    max_leaves=10,
)


@FEW
@given(fields=st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3))
def test_any_value_in_any_field(port, fields):
    check(post(port, json.dumps(GOOD | fields)))


@FEW
@given(turns=st.lists(st.fixed_dictionaries({"role": st.just("user") | PARTS, "content": PARTS}), max_size=3))
def test_any_conversation(port, turns):
    check(post(port, json.dumps(GOOD | {"messages": turns})))


@pytest.mark.slow
@FEW
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: json.dumps(text).encode()))
def test_any_body(port, content):
    reply = post(port, content)
    check(reply)
    assert reply.status_code == 400


@pytest.mark.slow
@FEW
@given(data=st.binary(max_size=300), kind=st.sampled_from(["png", "jpeg", "gif", "svg+xml", "", "tiff;base64"]))
def test_any_bytes_as_an_image(port, data, kind):
    check(
        post(
            port, json.dumps(GOOD | {"messages": shown(f"data:image/{kind};base64,{base64.b64encode(data).decode()}")})
        )
    )


def shown(*urls):
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*content, {"type": "text", "text": "Is there a dog?"}]}]


def test_odd_json(port):
    nested = '{"a":' * 100_000 + "1" + "}" * 100_000
    bodies = {
        "deep objects": nested,
        "deep content": json.dumps(GOOD)[:-1] + ',"messages":' + "[" * 50_000 + "]" * 50_000 + "}",
        "long number": json.dumps(GOOD)[:-1] + ',"max_tokens":' + "9" * 5000 + "}",
        "long float": json.dumps(GOOD)[:-1] + ',"temperature":0.' + "0" * 5000 + "1}",
        "infinite": json.dumps(GOOD)[:-1] + ',"temperature":1e999}',
        "not a number": json.dumps(GOOD)[:-1] + ',"top_p":NaN}',
        "many fields": json.dumps(GOOD | {f"f{i}": 1 for i in range(20_000)}),
        "many messages": json.dumps(GOOD | {"messages": [{"role": "user", "content": "x"}] * 5000}),
        "long model": json.dumps(GOOD | {"model": "x" * 500_000}),
        "quotes in a method": json.dumps(GOOD | {"method": "clva:" + '"' + '\\"' * 200_000}),
        "many methods": json.dumps(GOOD | {"method": "+".join(["clva"] * 100_000)}),
        "long field": json.dumps(GOOD | {"y" * 500_000: 1}),
        "utf-16": json.dumps(GOOD).encode("utf-16"),
        "nothing": b"",
    }
    for name, body in bodies.items():
        reply = post(port, body)
        check(reply)
        assert (reply.status_code == 200) == (name in ("utf-16", "long float")), (name, reply.text[:200])


def test_a_long_text_is_refused_before_it_is_read(vlm):
    with serving(vlm, ServerSettings("scenes", max_body=8 * 2**20)) as port:
        turns = [{"role": "user", "content": "dog " * 100_000}] * 4
        reply = post(port, json.dumps(GOOD | {"messages": turns}))
        assert reply.status_code == 400 and "characters" in reply.json()["error"]["message"]


def test_a_body_of_50_mb(port):
    for content in (b"x" * 50_000_000, (b"y" * 500_000 for _ in range(100))):
        reply = post(port, content)
        assert reply.status_code == 413 and reply.json()["error"]["code"] == "too_large"


def png_of(width, height):
    """A file of a few hundred bytes that says it is so large, and is, where its data is read."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(b"\x00" * ((width // 8 + 1) * min(height, 2000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(image, kind, **how):
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def inline(content, kind="png"):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def test_odd_images(port):
    small, frames = Image.new("RGB", (40, 40), "red"), [Image.new("P", (40, 40), i) for i in range(200)]
    png = saved(small, "PNG")
    images = {
        "many frames": (saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), 200),
        "named otherwise": (saved(small, "BMP"), 200),
        "sixteen bits": (saved(Image.new("I;16", (40, 40), 900), "PNG"), 200),
        "one pixel": (saved(Image.new("RGB", (1, 1)), "PNG"), 200),
        "bomb": (png_of(60_000, 60_000), 400),
        "below Pillow's bound": (png_of(9000, 8000), 400),
        "strip": (png_of(20_000, 1), 400),
        "cut short": (png[: len(png) // 2], 400),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", 400),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage", 400),
        "archive": (b"PK\x03\x04" + b"\x00" * 100, 400),
        "empty": (b"", 400),
    }
    for name, (content, status) in images.items():
        reply = post(port, json.dumps(GOOD | {"messages": shown(inline(content))}))
        check(reply)
        assert reply.status_code == status, (name, reply.text[:300])
    many = post(port, json.dumps(GOOD | {"messages": shown(*[inline(png)] * 17)}))
    assert many.status_code == 400 and "at most 16 images" in many.text


ADDRESSES = [
    "file:///etc/passwd", "FILE:///etc/passwd", "/etc/passwd", "../../etc/passwd", "~/.bashrc", "C:\\Windows\\win.ini", "\\\\host\\share\\x.png",
    "ftp://127.0.0.1/x", "gopher://127.0.0.1/x", "jar:file:///x!/y", "data:", "data:image/png,xx", "data:image/png;base64", "data:;base64,=",
    "http://127.0.0.1/x.png", "https://169.254.169.254/latest/meta-data", "//127.0.0.1/x.png", " ", "\x00", "\ud800", "http://[", "scenes",
]  # fmt: skip


def test_no_address_is_read(port):
    for address in ADDRESSES:
        reply = post(port, json.dumps(GOOD | {"messages": shown(address)}))
        check(reply)
        assert reply.status_code == 400 and "root:" not in reply.text, address


@pytest.mark.parametrize(
    "address",
    [
        "http://127.1/x", "http://0x7f000001/x", "http://2130706433/x", "http://0/x", "http://localhost./x", "http://a@127.0.0.1/x",
        "http://127.0.0.1:99999/x", "http://[::1]/x", "http://[::ffff:10.0.0.1]/x", "http://[fe80::1%25eth0]/x", "http:///x", "http://[/x",
        "http://\ud800/x", "http://" + "a" * 300 + "/x", "http://127.0.0.1\r\nHost: x/", "https://224.0.0.1/x", "http://0.0.0.0/x",
        "http://100.64.0.1/x",
    ],
)  # fmt: skip
def test_no_private_address_is_reached_where_others_are_allowed(address):
    with pytest.raises(RequestProblem):
        ImageReader(remote=True)(address)


def raw(port, data, seconds=30):
    """What comes back for these bytes, until the server closes the connection or says nothing more."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(data)
        pieces = []
        try:
            while piece := connection.recv(65536):
                pieces.append(piece)
        except OSError:
            pass
        return b"".join(pieces)


def test_odd_headers(port):
    body = json.dumps(GOOD).encode()
    ok = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    length = b"Content-Length: %d\r\n" % len(body)
    requests = [
        b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"POST",
        ok + b"Content-Length: -1\r\n\r\n", ok + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        ok + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", ok + length + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ok + length + b"X-Long: " + b"a" * 300_000 + b"\r\n\r\n" + body, ok + length + b"\xff\xfe: 1\r\n\r\n" + body,
        ok + length + b"Content-Encoding: gzip\r\nContent-Type: text/xml\r\nX-Request-Id: \xff\xfe<x>\r\n\r\n" + body,
        ok + b"Content-Length: 100000\r\n\r\n" + body, b"GET /v1/models HTTP/1.1\r\nHost: [::\r\nConnection: close\r\n\r\n",
        b"GET /%ff%fe%00/..%2f..%2fetc/passwd HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n",
        b"GET //evil.example/%2e%2e HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"TRACE /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"POST /v1/models/ HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n",
    ]  # fmt: skip
    for request in requests:
        status = raw(port, request, seconds=2).partition(b"\r\n")[0]
        assert not status or status.split()[1][:1] in (b"2", b"4"), (request[:80], status)


def test_keys_of_any_bytes(vlm):
    with serving(vlm, ServerSettings("scenes", api_key="schlüssel")) as port:
        start = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: "
        for key in (
            b"",
            b"Bearer",
            b"Bearer \xff\xfe",
            b"Basic eDp5",
            "Bearer schlüsse".encode(),
            b"Bearer " + b"k" * 5000,
        ):
            assert b" 401 " in raw(port, start + key + b"\r\n\r\n").partition(b"\r\n")[0], key
        assert b" 200 " in raw(port, start + "Bearer schlüssel".encode() + b"\r\n\r\n").partition(b"\r\n")[0]


def test_logits_that_are_no_numbers_are_an_error(port):
    ask = {"messages": messages(scene("fork"), FORK), "method": "clva:alpha=1e38,tau=1", "logprobs": True}
    check(post(port, json.dumps(GOOD | ask)))


@pytest.mark.slow
def test_clients_among_attackers(port, usual):
    """Streams that are broken off at any byte, nonsense and bombs from eight threads, while others ask on."""
    draw = random.Random(0)
    url = url_of(scene("fork", "cup"))
    stream = json.dumps(GOOD | {"messages": shown(url), "stream": True, "max_tokens": 8, "method": "clva"}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(stream)

    def attack(number):
        kind = number % 4
        if kind == 0:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall((head + stream)[: draw.randrange(10, len(head + stream))])
        elif kind == 1:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(head + stream)
                connection.recv(draw.randrange(1, 2000))
        elif kind == 2:
            check(post(port, json.dumps(GOOD | {"messages": shown(inline(png_of(9000, 8000)))})))
        else:
            check(post(port, bytes(draw.randrange(256) for _ in range(200))))

    methods = ["none", "clva"] * 10
    with concurrent.futures.ThreadPoolExecutor(8) as attackers, concurrent.futures.ThreadPoolExecutor(4) as clients:
        attacks = [attackers.submit(attack, number) for number in range(80)]
        answers = list(clients.map(lambda method: answer(port, method), methods))
        for one in attacks:
            one.result()
    assert answers == [usual[method] for method in methods]
