import os
import subprocess
import sys

import numpy as np
import pytest

from engine.errors import MonitorError
from engine.monitor import ModelMonitor, Reference, _logs, _packed

WORKERS = 4


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(0)
    return Reference.fit(rng.normal(size=(20_000, 3)), ("a", "b", "c"), outputs=rng.random(20_000))


@pytest.fixture(params=["folder", "redis"])
def address(request, tmp_path):
    if request.param == "folder":
        return tmp_path / "shared"
    server = request.getfixturevalue("redis_server")
    server.client().flushall()
    return request.getfixturevalue("redis_url")


def worker(reference, address, **options):
    return ModelMonitor(reference, **({"handlers": [], "background": False, "shared": address} | options))


def shifted(n, seed=1, by=0.25):
    return (np.random.default_rng(seed).normal(size=(n, 3)) + np.array([by, 0.0, 0.0])).astype(np.float32)


def alerts_of(monitor):
    return [(alert.column, alert.started_row, alert.detected_row, alert.evidence) for alert in monitor.alerts]


def dealt(workers, rows, part=200):
    """Deal rows to the workers in turn, as a balancer does; each looks when its part is there."""
    for start in range(0, len(rows), part):
        here = rows[start : start + part]
        for place, one in enumerate(workers):
            one.input_distribution.update(np.ascontiguousarray(here[place :: len(workers)]))
            one.check()


def test_four_workers_give_one_alert_as_early_as_one_process(reference, address):
    heard = [[] for _ in range(WORKERS)]
    workers = [worker(reference, address, handlers=[calls.append]) for calls in heard]
    rows = shifted(3000)
    with ModelMonitor(reference, handlers=[], background=False) as one:
        one.input_distribution.update(rows)
        expected = one.alerts[0].detected_row
    dealt(workers, rows)
    for each in workers:
        each.check()
    assert sum(map(len, heard)) == 1
    known = [alerts_of(each) for each in workers]
    assert known == [known[0]] * WORKERS
    assert [alert[0] for alert in known[0]] == ["a"]
    assert known[0][0][2] <= 1.1 * expected
    assert {each.input_distribution.rows for each in workers} == {3000}
    figures = [each.input_distribution.columns() for each in workers]
    assert figures == [figures[0]] * WORKERS
    for each in workers:
        each.close()


