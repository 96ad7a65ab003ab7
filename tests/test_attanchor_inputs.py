"""What goes into AttAnchor: which words may anchor, told from templates; and every input that cannot be prepared."""

import warnings

import pytest
import tiny as small
import tiny_qformer
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import DynamicCache, PreTrainedTokenizerFast

import vlm_anchors as va
from vlm_anchors.apps.cli import main
from vlm_anchors.errors import AnchorsWarning, BadImage, BadModel, BadParameter, CannotAct
from vlm_anchors.inputs.prompt_builder import Sample, prepare
from vlm_anchors.interventions.attachment import attach
from vlm_anchors.interventions.insertion.batch import read_prompts
from vlm_anchors.interventions.insertion.chat_spans import read_template, user_words
from vlm_anchors.interventions.insertion.user_tokens import blank_ids

QUESTION = "Is there a dog in the image?"
METHODS = [va.AttAnchor(tau=0.1), va.AttAnchorI2T(tau=0.1)]


@pytest.fixture
def inputs(tiny, red):
    return prepare(tiny, [Sample((red,), QUESTION, "1"), Sample((red,), "Is it a very large red dog?", "2")]).tensors


def words_of(vlm, inputs, **arguments):
    """The words that may anchor, sample by sample."""
    prompts = read_prompts("attanchor", vlm, inputs, **arguments)
    decode = prompts.tokenizer.decode
    return [
        [decode([int(prompts.ids[sample, place])]) for place in places[valid]]
        for sample, (places, valid) in enumerate(zip(prompts.words.place, prompts.words.valid, strict=True))
    ]


def test_the_user_s_words_and_no_others(tiny, inputs):
    assert words_of(tiny, inputs) == [
        ["is", "there", "a", "dog", "in", "the", "image", "?"],
        ["is", "it", "a", "very", "large", "red", "dog", "?"],
    ]
    template = ["A", "chat", "about", "an", "image", ".", "USER:"]
    assert words_of(tiny, inputs, tokens="all")[0] == [*template, *words_of(tiny, inputs)[0], "ASSISTANT:"]


def conversation(vlm, red, turns, **more):
    roles = ("user", "assistant") * 3
    messages = [
        {"role": role, "content": [*([{"type": "image"}] if i == 0 else []), {"type": "text", "text": text}]}
        for i, (role, text) in enumerate(zip(roles, turns, strict=False))
    ]
    messages = [*more.pop("before", []), *messages]
    text = vlm.processor.apply_chat_template(messages, add_generation_prompt=len(turns) % 2 == 1)
    return dict(vlm.processor(text=[text], images=[[red]], return_tensors="pt", **more))


def test_answers_of_earlier_turns_are_no_words(tiny, red):
    inputs = conversation(tiny, red, ["Is there a dog?", "Yes, a large one.", "Where is it?"])
    words = [word.lower() for word in words_of(tiny, inputs)[0]]
    assert words == ["is", "there", "a", "dog", "?", "where", "is", "it", "?"]


def test_in_training_only_the_first_question_anchors(tiny, red):
    """With labels, words from the first answer on are out: a later question would be seen before the first answer."""
    inputs = conversation(tiny, red, ["Is there a dog?", "Yes, a large one.", "Where is it?", "Left."])
    ids, end = inputs["input_ids"][0].tolist(), tiny.processor.tokenizer.eos_token_id
    start = ids.index(tiny.processor.tokenizer.convert_tokens_to_ids("ASSISTANT:")) + 1
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[0, start : ids.index(end) + 1] = inputs["input_ids"][0, start : ids.index(end) + 1]
    assert [word.lower() for word in words_of(tiny, inputs, labels=labels)[0]] == ["is", "there", "a", "dog", "?"]
    last_only = torch.full_like(labels, -100)
    last_only[0, -2:] = inputs["input_ids"][0, -2:]
    assert [word.lower() for word in words_of(tiny, inputs, labels=last_only)[0]] == ["is", "there", "a", "dog", "?"]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_no_answer_token_leaks(tiny, red, method):
    """Changing the answer changes nothing before it, and no copy of it stands anywhere."""
    first = conversation(tiny, red, ["Is there a dog?", "Yes, there is a large dog on the grass."])
    end = int((first["input_ids"][0] == tiny.processor.tokenizer.convert_tokens_to_ids("ASSISTANT:")).nonzero()[0]) + 1
    other = {name: value.clone() for name, value in first.items()}
    other["input_ids"][0, end:] = other["input_ids"][0, end:].flip(0)
    made = []
    for inputs in (first, other):
        labels = inputs["input_ids"].clone()
        labels[:, :end] = -100
        anchored = method.prepare(tiny, inputs, labels=labels)
        assert anchored.effects[0][method.spec().split(":")[0]]["tokens_inserted"] > 0
        grown = anchored["input_ids"].shape[1] - inputs["input_ids"].shape[1]
        assert torch.equal(anchored["labels"][0, end + grown :], inputs["input_ids"][0, end:])
        assert (anchored["labels"][0, : end + grown] == -100).all()
        made.append(anchored["input_ids"][0, : end + grown])
    assert torch.equal(made[0], made[1])


