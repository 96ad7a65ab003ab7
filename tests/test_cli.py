"""The command line as a user meets it: stdout, stderr and the exit code."""

import json
import subprocess
import sys

import pytest

from vlm_anchors.apps.cli import main


@pytest.fixture
def image(tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    return str(tmp_path / "red.png")


@pytest.fixture
def run(capsys, tiny_folder):
    """Runs a command in this process: (exit code, stdout, stderr). MODEL stands for the tiny model's folder."""

    def run(*arguments):
        code = main([str(tiny_folder) if each == "MODEL" else str(each) for each in arguments])
        return code, *capsys.readouterr()

    return run


def test_ask(run, image):
    code, out, err = run("ask", image, "Is there a dog?", "--model", "MODEL", "--max-new-tokens", 3)
    assert code == 0
    assert len(out.strip().splitlines()) == 1
    assert err == ""


def test_ask_says_what_the_method_did(run, image):
    code, out, err = run("ask", image, "cup?", "--model", "MODEL", "--method", "clva:tau=1", "--max-new-tokens", 3)
    assert code == 0
    assert out.strip()
    assert err.startswith("clva:tau=1: rows edited ")


def test_ask_json_is_one_object(run, image):
    arguments = [
        "--model",
        "MODEL",
        "--method",
        "clva",
        "--max-new-tokens",
        3,
        "--json",
        "--decoding",
        "nucleus",
        "--seed",
        4,
    ]
    code, out, err = run("ask", image, image, "cup?", *arguments)
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert list(answer) == [
        "model", "revision", "images", "question", "method", "decoding", "answer", "tokens", "seconds", "effects", "yes_no",
        "prompt",
    ]  # fmt: skip
    assert answer["images"] == [image, image]
    assert answer["decoding"] == "nucleus:seed=4"
    assert set(answer["yes_no"]) == {"yes", "no", "margin"}


def test_compare(run, image):
    code, out, _ = run("compare", image, "cup?", "--model", "MODEL", "--max-new-tokens", 3)
    assert code == 0
    for word in ("none", "clva", "seconds", "yes - no", "rows edited", "above 0 the model leans to yes"):
        assert word in out


def test_compare_json(run, image):
    methods = ["--method", "none", "--method", "clva:alpha=5", "--method", "beam"]
    code, out, _ = run("compare", image, "cup?", "--model", "MODEL", "--max-new-tokens", 3, "--json", *methods)
    answers = json.loads(out)["answers"]
    assert code == 0
    assert [(each["method"], each["decoding"]) for each in answers] == [
        ("none", "greedy"), ("clva:alpha=5", "greedy"), ("none", "beam"),
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["methods", "families", "benchmarks"])
def test_catalogues(run, command):
    code, out, err = run(command)
    assert (code, err) == (0, "")
    assert out.strip()
    code, out, _ = run(command, "--json")
    assert code == 0
    assert list(json.loads(out)) == [command]


def test_one_method_with_its_dials(run):
    code, out, _ = run("methods", "clva")
    assert code == 0
    assert "alpha" in out
    assert "14" in out


def test_a_method_is_shown_with_its_equations(run):
    import inspect

    from vlm_anchors.methods import METHODS

    for entry in METHODS:
        code, out, _ = run("methods", entry.name)
        assert code == 0
        header, parameters = inspect.getdoc(inspect.getmodule(entry.load())), inspect.getdoc(entry.load())
        assert out.index(header) < out.index(parameters)


def test_scenes_render(run, tmp_path):
    (tmp_path / "objects.json").write_text(json.dumps({"a": ["cup", "fork"], "b": ["dog"]}))
    code, out, _ = run(
        "scenes", "render", "--objects", tmp_path / "objects.json", "--out", tmp_path / "out", "--seed", 3
    )
    assert code == 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"a.png", "b.png"}
    assert str(tmp_path / "out") in out


