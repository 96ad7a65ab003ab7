"""The entry point `vllm.general_plugins`: called in every process of vLLM, before it reads its own settings."""

from .request_methods import is_on


def register() -> None:
    """Put the methods behind vLLM's attention kernels, where `VLM_ANCHORS_METHOD` is set; else do nothing."""
    if not is_on():
        return
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    register_backend(AttentionBackendEnum.CPU_ATTN, f"{__package__}.cpu_backend.AnchorCPUBackend")
