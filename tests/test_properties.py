# ruff: noqa: E501, PT017, RUF017
"""Whatever is typed or read: an answer, or a sentence for the user; never a fault of ours. Seeded and bounded."""

import functools
import io
import json
import os
import tempfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vlm_anchors.apps.cli import main, options
from vlm_anchors.errors import BadModel, UserError
from vlm_anchors.evaluation.benchmarks import BENCHMARKS
from vlm_anchors.evaluation.reporting.tables import tables
from vlm_anchors.evaluation.runner.folder import RunFolder
from vlm_anchors.inputs.images import read_image
from vlm_anchors.interventions.method import Method
from vlm_anchors.methods import METHODS
from vlm_anchors.models.adapter import base_of, trained_method
from vlm_anchors.scenes.files import read_lists
from vlm_anchors.specs import choose
from vlm_anchors.training.data import read_data

TIMES = int(os.environ.get("VLM_ANCHORS_FUZZ", "1"))
"""`make attack` draws more."""


def quick(examples):
    return settings(
        max_examples=TIMES * examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


VALUES = [
    "5",
    "0",
    "-1",
    "1e+3",
    "nan",
    "inf",
    "-inf",
    "9" * 400,
    "1e999",
    "15-32",
    "32-15",
    "true",
    "none",
    "all",
    "",
    "é",
    "x y",
]
NAMES = [*METHODS.names(), "greedy", "beam", "nucleus", "clav", "", " ", "CLVA", "literal:clva", "\x1b[31m"]
PARAMETERS = [
    "alpha",
    "beta",
    "tau",
    "layers",
    "seed",
    "preset",
    "gamma",
    "top_p",
    "num_beams",
    "",
    "alpha-",
    "=",
    "positive_layer",
]
pair = st.builds(
    "{}{}{}".format, st.sampled_from(PARAMETERS), st.sampled_from(["=", "", "=="]), st.sampled_from(VALUES)
)
part = st.builds(
    "{}{}{}".format, st.sampled_from(NAMES), st.sampled_from([":", "", ":"]), st.lists(pair, max_size=3).map(",".join)
)
SPECS = st.one_of(st.lists(part, max_size=3).map("+".join), st.text(max_size=20))


def is_sentence(text):
    return bool(text.strip()) and "Traceback" not in text and "fault of vlm-anchors" not in text


@given(SPECS)
@quick(400)
def test_a_spec_is_methods_or_a_sentence(spec):
    try:
        methods, decoding = choose(spec)
    except UserError as error:
        assert is_sentence(str(error))
    else:
        assert all(isinstance(method, Method) for method in methods) and decoding.spec()
        again, same = choose("+".join(method.spec() for method in methods) or "none", decoding.spec())
        assert (again or methods, same) == (methods or again, decoding), "a SPEC says what was chosen"


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=8), st.just("\ud800"),
    st.sampled_from(["a.png", "../a.png", "/etc/passwd", "yes", "no", "<image>", "user", "gpt"]),
)  # fmt: skip
KEYS = [
    "id", "question_id", "image", "images", "text", "question", "label", "group", "truth", "answer", "method", "decoding", "seed",
    "conversations", "messages", "from", "value", "role", "content", "model", "benchmark", "effects", "yes_no", "seconds", "review",
    "base_model_name_or_path", "revision", "cup",
]  # fmt: skip
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)),
    max_leaves=12,
)
ODD = [
    b"",
    b"\xff\xfe",
    b"\0" * 9,
    b"[" * 5000,
    b"9" * 5000,
    b'{"id": "1"',
    b"null",
    b"[1]\n[2]",
    b"\n\n",
    b'{"a":' * 3000,
]
texts = st.one_of(
    st.sampled_from(ODD),
    st.binary(max_size=40),
    documents.map(lambda document: json.dumps(document).encode()),
    st.lists(documents, max_size=3).map(lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode()),
)


def read_records(folder, data):
    (folder / "run.json").write_text(json.dumps({"benchmark": "pope", "model": "m"}))
    (folder / "records.jsonl").write_bytes(data)
    RunFolder(folder).done()
    tables([folder], draws=5)


def read_run_json(folder, data):
    (folder / "run.json").write_bytes(data)
    (folder / "records.jsonl").write_text("")
    tables([folder], draws=5)


def read_adapter(folder, data):
    for name in ("adapter_config.json", "anchors.json", "adapter_model.safetensors"):
        (folder / name).write_bytes(data)
    base_of(folder), trained_method(folder)


