"""ONNX models: the C API, the Python API and ONNX Runtime itself agree; other models are refused by name."""

import ctypes
import sys
import threading
import time

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.errors import (
    ConfigError,
    InputError,
    InputTypeError,
    MissingDependencyError,
    ModelError,
    ModelFormatError,
    UnsupportedModelError,
)
from engine.model import _onnx, _scorer
from engine.model.onnx import load as reader
from engine.model.onnx import load_onnx

RUNTIMES = ["c-api", "python"]
FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64


def array(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.array(values, dtype=dtype), name)


def model_of(nodes, constants, *, input=(FLOAT, ["batch", 2]), outputs=(("score", FLOAT, ["batch", 1]),)):
    graph = helper.make_graph(
        [helper.make_node(op, given, made, **attributes) for op, given, made, attributes in nodes],
        "graph",
        [helper.make_tensor_value_info("rows", *input)],
        [helper.make_tensor_value_info(*output) for output in outputs],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def linear(weights, bias, **more):
    """rows @ weights + bias, in the type of the weights' array."""
    nodes = [("Gemm", ["rows", "w", "b"], ["score"], {})]
    return model_of(nodes, [array("w", weights), array("b", bias)], **more)


def mlp():
    """relu(x0 - x1), relu(x1 - x0), then 2 a + 3 b + 1: |x0 - x1| weighted by its sign."""
    nodes = [
        ("Gemm", ["rows", "w1", "b1"], ["h"], {}),
        ("Relu", ["h"], ["a"], {}),
        ("Gemm", ["a", "w2", "b2"], ["score"], {}),
    ]
    constants = [
        array("w1", [[1, -1], [-1, 1]]),
        array("b1", [0, 0]),
        array("w2", [[2], [3]]),
        array("b2", [1]),
    ]
    return model_of(nodes, constants)


ROWS = np.array([[5, 1], [1, 5], [2, 2]], dtype=np.float32)
MLP_ANSWERS = [9.0, 13.0, 1.0]
MLP = mlp().SerializeToString()


@pytest.fixture(scope="module")
def boosted():
    """A LightGBM classifier, its ONNX form and rows with missing values."""
    import lightgbm
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    random = np.random.default_rng(7)
    rows = random.normal(size=(600, 6)).astype(np.float32)
    rows[random.random(rows.shape) < 0.05] = np.nan
    labels = np.nan_to_num(rows[:, 0]) + np.nan_to_num(rows[:, 1] * rows[:, 2]) > 0
    booster = lightgbm.train(
        {"objective": "binary", "num_leaves": 15, "verbose": -1, "num_threads": 1},
        lightgbm.Dataset(rows, labels),
        20,
    )
    types = [("rows", FloatTensorType([None, 6]))]
    return booster, convert_lightgbm(booster, initial_types=types, zipmap=False).SerializeToString(), rows


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_mlp_gives_the_answers_worked_out_by_hand(runtime):
    model = load_onnx(MLP, runtime=runtime)
    assert model.predict(ROWS).tolist() == MLP_ANSWERS
    assert (model.format, model.n_features, model.n_outputs, model.native) == ("onnx", 2, 1, False)
    assert model.describe()["runtime"] == runtime
    assert model.describe()["runtime_version"] == onnxruntime.__version__
    assert model.feature_names is None


def test_auto_is_the_c_api_here_and_takes_no_gil():
    model = load_onnx(MLP)
    assert model.describe()["runtime"] == "c-api"
    assert _scorer.describe(model.scorer)["takes_gil"] is False
    assert _scorer.describe(model.scorer)["reentrant"] is True
    assert _scorer.describe(load_onnx(MLP, runtime="python").scorer)["takes_gil"] is True


def test_the_library_found_reports_the_installed_version():
    folder = reader._package_folder() / "capi"
    versions = {_onnx.library_version(str(path)) for path in folder.glob("libonnxruntime.so*")}
    assert versions == {onnxruntime.__version__}


def test_a_boosted_classifier_gives_the_second_class_on_every_way_in(boosted):
    booster, content, rows = boosted
    native, python = load_onnx(content, runtime="c-api"), load_onnx(content, runtime="python")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # several would add the trees up in another order
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for some in (rows[:1], rows[:7], rows):
        itself = session.run(["probabilities"], {"rows": some})[0][:, 1]
        assert native.predict(some).tolist() == itself.tolist()
        assert python.predict(some).tolist() == itself.tolist()
    assert native.n_outputs == 1
    np.testing.assert_allclose(native.predict(rows), booster.predict(rows), rtol=0, atol=1e-6)


def test_many_threads_score_at_once_and_agree(boosted):
    _, content, rows = boosted
    model = load_onnx(content, runtime="c-api")
    expected = model.predict(rows).tolist()
    answers = []
    threads = [
        threading.Thread(
            target=lambda: answers.extend(model.predict(rows).tolist() == expected for _ in range(10))
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 60


class Scorer(ctypes.Structure):
    """engine_scorer, as far as its score function."""

    _fields_ = (
        ("numbers", ctypes.c_uint32 * 4),
        ("ctx", ctypes.c_void_p),
        ("score", ctypes.c_void_p),
    )


def test_scores_appear_while_another_thread_holds_the_gil():
    """One row at a time goes through ONNX Runtime while this thread, holding the GIL throughout, watches them land."""
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    model = load_onnx(linear([[1], [1]], [0], input=(FLOAT, [1, 2])).SerializeToString(), runtime="c-api")
    scorer = Scorer.from_address(get_pointer(model.scorer, b"engine.scorer.v1"))
    score = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p
    )(scorer.score)
    n_rows = 50_000
    rows, out = np.ones((n_rows, 2), dtype=np.float32), np.zeros(n_rows)
    thread = threading.Thread(target=lambda: score(scorer.ctx, rows.ctypes.data, n_rows, 2, out.ctypes.data))
    before, landed, waited = sys.getswitchinterval(), 0, 0
    try:
        thread.start()
        while out[0] == 0:  # the other thread takes the GIL for the last time, to make the call
            time.sleep(0.0001)
        sys.setswitchinterval(1e6)
        while waited < 4 and landed < n_rows:
            looks = 0
            while out[landed] == 0 and looks < 10_000_000:
                looks += 1
            waited += looks > 0  # this row was not there yet, and arrived
            landed += 1
    finally:
        sys.setswitchinterval(before)
        thread.join()
    assert waited == 4
    assert looks < 10_000_000
    assert (out == 2).all()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_batch_axis_fixed_at_one_is_scored_row_by_row(runtime):
    fixed = linear([[2], [1]], [0], input=(FLOAT, [1, 2]), outputs=[("score", FLOAT, [1, 1])])
    model = load_onnx(fixed.SerializeToString(), runtime=runtime)
    assert model.predict(ROWS).tolist() == [11, 7, 6]
    assert model.describe()["batch"] == 1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_rows_with_gaps_and_float64_rows(runtime):
    model = load_onnx(MLP, runtime=runtime)
    wide = np.array([[5, 1, 99], [1, 5, 99], [2, 2, 99]], dtype=np.float32)
    assert model.predict(wide[:, :2]).tolist() == MLP_ANSWERS
    assert model.predict(ROWS.astype(np.float64)).tolist() == MLP_ANSWERS
    assert model.predict(ROWS[:0]).tolist() == []


def test_a_double_model_reads_double_rows_whole():
    nodes = [("Gemm", ["rows", "w", "b"], ["score"], {})]
    constants = [array("w", [[1], [1]], np.float64), array("b", [0], np.float64)]
    content = model_of(
        nodes, constants, input=(DOUBLE, ["batch", 2]), outputs=[("score", DOUBLE, ["batch", 1])]
    )
    model = load_onnx(content.SerializeToString(), runtime="c-api")
    fine = np.array([[1 + 2**-40, 0]])
    assert model.predict(fine).tolist() == [1 + 2**-40]
    assert model.predict(fine.astype(np.float32)).tolist() == [1.0]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("shape", [["batch"], ["batch", 1], [None, None]])
def test_regression_answers_of_either_rank_are_one_output(runtime, shape):
    nodes = [("ReduceSum", ["rows", "axes"], ["score"], {"keepdims": int(len(shape) == 2)})]
    content = model_of(nodes, [array("axes", [1], np.int64)], outputs=[("score", FLOAT, shape)])
    model = load_onnx(content.SerializeToString(), runtime=runtime)
    assert model.n_outputs == 1
    assert model.predict(ROWS).tolist() == [6, 6, 4]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_two_columns_without_a_label_are_two_outputs(runtime):
    content = linear([[1, 0], [0, 2]], [0, 0], outputs=[("score", FLOAT, ["batch", 2])]).SerializeToString()
    assert load_onnx(content, runtime=runtime).predict(ROWS).tolist() == [[5, 2], [1, 10], [2, 4]]


def two_outputs():
    nodes = [("Neg", ["rows"], ["minus"], {}), ("Abs", ["rows"], ["plus"], {})]
    outputs = [("minus", FLOAT, ["batch", 2]), ("plus", FLOAT, ["batch", 2])]
    return model_of(nodes, [], outputs=outputs).SerializeToString()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_of_several_outputs_one_must_be_named(runtime):
    with pytest.raises(UnsupportedModelError, match=r"pass output= one of 'minus' .*'plus'"):
        load_onnx(two_outputs(), runtime=runtime)
    model = load_onnx(two_outputs(), runtime=runtime, output="minus")
    assert model.predict(ROWS[:1]).tolist() == [[-5, -1]]
    with pytest.raises(ConfigError, match="no output 'other'; it has 'minus'"):
        load_onnx(two_outputs(), runtime=runtime, output="other")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_zipmap_is_read_as_the_tensor_that_it_maps(runtime):
    nodes = [
        ("ArgMax", ["rows"], ["label"], {"axis": 1, "keepdims": 0}),
        ("ZipMap", ["rows"], ["maps"], {"classlabels_int64s": [0, 1], "domain": "ai.onnx.ml"}),
    ]
    content = model_of(nodes, [], outputs=[("label", INT64, ["batch"])])
    content.graph.output.append(
        helper.make_value_info(
            "maps",
            helper.make_sequence_type_proto(
                helper.make_map_type_proto(
                    INT64, onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=FLOAT))
                )
            ),
        )
    )
    content.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    model = load_onnx(content.SerializeToString(), runtime=runtime)
    assert model.predict(ROWS).tolist() == ROWS[:, 1].tolist()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (linear([[1], [1]], [0], input=(FLOAT, [4, 2])), r"exactly 4 rows.*dynamic batch axis"),
        (
            model_of(
                [("Identity", ["rows"], ["score"], {})],
                [],
                input=(FLOAT, ["batch"]),
                outputs=[("score", FLOAT, ["batch"])],
            ),
            r"\[batch, n_features\], got 'rows' \(float \[\?\]\)",
        ),
        (
            model_of(
                [("Cast", ["rows"], ["score"], {"to": FLOAT})],
                [],
                input=(INT64, ["batch"]),
                outputs=[("score", FLOAT, ["batch"])],
            ),
            r"got 'rows' \(int64",
        ),
        (
            model_of(
                [("ArgMax", ["rows"], ["score"], {"axis": 1, "keepdims": 0})],
                [],
                outputs=[("score", INT64, ["batch"])],
            ),
            "no output is a float or double tensor",
        ),
        (
            model_of([("ReduceSum", ["rows"], ["score"], {})], [], outputs=[("score", FLOAT, [1, 1])]),
            r"expected scores \[batch\].* for 2 rows",
        ),
        (
            model_of(
                [("Identity", ["rows"], ["score"], {})],
                [],
                input=(FLOAT, ["batch", "width"]),
                outputs=[("score", FLOAT, ["batch", "width"])],
            ),
            "pass n_features=",
        ),
    ],
    ids=["fixed batch", "rank 1", "int input", "label only", "sums the batch", "open width"],
)
def test_what_cannot_be_scored_is_refused(runtime, content, text):
    with pytest.raises(UnsupportedModelError, match=text):
        load_onnx(content.SerializeToString(), runtime=runtime)


