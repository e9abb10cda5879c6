"""Freezing, loading and reading rows: accepted values give their features, others an error that names the cause."""

import collections
import concurrent.futures
import ctypes
import decimal
import fractions
import json
import math
import sys
import types

import numpy as np
import pandas as pd
import pytest

from engine import transform as t
from engine.errors import InputError, InputTypeError, ProgramError
from engine.transform._program import DATE_PARTS, KINDS, OPS, NativeProgram
from engine.transform.plan import NUMBER, TEXT, TIMESTAMP, TIMESTAMP_UTC, VECTOR

SPEC = [
    t.number("delay").impute("median").standardise(),
    t.number("hour"),
    t.category("carrier").ordinal(),
    t.category("dest").hash(buckets=64),
]
TABLE = {
    "delay": [1.0, None, 3.0],
    "hour": [5, 6, 7],
    "carrier": ["UA", "AA", "UA"],
    "dest": ["SEA", "ORD", None],
}
ROW = {"delay": 3.0, "hour": 5, "carrier": "UA", "dest": "SEA"}


@pytest.fixture
def program():
    return t.FeatureProgram.fit(SPEC, TABLE)


@pytest.fixture
def numbers():
    return t.FeatureProgram.fit([t.number("x")], {"x": [0.0]})


def test_names_and_shape(program):
    assert program.input_names == ("delay", "hour", "carrier", "dest")
    assert program.output_names == ("delay", "hour", "carrier", "dest")
    assert program.n_outputs == 4
    row = program.row(ROW)
    assert row.dtype == np.float32
    assert row.shape == (4,)
    assert program.batch(TABLE).shape == (3, 4)
    assert program.row(ROW) is not program.row(ROW)


def test_fitted_constants_are_those_of_the_table(program):
    # delay: median of 1, 3 is 2; then 1, 2, 3 has mean 2 and population std sqrt(2/3).
    assert program.row(ROW).tolist()[:3] == [np.float32(1 / math.sqrt(2 / 3)), 5.0, 1.0]
    assert program.row({})[0] == 0.0


def test_save_and_load_keep_every_bit(program, tmp_path):
    path = tmp_path / "features.json"
    program.save(path)
    loaded = t.FeatureProgram.load(path)
    assert loaded.digest == program.digest
    assert len(program.digest) == 64
    assert loaded.output_names == program.output_names
    assert loaded.batch(TABLE).tobytes() == program.batch(TABLE).tobytes()
    assert [item.name for item in tmp_path.iterdir()] == ["features.json"]


def test_a_file_edited_since_is_refused(program, tmp_path):
    path = tmp_path / "features.json"
    program.save(path)
    body = json.loads(path.read_text())
    body["features"][0]["ops"][0]["value"] += 1e-9
    path.write_text(json.dumps(body))
    with pytest.raises(ProgramError, match=r"features.json: the content is not what was frozen"):
        t.FeatureProgram.load(path)


