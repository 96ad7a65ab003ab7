"""What is wrong between the parts of an experiment, found when its file is read and not when a model's turn comes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import BadSetting, UnknownName, UserError
from ..evaluation.runner.bundled import BUNDLED
from ..evaluation.runner.run import plan, shortened
from ..models.load import require_name
from ..models.settings import require_settings
from ..registry import did_you_mean
from ..specs import choose, gives_seed, spec_of_all
from .experiment import Experiment


def check(made: Experiment, file: str) -> None:
    """Builds every SPEC under every decoding, looks at every setting, and sees that no two parts write into one RUN.

    Args:
        made: What a file asks for.
        file: Its name, for errors.

    Raises:
        UserError: Something in it can never be answered.
    """
    _check_folders(made, file)
    for model in made.models:
        with _named(file):
            require_name(model.name)
            require_settings(model.loading)
    if made.seeds != (None,):
        own = next((each for each in made.decodings if gives_seed("none", each)), None)
        if own is not None:
            raise BadSetting(
                f"{file}: {own!r} in decodings has a seed of its own, and seeds gives others. Leave one of them out."
            )
    metrics: list[str] = []
    for entry in made.benchmarks:
        for decoding in made.decodings:
            with _named(file):
                bench, official = plan(entry.name, list(made.methods_of(entry)), entry.protocol, decoding)
                shortened(official, entry.max_new_tokens)
                metrics += [metric.name for metric in bench.metrics_of]
                if entry.data is None and bench.name not in BUNDLED:
                    raise BadSetting(
                        f"{bench.name} has no drawn scenes (those that do: {', '.join(BUNDLED)}). Give its data and images."
                    )
    methods = (method for entry in made.benchmarks for method in made.methods_of(entry))
    every = dict.fromkeys(spec_of_all(choose(method)[0]) for method in methods)
    if made.against != "none" and made.against not in every:
        raise UnknownName(f"{file}: report.against is no method of the experiment.{did_you_mean(made.against, every)}")
    strange = next((name for name in made.metrics if name not in metrics), None)
    if strange is not None:
        hint = did_you_mean(strange, dict.fromkeys(metrics))
        raise UnknownName(f"{file}: report.metrics: no benchmark has a metric {strange!r}.{hint}")


@contextmanager
def _named(file: str) -> Iterator[None]:
    """Errors inside begin with the file's name."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{file}: {error}") from None


def _check_folders(made: Experiment, file: str) -> None:
    for what, folders in (
        ("models", [one.folder for one in made.models]),
        ("benchmarks", [one.folder for one in made.benchmarks]),
    ):
        twice = next((one for one in folders if folders.count(one) > 1), None)
        if twice is not None:
            key = "; give one of them another folder:" if what == "benchmarks" else ". Keep one"
            raise BadSetting(f"{file}: two {what} would write into one RUN, {twice!r}{key}.")
    alike = [(one.name, one.loading) for one in made.models]
    same = next((one for one in made.models if alike.count((one.name, one.loading)) > 1), None)
    if same is not None:
        raise BadSetting(
            f"{file}: on the device {same.device}, two models are {same.name} with the same settings. Keep one of "
            f"them, or leave --device out."
        )
    for run in (made.out, *(made.run_of(model, entry) for model in made.models for entry in made.benchmarks)):
        there = next(each for each in (run, *run.parents) if os.path.lexists(each))
        if not there.is_dir():
            raise BadSetting(
                f"{file}: expected a folder to write into as {run}; {there} is a file. Choose another out."
            )
        if not os.access(there, os.W_OK | os.X_OK):
            raise BadSetting(f"{file}: {there} cannot be written to. Choose another out.")
