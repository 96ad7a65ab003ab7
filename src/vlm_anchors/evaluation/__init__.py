"""Benchmarks, the runner that answers their questions, statistics, reports and judges."""
