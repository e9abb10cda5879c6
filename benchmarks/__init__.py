"""Benchmarks: `python -m benchmarks list | run | render`. Each case is one `bench_*.py`; see runner.py for its shape."""