def test_every_part_of_the_file_is_under_the_digest(program):
    body = json.loads(program.to_json())
    for key in body.keys() - {"digest"}:
        changed = {**body, key: "error" if key == "missing" else None}
        with pytest.raises(ProgramError):
            t.FeatureProgram.from_json(json.dumps(changed))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format":"engine.features"}', "NaN", "[" * 100_000])
def test_foreign_and_truncated_files_are_refused(text, tmp_path):
    path = tmp_path / "features.json"
    path.write_text(text)
    with pytest.raises(ProgramError):
        t.FeatureProgram.load(path)


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "features.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProgramError, match=r"features\.json: not a feature program"):
        t.FeatureProgram.load(path)


def test_every_truncation_is_refused(program):
    text = program.to_json()
    for size in range(len(text)):
        with pytest.raises(ProgramError):
            t.FeatureProgram.from_json(text[:size])


def test_the_digest_follows_whatever_changes_an_output(program):
    others = [
        t.FeatureProgram.fit(SPEC, TABLE, missing="error"),
        t.FeatureProgram.fit(SPEC[::-1], TABLE),
        t.FeatureProgram.fit([*SPEC[:3], t.category("dest").hash(buckets=64, seed=1)], TABLE),
        t.FeatureProgram.fit([*SPEC[:3], t.category("dest").hash(buckets=64).named("d")], TABLE),
        t.FeatureProgram.fit(SPEC, {**TABLE, "delay": [1.0, None, 4.0]}),
    ]
    assert len({program.digest, *(other.digest for other in others)}) == 6
    assert t.FeatureProgram.fit(SPEC, TABLE).digest == program.digest


def test_the_json_form_of_a_spec_fits_the_same_program(program):
    spec = json.loads(json.dumps([feature.to_json() for feature in SPEC]))
    assert t.FeatureProgram.fit(spec, TABLE).digest == program.digest
    short = {"type": "number", "input": "x", "ops": ["log1p", {"op": "clip", "low": 0}]}
    assert t.FeatureProgram.fit([short], {"x": [0]}).row({"x": math.e - 1}).tolist() == [1.0]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "number"}, "name of an input"),
        (
            {"type": "numbre", "input": "x"},
            "unknown feature type 'numbre'; expected one of: number, category",
        ),
        ({"type": "number", "input": "x", "ops": ["standardize"]}, "unknown op 'standardize' for a number"),
        (
            {"type": "number", "input": "x", "ops": [{"op": "clip", "lo": 1}]},
            "no parameter 'lo'; expected: low",
        ),
        ({"type": "number", "input": "x", "ops": "log1p"}, "'ops' is a list"),
        ({"type": "number", "input": "x", "opps": []}, "unknown key 'opps'"),
        ({"type": "ratio", "of": []}, "of 2 features"),
        ("x", "expected a feature"),
    ],
)
def test_a_spec_in_json_that_makes_no_sense_is_refused(part, words):
    with pytest.raises(ProgramError, match=words):
        t.FeatureProgram.fit([part], {"x": [1.0]})


def test_specs_that_make_no_sense_are_refused():
    with pytest.raises(ProgramError, match="two outputs are named 'x'"):
        t.FeatureProgram.fit([t.number("x"), t.number("x").log1p()], {"x": [1.0]})
    with pytest.raises(ProgramError, match="'x' is read both as a number and as a category"):
        t.FeatureProgram.fit([t.number("x"), t.category("x").ordinal()], {"x": [1.0]})
    with pytest.raises(ProgramError, match="at least one output"):
        t.FeatureProgram.fit([], {"x": [1.0]})
    with pytest.raises(ProgramError, match="list of features"):
        t.FeatureProgram.fit(t.number("x"), {"x": [1.0]})
    with pytest.raises(ProgramError, match="missing must be one of impute, error, got"):
        t.FeatureProgram.fit([t.number("x")], {"x": [1.0]}, missing="raise")


class OtherMapping(collections.abc.Mapping):
    def __init__(self, data):
        self.data = data

    def __getitem__(self, key):
        return self.data[key]

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        return iter(self.data)


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        dict(reversed(ROW.items())),
        {"extra": 1, **ROW, 3: "more", ("a",): None},
        {f"other{i}": i for i in range(200)} | ROW,
        json.loads(json.dumps(ROW)),
        {"".join(list(key)): value for key, value in ROW.items()},
        {Name(key): value for key, value in ROW.items()},
        collections.OrderedDict(ROW),
        collections.defaultdict(int, ROW),
        types.MappingProxyType(ROW),
        collections.ChainMap({}, ROW),
        OtherMapping(ROW),
        pd.Series(ROW),
        list(ROW.values()),
        tuple(ROW.values()),
        collections.deque(ROW.values()),
        np.array(list(ROW.values()), dtype=object),
        {**ROW, "carrier": Name("UA")},
        {**ROW, "carrier": np.str_("UA"), "hour": np.int16(5), "delay": np.float32(3)},
        {**ROW, "hour": decimal.Decimal(5), "delay": fractions.Fraction(3)},
    ],
)
def test_rows_of_every_kind_read_alike(program, row):
    assert program.row(row).tobytes() == program.row(dict(ROW)).tobytes()


@pytest.mark.parametrize("absent", [None, math.nan, pd.NA, pd.NaT, np.float32("nan"), decimal.Decimal("NaN")])
def test_missing_values_are_imputed_or_nan(program, absent):
    row = program.row({**ROW, "delay": absent, "hour": absent})
    assert row[0] == 0.0
    assert math.isnan(row[1])