def test_an_open_width_is_given():
    content = model_of(
        [("Neg", ["rows"], ["score"], {})],
        [],
        input=(FLOAT, ["batch", None]),
        outputs=[("score", FLOAT, ["batch", None])],
    ).SerializeToString()
    assert load_onnx(content, n_features=2).predict(ROWS[:1]).tolist() == [[-5, -1]]
    with pytest.raises(ConfigError, match="n_features=3 does not fit"):
        load_onnx(MLP, n_features=3)


def test_several_inputs_that_are_no_columns_are_refused():
    content = mlp()
    content.graph.input.append(helper.make_tensor_value_info("more", FLOAT, ["batch", 1, 1]))
    with pytest.raises(UnsupportedModelError, match="expected one input of all features, got 2"):
        load_onnx(content.SerializeToString())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_operator_that_nobody_knows_is_refused(runtime):
    content = model_of([("NoSuchOperator", ["rows"], ["score"], {})], [])
    with pytest.raises(ModelFormatError, match="NoSuchOperator"):
        load_onnx(content.SerializeToString(), runtime=runtime)


@pytest.mark.parametrize("rows", [np.zeros((3, 3)), np.zeros(2), np.zeros((1, 1, 2)), [["a", "b"]]])
def test_rows_of_another_shape_or_type_are_refused(rows):
    with pytest.raises(InputError):
        load_onnx(MLP).predict(rows)


