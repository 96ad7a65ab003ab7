"""OPERA against its literal reference, token for token; what it refuses; and what a user sees of it."""

import dataclasses
import warnings
from collections import Counter

import pytest
import tiny_models
import torch
from cases import CASES, model_of
from reference_opera import opera as literal
from reference_opera import reader
from torch.utils._python_dispatch import TorchDispatchMode

import vlm_anchors as va
from vlm_anchors.errors import AnchorsWarning, BadParameter, BadSetting, CannotAct, UnknownName
from vlm_anchors.generation.decodings import DECODINGS
from vlm_anchors.generation.opera import Opera
from vlm_anchors.generation.opera_search import OperaSearch, place_to_return_to
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.interventions.recorders import LastLayerAttention
from vlm_anchors.methods.clva import CLVA

END = 2
QUESTION = "Is there a dog in the image?"
everywhere = pytest.mark.parametrize("name", list(CASES))


def search(model, single, opera, length, method="none"):
    """(answer, effects) of one prompt."""
    attention = LastLayerAttention()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnchorsWarning)
        with attach(model, method, recorder=attention):
            found = OperaSearch(opera, attention)
            out = model.generate(
                **single, custom_generate=found, num_beams=opera.num_beams, max_new_tokens=length, do_sample=False
            )
    return out[0, single["input_ids"].shape[1] :].tolist(), found.effects


def single_of(name, sample=0):
    return CASES[name].split(CASES[name].batch(), sample)


def compare(name, model, single, opera, length):
    answer, effects = search(model, single, opera, length)
    case, first = CASES[name], single["input_ids"].shape[1]
    slow, rollbacks = literal(reader(case, model, single), case.layout(single).visual, first, {END}, length, opera)
    assert (answer, effects["rollbacks"]) == (list(slow), rollbacks)
    return answer, effects


@pytest.mark.grid
@everywhere
@pytest.mark.parametrize("method", ["none", "clva:target=decoder,tau=1"])
def test_off_it_is_beam_search(name, method):
    """Every token a candidate, nothing penalised: siblings in one pass give what single steps give, with a method too."""
    single, off = single_of(name), Opera(num_beams=3, candidates=100, weight=0.0, threshold=1000)
    answer, effects = search(model_of(name), single, off, 9, method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnchorsWarning)
        with attach(model_of(name), method):
            beams = model_of(name).generate(**single, num_beams=3, max_new_tokens=9, do_sample=False)
    assert answer == beams[0, single["input_ids"].shape[1] :].tolist()
    assert effects["rollbacks"] == effects["reordered"] == 0


@pytest.mark.grid
@everywhere
def test_equals_the_literal_reference(name):
    """Over tokens that are judged by the image and tokens that are judged by their columns; it is not beam search."""
    opera = Opera(num_beams=2, candidates=3, early=2, weight=200.0, scale=200.0)
    answer, effects = compare(name, model_of(name), single_of(name), opera, 6)
    assert effects["reordered"] > 0 and effects["passes"] == len(answer)
    assert answer != search(model_of(name), single_of(name), dataclasses.replace(opera, weight=0.0), 6)[0]


SUMMARY, CHAIN = 24, 20


def leaning(name):
    """A model and prompt that must go back: it counts up from token 20, and all tokens after 24 lean on it in the last layer.

    Layers add nothing to a token's embedding, so logits are a table of successors; one entry of it marks the summary token,
    whose key answers every query. Positions turn by a hundredth there and do not hide it.
    """
    case = CASES[name]
    model = case.build()
    stack, width = case.stack(model), 64
    with torch.no_grad():
        for layer in stack.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        table = torch.zeros_like(stack.get_input_embeddings().weight)
        table[:, 0] = 1.0
        for token in range(CHAIN, CHAIN + width - 2):
            table[token, 2 + token - CHAIN] = 4.0
        table[SUMMARY, 1] = 4.0
        stack.get_input_embeddings().weight.copy_(table)
        last = stack.layers[-1].self_attn
        for projection, entry, size in ((last.q_proj, 0, 40.0), (last.k_proj, 1, 1.0)):
            projection.weight.zero_()
            if projection.bias is not None:
                projection.bias.zero_()
            projection.weight[15::16, entry] = size
        head = torch.zeros_like(table)
        for token in range(CHAIN, CHAIN + 40):
            head[token + 1, 2 + token - CHAIN] = 2.0
            head[token + 2, 2 + token - CHAIN] = 1.7
            head[token + 3, 2 + token - CHAIN] = 1.3
        case.head(model).get_output_embeddings().weight = torch.nn.Parameter(head)
    single = single_of(name)
    single["input_ids"][0, -1] = CHAIN
    return model, single


