"""A RUN, its data, and the command that judges it."""

import pytest
from judged_runs import benchmark_files, records, write_run

from vlm_anchors.apps.cli import main


@pytest.fixture
def data(tmp_path):
    return benchmark_files(tmp_path / "data")


@pytest.fixture
def run(tmp_path, data):
    return write_run(tmp_path / "run", records(), data)


@pytest.fixture
def say(capsys, data):
    """Runs `vlm-anchors judge`: (exit code, stdout, stderr)."""

    def say(run, url, *more, model="judge-1"):
        code = main(
            ["judge", *map(str, (run, "--rules", data / "rule.json", "--url", url, "--judge-model", model, *more))]
        )
        return code, *capsys.readouterr()

    return say
