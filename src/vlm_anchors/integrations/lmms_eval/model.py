"""The model `vlm_anchors` of lmms-eval: any model that `va.load` takes, with a method on it."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from lmms_eval.api.model import lmms

from ...errors import BadSetting
from ...evaluation.runner.answer import answer_batch, can_reuse
from ...generation.plan import GenerationPlan
from ...inputs.images import read_image
from ...inputs.prompt_builder import Sample, check_question
from ...models.load import load
from ...version import __version__

MAX_NEW_TOKENS = 128
"""Where a task names no limit."""
GREEDY = {"do_sample": (False, None), "temperature": (0, None), "num_beams": (1, None)}
"""What a task may say of decoding while `decoding` is not among the model's arguments."""


class VlmAnchors(lmms):
    """The adapter; its parameters are lmms-eval's `--model_args`.

    Args:
        model, device, dtype, attn_implementation, revision: As in `va.load`.
        method: a name or SPEC; the parameters of one method may follow as arguments of their own
            (`method=clva,alpha=5`).
        decoding: a SPEC; greedy where neither it nor the task says otherwise.
        version: Refused unless it is this package's. lmms-eval's cache tells models apart by their arguments, so a
            version among them keeps answers of another one from being taken for this one's.
    """

    is_simple = True

    def __init__(
        self,
        model: str = "scenes",
        method: str = "none",
        decoding: str | None = None,
        version: str | None = None,
        dtype: str | None = None,
        attn_implementation: str | None = None,
        revision: str | None = None,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | str | None = None,
        **parameters: Any,
    ):
        super().__init__()
        if version is not None and str(version) != __version__:
            raise BadSetting(f"model_args ask for version {version}; this is vlm-anchors {__version__}. Change one.")
        self.vlm = load(model, device=device, dtype=dtype, attn_implementation=attn_implementation, revision=revision)
        self.how = GenerationPlan.of(self.vlm, with_parameters(method, parameters), decoding, MAX_NEW_TOKENS)
        self.decoding_is_set = decoding is not None
        self.batch_size = int(batch_size or 1)

    @property
    def device(self) -> Any:
        """Where lmms-eval puts the small tensors that its processes exchange."""
        return self.vlm.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers in order. Neighbours of one length limit share a batch, and those of one image its prefix."""
        texts: list[str] = []
        for tokens, group in groupby(requests, key=lambda request: self._limit(request.args[1])):
            run = GenerationPlan(self.vlm, self.how.methods, self.how.decoding, tokens)
            for batch in _cut(list(group), self.batch_size):
                answers = answer_batch(run, self._samples(batch), can_reuse(run))
                texts += [_until(a.text, r.args[1].get("until")) for a, r in zip(answers, batch, strict=True)]
        return texts

    def _limit(self, asked: Mapping[str, Any]) -> int:
        """New tokens; refuses a task whose decoding would silently be another."""
        for name, plain in GREEDY.items():
            if not self.decoding_is_set and name in asked and asked[name] not in plain:
                raise BadSetting(
                    f"The task asks for {name}={asked[name]}, but model_args name no decoding, so it would be greedy. "
                    f"Add decoding=greedy, decoding=beam:num_beams=5 or decoding=nucleus:top_p=0.9 to model_args."
                )
        return int(asked.get("max_new_tokens") or MAX_NEW_TOKENS)

    def _samples(self, batch: Sequence[Any]) -> list[Sample]:
        """Questions with their images; what a task gives as one object stays one, so that its prefix is shared."""
        samples, alive = [], []
        read: dict[int, Any] = {}
        for request in batch:
            words, _, visual, place, task, split = request.args
            images = visual(self.task_dict[task][split][place]) or []
            alive.append(images)  # kept, so that no other object gets the same id
            read |= {id(image): read_image(image) for image in images if id(image) not in read}
            own = tuple(read[id(image)] for image in images)
            samples.append(Sample(own, check_question(words.replace("<image>", "").strip()), f"{task}/{place}"))
        return samples

    def loglikelihood(self, requests: Sequence[Any]) -> Any:
        raise NotImplementedError("vlm_anchors answers in words; choose tasks of output_type generate_until.")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> Any:
        raise NotImplementedError("vlm_anchors answers one turn; choose tasks of output_type generate_until.")


def with_parameters(method: str, parameters: Mapping[str, Any]) -> str:
    """`clva` and {"alpha": 5} as the SPEC `clva:alpha=5`; `True` and `None` as a SPEC spells them."""
    if not parameters:
        return method
    if ":" in method or "+" in method:
        raise BadSetting(
            f"Expected parameters of one method either in its SPEC or as arguments of their own; found {method!r} and "
            f"{', '.join(parameters)} beside it. Put them in one place."
        )
    spelt = {name: str(value).lower() if value in (True, False, None) else value for name, value in parameters.items()}
    return f"{method}:" + ",".join(f"{name}={value}" for name, value in spelt.items())


def _cut(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _until(text: str, ends: str | Sequence[str] | None) -> str:
    """The text up to the first of a task's stop strings."""
    for end in [ends] if isinstance(ends, str) else ends or ():
        text = text.split(end, 1)[0] if end else text
    return text.strip()
