"""What never runs or is never read unasked: code in model folders, pickles, other programs, the terminal, other places."""

import ast
import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from front import save_tiny
from PIL import Image

import vlm_anchors as va
from vlm_anchors.apps.cli import main
from vlm_anchors.apps.cli.printing import visible
from vlm_anchors.errors import BadData, BadImage, BadModel, UserError
from vlm_anchors.evaluation.reading.files import check_inside, find_image
from vlm_anchors.inputs.images import read_image

SOURCES = sorted((Path(va.__file__).parent).rglob("*.py"))
TAKES_NO_CODE = {"PeftModel"}
"""Loads weights and a configuration; it has no code to trust."""


def test_every_loader_says_whether_code_may_run():
    """Where nothing is said, transformers asks on standard input, and whoever answers "y" has run it."""
    calls, silent = 0, []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "from_pretrained"
            ):
                calls += 1
                names = {keyword.arg for keyword in node.keywords}
                # `**everywhere` and `**settings` hold it: test_no_folder_runs_its_code looks at what they do.
                if ast.unparse(node.func.value) not in TAKES_NO_CODE and not names & {"trust_remote_code", None}:
                    silent.append(f"{path.name}:{node.lineno}")
    assert calls >= 4 and not silent


CODE = """
from pathlib import Path
Path({place!r}).write_text("ran")
raise RuntimeError("code of a model folder")
"""
KINDS = {
    "config.json": {"AutoConfig": "hostile.Config", "AutoModelForImageTextToText": "hostile.Model"},
    "processor_config.json": {"AutoProcessor": "hostile.Processor"},
    "preprocessor_config.json": {"AutoImageProcessor": "hostile.ImageProcessor", "AutoProcessor": "hostile.Processor"},
    "tokenizer_config.json": {"AutoTokenizer": ["hostile.Tokenizer", None], "AutoProcessor": "hostile.Processor"},
}


def hostile(folder, file, ran):
    """Names code of its own in one of a folder's files, as models that bring code along do."""
    found = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    strange = {"model_type": "hostile"} if file == "config.json" else {}
    named = {"processor_class": "Hostile", "tokenizer_class": "Hostile", "image_processor_type": "Hostile"}
    (folder / file).write_text(json.dumps({**found, **strange, **named, "auto_map": KINDS[file]}))
    (folder / "hostile.py").write_text(CODE.format(place=str(ran)))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE.format(place=str(ran)))


@pytest.mark.parametrize("kind", ["model", "adapter"])
@pytest.mark.parametrize("file", KINDS)
def test_no_folder_runs_its_code(tiny_folder, tmp_path, monkeypatch, file, kind):
    def asked(*question):
        raise AssertionError(f"asked on standard input: {question}")

    monkeypatch.setattr("builtins.input", asked)
    folder, ran = tmp_path / kind, tmp_path / "ran"
    if kind == "model":
        save_tiny(folder)
    else:
        adapter(tiny_folder, folder)
    hostile(folder, file, ran)
    with contextlib.suppress(UserError):
        va.load(folder)
    assert not ran.exists()


