"""Models at the worst moments: the end of the process, threads of the engine's kind inside them, damaged files.

The threads here are what the engine's own are: native, started by C++, with a noexcept function at the bottom.
"""

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

HOST = r"""
// Threads that score for ever from a noexcept function, as the engine's executors do.
#include <atomic>
#include <cstddef>
#include <thread>

using Score = int (*)(void*, const float*, size_t, size_t, double*);

static std::atomic<long> done{0};
static std::atomic<bool> stop{false};

extern "C" long scored() { return done; }

extern "C" void host(Score score, void* ctx, int threads) {
    for (int i = 0; i < threads; ++i) {
        std::thread([=]() noexcept {
            const float row[2] = {1, 2};
            double out = 0;
            while (!stop) {
                score(ctx, row, 1, 2, &out);
                ++done;
            }
        }).detach();
    }
}

// Gives the last reference back from a thread that Python has never seen.
extern "C" void release_elsewhere(void (*release)(void*), void* ctx) { std::thread(release, ctx).detach(); }
"""

PRELUDE = """
import ctypes, sys, threading, time
import numpy as np
from engine.model.python import from_callable

class Scorer(ctypes.Structure):
    _fields_ = [("numbers", ctypes.c_uint32 * 4), ("ctx", ctypes.c_void_p), ("score", ctypes.c_void_p),
                ("score_f64", ctypes.c_void_p), ("retain", ctypes.c_void_p), ("release", ctypes.c_void_p)]

get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
host = ctypes.CDLL(sys.argv[1])
host.host.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
host.release_elsewhere.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
host.scored.restype = ctypes.c_long

def scorer_of(model):
    scorer = Scorer.from_address(get_pointer(model.scorer, b"engine.scorer.v1"))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(scorer.retain)(scorer.ctx)  # the threads' own reference
    return scorer

def start(model, threads=2):
    scorer = scorer_of(model)
    host.host(scorer.score, scorer.ctx, threads)

"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler for threads that are not Python's")
    folder = tmp_path_factory.mktemp("host")
    (folder / "host.cpp").write_text(HOST)
    library = folder / "host.so"
    subprocess.run(
        [compiler, "-std=c++20", "-shared", "-fPIC", "-pthread", folder / "host.cpp", "-o", library],
        check=True,
    )
    return library


def run(host, body):
    """Exit status and stderr of a fresh interpreter that runs `body`. A hang fails the test."""
    program = PRELUDE + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(host)], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr, done.stdout


ENDINGS = {
    "asleep in Python": "lambda rows: time.sleep(3600)",
    "busy in Python": "lambda rows: [sum(range(1000)) for _ in iter(int, 1)]",
    "waking up in Python": "lambda rows: [time.sleep(0.0005) for _ in iter(int, 1)]",
    "in and out of Python": "lambda rows: rows[:, 0]",
    "failing in Python": "lambda rows: 1 / 0",
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_process_ends_well_while_native_threads_are(host, ending):
    status, errors, said = run(
        host,
        f"""
        entered = threading.Event()
        fn = {ENDINGS[ending]}
        def entering(rows):
            entered.set()
            return fn(rows)
        model = from_callable(entering, 2)
        start(model)
        assert entered.wait(30)
        print("entered", flush=True)
        """,
    )
    assert (status, errors, said) == (0, "", "entered\n")


@pytest.mark.slow
def test_the_process_ends_well_while_a_python_thread_is_stuck_in_a_model(host):
    status, errors, _ = run(
        host,
        """
        entered = threading.Event()
        def stuck(rows):
            entered.set()
            while True:
                time.sleep(0.0005)
        model = from_callable(stuck, 2)
        threading.Thread(target=model.predict, args=(np.zeros((1, 2)),), daemon=True).start()
        assert entered.wait(30)
        """,
    )
    assert (status, errors) == (0, "")


@pytest.mark.slow
def test_the_last_reference_may_be_given_back_by_a_thread_that_python_does_not_know(host):
    status, errors, said = run(
        host,
        """
        class Fn:
            def __call__(self, rows):
                return rows[:, 0]
            def __del__(self):
                gone.set()
        gone = threading.Event()
        model = from_callable(Fn(), 2)
        scorer = scorer_of(model)
        release, ctx = scorer.release, scorer.ctx
        del model, scorer
        assert not gone.is_set()
        host.release_elsewhere(release, ctx)
        assert gone.wait(30)
        print("gone")
        """,
    )
    assert (status, errors, said) == (0, "", "gone\n")


@pytest.mark.slow
def test_native_threads_inside_onnx_runtime_do_not_hold_up_the_end(host, tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Neg", ["rows"], ["score"])],
        "graph",
        [helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["batch", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    # The host's threads have room for one score only: the sum of both columns is one.
    model.graph.node[0].op_type = "ReduceSum"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axes"))
    model.graph.node[0].input.append("axes")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    status, errors, said = run(
        host,
        f"""
        from engine.model.onnx import load_onnx
        model = load_onnx({str(tmp_path / "model.onnx")!r}, runtime="c-api")
        start(model)
        while host.scored() < 1000:
            time.sleep(0.001)
        print("onnxruntime" in sys.modules)
        """,
    )
    assert (status, errors, said) == (0, "", "False\n")
