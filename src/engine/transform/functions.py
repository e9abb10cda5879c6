"""Functions of the user's own as part of a feature program.

`engine.transform` (also `t.function`) compiles a function of scalars to native code by Numba. The program calls that
code for every row, without Python and without the GIL. The compiling happens where the function is defined, never on a
request, so an error names the user's line.

A saved program holds the digest of the source, never the source. So loading one runs no code that the caller did not
hand over.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import textwrap
import types
from collections.abc import Callable
from typing import Any

from engine._common import optional
from engine.errors import ProgramError
from engine.transform._program import ARGUMENTS_MAX, RESULTS_MAX
from engine.transform.ops import whole
from engine.transform.sources import apply_function
from engine.transform.spec import Feature

# Syntax that native code cannot have, and the end of "must not …".
_REFUSED = {
    ast.Raise: "raise an error, because nothing catches it on a row: return math.nan",
    ast.Assert: "assert",
    ast.Global: "write a global",
    ast.Nonlocal: "write an outer variable",
    ast.Yield: "yield",
    ast.Await: "await",
}
_MODULES = frozenset(["math", "cmath", "numpy"])


class UserFunction:
    """A compiled function of 1 to 8 float32 numbers that gives one float32, or a tuple of `outputs` of them.

    Make it with `engine.transform`. Called with features it gives a feature; called with numbers it runs the Python
    function. Thread-safe.

    Attributes:
        py_func: the Python function. The program gives what it gives for float32 arguments.
        name: its name.
        outputs: number of results.
        n_arguments: number of arguments.
        digest: sha256 of the source, `outputs` and the constants that the source reads, as 64 hex digits. Comments and
            layout do not change it.
        address: address of the native code, valid while this object lives.

    Args:
        py_func: a function written with `def`.
        outputs: 1 to 64.

    Raises:
        ProgramError: the function cannot be compiled; names its file and line.
        MissingDependencyError: Numba is not installed.
    """

    def __init__(self, py_func: Callable[..., Any], outputs: int = 1) -> None:
        if not isinstance(py_func, types.FunctionType):
            raise ProgramError(f"expected a Python function, got {type(py_func).__name__}")
        self.py_func = py_func
        self.name = py_func.__name__
        self.outputs = whole("outputs", outputs, 1, RESULTS_MAX)
        self.n_arguments = _count_arguments(py_func)
        source = _source_of(py_func)
        constants = _constants_of(py_func)
        frozen = "\0".join([source, str(outputs), *(f"{name}={value!r}" for name, value in constants)])
        self.digest = hashlib.sha256(frozen.encode()).hexdigest()
        # Numba's disk cache notices an edit of the function's file alone. A constant can come from another file, so a
        # function that reads constants is compiled anew in every process.
        self._compiled = _compile(py_func, self.n_arguments, outputs, cache=not constants)
        self.address: int = self._compiled.address

    def __call__(self, *arguments: Any) -> Any:
        """Return a feature if all arguments are features; else call the Python function."""
        if arguments and all(isinstance(argument, Feature) for argument in arguments):
            return apply_function(self, arguments)
        return self.py_func(*arguments)

    def __repr__(self) -> str:
        return f"<engine.transform function {self.name}, digest {self.digest[:12]}>"


def function(py_func: Callable[..., Any] | None = None, *, outputs: int = 1) -> Any:
    """Compile a function of scalars for feature programs. A decorator, with or without arguments.

        @engine.transform
        def speed(distance, air_time):
            return distance / air_time * 60.0

        spec = [speed(t.number("distance"), t.number("air_time")).named("speed")]

    Arguments and results are float32; a missing value is NaN. Division by zero follows IEEE 754, where Python would
    raise. The function may use `math`, `numpy`, builtins, and outer constants that are numbers.

    Args:
        py_func: a function written with `def`, of 1 to 8 arguments without defaults. It returns a number, or a tuple of
            `outputs` numbers if that is more than 1.
        outputs: number of results, 1 to 64.

    Returns:
        A `UserFunction`; without `py_func`, a decorator that makes one.

    Raises:
        ProgramError: the function does not compile, or needs Python to run; names its file and line.
        MissingDependencyError: Numba is not installed.
    """
    if py_func is None:
        return lambda found: UserFunction(found, outputs)
    return UserFunction(py_func, outputs)


def _place(py_func: types.FunctionType, line: int | None = None) -> str:
    code = py_func.__code__
    return f"{code.co_filename}:{line or code.co_firstlineno}: function {py_func.__name__!r}"


def _count_arguments(py_func: types.FunctionType) -> int:
    parameters = inspect.signature(py_func).parameters.values()
    for parameter in parameters:
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            raise ProgramError(
                f"{_place(py_func)}: expected plain arguments without defaults, got {str(parameter)!r}"
            )
    if not 1 <= len(parameters) <= ARGUMENTS_MAX:
        raise ProgramError(
            f"{_place(py_func)}: expected 1 to {ARGUMENTS_MAX} arguments, got {len(parameters)}"
        )
    return len(parameters)


def _source_of(py_func: types.FunctionType) -> str:
    """Return the source in a form that comments, decorators and layout do not change.

    Raise ProgramError if it cannot be read or has syntax that native code cannot have.
    """
    try:
        lines, first = inspect.getsourcelines(py_func)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError) as error:
        raise ProgramError(f"{_place(py_func)}: its source cannot be read: {error}") from None
    found = tree.body[0]
    if not isinstance(found, ast.FunctionDef):
        raise ProgramError(f"{_place(py_func)}: expected a function written with def")
    for node in ast.walk(found):
        for kind, words in _REFUSED.items():
            if isinstance(node, kind):
                line = first + node.lineno - 1  # type: ignore[attr-defined]
                raise ProgramError(f"{_place(py_func, line)} must not {words}{_shown_line(py_func, line)}")
    found.decorator_list = []
    return ast.unparse(found)


def _constants_of(py_func: types.FunctionType) -> list[tuple[str, Any]]:
    """Return (name, value) of the outer numbers that the function reads.

    Raise ProgramError for any other outer object, because the digest could not cover it.
    """
    captured = inspect.getclosurevars(py_func)
    constants = []
    for name, value in sorted({**captured.globals, **captured.nonlocals}.items()):
        if isinstance(value, (bool, int, float)):
            constants.append((name, value))
        elif getattr(value, "__module__", None) not in _MODULES and not _is_known_module(value):
            raise ProgramError(
                f"{_place(py_func)} uses {name!r}, a {type(value).__name__}; it may use numbers, math and numpy"
            )
    return constants


def _is_known_module(value: Any) -> bool:
    return isinstance(value, types.ModuleType) and value.__name__ in _MODULES


def _compile(py_func: types.FunctionType, n_arguments: int, outputs: int, *, cache: bool) -> Any:
    numba = optional.need("numba", "a function of your own in a feature program", "numba")
    arguments = [numba.float32] * n_arguments
    # Numba has no place for the cache of a function from standard input or an interactive session.
    cache = cache and not py_func.__code__.co_filename.startswith("<")
    options: Any = {"error_model": "numpy", "cache": cache}
    try:
        if outputs == 1:
            return numba.cfunc(numba.float32(*arguments), **options)(py_func)
        result = numba.types.UniTuple(numba.float32, outputs)
        return _compile_writer(numba, numba.njit(result(*arguments), **options)(py_func), arguments, outputs)
    except numba.core.errors.NumbaError as error:
        raise ProgramError(_explain(py_func, error)) from None


def _compile_writer(numba: Any, compiled: Any, arguments: list[Any], outputs: int) -> Any:
    """Return native code that stores the results one by one, because C has no form for a tuple."""
    names = ", ".join(f"a{i}" for i in range(len(arguments)))
    stores = "".join(f"    out[{i}] = results[{i}]\n" for i in range(outputs))
    scope = {"compiled": compiled}
    exec(f"def write({names}, out):\n    results = compiled({names})\n{stores}", scope)
    signature = numba.void(*arguments, numba.types.CPointer(numba.float32))
    return numba.cfunc(signature, error_model="numpy")(scope["write"])


def _explain(py_func: types.FunctionType, error: Any) -> str:
    """Return the line of Numba's message that says what is wrong, with the user's line of code."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    words = [
        line
        for line in lines
        if not line.startswith(
            ("Failed in nopython", "During:", "File ", "def ", " ", "<source", "Overload", "[1")
        )
    ]
    location = getattr(error, "loc", None)
    line = (
        location.line if location is not None and location.filename == py_func.__code__.co_filename else None
    )
    return f"{_place(py_func, line)} does not compile: {words[0] if words else lines[0]}" + _shown_line(
        py_func, line
    )


def _shown_line(py_func: types.FunctionType, line: int | None) -> str:
    text = linecache.getline(py_func.__code__.co_filename, line).strip() if line else ""
    return f"\n    {text}" if text else ""