def test_scenes_export_is_read_back_by_the_official_readers(run, tmp_path):
    """Every label is true of what the image's own file says is in it."""
    from vlm_anchors.evaluation.benchmarks import BENCHMARKS
    from vlm_anchors.evaluation.reading.files import missing_images
    from vlm_anchors.scenes.draw import objects_in

    out = tmp_path / "out"
    code, summary, _ = run("scenes", "export", "--out", out, "--images", 5, "--seed", 3)
    assert (code, summary.strip()) == (0, f"pope, chair, mme and 5 images in {out}")
    found = {name: BENCHMARKS.build(name).questions(out / name) for name in ("pope", "chair", "mme")}
    assert all(missing_images(questions, out / "images") == [] for questions in found.values())
    there = {path.name: {name for name, _, _ in objects_in(path)} for path in (out / "images").iterdir()}
    assert {question.group for question in found["pope"]} == {"scenes/random", "scenes/popular", "scenes/adversarial"}
    for question in found["pope"]:
        name = question.text.removeprefix("Is there a ").removeprefix("Is there an ").removesuffix(" in the image?")
        assert (question.truth["label"] == "yes") == (name in there[question.image])
    assert {question.image: set(question.truth["objects"]) for question in found["chair"]} == there
    code, _, complaint = run("scenes", "export", "--out", out, "--images", 5, "--seed", 4)
    assert code == 2
    assert "shows another scene, of another seed" in complaint


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ask"], "Missing argument 'IMAGE... QUESTION'"),
        (["ask", "a.png"], "Expected one or more images and then a question; found only 'a.png'"),
        (["ask", "a.png", ""], "The question is empty"),
        (["ask", "nothing.png", "cup?"], "No image at nothing.png. Check the path"),
        (["ask", "IMAGE", "cup?", "--method", "clav"], "No method 'clav'. Did you mean 'clva'?"),
        (["ask", "IMAGE", "cup?", "--method", "clva:alpha=x"], "CLVA.alpha must be a number"),
        (["ask", "IMAGE", "cup?", "--method", ""], "Expected NAME or NAME:PARAMETER=VALUE,...; found ''"),
        (
            ["ask", "IMAGE", "cup?", "--method", "clva", "--method", "vcd"],
            "ask takes one --method; found 2: clva, vcd. To ask with each of them: vlm-anchors compare.",
        ),
        (["ask", "IMAGE", "cup?", "--decoding", "bean"], "No decoding 'bean'. Did you mean 'beam'?"),
        (["ask", "IMAGE", "cup?", "--model", "scene"], "No model 'scene'. Did you mean 'scenes'?"),
        (["ask", "IMAGE", "cup?", "--model", "./nowhere"], "No folder ./nowhere"),
        (["ask", "IMAGE", "cup?", "--model", "MODEL", "--device", "tpu9"], "No device 'tpu9'"),
        (["ask", "IMAGE", "cup?", "--model", "MODEL", "--dtype", "int3"], "No dtype 'int3'"),
        (["ask", "IMAGE", "cup?", "--model", "MODEL", "--max-new-tokens", "0"], "max_new_tokens must be"),
        (
            ["ask", "IMAGE", "cup?", "--model", "MODEL", "--max-new-tokens", "many"],
            "Invalid value for '--max-new-tokens'",
        ),
        (["ask", "IMAGE", "cup?", "--metod", "clva"], "No such option: --metod"),
        (["compare", "IMAGE", "cup?", "--method", "none", "--method", "pie"], "No method 'pie'"),
        (["methods", "clav"], "No method 'clav'. Did you mean 'clva'?"),
        (["aks"], "No such command 'aks'"),
        (["scenes", "render", "--objects", "no.json", "--out", "x"], "no.json"),
        (
            ["scenes", "export", "--out", "x", "--benchmark", "popes"],
            "No bundled benchmark 'popes'. Did you mean 'pope'?",
        ),
    ],
)
def test_bad_input_is_two_sentences_and_exit_2(run, image, arguments, sentence):
    code, out, err = run(*[image if each == "IMAGE" else each for each in arguments])
    assert code == 2
    assert out == ""
    assert sentence in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 4