def reshaped(shape):
    return model_of(
        [("Reshape", ["rows", "shape"], ["score"], {})],
        [array("shape", shape, np.int64)],
        outputs=[("score", FLOAT, [None, None])],
    ).SerializeToString()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_call_that_fails_says_what_the_library_said(runtime):
    model = load_onnx(
        reshaped([2, 2]), runtime=runtime
    )  # right for the two rows of loading's trial, wrong for any other number
    with pytest.raises(ModelError, match=r"status 1\).*Reshape"):
        model.predict(ROWS)
    assert "Reshape" in model.last_error()
    assert model.predict(ROWS[:2]).tolist() == [[5, 1], [1, 5]]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_call_that_answers_too_few_rows_is_a_bad_shape(runtime):
    constants = [array("from", [0], np.int64), array("to", [2], np.int64)]
    content = model_of(
        [("Slice", ["rows", "from", "to"], ["score"], {})], constants, outputs=[("score", FLOAT, [None, 2])]
    )
    model = load_onnx(content.SerializeToString(), runtime=runtime)
    with pytest.raises(ModelError, match=r"status 2\).*\[2, 2\]"):
        model.predict(ROWS)


def test_names_and_digest_come_from_the_file(tmp_path):
    content = mlp()
    helper.set_model_props(content, {"feature_names": '["left", "right"]', "other": "1"})
    path = tmp_path / "model.onnx"
    path.write_bytes(content.SerializeToString())
    model = load_onnx(path)
    assert model.feature_names == ("left", "right")
    assert model.digest == load_onnx(path.read_bytes(), runtime="python").digest
    assert model.digest != load_onnx(MLP).digest
    for odd in ('["left"]', "left,right", "[1, 2]", "{}"):
        helper.set_model_props(content, {"feature_names": odd})
        assert load_onnx(content.SerializeToString()).feature_names is None


