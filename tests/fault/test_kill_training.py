"""`kill -9` and SIGTERM at random moments of training: the run that goes on ends in the model of one never stopped.

ENGINE_KILLS sets how many kills (4 unless said), spread over as many runs as they take.
"""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from engine.registry import ModelRegistry

KILLS = int(os.environ.get("ENGINE_KILLS", "4"))

CHILD = """
    import sys
    import numpy as np, pyarrow as pa
    from engine.registry import ModelRegistry
    from engine.training import LightGBM, TrainingPipeline

    class Store:
        def get_training_features(self, config):
            rng = np.random.default_rng(5)
            rows = rng.normal(size=(4000, 6))
            columns = {f"x{i}": rows[:, i] for i in range(6)}
            late = (rows[:, 0] * rows[:, 1] + rng.normal(size=4000) > 0).astype(int)
            return pa.table({"at": np.arange(4000), "late": late, **columns})

    learner = LightGBM(
        120, 6, num_leaves=15, bagging_fraction=0.6, bagging_freq=1, feature_fraction=0.5
    )
    registry = ModelRegistry(sys.argv[1], code=False)
    pipeline = TrainingPipeline(Store(), registry, learner=learner, label="late", time="at")
    print("ready", flush=True)
    run = pipeline.train({"dataset": "generated"})
    print(f"done {run.version.number} {run.resumed_step}", flush=True)
"""


def start(folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(folder)]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout.readline() == "ready\n", child.stderr.read()
    return child


def finish(folder):
    """Train to the end. Return the seconds that it took, and the parts of the version."""
    began = time.monotonic()
    out, err = (child := start(folder)).communicate(timeout=100)
    assert child.returncode == 0, err
    registry = ModelRegistry(folder, code=False)
    assert registry.verify().problems == []
    bundle = registry.resolve("model@1")
    parts = [bundle.content(role) for role in ("primary", "fallback", "program", "golden")]
    return time.monotonic() - began, parts, out


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The time and the parts of an undisturbed run."""
    return finish(tmp_path_factory.mktemp("straight"))


@pytest.mark.slow
@pytest.mark.timeout(60 + 30 * KILLS)
def test_a_killed_run_goes_on_to_the_same_model(tmp_path, straight, seed):
    rng = random.Random(seed)
    took_s, expected, _ = straight
    kills, runs, resumed = 0, 0, 0
    while kills < KILLS:
        folder = tmp_path / f"run{runs}"
        for _ in range(4):
            child = start(folder)
            # No wait for anything: the random moment of its death, anywhere in a run.
            time.sleep(rng.uniform(0.0, took_s))
            child.send_signal(signal.SIGKILL)
            out = child.communicate()[0]
            kills += 1
            if "done" in out:
                break
        _, parts, out = finish(folder)
        assert parts == expected, f"run {runs}, {kills} kills"
        registry = ModelRegistry(folder, code=False)
        assert [version.number for version in registry.versions("model")] == [1]  # never registered twice
        registry.gc()
        assert registry.verify().problems == []
        resumed += int(out.split()[-1]) > 0
        runs += 1
    print(
        f"{kills} kills in {runs} runs, {resumed} of them went on from a checkpoint: the same bits each time"
    )


@pytest.mark.slow
def test_sigterm_ends_a_run_soon_and_loses_no_finished_step(tmp_path, straight):
    _, expected, _ = straight
    child = start(tmp_path / "run")
    checkpoints = tmp_path / "run" / "training"
    until = time.monotonic() + 60
    while not list(checkpoints.glob("*/primary.checkpoint")):
        assert time.monotonic() < until
        time.sleep(0.005)
    child.terminate()
    _, err = child.communicate(timeout=5)  # the time that a preempted machine has left
    assert child.returncode == 1
    assert "TrainingInterrupted: training was stopped by SIGTERM" in err
    _, parts, out = finish(tmp_path / "run")
    assert parts == expected
    assert int(out.split()[-1]) > 0
