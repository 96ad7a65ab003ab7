"""Ray Data answers the batches: the same records, from workers on one machine or many (the `ray` extra).

Only this process writes. A worker that dies is replaced and its batch asked again by Ray; when this process dies, what
it has written stays in the RUN folder, and the next run asks for what is missing.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import MissingPackage, UserError
from ...models.load import load
from .answerer import Answerer, Job


def on_ray(
    answerer: Answerer, jobs: Sequence[Job], workers: int, settings: Mapping[str, Any]
) -> Iterator[list[dict[str, Any]]]:
    """Records of the batches, in the order in which they are answered.

    settings: of run.json; each worker loads the model they name. Joins the Ray cluster that `RAY_ADDRESS` names, else
    starts one on this machine that ends with this process.
    """
    # Read when ray starts: nothing is reported anywhere.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingPackage(
            'Answering in Ray workers needs ray, which is not installed. Run: pip install "vlm-anchors[ray]"'
        ) from None
    if not jobs:
        return
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
    sent, absolute = answerer.sent(), {**settings, "model": _absolute(settings["model"])}
    # One block a batch: a batch is reported as soon as it is answered, and lost alone when its worker dies.
    rows: Any = ray.data.from_items([{"job": job} for job in jobs], override_num_blocks=len(jobs))
    answered = rows.map(
        _Worker, fn_constructor_args=(sent, absolute), num_cpus=1, num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(jobs))),
    )  # fmt: skip
    for row in answered.iter_rows():
        if isinstance(row["answered"], UserError):
            raise row["answered"]
        yield row["answered"]


def _absolute(model: str) -> str:
    """A worker may have another working folder."""
    return os.path.abspath(model) if os.path.isdir(model) else model


class _Worker:
    """One copy of the model in a process of Ray's."""

    def __init__(self, answerer: Answerer, settings: Mapping[str, Any]):
        self.answerer, self.settings, self.ready = answerer, settings, False

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Records, or the sentence for the user: as an exception Ray would wrap it in pages of its own."""
        try:
            self._load()
            return {"answered": self.answerer(row["job"])}
        except UserError as error:
            return {"answered": error}

    def _load(self) -> None:
        if not self.ready:
            absolute = self.settings
            vlm = load(
                absolute["model"],
                revision=absolute["revision"],
                dtype=absolute["dtype"],
                attn_implementation=absolute["attention"],
            )
            self.answerer, self.ready = self.answerer.with_model(vlm), True
