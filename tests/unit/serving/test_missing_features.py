"""Answers say which inputs of a feature program a request lacked, and an engine may refuse keys of no input."""

import asyncio

import numpy as np
import pandas as pd
import pytest

import engine
from engine import transform as t
from engine.errors import ConfigError, InputError
from engine.model import dense

FAR_MS = 60_000.0
SPEC = [t.number("delay").impute("mean"), t.number("size").impute("mean")]
TABLE = {"delay": [2.0, 4.0], "size": [10.0, 30.0]}


def linear():
    return dense([np.array([[1.0], [10.0]])], [np.zeros(1)])


@pytest.fixture(params=["inline", "batch"])
def eng(request):
    program = engine.FeatureProgram.fit(SPEC, TABLE)
    with engine.Engine(
        linear(), features=program, deadline_ms=FAR_MS, lane=request.param, default=-1.0
    ) as opened:
        yield opened


def test_absent_inputs_are_named(eng):
    answer = eng.predict({})
    assert (answer.value, answer.missing_features) == (203.0, ("delay", "size"))
    assert "missing_features=('delay', 'size')" in repr(answer)
    assert eng.predict({"dleay": 1.0, "size": 1.0}).missing_features == ("delay",)
    assert eng.predict({"delay": None, "size": float("nan")}).missing_features == ()
    assert eng.predict([None, 1.0]).missing_features == ()
    assert eng.predict({"delay": 1.0, "size": 1.0}).missing_features == ()


def test_absent_inputs_are_named_on_loops(eng):
    async def main():
        one = await eng.predict_async({"size": 1.0})
        many = await eng.predict_many_async([{"size": 1.0}, {"delay": 1.0, "size": 1.0}, {}])
        return one, many

    one, many = asyncio.run(main())
    assert (one.value, one.missing_features) == (13.0, ("delay",))
    assert many.missing_features == [("delay",), (), ("delay", "size")]


def test_absent_inputs_of_many_rows(eng):
    many = eng.predict_many(
        [{"delay": 1.0, "size": 1.0}, {"delay": 1.0}, {}], deadline_ms=[FAR_MS, FAR_MS, 0.0]
    )
    assert many.missing_features == [(), ("size",), ()]  # an expired row is not read
    assert many[1].missing_features == ("size",)
    assert many.as_dict()["missing_features"] == [[], ["size"], []]
    assert eng.predict_many(pd.DataFrame({"size": [1.0, 2.0]})).missing_features == [("delay",)] * 2
    assert eng.predict_many({"size": [1.0, 2.0]}).values.tolist() == [13.0, 23.0]
    assert eng.predict_many({"size": 1.0, "delay": 2.0}).values.tolist() == [12.0]
    assert eng.predict_many([{"delay": 1.0, "size": 1.0}]).missing_features == [()]
    assert eng.predict({}, deadline_ms=0.0).missing_features == ()


def test_rows_of_pandas(eng):
    frame = pd.DataFrame({"size": [1.0, 2.0], "delay": [5.0, np.nan]})
    assert eng.predict(frame.iloc[0]).value == 15.0
    assert eng.predict_many(frame).values.tolist() == [15.0, 23.0]
    assert eng.predict_many([frame.iloc[1], {"delay": 1.0, "size": 1.0}]).values.tolist() == [23.0, 11.0]


def test_keys_of_no_input_are_refused_where_the_engine_says_so():
    program = engine.FeatureProgram.fit(SPEC, TABLE)
    with engine.Engine(
        linear(), features=program, deadline_ms=FAR_MS, unknown_keys="raise", lane="batch"
    ) as eng:
        assert eng.predict({"delay": 1.0, "size": 1.0}).value == 11.0
        assert eng.predict([1.0, 1.0]).value == 11.0
        with pytest.raises(InputError, match=r"unknown key 'dleay'.*did you mean 'delay'"):
            eng.predict({"dleay": 1.0, "size": 1.0})
        with pytest.raises(InputError, match="unknown key 'dleay'"):
            asyncio.run(eng.predict_async({"dleay": 1.0, "size": 1.0}))
        with pytest.raises(InputError, match="unknown key 'dleay'") as raised:
            eng.predict_many([{"delay": 1.0}, {"dleay": 1.0}])
        assert raised.value.__notes__ == ["in row 1 of 2"]
        with pytest.raises(InputError, match="unknown key 'user'"):
            eng.predict_many(pd.DataFrame({"size": [1.0], "user": [1.0]}))
        assert eng.predict({}).missing_features == ("delay", "size")


class Looked:
    """A program with a look-up: `size` comes from a store, by the key `user`."""

    def __init__(self, program, blocking=False):
        self.capsule, self.output_names = program.capsule, program.output_names
        self.blocking, self.known_keys = blocking, frozenset({"user"})

    def fetch(self, request, deadline_ns):
        found = {1: 7.0}.get(request.get("user"))
        return {**request, "size": found}, () if found is not None else ("size",)

    def fetch_many(self, requests, deadline_ns):
        return [self.fetch(request, deadline_ns) for request in requests]

    async def fetch_async(self, request, deadline_ns):
        return self.fetch(request, deadline_ns)


@pytest.mark.parametrize("blocking", [False, True])
def test_absent_inputs_beside_looked_up_ones(blocking):
    features = Looked(engine.FeatureProgram.fit(SPEC, TABLE), blocking)
    with engine.Engine(linear(), features=features, deadline_ms=FAR_MS, unknown_keys="raise") as eng:

        async def main(x):
            return await eng.predict_async(x), await eng.predict_many_async([x])

        for ask in (eng.predict, lambda x: asyncio.run(main(x))[0], lambda x: asyncio.run(main(x))[1][0]):
            answer = ask({"user": 1, "delay": 1.0})
            assert (answer.value, answer.missing_features) == (71.0, ())
            assert ask({"user": 2}).missing_features == ("size", "delay")
            assert ask({"user": 1}).missing_features == ("delay",)
            with pytest.raises(InputError, match="unknown key 'dleay'"):
                ask({"user": 1, "dleay": 1.0})
        assert eng.predict({"user": 1}, deadline_ms=0).missing_features == ()


def test_a_program_of_the_first_abi_cannot_refuse_keys():
    import ctypes

    program = engine.FeatureProgram.fit(SPEC, TABLE)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    abi = ctypes.cast(pointer(program.capsule, b"engine.features.v1"), ctypes.POINTER(ctypes.c_uint32))
    abi[0] = 1
    try:
        with engine.Engine(linear(), features=program, deadline_ms=FAR_MS) as eng:
            assert eng.predict({"size": 1.0}).missing_features == ()  # its names are not known
        with pytest.raises(ConfigError, match="unknown_keys='raise' needs a feature program of ABI 2"):
            engine.Engine(linear(), features=program, unknown_keys="raise")
        abi[0] = 9
        with pytest.raises(ConfigError, match="features ABI 9"):
            engine.Engine(linear(), features=program)
    finally:
        abi[0] = 2
