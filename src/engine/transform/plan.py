"""The list of native steps that a spec comes down to, while it is being put together.

Registers are numbered as csrc/include/engine/transform.hpp has it: the inputs first, then whatever the steps
write.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from engine.errors import ProgramError
from engine.transform._program import KINDS, NativeProgram

#: The kinds of input. A timestamp is of kind TIMESTAMP_UTC where one without a time zone counts as UTC.
NUMBER, TEXT, TIMESTAMP, TIMESTAMP_UTC, VECTOR = KINDS


@functools.lru_cache(maxsize=1024)  # asked for once a column of every batch
def kind_and_size(kind: str) -> tuple[str, int]:
    """Of an input kind as the program lists it, "vector[8]" say: its name in `KINDS`, and its values a row."""
    match = re.fullmatch(rf"{VECTOR}\[(\d+)\]", kind)
    return (VECTOR, int(match[1])) if match else (kind, 1)


class Plan:
    """Collects steps, tables and edges, hands out registers and output columns, and builds the native
    program."""

    def __init__(self, inputs: Iterable[tuple[str, str]]) -> None:
        self.inputs = list(inputs)
        self.output_names: list[str] = []
        self._register_of: dict[str, int] = {}
        self._used = {NUMBER: 0, TEXT: 0}
        for name, kind in self.inputs:
            self._register_of[name] = self._new(TEXT if kind == TEXT else NUMBER, kind_and_size(kind)[1])
        self._steps: list[tuple[str, dict[str, float]]] = []
        self._tables: list[tuple[list[bytes], list[float]]] = []
        self._edges: list[list[float]] = []
        self._zones: list[tuple[list[float], list[float]]] = []
        self._vectors: list[Any] = []
        self._functions: list[tuple[Any, list[int], int]] = []

    def input(self, name: str) -> int:
        return self._register_of[name]

    def step(self, op: str, *sources: int, kind: str = NUMBER, **fields: float) -> int:
        """Appends one step that reads `sources` and returns the register of `kind` that it writes."""
        dst = self._new(kind)
        self._steps.append((op, {"dst": dst, **dict(zip("abcd", sources, strict=False)), **fields}))
        return dst

    def emit(self, register: int, name: str) -> None:
        """Makes a number register one output column."""
        self._steps.append(("emit", {"a": register, "dst": len(self.output_names)}))
        self.output_names.append(name)

    def emit_one_hot(self, register: int, names: list[str]) -> None:
        """Makes a register of codes 0, 1, … as many output columns as there are names."""
        self._steps.append(("one_hot", {"a": register, "dst": len(self.output_names), "count": len(names)}))
        self.output_names += names

    def emit_vector(self, register: int, names: list[str], rows: Any) -> None:
        """Makes the row of a float32 [rows, columns] array that a register names as many output columns."""
        self._vectors.append(rows)
        fields = {"table": len(self._vectors) - 1, "count": len(names)}
        self._steps.append(("vector", {"a": register, "dst": len(self.output_names), **fields}))
        self.output_names += names

    def emit_tokens(self, register: int, names: list[str], seed: int) -> None:
        """Makes counts of the tokens of a text register as many output columns as there are names."""
        fields = {"count": len(names), "seed": seed}
        self._steps.append(("tokens", {"a": register, "dst": len(self.output_names), **fields}))
        self.output_names += names

    def call(self, function: Any, registers: Sequence[int], n_results: int) -> int:
        """Calls a native function; returns the first of the registers that its results are in."""
        first = self._new(NUMBER, n_results)
        self._functions.append((function, list(registers), n_results))
        self._steps.append(("call", {"dst": first, "table": len(self._functions) - 1}))
        return first

    def zone(self, edges: Iterable[float], offsets: Iterable[float]) -> int:
        self._zones.append((list(edges), list(offsets)))
        return len(self._zones) - 1

    def table(self, keys: Iterable[str], values: Iterable[float]) -> int:
        self._tables.append(([key.encode() for key in keys], list(values)))
        return len(self._tables) - 1

    def edges(self, edges: Iterable[float]) -> int:
        self._edges.append(list(edges))
        return len(self._edges) - 1

    def build(self, *, refuse_missing: bool = False) -> NativeProgram:
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
        )

    def _new(self, kind: str, count: int = 1) -> int:
        self._used[kind] += count
        return self._used[kind] - count
