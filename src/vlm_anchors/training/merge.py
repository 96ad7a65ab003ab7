"""An adapter merged into its base model: a folder like any other model's, and `anchors.json` beside it."""

from pathlib import Path

from ..errors import BadModel, BadSetting
from ..models.adapter import base_of, is_adapter, put_on, trained_method, write_anchors
from ..models.load import load


def merge(folder: str | Path, out: str | Path) -> Path:
    """Writes the whole model to `out`, on the CPU and in the base model's own dtype; `va.load(out)` knows its method."""
    folder, out = Path(folder), Path(out)
    if not is_adapter(folder):
        raise BadModel(f"{folder} holds no adapter. Expected a folder that `vlm-anchors train` made.")
    if out.exists() and any(out.iterdir()):
        raise BadSetting(f"{out} is not empty. Choose another --out.")
    base, revision = base_of(folder)
    model = load(base, revision=revision, device="cpu", dtype="auto").model
    whole = put_on(model, folder).merge_and_unload(safe_merge=True)
    whole.save_pretrained(out)
    load(folder, device="cpu").processor.save_pretrained(out)
    write_anchors(out, trained_method(folder))
    return out
