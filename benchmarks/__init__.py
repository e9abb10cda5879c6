"""Benchmarks: `python -m benchmarks list | run | render`. A case is one `bench_*.py`; runner.py says how."""
