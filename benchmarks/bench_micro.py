"""The small parts one by one, by pytest-benchmark: the tests under benchmarks/micro.

Each figure is the median time of one call, in nanoseconds, in a closed loop on one thread. They locate a regression
that the other cases show; they are no promise, and no rival stands beside them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def run(smoke: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        length = (
            ["--benchmark-max-time=0.01", "--benchmark-min-rounds=1"] if smoke else ["--benchmark-max-time=1"]
        )
        command = [
            sys.executable,
            "-m",
            "pytest",
            str(HERE / "micro"),
            "-q",
            "-p",
            "no:cacheprovider",
            "--benchmark-only",
            "--benchmark-disable-gc",
            f"--benchmark-json={report}",
            *length,
        ]
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"benchmarks/micro failed:\n{done.stdout}{done.stderr}")
        found = json.loads(report.read_text())["benchmarks"]
    return {
        "metrics": {
            f"{each['name'].removeprefix('test_')}_ns": each["stats"]["median"] * 1e9 for each in found
        },
        "rivals": {},
        "conditions": {
            "arrivals": "closed loop",
            "threads": 1,
            "repeats": {each["name"].removeprefix("test_"): each["stats"]["rounds"] for each in found},
            "spread": {
                each["name"].removeprefix("test_"): [each["stats"]["min"] * 1e9, each["stats"]["max"] * 1e9]
                for each in found
            },
        },
    }
