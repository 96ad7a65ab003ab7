"""`ask`, `ask_many` and `stream`: a model, a method and a question become an `Answer`."""

import itertools
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import AnchorsWarning, CannotAct
from ..inputs.mismatch import processor_blamed
from ..inputs.prompt_builder import Inputs, Sample, prepare
from ..interventions.method import preparing
from ..models.vlm import Vlm
from ..parameters import known_arguments
from ..specs import DecodingLike, MethodLike, spec_of_all
from ..types import Answer
from .decodings import Nucleus
from .opera import Opera
from .plan import MAX_NEW_TOKENS, GenerationPlan, check_batch_size, without_insertion
from .sample_batches import batches_of, checked_samples, checked_window, read_batch, read_sample

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from ..interventions.attachment import Handle

    ImageLike = str | Path | bytes | Image.Image
    Images = ImageLike | Sequence[ImageLike]

WINDOW = 8
"""Batches read ahead by `ask_many`, so that prompts of like length share a batch."""


@known_arguments
def ask(
    vlm: Vlm | Any,
    image: "Images | None" = None,
    question: str | None = None,
    *,
    messages: Sequence[Mapping[str, Any]] | None = None,
    video: Any = None,
    method: "MethodLike | None" = None,
    decoding: DecodingLike = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    sample_id: str | None = None,
    shares: bool = False,
) -> Answer:
    """One answer to one question, or to the last turn of a conversation.

    Args:
        vlm: What `va.load` returns, a (model, processor) pair, or an image-text-to-text pipeline of transformers.
        image: An image (a path, bytes, a data URL or a Pillow image), or a list of them; none for a question of words alone.
        question: The question. The prompt is one turn of a user, images first.
        messages: Instead of image and question, a conversation in the chat format of transformers: turns with the roles
            system, user and assistant, whose content is text or a list of parts such as
            `{"type": "image", "image": "kitchen.png"}`, `{"type": "video", "video": frames}`, `{"type": "text", "text": "?"}`.
        video: A video's path or its frames, for families that take videos; it stands behind the images.
        method: A method (`va.CLVA(alpha=5)`), a SPEC (`"clva:alpha=5"`) or a list of either; by default the one the model
            was trained with, which for most is none.
        decoding: `va.Greedy()`, `va.Beam()`, `va.Nucleus()`, `va.Opera()` or their SPEC.
        max_new_tokens: Length at which an answer is cut.
        sample_id: Keys the noise of `Nucleus` together with its seed and the step; by default it is a digest of what is asked,
            so the same question gets the same answer again.
        shares: Also put into `answer.effects["visual_share"]`, for each layer, the mean share of the text rows' attention that
            lands on visual tokens before and after the method (it costs a softmax a layer).

    Raises:
        BadImage: An image cannot be read, or the model takes none such.
        BadQuestion: There is no question, it is too long, or the chat template refuses the conversation.
        BadSetting: Arguments contradict each other.
        UnknownName: There is no such method.
        BadParameter: A parameter is outside its range.
        CannotAct: The method cannot work on this model.
    """
    run = GenerationPlan.of(vlm, method, decoding, max_new_tokens, shares)
    sample = read_sample(image, question, sample_id, messages=messages, video=video)
    _warn_of_images(run.vlm, [sample])
    return answer_samples(run, [sample])[0]


@known_arguments
def ask_many(
    vlm: Vlm | Any,
    samples: "Iterable[tuple[Images | None, str] | Mapping[str, Any]]",
    *,
    method: "MethodLike | None" = None,
    decoding: DecodingLike = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 16,
    shares: bool = False,
) -> Iterator[Answer]:
    """Answers to many questions, in their order, `batch_size` at a time. The batch does not change an answer.

    Samples are read a few batches ahead, and questions of like length share a batch. A sample that cannot be read raises when
    its turn comes, after the answers before it.

    Args:
        vlm: As in `ask`.
        samples: (image or images, question) pairs; a third item is the sample's id. Or dictionaries with the arguments of `ask`:
            image, question, messages, video, sample_id.
        method: As in `ask`, as are the other arguments.
        decoding: How tokens are chosen.
        max_new_tokens: Length at which an answer is cut.
        batch_size: Most questions of a batch.
        shares: Also record visual shares.
    """
    run = GenerationPlan.of(vlm, method, decoding, max_new_tokens, shares)
    return _answers(run, enumerate(checked_samples(samples), 1), check_batch_size(batch_size))


