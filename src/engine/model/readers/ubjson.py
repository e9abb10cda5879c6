"""Decodes Universal Binary JSON as XGBoost writes it (draft 12): bounded depth, every size checked first."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from engine.errors import ModelFormatError

DEPTH_MAX = 64
_NUMBERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
_FORMATS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q", b"d": ">f", b"D": ">d"}
_CONSTANTS = {b"Z": None, b"T": True, b"F": False}


def decode(content: bytes, name: str) -> Any:
    """Return the document as dicts, lists, str, numbers and, for typed arrays, NumPy arrays in native byte order.

    Raises ModelFormatError where the bytes end early, go on after the document, or are not UBJSON.
    """
    reader = _Reader(content, name)
    document = reader.value(reader.take(1), 0)
    if reader.position != len(content):
        raise ModelFormatError(
            f"{name}: {len(content) - reader.position} bytes follow the end of the document"
        )
    return document


class _Reader:
    def __init__(self, content: bytes, name: str) -> None:
        self.content = content
        self.name = name
        self.position = 0

    def fail(self, what: str) -> ModelFormatError:
        return ModelFormatError(f"{self.name}: byte {self.position}: {what}")

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.content):
            raise self.fail(
                f"expected {count} more bytes, got {len(self.content) - self.position}: truncated"
            )
        taken = self.content[self.position : end]
        self.position = end
        return taken

    def peek(self) -> bytes:
        return self.content[self.position : self.position + 1]

    def value(self, marker: bytes, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise self.fail(f"nested deeper than {DEPTH_MAX}")
        if marker in _FORMATS:
            layout = _FORMATS[marker]
            return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        if marker == b"S":
            return self.text()
        if marker == b"[":
            return self.array(depth)
        if marker == b"{":
            return self.mapping(depth)
        raise self.fail(f"expected a UBJSON value, got marker {marker!r}")

    def length(self) -> int:
        marker = self.take(1)
        if marker not in (b"i", b"U", b"I", b"l", b"L"):
            raise self.fail(f"expected a length, got marker {marker!r}")
        count = int(self.value(marker, 0))
        if not 0 <= count <= len(self.content):
            raise self.fail(f"a length of {count} in a file of {len(self.content)} bytes")
        return count

    def text(self) -> str:
        try:
            return self.take(self.length()).decode()
        except UnicodeDecodeError:
            raise self.fail("expected UTF-8 text") from None

    def array(self, depth: int) -> Any:
        kind = None
        if self.peek() == b"$":
            self.take(1)
            kind = self.take(1)
            if self.peek() != b"#":
                raise self.fail("expected '#' and a count after the type of an array")
        if self.peek() == b"#":
            self.take(1)
            count = self.length()
            if kind in _NUMBERS:
                dtype = np.dtype(_NUMBERS[kind])
                return np.frombuffer(self.take(count * dtype.itemsize), dtype).astype(dtype.newbyteorder("="))
            if kind is not None:
                raise self.fail(f"arrays of type {kind!r} are not known")
            return [self.value(self.take(1), depth + 1) for _ in range(count)]
        items = []
        while (marker := self.take(1)) != b"]":
            items.append(self.value(marker, depth + 1))
        return items

    def mapping(self, depth: int) -> dict[str, Any]:
        if self.peek() in (b"$", b"#"):
            raise self.fail("objects with a count are not written by XGBoost")
        pairs: dict[str, Any] = {}
        while self.peek() != b"}":
            key = self.text()
            if key in pairs:
                raise self.fail(f"key {key!r} is given twice")
            pairs[key] = self.value(self.take(1), depth + 1)
        self.take(1)
        return pairs