def adapter(tiny_folder, folder):
    """A LoRA folder with its processor, whose tensors are not all zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    vlm = va.load(tiny_folder)
    wrapped = get_peft_model(vlm.model, LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)"))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    wrapped.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(tiny_folder)}))
    return folder


@pytest.fixture(scope="module")
def lora(tiny_folder, tmp_path_factory):
    return adapter(tiny_folder, tmp_path_factory.mktemp("lora") / "folder")


def test_a_pickle_is_not_read_for_an_adapter(lora, tmp_path):
    import pickle

    folder = shutil.copytree(lora, tmp_path / "copy")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model_x.safetensors")

    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BadModel, match=r"has no adapter_model\.safetensors"):
        va.load(folder)
    assert not (tmp_path / "ran").exists()


def test_an_adapter_that_matches_nothing_is_refused(lora, tmp_path):
    """It would answer as the base model, and nobody would know."""
    from safetensors.torch import load_file, save_file

    assert va.load(lora).name == str(lora)
    tensors = load_file(lora / "adapter_model.safetensors")
    for number, renamed in enumerate([
        {name.replace("layers.", "blocks."): tensor for name, tensor in tensors.items()},
        dict(list(tensors.items())[2:]),
        {**tensors, "base_model.model.other.lora_A.weight": next(iter(tensors.values())).clone()},
    ]):  # fmt: skip
        folder = shutil.copytree(lora, tmp_path / str(number))
        save_file(renamed, folder / "adapter_model.safetensors", {"format": "pt"})
        with pytest.raises(BadModel, match="does not fit its base model"):
            va.load(folder)


def test_a_config_beside_an_adapter_changes_nothing(lora, tiny_folder, tmp_path):
    folder = shutil.copytree(lora, tmp_path / "copy")
    shutil.copy(Path(tiny_folder) / "config.json", folder)
    red = Image.new("RGB", (32, 32), "red")
    assert va.ask(va.load(folder), red, "A cup?", max_new_tokens=4) .tokens == va.ask(
        va.load(lora), red, "A cup?", max_new_tokens=4).tokens  # fmt: skip


def test_an_adapter_of_an_adapter_or_of_itself_is_refused(lora, tmp_path):
    for base in (lora, tmp_path / "copy"):
        folder = shutil.copytree(lora, tmp_path / "copy", dirs_exist_ok=True)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
        with pytest.raises(BadModel, match="which is an adapter itself. Merge that one first"):
            va.load(folder)


def test_wrapped_models_are_taken_and_the_authors_own_layout_is_named(lora, tiny, tmp_path):
    from peft import PeftModel

    vlm = va.load(lora)
    base = json.loads((lora / "adapter_config.json").read_text())["base_model_name_or_path"]
    wrapped = PeftModel.from_pretrained(va.load(base).model, str(lora))
    assert va.load((wrapped, tiny.processor)).model is wrapped.get_base_model()
    import torch

    assert va.load((torch.compile(vlm.model), tiny.processor)).model is vlm.model
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "mm_vision_tower": "openai/clip"}))
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(BadModel, match="authors' own layout.*llava-hf/llava-1.5-7b-hf"):
        va.load(tmp_path)


def tiff(pages):
    file = io.BytesIO()
    frames = [Image.new("L", (1, 1))] * pages
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def test_frames_are_never_counted(monkeypatch):
    from PIL import GifImagePlugin, TiffImagePlugin

    def counted(self):
        raise AssertionError("counted the frames")

    gif, data = io.BytesIO(), tiff(3)
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    for kind in (TiffImagePlugin.TiffImageFile, GifImagePlugin.GifImageFile):
        monkeypatch.setattr(kind, "n_frames", property(counted))
    for source in (data, gif.getvalue()):
        with pytest.warns(va.AnchorsWarning, match="has several frames; only the first one is used"):
            read_image(source)


def test_a_caller_s_animation_stays_where_it_is():
    shown = Image.open(io.BytesIO(tiff(4)))
    shown.seek(2)
    with pytest.warns(va.AnchorsWarning):
        read_image(shown)
    assert shown.tell() == 2


def test_strips_are_refused_and_ghostscript_is_never_called():
    with pytest.raises(BadImage, match="1 x 8000, a strip"):
        read_image(Image.new("L", (1, 8000)))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(BadImage, match="is no image that can be read"):
        read_image(eps)


@pytest.mark.parametrize(
    "name", ["../x.png", "/etc/passwd.png", "a/../../x.png", "..\\x.png", "C:\\x.png", "", ".", "a\0b.png"]
)
def test_images_named_in_data_stay_in_their_folder(tmp_path, name):
    (tmp_path / "images").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    with pytest.raises(BadData):
        check_inside(name)
    with pytest.raises(BadData):
        find_image(tmp_path / "images")(name)


def test_nothing_acts_on_the_terminal(tiny_folder, tmp_path, monkeypatch, capsys):
    from vlm_anchors.types import Answer

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    text = "[/INST] [cup]left [bold]x :cat: \x1b]0;title\x07 \x9b31m \u202e"
    monkeypatch.setattr("vlm_anchors.generation.generate.ask", lambda *_, **__: Answer(text, (1,), 0.1))
    for command in ("ask", "compare"):
        assert main([command, str(tmp_path / "a.png"), "Is it?", "--model", str(tiny_folder)]) == 0
        out = "".join(capsys.readouterr().out.split())
        for word in ("[/INST]", "[cup]left", "[bold]x", ":cat:", r"\x1b]0;title\x07", r"\x9b31m", r"\u202e"):
            assert word in out or (command == "compare" and word[:4] in out), (command, word)
    assert not {"\x1b", "\x9b", "\u202e", "\x07"} & set(out)
    assert visible("two\nlines\tand é") == "two\nlines\tand é"


def test_every_console_takes_every_character(monkeypatch, capsysbinary):
    from vlm_anchors.apps.cli.printing import any_console

    for encoding in ("cp1252", "ascii", "cp932"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
        any_console()
        sys.stdout.write("│ 是 − “cup” …\n")
        sys.stdout.flush()
        assert raw.getvalue()
        if encoding == "ascii":
            assert raw.getvalue() == b'| \\u662f - "cup" ...\n'
