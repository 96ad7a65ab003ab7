"""Options that choose and load a model: on every command that loads one, and each does what it says."""

import inspect

import pytest
import tiny_processors
from test_families import model_of
from typer.testing import CliRunner

import vlm_anchors as va
from vlm_anchors.apps.cli import main
from vlm_anchors.apps.cli.commands import app
from vlm_anchors.apps.cli.options import SETTINGS
from vlm_anchors.errors import BadSetting
from vlm_anchors.models import load as loading

QUESTION = "Is there a dog in the image?"
WITHOUT = {"export-vllm", "lmms-task", "score"}
"""Commands whose --model is copied, written down or named, and never loaded."""


def commands():
    """Every command, groups opened, by its name."""
    import typer

    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        yield from ((name, command),) if not hasattr(command, "commands") else command.commands.items()


def test_every_command_that_loads_a_model_takes_every_setting():
    wanted = {"--" + {"attn_implementation": "attn"}.get(name, name).replace("_", "-") for name in SETTINGS}
    assert {name for name in inspect.signature(va.load).parameters if name != "source"} == set(SETTINGS)
    seen = 0
    for name, command in commands():
        options = {option for one in command.params for option in one.opts}
        if "--model" in options and name not in WITHOUT:
            assert wanted <= options, f"{name} lacks {wanted - options}"
            seen += 1
    assert seen >= 9


def test_settings_reach_the_loader(monkeypatch, capsys):
    asked = {}

    def record(model, **settings):
        asked.update(settings, model=model)
        raise BadSetting("seen")

    monkeypatch.setattr(loading, "load_quietly", record)
    arguments = (
        "bench --method clva --model org/name --device-map auto --quantization 8bit --min-pixels 3 --max-pixels 9"
    )
    assert main([*arguments.split(), "--attn", "eager", "--revision", "v1", "--dtype", "float16"]) == 2
    assert "seen" in capsys.readouterr().err
    assert asked == {
        "model": "org/name", "device": None, "dtype": "float16", "attn_implementation": "eager", "revision": "v1",
        "device_map": "auto", "quantization": "8bit", "min_pixels": 3, "max_pixels": 9, "trust_remote_code": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "--shape mid --quantization 4bit",
            "--quantization goes with --model; random weights of a --shape take --device",
        ),
        ("--shape mid --attn eager", "--attn goes with --model"),
        ("--shape mid --model scenes", "Expected --model or --shape, one of them"),
        ("--shape mid --model scenes --questions 3", "Expected --model or --shape, one of them"),
        ("--questions 3 --max-pixels 9", "--max-pixels goes with --model"),
    ],
)
def test_bench_refuses_what_random_weights_do_not_have(arguments, sentence, capsys):
    assert main(["bench", "--method", "clva", *arguments.split()]) == 2
    assert sentence in capsys.readouterr().err


def test_a_device_map_changes_no_answer(tiny, tiny_folder, red):
    pytest.importorskip("accelerate")
    for device_map in ("auto", {"": "cpu"}):
        spread = va.load(str(tiny_folder), device_map=device_map)
        for method in ("none", "clva"):
            asked = [va.ask(vlm, red, QUESTION, method=method, max_new_tokens=4).tokens for vlm in (tiny, spread)]
            assert asked[0] == asked[1]
    with pytest.raises(BadSetting, match="No device map 'both'. Expected one of auto"):
        va.load(str(tiny_folder), device_map="both")
    with pytest.raises(BadSetting, match="found both, cpu and 'auto'"):
        va.load(str(tiny_folder), device_map="auto", device="cpu")


@pytest.mark.parametrize("method", ["none", "clva:tau=1.5", "attanchor:tau=0.05", "vcd"])
def test_a_model_whose_weights_lie_elsewhere_answers_the_same(tiny_folder, red, tmp_path, method):
    """accelerate leaves `meta` where weights are kept on disk; inputs and edits follow the device it computes on."""
    accelerate = pytest.importorskip("accelerate")
    plain, model = va.load(str(tiny_folder)), va.load(str(tiny_folder)).model
    places = {f"model.{name}": "disk" for name, _ in model.model.named_children()} | {"lm_head": "cpu"}
    accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    moved = va.load((model, plain.processor))
    assert model.device.type == "meta" and moved.device.type == "cpu"
    one, other = (va.ask(vlm, red, QUESTION, method=method, max_new_tokens=4) for vlm in (plain, moved))
    assert (one.tokens, one.effects) == (other.tokens, other.effects)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pixels_bound_the_visual_tokens(tmp_path, monkeypatch, red):
    """Of a family that keeps images' proportions; another refuses with a sentence (AutoProcessor would need torchvision)."""
    processor = tiny_processors.qwen2_vl()
    processor.chat_template = "w30 <|vision_start|><|image_pad|><|vision_end|> w31"
    processor.image_processor.size = {"shortest_edge": 256, "longest_edge": 16384}
    model_of("qwen2-vl").save_pretrained(tmp_path)
    monkeypatch.setattr(loading, "_processor", lambda *name: processor)

    def visual_tokens(**bounds):
        vlm = va.load(str(tmp_path), **bounds)
        inputs = vlm.processor(images=[red], text=["<|image_pad|>"], return_tensors="pt")
        return int((inputs["input_ids"] == vlm.model.config.image_token_id).sum())

    usual = visual_tokens()
    assert visual_tokens(max_pixels=1024) * 64 <= 1024 < usual * 64
    processor.image_processor.size = {"shortest_edge": 256, "longest_edge": 16384}
    assert visual_tokens(min_pixels=12000) * 64 >= 12000 > usual * 64
    with pytest.raises(BadSetting, match="Expected min_pixels up to max_pixels; found 9,000 and 8,000"):
        va.load(str(tmp_path), min_pixels=9000, max_pixels=8000)
    monkeypatch.setattr(loading, "_processor", lambda *name: tiny_processors.llava())
    with pytest.raises(BadSetting, match="makes all images one size, so no number of pixels can be kept"):
        va.load(str(tmp_path), max_pixels=1024)


@pytest.mark.parametrize(
    "spelled", [["--method", "none,clva:alpha=5,beta=0"], ["--method", "none", "--method", "clva:alpha=5,beta=0"]]
)
def test_methods_are_listed_or_repeated(spelled, tiny_folder, red, tmp_path, capsys):
    import json

    red.save(tmp_path / "red.png")
    asked = [
        "compare",
        str(tmp_path / "red.png"),
        QUESTION,
        *spelled,
        "--model",
        str(tiny_folder),
        "--max-new-tokens",
        "2",
    ]
    assert main([*asked, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [one["method"] for one in answers] == ["none", "clva:alpha=5,beta=0"]


def test_shell_completion_is_on():
    # --show-completion asks which shell runs the tests, and there may be none.
    assert "--show-completion" in CliRunner().invoke(app, ["--help"], prog_name="vlm-anchors").output
    completed = CliRunner().invoke(
        app, [], prog_name="vlm-anchors",
        env={"_VLM_ANCHORS_COMPLETE": "complete_bash", "COMP_WORDS": "vlm-anchors comp", "COMP_CWORD": "1"},
    )  # fmt: skip
    assert "compare" in completed.output
