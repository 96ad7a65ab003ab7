"""`tune`: from methods, a model and a benchmark to a setting, its gain on held-out images, and the files that hold both."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..document import save_figure
from ..durable import write_whole
from ..errors import BadRun, BadSetting
from ..evaluation.benchmarks.base import Benchmark
from ..evaluation.reporting.runs import read_run
from ..evaluation.runner.folder import shard
from ..evaluation.statistics import holm
from ..generation.method_file import base_in, save
from ..models.vlm import Vlm
from ..provenance import provenance
from ..specs import DecodingLike, MethodLike
from ..text_files import read_object
from .asking import Asking, metric_of, require_defined, require_scores
from .figure import score_over_parameters
from .paired import Draws, Objective
from .result import TunedMethod, Tuning
from .search import PLAIN, Answers, Measured, Searched, measure, order_of, search
from .space import SettingList, Tunable, chosen, tunable, with_starts
from .split import ImageSplit, split_by_image
from .starts import DIAGNOSE, suggested

BUDGET = 12
"""Settings of each method, where neither a grid nor a budget is given."""
PLAN, RESULT, FIGURE = "plan.json", "tune.json", "tune.png"
VALIDATION, HELD_OUT = "validation", "held-out"


def tune(
    vlm: Vlm,
    methods: "MethodLike | Sequence[MethodLike]",
    benchmark: str | Benchmark,
    out: str | Path,
    *,
    data: str | Path,
    images: str | Path,
    grid: Mapping[str, Sequence[Any]] | None = None,
    budget: int | None = None,
    start: "MethodLike | Sequence[MethodLike]" = (),
    objective: str | None = None,
    held_out: float = 0.5,
    seed: int | None = None,
    decoding: DecodingLike = None,
    say: Callable[[str], Any] = lambda words: None,
    **options: Any,
) -> Tuning:
    """Search the parameters of methods on some images of a benchmark, and judge the best settings on the others.

    Questions are answered in rounds, each about twice the images of the one before; settings that are surely worse are dropped
    between rounds (successive halving). All answers go into RUN folders, so a search that was stopped goes on where it was.
    Also written: `anchors.json` (the winner, as by `va.save`), `tune.json` (every number) and `tune.png`.

    Args:
        vlm: What `va.load` returns.
        methods: What to tune, as in `va.ask`; a list is several methods. Parameters that a SPEC names are kept.
        benchmark: A name, a SPEC or a `va.Benchmark`.
        out: Folder of the search; `va.report` reads its RUNs `validation` and `held-out`.
        data: Question files in the benchmark's layout.
        images: Folder of their images.
        grid: Values by parameter, `{"alpha": [2, 5], "clva.layers": [(13, 24)]}`; all combinations are tried.
        budget: Settings of each method: start values, those of the grid, then random draws from the ranges that its parameters
            declare. By default as many as the largest grid and its start values are, and 12 without a grid.
        start: Settings to try first; "diagnose" stands for what `diagnose` suggests, from the validation images. What they do
            not name is as in the method's SPEC.
        objective: A metric of the benchmark by name; by default its headline.
        held_out: Share of the images that settings are judged on and not chosen on.
        seed: Of the division, the random draws and a sampling decoding that names no seed of its own. None: 0.
        decoding: Instead of the protocol's.
        say: Takes what happens, in words.
        **options: `split`, `limit`, `protocol_name`, `max_new_tokens`, `batch_size`, `reuse`, `ray_workers`, `skip_bad` and
            `progress`, as in `va.evaluate`.

    Returns:
        The winner, every setting's score, and the verdict; `print(found.text())` shows them.

    Raises:
        UserError: A name, a value or a file is wrong, before anything is answered; or the objective proves undefined, or a file
            cannot be written, and all answers are kept.
    """
    check(vlm, budget, options)
    tunables = tunables_of(methods)
    asking = Asking.of(vlm, benchmark, data, images, seed, decoding, {**DEFAULTS, **options})
    aim = Objective(asking.benchmark, metric_of(asking.benchmark, objective))
    base_in(Path(out))  # a broken anchors.json is found before anything is answered
    parts, settled = divided(asking, Path(out), held_out)
    require_answerable(asking, aim, parts)
    if budget is None and not grid:
        budget = BUDGET
    lists = settings_of(asking, parts, tunables, grid or {}, budget, start, say)
    write_plan(Path(out), settled)
    found = searched(asking, aim, parts, lists, Path(out), say)
    write_files(Path(out), found, say)
    return found


DEFAULTS: Mapping[str, Any] = {
    "split": None, "limit": None, "protocol_name": None, "max_new_tokens": None, "batch_size": 16, "reuse": True,
    "ray_workers": None, "skip_bad": False, "progress": lambda done, of: None,
}  # fmt: skip
"""Options of `evaluate` that a search takes."""


def check(vlm: Any, budget: Any, options: Mapping[str, Any]) -> None:
    """Refuses what no search can be made of."""
    unknown = next((name for name in options if name not in DEFAULTS), None)
    if unknown is not None:
        raise TypeError(f"tune() got an unexpected keyword argument {unknown!r}")
    if not isinstance(vlm, Vlm):
        raise BadSetting(f"Expected what va.load returns; found {type(vlm).__name__}.")
    if shard()[1] > 1:
        raise BadSetting(
            "tune decides after each round from all answers, so it runs in one process; found several ranks. Start it once, "
            "with --ray N (ray_workers=N) to answer in several processes."
        )
    whole = isinstance(budget, int) and not isinstance(budget, bool)
    if budget is not None and not (whole and budget >= 1):
        raise BadSetting(f"budget must be a whole number of settings, 1 or more; found {budget!r}.")


def tunables_of(methods: Any) -> list[Tunable]:
    """What is tuned, each once."""
    tunables = [tunable(one) for one in (methods if isinstance(methods, (list, tuple)) else [methods])]
    if not tunables:
        raise BadSetting("Expected one or more methods to tune; found an empty list. Example: clva")
    names = [one.names for one in tunables]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadSetting(f"{'+'.join(twice)} is to be tuned twice. Name it once, with all values in the grid.")
    return tunables


def divided(asking: Asking, folder: Path, share: float) -> tuple[ImageSplit, dict[str, Any]]:
    """The questions by image in two parts, and what the folder's plan says of them.

    Raises:
        BadRun: An earlier search in the folder divided its images otherwise.
    """
    questions = asking.questions
    parts = split_by_image(asking.benchmark, questions, asking.images, share, asking.seed, asking.reached_limit)
    settled = {
        "benchmark": asking.benchmark.spec(), "model": asking.vlm.name, "split": asking.options["split"],
        "limit": asking.options["limit"], "seed": asking.seed, "held_out": share,
        "images": len(parts.validation) + len(parts.held_out), "questions": len(questions),
    }  # fmt: skip
    file = folder / PLAN
    advice = "Remove it and run the command that wrote it again; the answers beside it are kept."
    before = read_object(file, BadRun, advice) if file.exists() else settled
    for name, value in settled.items():
        if before.get(name) != value:
            raise BadRun(
                f"{folder} holds a search with {name} = {before.get(name)!r}; this is {value!r}. Its held-out images would be "
                f"others: choose another --out."
            )
    return parts, settled


def require_answerable(asking: Asking, aim: Objective, parts: ImageSplit) -> None:
    """Refuses questions that the benchmark cannot score here, or whose labels leave the objective undefined."""
    by_id = {question.id: question for question in asking.questions}
    require_scores(asking.benchmark, [by_id[key] for image in parts.validation[:2] for key in image])
    for part, images in ((VALIDATION, parts.validation), (HELD_OUT, parts.held_out)):
        require_defined(asking.benchmark, aim.metric, [by_id[key] for image in images for key in image], part)


def write_plan(folder: Path, settled: Mapping[str, Any]) -> None:
    """Binds the folder to a division, once nothing is left that could be refused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"Cannot write into {folder}: {error.strerror or error}. Choose another folder.") from error
    write_whole(folder / PLAN, json.dumps(settled, indent=1, ensure_ascii=False) + "\n")


