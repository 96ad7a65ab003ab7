"""`vlm-anchors judge`: a language model's reviews of answers to LLaVA-Bench or MMHal-Bench."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .printing import say


def judge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that eval llava-bench or mmhal wrote.")],
    rules: Annotated[
        Path,
        typer.Option(
            "--rules", metavar="FILE", help="LLaVA's llava/eval/table/rule.json; MMHal's prompt with four {}."
        ),
    ],
    url: Annotated[str, typer.Option("--url", metavar="URL", help="OpenAI-compatible: http://localhost:8000/v1")],
    judge_model: Annotated[
        str, typer.Option("--judge-model", metavar="NAME", help="The judge, as the server calls it.")
    ],
    key_variable: Annotated[
        str,
        typer.Option(
            "--key-variable", metavar="NAME", help="Environment variable that holds the key, if one is needed."
        ),
    ] = "OPENAI_API_KEY",
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="LLaVA-Bench's folder. Default: where the questions came from."),
    ] = None,
    send: Annotated[
        bool, typer.Option("--send", help="Send questions, answers and captions there. May cost money.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Let a judge model review the answers of LLaVA-Bench or MMHal-Bench; report then shows scores.

    Says what would be sent, and sends it with --send. Goes on where it was stopped.
    """
    from ...evaluation.judging.judge import Judge
    from ...evaluation.judging.judge_run import judge_run, judge_settings, waiting

    asked = Judge(url, judge_model, key_variable, **judge_settings(run))
    count = len(waiting(run, rules, judge_model, data))
    if not count:
        print(f"Every answer in {run} has its review. Next: vlm-anchors report {run}", file=sys.stderr)
    elif not send:
        say(f"{count} questions with their answers would be sent to {asked.address}, model {judge_model}.")
        print("Nothing was sent. Add --send to send them.", file=sys.stderr)
    else:
        added = judge_run(run, rules, asked, data, options.progress())
        print(f"{added} reviews added to {run}. Next: vlm-anchors report {run}", file=sys.stderr)
