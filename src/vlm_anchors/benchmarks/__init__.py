"""The catalogue of benchmarks: one line each. Importing this package imports no benchmark and nothing heavy."""

from ..registry import Catalogue

BENCHMARKS = Catalogue("benchmark", [])
