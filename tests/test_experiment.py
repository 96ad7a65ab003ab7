"""Experiments in files: what is refused, what they list, and that they resume, shard and end in one report."""

import json
import shutil
from pathlib import Path

import pytest

from vlm_anchors.apps.cli import main
from vlm_anchors.errors import AnchorsWarning, BadData, BadSetting, UnknownName, UserError
from vlm_anchors.evaluation.reporting.runs import read_run
from vlm_anchors.evaluation.runner.bundled import export
from vlm_anchors.experiments.cells import cells, listing
from vlm_anchors.experiments.execute import run_experiment
from vlm_anchors.experiments.experiment_file import read_experiment

RUNS = Path(__file__).parent.parent / "runs"
BASE = """
out: {out}
models: [{model}]
methods: [none, clva]
benchmarks:
  - {{name: pope, protocol: deco, split: adversarial, data: {data}/pope, images: {data}/images, batch_size: 8}}
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return export(tmp_path_factory.mktemp("scenes"), ["pope"], images=3)


@pytest.fixture
def write(tmp_path, tiny_folder, scenes):
    def write(more="", base=BASE):
        file = tmp_path / "experiment.yaml"
        file.write_text(base.format(out=tmp_path / "out", model=tiny_folder, data=scenes) + more, "utf-8")
        return file

    return write


def test_an_experiment_is_answered_reported_and_not_answered_again(write, tmp_path, capsys):
    file = write("decodings: [greedy, nucleus]\nseeds: [0, 1]\nreport: {metrics: [accuracy]}\n")
    assert main(["run", str(file)]) == 0
    printed = capsys.readouterr()
    assert "accuracy" in printed.out and "f1" not in printed.out and "(2 seeds)" in printed.out
    (run,) = tmp_path.glob("out/*/pope-deco-adversarial")
    records = read_run(run).records
    assert len(records) == 18 * 2 * 3, "two methods, greedy once and sampled twice"
    assert {record["seed"] for record in records} == {None, 0, 1}
    assert "<h1>" in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert (tmp_path / "out" / "report.txt").read_text("utf-8") == printed.out
    before = (run / "records.jsonl").read_bytes()
    assert main(["run", str(file)]) == 0 and (run / "records.jsonl").read_bytes() == before


def test_a_dry_run_lists_everything_and_answers_nothing(write, tmp_path, capsys):
    file = write("decodings: [greedy, nucleus]\nseeds: [0, 1, 2]\n")
    assert main(["run", str(file), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert text.count("18 questions, 0 answered") == 2 * 4
    assert "8 cells in 1 RUNs: 144 answers to make, at most 720 new tokens" in text
    assert "no estimate in seconds for 144 answers: nothing is answered yet" in text
    assert not (tmp_path / "out").exists()


def test_the_estimate_is_from_answers_that_are_there(write):
    file = write()
    run_experiment(read_experiment(file, limit=6))
    vcd = read_experiment(write(base=BASE.replace("[none, clva]", "[none, clva, vcd]")))
    none, clva, more = cells(vcd)
    assert (none.answered, none.missing, more.answered) == (6, 12, 0)
    assert none.seconds > 0 and clva.seconds > 0 and more.passes == 2
    assert more.seconds == pytest.approx(2 * none.seconds)
    assert "from the seconds of the answers that are there" in listing(cells(vcd))


def test_an_experiment_that_was_stopped_goes_on(write, tmp_path):
    class Stopped(Exception):
        pass

    def stop(done, of):
        if done >= 16:
            raise Stopped

    experiment = read_experiment(write())
    with pytest.raises(Stopped):
        run_experiment(experiment, progress=stop)
    (records,) = tmp_path.glob("out/*/*/records.jsonl")
    kept = records.read_bytes()
    assert kept and not (tmp_path / "out" / "report.html").exists()
    assert run_experiment(experiment) is not None
    assert records.read_bytes().startswith(kept)
    keys = [(json.loads(line)["id"], json.loads(line)["method"]) for line in records.read_text("utf-8").splitlines()]
    assert len(keys) == len(set(keys)) == 36


def test_ranks_share_the_answers_and_the_last_one_reports(write, tmp_path, monkeypatch, capsys):
    file = write()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        assert main(["run", str(file)]) == 0
        assert (tmp_path / "out" / "report.html").exists() == (rank == 1)
        assert ("Other processes still answer" in capsys.readouterr().err) == (rank == 0)
    (run,) = tmp_path.glob("out/*/*")
    assert len(list(run.glob("records.*.jsonl"))) == 2 and len(read_run(run).records) == 36


@pytest.mark.parametrize(
    ("before", "after", "kind", "words"),
    [
        ("methods:", "method:", UnknownName, "no key 'method' in an experiment. Did you mean 'methods'"),
        ("clva]", "clav]", UnknownName, "experiment.yaml: No method 'clav'. Did you mean 'clva'"),
        ("clva]", "clva:alpha=5,beta=0]", BadData, "'beta=0' in methods is a part of a SPEC"),
        ("clva]", "none]", BadData, "'none' stands twice"),
        ("clva]", "3]", BadData, r"expected a text in methods\[1\]; found 3"),
        ("[none, clva]", "[]", BadSetting, "expected methods"),
        ("protocol: deco", "protokol: deco", UnknownName, "no key 'benchmarks.0..protokol'"),
        ("protocol: deco", "protocol: dec", UnknownName, "Did you mean 'deco'"),
        ("name: pope", "name: popes", UnknownName, "Did you mean 'pope'"),
        ("batch_size: 8", "batch_size: 0", BadData, "whole number of 1 or more"),
        ("batch_size: 8", "batch_size: 8, scenes: 5", BadSetting, "data and images together"),
        ("models: [", "models: [scens, ", UnknownName, "Did you mean 'scenes'"),
        ("models: [", "models: [/nowhere/at/all, ", UserError, "No folder /nowhere"),
        ("out: ", "seeds: [0, -1]\nout: ", BadData, r"seeds\[1\]"),
        ("out: ", "seeds: [1, 1]\nout: ", BadData, "each seed once"),
        ("out: ", "decodings: [beem]\nout: ", UnknownName, "Did you mean 'beam'"),
        ("out: ", "out: a\nout: ", BadData, "line 3: the key 'out' stands twice"),
        ("out: ", "report: {{against: vcd}}\nout: ", UnknownName, "report.against is no method"),
        ("out: ", "report: {{metrics: [acuracy]}}\nout: ", UnknownName, "Did you mean 'accuracy'"),
        ("out: ", "report: {{agianst: none}}\nout: ", UnknownName, "'report.agianst'"),
        ("out: ", "skip_bad: 1\nout: ", BadData, "true or false in skip_bad"),
        ("out: ", "]\nout: ", BadData, "line 2 is not valid YAML"),
        ("out: ", "nothing: ", UnknownName, "no key 'nothing'"),
        ("clva]", "'clva+nucleus:top_p=0.9']", BadSetting, "the decoding 'nucleus:top_p=0.9'. Put it under decodings"),
        ("batch_size: 8", "methods: [greedy]", BadSetting, r"in benchmarks\[0\].methods; found the decoding 'greedy'"),
        ("out: ", "report: {{against: beam}}\nout: ", BadSetting, "in report.against; found the decoding 'beam'"),
        ("out: ", "report: {{against: clav}}\nout: ", UnknownName, "experiment.yaml: report.against: No method 'clav'"),
        (
            "out: ",
            "decodings: ['nucleus:seed=1']\nseeds: [0, 1]\nout: ",
            BadSetting,
            "has a seed of its own, and seeds",
        ),
        ("out: ", f"seeds: [0, {2**63}]\nout: ", BadData, r"whole number up to 9223372036854775807 in seeds\[1\]"),
        ("models: [", "models: [{{name: scenes, dtype: float99}}, ", BadSetting, "experiment.yaml: No dtype 'float99'"),
        ("models: [", "models: [{{name: scenes, device: bogus}}, ", BadSetting, "experiment.yaml: No device 'bogus'"),
        ("models: [", "models: [{{name: scenes, quantization: 3bit}}, ", BadSetting, "No quantization '3bit'"),
        ("models: [", "models: [{{name: scenes, device_map: all}}, ", BadSetting, "No device map 'all'"),
        ("models: [", "models: [{{name: scenes, min_pixels: 0}}, ", BadSetting, "Numbers of pixels are"),
        ("models: [", "models: [{{name: a/b, revision: 7}}, ", BadSetting, "Expected a text as revision; found 7"),
        ("out: ", f"out: {__file__}\nskip_bad: false #", BadSetting, "expected a folder to write into"),
        ("out: ", f"out: {__file__}/more\nskip_bad: false #", BadSetting, "test_experiment.py is a file"),
        ("batch_size: 8", "folder: ../..", BadData, "the name of a folder below out"),
        ("batch_size: 8", "folder: /tmp/a", BadData, r"in benchmarks\[0\].folder; found '/tmp/a'"),
        (
            "out: ",
            "out: {{{{ out }}}}\n#",
            BadData,
            "line 2: expected a word as a key; found brackets. Fill the template in",
        ),
        ("out: ", "? [a, b]\n: 1\nout: ", BadData, "line 2: expected a word as a key"),
        ("out: ", "out: 2026-02-30\n#", BadData, "line 2: '2026-02-30' is no timestamp"),
        ("out: ", f"seeds: {'[' * 3000}\nout: ", BadData, "line 2: values are nested more than 20 deep"),
        ("out: ", "skip_bad: !!bool maybe\nout: ", BadData, "line 2: 'maybe' is no bool"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(write, before, after, kind, words):
    assert before in BASE
    with pytest.raises(kind, match=words):
        read_experiment(write(base=BASE.replace(before, after, 1)))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "hello"])
def test_a_file_that_holds_something_else_is_refused(tmp_path, text):
    (tmp_path / "e.yaml").write_text(text, "utf-8")
    with pytest.raises(BadData, match="expected keys such as models"):
        read_experiment(tmp_path / "e.yaml")
    with pytest.raises(BadData, match="There is no file"):
        read_experiment(tmp_path / "f.yaml")


def test_a_benchmark_without_drawn_scenes_needs_data(tmp_path):
    (tmp_path / "e.yaml").write_text("out: o\nmodels: [scenes]\nmethods: [none]\nbenchmarks: [amber]\n", "utf-8")
    with pytest.raises(BadSetting, match=r"amber has no drawn scenes \(those that do: pope, chair, mme\)"):
        read_experiment(tmp_path / "e.yaml")


def test_drawn_questions_lie_in_no_run(tmp_path, tiny_folder, monkeypatch):
    """A model called `scenes` and a RUN called `pope` are what the repository's own files have."""
    (tmp_path / "scenes").symlink_to(tiny_folder)
    monkeypatch.chdir(tmp_path)
    text = "out: out\nmodels: [{name: scenes/}]\nmethods: [none]\nbenchmarks:\n"
    (tmp_path / "e.yaml").write_text(text + "  - {name: pope, protocol: deco, scenes: 2, folder: pope}\n", "utf-8")
    experiment = read_experiment(tmp_path / "e.yaml")
    assert experiment.run_of(experiment.models[0], experiment.benchmarks[0]) == Path("out/scenes/pope")
    assert run_experiment(experiment) is not None
    assert run_experiment(experiment) is not None, "and once more, beside the RUN"