def read_file_with(reader, name="data.json"):
    def read(folder, data):
        (folder / name).write_bytes(data)
        reader(folder / name)

    return read


READERS = {
    "records": read_records,
    "run.json": read_run_json,
    "adapter": read_adapter,
    "training list": read_file_with(read_data),
    "training lines": read_file_with(read_data, "data.jsonl"),
    "objects": read_file_with(read_lists),
    "image": read_file_with(read_image, "a.png"),
    **{
        entry.name: read_file_with(
            functools.partial(lambda name, file: BENCHMARKS.build(name).questions(file), entry.name)
        )
        for entry in BENCHMARKS
    },
}


@pytest.mark.parametrize("reader", READERS)
@given(data=texts)
@quick(60)
def test_a_file_is_read_or_refused_with_a_sentence(reader, data):
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            READERS[reader](Path(place), data)
        except UserError as error:
            assert is_sentence(str(error))


FILES = [
    "a.png",
    "broken.png",
    "data.json",
    "deep.json",
    "none.png",
    "~nobody/x.png",
    "",
    ".",
    "pipe",
    "http://x/y.png",
    "x" * 300,
]
file = st.sampled_from(FILES)
words = st.one_of(
    st.sampled_from(["Is there a cup?", "", " ", "<image>?", "\ud7ff", "x" * 30_000]), st.text(max_size=12)
)
number = st.sampled_from(["0", "1", "-1", "2", "x", "", "1e3", "9" * 30])
OPTIONS = {
    "--method": SPECS, "--decoding": SPECS, "--max-new-tokens": st.sampled_from(["1", "0", "-1", "x", "9" * 30]), "--seed": number,
    "--json": None, "--device": st.sampled_from(["cpu", "xpu", "cuda:99", "meta", "zz", ""]), "--dtype": st.sampled_from(["zz", "auto"]),
    "--model": file, "--revision": st.just("nope"), "--device-map": st.sampled_from(["auto", "zz"]), "--quantization": number,
    "--max-pixels": number, "--zz": None,
}  # fmt: skip


def line(command, *arguments, **options):
    known = {**OPTIONS, **{f"--{name.replace('_', '-')}": values for name, values in options.items()}}
    one = st.sampled_from(sorted(known)).flatmap(
        lambda name: st.just([name]) if known[name] is None else known[name].map(lambda value: [name, value])
    )
    more = st.lists(one, max_size=3).map(lambda found: [word for option in found for word in option])
    return st.tuples(st.just(command.split()), st.tuples(*arguments).map(list), more).map(lambda parts: sum(parts, []))


LINES = st.one_of(
    line("ask", file, words), line("ask", file, file, words), line("compare", file, words), line("methods", st.sampled_from(NAMES)),
    line("look", file, words, out=file), line("report", file, format=st.sampled_from(["md", "zz"]), out=file, against=SPECS),
    line("eval", st.sampled_from(["pope", "mme", "zz", "pope:dialect=zz"]), data=file, images=file, out=file, split=words, limit=number),
    line("scenes render", objects=file, out=file, seed=number), line("merge", file, out=file),
    line("train", SPECS, data=file, out=file, set=st.sampled_from(["epochs=0", "seed=-1", "optimizer=zz", "checkpointing=abc", "x"])),
    line("calibrate", images=file, questions=file, limit=number), line("diagnose", images=file, questions=file, limit=number),
    line("bench", method=SPECS, shape=words, dtype=st.just("zz"), threads=number),
    line("judge", file, rules=file, url=words, judge_model=words), st.lists(st.text(max_size=6), max_size=3),
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    Image.new("RGB", (40, 30), "red").save(folder / "a.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "data.json").write_text('{"kitchen": ["cup"]}')
    (folder / "deep.json").write_text("[" * 20_000)
    os.mkfifo(folder / "pipe")
    return folder


def loaded(words, tiny):
    """The tiny model for commands that ask once; for the others it is time to stop, with a sentence as well."""
    if words[0] in ("ask", "compare"):
        return tiny
    raise BadModel("The input was checked before a model was loaded.")


@given(words=LINES)
@quick(80)
def test_a_command_line_ends_well_or_with_a_sentence(place, tiny, words):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir=place) as here:
        for each in place.iterdir():
            if not each.is_dir():
                (Path(here) / each.name).symlink_to(each)
        patch.chdir(here)
        patch.setattr(options.Chosen, "load", lambda self: loaded(words, tiny))
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            code = main(words)
        assert code in (0, 2), (words, err.getvalue())
        assert code == 0 or is_sentence(err.getvalue()), (words, err.getvalue())
