"""Several turns, questions without an image, videos; models in every form that a user has them in."""

import warnings

import numpy as np
import pytest
import tiny_processors
import torch
from test_families import model_of
from transformers import BatchFeature

import vlm_anchors as va
from vlm_anchors.errors import AnchorsWarning, BadImage, BadModel, BadQuestion, BadSetting, CannotAct, MissingPackage
from vlm_anchors.inputs.chat import read_chat

QUESTION = "Is there a dog in the image?"


def turn(role, *parts):
    return {"role": role, "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def talk(image):
    return [
        {"role": "system", "content": "Answer in one word."},
        turn("user", {"type": "image", "image": image}, "Is there a cup?"),
        turn("assistant", "Yes."),
        turn("user", QUESTION),
    ]


def by_transformers(vlm, messages, images):
    """What a user of transformers would write."""
    prompt = vlm.processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = vlm.processor(text=[prompt], images=[images] if images else None, return_tensors="pt")
    rows = vlm.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    return prompt, rows[0, inputs["input_ids"].shape[1] :].tolist()


def test_several_turns_are_what_transformers_answers(tiny, red):
    answer = va.ask(tiny, messages=talk(red), max_new_tokens=8)
    placed = [
        turn("system", "Answer in one word."), turn("user", {"type": "image"}, "Is there a cup?"),
        turn("assistant", "Yes."), turn("user", QUESTION),
    ]  # fmt: skip
    assert (answer.prompt, list(answer.tokens)) == by_transformers(tiny, placed, [red])
    assert "".join(va.stream(tiny, messages=talk(red), max_new_tokens=8)).strip() == answer.text


def test_a_question_without_an_image_is_what_transformers_answers(tiny):
    answer = va.ask(tiny, question="Who are you?", max_new_tokens=8)
    assert (answer.prompt, list(answer.tokens)) == by_transformers(tiny, [turn("user", "Who are you?")], [])


def test_methods_read_chats(tiny, red):
    """Anchors are words of users alone, of any turn; the image is found where its turn mentions it."""
    plain = va.ask(tiny, messages=talk(red), max_new_tokens=4)
    clva = va.ask(tiny, messages=talk(red), method="clva:tau=1.5", max_new_tokens=4)
    assert clva.effects["clva"]["rows_edited"] > 0 and len(clva.effects["clva"]["anchors"]["positive"]) == 1
    assert clva.prompt == plain.prompt
    anchored = va.ask(tiny, messages=talk(red), method="attanchor:tau=0", max_new_tokens=4)
    words = {anchor["word"].strip() for anchor in anchored.effects["attanchor"]["anchors"]}
    assert {"cup", "dog"} <= words and not {"Answer", "word", "Yes", "one"} & words
    with pytest.raises(CannotAct, match="has no form for conversations"):
        va.ask(tiny, messages=talk(red), method="vicrop", max_new_tokens=2)


@pytest.mark.filterwarnings("ignore:No visual tokens")
def test_words_alone_leave_methods_nothing_to_do(tiny):
    plain = va.ask(tiny, question="Who are you?", max_new_tokens=4)
    for method in ("clva", "vcd", "pai"):
        assert va.ask(tiny, question="Who are you?", method=method, max_new_tokens=4).tokens == plain.tokens
    with pytest.warns(AnchorsWarning, match="A question without an image: attanchor leaves it as it is"):
        assert va.ask(tiny, question="Who are you?", method="attanchor", max_new_tokens=4).tokens == plain.tokens


def test_one_turn_is_the_same_question(tiny, red):
    """Whichever way it is written: prompt, noise of sampling, and methods that need the image."""
    messages = [turn("user", {"type": "image", "image": red}, QUESTION)]
    for method, decoding in (("none", "nucleus:seed=3"), ("clva", "greedy")):
        one, other = (
            va.ask(tiny, *what, **named, method=method, decoding=decoding, max_new_tokens=6)
            for what, named in (((red, QUESTION), {}), ((), {"messages": messages}))
        )
        assert (one.tokens, one.prompt, one.effects) == (other.tokens, other.prompt, other.effects)
    later = [turn("user", QUESTION, {"type": "image", "image": red})]
    assert va.ask(tiny, messages=later, max_new_tokens=1).prompt.endswith("<image>") is False


@pytest.mark.filterwarnings("ignore:No visual tokens")
@pytest.mark.filterwarnings("ignore:A question without an image")
@pytest.mark.parametrize("method", ["none", "clva:tau=1.5", "attanchor:tau=0.05"])
def test_a_mixed_batch_answers_one_by_one(tiny, red, method):
    samples = [
        (red, QUESTION),
        {"messages": talk(red)},
        (None, "Who are you?"),
        talk(red)[:2],
        ([red, red], "What is in both?", "a name"),
        {"question": "Who?", "sample_id": "x"},
    ]
    named = [
        {"image": red, "question": QUESTION}, samples[1], {"question": "Who are you?"}, {"messages": samples[3]},
        {"image": [red, red], "question": "What is in both?", "sample_id": "a name"}, samples[5],
    ]  # fmt: skip
    how = {"method": method, "max_new_tokens": 4, "decoding": "nucleus:seed=1"}
    alone = [va.ask(tiny, **one, **how) for one in named]
    together = list(va.ask_many(tiny, samples, batch_size=4, **how))
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    assert [one.effects for one in together] == [one.effects for one in alone]


def test_a_pair_and_a_pipeline_are_asked_like_what_load_returns(tiny, red):
    import transformers as hf

    pair = tiny.model, tiny.processor
    pipe = hf.pipeline("image-text-to-text", model=tiny.model, processor=tiny.processor, device="cpu")
    expected = va.ask(tiny, red, QUESTION, method="clva", max_new_tokens=4)
    for model in (pair, list(pair), pipe):
        assert va.ask(model, red, QUESTION, method="clva", max_new_tokens=4).tokens == expected.tokens
        assert next(va.ask_many(model, [(red, QUESTION)], method="clva", max_new_tokens=4)).tokens == expected.tokens
        assert "".join(va.stream(model, red, QUESTION, method="clva", max_new_tokens=4)).strip() == expected.text
    assert va.load(pipe).model is tiny.model
    messages = [turn("user", {"type": "image", "image": red}, QUESTION)]

    def asked():
        said = pipe(text=messages, return_full_text=False, max_new_tokens=4, do_sample=False)
        return said[0]["generated_text"]

    plain = asked()
    with va.attach(pipe, "clva:alpha=20") as handle:
        steered = asked()
    assert handle.effects[0]["clva"]["rows_edited"] > 0 and steered != plain and asked() == plain


def test_what_is_no_model_is_named(tiny, red):
    import transformers as hf

    for model, error, sentence in (
        ("scenes", BadSetting, r"found str. va.load\('scenes'\) makes it"),
        (tiny.model, BadSetting, r"A model comes with its processor: \(model, processor\)"),
        ((tiny.model, tiny.processor, 1), BadModel, "Expected a .model, processor. pair"),
        ((tiny.processor, tiny.model), BadModel, "a transformers model and its processor; found"),
    ):
        with pytest.raises(error, match=sentence):
            va.ask(model, red, QUESTION)
    text = object.__new__(hf.TextGenerationPipeline)
    text.task, text.processor = "text-generation", None
    for use in (lambda: va.ask(text, red, QUESTION), lambda: va.attach(text, "clva"), lambda: va.load(text)):
        with pytest.raises(BadModel, match="a pipeline for images and text.*found one for 'text-generation'"):
            use()


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"messages": [turn("user", "a?")], "question": "b?"}, BadSetting, "messages alone.*found messages and question"),
        ({"messages": [turn("user", "a?")], "image": "x.png"}, BadSetting, "found messages and image. Put all into"),
        ({"messages": []}, BadQuestion, "Expected messages, a list of one or more turns"),
        ({"messages": "Is there a dog?"}, BadQuestion, "Expected messages, a list"),
        ({"messages": [{"role": "human", "content": "a?"}]}, BadQuestion, r"messages\[0\] has the role 'human'; .* user"),
        ({"messages": [{"role": "user"}]}, BadQuestion, r"messages\[0\].content is (empty|of type)"),
        ({"messages": [turn("user", "a?"), turn("assistant", "b")]}, BadQuestion, "The last message must be the user's"),
        ({"messages": [turn("user", {"type": "image"}, "a?")]}, BadQuestion, "holds nothing. Expected it in the part itself"),
        ({"messages": [turn("user", {"type": "audio", "audio": "a.wav"}, "a?")]}, BadQuestion, "'audio'; expected one of text"),
        ({"messages": [turn("user", {"type": "image", "path": "gone.png"}, "a?")]}, BadImage, r"\[0\].content: No image at gone"),
        ({"messages": [turn("user", "what is <image>?")]}, BadQuestion, "the model's own mark for an image"),
        ({"image": [turn("user", "a?")]}, BadSetting, r"found a conversation. Pass it by name"),
        ({"image": "Is there a dog?"}, BadQuestion, r"There is no question. Expected ask\(vlm, image, question\)"),
        ({}, BadQuestion, "There is no question"),
        ({"video": ["x"], "question": "a?"}, BadImage, "No image at x"),
        ({"video": "gone.mp4", "question": "a?"}, BadImage, "No video at 'gone.mp4'"),
        ({"video": 3, "question": "a?"}, BadImage, "Expected a video as a path, a list of frames .* found int"),
        ({"video": np.zeros((2, 4, 4)), "question": "a?"}, BadImage, r"found \(2, 4, 4\) of float64"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(tiny, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        va.ask(tiny, **arguments)


def test_samples_that_cannot_be_asked_are_numbered(tiny, red):
    good = (red, QUESTION)
    for bad, sentence in (
        ({"quesion": "a?"}, "Sample 2: a sample has no field 'quesion'. Did you mean 'question'"),
        ({"image": red}, "Sample 2: There is no question"),
        ({"messages": talk(red), "question": "a?"}, "Sample 2: Expected messages alone"),
        ({"messages": [{"role": "user", "content": 3}]}, r"Sample 2: messages\[0\].content is of type int"),
    ):
        answers = va.ask_many(tiny, [good, bad, good], max_new_tokens=1)
        assert next(answers).tokens
        with pytest.raises((BadSetting, BadQuestion), match=sentence):
            next(answers)


def test_a_model_without_videos_says_so(tiny, red):
    with pytest.raises(BadImage, match="takes no videos. Ask about a few frames as images"):
        va.ask(tiny, video=[red, red], question="What happens?")


class Frames:
    """What Qwen's video processor makes, of frames of 8 x 12 patches: it is torchvision's part of the real one."""

    merge_size, temporal_patch_size, model_input_names = 2, 2, ["pixel_values_videos", "video_grid_thw"]
    do_sample_frames = True
    valid_kwargs = None

    def __call__(self, videos, do_sample_frames=True, **named):
        assert not do_sample_frames
        grids, pixels = [], []
        for video in videos:
            grids.append([len(video) // 2, 8, 12])
            mean = torch.tensor([np.asarray(frame).mean() / 255 for frame in video]).mean()
            pixels.append(mean + 0.1 * torch.arange(len(video) // 2 * 96 * 96).view(-1, 96).sin())
        metadata = [type("Metadata", (), {"sampled_fps": 2.0})() for _ in videos]
        return BatchFeature(
            {
                "pixel_values_videos": torch.cat(pixels),
                "video_grid_thw": torch.tensor(grids),
                "video_metadata": metadata,
            }
        )


def with_videos():
    processor = tiny_processors.qwen2_5_vl()
    processor.chat_template = (
        "w30 {% for m in messages %}{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }} "
        "{% else %}<|vision_start|><|{{ part['type'] }}_pad|><|vision_end|> {% endif %}{% endfor %}{% endfor %}w31"
    )
    vlm = va.load((model_of("qwen2.5-vl"), processor))
    processor.video_processor = Frames()
    return vlm


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_video_is_asked_where_the_family_takes_one(red):
    vlm, frames = with_videos(), [red.resize((48, 32))] * 4
    answer = va.ask(vlm, video=frames, question="w40 w41", method="clva:tau=1.5", max_new_tokens=3)
    inputs = vlm.processor(text=[answer.prompt], videos=[frames], do_sample_frames=False, return_tensors="pt")
    with va.attach(vlm, "clva:tau=1.5"):
        rows = vlm.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert list(answer.tokens) == rows[0, inputs["input_ids"].shape[1] :].tolist()
    assert answer.effects["clva"]["rows_edited"] > 0
    parts = [{"type": "video", "video": frames}, "w40 w41"]
    again = va.ask(vlm, messages=[turn("user", *parts)], method="clva:tau=1.5", max_new_tokens=3)
    array = np.stack([np.asarray(frame) for frame in frames])
    third = va.ask(vlm, video=array, question="w40 w41", method="clva:tau=1.5", max_new_tokens=3)
    assert answer.tokens == again.tokens == third.tokens
    both = list(va.ask_many(vlm, [{"video": frames, "question": "w40 w41"}, (red, "w43")], max_new_tokens=3))
    assert both[1].tokens == va.ask(vlm, red, "w43", max_new_tokens=3).tokens


def test_a_family_with_videos_names_the_package_that_is_missing(red, monkeypatch):
    vlm = with_videos()
    vlm.processor.video_processor = None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="prepares videos with torchvision, which is not installed"):
        va.ask(vlm, video=[red] * 4, question="w40")


def test_other_spellings_of_parts(red, tmp_path):
    """OpenAI's data URLs, transformers' `path` and `url`, text as the whole content."""
    import base64

    file = tmp_path / "red.png"
    red.save(file)
    url = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    for part in (
        {"type": "image", "path": str(file)}, {"type": "image", "url": str(file)}, {"type": "image", "image": file},
        {"type": "image_url", "image_url": {"url": url}}, {"type": "image", "image": file.read_bytes()},
    ):  # fmt: skip
        found = read_chat([turn("user", part, "a?")])
        assert found.images[0].tobytes() == red.tobytes() and found.is_question
    with pytest.raises(BadImage, match="Download the image first"):
        read_chat([turn("user", {"type": "image", "url": "https://x.org/a.png"}, "a?")])


def test_settings_of_a_pair_are_refused(tiny):
    """A loaded model is taken as it is: a setting beside it would be lost without a word."""
    for name, value in (("dtype", "bfloat16"), ("device", "cpu"), ("quantization", "4bit"), ("max_pixels", 1000)):
        with pytest.raises(BadSetting, match=f"taken as it is, so {name} has no effect"):
            va.load((tiny.model, tiny.processor), **{name: value})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert va.load((tiny.model, tiny.processor)).model is tiny.model


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda vlm, red: next(va.ask_many(vlm, None)), BadSetting, "Expected a list of .* found NoneType"),
        (lambda vlm, red: next(va.ask_many(vlm, {"image": red})), BadSetting, "found dict. Put it into a list"),
        (lambda vlm, red: va.calibrate(vlm, (red, QUESTION)), BadSetting, r"Sample 1: expected \(image, question\)"),
        (lambda vlm, red: va.calibrate(vlm, None), BadSetting, "found NoneType. Put it into a list"),
        (lambda vlm, red: va.calibrate(vlm, [(red, QUESTION), (None, "a?")]), BadSetting, "Sample 2 has no image"),
        (lambda vlm, red: va.calibrate(vlm, [(red, QUESTION)], tokens="bad"), BadSetting, "must be 'user' or 'all'"),
        (lambda vlm, red: va.calibrate(vlm, [(red, QUESTION)], batch_size=0), BadSetting, "batch_size must be a whole"),
        (lambda vlm, red: va.report([]), BadSetting, "Expected one or more RUN folders"),
        (lambda vlm, red: va.load(vlm.model), BadModel, "found a LlavaForConditionalGeneration.$"),
        (lambda vlm, red: va.evaluate("scenes", "pope", "o", data="d", images="i"), BadSetting, "found str. va.load"),
        (lambda vlm, red: va.ask(vlm, messages={"role": "user"}), BadQuestion, "one or more turns; found dict"),
        (lambda vlm, red: va.ask(vlm, messages=[{"role": "user", "content": {"a": 1}}]), BadQuestion, "is of type dict"),
    ],
)  # fmt: skip
def test_arguments_of_another_kind(tiny, red, call, error, sentence):
    with pytest.raises(error, match=sentence):
        call(tiny, red)


def test_what_was_loaded_can_be_loaded_again(tiny):
    assert va.load(tiny) is tiny
    with pytest.raises(BadSetting, match="so dtype has no effect"):
        va.load(tiny, dtype="float16")
