"""Prune against its reference: FastV's masks by full matrices, removal by a shorter sequence of embeddings."""

import random

import pytest
import tiny_families as tiny
import torch
from cases import CASES, STEPS, model_of, run
from reference_attanchor import cos
from reference_clva import literal
from reference_logits import compare, whole
from reference_prune import FastV, kept
from test_attanchor import PAD, WORD, batch_of, logits_of
from test_attanchor import model_of as family_model
from test_clva import steps_of
from tiny_processors import stand_in

from vlm_anchors.errors import CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.attanchor import AttAnchor
from vlm_anchors.methods.attanchor_i2t import AttAnchorI2T
from vlm_anchors.methods.clva import CLVA
from vlm_anchors.methods.prune import Prune, highest


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_the_highest_of_each_image_equal_plain_loops(share):
    for seed in range(30):
        draw = random.Random(seed)
        sizes = [[draw.randint(1, 5) for _ in range(draw.randint(1, 3))] for _ in range(2)]
        longest = max(map(sum, sizes))
        scores = [[draw.randint(0, 4) / 4 for _ in range(longest)] for _ in sizes]
        image = [[n for n, size in enumerate(row) for _ in range(size)] for row in sizes]
        valid = torch.tensor([[at < len(row) for at in range(longest)] for row in image])
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in image])
        found = highest(torch.tensor(scores), valid, padded, share)
        for sample, row in enumerate(image):
            groups = [[at for at, own in enumerate(row) if own == number] for number in range(len(sizes[sample]))]
            assert {at for at in range(longest) if found[sample, at]} == kept(scores[sample], groups, share)


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("parameters", [{}, {"share": 0.2, "layer": 3}])
def test_by_attention_equals_the_literal_reference(name, parameters):
    case, method = CASES[name], Prune(**parameters)

    def reference(double, single, tokens):
        layout, prompt = case.layout(single), single["input_ids"].shape[1]
        kernel = FastV(layout.images, prompt - 1, method.layer or 1, method.share)
        with literal(double, kernel, case.stack) as edited, torch.no_grad():
            logits = edited(**whole(case, single, tokens)).logits[0][-STEPS - 1 :]
        assert kernel.hidden
        return logits

    for summary in compare(case, method, reference):
        did = summary["prune"]
        assert did["kept_tokens"] == max(1, int(method.share * did["visual_tokens"] + 0.5)) and did["rows_edited"]


def shorter(name, method, prompt):
    """Embeddings of a LLaVA prompt without the tokens that the reference drops by cosine."""
    model, single = family_model(name), tiny.batch(tiny.FAMILIES[name], [prompt])
    with torch.no_grad():
        features = model.model.get_image_features(pixel_values=single["pixel_values"], return_dict=True).pooler_output
        rows = torch.cat(list(features))
        embeds = model.get_input_embeddings()(single["input_ids"].masked_fill(single["input_ids"] < WORD, 0))[0]
        plain = model.get_input_embeddings()(single["input_ids"])[0]
    places = [place for image in prompt.images for place in image]
    embeds = torch.where((single["input_ids"][0] < WORD)[:, None], plain, embeds)
    embeds[places] = rows
    words = [at for at, one in enumerate(prompt.ids) if one >= WORD and one < 99]
    scores = {
        place: max([cos(embeds[word].tolist(), embeds[place].tolist()) for word in words if word > place], default=-1)
        for place in places
    }
    stay = kept(scores, prompt.images, method.share)
    return embeds[[at for at in range(len(prompt.ids)) if at not in places or at in stay]][None]


def pruned(name, method, batch):
    return method.prepare((family_model(name), stand_in(name)), batch, anchorable=batch["input_ids"] >= WORD)


def test_by_cosine_equals_a_shorter_sequence():
    batch, prompts = batch_of("llava")
    method = Prune(by="cosine", share=0.4)
    together = logits_of(family_model("llava"), pruned("llava", method, batch))
    for sample, prompt in enumerate(prompts):
        with torch.no_grad():
            alone = family_model("llava")(inputs_embeds=shorter("llava", method, prompt)).logits
        assert (together[sample, -1] - alone[0, -1]).abs().max() < 2e-6


