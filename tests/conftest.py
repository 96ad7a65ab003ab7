"""Shape checks on, network off, and the fixtures every test file shares."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: a second thread only waits at barriers
# Test files of one name may lie in several folders (import-mode=importlib); what they share is found from here.
TESTS = Path(__file__).parent
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
sys.path[:0] = [
    str(TESTS),
    *(str(folder) for folder in sorted(TESTS.iterdir()) if folder.is_dir() and folder.name[0] != "_"),
]

import shape_checks

shape_checks.install("vlm_anchors")

import grids
import pytest

COLLECTED = pytest.StashKey[list]()
"""Every collected test, those of a grid that are left out as well."""


def pytest_addoption(parser):
    parser.addoption("--whole-grids", action="store_true", help="run every case of tests marked grid, not a quarter")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    config.stash[COLLECTED] = list(items)
    if not grids.wanted_whole(config):
        out = grids.left_out(items)
        config.hook.pytest_deselected(items=[item for item in items if item in out])
        items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def collected(request):
    """Every test that was collected, whether it runs or not."""
    return request.config.stash[COLLECTED]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A folder that holds a tiny LLaVA: config, safetensors, processor, chat template."""
    from front import save_tiny

    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """The tiny LLaVA, loaded as a user loads it."""
    import vlm_anchors as va

    return va.load(str(tiny_folder))


@pytest.fixture(scope="session")
def red():
    """An image that is no scene of ours."""
    from PIL import Image

    return Image.radial_gradient("L").resize((90, 60)).convert("RGB")


@pytest.fixture(scope="session")
def browser():
    """Chromium as Debian installs it; tests that need it are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


def pytest_terminal_summary(terminalreporter):
    """Says loudly, beside pytest's own list, that no test looked at a page."""
    if not CHROMIUM.exists():
        terminalreporter.section("NO BROWSER", sep="!", red=True, bold=True)
        terminalreporter.line(f"Nothing at {CHROMIUM}: every test in a browser was skipped. apt-get install chromium")


def pytest_report_header():
    """When the tests inside vLLM were last run: they have an environment of their own."""
    file = TESTS.parent / "results" / "vllm_cpu.json"
    noted = json.loads(file.read_text("utf-8")).get("tests") if file.exists() else None
    if noted is None:
        return "inside vLLM: not run yet (make test-vllm)"
    version = noted["stack"]["vllm-cpu"]
    return f"inside vLLM: last run {noted['date']} at {noted['commit']} with vllm-cpu {version} (make test-vllm)"