def test_an_own_system_prompt_is_no_word(tiny, red):
    system = [{"role": "system", "content": [{"type": "text", "text": "Be short and clear."}]}]
    inputs = conversation(tiny, red, ["Is there a dog?"], before=system)
    assert [word.lower() for word in words_of(tiny, inputs)[0]] == ["is", "there", "a", "dog", "?"]


TEMPLATES = {
    "chatml": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "<|im|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    ),
    "plain roles": (
        "<s>{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else 'ASSISTANT: ' }}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<|im|>\n{% else %}{{ c['text'] }} {% endif %}{% endfor %}"
        "{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    "instruction marks": (
        "<s>{% for m in messages %}{% if m['role'] == 'user' %}[INST]{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "<|im|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}[/INST]{% else %}{{ m['content'][0]['text'] }}</s>{% endif %}"
        "{% endfor %}"
    ),
    "one turn only": (
        "<s>{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}"
        "Question: {{ messages[0]['content'][-1]['text'] }}"
        "{% if add_generation_prompt %} Answer:{% endif %}"
    ),
}  # fmt: skip


def byte_tokenizer():
    """A byte-level tokenizer as most models have one: spaces and line breaks stick to words."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    texts = [
        "USER: ASSISTANT: Question: Answer: system You help. user assistant <think> Is there a dog? Yes there is. "
    ] * 3
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|im|>", "[INST]", "[/INST]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, vocab_size=400)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


class TextProcessor:
    """A processor as far as templates go."""

    def __init__(self, template):
        self.tokenizer, self.chat_template = byte_tokenizer(), template

    def apply_chat_template(self, messages, **options):
        return self.tokenizer.apply_chat_template(messages, chat_template=self.chat_template, **options)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("turns", [["Is there a dog, or USER of one?"], ["Is it red?", "Yes.", "And\nbig?"]])
def test_templates_of_all_kinds_are_told_from_the_user_s_words(name, turns):
    if name == "one turn only" and len(turns) > 1:
        return
    processor = TextProcessor(TEMPLATES[name])
    tokenizer = processor.tokenizer
    template = read_template(processor, lambda ids: blank_ids(tokenizer, ids))
    messages = [
        {"role": role, "content": [*([{"type": "image"}] * (i == 0)), {"type": "text", "text": text}]}
        for i, (role, text) in enumerate(zip(("user", "assistant", "user"), turns, strict=False))
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    image = tokenizer.convert_tokens_to_ids("<|im|>")
    compared = (ids != image) & ~torch.isin(ids, torch.tensor(sorted(blank_ids(tokenizer, ids.tolist())) or [-1]))
    words = user_words(template, ids, compared, first_only=False)
    assert "".join(tokenizer.decode(ids[words]).split()) == "".join("".join(turns[::2]).split())
    first = user_words(template, ids, compared, first_only=True)
    assert "".join(tokenizer.decode(ids[first]).split()) == "".join(turns[0].split())


@pytest.mark.parametrize("plain", ["USER: {images}{question} ASSISTANT:", "{images}answer en {question}", "{question}"])
def test_without_a_chat_template_the_family_s_own_prompt_is_read(plain):
    processor = TextProcessor(None)
    tokenizer = processor.tokenizer
    template = read_template(processor, lambda ids: blank_ids(tokenizer, ids), plain)
    ids = torch.tensor(
        tokenizer(plain.format(images="<|im|>", question="Is it a dog?"), add_special_tokens=False).input_ids
    )
    compared = ~torch.isin(
        ids, torch.tensor([tokenizer.convert_tokens_to_ids("<|im|>"), *blank_ids(tokenizer, ids.tolist())])
    )
    words = user_words(template, ids, compared, first_only=True)
    assert "".join(tokenizer.decode(ids[words]).split()) == "Isitadog?"


def test_eval_prepares_once(tiny, red):
    from vlm_anchors.evaluation.runner.answer import answer_batch
    from vlm_anchors.generation.plan import GenerationPlan

    run = GenerationPlan.of(tiny, "attanchor:tau=0.1+clva:tau=1", None, 4)
    asked = va.ask(tiny, red, QUESTION, method="attanchor:tau=0.1+clva:tau=1", max_new_tokens=4)
    (answer,) = answer_batch(run, [Sample((red,), QUESTION, "1")], reuse=False)
    assert answer.tokens == asked.tokens and answer.effects == asked.effects


def test_a_prompt_of_another_form_counts_as_the_user_s_with_a_warning(tiny, red):
    image = tiny.processor.image_token
    inputs = dict(tiny.processor(text=[f"{image} is there a dog"], images=[[red]], return_tensors="pt"))
    with pytest.warns(AnchorsWarning, match="does not follow the model's chat template"):
        assert words_of(tiny, inputs) == [["is", "there", "a", "dog"]]


def test_a_bare_model_warns_and_takes_every_word_or_those_it_is_told(tiny, inputs):
    with pytest.warns(AnchorsWarning, match=r"Pass \(model, processor\), or anchorable="):
        va.AttAnchor(tau=0.1).prepare(tiny.model, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = inputs["input_ids"] == inputs["input_ids"][0, -3]
        anchored = va.AttAnchor(tau=0.0).prepare(tiny.model, inputs, anchorable=chosen)
    tokens = {anchor["token"] for summary in anchored.effects for anchor in summary["attanchor"]["anchors"]}
    assert tokens == {int(inputs["input_ids"][0, -3])}


def test_pair_and_vlm_are_the_same(tiny, inputs):
    one = va.AttAnchor(tau=0.1).prepare(tiny, inputs)
    two = va.AttAnchor(tau=0.1).prepare((tiny.model, tiny.processor), inputs)
    assert torch.equal(one["input_ids"], two["input_ids"]) and one.effects == two.effects


@pytest.mark.parametrize(
    "spec", ["attanchor:tau=0.1", "attanchor-i2t:tau=0.1,pause_tokens=2", "attanchor:tau=0.1+clva:tau=1"]
)
@pytest.mark.parametrize("decoding", ["greedy", "beam:num_beams=3"])
def test_ask_tells_the_anchors(tiny, red, spec, decoding):
    answer = va.ask(tiny, red, QUESTION, method=spec, decoding=decoding, max_new_tokens=4)
    summary = answer.effects[spec.split(":")[0]]
    assert summary["tokens_inserted"] >= len(summary["anchors"]) > 0
    assert {"word", "row", "column", "cosine"} <= set(summary["anchors"][0])
    assert ("clva" in answer.effects) == ("clva" in spec)


def test_ask_with_the_method_off_says_so_and_answers_as_the_plain_model(tiny, red):
    plain = va.ask(tiny, red, QUESTION, max_new_tokens=6)
    off = va.ask(tiny, red, QUESTION, method="attanchor:tau=1.0", max_new_tokens=6)
    assert off.tokens == plain.tokens and off.effects == {"attanchor": {"tokens_inserted": 0, "anchors": []}}


@pytest.mark.parametrize("tau", [-0.1, 1.5, "much", float("nan"), True])
@pytest.mark.parametrize("method", [va.AttAnchor, va.AttAnchorI2T])
def test_tau_outside_its_range(method, tau):
    with pytest.raises(BadParameter, match=r"tau must be a number from 0 to 1; found"):
        method(tau=tau)


def test_bad_dials_at_the_command_line(red, tmp_path, capsys):
    red.save(tmp_path / "red.png")
    for spec, sentence in (
        ("attanchor:tau=1.5", "AttAnchor.tau must be a number from 0 to 1; found 1.5"),
        ("attanchor-i2t:pause_tokens=-1", "AttAnchorI2T.pause_tokens must be a whole number from 0 to 1000; found -1"),
        ("attanchor+attanchor-i2t", "attanchor and attanchor-i2t cannot run together"),
    ):
        assert main(["ask", str(tmp_path / "red.png"), QUESTION, "--method", spec]) == 2
        summary = capsys.readouterr()
        assert sentence in summary.err and summary.out == ""


@pytest.mark.parametrize("parameters", [{"order": "up"}, {"tokens": "some"}, {"images": "none"}, {"mrope": "2d"}])
def test_dials_that_do_not_exist(parameters):
    with pytest.raises(BadParameter, match="must be one of"):
        va.AttAnchor(**parameters)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_bad_inputs_are_told_in_a_sentence(tiny, inputs, method):
    def refused(error, match, vlm=tiny, without=(), **changed):
        arguments = {name: value for name, value in {**inputs, **changed}.items() if name not in without}
        with pytest.raises(error, match=match):
            method.prepare(vlm, arguments)

    ids = inputs["input_ids"]
    refused(BadImage, "needs an image; found none", without=["pixel_values"])
    refused(
        BadImage, "needs an image; found none", input_ids=ids.masked_fill(ids == tiny.model.config.image_token_id, 9)
    )
    refused(CannotAct, "placeholders for image tokens, but the images give 64", pixel_values=inputs["pixel_values"][:1])
    refused(CannotAct, "rewrites input_ids", without=["input_ids"], inputs_embeds=torch.zeros(2, 3, 48))
    refused(CannotAct, r"labels of \(2, \d+\), one for each token", labels=ids[:, 1:])
    refused(
        CannotAct, r"attention_mask of \(2, \d+\), one value a token", attention_mask=inputs["attention_mask"][:, 1:]
    )
    refused(CannotAct, "all of it is chat template", labels=ids)
    refused(BadModel, "Expected a model, a .* pair", vlm="scenes")
    with pytest.raises(CannotAct, match="anchorable as a boolean tensor"):
        method.prepare(tiny, inputs, anchorable=torch.ones(2, 3))
    with pytest.raises(CannotAct, match="prepared before"):
        method.prepare(tiny, method.prepare(tiny, inputs))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_warm_cache_is_refused(tiny, inputs, method):
    cache = DynamicCache()
    with torch.no_grad():
        tiny.model(**inputs, past_key_values=cache)
    with pytest.raises(CannotAct, match=r"the cache already holds \d+ tokens"):
        method.prepare(tiny, {**inputs, "past_key_values": cache})
    with attach(tiny, method), pytest.raises(CannotAct, match="the cache already holds"):
        tiny.model(**{**inputs, "past_key_values": cache, "attention_mask": None})


@pytest.mark.parametrize("method", [va.AttAnchor(tau=0.9999), va.AttAnchorI2T(tau=0.9999)], ids=str)
def test_nothing_inserted_is_told_to_users_and_not_at_each_training_step(tiny, inputs, method):
    with pytest.warns(
        AnchorsWarning, match=r"inserted nothing: .*best cosine 0\.\d\d\)\. Lower tau; va\.calibrate finds one"
    ):
        method.prepare(tiny, inputs)
    with attach(tiny, method), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        tiny.model(**inputs)
    ids = inputs["input_ids"]
    early = (ids != tiny.model.config.image_token_id).int().cumsum(1) < 8
    with pytest.warns(AnchorsWarning, match="every word of these prompts stands before the image"):
        method.prepare(tiny, inputs, anchorable=early & (ids > 6))


def test_a_prompt_that_is_all_template(tiny, red):
    inputs = conversation(tiny, red, [" "])
    with pytest.raises(CannotAct, match="Prompt 1 holds no word of a user"):
        va.AttAnchor().prepare(tiny, inputs)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_models_with_learned_queries_are_refused_with_the_reason(method):
    model = tiny_qformer.instructblip()
    with pytest.raises(CannotAct, match="learned queries, which stand for no place in the image"):
        method.prepare(model, {"input_ids": torch.ones(1, 3, dtype=torch.long)})
    with pytest.raises(CannotAct, match="learned queries, which stand for no place in the image"):
        attach(model, method)


def test_both_directions_together_are_refused():
    with pytest.raises(CannotAct, match="attanchor and attanchor-i2t cannot run together"):
        attach(small.llava(layers=3), METHODS)


def test_grids_that_are_missing_are_asked_for():
    import tiny_families
    import tiny_processors

    family = tiny_families.FAMILIES["qwen2-vl"]
    model, batch = family.build(), tiny_families.batch(family, tiny_families.prompts(family, [".i."]))
    pair, words = (model, tiny_processors.stand_in("qwen2-vl")), batch["input_ids"] >= 20
    ready = va.AttAnchor(tau=0.999).prepare(pair, batch, anchorable=words)
    encoded = {"input_ids": batch["input_ids"], "mm_encoder_outputs": dict(ready["mm_encoder_outputs"])}
    with pytest.raises(CannotAct, match="Expected image_grid_thw beside the images"):
        va.AttAnchor(tau=0.0).prepare(pair, encoded, anchorable=words)