@pytest.mark.grid
@pytest.mark.parametrize("by", ["cosine", "random"])
@pytest.mark.parametrize("name", ["llava", "llava-next", "qwen2.5-vl", "qwen3-vl", "gemma3", "internvl", "idefics3"])
def test_removed_tokens_are_gone_and_a_batch_equals_its_samples(name, by):
    model, (batch, prompts) = family_model(name), batch_of(name)
    assert torch.equal(logits_of(model, pruned(name, Prune(by=by, share=1.0), batch)), logits_of(model, batch))
    method = Prune(by=by, share=0.5)
    shown = pruned(name, method, batch)
    together, tokens = steps_of(model, shown)
    for sample, prompt in enumerate(prompts):
        single = pruned(name, method, tiny.batch(tiny.FAMILIES[name], [prompt]))
        did = shown.effects[sample]["prune"]
        assert single.effects[0]["prune"] == did and did["kept_tokens"] < did["visual_tokens"]
        assert single["input_ids"].shape[1] == len(prompt.ids) - did["visual_tokens"] + did["kept_tokens"]
        alone, _ = steps_of(model, single, tokens[sample : sample + 1])
        assert (together[:, sample] - alone[:, 0]).abs().max() < 2e-6


@pytest.mark.grid
@pytest.mark.parametrize("first", [AttAnchor(tau=0.2), AttAnchorI2T(tau=0.25)], ids=["words in", "patches out"])
@pytest.mark.parametrize("by", ["attention", "cosine", "random"])
@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl", "llava-next"])
def test_after_anchors(name, by, first):
    """Anchors are found among all patches; a batch equals its samples; both say what they did."""
    model, (batch, prompts) = family_model(name), batch_of(name)
    pair, method = (model, stand_in(name)), Prune(by=by, share=0.5, layer=1)

    def answered(inputs, tokens=None):
        ready = inputs
        for one in (first, method):
            words = ready["input_ids"] >= WORD
            ready = one.prepare(pair, ready, anchorable=words)
        with attach(pair, [method, first]) as handle:
            return *steps_of(model, ready, tokens), handle.effects

    together, tokens, effects = answered(batch)
    for sample, prompt in enumerate(prompts):
        alone, _, told = answered(tiny.batch(tiny.FAMILIES[name], [prompt]), tokens[sample : sample + 1])
        assert (together[:, sample] - alone[:, 0]).abs().max() < 2e-6
        assert told[0] == effects[sample] and len(told[0]) == 2
        assert told[0]["prune"]["kept_tokens"] < told[0]["prune"]["visual_tokens"]


@pytest.mark.filterwarnings("ignore:With a bare model")
def test_in_a_forward_pass_and_never_unnoticed_in_generate():
    model, (batch, _) = family_model("llava"), batch_of("llava")
    method = Prune(by="random", share=0.3)
    with attach(model, [AttAnchor(tau=0.2), method]) as handle, torch.no_grad():
        short = model(**batch).logits
        assert set(handle.effects[0]) == {"attanchor", "prune"}
        with pytest.raises(CannotAct, match="generate cannot run attanchor by itself"):
            model.generate(**batch, max_new_tokens=2, pad_token_id=PAD)
        anchored = AttAnchor(tau=0.2).prepare(model, batch)
        with pytest.raises(CannotAct, match="generate cannot run prune by itself"):
            model.generate(**anchored, max_new_tokens=2, pad_token_id=PAD)
    assert short.shape[1] < batch["input_ids"].shape[1] + 9


def test_what_does_not_go_together_is_told():
    with pytest.raises(CannotAct, match="clva and prune cannot run together"):
        attach(model_of("llava"), [CLVA(), Prune()])
    with pytest.raises(CannotAct, match="layer 8 is the last"):
        attach(model_of("llava"), Prune(layer=8))
    attach(model_of("llava"), [CLVA(), Prune(share=1.0)]).detach()


def test_a_prompt_in_pieces_is_refused_by_attention():
    model, batch = model_of("llava"), CASES["llava"].batch()
    single = CASES["llava"].split(batch, 0)
    with attach(model, Prune()), pytest.raises(CannotAct, match="the whole prompt in one piece"):
        run(model, single, prefill_chunk_size=20)