OUTPUTS = [
    (["eval", "pope", "--limit", "1"], "--out", "folder"),
    (["report", "RUN"], "--out", "file"),
    (["report", "RUN"], "--answers", "folder"),
    (["lmms-task", "pope"], "--out", "folder"),
    (["bench", "--shape", "mid", "--method", "clva"], "--out", "file"),
    (["scenes", "export"], "--out", "folder"),
    (["scenes", "render", "--objects", "a.json"], "--out", "folder"),
    (["look", "a.png", "cup?"], "--out", "folder"),
    (["train", "attanchor", "--data", "a.json"], "--out", "folder"),
    (["merge", "a"], "--out", "folder"),
    (["diagnose"], "--out", "file"),
    (["calibrate", "--images", "a"], "--out", "file"),
]


@pytest.mark.parametrize(("command", "option", "kind"), OUTPUTS, ids=[f"{' '.join(c[:2])} {o}" for c, o, _ in OUTPUTS])
def test_a_place_that_cannot_be_written_is_told_before_any_work(run, tmp_path, monkeypatch, command, option, kind):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "dir").mkdir()

    def refused(place):
        code, out, err = run(*command, option, place)
        assert (code, out, err.count("\n")) == (2, "", 1)
        return err

    assert f"; {option} is empty." in refused("")
    wrong = tmp_path / ("file" if kind == "folder" else "dir")
    assert f"; {option} {wrong} is a {'file' if kind == 'folder' else 'folder'}. " in refused(wrong)
    below = refused(tmp_path / "file" / "new" / "x.png")
    assert "Cannot write into " in below and f"Not a directory. Choose another folder with {option}." in below

    def denied(**arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vlm_anchors.apps.cli.outputs.tempfile.TemporaryFile", denied)
    assert f"Permission denied. Choose another folder with {option}." in refused(tmp_path / "dir" / "new.png")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "dir"}
    assert (tmp_path / "file").read_text() == "kept"


