"""Functions of the user's own as part of a feature program.

A function of scalars, marked with `engine.transform` (or `t.function`, which is the same), is compiled by Numba
to native code that the program calls for every row, without the GIL and without Python. Nothing is compiled on a
request: the compiling happens where the function is defined, so an error names the user's own line there.

The saved program holds the digest of the source, never the source: loading one cannot run anything that the
caller did not hand over.
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

from engine.errors import MissingDependencyError, ProgramError
from engine.transform._program import ARGUMENTS_MAX, RESULTS_MAX

_REFUSED = {
    ast.Raise: "raise an error (a row has no caller to catch it): return math.nan",
    ast.Assert: "assert",
    ast.Global: "write a global",
    ast.Nonlocal: "write an outer variable",
    ast.Yield: "yield",
    ast.Await: "await",
}
_MODULES = frozenset(["math", "cmath", "numpy"])


class UserFunction:
    """A compiled function of 1 to 8 float32 numbers to one float32, or to a tuple of `outputs` of them.

    Called with features it makes a feature; called with numbers it is the Python function.

    Attributes:
        py_func: the Python function, the oracle: what it gives for float32 arguments, the program gives.
        name, outputs, n_arguments: as written.
        digest: sha256 of the source, the outputs and the values of the constants that it reads.
        address: of the native code.
    """

    def __init__(self, py_func: Callable[..., Any], outputs: int = 1) -> None:
        if not isinstance(py_func, types.FunctionType):
            raise ProgramError(f"expected a Python function, got {type(py_func).__name__}")
        if isinstance(outputs, bool) or not isinstance(outputs, int) or not 1 <= outputs <= RESULTS_MAX:
            raise ProgramError(f"outputs: expected a whole number from 1 to {RESULTS_MAX}, got {outputs!r}")
        self.py_func = py_func
        self.name = py_func.__name__
        self.outputs = outputs
        self.n_arguments = _count_arguments(py_func)
        source = _source_of(py_func)
        constants = _constants_of(py_func)
        frozen = "\0".join([source, str(outputs), *(f"{name}={value!r}" for name, value in constants)])
        self.digest = hashlib.sha256(frozen.encode()).hexdigest()
        # Numba's disk cache follows the file of the function, so a constant that came from another file could
        # go stale there: with constants every process compiles anew.
        self._compiled = _compile(py_func, self.n_arguments, outputs, cache=not constants)
        self.address: int = self._compiled.address

    def __call__(self, *arguments: Any) -> Any:
        from engine.transform.sources import apply_function  # they know of functions
        from engine.transform.spec import Feature

        if arguments and all(isinstance(argument, Feature) for argument in arguments):
            return apply_function(self, arguments)
        return self.py_func(*arguments)

    def __repr__(self) -> str:
        return f"<engine.transform function {self.name}, digest {self.digest[:12]}>"


def function(py_func: Callable[..., Any] | None = None, *, outputs: int = 1) -> Any:
    """Compiles a function of scalars for feature programs.

        @engine.transform
        def speed(distance, air_time):
            return distance / air_time * 60.0

        spec = [speed(t.number("distance"), t.number("air_time")).named("speed")]

    Arguments and results are float32; a missing value is NaN. Division by zero follows IEEE 754 (Python would
    raise). The function may use the modules math and numpy, builtins and constants, and must return a number, or
    with `outputs=n` a tuple of n.

    Raises:
        ProgramError: where it does not compile or could not run without Python; names the file and line.
        MissingDependencyError: without Numba.
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
    """The source in a form that comments, decorators and layout do not change; refuses what cannot be native."""
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
    """Names and values of the outer constants that the function reads; refuses what a digest cannot hold."""
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
    try:
        import numba
    except ImportError:
        raise MissingDependencyError(
            "functions of your own in a feature program need Numba: pip install 'deadline-engine[numba]'"
        ) from None
    arguments = [numba.float32] * n_arguments
    # Files that Numba has no place to cache for (standard input, an interactive session) are compiled each time.
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
    """A tuple has no fixed form between languages: native code that stores the results one by one."""
    names = ", ".join(f"a{i}" for i in range(len(arguments)))
    stores = "".join(f"    out[{i}] = results[{i}]\n" for i in range(outputs))
    scope = {"compiled": compiled}
    exec(f"def write({names}, out):\n    results = compiled({names})\n{stores}", scope)
    signature = numba.void(*arguments, numba.types.CPointer(numba.float32))
    return numba.cfunc(signature, error_model="numpy")(scope["write"])


def _explain(py_func: types.FunctionType, error: Any) -> str:
    """Numba's message cut to what was wrong, with the user's line."""
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