@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl"])
def test_goes_back_to_the_token_after_the_one_that_all_lean_on(name):
    model, single = leaning(name)
    opera = Opera(num_beams=2, candidates=2, threshold=3, early=2)
    answer, effects = compare(name, model, single, opera, 10)
    never, _ = search(model, single, dataclasses.replace(opera, threshold=1000), 10)
    assert effects["rollbacks"] == 2 and effects["passes"] > 12
    place = never.index(SUMMARY)
    assert answer[:place] == never[:place] and answer != never


def test_the_lighter_setting_leaves_beams_empty():
    """One candidate a beam: there is one live beam, and it goes back as the reference does."""
    model, single = leaning("llava")
    _, effects = compare("llava", model, single, Opera(num_beams=3, candidates=1, threshold=3, early=2), 10)
    assert effects["rollbacks"] > 0


def test_when_to_go_back():
    opera, two = Opera(threshold=3, early=2, candidates=2), [True, True]
    history = [[0, 0], [0, 0], *[[2, 2]] * 3]
    assert place_to_return_to(history, two, opera, Counter()) is None, "three times is not more than three"
    history = [*history, [2, 2]]
    assert place_to_return_to(history, two, opera, Counter()) == 3
    assert place_to_return_to(history, two, dataclasses.replace(opera, early=3), Counter()) is None
    assert place_to_return_to([*history[:-1], [2, 1]], two, opera, Counter()) is None, "each beam must"
    assert place_to_return_to([*history[:-1], [2, 1]], [True, False], opera, Counter()) == 3, "an empty one has no say"
    returns = Counter()
    places = [place_to_return_to(history, two, opera, returns) for _ in range(5)]
    assert places == [3, 3, 2, 2, None] and returns == {3: 2, 2: 2}


def test_methods_that_edit_attention_join():
    """The penalty reads the attention that the method leaves; the method's rows are counted."""
    model, single = model_of("llava"), single_of("llava")
    seen = {}
    for method in ("none", CLVA(alpha=50.0, tau=1.0)):
        attention = LastLayerAttention(on=True)
        with attach(model, method, recorder=attention), torch.no_grad():
            model(**single)
        seen[str(method)] = float((attention.rows * attention.visual[:, None]).sum())
    plain, edited = seen.values()
    assert edited > 1.01 * plain
    attention = LastLayerAttention()
    opera = Opera(num_beams=2, candidates=2)
    with attach(model, CLVA(tau=1.0), recorder=attention) as handle:
        model.generate(**single, custom_generate=OperaSearch(opera, attention), num_beams=2, max_new_tokens=4)
        assert handle.effects[0]["clva"]["rows_edited"] == 4 + 2 * 4


@pytest.mark.parametrize("method", ["vcd", "pai", "memvr", "vista", "deco", "clva+m3id"])
def test_methods_that_change_one_next_token_are_refused(tiny, red, method):
    with pytest.raises(CannotAct, match="opera reads the candidates of a beam in one pass, and .* with beam, or opera"):
        va.ask(tiny, red, QUESTION, method=method, decoding="opera")


@pytest.mark.parametrize(
    "method", ["clearsight", "middle-layers", "pai:gamma=1", "attanchor:tau=0.05+clva:tau=1"], ids=str
)
def test_others_run(tiny, red, method):
    answer = va.ask(tiny, red, QUESTION, method=method, decoding="opera:num_beams=2,candidates=2", max_new_tokens=3)
    assert set(answer.effects) == {*(part.split(":")[0] for part in method.split("+")), "opera"}
    assert answer.effects["opera"]["passes"] == 3


