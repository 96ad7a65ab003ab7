"""Answers a benchmark's questions, so that nothing is lost whatever happens. Imports nothing heavy.

One line a question and method is appended and flushed as it is answered; a second run answers what is missing. Batches
are a function of the questions alone, never of what was already done, so a run that was killed any number of times
holds the same answers as one that was not.
"""

from .run import evaluate

__all__ = ["evaluate"]
