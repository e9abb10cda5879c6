import ast
import inspect

import numpy as np
import pytest

from engine.errors import MonitorError
from engine.monitor._sketch import LATENCY_UPPER_NS, Sketch


@pytest.fixture
def sketch():
    made = Sketch(features_max=3, outputs_max=1, ring_rows=64, block_rows=10, answers_max=32)
    yield made
    made.close()


def layout(n_features):
    return [(np.array([0.0, 1.0], dtype=np.float32), None, 3)] * (n_features + 1)


def test_rows_are_counted_by_bin(sketch):
    sketch.set_layout(layout(2), 2)
    sketch.push(1, row=np.array([0.5, np.nan], dtype=np.float32), values=np.array([2.0]), deployment=4)
    sketch.drain(True)
    block = sketch.take()
    assert block["counts"].tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert block["missing"].tolist() == [0, 1, 0]
    assert block["deployments"].tolist() == [4]
    assert block["tally"].shape == (1, 3, 32)
    assert sketch.take() is None


def test_blocks_close_by_rows_and_only_whole_ones_come_without_flush(sketch):
    sketch.set_layout(layout(1), 1)
    sketch.fold_features(np.zeros((25, 1), dtype=np.float32))
    assert [sketch.take()["rows"], sketch.take()["rows"], sketch.take()] == [10, 10, None]
    sketch.drain(True)
    assert sketch.take()["rows"] == 5


def test_a_full_ring_drops_and_counts():
    sketch = Sketch(features_max=1, outputs_max=1, ring_rows=4)
    rows, values = np.zeros((100_000, 1), dtype=np.float32), np.zeros(100_000)
    taken = sketch.push_rows(rows, values)
    while not sketch.drain(
        False
    ):  # more blocks than it keeps, on a machine that lets the folding thread keep up
        while sketch.take() is not None:
            pass
    totals = sketch.totals()
    assert totals["pushed"] == taken
    assert totals["pushed"] + totals["dropped"] == 100_000
    assert totals["folded"] == taken
    sketch.close()


def test_answers_are_found_once_labelled_once_and_forgotten(sketch):
    for i in range(5):
        sketch.push(i, deployment=9, values=np.array([i / 10]), ready_ns=77, source=1)
    assert sketch.find(3)[:5] == (9, 77, 1, False, False)
    assert sketch.find(3)[5].tolist() == [0.3]
    assert [sketch.label(3), sketch.label(3), sketch.label(99)] == [True, False, False]
    for i in range(100, 140):
        sketch.push(i, values=np.array([0.0]))
    sketch.drain(False)
    assert sketch.find(3) is None


def test_versions_are_announced_by_name(sketch):
    sketch.deployed(1, "7")
    sketch.deployed(2, "größer")
    sketch.deployed(1, "7b")
    assert sketch.versions() == {2: "größer", 1: "7b"}


def test_latency_buckets_ascend():
    assert (np.diff(LATENCY_UPPER_NS) > 0).all()


def test_arrays_of_another_dtype_or_layout_are_rejected(sketch):
    with pytest.raises(MonitorError, match="expected a C-contiguous float32 array, got int64"):
        sketch.push(1, row=np.zeros(3, dtype=np.int64))
    with pytest.raises(MonitorError, match="expected a C-contiguous float64 array"):
        sketch.fold_outputs(np.zeros((4, 4))[:, ::2])
    with pytest.raises(MonitorError, match=r"expected rows \[n, n_features\] and values \[n\]"):
        sketch.push_rows(np.zeros((4, 3), dtype=np.float32), np.zeros(3))


def test_closing_ends_waits_and_rejects_pushes(sketch):
    sketch.close()
    assert sketch.wait_closed(10.0)
    sketch.wait(10.0)
    assert not sketch.push(1, values=np.array([0.0]))


def test_a_capsule_outlives_its_sketch():
    sketch = Sketch(features_max=1, outputs_max=1)
    capsule = sketch.observer
    del sketch
    assert "engine.observer.v1" in repr(capsule)
    del capsule


def test_the_stub_shows_the_docstrings_of_help(root):
    """Editors read the stub, people read help(): both have the same text."""
    path = root / "src" / "engine" / "monitor" / "_sketch.pyi"
    stub = next(node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef))
    assert ast.get_docstring(stub) == inspect.getdoc(Sketch)
    for member in stub.body:
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            assert ast.get_docstring(member) == inspect.getdoc(getattr(Sketch, member.name)), member.name
