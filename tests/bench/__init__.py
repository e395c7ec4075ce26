"""Measure this tool against its peers: `python -m tests.bench` (docs/benchmarks.md). Not collected by pytest."""
