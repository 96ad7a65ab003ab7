"""AttAnchor attached: forward passes and training see anchored inputs, generate is refused, nothing is left behind."""

import copy
import threading

import pytest
import tiny_families as tiny
import tiny_processors
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import PAD, WORD
from torch.utils.data import Dataset
from transformers import DynamicCache, StaticCache, Trainer, TrainingArguments

from vlm_anchors.errors import AnchorsWarning, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.attanchor import AttAnchor
from vlm_anchors.methods.attanchor_i2t import AttAnchorI2T
from vlm_anchors.methods.clva import CLVA

METHODS = [AttAnchor(tau=0.2, tokens="all"), AttAnchorI2T(tau=0.25, tokens="all", pause_tokens=1)]
"""With tokens="all", since these tiny vocabularies have no template."""
NAMES = ["llava", "qwen2.5-vl", "qwen3-vl", "internvl"]


def ready(name, kinds=(".i.", ".i.i.", "i."), labelled=False, seed=0):
    family = tiny.FAMILIES[name]
    batch = tiny.batch(family, tiny.prompts(family, list(kinds), seed))
    if labelled:  # the last word is the answer
        batch["labels"] = torch.nn.functional.pad(
            batch["input_ids"][:, -1:], (batch["input_ids"].shape[1] - 1, 0), value=-100
        )
    return family.build(), batch


def paired(name, model):
    return model, tiny_processors.stand_in(name)


@pytest.mark.grid
@pytest.mark.parametrize("method", METHODS, ids=["words in", "patches out"])
@pytest.mark.parametrize("name", NAMES)
def test_a_forward_pass_equals_one_on_prepared_inputs(name, method):
    model, batch = ready(name, labelled=True)
    anchored = method.prepare(paired(name, model), batch)
    with torch.no_grad():
        expected = model(**anchored)
        with attach(paired(name, model), method) as handle:
            out = model(**batch)
            assert torch.equal(out.logits, expected.logits) and torch.equal(out.loss, expected.loss)
            assert handle.effects == anchored.effects
            positional = {k: v for k, v in batch.items() if k != "input_ids"}
            assert torch.equal(model(batch["input_ids"], **positional).logits, expected.logits)
        assert model(**batch).logits.shape[1] == batch["input_ids"].shape[1]


