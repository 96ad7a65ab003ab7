"""`train`: a model, data and a method become an adapter folder that `va.load` restores. A wrapper of trl's SFTTrainer.

    OUT/adapter_model.safetensors, adapter_config.json, anchors.json, processor files    the best checkpoint
    OUT/training.json     settings, data, versions, and at the end what came out
    OUT/loss.csv, loss.png, skipped.txt (with --skip-bad), checkpoints/

The same command again goes on from the last whole checkpoint. Under torchrun every process trains on its share.
"""

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..durable import write_whole
from ..errors import AnchorsWarning, BadData, BadSetting, CannotAct, MissingPackage
from ..generation.method_file import whole_spec
from ..interventions.attachment import attach
from ..interventions.method import Method
from ..models.adapter import write_anchors
from ..models.load import load
from ..models.settings import set_pixels
from ..models.vlm import Vlm
from ..provenance import provenance
from ..registry import parse_spec, split_composition
from ..specs import choose
from .collate import Collator
from .data import MARK, Bad, Conversation, fingerprint, read_data, split_by_image
from .data import settle as settle_rows
from .lengths import check_lengths
from .lora import lora_config
from .presets import Settings
from .resume import FILE, last_checkpoint, settle


@dataclass(frozen=True)
class Trained:
    """What came of a run: validation loss (nats a token) of the best step, and where training ended."""

    folder: Path
    best_step: int
    best_loss: float
    steps: int


def train(
    model: str,
    data: str | Path,
    out: str | Path,
    *,
    method: str = "attanchor",
    settings: Settings | None = None,
    images: str | Path | None = None,
    validation: float | str | Path = 0.05,
    skip_bad: bool = False,
    mixed: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    **loading: Any,
) -> Trained:
    """Trains LoRA adapters on the language model and the projector, on anchored sequences.

    Args:
        model: As in `va.load`.
        data: As in `read_data`.
        images: As in `read_data`.
        skip_bad: As in `read_data`.
        method: SPEC of a method that changes inputs ("attanchor", "attanchor-i2t:pause_tokens=2"); without a tau it
            has the settings'; tau=1 trains the plain model.
        validation: The share of the images whose conversations are kept for it, or a data file of its own.
        dtype: Of the frozen weights; by default the precision's on a card, float32 on a CPU.
        loading: What else `va.load` takes, such as a revision.

    Raises `BadData`, `BadSetting`, `BadModel` or `CannotAct` before anything is trained.
    """
    chosen, out = settings or Settings(), Path(out)
    anchors = _method(method, chosen)
    _require_plain_loading(loading)
    trained, checked, bad = _conversations(Path(data), images, validation, skip_bad, chosen.seed, mixed)
    chosen = _fitting(chosen, device)
    vlm = load(model, device="cpu", dtype=dtype or _dtype(chosen, device), **loading)
    _refuse_marks(vlm, [*trained, *checked])
    collator = Collator(_scaled(vlm, chosen))
    trained, checked, long = _within_context(collator, Path(data), trained, checked, skip_bad)
    bad += long
    settings_now = {
        "model": str(model), "revision": vlm.revision, "method": anchors.spec(), "data": str(data),
        "data_sha256": fingerprint(Path(data)), "validation": str(validation), "conversations": len(trained),
        "validation_conversations": len(checked), "settings": dataclasses.asdict(chosen),
    }  # fmt: skip
    settle(out, settings_now | {"versions": provenance("cpu")["versions"]}, first=_rank() == 0)
    if bad and _rank() == 0:
        write_whole(out / "skipped.txt", "".join(f"{one.where}: {one.fault}\n" for one in bad))
    trainer = _trainer(vlm, collator, trained, checked, out, anchors, chosen, device)
    with attach((trainer.model, vlm.processor), anchors):
        trainer.train(resume_from_checkpoint=last_checkpoint(out))
    return _finish(trainer, vlm, out, anchors, settings_now)


