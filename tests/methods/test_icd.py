"""ICD against two readings without a cache, the second with the disturbing role written in by hand."""

from dataclasses import replace

import pytest
import tiny_models
import torch
from cases import CASES, STEPS, model_of
from reference_logits import compare, cut, read, whole
from stand_ins import BOS, Processor, Tokenizer, token
from tiny_models import IMAGE, START

from vlm_anchors.errors import BadParameter, CannotAct
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.methods.icd import ICD, SYSTEMS, cleaned

ROLE = "a confused detector"
WORDS = [token(word) for word in ROLE.split()]


def disturbed(case, single, method):
    """The prompt with the role in it."""
    if case.name == "instructblip":
        own = single["qformer_input_ids"][0].tolist() if method.where == "question" else []
        ids = torch.tensor([WORDS + own])
        return {**single, "qformer_input_ids": ids, "qformer_attention_mask": torch.ones_like(ids)}
    ids = single["input_ids"][0].tolist()
    front = ids[: min(ids.index(one) for one in (IMAGE, START) if one in ids)]
    if method.system:
        replaced = [int(word[1:]) for word in method.system.split()]
        at = front.index(replaced[0])
        new = front[:at] + WORDS + front[at + len(replaced) :]
    else:
        new = [BOS, *WORDS, *front[1:]]
    return {**single, "input_ids": torch.tensor([new + ids[len(front) :]])}


def reference(case, method):
    def logits(double, single, tokens):
        first, _ = read(case, double, whole(case, single, tokens), STEPS + 1)
        second, _ = read(case, double, whole(case, disturbed(case, single, method), tokens), STEPS + 1)
        return cut((1 + method.alpha) * first - method.alpha * second, first, method.beta)

    return logits


@pytest.mark.grid
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("parameters", [{}, {"alpha": 3.0, "beta": 0.8}])
def test_equals_the_literal_reference(name, parameters):
    method = ICD(role=ROLE, **parameters)
    for summary in compare(CASES[name], method, reference(CASES[name], method), processor=Processor()):
        assert summary["icd"]["branch_passes"] == STEPS + 1
        assert summary["icd"]["role"] == ("replaced the question" if name == "instructblip" else "put first")


def test_the_role_before_the_question():
    case, method = CASES["instructblip"], ICD(role=ROLE, where="question")
    for summary in compare(case, method, reference(case, method), processor=Processor()):
        assert summary["icd"]["role"] == "put before the question"


@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl"])
def test_a_system_prompt_is_replaced(name):
    case = CASES[name]
    fronts = [case.split(case.batch(), sample)["input_ids"][0, 1:3].tolist() for sample in range(3)]
    model = model_of(name)
    for sample, front in enumerate(fronts):
        method = ICD(role=ROLE, system=" ".join(f"w{one}" for one in front))
        single = case.split(case.batch(), sample)
        with attach((model, Processor()), method) as handle, torch.no_grad():
            mine = model(**single).logits[:, -1]
        assert [summary["icd"]["role"] for summary in handle.effects] == ["replaced"]
        slow = reference(case, method)(model, single, single["input_ids"][:, :0])[-1:]
        seen = torch.isfinite(slow)
        assert torch.equal(seen, torch.isfinite(mine))
        assert (mine - slow)[seen].abs().max() < 1e-5


class Spelling(Tokenizer):
    """Token 20 is the first word of a text, and so on; "w12" is token 12 beside them."""

    def __init__(self, text):
        self.words = text.split()

    def encode(self, text, add_special_tokens=False):
        return [20 + self.words.index(word) if word in self.words else token(word) for word in text.split()]

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(self.words[one - 20] if 0 <= one - 20 < len(self.words) else f"w{int(one)}" for one in ids)


VICUNA_1_1 = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@pytest.mark.parametrize("system", [VICUNA_1_1, VICUNA_1_1.replace("user", "human"), "You are a helpful assistant."])
def test_a_known_system_prompt_is_replaced_in_those_samples_that_have_it(system):
    """LLaVA-1.5 was trained with Vicuna v1.1's. The second sample of the batch has another."""
    case, model = CASES["llava"], model_of("llava")
    processor = Processor()
    processor.tokenizer = Spelling(system)
    words = processor.tokenizer.encode(system)
    single = case.split(case.batch(), 0)
    tail = single["input_ids"][0, 1:].tolist()
    fronts = [words, [token(f"w{4 + n % 10}") for n in range(len(words))]]
    ids = torch.tensor([[BOS, *front, *tail] for front in fronts])
    both = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": single["pixel_values"].repeat(2, 1, 1, 1),
    }
    method = ICD(role=ROLE, beta=0.0)
    with attach((model, processor), method) as handle, torch.no_grad():
        mine = model(**both).logits[:, -1]
    assert [summary["icd"]["role"] for summary in handle.effects] == ["replaced", "put first"]
    role = processor.tokenizer.encode(ROLE)
    for sample, front in enumerate([[BOS, *role], [BOS, *role, *fronts[1]]]):
        read = {"pixel_values": single["pixel_values"]}
        with torch.no_grad():
            first = model(input_ids=ids[sample : sample + 1], **read).logits[0, -1]
            second = model(input_ids=torch.tensor([[*front, *tail]]), **read).logits[0, -1]
        assert (mine[sample] - (2 * first - second)).abs().max() < 1e-5
        assert (first - second).abs().max() > 1e-3