def _answers(run: GenerationPlan, numbered: Iterator[tuple[int, Any]], batch_size: int) -> Iterator[Answer]:
    warned = False
    while window := list(itertools.islice(numbered, batch_size * WINDOW)):
        items, failures = checked_window(window)
        done: dict[int, Answer] = {}
        for chosen in batches_of(items, batch_size):
            batch = read_batch(items, window, chosen, failures)
            if not warned:
                warned = _warn_of_images(run.vlm, batch.values(), stacklevel=3)
            if batch:
                done.update(zip(batch, answer_samples(run, list(batch.values())), strict=True))
        for i in range(len(window)):
            if i in failures:
                raise failures[i]
            yield done.pop(i)


def _warn_of_images(vlm: Vlm, samples: Iterable[Sample], stacklevel: int = 4) -> bool:
    """What the checkpoint says of images that it cannot understand, once a call; whether it said something."""
    if vlm.image_warning is None:
        return False
    sentences = (vlm.image_warning(image) for sample in samples for image in sample.images)
    sentence = next((one for one in sentences if one is not None), None)
    if sentence is not None:
        warnings.warn(sentence, AnchorsWarning, stacklevel=stacklevel)
    return sentence is not None


def answer_samples(run: GenerationPlan, samples: Sequence[Sample], **extra: Any) -> list[Answer]:
    """One batch: prepare, attach, generate, read."""
    from ..interventions.attachment import attach

    if run.one_by_one and len(samples) > 1:
        return [answer_samples(run, [sample], **extra)[0] for sample in samples]
    began = time.perf_counter()
    if not any(sample.images or sample.videos for sample in samples):
        run = without_insertion(run)
    inputs = prepare(run.vlm, samples, run.max_new_tokens)
    with attach(run.vlm, run.attached, recorder=run.recorder()) as handle:
        return answer_prepared(run, samples, inputs, handle, began, **extra)


def prepared(run: GenerationPlan, inputs: Inputs, samples: Sequence[Sample] = ()) -> dict[str, Any]:
    """What `generate` is given: the inputs of the samples, changed by a method whose hook that is."""
    tensors = inputs.tensors
    for method in preparing(run.methods):
        tensors = method.prepare(run.vlm, tensors, samples=samples)
    return tensors


def answer_prepared(
    run: GenerationPlan, samples: Sequence[Sample], inputs: Inputs, handle: "Handle", began: float, **extra: Any
) -> list[Answer]:
    """Answers of a batch whose inputs are ready, under a method that is attached; `extra` goes to `generate`."""
    from ..interventions.recorders import LastLayerAttention, Shares
    from .sampling import Broken, KeyedNoise, YesNo

    with processor_blamed(run.vlm):
        tensors, search = prepared(run, inputs, samples), None
    made = getattr(tensors, "effects", []) if any(method.reads_samples for method in run.methods) else []
    yes_no, broken = YesNo(run.vlm.processor.tokenizer), Broken()
    processors: list[Any] = [broken, yes_no]
    if isinstance(run.decoding, Nucleus):
        processors.append(KeyedNoise(run.decoding, [sample.id for sample in samples]))
    if isinstance(run.decoding, Opera):
        from .opera_search import OperaSearch

        assert isinstance(handle.recorder, LastLayerAttention)
        search = extra["custom_generate"] = OperaSearch(run.decoding, handle.recorder)
    try:
        with processor_blamed(run.vlm):
            rows = run.vlm.model.generate(
                **tensors, generation_config=run.config(), logits_processor=processors, **extra
            ).tolist()
    except RuntimeError as error:
        if "without overflow" in str(error):
            raise CannotAct(no_numbers(run)) from error
        raise
    if broken.seen:
        raise CannotAct(no_numbers(run))
    effects, recorder = handle.effects, handle.recorder
    seconds = (time.perf_counter() - began) / len(samples)
    # An encoder-decoder's row begins with its start token, everyone else's with the prompt.
    first = 1 if run.vlm.model.config.get_text_config().is_encoder_decoder else tensors["input_ids"].shape[1]
    answers = []
    for i in range(len(samples)):
        row, tokens = i * run.beams, _up_to_the_end(run, rows[i][first:])
        did = effects[row] if effects else {}
        did = {**did, "opera": search.effects} if search else without_waiting(did, yes_no.steps - len(tokens))
        did |= made[i] if made else {}
        if isinstance(recorder, Shares):
            did["visual_share"] = recorder.table(row)
        answers.append(_read(run, inputs.prompts[i], tokens, seconds, did, yes_no.row(row)))
    return answers