def test_a_batch_is_refused_where_it_would_be_searched_as_one():
    model, batch, attention = model_of("llava"), CASES["llava"].batch(), LastLayerAttention()
    with (
        attach(model, "none", recorder=attention),
        pytest.raises(CannotAct, match="found 6 rows for 2 beams.*ask_many"),
    ):
        model.generate(**batch, custom_generate=OperaSearch(Opera(num_beams=2), attention), num_beams=2)


def test_a_cache_with_a_window_is_refused():
    import tiny_families

    family, attention = tiny_families.FAMILIES["gemma3"], LastLayerAttention()
    model, prompt = tiny_models.gemma3(), tiny_families.prompts(family, [".i."], 0)[0]
    with attach(model, "none", recorder=attention), pytest.raises(CannotAct, match="entries of the cache.*Use beam"):
        search = OperaSearch(Opera(num_beams=2), attention)
        model.generate(**tiny_families.batch(family, [prompt]), custom_generate=search, num_beams=2, max_new_tokens=3)


def test_questions_in_a_batch_are_answered_as_alone(tiny, red):
    options = {"decoding": "opera:num_beams=3,candidates=3,threshold=1,early=1", "max_new_tokens": 6}
    questions = [QUESTION, "Describe the image, please, in a few words.", "cup?"]
    alone = [va.ask(tiny, red, question, **options) for question in questions]
    together = list(va.ask_many(tiny, [(red, question) for question in questions], batch_size=3, **options))
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert [one.effects for one in together] == [one.effects for one in alone]
    assert alone[0].decoding == "opera:num_beams=3,threshold=1,candidates=3,early=1" and alone[0].yes_no is not None


def test_what_it_cannot_join(tiny, red):
    with pytest.raises(CannotAct, match="cannot be streamed"):
        va.stream(tiny, red, QUESTION, decoding="opera")
    with pytest.raises(BadSetting, match="opera reads attention itself"):
        va.ask(tiny, red, QUESTION, decoding="opera", shares=True)


def test_without_an_image_it_says_so():
    model, attention = model_of("llava"), LastLayerAttention()
    words = torch.tensor([[1, 30, 31, 32]])
    with attach(model, "none", recorder=attention), pytest.warns(AnchorsWarning, match="searches without its penalty"):
        found = OperaSearch(Opera(num_beams=2, candidates=2), attention)
        model.generate(input_ids=words, custom_generate=found, num_beams=2, max_new_tokens=3, do_sample=False)
    assert found.effects["reordered"] == 0


def test_no_attention_matrix_of_the_prompt_is_made():
    """With sdpa nothing of the size rows x keys of the prompt is allocated for the recorder."""
    model, single = model_of("llava"), single_of("llava")
    rows = single["input_ids"].shape[1]

    class Largest(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape[-2:] == (rows, rows):
                self.seen = max(self.seen, out.shape[:-2].numel())
            return out

    with Largest() as largest:
        search(model, single, Opera(num_beams=2, candidates=2), 2)
    assert largest.seen <= 2, "the causal mask, one a beam"


def test_specs_and_presets():
    assert DECODINGS.build("opera") == Opera() == Opera(5, 50.0, 15, 5, 1.0, 10)
    assert DECODINGS.build("opera:preset=llava-1.5-7b/pope") == Opera()
    assert DECODINGS.build("opera:preset=instructblip-7b/fast,weight=2") == Opera(threshold=25, candidates=1, weight=2)
    assert va.Opera.preset("shikra") == va.Opera()
    for preset in Opera.presets:
        assert preset.source == ("ours" if preset.model == "any" else "official-code")
        opera = DECODINGS.build(f"opera:preset={preset.name}")
        assert DECODINGS.build(opera.spec()) == opera
    with pytest.raises(UnknownName, match="opera has no preset 'llava/slow'"):
        Opera.preset("llava/slow")
    with pytest.raises(BadParameter, match="opera has no parameter 'beams'|opera has no .*'beams'"):
        DECODINGS.build("opera:beams=3")


@pytest.mark.parametrize(
    "parameters", [{"num_beams": 1}, {"scale": 0}, {"threshold": 0}, {"candidates": 0}, {"weight": -1}, {"early": 0.5}]
)
def test_wrong_parameters_are_refused(parameters):
    with pytest.raises(BadParameter, match=f"Opera.{next(iter(parameters))} must be"):
        Opera(**parameters)
