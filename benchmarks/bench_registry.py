"""The registry: registering, flipping and resolving, beside MLflow; and the time of a rollback until it is served.

Each registration stores another LightGBM text of 1 MB and is durable when the call returns: file, folder and index are
synced. MLflow runs in its own environment on SQLite, in its two fastest ways: an artifact logged to a run and made a
version (`register_artifact_ms`), and `mlflow.lightgbm.log_model` with a registered name. Neither syncs its files.
`vs_mlflow` compares with the faster one. Both use this machine's disk; other load on the disk makes a sync ten times as
slow.

`rollback_ms_in_process` runs from the call of `service.rollback()` until the previous version answers every request;
`rollback_durable_ms_in_process` until the call returns, when the flip is on the disk too. Across processes the time
runs from the flip in another process to the first answer of the previous version, on one clock, while threads call the
service without a pause. `failed_requests` counts answers that are not the primary's, or not of the version that they
name. The service polls at its default interval.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import own_environment
from engine.registry import ModelRegistry
from engine.rollout import Event
from engine.rollout import open as open_service

HERE = Path(__file__).parent
MLFLOW = ["mlflow==3.17.0", "lightgbm==4.7.0"]
MODEL_BYTES = 1_000_000
N_FEATURES = 24
CALLERS = 2


def model_of(size: int) -> bytes:
    """A LightGBM text of about `size` bytes, trained on noise: its answers do not matter."""
    import lightgbm

    rng = np.random.default_rng(11)
    rows = rng.normal(size=(5_000, N_FEATURES))
    labels = (rows[:, 0] + rows[:, 1] * rows[:, 2] > 0).astype(float)
    settings = {"objective": "binary", "num_leaves": 31, "num_threads": 1, "verbosity": -1, "seed": 11}
    trees = max(2, size // 3_400)
    return str(lightgbm.train(settings, lightgbm.Dataset(rows, labels), trees).model_to_string()).encode()


def numbered(content: bytes, number: int) -> bytes:
    """The same model under another digest: a comment in its parameters."""
    return content.replace(b"\nend of parameters", f"\n[note: {number}]\nend of parameters".encode(), 1)


def registered(folder: Path, content: bytes, count: int) -> tuple[ModelRegistry, list[float]]:
    """Milliseconds of each `register` of a file."""
    registry = ModelRegistry(folder / "registry")
    registry.register(content, name="warm")  # reads the commit and the environment, once a process
    taken = []
    for number in range(count):
        path = folder / f"{number}.txt"
        path.write_bytes(numbered(content, number))
        started = time.perf_counter_ns()
        registry.register(path, {"auc": 0.7}, name="flight-delay")
        taken.append((time.perf_counter_ns() - started) * 1e-6)
        path.unlink()
    return registry, taken


def flipped(registry: ModelRegistry, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each durable flip, microseconds of each `resolve`."""
    flips, resolves = [], []
    for number in range(count):
        started = time.perf_counter_ns()
        registry.promote("flight-delay", number % 2 + 1)
        flips.append((time.perf_counter_ns() - started) * 1e-6)
    for _ in range(20 * count):
        started = time.perf_counter_ns()
        registry.resolve("flight-delay@production")
        resolves.append((time.perf_counter_ns() - started) * 1e-3)
    return flips, resolves


def pair(folder: Path, content: bytes) -> ModelRegistry:
    """A registry with versions 1 and 2, equal except for their digests; production is 1."""
    registry = ModelRegistry(folder / "pair", code=False)
    golden = np.random.default_rng(2).normal(size=(64, N_FEATURES))
    for number in (1, 2):
        registry.register(numbered(content, number), golden=golden, policy={"deadline_ms": 1_000.0})
    registry.promote("model", 1)
    return registry


