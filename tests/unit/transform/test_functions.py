"""Functions of the user's own: the program gives the results of the Python function. A function that cannot be compiled
is refused with its line."""

import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import engine
from engine import transform as t
from engine.errors import MissingDependencyError, ProgramError

SCALE = 60.0


@engine.transform
def speed(distance, air_time):
    return distance / air_time * SCALE


@engine.transform(outputs=2)
def polar(x, y):
    return math.sqrt(x * x + y * y), x - y


@t.function
def half(x):
    return x / 2


@pytest.fixture(scope="module")
def program():
    x, y = t.number("x"), t.number("y").impute(1.0)
    spec = [
        speed(x, y).named("speed"),
        polar(x, y).named("polar"),
        polar(x, y)[1].standardise().named("gap"),
        half(half(x)).named("quarter"),
    ]
    return t.FeatureProgram.fit(spec, {"x": [3.0, 1.0], "y": [4.0, None]})


def test_the_module_is_the_decorator():
    assert isinstance(speed, t.UserFunction)
    assert speed(3.0, 4.0) == speed.py_func(3.0, 4.0) == 45.0
    assert engine.transform is sys.modules["engine.transform"]
    assert repr(half).startswith("<engine.transform function half, digest ")


def test_values_worked_out_by_hand(program):
    assert program.output_names == ("speed", "polar[0]", "polar[1]", "gap", "quarter")
    # x - y is -1 and 0 when fitting: mean -0.5, standard deviation 0.5.
    assert program.row({"x": 3.0, "y": 4.0}).tolist() == [45.0, 5.0, -1.0, -1.0, 0.75]
    assert program.row({"x": 2.0, "y": 0.0})[0] == math.inf
    assert np.isnan(program.row({})).all()


def test_the_python_function_is_the_oracle(program):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(2, 1000)).astype(np.float32)
    rows = program.batch({"x": x, "y": y})
    by_row = np.stack([program.row([float(a), float(b)]) for a, b in zip(x, y, strict=True)])
    assert rows.tobytes() == by_row.tobytes()
    np.testing.assert_allclose(rows[:, 0], speed.py_func(x, y), rtol=1e-6)
    np.testing.assert_allclose(rows[:, 1], np.sqrt(x * x + y * y), rtol=1e-6)
    np.testing.assert_array_equal(rows[:, 4], x / 4)


def test_a_saved_program_needs_the_same_function(program, tmp_path):
    path = tmp_path / "program.json"
    program.save(path)
    loaded = t.FeatureProgram.load(path, functions=[speed, polar, half])
    assert loaded.digest == program.digest
    assert loaded.row([3.0, 4.0]).tobytes() == program.row([3.0, 4.0]).tobytes()
    with pytest.raises(ProgramError, match=r"calls the function 'polar'; hand it over"):
        t.FeatureProgram.load(path, functions=[speed, half])

    def other(x):
        return x / 3

    other.__name__ = "half"
    with pytest.raises(ProgramError, match="'half' is not the one that the program was fitted with"):
        t.FeatureProgram.load(path, functions=[speed, polar, t.function(other)])


def test_a_constant_is_part_of_the_digest():
    def make(rate):
        def scaled(x):
            return x * rate

        return t.function(scaled)

    assert make(2.0).digest == make(2.0).digest != make(3.0).digest


def unknown_name(x):
    return x + not_defined_anywhere  # noqa: F821


def unknown_attribute(x):
    y = x + 1
    return y.nonsense


def gives_text(x):
    return "text"


def raises(x):
    if x < 0:
        raise ValueError("negative")
    return x


def uses_an_object(x):
    return x + len(t.__all__)


@pytest.mark.parametrize(
    ("function", "words", "line"),
    [
        (unknown_name, "not_defined_anywhere", "return x + not_defined_anywhere"),
        (unknown_attribute, "Unknown attribute 'nonsense'", "return y.nonsense"),
        (gives_text, "No conversion", 'return "text"'),
        (raises, "must not raise an error", 'raise ValueError("negative")'),
        (uses_an_object, "uses 't', a _CallableModule", None),
        (lambda x: x, "written with def", None),
    ],
)
def test_what_cannot_be_native_is_refused_where_it_is_defined(function, words, line):
    with pytest.raises(ProgramError, match=words) as caught:
        engine.transform(function)
    assert __file__ in str(caught.value)
    if line is not None:
        assert line in str(caught.value)


def no_arguments():
    return 1.0


def with_default(x, y=1.0):
    return x + y


def nine(a, b, c, d, e, f, g, h, i):
    return a


@pytest.mark.parametrize("function", [no_arguments, with_default, nine, print, 7])
def test_a_signature_that_does_not_fit_is_refused(function):
    with pytest.raises(ProgramError, match="expected"):
        t.function(function)


def test_wrong_uses_are_refused():
    with pytest.raises(ProgramError, match="speed takes 2 features, got 1"):
        speed(t.number("x"))
    with pytest.raises(ProgramError, match="of some number features"):
        half(t.category("c"))
    with pytest.raises(ProgramError, match="is 2 values: take one"):
        polar(t.number("x"), t.number("y")).standardise()
    with pytest.raises(ProgramError, match="index below 2, got 2"):
        polar(t.number("x"), t.number("y"))[2]
    with pytest.raises(ProgramError, match="outputs"):
        t.function(outputs=0)(no_arguments)


def test_up_to_eight_arguments_of_one_function():
    @t.function
    def weighted(a, b, c, d, e, f, g, h):
        return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h

    names = "abcdefgh"
    program = t.FeatureProgram.fit([weighted(*map(t.number, names))], {name: [0.0] for name in names})
    assert program.row(dict(zip(names, range(8), strict=True))).tolist() == [168.0]


def test_without_numba_only_functions_are_refused():
    script = """
        import sys
        sys.modules["numba"] = None
        import engine
        from engine import transform as t
        t.FeatureProgram.fit([t.number("x")], {"x": [1.0]}).row({"x": 1.0})
        from engine.errors import MissingDependencyError
        try:
            engine.transform(engine.transform.number)
        except engine.errors.ProgramError:
            pass
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


def test_without_numba_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'deadline-engine\[numba\]'"):
        t.function(half.py_func)
