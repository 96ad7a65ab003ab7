"""Start values that `diagnose` suggests for a model: CLVA's layers, AttAnchor's tau. From validation images alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..analysis import premises, samples, verdicts
from ..errors import BadSetting
from ..evaluation.benchmarks.base import Question
from ..evaluation.reading.files import find_image
from ..models.vlm import Vlm
from .space import Tunable

DIAGNOSE = "diagnose"
"""In place of start values: those that `diagnose` suggests."""
MOST = 100
"""Images that are enough for a diagnosis."""


def suggested(
    vlm: Vlm, questions: Sequence[Question], images: Path, tunables: Sequence[Tunable], say: Callable[[str], Any]
) -> list[str]:
    """SPECs for those of the tuned methods that `diagnose` knows values for.

    Raises:
        BadSetting: There are none, or the questions have no images.
    """
    find = find_image(images)
    paths = [find(question.image) for question in questions if question.image is not None][:MOST]
    names = {one.names for one in tunables}
    if not paths or not names & {("clva",), ("attanchor",)}:
        raise BadSetting(
            "diagnose suggests values for clva and attanchor, from images; here "
            + ("neither is tuned" if paths else "the questions have none")
            + ". Give start values as a SPEC, or leave them out."
        )
    probes = samples.from_folder(paths)
    seen = premises.observe(vlm, probes)
    suggestion = verdicts.suggestion(seen, *premises.suggested_tau(vlm, probes))
    specs = [spec for spec in (suggestion["clva"], suggestion["attanchor"]) if spec]
    kept = [spec for spec in specs if (spec.partition(":")[0],) in names]
    why = [suggestion[f"{name}_why"] for name in ("clva", "attanchor") if (name,) in names]
    say(f"diagnose suggests {' and '.join(kept) or 'nothing'}. {' '.join(filter(None, why))}")
    return kept