def in_process(registry: ModelRegistry, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each `service.rollback()`: until the previous version answers callers, and in all."""
    row = np.zeros(N_FEATURES)
    back_ns: list[int] = []

    def note(event: Event) -> None:
        if event.kind == "rolled_back":
            back_ns.append(time.perf_counter_ns())

    swapped, durable = [], []
    with open_service("model@production", registry=registry, poll_ms=None, on_event=note) as service:
        for _ in range(count):
            registry.promote("model", 2)
            service.follow()
            assert service.predict(row).version == "model@2"
            started = time.perf_counter_ns()
            service.rollback()
            durable.append((time.perf_counter_ns() - started) * 1e-6)
            swapped.append((back_ns[-1] - started) * 1e-6)
            assert service.predict(row).version == "model@1"
    return swapped, durable


FLIPPER = """
    import sys, time
    from engine.registry import ModelRegistry
    registry = ModelRegistry(sys.argv[1], code=False)
    for line in sys.stdin:
        if line.startswith("promote"):
            registry.promote("model", 2)
            print("done", flush=True)
        else:
            started = time.monotonic_ns()
            registry.rollback("model")
            print(started, time.monotonic_ns(), flush=True)
"""


class Callers:
    """Threads that call a service without a pause, and record each version's first answer after the last flip."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.failed = self.answered = 0
        self.wanted = "model@1"
        self.first_ns: int | None = None
        self._stop, self._seen = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, version: str) -> int:
        """Return the instant of the first answer by `version` from now on, on the monotonic clock."""
        with self._lock:
            self._seen.clear()
            self.wanted, self.first_ns = version, None
        if not self._seen.wait(60):
            raise TimeoutError(f"{version} never answered: {self.service.status()}")
        assert self.first_ns is not None
        return self.first_ns

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        row = np.random.default_rng(3).normal(size=N_FEATURES)
        expected = self.service.predict(row).value
        answered = failed = 0
        while not self._stop.is_set():
            try:
                answer = self.service.predict(row)
            except Exception:
                failed += 1
                continue
            answered += 1
            failed += answer.source != "primary" or answer.value != expected
            if answer.version == self.wanted and self.first_ns is None:
                with self._lock:
                    if answer.version == self.wanted and self.first_ns is None:
                        self.first_ns = time.monotonic_ns()
                        self._seen.set()
        with self._lock:
            self.answered += answered
            self.failed += failed


def across_processes(registry: ModelRegistry, count: int) -> tuple[list[float], list[float], Callers]:
    """Milliseconds from another process's rollback (before it, and after it was durable) to the first answer."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    flipper = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FLIPPER), str(registry.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert flipper.stdin is not None
    assert flipper.stdout is not None
    whole, noticed = [], []
    with open_service("model@production", registry=registry) as service:
        callers = Callers(service)
        try:
            for _ in range(count):
                flipper.stdin.write("promote\n")
                flipper.stdin.flush()
                flipper.stdout.readline()
                callers.wait_for("model@2")
                flipper.stdin.write("rollback\n")
                flipper.stdin.flush()
                first_ns = callers.wait_for("model@1")
                before, after = map(int, flipper.stdout.readline().split())
                whole.append((first_ns - before) * 1e-6)
                noticed.append((first_ns - after) * 1e-6)
        finally:
            callers.close()
            flipper.communicate("")
    return whole, noticed, callers


def mlflow(content: bytes, folder: Path, count: int) -> dict[str, float]:
    """MLflow's own figures for the same model."""
    path = folder / "model.txt"
    path.write_bytes(content)
    script = HERE / "rival_mlflow.py"
    return own_environment.measured_in(MLFLOW, script, str(path), str(folder), str(count), limit_s=300)


def run(smoke: bool) -> dict[str, Any]:
    """Run the case. The smoke size leaves MLflow out, because it installs nothing."""
    content = model_of(20_000 if smoke else MODEL_BYTES)
    count = 5 if smoke else 60
    missing: dict[str, str] = {}
    rivals: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=HERE.parent) as made:
        folder = Path(made)
        registry, register_ms = registered(folder, content, count)
        flip_ms, resolve_us = flipped(registry, count)
        served = pair(folder, content)
        rollback_ms, durable_ms = in_process(served, count)
        whole_ms, noticed_ms, callers = across_processes(served, 3 if smoke else 200)
        if not smoke:
            try:
                rivals["mlflow"] = mlflow(content, folder, 30)
            except own_environment.RivalMissing as reason:
                missing["mlflow"] = str(reason)
    metrics = {
        "register_ms_p50": float(np.median(register_ms)),
        "register_ms_p99": float(np.percentile(register_ms, 99)),
        "flip_ms_p50": float(np.median(flip_ms)),
        "resolve_us_p50": float(np.median(resolve_us)),
        "rollback_ms_in_process": float(np.percentile(rollback_ms, 99)),
        "rollback_durable_ms_in_process": float(np.median(durable_ms)),
        "rollback_ms_across_processes_p50": float(np.median(whole_ms)),
        "rollback_ms_across_processes_p99": float(np.percentile(whole_ms, 99)),
        "noticed_ms_p50": float(np.median(noticed_ms)),
        "failed_requests": float(callers.failed),
        "requests": float(callers.answered),
    }
    if "mlflow" in rivals:
        best = min(rivals["mlflow"][key] for key in ("register_artifact_ms", "register_ms_p50"))
        metrics["vs_mlflow"] = best / metrics["register_ms_p50"]
    conditions = {
        "model_bytes": len(content),
        "callers": CALLERS,
        "poll_ms": 5.0,
        "not_measured": missing,
        "smoke": smoke,
    }
    return {"metrics": metrics, "rivals": rivals, "conditions": conditions}