def test_two_parts_never_write_into_one_run(write):
    twice = "  - {{name: pope, protocol: deco, split: adversarial, scenes: 4}}\n"
    for same in (twice, twice.replace("4}}", "4, folder: ./pope-deco-adversarial/}}")):
        with pytest.raises(BadSetting, match="two benchmarks would write into one RUN"):
            read_experiment(write(base=BASE + same))
    assert len(read_experiment(write(base=BASE + twice.replace("4}}", "4, folder: other}}"))).benchmarks) == 2


def test_no_answer_stands_twice_in_one_table(write):
    """Found before anything is answered, where the report would refuse it at the end."""
    part = "  - {{name: pope, protocol: deco, limit: 2, folder: part, data: {data}/pope, images: {data}/images}}\n"
    with pytest.raises(BadSetting, match="the benchmarks pope-deco-adversarial and part ask none the same questions"):
        cells(read_experiment(write(base=BASE + part)))
    other = part.replace("limit: 2", "limit: 2, methods: [vcd]")
    assert len(cells(read_experiment(write(base=BASE + other)))) == 3


def test_one_model_under_two_settings_is_two_in_the_report(write):
    text = "[{model}, {{name: {model}, dtype: bfloat16}}]"
    base = BASE.replace("[{model}]", text).replace("none, clva", "none")
    report = run_experiment(read_experiment(write(base=base), limit=1))
    assert report.count("-bfloat16") == 1, "a table of its own"


