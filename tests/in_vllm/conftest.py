"""Tests inside vLLM's engine. They run in an environment of their own (`make test-vllm`), and are not collected elsewhere."""

import importlib.util
import os

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ.update(
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_LOGGING_LEVEL="ERROR",
    )

import pytest


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The bundled model as vLLM loads it."""
    from vlm_anchors.integrations.vllm.export import export_vllm

    return export_vllm("scenes", tmp_path_factory.mktemp("vllm") / "scenes")


@pytest.fixture(scope="session")
def bundled():
    """The bundled model through transformers."""
    import vlm_anchors as va

    return va.load("scenes", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def scenes():
    """Drawn scenes."""
    from vlm_anchors.scenes import draw, sample

    return [draw.render(scene) for scene in sample(16, 0)]
