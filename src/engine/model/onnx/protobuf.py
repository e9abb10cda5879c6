"""The wire form of protocol buffers, as far as ONNX uses it: fields of a message by their number.

https://protobuf.dev/programming-guides/encoding describes it. A field that runs past the end of its message is a
`ModelFormatError`; no memory is allocated by a length alone.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from engine.errors import ModelFormatError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(message: bytes, what: str) -> dict[int, list[Any]]:
    """Return the values of each field by its number: an int for a varint, 4 or 8 bytes for a fixed one, else bytes.

    Raises ModelFormatError where the message is damaged; `what` stands for the file in it.
    """
    found: dict[int, list[Any]] = defaultdict(list)
    for number, _, value in entries(message, what):
        found[number].append(value)
    return found


def encode(fields: Iterable[tuple[int, int, Any]]) -> bytes:
    """Return the message of these fields, (number, wire type, value), as `entries` gives them."""
    out = bytearray()
    for number, kind, value in fields:
        _put(out, number << 3 | kind)
        if kind == _VARINT:
            _put(out, value)
            continue
        if kind == _BYTES:
            _put(out, len(value))
        out += value
    return bytes(out)


def _put(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def entries(message: bytes, what: str) -> list[tuple[int, int, Any]]:
    """Return all fields in order, (number, wire type, value); values and errors as in `fields`."""
    found = []
    at = 0
    while at < len(message):
        key, at = varint(message, at, what)
        kind = key & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = varint(message, at, what)
        else:
            if kind == _BYTES:
                size, at = varint(message, at, what)
            elif kind in (_FIXED32, _FIXED64):
                size = 4 if kind == _FIXED32 else 8
            else:
                raise ModelFormatError(f"{what}: damaged: wire type {kind} at byte {at}")
            if size > len(message) - at:
                raise ModelFormatError(
                    f"{what}: damaged: a field of {size:,} bytes at {at:,} of {len(message):,}"
                )
            value, at = message[at : at + size], at + size
        found.append((key >> 3, kind, value))
    return found


def varint(message: bytes, at: int, what: str) -> tuple[int, int]:
    """Return the number at `at`, and the place of the byte after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ModelFormatError(f"{what}: damaged: a number that does not end at byte {at:,}")


def signed(value: int) -> int:
    """Return the int64 that was written as this varint."""
    return value - 2**64 if value >= 2**63 else value


def integers(values: list[Any], what: str) -> list[int]:
    """Return the values of a repeated integer field, packed or not."""
    found: list[int] = []
    for value in values:
        if isinstance(value, int):
            found.append(signed(value))
            continue
        at = 0
        while at < len(value):
            number, at = varint(value, at, what)
            found.append(signed(number))
    return found


def single(values: list[Any], default: float) -> float:
    """Return the last value of an optional float field, or `default`."""
    if not values:
        return default
    if not isinstance(values[-1], bytes) or len(values[-1]) != 4:
        raise ModelFormatError("damaged: a float of another size")
    return float(struct.unpack("<f", values[-1])[0])