def test_code_of_a_model_is_not_allowed_by_a_file(write):
    with pytest.raises(UnknownName, match="trust_remote_code"):
        read_experiment(write(base=BASE.replace("[{model}]", "[{{name: scenes, trust_remote_code: true}}]")))


@pytest.mark.parametrize("file", sorted(RUNS.glob("*.yaml")), ids=lambda file: file.name)
def test_the_experiments_of_this_repository_are_valid(file):
    experiment = read_experiment(file, limit=2)
    assert experiment.out == Path("runs/out") / file.stem
    assert {entry.folder for entry in experiment.benchmarks} <= {"pope", "chair", "mme"}


def test_a_seed_in_a_spec_is_the_one_that_is_drawn_from(tmp_path):
    (tmp_path / "e.yaml").write_text(
        f"out: {tmp_path / 'out'}\nmodels: [scenes]\nmethods: [none]\n"
        "decodings: ['nucleus:seed=0', 'nucleus:seed=1', nucleus, 'nucleus:seed=42']\n"
        "benchmarks: [{name: pope, protocol: vcd, scenes: 2}, {name: pope, protocol: deco, scenes: 2}]\n",
        "utf-8",
    )
    experiment = read_experiment(tmp_path / "e.yaml")
    vcd, deco = (
        [cell.seed for cell in cells(experiment) if cell.benchmark == entry] for entry in experiment.benchmarks
    )
    assert (vcd, deco) == ([0, 1, 42], [0, 1, 42]), "what comes to the same is one cell"


