"""Progress of a training run on stderr."""

import sys
import time


def say(what: str, share: float, text: str = "") -> None:
    """Progress on stderr: a bar that stays in place on a terminal, a line otherwise."""
    if sys.stderr.isatty():
        bar, end = "#" * round(20 * share), "\n" if share >= 1 else ""
        sys.stderr.write(f"\r{what:8} [{bar:20}] {share:4.0%} {text[:90]:90}{end}")
    else:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what} {share:.1%} {text}\n")
    sys.stderr.flush()