def test_a_file_that_may_not_be_written_is_told(run, tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("")
    monkeypatch.setattr("vlm_anchors.apps.cli.outputs.os.access", lambda *arguments: False)
    code, _, err = run("bench", "--shape", "mid", "--method", "clva", "--out", tmp_path / "a.json")
    assert (
        code == 2 and f"Cannot write {tmp_path / 'a.json'}: Permission denied. Choose another file with --out." in err
    )


def test_an_error_of_a_file_is_a_sentence_at_last(run, image, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "/somewhere/a.json")

    monkeypatch.setattr("vlm_anchors.generation.generate.ask", full)
    code, out, err = run("ask", image, "cup?", "--model", "MODEL")
    assert (code, out) == (2, "")
    assert err.startswith("Cannot use /somewhere/a.json: No space left on device. Check that it is there")


def test_a_seed_that_does_nothing_is_told(run, image):
    code, _, err = run("ask", image, "cup?", "--model", "MODEL", "--max-new-tokens", 1, "--seed", 3)
    assert code == 0
    assert "Warning: --seed changes nothing under greedy: only nucleus draws." in err


def test_warnings_are_sentences_on_stderr(run, tmp_path):
    from PIL import Image

    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    code, out, err = run("ask", tmp_path / "a.gif", "cup?", "--model", "MODEL", "--max-new-tokens", 1, "--json")
    assert code == 0
    json.loads(out)
    assert err.startswith("Warning: The image ")
    assert "has several frames" in err


def test_a_fault_of_ours_is_exit_1(run, image, monkeypatch):
    monkeypatch.setattr("vlm_anchors.generation.generate.ask", lambda *args, **kwargs: 1 / 0)
    code, _, err = run("ask", image, "cup?", "--model", "MODEL")
    assert code == 1
    assert "ZeroDivisionError: division by zero" in err
    assert "--debug shows where it happened" in err


def test_debug_shows_the_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "vlm_anchors", "ask", "no.png", "cup?", "--debug"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in done.stderr
    assert "BadImage: No image at no.png" in done.stderr


def test_version(run):
    import vlm_anchors

    code, out, err = run("--version")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"vlm-anchors {vlm_anchors.__version__}" and "\ntransformers " in out


def test_as_a_program_a_broken_pipe_is_no_error():
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m vlm_anchors methods | true", shell=True, executable="/bin/bash",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr


def test_what_was_done_in_words():
    from vlm_anchors.generation.effects_text import in_words

    clva = {"clva": {"rows_edited": 12, "anchors": {"positive": [3, 1], "negative": []}, "layers": [5, 12]}}
    assert in_words(clva) == "rows edited 12, anchors: image 1: 3 positive; image 2: 1 positive, layers 5-12"
    one = {"anchors": {"positive": [3], "negative": [2]}, "sensitive_heads": {"layer": 4, "heads": [1, 4]}}
    assert in_words({"clva": one}) == "anchors: 3 positive and 2 negative, sensitive heads of layer 4: 1, 4"
    two = {"anchors": {"positive": [3, 1], "negative": [0, 5]}}
    assert in_words(two) == "anchors: image 1: 3 positive and 0 negative; image 2: 1 positive and 5 negative"
    assert in_words({"clearsight": {"layers": [9, 10, 11, 12], "visual_tokens": 64}}) == "layers 9-12, visual tokens 64"
    assert in_words({"layers": [2, 5, 9]}) == "layers 2, 5, 9" and in_words({"layers": [7]}) == "layers 7"
    assert in_words({"vcd": {"rows_edited": 0, "steps": 2}}) == "steps 2"
    assert in_words({"clva": {"rows_edited": 0, "layers": [5, 12]}}) == "rows edited 0, layers 5-12"
    assert (
        in_words({"attanchor-i2t": {"anchors": [{"word": "cup"}] * 36 + [{"word": "the"}]}}) == "anchors cup (x 36) the"
    )
    words = [{"word": "dog", "row": 1, "cosine": 0.31}, {"word": "red", "row": 2, "cosine": 0.2}]
    assert in_words({"attanchor": {"anchors": words}, "clva": {"x": 0.12345}}) == (
        "attanchor: anchors dog red, clva: x 0.123"
    )


def test_a_word_that_was_cut_has_no_logit_in_json():
    from vlm_anchors.apps.cli.asking import as_dict
    from vlm_anchors.types import Answer

    fields = {
        "text": "No",
        "method": "vcd",
        "decoding": "greedy",
        "tokens": (1,),
        "seconds": 0.1,
        "effects": {},
        "prompt": "?",
    }
    summary = as_dict(Answer(**fields, yes_no=(float("-inf"), 2.5)))
    assert summary["yes_no"] == {"yes": None, "no": 2.5, "margin": None}


@pytest.mark.parametrize("cut", [(float("-inf"), 2.5), (2.5, float("-inf")), (float("-inf"), float("-inf"))])
def test_a_word_that_was_cut_has_no_margin_in_the_table(run, image, monkeypatch, cut):
    from vlm_anchors.types import Answer

    def answer(*args, method, **arguments):
        return Answer("No", (1,), 0.1, yes_no=cut if "clva" in repr(method).lower() else (1.5, 1.0))

    monkeypatch.setattr("vlm_anchors.generation.generate.ask", answer)
    code, out, _ = run("compare", image, "cup?", "--model", "MODEL", "--method", "none", "--method", "clva")
    assert code == 0 and "+0.50" in out
    assert "nan" not in out and "inf" not in out
    assert '-: the method cut "yes", "no" or both from the first token, and what is cut has no logit.' in out


def test_without_a_cut_no_dash_is_explained(run, image):
    _, out, _ = run("compare", image, "cup?", "--model", "MODEL", "--max-new-tokens", 1)
    assert "what is cut has no logit" not in out