def test_the_device_of_the_command_line_changes_no_folder(tmp_path):
    def read(models, **more):
        (tmp_path / "e.yaml").write_text(f"out: o\nmodels: [{models}]\nmethods: [none]\nbenchmarks: [pope]\n", "utf-8")
        return read_experiment(tmp_path / "e.yaml", **more)

    (model,) = read("scenes", device="cpu").models
    assert model.folder == "scenes" and model.loading == {"device": "cpu"}
    with pytest.raises(BadSetting, match="No device 'bogus'"):
        read("scenes", device="bogus")
    both = "scenes, {name: scenes, device: cpu}"
    assert len(read(both).models) == 2
    with pytest.raises(BadSetting, match="on the device cpu, two models are scenes with the same settings"):
        read(both, device="cpu")
    orders = ("{name: scenes, device: cpu, dtype: float32}", "{name: scenes, dtype: float32, device: cpu}")
    assert {read(one).models[0].folder for one in orders} == {"scenes-cpu-float32"}


def test_what_this_machine_lacks_is_said_before_anything_is_answered(write, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    more = ", {{name: scenes, device: cuda}}]\nmethods"
    experiment = read_experiment(write(base=BASE.replace("]\nmethods", more)))
    with pytest.raises(BadSetting, match="PyTorch finds no CUDA device"):
        run_experiment(experiment)
    assert not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_read_is_counted_whenever_it_is_met(write, tmp_path, scenes):
    images = tmp_path / "images"
    shutil.copytree(scenes / "images", images)
    (images / "scene_0001.png").write_bytes(b"no image")
    file = write("skip_bad: true\n", BASE.replace("{data}/images", str(images)).replace("none, clva", "none"))
    assert "6 answers" not in run_experiment(read_experiment(file, limit=6))
    with pytest.warns(AnchorsWarning, match="6 questions are left out"):
        text = run_experiment(read_experiment(file))
    assert "6 questions were left out: their images cannot be read" in text
    assert "left out" not in run_experiment(read_experiment(file, limit=6)), "none of the first six"
    shutil.copy(scenes / "images" / "scene_0001.png", images)
    text = run_experiment(read_experiment(file))
    assert "left out" not in text and [cell.answered for cell in cells(read_experiment(file))] == [18]


def test_the_report_holds_what_the_file_asks_for(write, tmp_path):
    def report_of(methods, **more):
        return run_experiment(read_experiment(write(base=BASE.replace("[none, clva]", methods)), **more))

    assert "clva" in report_of("[none, clva]", limit=6)
    assert "clva" not in report_of("[none]", limit=6)
    text = report_of('[none, "clva:alpha=5,beta=0"]\nreport: {{against: "clva:beta=0,alpha=5"}}', limit=2)
    assert "against clva:alpha=5,beta=0" in text and "2 questions" in text and "of 6" not in text


def test_other_questions_are_refused_before_a_model_is_loaded(tmp_path, tiny_folder, capsys):
    def run(entry, *more):
        text = f"out: {tmp_path / 'out'}\nmodels: ['{tiny_folder}']\nmethods: [none]\nbenchmarks: [{entry}]\n"
        (tmp_path / "e.yaml").write_text(text, "utf-8")
        return main(["run", str(tmp_path / "e.yaml"), "--limit", "2", *more])

    two, three = "{name: pope, protocol: deco, scenes: 2}", "{name: pope, protocol: deco, scenes: 3, folder: three}"
    assert run(f"{two}, {three}") == 0, "scenes of both counts, side by side"
    capsys.readouterr()
    assert run(two.replace("2}", "3}"), "--dry-run") == 2
    assert "data_sha256" in (words := capsys.readouterr().err) and "Or give the benchmark another folder:" in words
    assert run(two.replace("2}", "2, split: advers}"), "--dry-run") == 0, "a part of a split's name will do"
    assert run(two.replace("2}", "2, split: none, folder: new}"), "--dry-run") == 2
    words = capsys.readouterr().err
    assert "e.yaml: benchmarks, new: the folder of drawn questions has no split 'none'. It has: " in words
