"""The command line. Nothing heavy is imported before a command runs: `--help` answers at once.

Exit 0: done. Exit 2: the input is at fault, explained in one or two sentences on stderr. Exit 1: anything else.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from ...durable import FULL
from ...errors import AnchorsWarning, UserError
from .printing import visible


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = list(sys.argv[1:] if arguments is None else arguments)
    from .commands import app
    from .printing import any_console

    any_console()
    _show_our_warnings_as_sentences()
    try:
        app(args=options, prog_name="vlm-anchors")
        sys.stdout.flush()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BrokenPipeError:  # the reader of a pipe (`| head`) has seen enough
        _abandon_stdout()
        return 0
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except UserError as error:
        if "--debug" in options:
            raise
        print(visible(error), file=sys.stderr)
        return 2
    except Exception as error:
        if "--debug" in options:
            raise
        if isinstance(error, OSError) and isinstance(error.filename, str | os.PathLike) and error.strerror:
            print(visible(_of_a_file(error)), file=sys.stderr)
            return 2
        if isinstance(error, OSError) and error.errno in FULL:
            print(
                f"Cannot write: {error.strerror}. Make room, or write to another place, and run again.", file=sys.stderr
            )
            _abandon_stdout()
            return 2
        print(visible(f"{type(error).__name__}: {error}"), file=sys.stderr)
        print(
            "This is a fault of vlm-anchors or of its installation; --debug shows where it happened.", file=sys.stderr
        )
        return 1
    return 0


def _abandon_stdout() -> None:
    """What is still to be written there has no place; Python would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_a_file(error: OSError) -> str:
    """The last resort: a file or folder that no check was meant for."""
    return (
        f"Cannot use {os.fspath(error.filename)}: {error.strerror}. Check that it is there, of the right kind and yours to "
        f"read or write, or name another; --debug shows where it happened."
    )


def _show_our_warnings_as_sentences() -> None:
    ordinary, shown = warnings.showwarning, set[str]()

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        if issubclass(category, AnchorsWarning):
            if str(message) not in shown:  # Python forgets what it showed whenever a library changes its filters
                shown.add(str(message))
                print(visible(f"Warning: {message}"), file=sys.stderr)
        else:
            ordinary(message, category, filename, lineno, file, line)

    warnings.showwarning = show