def settings_of(
    asking: Asking,
    parts: ImageSplit,
    tunables: Sequence[Tunable],
    grid: Mapping[str, Sequence[Any]],
    budget: int | None,
    start: Any,
    say: Callable[[str], Any],
) -> list[SettingList]:
    """The settings of each method; all of them are known to fit the model."""
    starts = list(start) if isinstance(start, (list, tuple)) else [start]
    if DIAGNOSE in starts:
        by_id = {question.id: question for question in asking.questions}
        wanted = [by_id[image[0]] for image in parts.validation]
        known = suggested(asking.vlm, wanted, asking.images, tunables, say)
        starts = [each for one in starts for each in (known if one == DIAGNOSE else [one])]
    tunables = with_starts(tunables, starts)
    depths = [[asking.depth(part.target) for part in one.base] for one in tunables]
    lists = chosen(tunables, grid, budget, asking.seed, depths, asking.fits)
    for one in lists:
        for setting in one.settings[: len(one.settings) - one.drawn]:  # those that are drawn fit already
            asking.require_fit(setting)
    for words in (parts.words(), *(one.words() for one in lists)):
        say(words)
    return lists


def searched(
    asking: Asking,
    aim: Objective,
    parts: ImageSplit,
    lists: Sequence[SettingList],
    folder: Path,
    say: Callable[[str], Any],
) -> Tuning:
    """The search on the validation part, and the best settings on the held-out part.

    Raises:
        BadSetting: The objective is undefined for every setting; the answers are kept.
    """
    depth = max(asking.depth(part.target) for one in lists for part in one.tunable.base)
    plain, found = search(aim, lists, _rounds(parts), asking.answer_into(folder / VALIDATION), depth, say)
    if all(one.best.score is None for one in found):
        raise BadSetting(
            f"{aim.metric.name} is undefined for every setting on the validation images, so there is none to choose. Run again "
            f"with another --objective; the answers in {folder / VALIDATION} are kept."
        )
    ids = [key for image in parts.held_out for key in image]
    bests = list(dict.fromkeys(one.best.setting for one in found))
    say(f"held-out images: plain and {', '.join(dict.fromkeys(one.best.spec for one in found))}")
    answers = asking.answer_into(folder / HELD_OUT)([(), *bests], ids, ids)
    judged_before = {record["method"] for record in read_run(folder / HELD_OUT).records} - set(answers)
    how = asking.protocol
    info = {
        "benchmark": asking.benchmark.spec(), "version": asking.benchmark.version, "model": asking.vlm.name,
        "revision": asking.vlm.revision, "data": str(asking.data), "split_of_data": asking.options["split"],
        "limit": asking.options["limit"], "protocol": how.name, "max_new_tokens": how.max_new_tokens,
        "decoding": asking.plan_of(()).decoding.spec(), "seed": asking.seed,
        "dtype": str(asking.vlm.dtype).removeprefix("torch."), **provenance(asking.vlm.device),
    }  # fmt: skip
    return judged(aim, parts, plain, found, answers, depth, info, len(judged_before))


