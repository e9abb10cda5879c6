"""The native steps that a spec compiles to, while they are collected.

Registers are numbered as csrc/transform/program.hpp has it: the inputs come first, then the registers that steps write.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from engine.errors import ProgramError
from engine.transform._program import KINDS, OPS_ON_TEXT, NativeProgram

#: The kinds of input. A timestamp input that takes a time without a zone as UTC is of kind TIMESTAMP_UTC.
NUMBER, TEXT, TIMESTAMP, TIMESTAMP_UTC, VECTOR = KINDS


class NativeFunction(Protocol):
    """A compiled function that a step can call; `engine.transform.UserFunction` is one.

    Attributes:
        name: the name in specs and in errors.
        digest: sha256 of everything that affects the results, 64 hex digits.
        n_arguments: number of float32 arguments.
        outputs: number of float32 results.
        address: address of the native code, valid while the object lives.
    """

    name: str
    digest: str
    n_arguments: int
    outputs: int
    address: int


@functools.lru_cache(maxsize=1024)  # called once for each column of each batch
def kind_and_size(kind: str) -> tuple[str, int]:
    """Return the kind and the values a row of an input kind as a program lists it: "vector[8]" is a VECTOR of 8."""
    match = re.fullmatch(rf"{VECTOR}\[(\d+)\]", kind)
    return (VECTOR, int(match[1])) if match else (kind, 1)


class Plan:
    """Collects steps and their tables, numbers registers and output columns, and builds the native program.

    Args:
        inputs: one (name, kind) for each input, in order.

    Attributes:
        inputs: the same, as a list.
        output_names: names of the output columns so far.
    """

    def __init__(self, inputs: Iterable[tuple[str, str]]) -> None:
        self.inputs = list(inputs)
        self.output_names: list[str] = []
        self._register_of: dict[str, int] = {}
        self._used = {NUMBER: 0, TEXT: 0}
        # (TEXT or NUMBER, register) -> the index of the input that it was computed from.
        self._input_of: dict[tuple[str, int], int] = {}
        for index, (name, kind) in enumerate(self.inputs):
            file = TEXT if kind == TEXT else NUMBER
            self._register_of[name] = self._new(file, kind_and_size(kind)[1])
            self._input_of[file, self._register_of[name]] = index
        self._steps: list[tuple[str, dict[str, float]]] = []
        self._tables: list[tuple[list[bytes], list[float]]] = []
        self._matches: list[tuple[list[float], list[float]]] = []
        self._edges: list[list[float]] = []
        self._zones: list[tuple[list[float], list[float]]] = []
        self._vectors: list[Any] = []
        self._functions: list[tuple[NativeFunction, list[int], int]] = []

    def input(self, name: str) -> int:
        """Return the first register of an input."""
        return self._register_of[name]

    def step(self, op: str, *sources: int, kind: str = NUMBER, **fields: float) -> int:
        """Append a step that reads the registers `sources`. Return the register of `kind` that it writes."""
        dst = self._new(kind)
        reads = TEXT if op in OPS_ON_TEXT else NUMBER
        if sources and (reads, sources[0]) in self._input_of:
            self._input_of[kind, dst] = self._input_of[reads, sources[0]]
        self._steps.append((op, {"dst": dst, **dict(zip("abcd", sources, strict=False)), **fields}))
        return dst

    def known(self, register: int, kind: str, table: int, *, missing: bool) -> None:
        """Append a step that refuses a row with another value than those of a table, or of matches.

        Args:
            kind: TEXT or NUMBER: the file of the register, and what `table` is an index of.
            missing: True takes a missing value.
        """
        op = "known_text" if kind == TEXT else "known"
        fields = {"a": register, "table": table, "count": int(missing)}
        self._steps.append((op, {**fields, "seed": self._input_of.get((kind, register), 0)}))

    def emit(self, register: int, name: str) -> None:
        """Make a number register one output column."""
        self._steps.append(("emit", {"a": register, "dst": len(self.output_names)}))
        self.output_names.append(name)

    def emit_one_hot(self, register: int, names: list[str]) -> None:
        """Make a register of codes 0, 1, … one output column for each name."""
        self._steps.append(("one_hot", {"a": register, "dst": len(self.output_names), "count": len(names)}))
        self.output_names += names

    def emit_vector(self, register: int, names: list[str], rows: Any) -> None:
        """Make row numbers[register] of `rows`, float32 [rows, len(names)], one output column for each name."""
        self._vectors.append(rows)
        fields = {"table": len(self._vectors) - 1, "count": len(names)}
        self._steps.append(("vector", {"a": register, "dst": len(self.output_names), **fields}))
        self.output_names += names

    def emit_tokens(self, register: int, names: list[str], seed: int) -> None:
        """Make token counts of a text register one output column for each name."""
        fields = {"count": len(names), "seed": seed}
        self._steps.append(("tokens", {"a": register, "dst": len(self.output_names), **fields}))
        self.output_names += names

    def call(self, function: NativeFunction, registers: Sequence[int]) -> int:
        """Append a call. Return the first of its `function.outputs` result registers."""
        first = self._new(NUMBER, function.outputs)
        self._functions.append((function, list(registers), function.outputs))
        self._steps.append(("call", {"dst": first, "table": len(self._functions) - 1}))
        return first

    def zone(self, edges: Iterable[float], offsets: Iterable[float]) -> int:
        """Add a time zone. Return its index, the field `table` of a step."""
        self._zones.append((list(edges), list(offsets)))
        return len(self._zones) - 1

    def table(self, keys: Iterable[str], values: Iterable[float]) -> int:
        """Add a look-up table. Return its index, the field `table` of a step."""
        self._tables.append(([key.encode() for key in keys], list(values)))
        return len(self._tables) - 1

    def matches(self, keys: Iterable[float], values: Iterable[float]) -> int:
        """Add a value for each of some rising numbers. Return their index, the field `table` of a step."""
        self._matches.append((list(keys), list(values)))
        return len(self._matches) - 1

    def edges(self, edges: Iterable[float]) -> int:
        """Add the edges of buckets. Return their index, the field `table` of a step."""
        self._edges.append(list(edges))
        return len(self._edges) - 1

    def build(self, *, refuse_missing: bool = False) -> NativeProgram:
        """Return the native program. Raise ProgramError if it has no output."""
        if not self.output_names:
            raise ProgramError("a program needs at least one output")
        return NativeProgram(
            [(name, *kind_and_size(kind)) for name, kind in self.inputs],
            len(self.output_names),
            self._steps,
            self._tables,
            self._edges,
            self._zones,
            self._vectors,
            self._functions,
            refuse_missing,
            self._matches,
        )

    def _new(self, kind: str, count: int = 1) -> int:
        self._used[kind] += count
        return self._used[kind] - count
