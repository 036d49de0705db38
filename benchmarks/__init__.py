"""Measurements for developers, run from the repository: `python -m benchmarks`."""
