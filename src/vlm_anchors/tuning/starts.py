"""Start values that `diagnose` suggests for a model: CLVA's layers, AttAnchor's tau. From validation images alone."""

from collections.abc import Callable, Mapping, Sequence
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
    """SPECs for those of the tuned methods that `diagnose` knows values for, alone or in a composition.

    Raises:
        BadSetting: There are none, or the questions have no images.
    """
    find = find_image(images)
    paths = [find(question.image) for question in questions if question.image is not None][:MOST]
    names = [name for name in ("clva", "attanchor") if any(name in one.names for one in tunables)]
    if not paths or not names:
        raise BadSetting(
            "diagnose suggests values for clva and attanchor, from images; here "
            + ("neither is tuned" if paths else "the questions have none")
            + ". Give start values as a SPEC, or leave them out."
        )
    probes = samples.from_folder(paths)
    seen = premises.observe(vlm, probes)
    suggestion = verdicts.suggestion(seen, *premises.suggested_tau(vlm, probes))
    known = {name: suggestion[name] for name in names if suggestion[name]}
    why = [suggestion[f"{name}_why"] for name in names]
    say(f"diagnose suggests {' and '.join(known.values()) or 'nothing'}. {' '.join(filter(None, why))}")
    starts = []
    for one in tunables:
        start, kept = start_for(one, known)
        if kept:
            say(f"{one.name} keeps {' and '.join(kept)}: its SPEC names {'it' if len(kept) == 1 else 'them'}.")
        starts += [start] if start else []
    return starts


def start_for(one: Tunable, known: Mapping[str, str]) -> tuple[str, list[str]]:
    """A start of a tunable, by what is known of its parts, and the parameters that its own SPEC fixes.

    Args:
        one: The tunable.
        known: Suggestions as SPECs, by method.

    Returns:
        The start as a SPEC, empty where nothing is known that is not fixed; the names of what is known and fixed.
    """
    parts, kept = [], []
    for at, name in enumerate(one.names):
        values = [value for value in known.get(name, "").partition(":")[2].split(",") if value]
        fixed = [value for value in values if (at, value.partition("=")[0]) in one.fixed]
        kept += [value.partition("=")[0] for value in fixed]
        free = ",".join(value for value in values if value not in fixed)
        parts.append(f"{name}:{free}" if free else name)
    return "+".join(parts) if tuple(parts) != one.names else "", kept
