"""One visitor: the image in memory, the answers as they come, and what was seen meanwhile. Knows nothing of the page.

Nothing is written to disk. Visitors share the model and nothing else: a method is active only in the thread that attached
it, so two may be answered at once (docs/decisions/0002-attention-attachment.md).
"""

import base64
import binascii
import contextlib
import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...analysis.capture import Capture
from ...analysis.study import Seen, Study, check_recordable, see, study_of
from ...errors import BadImage, BadSetting, CannotAct, UserError
from ...generation.generate import answer_samples, read_sample, streamed
from ...generation.plan import GenerationPlan
from ...inputs.images import read_image
from ...inputs.prompt_builder import check_question
from ...models.decoder import find_target
from ...specs import MethodLike, spec_of_all

if TYPE_CHECKING:
    from PIL import Image

    from ...inputs.prompt_builder import Sample
    from ...models.vlm import Vlm
    from ...types import Answer

MAX_METHODS = 4
MAX_WORDS = 48
"""Tokens of an answer whose maps are kept: of a 7B model, 2.4 MB each before they are thinned out."""
MAX_VISITS = 16
MAX_BYTES = 20 << 20
"""Of an uploaded file."""
MAX_SIDE = 2048
"""Longer sides are scaled down: a page keeps one image for each visitor."""
_DECODING = threading.Semaphore(2)
"""Uploads decoded at once: a file of a few kilobytes may take 80 million pixels."""


@dataclass
class Card:
    """One method's answer: `text` while it streams, then `answer`, and `seen` where it could be watched."""

    name: str
    text: str = ""
    answer: "Answer | None" = None
    seen: Seen | None = None
    problem: str = ""
    """Why there is no answer, or no map."""


@dataclass
class Visit:
    """What one open page has: nothing of it outlives the page."""

    image: "Image.Image | None" = None
    cards: list[Card] = field(default_factory=list)
    study: Study | None = None
    word: tuple[int, int] = (0, 0)
    """The word that maps are shown of: which card, which word of its answer."""
    layer: int = 1
    head: int = 0
    """From 1; 0 is the mean over heads."""
    own_scale: bool = False
    """Whether each map's colours end at its own highest value, not at that of all."""
    stop: threading.Event = field(default_factory=threading.Event)

    def shows(self, image: "Image.Image | None") -> None:
        """Another image: what was said of the last one is forgotten."""
        self.stop.set()
        self.image, self.cards, self.study = image, [], None

    def ask(self, vlm: "Vlm", question: str, methods: Sequence[MethodLike], max_new_tokens: int) -> Iterator[None]:
        """Answers with one method after the other; yields whenever there is more to show. Raises `UserError` before the
        first answer; what goes wrong with one method stands on its card."""
        if self.image is None:
            raise BadImage("There is no image yet. Choose one of the scenes, or upload your own.")
        check_question(question)
        runs = [GenerationPlan.of(vlm, method, None, max_new_tokens) for method in methods]
        names = [_name(run) for run in runs]
        _check(names)
        sample = read_sample(self.image, question)
        self.stop.set()
        self.stop = stop = threading.Event()
        self.cards = cards = [Card(name) for name in names]
        self.study, self.word = None, (0, 0)
        yield
        for run, card in zip(runs, cards, strict=True):
            if stop.is_set():
                card.problem = "Not asked: stopped before."
                continue
            for _ in _answered(run, sample, card, stop):
                yield
        attention_layers = [(run, card.seen) for run, card in zip(runs, cards, strict=True) if card.seen is not None]
        if attention_layers and self.cards is cards:
            self.study = study_of(sample, attention_layers)
        yield


def _name(run: GenerationPlan) -> str:
    plain = run.decoding.spec() == "greedy"
    return spec_of_all(run.methods) if plain else f"{spec_of_all(run.methods)}, {run.decoding.spec()}"


def _check(names: list[str]) -> None:
    if not names:
        raise BadSetting("No method is chosen. Tick one or more; “none” is the model as it is.")
    if len(names) > MAX_METHODS:
        raise BadSetting(f"{len(names)} methods are chosen; at most {MAX_METHODS} stand side by side. Untick some.")
    if len(set(names)) < len(names):
        raise BadSetting(f"A method was named twice: {'; '.join(names)}. Name each once.")


def _answered(run: GenerationPlan, sample: "Sample", card: Card, stop: threading.Event) -> Iterator[None]:
    """Fills the card piece by piece; stopped, it keeps what there is."""

    def work(**extra: object) -> None:
        try:
            check_recordable(run)
        except CannotAct as problem:
            card.answer, card.problem = answer_samples(run, [sample], **extra)[0], str(problem)
            return
        seen = see(run, sample, Capture(rows="last", max_tokens=MAX_WORDS), **extra)
        # Of answer words the page shows what the method made of them; what it found is asked of the prompt alone.
        card.seen, card.answer = dataclasses.replace(seen, before=seen.before[:1]), seen.answer

    try:
        with contextlib.closing(streamed(run, work)) as pieces:
            for piece in pieces:
                card.text += piece
                yield
                if stop.is_set():
                    break
    except UserError as problem:
        card.problem = str(problem)
    except Exception as fault:
        card.problem = f"{type(fault).__name__}: {fault}. This is a fault of vlm-anchors or of its installation."
    yield


def uploaded(name: str, size: int, data: str) -> "Image.Image":
    """The image in an upload: base64 of a file's bytes. Raises `BadImage`."""
    if size > MAX_BYTES:
        raise BadImage(f"{name} has {size / 2**20:.1f} MB; at most {MAX_BYTES >> 20} are read. Make it smaller first.")
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage(f"{name} did not arrive whole. Upload it again.") from error
    with _DECODING:
        try:
            image = read_image(content)
            image.thumbnail((MAX_SIDE, MAX_SIDE))
        except MemoryError as error:
            raise BadImage(f"There is not enough memory to read {name}. Make it smaller first.") from error
    return image


def depth_and_heads(vlm: "Vlm") -> tuple[int, int]:
    """Decoder layers, and query heads a layer."""
    target = find_target(vlm.model, vlm.processor.tokenizer)
    return target.depth, target.heads


class Visits:
    """Who is here, by the name of an open page. When too many are, the one that has been still for longest is forgotten."""

    def __init__(self, new: Callable[[], Visit]):
        self._new = new
        self._open: OrderedDict[str, Visit] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, name: str) -> Visit:
        with self._lock:
            visit = self._open.setdefault(name, self._new())
            self._open.move_to_end(name)
            while len(self._open) > MAX_VISITS:
                self._open.popitem(last=False)[1].stop.set()
        return visit

    def forget(self, name: str) -> None:
        """The page was closed: image, answers and maps go, an answer under way ends at its next word."""
        with self._lock:
            visit = self._open.pop(name, None)
        if visit is not None:
            visit.stop.set()

    def __len__(self) -> int:
        return len(self._open)