@pytest.mark.grid
@pytest.mark.parametrize("cache", [None, "dynamic", "static", False])
@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl"])
def test_generate_is_told_to_prepare(name, cache):
    """However `generate` is called: with its own cache, one handed in, a static one, or none."""
    model, batch = ready(name)
    options = {"max_new_tokens": 3, "pad_token_id": PAD}
    if cache is False:
        options["use_cache"] = False
    elif cache == "dynamic":
        options["past_key_values"] = DynamicCache()
    elif cache == "static":
        options["cache_implementation"] = "static"
    method = METHODS[0]
    with (
        attach(paired(name, model), method),
        pytest.raises(CannotAct, match=r"AttAnchor\(\.\.\.\)\.prepare\(vlm, inputs\)"),
    ):
        model.generate(**batch, **options)
    with attach(paired(name, model), method):  # with prepared inputs, or nothing to do, it runs
        prepared = method.prepare(paired(name, model), batch)
        assert model.generate(**prepared, max_new_tokens=3, pad_token_id=PAD).shape[1] > batch["input_ids"].shape[1] + 3
        words = {"input_ids": torch.full((1, 4), WORD), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
        assert model.generate(**words, max_new_tokens=3, min_new_tokens=3, pad_token_id=PAD).shape == (1, 7)
    with attach(paired(name, model), method.disabled()) as handle:
        model.generate(**batch, max_new_tokens=3, pad_token_id=PAD)
        assert [summary["attanchor"]["tokens_inserted"] for summary in handle.effects] == [0, 0, 0]


def test_scoring_by_hand_is_no_generate():
    model, batch = ready("llava")
    with attach(paired("llava", model), METHODS[0]), torch.no_grad():
        assert model(**batch, use_cache=False, logits_to_keep=1).logits.shape[1] == 1
        assert model(**batch).logits.shape[1] > batch["input_ids"].shape[1]
    with attach(paired("llava", model), METHODS[0]), pytest.raises(CannotAct, match="Use prepare"):
        model(**batch, past_key_values=StaticCache(config=model.config.get_text_config(), max_cache_len=100))


def test_a_batch_without_images_or_words_passes_through():
    model, batch = ready("llava")
    with attach(paired("llava", model), METHODS[0]) as handle, torch.no_grad():
        words = torch.full((2, 5), WORD)
        assert model(input_ids=words, labels=words).logits.shape[1] == 5
        assert [summary["attanchor"]["tokens_inserted"] for summary in handle.effects] == [0, 0]
        all_answer = {**batch, "labels": batch["input_ids"]}
        with pytest.warns(AnchorsWarning, match="what is to be predicted is never copied"):
            model(**all_answer)
        assert model(**all_answer).logits.shape[1] == batch["input_ids"].shape[1]


def test_leaves_no_trace():
    model, batch = ready("llava")
    model(**batch)  # transformers installs hooks of its own at the first call
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
    with pytest.raises(RuntimeError, match="stop"), attach(paired("llava", model), METHODS[0]):
        model(**batch)
        raise RuntimeError("stop")
    assert hooks == sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
    assert model.config.text_config._attn_implementation == "sdpa"


def test_attention_is_left_alone_where_only_inputs_change():
    model, _ = ready("llava")
    with attach(paired("llava", model), METHODS[0]):
        assert model.config.text_config._attn_implementation == "sdpa"


def test_the_innermost_block_acts_and_other_threads_run_the_plain_model():
    model, batch = ready("llava")
    pair, length, lengths = paired("llava", model), batch["input_ids"].shape[1], []

    def run():
        with torch.no_grad():
            lengths.append(model(**batch).logits.shape[1] - length)

    with attach(pair, METHODS[0]):
        run()
        with attach(pair, AttAnchor(tau=0.0, tokens="all")):
            run()
        with attach(pair, CLVA()):
            run()
        run()
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        contrastive_branch = copy.deepcopy(model)
        assert contrastive_branch(**batch).logits.shape[1] == length
    assert lengths[0] == lengths[3] > 0 and lengths[1] > lengths[0] and lengths[2] == lengths[4] == 0


def test_a_method_that_only_other_threads_could_have_used_is_told():
    model, batch = ready("llava")
    handle = attach(paired("llava", model), METHODS[0])
    thread = threading.Thread(target=lambda: model(**batch))
    with pytest.warns(AnchorsWarning, match="attached in another"):
        thread.start()
        thread.join()
    handle.detach()
    handle.detach()


def test_with_clva_the_labels_grow_for_both():
    model, batch = ready("llava", labelled=True)
    pair = paired("llava", model)
    with attach(pair, CLVA(tau=1.0)):
        with attach(pair, [METHODS[0], CLVA(tau=1.0)]) as handle, torch.no_grad():
            both = model(**batch)
        anchored = METHODS[0].prepare(pair, batch)
        with torch.no_grad():
            expected = model(**anchored)
    assert torch.equal(both.logits, expected.logits) and torch.equal(both.loss, expected.loss)
    assert set(handle.effects[0]) == {"attanchor", "clva"}


def lora(model):
    return get_peft_model(
        model,
        LoraConfig(
            r=2,
            target_modules=r".*language_model.*\.(q|v)_proj",
            modules_to_save=["multi_modal_projector"],
            lora_dropout=0.0,
        ),
    )


@pytest.mark.parametrize("wrapped_first", [True, False])
def test_gradients_reach_adapter_and_projector_and_not_the_tower(wrapped_first):
    model, batch = ready("llava", labelled=True)
    calls = []
    model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    handle = None if wrapped_first else attach(paired("llava", model), METHODS[0])
    trained = lora(model).train()
    handle = handle or attach(paired("llava", trained), METHODS[0])
    with handle:
        loss = trained(**batch).loss
        loss.backward()
        assert sum(summary["attanchor"]["tokens_inserted"] for summary in handle.effects) > 0
    assert len(calls) == 1, "the images are encoded once"
    moved = {
        name for name, weight in trained.named_parameters() if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    assert any("lora_B" in name and "language_model" in name for name in moved)
    assert any("multi_modal_projector.modules_to_save" in name for name in moved)
    assert not any("vision_tower" in name for name in moved)


class Rows(Dataset):
    """One labelled sample eight times, with another image each time."""

    def __init__(self):
        self.rows = [{k: v[0] for k, v in ready("llava", [".i."], True, seed)[1].items()} for seed in range(4)] * 2

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def collate(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": PAD, "attention_mask": 0, "labels": -100}
    padded = {
        name: torch.stack(
            [torch.nn.functional.pad(row[name], (0, longest - len(row[name])), value=value) for row in rows]
        )
        for name, value in fill.items()
    }
    return padded | {"pixel_values": torch.stack([row["pixel_values"] for row in rows])}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trainer_trains_on_anchored_sequences(tmp_path, checkpointing):
    model, _ = ready("llava", [".i."])
    trained = lora(model)
    lengths = []
    newer = hasattr(TrainingArguments, "activation_checkpointing")
    switch = "activation_checkpointing" if newer else "gradient_checkpointing"
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=2, learning_rate=1e-2, report_to=[],
        save_strategy="no", eval_strategy="steps", eval_steps=3, remove_unused_columns=False, use_cpu=True,
        **{switch: checkpointing}, logging_steps=1, prediction_loss_only=True, disable_tqdm=True,
    )  # fmt: skip
    with attach(paired("llava", trained), METHODS[0]) as handle:
        model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        )
        trainer = Trainer(
            model=trained, args=arguments, train_dataset=Rows(), eval_dataset=Rows(), data_collator=collate
        )
        trainer.train()
        assert sum(summary["attanchor"]["tokens_inserted"] for summary in handle.effects) > 0
    plain = max(len(row["input_ids"]) for row in Rows().rows)
    assert max(lengths) > plain
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3 and all(loss == loss and loss < 20 for loss in losses)
    assert any("eval_loss" in entry for entry in trainer.state.log_history)


def test_a_method_taken_off_by_another_thread_shadows_none():
    """The attaching thread keeps the entry of the inner method; the outer one acts again all the same."""
    model, batch = ready("llava")
    pair = paired("llava", model)
    with attach(pair, METHODS[0]), torch.no_grad():
        expected = model(**batch).logits
        inner = attach(pair, AttAnchor(tau=0.0, tokens="all"))
        assert model(**batch).logits.shape != expected.shape
        thread = threading.Thread(target=inner.detach)
        thread.start()
        thread.join()
        assert torch.equal(model(**batch).logits, expected)
