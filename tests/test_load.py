"""What `load` takes, and the sentence for everything it does not."""

import json
import shutil
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, LlamaConfig

import vlm_anchors as va
from vlm_anchors.errors import AnchorsWarning, BadModel, BadSetting, UnknownName
from vlm_anchors.models.load import BUNDLED_FOLDER


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of the tiny model's folder, to be broken."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def test_a_folder(tiny, tiny_folder):
    assert type(tiny.model).__name__ == "LlavaForConditionalGeneration"
    assert tiny.family.name == "llava"
    assert tiny.name == str(tiny_folder)
    assert not tiny.model.training
    assert tiny.image_warning is None


def test_a_pair_is_taken_as_it_is(tiny):
    vlm = va.load((tiny.model, tiny.processor))
    assert vlm.model is tiny.model
    assert vlm.processor is tiny.processor


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_dtype(tiny_folder, dtype):
    assert va.load(tiny_folder, dtype=dtype, device="cpu").dtype == torch.bfloat16


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_backend(tiny_folder, attention):
    vlm = va.load(tiny_folder, attn_implementation=attention)
    assert vlm.model.config.text_config._attn_implementation == attention


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"device": "toaster"}, "No device 'toaster'. Expected cpu, cuda or cuda:N"),
        ({"device": "meta"}, "Device meta holds no numbers, so nothing can be answered there. Expected cpu, cuda"),
        ({"dtype": "float8"}, "No dtype 'float8'. Expected one of auto, float32, bfloat16, float16"),
        ({"quantization": "2bit"}, "No quantization '2bit'. Expected 4bit, 8bit"),
        ({"quantization": "4bit", "device": "cpu"}, "Quantization 4bit needs an NVIDIA card; the device here is cpu"),
    ],
)
def test_bad_settings(tiny_folder, settings, sentence):
    with pytest.raises(BadSetting, match=sentence):
        va.load(tiny_folder, **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(tiny_folder):
    with pytest.raises(BadSetting, match="PyTorch finds no CUDA device here. Use cpu"):
        va.load(tiny_folder, device="cuda")


def test_an_attention_backend_that_does_not_exist(tiny_folder):
    with pytest.raises(BadModel, match="cannot be loaded.*no_such_attention"):
        va.load(tiny_folder, attn_implementation="no_such_attention")


def test_misspelt_bundled_name():
    with pytest.raises(UnknownName, match="No model 'scene'. Did you mean 'scenes'?"):
        va.load("scene")


def test_a_name_that_is_nothing():
    with pytest.raises(
        UnknownName, match=r"No model 'gpt5'. Expected 'scenes', a Hugging Face id .* or a local folder"
    ):
        va.load("gpt5")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(BadModel, match=f"No folder {name}. Expected 'scenes'"):
        va.load(name)


@pytest.mark.parametrize("source", [None, "", 7, " "])
def test_no_source(source):
    with pytest.raises(BadModel, match="Expected a model's name, folder, or .model, processor. pair"):
        va.load(source)


def test_an_id_that_is_not_on_disk_offline():
    with pytest.raises(
        BadModel, match=r"llava-hf/no-such-model is not on this disk and huggingface.co cannot be reached"
    ):
        va.load("llava-hf/no-such-model")


def test_an_empty_folder(tmp_path):
    with pytest.raises(BadModel, match=r"is no model folder: it has no config.json \(it holds nothing\)"):
        va.load(tmp_path)


def test_a_file(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BadModel, match="Expected a model folder; .* is a file"):
        va.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("text", "sentence"), [("{", "is not valid JSON"), ("{}", "names no model_type"), ("[]", "holds no JSON object")]
)
def test_a_broken_config(folder, text, sentence):
    (folder / "config.json").write_text(text)
    with pytest.raises(BadModel, match=sentence):
        va.load(folder)


def test_an_unknown_model_type(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "llavalava"}))
    with pytest.raises(BadModel, match="cannot be loaded: .*llavalava"):
        va.load(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadModel, match="has a config.json but no weights"):
        va.load(folder)


def test_pickled_weights_only(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(BadModel, match=r"weights in pytorch_model.bin only, a format that can run code"):
        va.load(folder)


def test_broken_weights(folder):
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadModel, match="cannot be loaded"):
        va.load(folder)


def test_weights_of_another_model(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 5
    config["text_config"].pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        BadModel, match=r"are not those of its config: 9 tensors are missing \(model.language_model.layers.4"
    ):
        va.load(folder)


def test_weights_beyond_the_config_are_told(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    config["text_config"].pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.warns(AnchorsWarning, match="hold 9 tensors that its model class does not use"):
        va.load(folder)


def test_no_processor(folder):
    for file in folder.glob("*processor*"):
        file.unlink()
    with pytest.raises(BadModel, match="has no processor"):
        va.load(folder)


def test_a_processor_whose_package_is_missing(folder, monkeypatch):
    """transformers names the class and the library; another file beside the weights would not help."""

    def without(*args, **kwargs):
        raise ImportError(
            "\nQwen2VLVideoProcessor requires the Torchvision library but it was not found in your environment. Check\n"
        )

    monkeypatch.setattr(AutoProcessor, "from_pretrained", without)
    with pytest.raises(BadModel, match="needs torchvision, which is not installed here: pip install torchvision"):
        va.load(folder)


def test_a_language_model(tmp_path):
    sizes = dict(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(BadModel, match="is no vision-language model: its type is 'llama', which takes no images"):
        va.load(tmp_path)


def test_wrong_pairs(tiny):
    for pair in [
        (tiny.processor, tiny.model),
        (tiny.model, None),
        (tiny.model,),
        (tiny.model, tiny.processor.tokenizer),
    ]:
        with pytest.raises(BadModel, match="Expected a .model, processor. pair"):
            va.load(pair)


@pytest.mark.skipif(not (BUNDLED_FOLDER / "config.json").exists(), reason="the bundled model is not made yet")
def test_the_bundled_model():
    vlm = va.load("scenes", device="cpu")
    assert vlm.image_warning is not None
    assert vlm.dtype == torch.float32
    assert va.load(BUNDLED_FOLDER, device="cpu").image_warning is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AutoModelForImageTextToText.from_pretrained(BUNDLED_FOLDER, local_files_only=True)
        AutoProcessor.from_pretrained(BUNDLED_FOLDER, local_files_only=True)


def test_a_name_that_no_file_system_takes():
    with pytest.raises(BadModel, match="No model 'x+': File name too long"):
        va.load("x" * 300)
