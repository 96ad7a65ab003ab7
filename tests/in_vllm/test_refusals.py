"""What cannot be exact is refused: when the engine starts, or when the request comes."""

from types import SimpleNamespace

import pytest
import torch
from vllm import SamplingParams
from vllm.v1.attention.backends.registry import AttentionBackendEnum

import vlm_anchors.integrations.vllm.model_facts as model_facts
from vlm_anchors.errors import CannotAct, UserError
from vlm_anchors.integrations.vllm import SCHEDULER, engine_args
from vlm_anchors.integrations.vllm.cpu_backend import CPUCache, require_known_layout
from vlm_anchors.integrations.vllm.plugin import register
from vlm_anchors.integrations.vllm.request_table import RequestTable


def settings(**changed):
    """As much of a VllmConfig as is checked."""
    values = {
        "scheduler": SCHEDULER, "speculative": None, "cache_dtype": "auto", "tensor": 1, "pipeline": 1, "context": 1,
        "v2": False, "window": None, "transfer": None, **changed,
    }  # fmt: skip
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(scheduler_cls=values["scheduler"]),
        speculative_config=values["speculative"],
        cache_config=SimpleNamespace(cache_dtype=values["cache_dtype"]),
        parallel_config=SimpleNamespace(
            tensor_parallel_size=values["tensor"], pipeline_parallel_size=values["pipeline"],
            decode_context_parallel_size=values["context"],
        ),
        use_v2_model_runner=values["v2"],
        kv_transfer_config=values["transfer"],
        model_config=SimpleNamespace(hf_text_config=SimpleNamespace(sliding_window=values["window"])),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"scheduler": None}, "--scheduler-cls"),
        ({"scheduler": "vllm.v1.core.sched.scheduler.Scheduler"}, "--scheduler-cls"),
        ({"speculative": object()}, "speculative"),
        ({"cache_dtype": "fp8"}, "quantised"),
        ({"tensor": 2}, "parallel size 1"),
        ({"pipeline": 2}, "parallel size 1"),
        ({"context": 2}, "context-parallel"),
        ({"v2": True}, "VLLM_USE_V2_MODEL_RUNNER=0"),
        ({"window": 512}, "sliding-window"),
        ({"transfer": object()}, "kv-transfer"),
    ],
)
def test_settings_of_the_engine(changed, sentence):
    model_facts.check_engine(settings())
    with pytest.raises(CannotAct, match=sentence):
        model_facts.check_engine(settings(**changed))


def test_another_version_of_vllm(monkeypatch):
    monkeypatch.setattr(model_facts.vllm, "__version__", "0.31.0+cpu")
    with pytest.raises(CannotAct, match="0.31.0"):
        model_facts.check_engine(settings())


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("cvla", "clva"),
        ("clva:alpah=3", "alpha"),
        ("attanchor", "embedded_prompt"),
        ("vcd", "attention only"),
        ("pai", "gamma=1"),
        ("deco", "attention only"),
        ("clva+clearsight", "cannot run together"),
        ("clva:refresh=prompt", "refresh"),
        (3, "SPEC"),
    ],
)
def test_requests(spec, sentence, monkeypatch):
    monkeypatch.setenv("VLM_ANCHORS_METHOD", "none")
    RequestTable.validate_params(SamplingParams(extra_args={"vlm_anchors": "clva:alpha=3"}))
    with pytest.raises(ValueError, match=sentence):
        RequestTable.validate_params(SamplingParams(extra_args={"vlm_anchors": spec}))


def test_an_engine_without_the_plug_in(monkeypatch):
    monkeypatch.delenv("VLM_ANCHORS_METHOD", raising=False)
    RequestTable.validate_params(SamplingParams())
    with pytest.raises(ValueError, match="without vlm-anchors"):
        RequestTable.validate_params(SamplingParams(extra_args={"vlm_anchors": "clva"}))
    path = AttentionBackendEnum.CPU_ATTN.get_path()
    AttentionBackendEnum.CPU_ATTN.clear_override()
    register()
    assert not AttentionBackendEnum.CPU_ATTN.is_overridden()
    monkeypatch.setenv("VLM_ANCHORS_METHOD", "none")
    register()
    assert "AnchorCPUBackend" in AttentionBackendEnum.CPU_ATTN.get_path()
    if "vlm_anchors" not in path:
        AttentionBackendEnum.CPU_ATTN.clear_override()


def test_a_wrong_default_is_refused_before_the_engine_starts():
    with pytest.raises(UserError):
        engine_args(method="vcd")


@pytest.mark.parametrize(("isa", "size"), [("vec", 32), ("vec", 128), ("vec16", 16)])
def test_layouts_of_the_cache_that_are_known(isa, size):
    require_known_layout(isa, torch.float32, 3, size, 32)
    require_known_layout(isa, torch.bfloat16, 3, size, 32)


def test_a_layout_that_is_not_known(monkeypatch):
    monkeypatch.setattr(CPUCache, "keys", lambda self, blocks: self.values(blocks))
    with pytest.raises(CannotAct, match="layout"):
        require_known_layout("vec", torch.float32, 3, 32, 32)
