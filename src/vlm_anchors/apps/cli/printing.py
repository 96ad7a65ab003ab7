"""Text on a terminal: what models and files say is shown as it is, and nothing in it acts on the terminal."""

import codecs
import re
import sys
from typing import Any

# Control characters but tab and line break, and the marks that turn the direction of text (Unicode TR 36).
_ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_PLAIN = {
    **dict.fromkeys("─━═", "-"), **dict.fromkeys("│┃║", "|"), **dict.fromkeys("┌┐└┘├┤┬┴┼┏┓┗┛┡┩┢┪┣┫┳┻╋╇╈╞╡╪", "+"),
    "–": "-", "—": "-", "−": "-", "“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "·": "-", "×": "x", "•": "*", "→": "->",
}  # fmt: skip


def visible(text: Any) -> str:
    r"""The text with every character that would act on a terminal written out, such as \x1b."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def say(text: Any, **how: Any) -> None:
    """Prints a line of text, made visible; keywords as of `typer.echo`."""
    import typer

    typer.echo(visible(text), **how)


def console(**how: Any) -> Any:
    """A rich console that takes text as text: what a model wrote in brackets or between colons is no markup."""
    from rich.console import Console

    return Console(markup=False, emoji=False, **how)


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """A codec error handler: the nearest plain character where there is one, an escape elsewhere."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in text), error.end


def any_console() -> None:
    """Makes stdout and stderr take every character, whatever the console's encoding."""
    codecs.register_error("vlm-anchors", _plainer)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="vlm-anchors")
