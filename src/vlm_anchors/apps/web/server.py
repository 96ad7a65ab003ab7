"""The page, put together with Gradio: what is where, and what happens on a click. What is shown comes from cards.py."""

import html
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from ...errors import UserError
from ...methods import METHODS
from ...scenes import render
from ...scenes.examples import chosen_scenes
from ...scenes.questions import CHAIR, POPE, article
from . import cards
from .guard import guarded
from .sliders import about, chosen, sliders
from .visit import MAX_BYTES, MAX_WORDS, Visit, Visits, depth_and_heads, uploaded

if TYPE_CHECKING:
    from PIL import Image

    from ...models.vlm import Vlm

TICKED = ["none", "clva"]
AT_ONCE = 2
"""Visitors who are answered at the same time; others wait in Gradio's queue."""
BODY = MAX_BYTES * 4 // 3 + (1 << 20)
"""Bytes of one message: an upload in base64, and what goes with it."""
CLICKS = """element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (button) trigger('select', {...button.dataset});
});"""
UPLOADS = """const send = file => {
  if (!file) return;
  const upload = {name: file.name, size: file.size, data: ''};
  if (file.size > LIMIT) return trigger('upload', upload);
  const reader = new FileReader();
  reader.onload = () => trigger('upload', {...upload, data: reader.result.split(',')[1] || ''});
  reader.readAsDataURL(file);
};
element.addEventListener('change', event => { send(event.target.files[0]); event.target.value = ''; });
element.addEventListener('dragover', event => event.preventDefault());
element.addEventListener('drop', event => { event.preventDefault(); send(event.dataTransfer.files[0]); });
""".replace("LIMIT", str(MAX_BYTES))
FONTS = ["system-ui", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]
"""Of the reader's own machine: a theme's web fonts come in two weights, and others look bold."""
STYLES = [Path(__file__).parents[2] / "analysis" / "look_page.css", Path(__file__).parent / "page.css"]


class Example(NamedTuple):
    """A drawn scene: what is in it, and what to ask about it."""

    image: "Image.Image"
    text: str
    questions: tuple[str, ...]


def examples(n: int = 6) -> list[Example]:
    """Scenes the bundled model has not seen in training. The first question is for an object that is not there, but often
    stands beside what is."""
    found = []
    for scene, there, absent in chosen_scenes(n):
        text = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in scene.counts.items())
        asked = tuple(POPE.format(a=article(name)) for name in (absent, there))
        found.append(Example(render(scene), text, (*asked, CHAIR)))
    return found


def start(vlm: "Vlm", host: str, port: int) -> "Page":
    """The page, served in threads of their own until `.blocks.close()`."""
    page = Page(vlm)
    page.blocks.launch(
        server_name=host, server_port=port, share=False, inbrowser=False, quiet=True, prevent_thread_lock=True,
        ssr_mode=False, mcp_server=False, pwa=False, enable_monitoring=False, run_history=False, footer_links=[],
        allowed_paths=[], app_kwargs={"middleware": guarded(host, BODY)}, css_paths=STYLES,
        theme=gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=["ui-monospace", "Consolas", "monospace"]),
    )  # fmt: skip
    return page


