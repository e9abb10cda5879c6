"""The list of native steps that a spec comes down to, while it is being put together.

Registers are numbered as csrc/include/engine/transform.hpp has it: the inputs first, then whatever the steps
write.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.core._program import NativeProgram
from engine.errors import ProgramError

NUMBER, TEXT = "number", "category"


class Plan:
    """Collects steps, tables and edges, hands out registers and output columns, and builds the native
    program."""

    def __init__(self, inputs: Iterable[tuple[str, str]]) -> None:
        self.inputs = list(inputs)
        self.output_names: list[str] = []
        self._register_of: dict[str, int] = {}
        self._used = {NUMBER: 0, TEXT: 0}
        for name, kind in self.inputs:
            self._register_of[name] = self._new(kind)
        self._steps: list[tuple[str, dict[str, float]]] = []
        self._tables: list[tuple[list[bytes], list[float]]] = []
        self._edges: list[list[float]] = []

    def input(self, name: str) -> int:
        return self._register_of[name]

    def step(self, op: str, *sources: int, kind: str = NUMBER, **fields: float) -> int:
        """Appends one step that reads `sources` and returns the register of `kind` that it writes."""
        dst = self._new(kind)
        self._steps.append((op, {"dst": dst, **dict(zip("ab", sources, strict=False)), **fields}))
        return dst

    def emit(self, register: int, name: str) -> None:
        """Makes a number register one output column."""
        self._steps.append(("emit", {"a": register, "dst": len(self.output_names)}))
        self.output_names.append(name)

    def emit_one_hot(self, register: int, names: list[str]) -> None:
        """Makes a register of codes 0, 1, … as many output columns as there are names."""
        self._steps.append(("one_hot", {"a": register, "dst": len(self.output_names), "count": len(names)}))
        self.output_names += names

    def table(self, keys: Iterable[str], values: Iterable[float]) -> int:
        self._tables.append(([key.encode() for key in keys], list(values)))
        return len(self._tables) - 1

    def edges(self, edges: Iterable[float]) -> int:
        self._edges.append(list(edges))
        return len(self._edges) - 1

    def build(self, *, refuse_missing: bool = False) -> NativeProgram:
        if not self.output_names:
            raise ProgramError("a program needs at least one output")
        inputs = [(name, kind == TEXT) for name, kind in self.inputs]
        return NativeProgram(
            inputs, len(self.output_names), self._steps, self._tables, self._edges, refuse_missing
        )

    def _new(self, kind: str) -> int:
        self._used[kind] += 1
        return self._used[kind] - 1