def test_what_the_processors_know_is_among_the_known():
    assert VICUNA_1_1 in SYSTEMS


def test_dials_that_a_model_has_no_use_for_are_refused():
    for name in ("llava", "qwen2.5-vl"):
        with pytest.raises(CannotAct, match="before the question of a Q-Former, and .* has none. Leave where='role'"):
            attach((model_of(name), Processor()), ICD(where="question"))
    with pytest.raises(CannotAct, match="in InstructBLIP the role goes to the Q-Former. Leave system empty"):
        attach((model_of("instructblip"), Processor()), ICD(system="w1"))


def test_an_untested_family_is_refused():
    untested = (
        "icd reads the prompt twice, which is tested on llava, .*; on PaliGemma .* it is not. Use a model of one of"
    )
    with pytest.raises(CannotAct, match=untested):
        attach(tiny_models.paligemma(), ICD())


def test_a_system_prompt_that_is_not_there_is_refused():
    model, batch = model_of("llava"), CASES["llava"].batch()
    with attach((model, Processor()), ICD(system="w1 w2")), pytest.raises(CannotAct, match="system prompt 'w1 w2'"):
        model(**batch)


def test_without_a_tokenizer_it_says_so():
    model, batch = model_of("llava"), CASES["llava"].batch()
    with attach(model, ICD()), pytest.raises(CannotAct, match="processor"):
        model(**batch)


@pytest.mark.parametrize("parameters", [{"alpha": -1}, {"beta": 1.5}, {"where": "x"}, {"role": " "}, {"system": None}])
def test_wrong_dials_are_refused(parameters):
    with pytest.raises(BadParameter):
        ICD(**parameters)


def test_the_clean_up_of_captions():
    """Typed in from the official code's rules, not from ours."""
    assert cleaned('  A "Big" dog.  Is (it) there?\n') == "a big dog is it there?"
    assert cleaned(" ".join(["word"] * 60)) == " ".join(["word"] * 50)
    assert cleaned("You are a confused objects detector.") == "you are a confused objects detector"


@pytest.mark.parametrize("where", ["role", "question"])
def test_a_role_cleaned_up_is_one_without_capitals_and_stops(where):
    case, model = CASES["instructblip"], model_of("instructblip")
    batch = case.split(case.batch(), 0)

    def logits(**parameters):
        with attach((model, Processor()), ICD(where=where, beta=0.0, **parameters)), torch.no_grad():
            return model(**batch).logits[:, -1]

    shouted, plain = "A confused. DETECTOR!", "a confused detector"
    assert torch.equal(logits(role=shouted, cleanup=True), logits(role=plain))
    assert not torch.equal(logits(role=shouted), logits(role=plain))


def test_a_suffix_is_no_part_of_the_question_behind_a_role():
    case, model = CASES["instructblip"], model_of("instructblip")
    single = case.split(case.batch(), 0)
    own = single["qformer_input_ids"]
    suffix = Processor().qformer_tokenizer.batch_decode(own[:, -2:])[0]
    shorter = {**single, "qformer_input_ids": own[:, :-2], "qformer_attention_mask": torch.ones_like(own[:, :-2])}

    def second(method, inputs):
        """z2, from two mixtures of z1 and z2."""
        with torch.no_grad():
            first = model(**inputs).logits[:, -1]
            with attach((model, Processor()), method):
                return 2 * first - model(**inputs).logits[:, -1]

    method = ICD(role=ROLE, where="question", beta=0.0)
    with_suffix, without = second(method, single), second(method, shorter)
    assert (second(replace(method, suffix=suffix), single) - without).abs().max() < 1e-4
    assert (with_suffix - without).abs().max() > 1e-3


class Prepending(Spelling):
    """A tokenizer whose normaliser puts a token before every text, as SentencePiece's "▁" is put."""

    def encode(self, text, add_special_tokens=False):
        return [3, *super().encode(text, add_special_tokens)]


def test_what_a_tokenizer_puts_before_every_text_is_not_put_before_the_role():
    method, tokenizer = ICD(role=ROLE), Prepending(VICUNA_1_1)
    system = Spelling(VICUNA_1_1).encode(VICUNA_1_1)
    role = Spelling(VICUNA_1_1).encode(ROLE)
    assert method._disturbed(tokenizer, [BOS, *system, 9]) == ([BOS, *role, 9], "replaced")
    assert method._disturbed(Spelling(VICUNA_1_1), [BOS, *system, 9]) == ([BOS, *role, 9], "replaced")
    assert method._disturbed(tokenizer, [3, *system, 9]) == ([3, *role, 9], "replaced"), "one that was there stays"