def test_an_absent_key_counts_as_missing_or_is_refused(program):
    row = {key: value for key, value in ROW.items() if key != "hour"}
    assert math.isnan(program.row(row)[1])
    strict = t.FeatureProgram.fit(SPEC, TABLE, missing="error")
    for kind in (dict, OtherMapping, collections.OrderedDict):
        with pytest.raises(InputError, match="input 'hour' is missing"):
            strict.row(kind(row))
    with pytest.raises(InputError, match="row 1, input 'hour' is missing"):
        strict.batch([ROW, row])
    assert strict.row({**row, "hour": None})[0] == program.row(ROW)[0]


def test_a_defaultdict_does_not_grow_by_being_read(program):
    row = collections.defaultdict(int, {"delay": 3.0})
    program.row(row)
    assert list(row) == ["delay"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1.0),
        (np.bool_(True), 1.0),
        (2**53 + 1, 2.0**53),
        (2**80, 2.0**80),
        (-(2**63), -(2.0**63)),
        (np.uint64(2**64 - 1), 2.0**64),
        (np.float16(0.5), 0.5),
        (1e300, math.inf),
        (-math.inf, -math.inf),
        (5e-324, 0.0),
    ],
)
def test_numbers_of_every_type_have_a_defined_result(numbers, value, expected):
    assert numbers.row({"x": value}).tolist() == [np.float32(expected)]
    assert numbers.row([value]).tolist() == [np.float32(expected)]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("1", "str '1'"),
        (b"1", "bytes"),
        (1j, "complex"),
        ([1.0], "list"),
        (np.array([1.0]), "ndarray"),
        (np.datetime64(0, "s"), "datetime64"),
        (np.str_("1"), "str_"),
        (object(), "object"),
    ],
)
def test_a_value_that_is_no_number_names_its_input(numbers, value, kind):
    with pytest.raises(InputTypeError, match=f"^input 'x': expected a number.*got {kind}"):
        numbers.row({"x": value})
    with pytest.raises(InputTypeError, match=f"^row 1, input 'x': expected a number.*got {kind}"):
        numbers.batch([{"x": 1.0}, {"x": value}])


def test_an_integer_beyond_float64_is_refused(numbers):
    with pytest.raises(InputError, match=r"input 'x': .*float64.*integer of 1025 bits"):
        numbers.row({"x": 2**1024})


@pytest.mark.parametrize("value", [b"UA", 1j, ["UA"], pd.Timestamp(0)])
def test_a_value_that_is_no_category_names_its_input(program, value):
    with pytest.raises(InputTypeError, match=r"^input 'carrier': expected a category \(str"):
        program.row({**ROW, "carrier": value})


def test_a_lone_surrogate_is_refused(program):
    with pytest.raises(InputError, match=r"input 'carrier': .*lone surrogate U\+D800 at index 1"):
        program.row({**ROW, "carrier": "a\ud800"})


@pytest.mark.parametrize("row", [5, None, "text", b"bytes", {1, 2, 3, 4}, object()])
def test_what_is_no_row_is_refused(program, row):
    with pytest.raises(
        InputTypeError, match="expected a mapping of 4 inputs or a sequence in input order, got"
    ):
        program.row(row)


def test_a_sequence_of_another_length_is_refused(program):
    for row in ([1.0], (1.0,) * 5, np.zeros(3)):
        with pytest.raises(InputError, match="expected 4 values in input order"):
            program.row(row)
    with pytest.raises(InputError, match=r"shape \[1, 4\]"):
        program.row(np.zeros((1, 4)))


class Hostile:
    """A number that empties the row while it is being read."""

    def __init__(self, row):
        self.row = row

    def __float__(self):
        self.row.clear()
        return 1.0


def test_a_value_that_changes_the_row_while_read_does_no_harm(program):
    import numbers as tower

    tower.Real.register(Hostile)
    row = {"carrier": "U" + "A" * 50, "dest": "x" * 50, "hour": 5}
    row["delay"] = Hostile(row)
    assert program.row(row).tolist()[1:3] == [5.0, -1.0]


def test_errors_of_a_mapping_come_through(program):
    class Broken(OtherMapping):
        def __getitem__(self, key):
            raise RuntimeError("no connection")

    with pytest.raises(RuntimeError, match="no connection"):
        program.row(Broken({}))


