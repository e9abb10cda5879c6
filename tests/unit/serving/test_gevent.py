"""Under gevent's monkey patches an engine works, and says at its construction how not to stop the hub."""

import subprocess
import sys

import pytest

pytest.importorskip("gevent")

BODY = """
from gevent import monkey
monkey.patch_all()
import time, warnings
import gevent, numpy as np
import engine
from engine.model import dense

small = dense([np.array([[1.0], [10.0]])], [np.zeros(1)])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for lane in ("inline", "batch"):
        with engine.Engine(small, default=-1.0, deadline_ms=60_000, lane=lane) as eng:
            jobs = [gevent.spawn(eng.predict, [float(i), 0.0]) for i in range(50)]
            gevent.joinall(jobs)
            assert [job.value.value for job in jobs] == [float(i) for i in range(50)]
        assert len(caught) == (lane == "batch"), (lane, caught)
assert "gevent.get_hub().threadpool.apply(engine.predict, (row,))" in str(caught[0].message)
assert caught[0].filename == "<string>"

def slow(rows):
    time.sleep(0.1)
    return rows[:, 0]

warnings.simplefilter("ignore")
with engine.Engine(engine.load_model(slow, n_features=2), fallback=small, default=-1.0, deadline_ms=60_000) as eng:
    assert eng.wait_ready(60)
    ticks = []

    def tick():
        while True:
            ticks.append(1)
            gevent.sleep(0.001)

    ticker = gevent.spawn(tick)
    assert eng.predict([3.0, 0.0]).value == 3.0
    del ticks[:]
    assert gevent.get_hub().threadpool.apply(eng.predict, ([3.0, 0.0],)).value == 3.0
    assert len(ticks) > 1
    ticker.kill()
    eng.swap(engine.load_model(lambda rows: rows[:, 1], n_features=2), timeout_s=60)
    assert eng.predict([3.0, 4.0]).value == 4.0
print("over")
"""


def test_an_engine_under_gevent():
    done = subprocess.run([sys.executable, "-c", BODY], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "over\n"