def _method(spec: str, settings: Settings) -> Method:
    """The method, with the settings' tau where the SPEC names none."""
    name, parameters = parse_spec(spec)
    if not name.startswith("attanchor") or len(split_composition(spec)) > 1:
        raise CannotAct(
            f"{spec} has no training form: it acts while a model answers. Train attanchor or attanchor-i2t."
        )
    if "tau" not in parameters:
        spec += f"{',' if parameters else ':'}tau={settings.tau}"
    (method,), _ = choose(spec)
    return method


def _conversations(
    data: Path, images: str | Path | None, validation: float | str | Path, skip_bad: bool, seed: int, mixed: bool
) -> tuple[list[Conversation], list[Conversation], list[Bad]]:
    folder = None if images is None else Path(images)
    found, bad = read_data(data, folder, skip_bad, mixed)
    if isinstance(validation, (int, float)) and not isinstance(validation, bool):
        if not 0 < validation < 1:
            raise BadSetting(
                f"validation is a share of the images between 0 and 1, or a data file; found {validation!r}."
            )
        return *split_by_image(found, validation, seed), bad
    checked, worse = read_data(Path(str(validation)), folder, skip_bad, mixed)
    return found, checked, bad + worse


def _within_context(
    collator: Collator, data: Path, trained: list[Conversation], checked: list[Conversation], skip_bad: bool
) -> tuple[list[Conversation], list[Conversation], list[Bad]]:
    """The conversations that the model's context leaves something to learn of; the others are refused or left out."""
    trained, long = check_lengths(collator, trained)
    checked, longer = check_lengths(collator, checked)
    settle_rows(data, len(trained) + len(checked), long + longer, skip_bad)
    if not trained or not checked:
        raise BadData(
            f"The context of {collator.name} leaves no conversation of {data} to {'validate' if trained else 'train'} on. "
            "Use shorter ones, or a model with a longer context."
        )
    return trained, checked, long + longer


def _require_plain_loading(loading: dict[str, Any]) -> None:
    for name in ("quantization", "device_map"):
        if loading.get(name) is not None:
            raise BadSetting(
                f"Training takes no {name}: adapters are trained beside whole weights on one device a process. Leave it out; "
                f"torchrun uses several cards."
            )


def _refuse_marks(vlm: Vlm, conversations: Sequence[Conversation]) -> None:
    """The processor would take such a text for an image, in the middle of the training."""
    mark = str(getattr(vlm.processor, "image_token", MARK))
    for one in conversations:
        if any(mark in turn.text for turn in one.turns):
            raise BadData(f"{one.where} holds {mark}, the mark of {vlm.name} for an image. Take it out.")


def _fitting(settings: Settings, device: str | None) -> Settings:
    """The settings that this machine supports; a warning names those that it does not."""
    import importlib.util

    card = _on_card(device)
    if settings.precision == "fp16" and not card:
        _report("fp16 needs a CUDA device; this run is in fp32.")
        settings = dataclasses.replace(settings, precision="fp32")
    if "8bit" in settings.optimizer and (not card or importlib.util.find_spec("bitsandbytes") is None):
        lacking = "a CUDA device" if not card else "bitsandbytes (pip install bitsandbytes)"
        _report(f"{settings.optimizer} needs {lacking}; this run uses AdamW.")
        settings = dataclasses.replace(settings, optimizer="adamw_torch")
    return settings


def _report(sentence: str) -> None:
    if _rank() == 0:
        warnings.warn(sentence, AnchorsWarning, stacklevel=4)


def _on_card(device: str | None) -> bool:
    import torch

    if device is not None and not device.startswith(("cpu", "cuda")):
        raise BadSetting(f"Training runs on cpu or cuda; found device {device!r}.")
    return torch.cuda.is_available() if device is None else device.startswith("cuda")


def _dtype(settings: Settings, device: str | None) -> str:
    """Frozen weights need no more than the precision of the run; on a CPU they stay in float32."""
    return {"fp16": "float16", "bf16": "bfloat16"}.get(settings.precision, "float32") if _on_card(device) else "float32"


