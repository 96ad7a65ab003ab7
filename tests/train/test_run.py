"""Training from end to end on a tiny model: files, best checkpoint, restoring, merging, precision, and what is refused."""

import csv
import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from conversations import image, llava, scenes, write
from PIL import Image
from transformers import Qwen2VLImageProcessor

import vlm_anchors as va
from vlm_anchors.apps.cli import main
from vlm_anchors.errors import AnchorsWarning, BadData, BadModel, BadSetting, CannotAct, MissingPackage, UnknownName
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.training import run
from vlm_anchors.training.collate import Collator
from vlm_anchors.training.data import read_data
from vlm_anchors.training.merge import merge
from vlm_anchors.training.presets import PRESETS, settings
from vlm_anchors.training.run import train

METHOD = "attanchor:tau=0.02,order=prompt,tokens=user,images=best,each=word,place=patch,keep=all,mrope=patch"
QUICK = dict(precision="fp32", batch_size=2, accumulation=1, max_steps=4, eval_steps=2, rank=4, learning_rate=1e-2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return scenes(folder)


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """Validation data of its own."""
    return scenes(tmp_path_factory.mktemp("held"), count=2)


@pytest.fixture(scope="module")
def done(tiny_folder, data, held, tmp_path_factory):
    """One run that several tests look at: anchored, with the projector trained whole."""
    out = tmp_path_factory.mktemp("run") / "out"
    return train(
        str(tiny_folder), data, out, method="attanchor:tau=0.02", validation=str(held),
        settings=settings(**QUICK, projector="full"),
    )  # fmt: skip


def loss_on(vlm, file, method):
    """Mean loss over the validation batches as the trainer takes it: a mean over conversations of batch means."""
    rows = [one.row() for one in read_data(file)[0]]
    collator, losses = Collator(vlm), []
    with torch.no_grad(), attach(vlm, method) as handle:
        for at in range(0, len(rows), 2):
            losses += [float(vlm.model(**collator(rows[at : at + 2])).loss)] * len(rows[at : at + 2])
            assert "tau=1" in method or sum(summary["attanchor"]["tokens_inserted"] for summary in handle.effects) > 0
    return sum(losses) / len(losses)


def test_the_folder_restores_model_adapter_and_anchors(done, held, tiny_folder):
    vlm = va.load(done.folder)
    assert vlm.method.startswith("attanchor:tau=0.02,") and vlm.family.name == "llava"
    assert loss_on(vlm, held, vlm.method) == pytest.approx(done.best_loss, abs=1e-5)
    plain = va.load(str(tiny_folder))
    assert plain.method == "none"
    assert abs(loss_on(plain, held, vlm.method) - done.best_loss) > 0.01, "training changed nothing"


def test_the_model_is_asked_with_its_own_method(done, red):
    vlm = va.load(done.folder)
    assert va.ask(vlm, red, "Is there a cup?", max_new_tokens=2).method == "attanchor:tau=0.02"
    assert va.ask(vlm, red, "Is there a cup?", max_new_tokens=2, method="none").method == "none"
    assert next(iter(va.ask_many(vlm, [(red, "Is there a cup?")], max_new_tokens=2))).effects["attanchor"]


def test_merged_it_is_an_ordinary_model(done, held, tmp_path):
    whole = va.load(merge(done.folder, tmp_path / "whole"))
    assert whole.method.startswith("attanchor:tau=0.02,")
    assert not any("lora" in name or "modules_to_save" in name for name in whole.model.state_dict())
    assert loss_on(whole, held, whole.method) == pytest.approx(done.best_loss, abs=1e-4)
    with pytest.raises(BadSetting, match="is not empty. Choose another --out"):
        merge(done.folder, tmp_path / "whole")
    with pytest.raises(BadModel, match="holds no adapter"):
        merge(tmp_path / "whole", tmp_path / "again")


def test_the_loss_curve_and_what_is_known(done):
    with (done.folder / "loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3, 4]
    assert [bool(row["validation"]) for row in rows] == [True, False, True, False, True]
    assert all(row["loss"] for row in rows[1:])
    measured = {int(row["step"]): float(row["validation"]) for row in rows[1:] if row["validation"]}
    assert measured[done.best_step] == min(measured.values()) == done.best_loss
    assert (done.folder / "loss.png").stat().st_size > 5000
    summary = json.loads((done.folder / "training.json").read_text())
    assert summary["result"] == {"best_step": done.best_step, "best_loss": done.best_loss, "steps": 4}
    assert (
        summary["conversations"] == 12 and summary["validation_conversations"] == 4 and summary["settings"]["rank"] == 4
    )
    assert (done.folder / f"checkpoints/checkpoint-{done.best_step}").exists()
    assert va.load(done.folder / f"checkpoints/checkpoint-{done.best_step}").method.startswith("attanchor:tau=0.02,")


def test_a_finished_run_is_not_begun_again(done, data, tiny_folder, held):
    with pytest.raises(BadSetting, match="holds a finished run"):
        train(
            str(tiny_folder), data, done.folder, method="attanchor:tau=0.02", validation=str(held),
            settings=settings(**QUICK, projector="full"),
        )  # fmt: skip


def test_early_stopping_keeps_the_best(tiny_folder, data, held, tmp_path):
    """A rate that wrecks the model: validation gets worse, training ends early, and the first checkpoint is what stays."""
    hot = QUICK | dict(learning_rate=1.0, max_steps=40, eval_steps=1, patience=2, warmup=0.0)
    done = train(
        str(tiny_folder), data, tmp_path / "out", method="attanchor:tau=1", validation=str(held), settings=settings(**hot)
    )  # fmt: skip
    assert done.steps < 40 and done.best_step == done.steps - 2
    vlm = va.load(tmp_path / "out")
    assert loss_on(vlm, held, vlm.method) == pytest.approx(done.best_loss, abs=1e-5)


def test_frozen_weights_may_be_halved_and_trained_ones_are_not(tiny_folder, data, held, tmp_path):
    """Frozen weights in bfloat16; what trains, the projector too, is kept and saved in float32."""
    done = train(
        str(tiny_folder), data, tmp_path / "out", method="attanchor:tau=0.02", validation=str(held), dtype="bfloat16",
        settings=settings(**QUICK | {"precision": "bf16", "projector": "full"}),
    )  # fmt: skip
    kept = safetensors.torch.load_file(done.folder / "adapter_model.safetensors")
    assert {weight.dtype for weight in kept.values()} == {torch.float32}
    assert any("multi_modal_projector" in name for name in kept) and 0 < done.best_loss < 20


def test_an_area_in_pixels_is_kept_with_the_adapter(tmp_path):
    """Qwen's processors keep images' sizes; the preset's area gives 576 visual tokens, after saving as well."""
    small = Qwen2VLImageProcessor()
    vlm = SimpleNamespace(name="qwen", processor=SimpleNamespace(image_processor=small))
    run._scaled(vlm, PRESETS["qwen2.5-vl-3b"])
    small.save_pretrained(tmp_path)
    for processor in (small, Qwen2VLImageProcessor.from_pretrained(tmp_path)):
        grid = processor(images=Image.new("RGB", (900, 700)), return_tensors="pt")["image_grid_thw"]
        assert int(grid.prod()) // 4 == pytest.approx(576, rel=0.03)


@pytest.mark.parametrize("change", [dict(precision="bf16"), dict(method="attanchor-i2t:pause_tokens=1,tau=0.02")])
def test_precision_and_the_other_direction(tiny_folder, data, held, tmp_path, change):
    change = dict(change)
    method = change.pop("method", "attanchor:tau=0.02")
    done = train(
        str(tiny_folder), data, tmp_path / "out", method=method, validation=str(held),
        settings=settings(**(QUICK | change)),
    )  # fmt: skip
    assert 0 < done.best_loss < 20 and done.steps == 4
    assert va.load(tmp_path / "out").method.startswith(method.partition(":")[0])


def test_recomputing_activations_changes_no_loss(tiny_folder, data, held, tmp_path):
    losses = []
    for checkpointing in (False, True):
        out = tmp_path / str(checkpointing)
        train(
            str(tiny_folder), data, out, method="attanchor:tau=0.02", validation=str(held),
            settings=settings(**QUICK, checkpointing=checkpointing),
        )  # fmt: skip
        with (out / "loss.csv").open() as file:
            losses.append([row["loss"] for row in csv.DictReader(file)])
    assert losses[0] == losses[1]


def test_what_this_machine_cannot_keep_is_told(tiny_folder, data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("about machines without a card")
    chosen = settings("llava-1.5-7b", max_steps=1, batch_size=2, accumulation=1)
    with pytest.warns(AnchorsWarning) as summary:
        train(str(tiny_folder), data, tmp_path / "out", settings=chosen, validation=0.2)
    said = " ".join(str(one.message) for one in summary)
    assert "fp16 needs a CUDA device; this run is in fp32" in said
    assert "paged_adamw_8bit needs a CUDA device; this run uses AdamW" in said
    kept = json.loads((tmp_path / "out/training.json").read_text())["settings"]
    assert kept["optimizer"] == "adamw_torch" and kept["precision"] == "fp32"


def test_skipped_conversations_are_listed(tiny_folder, tmp_path):
    names = [image(tmp_path, f"{n}.png") for n in range(3)]
    file = write(tmp_path, [llava(name) for name in names] + [llava("none.png", id="7")])
    with pytest.raises(BadData, match="1 of 4 conversations"):
        train(str(tiny_folder), file, tmp_path / "out", settings=settings(**QUICK), validation=0.3)
    assert not (tmp_path / "out").exists()
    odd = settings(**QUICK | {"max_steps": 3})
    with pytest.warns(AnchorsWarning, match="1 of 4 conversations"):
        done = train(str(tiny_folder), file, tmp_path / "out", settings=odd, validation=0.3, skip_bad=True)
    assert (done.folder / "checkpoints/checkpoint-3").exists(), "the last step is validated and saved as well"
    listed = (tmp_path / "out/skipped.txt").read_text()
    assert listed.startswith("data.json, entry 4 (id 7): The image none.png is not in") and listed.count("\n") == 1


def test_a_text_with_the_models_own_mark_is_refused(tiny_folder, tmp_path, monkeypatch):
    names = [image(tmp_path, f"{n}.png") for n in range(2)]
    file = write(tmp_path, [llava(names[0]), llava(names[1], question="What is [IMG]?")])
    vlm = va.load(str(tiny_folder))
    vlm.processor.image_token = "[IMG]"
    monkeypatch.setattr(run, "load", lambda *_, **__: vlm)
    with pytest.raises(
        BadData, match=r"data.json, entry 2 holds \[IMG\], the mark of .*tiny for an image. Take it out"
    ):
        train(str(tiny_folder), file, tmp_path / "out", validation=0.5)


def test_presets_are_the_papers():
    tiny, seven, qwen = PRESETS["tinyllava-1b"], PRESETS["llava-1.5-7b"], PRESETS["qwen2.5-vl-3b"]
    assert (tiny.rank, tiny.alpha, tiny.learning_rate, tiny.warmup, tiny.weight_decay) == (32, 64, 1e-4, 0.03, 0.003)
    assert (tiny.batch_size, tiny.accumulation, tiny.epochs, tiny.patience, tiny.precision) == (4, 4, 4, 10_000, "fp16")
    assert (seven.rank, seven.alpha, seven.learning_rate, seven.warmup, seven.weight_decay) == (8, 16, 2e-4, 0.03, 0)
    assert (seven.batch_size, seven.accumulation, seven.epochs, seven.patience, seven.tau) == (8, 4, 2, 5_000, 0.12)
    assert (qwen.rank, qwen.alpha, qwen.learning_rate, qwen.warmup, qwen.weight_decay) == (32, 64, 1e-4, 0.1, 0.03)
    assert (qwen.patience, qwen.precision, qwen.pixels, qwen.tau) == (4_500, "bf16", 576 * 28 * 28, 0.08)
    assert seven.optimizer == qwen.optimizer == "paged_adamw_8bit" and {one.dropout for one in PRESETS.values()} == {
        0.05
    }


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda: settings("tiny"), UnknownName, "No preset 'tiny'.*Known: tinyllava-1b, llava-1.5-7b, qwen2.5-vl-3b"),
        (lambda: settings(rnak=3), BadSetting, "Training has no setting 'rnak'. Did you mean 'rank'?"),
        (lambda: settings(rank=0), BadSetting, "rank must be a whole number of 1 or more; found 0"),
        (lambda: settings(dropout=2), BadSetting, "dropout must be a number from 0 to 0.99; found 2"),
        (lambda: settings(precision="fp8"), BadSetting, "precision must be one of fp32, bf16, fp16; found 'fp8'"),
    ],
)
def test_settings_are_checked(wrong, error, words):
    with pytest.raises(error, match=words):
        wrong()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(method="clva"), CannotAct, "clva has no training form: it acts while a model answers"),
        (dict(method="attanchor+clva"), CannotAct, r"attanchor\+clva has no training form"),
        (dict(validation=1.5), BadSetting, "validation is a share of the images between 0 and 1"),
        (dict(device="mps"), BadSetting, "Training runs on cpu or cuda; found device 'mps'"),
        (dict(settings=settings(pixels=1000)), CannotAct, "makes all images one size, so pixels=1000 cannot be kept"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    tiny_folder, data, tmp_path, change, error, words
):
    with pytest.raises(error, match=words):
        train(str(tiny_folder), data, tmp_path / "out", **({"validation": 0.2} | change))
    assert not (tmp_path / "out").exists()


