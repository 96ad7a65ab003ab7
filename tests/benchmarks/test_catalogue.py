"""The catalogue, the protocols and the page agree, and none of them is heavy."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_anchors.errors import BadParameter, UnknownName
from vlm_anchors.evaluation.benchmarks import BENCHMARKS
from vlm_anchors.evaluation.benchmarks.base import Benchmark
from vlm_anchors.evaluation.benchmarks.protocols import PROTOCOLS, Protocol, protocol
from vlm_anchors.generation.decodings import DECODINGS

NAMES = BENCHMARKS.names()
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_says_what_it_is(name):
    cls = BENCHMARKS.get(name).load()
    assert issubclass(cls, Benchmark)
    assert cls.name == name
    assert all(len(getattr(cls, fact)) >= 3 for fact in ("source", "licence", "note"))
    assert cls.version
    assert all(metric.better in ("higher", "lower", "neither") for metric in cls.metrics_of)
    assert dataclasses.is_dataclass(cls)
    assert BENCHMARKS.build(name) == cls()


@pytest.mark.parametrize("name", NAMES)
def test_protocols_are_those_the_benchmark_names(name):
    assert tuple(p.name for p in PROTOCOLS[name]) == BENCHMARKS.get(name).load().protocols


@pytest.mark.parametrize("one", [p for name in NAMES for p in PROTOCOLS[name]], ids=lambda p: p.describe())
def test_protocols_are_whole(one):
    DECODINGS.build(one.decoding)
    assert one.source
    assert one.max_new_tokens > 0
    assert (one.seed is not None) == one.decoding.startswith("nucleus")
    assert one.prompt("Is it?")


def test_clvas_protocol_says_what_it_infers():
    assert set(protocol("pope", "clva").inferred) == {"suffix", "max_new_tokens", "temperature", "seed"}
    assert protocol("chair", "clva").max_new_tokens == 128
    assert "inferred: suffix" in protocol("pope", "clva").describe()


def test_llavas_mme_drops_the_official_words():
    asked = protocol("mme", "llava").prompt("Is it red? Please answer yes or no.")
    assert asked == "Is it red?\nAnswer the question using a single word or phrase."
    assert protocol("mme").prompt("Is it red? Please answer yes or no.") == "Is it red? Please answer yes or no."


def test_the_first_protocol_is_the_default():
    assert protocol("pope").name == "llava"
    assert protocol("chair", "pai").prompt("x") == "Please help me describe the image in detail."


def test_a_benchmark_without_published_prompts_is_asked_as_its_file_has_it():
    assert protocol("mine").name == "as-asked"
    assert protocol("mine").prompt("Is it red?") == "Is it red?"


def test_braces_in_questions_stay():
    assert Protocol("p", "{q}!", 1, "greedy", None, "here").prompt("{q} {x}") == "{q} {x}!"


def test_unknown_names():
    with pytest.raises(UnknownName, match="pope has no protocol 'lava'. Did you mean 'llava'"):
        protocol("pope", "lava")
    with pytest.raises(UnknownName, match="No benchmark 'pop'. Did you mean 'pope'"):
        BENCHMARKS.get("pop")
    with pytest.raises(BadParameter, match="pope has no parameter 'dialct'. Did you mean 'dialect'"):
        BENCHMARKS.build("pope:dialct=vcd")


def test_dials_by_spec():
    assert BENCHMARKS.build("chair:lemma=fixed").lemma == "fixed"
    assert BENCHMARKS.build("mmbench:circular=true").circular is True


@pytest.mark.parametrize(
    "spec", ["pope", "chair:lemma=fixed", "mmbench:circular=true", "amber:words=/some/where,similarity=exact"]
)
def test_a_spec_builds_the_same_again(spec):
    bench = BENCHMARKS.build(spec)
    assert BENCHMARKS.build(bench.spec()) == bench
    assert bench.spec() == spec


def test_dials_that_are_refused():
    with pytest.raises(BadParameter, match="circular of mmbench must be true or false; found 5"):
        BENCHMARKS.build("mmbench:circular=5")
    with pytest.raises(BadParameter, match="images_only of hallusion must be true or false; found 'maybe'"):
        BENCHMARKS.build("hallusion:images_only=maybe")
    with pytest.raises(UnknownName, match="pope has no dialect 5. Known: pope"):
        BENCHMARKS.build("pope:dialect=5")
    with pytest.raises(UnknownName, match="amber has no similarity None. Known: spacy, exact"):
        BENCHMARKS.build("amber:similarity=none")
    with pytest.raises(BadParameter, match="cannot be written in a SPEC, where commas divide parameters"):
        BENCHMARKS.get("chair").load()(synonyms="a,b").spec()


def test_importing_them_all_is_light():
    code = (
        "import sys; from vlm_anchors.evaluation.benchmarks import BENCHMARKS; [e.load() for e in BENCHMARKS];"
        "from vlm_anchors.evaluation.reporting import html, tables, text;"
        "heavy = {'torch', 'transformers', 'numpy', 'nltk', 'spacy', 'sacrebleu', 'pycocoevalcap', 'rich', 'PIL'};"
        "heavy &= set(sys.modules);"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_is_fresh():
    from vlm_anchors.evaluation.benchmarks.describe import page

    assert PAGE.read_text("utf-8") == page(), "run: make docs"


def test_the_page_names_everything():
    text = PAGE.read_text("utf-8")
    for name in NAMES:
        assert f"## {name}\n" in text
        for one in PROTOCOLS[name]:
            assert one.source.replace("|", "\\|") in text
