"""Workers of gunicorn that share one copy of the model.

    MODEL=model.txt gunicorn --chdir examples --config gunicorn.conf.py gunicorn_app:application

The parent loads the model, and its pages are shared after a fork. An engine has threads, which no fork copies, so each
process makes its own at its first request. That holds for whatever forks: gunicorn, uWSGI, multiprocessing.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import engine

model = engine.load_model(os.environ["MODEL"])  # before the fork
_lock = threading.Lock()
_engine: engine.Engine | None = None


def the_engine() -> engine.Engine:
    """Return this process's engine."""
    global _engine
    with _lock:
        if _engine is None:
            _engine = engine.Engine(model, default=0.5, deadline_ms=20, expired="answer")
        return _engine


def close() -> None:
    """Close this process's engine, if it made one."""
    if _engine is not None:
        _engine.close()


def _forget() -> None:
    """In a child: the parent's engine and lock are of no use here."""
    global _engine, _lock
    _engine, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    row = json.load(environ["wsgi.input"])
    answer = the_engine().predict([row.get(name) for name in model.feature_names or ()])
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer.as_dict() | {"pid": os.getpid()}).encode()]
