"""Tasks of Celery. Each worker process has an engine of its own.

    MODEL=model.txt BROKER=redis://127.0.0.1:6379/0 celery --workdir examples --app celery_tasks worker

A task carries the instant when its caller wanted it, so time spent in the broker's queue counts.
"""

import os
import time

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown

import engine

BROKER = os.environ.get("BROKER", "redis://127.0.0.1:6379/0")
app = Celery("celery_tasks", broker=BROKER, backend=BROKER)
eng: engine.Engine | None = None


@worker_process_init.connect
def open_engine(**_: object) -> None:
    global eng
    model = engine.load_model(os.environ["MODEL"])
    eng = engine.Engine(model, default=0.5, deadline_ms=1000, expired="answer")


@worker_process_shutdown.connect
def close_engine(**_: object) -> None:
    if eng is not None:
        eng.close()


@app.task
def risk(row: dict[str, float], wanted_unix_s: float) -> dict[str, object]:
    """Return the answer for a row; wanted_unix_s is when the caller gives up, in Unix time."""
    assert eng is not None
    left_ms = (wanted_unix_s - time.time()) * 1e3
    answer = eng.predict([row.get(name) for name in eng.primary.feature_names or ()], deadline_ms=left_ms)
    return answer.as_dict()