def test_without_trl_a_sentence(tiny_folder, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(MissingPackage, match=r"Training needs more packages .*trl.*vlm-anchors\[train\]"):
        train(str(tiny_folder), data, tmp_path / "out", settings=settings(**QUICK), validation=0.2)


def test_the_command(tiny_folder, data, tmp_path, capsys):
    quick = [f"--set={name}={value}" for name, value in QUICK.items()]
    command = [
        "train",
        "attanchor",
        "--model",
        str(tiny_folder),
        "--data",
        str(data),
        "--validation",
        "0.2",
        "--tau",
        "0.02",
    ]
    assert main([*command, "--out", str(tmp_path / "out"), "--json", *quick]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["steps"] == 4 and summary["folder"] == str(tmp_path / "out")
    assert json.loads((tmp_path / "out/anchors.json").read_text()) == {
        "method": METHOD, "model": str(tiny_folder), "revision": None,
    }  # fmt: skip
    assert main([*command, "--out", str(tmp_path / "other"), "--set", "rank"]) == 2
    assert "Expected --set NAME=VALUE; found 'rank'" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "out"), "--out", str(tmp_path / "whole")]) == 0
    assert va.load(tmp_path / "whole").method == METHOD


def broken(done, tmp_path, name, text):
    """A copy of a trained folder with one file exchanged (None: taken away)."""
    folder = shutil.copytree(done.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    (folder / name).unlink() if text is None else (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("adapter_model.safetensors", None, "has no adapter_model.safetensors"),
        ("anchors.json", "{", "anchors.json is not valid JSON"),
        ("anchors.json", "[]", "anchors.json holds no JSON object"),
        (
            "anchors.json",
            '{"model": "/nowhere/model", "method": "none"}',
            "is an adapter of /nowhere/model, which cannot",
        ),
        ("anchors.json", '{"model": "scenes", "method": "none"}', "does not fit its base model"),
        ("adapter_config.json", "{}", None),
    ],
)
def test_a_broken_adapter_folder_is_told(done, tmp_path, name, text, words):
    folder = broken(done, tmp_path, name, text)
    with pytest.raises(BadModel, match=words):
        va.load(folder)


def test_anchors_that_name_no_method_or_base_are_told(done, tmp_path, tiny_folder):
    folder = broken(done, tmp_path, "anchors.json", json.dumps({"model": str(tiny_folder)}))
    with pytest.raises(BadModel, match="names no method"):
        va.load(folder)
    (folder / "anchors.json").unlink()
    assert va.load(folder).method == "none", "an adapter of someone else's, by its own config"
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(BadModel, match="names no base model"):
        va.load(folder)


def test_an_adapter_without_peft_is_told(done, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(va.UserError, match=r"holds a LoRA adapter, which needs peft.*vlm-anchors\[train\]"):
        va.load(done.folder)