class Page:
    """The page of one model. Components are attributes; a method that Gradio calls says which of them it returns."""

    def __init__(self, vlm: "Vlm"):
        self.vlm = vlm
        self.folder = tempfile.TemporaryDirectory(prefix="vlm-anchors-")
        """Where Gradio would put files. It stays empty: guard.py refuses uploads, and images travel inside messages."""
        os.environ["GRADIO_TEMP_DIR"] = self.folder.name
        self.examples = examples()
        self.depth, self.heads = depth_and_heads(vlm)
        self.visits = Visits(lambda: Visit(self.examples[0].image, layer=self.depth // 2 + 1))
        self.sliders: dict[tuple[str, str], gr.Slider] = {}
        self.groups: dict[str, gr.Group] = {}
        with gr.Blocks(title="vlm-anchors", analytics_enabled=False) as self.blocks:
            gr.HTML(_heading(vlm))
            self.ticks = gr.CheckboxGroup(
                [entry.name for entry in METHODS], value=TICKED, label="Methods, side by side",
                info="up to four; none is the model as it is", elem_id="methods-chosen",
            )  # fmt: skip
            with gr.Row(elem_id="parts"):
                with gr.Column(elem_id="ask-about"):
                    self._question()
                with gr.Column(elem_id="see"):
                    self._answers()
                with gr.Column(elem_id="choose"):
                    self._methods()
            self._wire()

    def _question(self) -> None:
        first = self.examples[0]
        self.picture = gr.HTML(cards.picture(first.image, _in_it(first)), js_on_load=UPLOADS, elem_id="picture")
        self.thumbnails = gr.HTML(self._thumbnails(0), js_on_load=CLICKS, elem_id="examples")
        self.question = gr.Textbox(first.questions[0], label="Question", lines=2, max_lines=6, elem_id="question")
        self.suggested = gr.HTML(cards.suggestions(first.questions), js_on_load=CLICKS, elem_id="suggested")
        with gr.Row():
            self.go = gr.Button("Ask", variant="primary", elem_id="ask")
            self.stop = gr.Button("Stop", interactive=False, elem_id="stop")
        self.trouble = gr.HTML("", elem_id="trouble")

    def _methods(self) -> None:
        for entry in METHODS:
            method, parameters = entry.name, sliders(entry.name)
            if not parameters:
                continue
            with gr.Group(visible=method in TICKED, elem_id=f"parameters-{method}") as self.groups[method]:
                gr.HTML(cards.method(method, entry.summary, entry.source), padding=True)
                defaults = METHODS.parameters(method)
                for parameter, (low, high, step) in parameters.items():
                    self.sliders[method, parameter] = gr.Slider(
                        low, high, defaults[parameter], step=step, label=parameter, info=about(method, parameter),
                        elem_id=f"{method}-{parameter}",
                    )  # fmt: skip
        with gr.Accordion("More", open=self.vlm.method != "none"):
            self.specs = gr.Textbox(
                "" if self.vlm.method == "none" else self.vlm.method, label="Other parameters, combinations, decodings",
                info="As on the command line, a space between two: attanchor:tau=0.3+clva nucleus:top_p=0.9",
                elem_id="specs",
            )  # fmt: skip
            self.longest = gr.Slider(8, 256, 64, step=8, label="Longest answer, in tokens", elem_id="longest")

    def _answers(self) -> None:
        self.answers = gr.HTML(cards.WAITING, js_on_load=CLICKS, elem_id="answers")
        gr.HTML(cards.notice(_READING))
        with gr.Tabs():
            with gr.Tab("Maps"):
                with gr.Row():
                    self.layer = gr.Slider(
                        1, self.depth, self.depth // 2 + 1, step=1, label="Decoder layer", elem_id="layer"
                    )
                    self.head = gr.Slider(0, self.heads, 0, step=1, label="Head (0: mean of all)", elem_id="head")
                self.own_scale = gr.Checkbox(
                    False, label="Each map with colours of its own", elem_id="own-scale",
                    info="off: one scale for all, so that maps can be compared; on: faint maps show their shape",
                )  # fmt: skip
                self.maps = gr.HTML(cards.NO_MAPS, elem_id="maps")
            with gr.Tab("Layer by layer"):
                self.curves = gr.HTML(cards.NO_CURVES, elem_id="curves")
            with gr.Tab("Signposts"):
                self.posts = gr.HTML(cards.NO_POSTS, elem_id="posts")

    def _wire(self) -> None:
        results = [self.answers, self.maps, self.curves, self.posts]
        image = [self.picture, self.thumbnails, self.suggested]
        quick: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
        self.thumbnails.select(self.pick, None, [*image, self.question, *results], **quick)
        self.picture.upload(self.upload, None, [*image, *results], **quick)
        self.suggested.select(self.suggest, None, self.question, **quick)
        self.ticks.change(self.tick, self.ticks, list(self.groups.values()), **quick)
        gr.on(
            [self.go.click, self.question.submit], self.ask,
            [self.question, self.ticks, self.specs, self.longest, *self.sliders.values()],
            [*results, self.go, self.stop, self.trouble],
            show_progress="hidden", concurrency_limit=AT_ONCE, trigger_mode="once", api_visibility="private",
        )  # fmt: skip
        self.stop.click(self.halt, None, None, **quick)
        self.answers.select(self.click, None, [self.answers, self.maps], **quick)
        how: list[Any] = [self.layer, self.head, self.own_scale]
        for control in how:
            control.change(self.move, how, self.maps, trigger_mode="always_last", **quick)
        self.blocks.unload(self.leave)

    def pick(self, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """An example was clicked: picture, thumbnails, suggestions, question, results."""
        at = int(event._data["at"])
        example = self.examples[at]
        self._visit(request).shows(example.image)
        shown = (
            cards.picture(example.image, _in_it(example)),
            self._thumbnails(at),
            cards.suggestions(example.questions),
        )
        return *shown, example.questions[0], *_NOTHING

    def upload(self, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """A file was dropped or chosen: picture, thumbnails, suggestions, results."""
        visit, text = self._visit(request), event._data
        try:
            visit.shows(uploaded(str(text["name"]), int(text["size"]), str(text["data"])))
        except UserError as error:
            return cards.picture(visit.image, cards.problem(error)), *[gr.skip()] * 6
        warning = self.vlm.image_warning
        strange = visit.image is not None and warning is not None and warning(visit.image) is not None
        note = cards.notice(_STRANGE) if strange else ""
        return cards.picture(visit.image, note), self._thumbnails(None), cards.suggestions([CHAIR]), *_NOTHING

    def suggest(self, event: gr.EventData) -> str:
        """A suggested question was clicked."""
        return str(event._data["text"])

    def tick(self, methods: list[str]) -> list[Any]:
        """Methods were ticked: each group of parameters."""
        return [gr.Group(visible=method in methods) for method in self.groups]

    def ask(
        self, request: gr.Request, question: str, methods: list[str], specs: str, longest: int, *values: float
    ) -> Iterator[tuple[Any, ...]]:
        """The question is asked: results, the two buttons, and what is wrong with it."""
        visit, still = self._visit(request), [gr.skip()] * 3
        try:
            asked = chosen(methods, dict(zip(self.sliders, values, strict=True)), specs)
            for number, _ in enumerate(visit.ask(self.vlm, question, asked, longest)):
                if number:
                    yield cards.answers(visit), *still, *still
                else:
                    yield (
                        cards.answers(visit),
                        *_NOTHING[1:],
                        gr.Button(interactive=False),
                        gr.Button(interactive=True),
                        "",
                    )
        except UserError as error:
            yield *still, *still, cards.problem(error)
            return
        buttons = gr.Button(interactive=True), gr.Button(interactive=False)
        yield cards.answers(visit), cards.maps(visit), cards.curves(visit), cards.anchor_table(visit), *buttons, ""

    def halt(self, request: gr.Request) -> None:
        """Stop was clicked: the answer under way ends at its next word."""
        self._visit(request).stop.set()

    def click(self, event: gr.EventData, request: gr.Request) -> tuple[str, str]:
        """A word of an answer was clicked: answers, maps."""
        visit = self._visit(request)
        visit.word = int(event._data["card"]), int(event._data["at"])
        return cards.answers(visit), cards.maps(visit)

    def move(self, layer: int, head: int, own_scale: bool, request: gr.Request) -> str:
        """A slider or switch of the maps was moved."""
        visit = self._visit(request)
        visit.layer, visit.head, visit.own_scale = layer, head, own_scale
        return cards.maps(visit)

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.visits.forget(str(request.session_hash))

    def _visit(self, request: gr.Request) -> Visit:
        return self.visits.of(str(request.session_hash))

    def _thumbnails(self, pressed: int | None) -> str:
        return cards.thumbnails([(each.image, each.text) for each in self.examples], pressed)


_NOTHING = (cards.WAITING, cards.NO_MAPS, cards.NO_CURVES, cards.NO_POSTS)
_STRANGE = (
    "This model knows drawn scenes only; about a photograph it says confident nonsense. For photographs start the app with "
    "--model and a real model."
)
_READING = (
    "yes − no: logit of “yes” less logit of “no” before the first word; above 0 the model leans to yes. Click a word of an "
    f"answer to see where the model looked as it chose it (maps are kept of the first {MAX_WORDS} tokens)."
)


def _heading(vlm: "Vlm") -> str:
    name = html.escape(vlm.name)
    text = (
        f"The model <b>{name}</b> is small and knows drawn scenes only; for photographs start with <code>--model</code>."
        if vlm.image_warning is not None
        else f"The model is <b>{name}</b>, on {vlm.device.type}."
    )
    return (
        "<h1>Does the model look, or does it guess?</h1>"
        "<p>Ask about an image, plain and with published methods that keep the model looking, and see what their attention "
        f"did. {text}</p>"
    )


def _in_it(example: Example) -> str:
    return f'<p class="soft">In it: {html.escape(example.text)}.</p>'
