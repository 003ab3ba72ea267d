"""Benchmarks: `python -m bench` starts a service, measures it and writes results.md."""
