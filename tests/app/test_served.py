"""The page as it is served: what the hook refuses over real HTTP, in a real browser, and from the command line."""

import http.client
import re
import socket
import threading
from pathlib import Path

import pytest
from test_visit import bomb, png_of

import vlm_anchors as va

pytest.importorskip("gradio", reason="gradio is not installed")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(tiny):
    """(page, port) of a page that runs in this process."""
    from gradio import Request

    from vlm_anchors.apps.web.server import Page, start

    wrapped = Page.ask

    def ask(self, request: Request, *arguments):  # wrapped by the shape checks, a generator is none that Gradio knows
        yield from wrapped(self, request, *arguments)

    Page.ask = ask
    port = free_port()
    page = start(tiny, "127.0.0.1", port)
    yield page, port
    page.blocks.close(verbose=False)
    Page.ask = wrapped


def send(port, method, path, body=None, **headers):
    """One request as it is written here: nothing tidies the path."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer.status, answer.read()


SECRET = "a file of nobody's business"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file={secret}",
        "/gradio_api/file=../../../../../../../..{secret}",
        "/gradio_api/file=%2e%2e%2f%2e%2e%2f{secret}",
        "/gradio_api/file=http://127.0.0.1:{port}/config",
        "/gradio_api/file={folder}",
        "/file={secret}",
        "/file/{secret}",
        "/gradio_api/proxy=http://127.0.0.1:{port}/",
        "/gradio_api/stream/a/b/1/playlist.m3u8",
        "/assets/../../../../../../../../../../..{secret}",
        "/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{secret}",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{secret}",
        "/static/..\\..\\..\\..{secret}",
        "/svelte/../../..{secret}",
        "/custom_component/../..{secret}",
        "/monitoring",
        "/gradio_api/info",
        "/docs",
    ],
)
def test_no_file_can_be_read(served, tmp_path, path):
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    page, port = served
    status, body = send(port, "GET", path.format(secret=secret, port=port, folder=page.folder.name))
    assert status == 403
    assert SECRET.encode() not in body


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/gradio_api/upload", {"Content_Length": "4"}, 403),
        ("/gradio_api/component_server", {"Content_Length": "4"}, 403),
        ("/gradio_api/queue/join", {"Content_Length": str(64 << 20)}, 413),
        ("/gradio_api/queue/join", {}, 411),
    ],
)
def test_nothing_is_taken_but_messages(served, path, headers, status):
    body = b"abcd" if headers.get("Content_Length") == "4" else None
    assert send(served[1], "POST", path, body, **headers)[0] == status


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("localhost:80", 200), ("evil.example", 400)])
def test_only_this_machine_is_answered(served, host, status):
    assert send(served[1], "GET", "/", Host=host)[0] == status


def test_it_listens_on_this_machine_alone(served):
    """A server on 0.0.0.0 would answer on every address of the loopback device."""
    socket.create_connection(("127.0.0.1", served[1]), timeout=10).close()
    with socket.socket() as probe:
        probe.settimeout(10)
        assert probe.connect_ex(("127.0.0.2", served[1])) != 0


@pytest.fixture
def active_hooks(browser, served):
    """An open page, and what it asked of any address, or said on the console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    summary = []
    page.on("console", lambda message: summary.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: summary.append(str(error)))
    own = (f"http://127.0.0.1:{served[1]}/", "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else summary.append(request.url))
    enter(page, served[1])
    yield page
    assert summary == []
    context.close()


def enter(page, port):
    page.set_default_timeout(300_000)  # a page that is slow is not broken
    page.goto(f"http://127.0.0.1:{port}/")
    page.locator("#ask").wait_for()


def shorten(page, longest=8):
    page.get_by_text("More", exact=True).click()
    number(page, "longest", longest)


def ask(page):
    """Press the button; returns the answers' texts when the maps are there."""
    shorten(page)
    page.locator("#ask").click()
    page.locator("#maps img").first.wait_for()
    return [words.strip() for words in page.locator("#answers .words").all_inner_texts()]


def number(page, slider, value):
    """Types until it is taken: a part of the page that has just appeared may not listen yet."""
    field, shown = page.locator(f"#{slider} input[type=number]"), page.locator(f"#{slider} input[type=range]")
    for _ in range(100):
        field.fill(str(value))
        field.press("Enter")
        page.wait_for_timeout(100)
        if float(shown.input_value()) == value:
            return
    raise AssertionError(f"{slider} never became {value}")


def test_ask_and_look(active_hooks, served, tiny):
    page = active_hooks
    assert page.locator("#answers").inner_text().startswith("Press Ask")
    question = page.locator("#question textarea").input_value()
    assert re.fullmatch(r"Is there an? .* in the image\?", question)

    page.get_by_label("attanchor", exact=True).click()
    number(page, "attanchor-tau", 0)
    number(page, "clva-tau", 1)
    answers = ask(page)
    image = served[0].examples[0].image
    specs = ["none", "clva:tau=1", "attanchor:tau=0"]
    assert page.locator("#answers h3").all_inner_texts() == specs
    expected = [va.ask(tiny, image, question, method=spec, max_new_tokens=8).text for spec in specs]
    assert [re.sub(r"\W", "", text) for text in answers] == [re.sub(r"\W", "", text) for text in expected]

    maps, captions = page.locator("#maps img"), page.locator("#maps .caption")
    assert maps.count() == 3
    assert "layer 3, mean over heads" in captions.first.inner_text()
    before = maps.first.get_attribute("src")
    number(page, "layer", 1)
    page.get_by_text("layer 1, mean over heads").first.wait_for()
    number(page, "head", 2)
    page.get_by_text("layer 1, head 2").first.wait_for()
    assert maps.first.get_attribute("src") != before, "the sliders move the map"
    before, third = maps.first.get_attribute("src"), page.locator("#answers .look").nth(1).locator("button").nth(2)
    third.click()
    page.wait_for_function("document.querySelectorAll('#answers button')[0].ariaPressed === 'false'")
    assert third.get_attribute("aria-pressed") == "true"
    page.wait_for_function("before => document.querySelector('#maps img').src !== before", arg=before)

    page.get_by_role("tab", name="Layer by layer").click()
    page.locator("#curves svg").wait_for()
    page.get_by_role("tab", name="Signposts").click()
    page.locator("#posts img").wait_for()
    assert page.locator("#posts tr").count() > 1


def test_what_is_where(active_hooks):
    """Methods are chosen above the fold, four answers stand in one row, and nothing sticks out of a phone."""
    page = active_hooks
    box = page.locator("#methods-chosen").bounding_box()
    assert box["y"] + box["height"] < 500
    assert page.evaluate("getComputedStyle(document.querySelector('#question textarea')).fontFamily").startswith(
        "system-ui"
    )
    for name in ("attanchor", "pai"):
        page.get_by_label(name, exact=True).click()
    number(page, "attanchor-tau", 0)
    ask(page)
    for part in ("answers", "maps"):
        places = [one.bounding_box() for one in page.locator(f"#{part} .look").all()]
        assert len(places) == 4 and len({round(one["y"]) for one in places}) == 1, part
    before = page.locator("#maps").inner_html()
    page.locator("#own-scale input").check()
    page.get_by_text("this map’s own scale").nth(3).wait_for()
    assert page.locator("#maps").inner_html() != before and page.get_by_text("one scale for all, its").count() == 0
    page.get_by_role("tab", name="Signposts").click()
    page.locator("#posts table").wait_for()
    assert page.evaluate("getComputedStyle(document.querySelector('#posts table')).borderTopWidth") == "0px"
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator("#methods-chosen").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390


def test_examples_and_suggestions(active_hooks, served):
    page, example = active_hooks, served[0].examples[2]
    page.locator("#examples button").nth(2).click()
    page.get_by_text(f"In it: {example.text}.").wait_for()
    assert page.locator("#question textarea").input_value() == example.questions[0]
    page.locator("#suggested button").nth(2).click()
    page.wait_for_function("document.querySelector('#question textarea').value.startsWith('Please describe')")


def test_uploads(active_hooks, served, tmp_path, red):
    page, whole = active_hooks, png_of(red)
    field, trouble = page.locator("#picture input[type=file]"), page.locator("#picture .problem")
    files = {
        "text.png": (b"no image", "no image that can be read"),
        "cut.png": (whole[: len(whole) // 2], "broken or cut short"),
        "bomb.png": (bomb(), "too large: more than 80 million pixels"),
        "long.png": (bytes(21 << 20), "has 21.0 MB; at most 20 are read"),
        "empty.png": (b"", "empty: 0 bytes"),
    }
    shown = page.locator("#picture img.chosen").get_attribute("src")
    for name, (content, sentence) in files.items():
        (tmp_path / name).write_bytes(content)
        field.set_input_files(tmp_path / name)
        trouble.filter(has_text=sentence).wait_for()
        assert page.locator("#picture img.chosen").get_attribute("src") == shown, "the image before stays"
    (tmp_path / "red.png").write_bytes(whole)
    field.set_input_files(tmp_path / "red.png")
    trouble.wait_for(state="detached")
    page.wait_for_function("before => document.querySelector('#picture img.chosen').src !== before", arg=shown)
    assert len(ask(page)) == 2
    assert list(Path(served[0].folder.name).rglob("*")) == [], "nothing of an upload touches the disk"


def test_what_cannot_be_asked_is_told_beside_the_button(active_hooks):
    page, trouble = active_hooks, active_hooks.locator("#trouble .problem")
    page.locator("#question textarea").fill("  ")
    page.locator("#ask").click()
    trouble.filter(has_text="The question is empty").wait_for()
    page.locator("#question textarea").fill("Is there a <script>alert(1)</script> cup?")
    for name in ("none", "clva"):
        page.get_by_label(name, exact=True).click()
    page.locator("#ask").click()
    trouble.filter(has_text="No method is chosen").wait_for()
    page.get_by_text("More", exact=True).click()
    number(page, "longest", 8)
    page.locator("#specs textarea, #specs input").fill("clav <b>")
    page.locator("#ask").click()
    trouble.filter(has_text="Did you mean 'clva'?").wait_for()
    page.locator("#specs textarea, #specs input").fill("clva:alpha=5+attanchor:tau=0")
    page.locator("#ask").click()
    page.locator("#maps img").wait_for()
    assert trouble.count() == 0
    assert page.locator("#answers h3").inner_text() == "clva:alpha=5+attanchor:tau=0"


@pytest.mark.slow
def test_two_users_at_once(browser, served, tiny):
    """Each with parameters and a question of their own: both get what they would get alone."""
    image = served[0].examples[0].image
    users = [("Is there a cup?", 0), ("How many forks are there?", 40)]
    pages = [browser.new_context().new_page() for _ in users]
    for page, (question, alpha) in zip(pages, users, strict=True):
        enter(page, served[1])
        page.locator("#question textarea").fill(question)
        number(page, "clva-alpha", alpha)
        number(page, "clva-tau", 1)
        shorten(page, 16)
    for page in pages:
        page.locator("#ask").click()
    for page, (question, alpha) in zip(pages, users, strict=True):
        page.locator("#maps img").first.wait_for()
        shown = page.locator("#answers .look").all_inner_texts()
        for text, method in zip(shown, ("none", va.CLVA(alpha=alpha, tau=1)), strict=True):
            alone = va.ask(tiny, image, question, method=method, max_new_tokens=16)
            assert re.sub(r"[\W_]", "", alone.text) in re.sub(r"[\W_]", "", text)
            assert f"yes − no {alone.yes_no[0] - alone.yes_no[1]:+.2f}" in text
        page.context.close()


def test_stop_and_leaving(active_hooks, served):
    page, visits = active_hooks, served[0].visits
    shorten(page, 256)
    page.locator("#suggested button").nth(2).click()
    page.locator("#ask").click()
    page.locator("#stop:not([disabled])").wait_for()
    page.locator("#stop").click()
    page.locator("#ask:not([disabled])").wait_for()
    assert not [thread for thread in threading.enumerate() if thread.name == "vlm-anchors-stream"]
    assert len(visits) > 0
    page.close()
    for _ in range(300):
        if len(visits) == 0:
            break
        threading.Event().wait(0.1)
    assert len(visits) == 0, "images and answers go with the page"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(browser, served, scheme):
    page = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme).new_page()
    enter(page, served[1])
    ask(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing scrolls sideways"
    tops = [page.locator(name).bounding_box()["y"] for name in ("#methods-chosen", "#ask", "#answers")]
    assert tops == sorted(tops), "methods, then the button, and answers right behind it"
    page.context.close()