def external(folder, location):
    """The MLP with its first weights in a file of their own, as a model file in `folder`."""
    content = mlp()
    tensor = content.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    raw, tensor.raw_data = tensor.raw_data, b""
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value=str(len(raw)))
    path = folder / "model.onnx"
    path.write_bytes(content.SerializeToString())
    return path, raw


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_tensors_beside_the_model_are_read_and_part_of_the_digest(tmp_path, runtime):
    path, raw = external(tmp_path, "weights.bin")
    (tmp_path / "weights.bin").write_bytes(raw)
    model = load_onnx(path, runtime=runtime)
    assert model.predict(ROWS).tolist() == MLP_ANSWERS
    (tmp_path / "weights.bin").write_bytes(bytes(len(raw)))
    assert load_onnx(path, runtime=runtime).digest != model.digest


@pytest.mark.parametrize(
    "location",
    ["../weights.bin", "/etc/hostname", "missing.bin", "", "link.bin", "a\0b", "*/_ORT_MEM_ADDR_/*"],
)
def test_tensors_from_elsewhere_are_refused(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    path, raw = external(folder, location)
    (tmp_path / "weights.bin").write_bytes(raw)
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(UnsupportedModelError, match="not a file inside its folder"):
        load_onnx(path)


def test_bytes_cannot_bring_files(tmp_path):
    path, _ = external(tmp_path, "weights.bin")
    with pytest.raises(UnsupportedModelError, match="load it from a path"):
        load_onnx(path.read_bytes())


def test_tensors_are_found_wherever_they_hide():
    tensor = TensorProto(name="t", data_type=FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="hidden")
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])
    content = mlp()
    content.graph.node.append(helper.make_node("If", ["rows"], ["x"], then_branch=inner, else_branch=inner))
    content.functions.append(
        helper.make_function("d", "f", [], ["c"], [helper.make_node("Constant", [], ["c"], value=tensor)], [])
    )
    locations, _ = _onnx.scan(content.SerializeToString())
    assert locations == ["hidden"] * 3


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "content", [b"", b"tree\nversion=v4\n", MLP[:-1], MLP[: len(MLP) // 2], MLP[:3], bytes(64)]
)
def test_damaged_bytes_are_a_format_error(content, runtime):
    with pytest.raises(ModelFormatError):
        load_onnx(content, runtime=runtime)


def test_without_onnxruntime_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    chain = load_onnx(MLP)  # a chain of dense layers is read without ONNX Runtime
    assert (chain.describe()["runtime"], chain.native) == ("native", True)
    other = model_of([("Elu", ["rows"], ["score"], {})], [], outputs=(("score", FLOAT, ["batch", 2]),))
    with pytest.raises(MissingDependencyError, match=r"pip install 'deadline-engine\[onnx\]'") as missing:
        load_onnx(other.SerializeToString())
    assert "not one chain of dense layers: Elu 'score'" in missing.value.__notes__[0]


@pytest.mark.parametrize("library", [None, b"no library at all"])
def test_a_library_that_cannot_be_used_leaves_the_python_api(monkeypatch, tmp_path, library):
    (tmp_path / "capi").mkdir()
    if library is not None:
        (tmp_path / "capi" / "libonnxruntime.so.1").write_bytes(library)
    monkeypatch.setattr(reader, "_package_folder", lambda: tmp_path)
    model = load_onnx(MLP)
    assert model.predict(ROWS).tolist() == MLP_ANSWERS
    assert model.describe()["runtime"] == "python"
    assert "libonnxruntime.so" in model.describe()["runtime_reason"]
    with pytest.raises(ConfigError, match="runtime='python' may"):
        load_onnx(MLP, runtime="c-api")


def test_the_last_error_of_a_foreign_scorer_is_empty():
    assert _onnx.last_error(load_onnx(MLP, runtime="python").scorer) == ""


def test_another_library_is_not_taken_for_onnx_runtime():
    with pytest.raises(_onnx.LibraryError, match="no OrtGetApiBase"):
        _onnx.library_version("libc.so.6")


def test_arguments_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="runtime must be one of auto, c-api, python, native, got 'gpu'"):
        load_onnx(MLP, runtime="gpu")
    with pytest.raises(ConfigError, match="intra_op_threads must be an int from 1 to 1,024, got 0"):
        load_onnx(MLP, intra_op_threads=0)
    with pytest.raises(InputTypeError, match="a path or the bytes of an ONNX model, got int"):
        load_onnx(3)
    with pytest.raises(FileNotFoundError):
        load_onnx(tmp_path / "missing.onnx")


def test_several_threads_inside_one_call_give_the_same_answer(boosted):
    _, content, rows = boosted
    one, two = load_onnx(content), load_onnx(content, intra_op_threads=2)
    np.testing.assert_allclose(two.predict(rows), one.predict(rows), rtol=0, atol=1e-6)