def _rounds(parts: ImageSplit) -> list[list[str]]:
    """Ids of the questions that each round adds."""
    sizes = [0, *parts.rounds]
    pairs = itertools.pairwise(sizes)
    return [[key for image in parts.validation[begin:end] for key in image] for begin, end in pairs]


def judged(
    aim: Objective,
    parts: ImageSplit,
    plain: Measured,
    found: Sequence[Searched],
    answers: Answers,
    depth: int,
    info: Mapping[str, Any],
    before: int,
) -> Tuning:
    """The best settings on the held-out part, with p-values corrected for their number."""
    draws = {spec: Draws(aim, records) for spec, records in answers.items()}
    base = draws[PLAIN]
    measured = [measure(one.best.setting, draws[one.best.spec], base) for one in found]
    ps = [None if one.gain is None else one.gain.p for one in measured]
    corrected = iter(holm([p for p in ps if p is not None]))
    tuned = [
        TunedMethod(one, there, None if p is None else next(corrected))
        for one, there, p in zip(found, measured, ps, strict=True)
    ]
    first = order_of(aim, depth, [one.best for one in found])[0]
    winner = next(one for one in tuned if one.searched.best is first)
    return Tuning(aim, parts, (plain, measure((), base, base)), tuple(tuned), winner, info, before)


def write_files(folder: Path, found: Tuning, say: Callable[[str], Any]) -> None:
    """Every number, the settings file, and the figure where matplotlib is installed."""
    what = f"tuned on {found.info['benchmark']} ({found.objective.metric.name}), {found.info['model']}: {found.verdict}"
    write_whole(folder / RESULT, json.dumps(found.as_dict(), indent=1, ensure_ascii=False) + "\n")
    save(list(found.winner.searched.best.setting), folder, what)
    try:
        drawn = score_over_parameters(found)
    except BadSetting as error:
        say(f"No figure is drawn. {error}")
        return
    save_figure(drawn, folder / FIGURE, dpi=130)
