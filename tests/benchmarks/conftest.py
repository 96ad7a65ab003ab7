"""Where the official question files lie, if anywhere: they are no part of this project."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def official():
    """A function from a path inside the official data to the path on this machine; skips where there is none."""
    named = os.environ.get("VLM_ANCHORS_DATA")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(
            "no official question files: set VLM_ANCHORS_DATA to the folder that holds pope/, mme/, amber/, ..."
        )

    def find(part):
        path = folder / part
        if not path.exists():
            pytest.skip(f"the official files lack {part}")
        return path

    return find