class Socket(ctypes.Structure):
    """csrc/include/engine/features.h"""

    _fields_ = [
        ("abi", ctypes.c_uint32),
        ("n_features", ctypes.c_uint32),
        ("ctx", ctypes.c_void_p),
        ("read_row", ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)),
        ("retain", ctypes.PYFUNCTYPE(None, ctypes.c_void_p)),
        ("release", ctypes.PYFUNCTYPE(None, ctypes.c_void_p)),
        ("absent", ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)),
        ("check_keys", ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.py_object, ctypes.py_object)),
    ]


def test_the_capsule_reads_a_row_into_the_callers_buffer(program):
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    capsule = program.capsule
    socket = Socket.from_address(pointer(capsule, b"engine.features.v1"))
    assert socket.abi == 2
    assert socket.n_features == 4
    expected = program.row(ROW).tobytes()
    ctx, read_row, release = socket.ctx, socket.read_row, socket.release
    socket.retain(ctx)
    del program, capsule, socket
    out = np.full(6, 77.0, dtype=np.float32)
    assert read_row(ctx, ROW, out.ctypes.data) == 0
    assert out[:4].tobytes() == expected
    assert out[4:].tolist() == [77.0, 77.0]
    with pytest.raises(InputTypeError, match="input 'hour'"):
        read_row(ctx, {"hour": "x"}, out.ctypes.data)
    release(ctx)


@pytest.mark.parametrize("kind", [dict, OtherMapping, collections.OrderedDict])
def test_the_capsule_says_which_inputs_a_row_has_no_key_for(program, kind):
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    socket = Socket.from_address(pointer(program.capsule, b"engine.features.v1"))
    out = np.empty(4, dtype=np.float32)
    for row, absent in (
        ({}, ("delay", "hour", "carrier", "dest")),
        ({"dest": None, "huor": 3, "delay": 1.0}, ("hour", "carrier")),
        (ROW, ()),
    ):
        assert socket.read_row(socket.ctx, kind(row), out.ctypes.data) == len(absent)
        assert socket.absent(socket.ctx) == absent
    assert socket.read_row(socket.ctx, [1.0, 2.0, "a", "b"], out.ctypes.data) == 0
    assert socket.absent(socket.ctx) == ()
    assert socket.check_keys(socket.ctx, kind({"id": 7, **ROW}), frozenset(["id"])) == 0
    with pytest.raises(InputError, match=r"unknown key 'huor'.*did you mean 'hour'"):
        socket.check_keys(socket.ctx, kind({"id": 7, "huor": 3}), frozenset(["id"]))
    with pytest.raises(InputError, match=r"unknown key 'i'.*did you mean 'id'"):
        socket.check_keys(socket.ctx, kind({"i": 7}), frozenset(["id"]))


def test_absent_inputs_are_named(program):
    assert program.absent({}) == ("delay", "hour", "carrier", "dest")
    assert program.absent({"hour": None, "carrier": math.nan, "more": 1}) == ("delay", "dest")
    assert program.absent({str(i): i for i in range(100)} | {"hour": 1}) == ("delay", "carrier", "dest")
    assert program.absent({"hour": decimal.Decimal(1)}) == ("delay", "carrier", "dest")
    assert program.absent(ROW) == program.absent([1.0, 2.0, "a", "b"]) == ()
    with pytest.raises(InputTypeError, match="input 'hour'"):
        program.absent({"hour": "x"})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"dleay": 1.0}, "unknown key 'dleay': no input of the program has that name; did you mean 'delay'"),
        ({**ROW, "HOUR": 1.0}, "unknown key 'HOUR'.*did you mean 'hour'"),
        (
            {**ROW, "q": 1, "r": 2},
            r"'q' \(and 1 more: 'r'\).*the inputs are 'delay', 'hour', 'carrier', 'dest'\. ",
        ),
        ({**ROW, 7: 1}, "unknown key 7: "),
        (OtherMapping({"dleay": 1.0}), "did you mean 'delay'.*or pass unknown_keys='ignore'"),
    ],
)
def test_unknown_keys_are_refused_on_request(program, row, words):
    with pytest.raises(InputError, match=words):
        program.row(row, unknown_keys="raise")
    with pytest.raises(InputError, match=words):
        program.batch([ROW, dict(row)], unknown_keys="raise")
    assert program.row(row).tobytes() == program.row(row, unknown_keys="ignore").tobytes()