def test_blocks_of_whole_workers_are_those_of_one_process_bit_for_bit(reference, address):
    rows = shifted(4000)
    workers = [worker(reference, address) for _ in range(2)]
    with ModelMonitor(reference, handlers=[], background=False) as one:
        for start in range(0, 4000, 50):
            one.input_distribution.update(rows[start : start + 50])
            workers[start // 50 % 2].input_distribution.update(rows[start : start + 50])
        one.check()
        for each in workers:
            each.check()
        assert alerts_of(workers[0]) == alerts_of(workers[1]) == alerts_of(one)
        evidence = [each.input_distribution._detector._evidence.level.tobytes() for each in (one, *workers)]
        assert evidence == [evidence[0]] * 3
    for each in workers:
        each.close()


def test_a_label_finds_an_answer_of_another_process_and_of_one_that_has_ended(reference, address):
    first, second = worker(reference, address), worker(reference, address)
    there = first.log_prediction([0, 0, 0], 0.75, 1.0, version="7")
    ended = first.log_prediction([0, 0, 0], 0.5, 1.0, version="7", source="fallback")
    first.check()
    assert second.outcome(there, 1) == "joined"
    second.check()
    first.check()
    assert first.outcome(there, 1) == "repeated"
    first.close()
    second.close()
    third = worker(reference, address)
    assert third.outcome(ended, 0, value=3.0) == "joined"
    assert third.outcome(there, 1) == "repeated"
    assert third.outcome(12345, 1) == "unknown"
    groups = {(group["version"], group["source"]): group for group in third.to_json()["outcomes"]["groups"]}
    assert groups["7", "primary"]["labels"] == 1
    assert groups["7", "primary"]["prediction_mean"] == 0.75
    assert groups["7", "fallback"]["value"] == 3.0
    third.close()


def test_answers_by_version_and_totals_are_those_of_all(reference, address):
    workers = [worker(reference, address) for _ in range(3)]
    for place, each in enumerate(workers):
        for _ in range(100):
            each.log_prediction([0, 0, 0], 0.5, 2.0, version=f"v{place}")
        each.check()
    made = workers[0].to_json()
    assert made["answers"] == 300
    assert {name: found["answers"]["primary"]["ok"] for name, found in made["sources"]["versions"].items()} == {
        "v0": 100, "v1": 100, "v2": 100,
    }  # fmt: skip
    assert made["latency_us"]["primary"]["count"] == 300
    for each in workers:
        each.close()


def test_all_change_to_another_reference_at_the_same_row(reference, address):
    workers = [worker(reference, address) for _ in range(2)]
    dealt(workers, shifted(1000, by=0.0))
    other = Reference.fit(
        shifted(20_000, 7, by=1.0), ("a", "b", "c"), outputs=np.random.default_rng(1).random(20_000)
    )
    workers[1].set_reference(other)
    dealt(workers, shifted(4000, 8, by=1.0))
    for each in workers:
        each.check()
    assert [each.reference.to_json() == other.to_json() for each in workers] == [True, True]
    assert workers[0].alerts == workers[1].alerts == []
    for each in workers:
        each.close()


def test_one_that_learns_tells_the_others(address):
    workers = [ModelMonitor(handlers=[], background=False, shared=address, learn_rows=200) for _ in range(2)]
    rng = np.random.default_rng(3)
    for _ in range(150):
        for each in workers:
            each.log_prediction(rng.normal(size=3).tolist(), rng.random(), 1.0)
    while any(each.reference is None for each in workers):
        for each in workers:
            each.log_prediction(rng.normal(size=3).tolist(), rng.random(), 1.0)
            each.check()
    assert workers[0].reference.to_json() == workers[1].reference.to_json()
    for each in workers:
        each.close()


def test_messages_of_one_are_in_the_log_of_all(reference, address):
    heard = []
    first, second = worker(reference, address), worker(reference, address, handlers=[heard.append])
    first.alert("the feed was switched", severity="info")
    second.check()
    assert [alert.message for alert in second.alerts] == ["the feed was switched"]
    assert heard == []
    first.close()
    second.close()


def test_a_snapshot_stands_for_the_entries_before_it(reference, address, monkeypatch):
    monkeypatch.setattr(_logs, "SNAPSHOT_BYTES", 20_000)
    first, idle = worker(reference, address), worker(reference, address)
    rows = shifted(6000)
    for start in range(0, 6000, 100):
        first.input_distribution.update(rows[start : start + 100])
    answer = first.log_prediction([0, 0, 0], 0.5, 1.0)
    first.check()
    later = worker(reference, address)
    assert later.input_distribution.rows == 6001
    assert alerts_of(later) == alerts_of(first)
    assert [alert[0] for alert in alerts_of(later)] == ["a"]
    assert later.outcome(answer, 1) == "joined"
    # One that has slept through all of it knows the same.
    idle.check()
    assert alerts_of(idle) == alerts_of(first)
    assert idle.input_distribution.columns() == first.input_distribution.columns()
    for each in (first, idle, later):
        each.close()


def test_half_an_entry_of_a_process_that_died_is_cut_off(reference, tmp_path):
    first, second = worker(reference, tmp_path), worker(reference, tmp_path)
    first.input_distribution.update(shifted(500))
    with open(tmp_path / "000000001.log", "ab") as file:
        file.write(b"\x10\x27\x00\x00\xff\xff\xff\xffhalf")
    second.input_distribution.update(shifted(500))
    first.check()
    assert first.input_distribution.rows == second.input_distribution.rows == 1000
    first.close()
    second.close()


def test_an_entry_that_nobody_can_read_is_left_out(reference, tmp_path, caplog):
    with worker(reference, tmp_path) as monitor:
        _logs.FolderLog(tmp_path).exchange([b"not an entry", _packed.pack({"no": "worker"})])
        monitor.input_distribution.update(shifted(500))
        assert monitor.input_distribution.rows == 500
    assert caplog.text.count("an entry of the shared monitor is left out") == 2


def test_a_folder_that_cannot_be_written_holds_up_nothing(reference, tmp_path, caplog, monkeypatch):
    monitor = worker(reference, tmp_path / "shared")

    def full(self, entries):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(_logs.FolderLog, "exchange", full)
        monitor.input_distribution.update(shifted(500))
        assert monitor.check() == ()
    assert "No space left on device" in caplog.text
    monitor._merging._rests_until = 0.0
    monitor.check()
    assert monitor.input_distribution.rows == 500
    monitor.close()


WORK = """
import sys, numpy as np
from engine.monitor import ModelMonitor, Reference
reference = Reference.from_json(open(sys.argv[1]).read())
rng = np.random.default_rng(int(sys.argv[3]))
heard = lambda alert: print("heard", alert.column, flush=True)
with ModelMonitor(reference, handlers=[heard], shared=sys.argv[2]) as monitor:
    for _ in range(1000):
        monitor.log_prediction((rng.normal(size=3) + [0.4, 0.0, 0.0]).astype(np.float32), 0.5, 1.0)
"""


def test_processes_of_their_own_merge(reference, tmp_path):
    (tmp_path / "reference.json").write_text(reference.to_json())
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, tmp_path / "reference.json", tmp_path / "shared", str(seed)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        for seed in range(3)
    ]
    said = " ".join(process.communicate(timeout=120)[0] for process in running).split()
    assert [process.returncode for process in running] == [0, 0, 0]
    assert said.count("a") == 1
    with worker(reference, tmp_path / "shared") as later:
        assert later.input_distribution.rows == 3000
        assert later.input_distribution.drifted == ("a",)


def test_options_that_contradict_each_other_are_refused(reference, tmp_path):
    with pytest.raises(MonitorError, match="give either state= or shared="):
        ModelMonitor(reference, handlers=[], state=tmp_path / "s", shared=tmp_path / "t")
    (tmp_path / "file").write_text("")
    with pytest.raises(MonitorError, match="expected a folder or a redis:// address"):
        ModelMonitor(reference, handlers=[], shared=tmp_path / "file")


def test_packed_values_come_back():
    made = {
        "a": [1, 2.5, None, "text"],
        "b": {"array": 3},
        "c": [np.arange(6, dtype=np.uint32).reshape(2, 3)],
    }
    made["b"] = {"inner": np.array([np.nan, 1.0])}
    found = _packed.unpack(_packed.pack(made))
    assert found["a"] == made["a"]
    assert np.array_equal(found["c"][0], made["c"][0])
    assert np.array_equal(found["b"]["inner"], made["b"]["inner"], equal_nan=True)
    with pytest.raises(MonitorError, match="damaged"):
        _packed.unpack(b"nothing")