def no_numbers(run: GenerationPlan) -> str:
    """Why there is no answer where the logits overflowed."""
    methods = [method for method in run.methods if method.hooks]
    if methods:
        return (
            f"Expected numbers for logits; under {spec_of_all(methods)} some are NaN: a parameter is too large for "
            f"{str(run.vlm.dtype).removeprefix('torch.')}, or the weights are broken. Choose smaller parameters; method none "
            f"shows which it is."
        )
    return (
        f"Expected numbers for logits; those of {run.vlm.name} hold NaN: its weights are broken, or too large for "
        f"{str(run.vlm.dtype).removeprefix('torch.')}. Copy or download the model again, or load it with dtype float32."
    )


def _up_to_the_end(run: GenerationPlan, new: list[int]) -> list[int]:
    """The new tokens of a row up to its end-of-sequence token; what follows is padding."""
    end = run.config().eos_token_id
    ends = {end} if isinstance(end, int) else set(end or ())
    return new[: next((at + 1 for at, token in enumerate(new) if token in ends), len(new))]


def without_waiting(effects: dict[str, Any], waited: int) -> dict[str, Any]:
    """Without the rows that were edited while an answer that had ended waited for the longest of its batch."""
    return {
        name: {**did, "rows_edited": did["rows_edited"] - waited} if did.get("rows_edited") else did
        for name, did in effects.items()
    }


def _read(
    run: GenerationPlan, prompt: str, tokens: list[int], seconds: float, effects: dict[str, Any], yes_no: Any
) -> Answer:
    return Answer(
        text=run.vlm.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
        tokens=tuple(tokens),
        seconds=seconds,
        effects=effects,
        method=spec_of_all(run.methods),
        decoding=run.decoding.spec(),
        prompt=prompt,
        yes_no=yes_no,
    )


@known_arguments
def stream(
    vlm: Vlm | Any,
    image: "Images | None" = None,
    question: str | None = None,
    *,
    messages: Sequence[Mapping[str, Any]] | None = None,
    video: Any = None,
    method: "MethodLike | None" = None,
    decoding: DecodingLike = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    sample_id: str | None = None,
) -> Iterator[str]:
    """The answer's text in pieces, as it is made; joined they are `ask(...).text` up to spaces at the ends.

    Arguments are those of `ask`. Generation runs in a thread of its own; its errors are raised here. Closing the iterator early
    stops it. Beam search is refused: it knows its answer only at the end.
    """
    run = GenerationPlan.of(vlm, method, decoding, max_new_tokens)
    sample = read_sample(image, question, sample_id, messages=messages, video=video)
    _warn_of_images(run.vlm, [sample])
    return streamed(run, lambda **extra: answer_samples(run, [sample], **extra))


def streamed(run: GenerationPlan, work: Callable[..., Any]) -> Generator[str, None, None]:
    """The text that `work` generates, piece by piece; it runs in a thread of its own and hands its keywords to `generate`.

    What it raises is raised here. Closing the iterator early ends the generation after its current token, and waits for
    `work` to finish.
    """
    if run.beams > 1:
        raise CannotAct(
            "Beam search knows its answer only at the end, so it cannot be streamed. Use greedy or nucleus."
        )
    return _pieces(run, work)


def _pieces(run: GenerationPlan, work: Callable[..., Any]) -> Generator[str, None, None]:
    from transformers import StoppingCriteria, TextIteratorStreamer

    stop = threading.Event()
    failure: list[BaseException] = []
    streamer = TextIteratorStreamer(run.vlm.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)

    class Abandoned(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            import torch

            return torch.full((len(input_ids),), stop.is_set(), dtype=torch.bool, device=input_ids.device)

    def in_thread() -> None:
        try:  # the method is attached inside: it is active only in the thread that attached it
            work(streamer=streamer, stopping_criteria=[Abandoned()])
        except BaseException as error:
            failure.append(error)
            streamer.text_queue.put(streamer.stop_signal)

    worker = threading.Thread(target=in_thread, name="vlm-anchors-stream", daemon=True)
    worker.start()
    try:
        yield from (piece for piece in streamer if piece)
    finally:
        stop.set()
        worker.join()
    if failure:
        raise failure[0]