def test_known_keys_in_any_order_are_taken_when_unknown_ones_are_refused(program):
    for row in (ROW, dict(reversed(ROW.items())), {"dest": "ORD"}, {}, list(ROW.values())):
        assert program.row(row, unknown_keys="raise").tobytes() == program.row(row).tobytes()
    # Keys made at run time are other objects than the names.
    made = {"".join(key): value for key, value in ROW.items()}
    assert program.row(made, unknown_keys="raise").tobytes() == program.row(ROW).tobytes()
    frame = pd.DataFrame([ROW, ROW])
    assert len(program.batch(frame, unknown_keys="raise")) == 2
    with pytest.raises(InputError, match="unknown key 'label'"):
        program.batch(frame.assign(label=1), unknown_keys="raise")
    with pytest.raises(InputError, match="unknown_keys must be one of ignore, raise, got 'refuse'"):
        program.row(ROW, unknown_keys="refuse")


def test_explain_shows_inputs_constants_and_outputs(program):
    first, _, third, _ = program.explain(ROW)
    assert first["inputs"] == {"delay": 3.0}
    assert first["feature"]["ops"][0] == {"op": "impute", "strategy": "median", "value": 2.0}
    assert first["outputs"] == {"delay": program.row(ROW)[0]}
    assert third["outputs"] == {"carrier": 1.0}
    assert program.explain({})[1]["inputs"] == {"hour": None}
    with pytest.raises(InputTypeError, match="explain takes a mapping"):
        program.explain([1.0, 2.0, "a", "b"])


def test_reading_keeps_no_reference_to_a_row(program):
    values = {"delay": 1234.5, "hour": 2**70, "carrier": "U" + "A" * 100, "dest": "é" * 100}
    kept = {key: sys.getrefcount(value) for key, value in values.items()}
    for row in (values, list(values.values()), OtherMapping(values), {**values, "hour": decimal.Decimal(1)}):
        for _ in range(50):
            program.row(row)
            program.batch([dict(values)])
            program.batch({key: [value] for key, value in values.items()})
    del row
    assert {key: sys.getrefcount(value) for key, value in values.items()} == kept


def test_threads_read_their_own_rows(program):
    rows = [{**ROW, "hour": i, "dest": f"place {i}", "delay": decimal.Decimal(i)} for i in range(300)]
    expected = [program.row(row).tobytes() for row in rows]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: [program.row(row).tobytes() for row in rows], range(8)):
            assert got == expected


def test_the_words_of_a_program_are_those_of_the_native_core():
    assert KINDS == (NUMBER, TEXT, TIMESTAMP, TIMESTAMP_UTC, VECTOR)
    assert len(set(OPS)) == len(OPS) == 31
    assert (DATE_PARTS[0], DATE_PARTS[-1]) == ("year", "unix_second")
    with pytest.raises(ProgramError, match="does not compile: unknown op 'nonsense'"):
        NativeProgram([], 1, [("nonsense", {})], [], [], [], [], [], False)


def test_inputs_can_be_declared_in_another_order_and_with_more_names():
    features = [t.number("b"), t.category("c").ordinal(["x"])]
    program = t.FeatureProgram(features, inputs=[("c", "category"), ("a", "number"), ("b", "number")])
    assert program.input_names == ("c", "a", "b")
    assert program.row(["x", 7.0, 2.0]).tolist() == [2.0, 0.0]
    assert program.batch({"a": [0], "b": [2], "c": ["x"]}).tolist() == [[2.0, 0.0]]
    again = t.FeatureProgram.from_json(program.to_json())
    assert (again.input_names, again.digest) == (program.input_names, program.digest)
    assert program.digest != t.FeatureProgram(features).digest
    for inputs in ([("b", "number")], [("b", "category"), ("c", "category")], [("b", "number")] * 2):
        with pytest.raises(ProgramError, match="inputs or outputs do not belong to these features"):
            t.FeatureProgram(features, inputs=inputs)
    with pytest.raises(ProgramError, match="input 'a': one that no feature reads is a number or a category"):
        t.FeatureProgram(features, inputs=[("b", "number"), ("c", "category"), ("a", "vector[2]")])