def _scaled(vlm: Vlm, settings: Settings) -> Vlm:
    """Each image scaled to one area, where the processor keeps images' sizes (Qwen's); saved with the adapter."""
    if settings.pixels is None:
        return vlm
    try:
        set_pixels(vlm.processor, vlm.name, settings.pixels, settings.pixels)
    except BadSetting as error:
        raise CannotAct(
            f"The processor of {vlm.name} makes all images one size, so pixels={settings.pixels} cannot be kept. Leave it out, "
            "or choose another preset."
        ) from error
    return vlm


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def _dataset(conversations: Sequence[Conversation]) -> Any:
    from datasets import Dataset

    return Dataset.from_list([one.row() for one in conversations])


def _trainer(
    vlm: Vlm,
    collator: Collator,
    trained: Sequence[Conversation],
    checked: Sequence[Conversation],
    out: Path,
    anchors: Method,
    settings: Settings,
    device: str | None,
) -> Any:
    try:
        from transformers import EarlyStoppingCallback
        from transformers.trainer_callback import PrinterCallback, ProgressCallback
        from trl import SFTTrainer
    except ImportError as error:
        raise MissingPackage(
            f'Training needs more packages ({error}). Run: pip install "vlm-anchors[train]"'
        ) from error
    from .report import Report

    class Quiet(SFTTrainer):
        """Sends nothing anywhere, and writes no card of its own beside every checkpoint."""

        def _send_telemetry(self) -> None: ...

        def create_model_card(self, *args: Any, **kwargs: Any) -> None: ...

    steps = _steps(len(trained), settings)
    every = settings.eval_steps or max(steps // 20, 1)
    config = lora_config(
        vlm, projector=settings.projector, rank=settings.rank, alpha=settings.alpha, dropout=settings.dropout
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's own, about names that transformers will drop
        trainer = Quiet(
            model=vlm.model,
            args=_arguments(out, settings, every, not _on_card(device), last_checkpoint(out)),
            train_dataset=_dataset(trained),
            eval_dataset=_dataset(checked),
            processing_class=vlm.processor,
            data_collator=collator,
            peft_config=config,
            callbacks=[
                EarlyStoppingCallback(max(math.ceil(settings.patience / every), 1)),
                Report(out, vlm, whole_spec([anchors])),
            ],
        )
    for weight in trainer.model.parameters():
        if weight.requires_grad:  # frozen weights may be in half precision; steps are too small for it
            weight.data = weight.data.float()
    for noise in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noise)
    return trainer


def _steps(conversations: int, settings: Settings) -> int:
    an_epoch = math.ceil(conversations / (settings.batch_size * settings.accumulation * _world()))
    return settings.max_steps or max(math.ceil(an_epoch * settings.epochs), 1)


def _arguments(out: Path, settings: Settings, every: int, on_cpu: bool, begun: str | None) -> Any:
    from trl import SFTConfig

    # Transformers renamed the switch after 5.18.
    fields = {field.name for field in dataclasses.fields(SFTConfig)}
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    return SFTConfig(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        optim=settings.optimizer,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        **{checkpointing: settings.checkpointing},  # type: ignore[arg-type]
        seed=settings.seed,
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=begun is None,  # again after a kill, it would count against the patience
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        logging_steps=math.gcd(every, max(every // 5, 1)),
        prediction_loss_only=True,
        remove_unused_columns=False,
        max_length=None,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and _world() > 1 else None,
        dataloader_pin_memory=not on_cpu,
        dataloader_num_workers=0 if on_cpu else 4,
        report_to=[],
        disable_tqdm=True,
    )


def _finish(trainer: Any, vlm: Vlm, out: Path, anchors: Method, settings_now: dict[str, Any]) -> Trained:
    """Writes the best weights and what is known of them."""
    state = trainer.state
    done = Trained(out, int(state.best_global_step), float(state.best_metric), int(state.global_step))
    if trainer.is_world_process_zero():
        trainer.model.save_pretrained(str(out))
        vlm.processor.save_pretrained(str(out))
        write_anchors(out, whole_spec([anchors]), vlm.name, vlm.revision)
        result = {key: value for key, value in dataclasses.asdict(done).items() if key != "folder"}
        whole = settings_now | {"result": result, **provenance(trainer.args.device)}
        write_whole(out / FILE, json.dumps(whole, indent=1) + "\n")
    return done
