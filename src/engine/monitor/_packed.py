"""Nested plain values and arrays as bytes, compressed. No pickles are read."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import numpy as np

from engine.errors import MonitorError

HEAD = struct.Struct("<I")
LEVEL = 1


def pack(value: Any) -> bytes:
    """Return nested dicts and lists of plain values and arrays of numbers as bytes."""
    arrays: list[np.ndarray] = []
    made = take_arrays(value, arrays)
    head = json.dumps(
        {"value": made, "arrays": [[array.dtype.str, list(array.shape)] for array in arrays]}
    ).encode()
    body = b"".join([HEAD.pack(len(head)), head, *(array.tobytes() for array in arrays)])
    return zlib.compress(body, LEVEL)


def unpack(content: bytes) -> Any:
    """Return what `pack` packed; its arrays are read-only. Raises MonitorError where it is damaged."""
    try:
        body = zlib.decompress(content)
        (size,) = HEAD.unpack_from(body)
        head = json.loads(body[HEAD.size : HEAD.size + size])
        at = HEAD.size + size
        arrays: dict[str, np.ndarray] = {}
        for dtype, shape in head["arrays"]:
            kind = np.dtype(dtype)
            if kind.hasobject:
                raise ValueError(f"expected numbers, got {dtype}")
            count = int(np.prod(shape, dtype=np.int64))
            arrays[f"a{len(arrays)}"] = np.frombuffer(body, kind, count, at).reshape(shape)
            at += count * kind.itemsize
        return put_arrays(head["value"], arrays)
    except (zlib.error, struct.error, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise MonitorError(f"a shared entry is damaged: {type(error).__name__}: {error}") from error


def take_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    """Return nested values that JSON has: each array goes to the end of `arrays`, and a dict with its name stays."""
    if isinstance(value, np.ndarray):
        arrays.append(np.ascontiguousarray(value))
        return {"array": f"a{len(arrays) - 1}"}
    if isinstance(value, dict):
        return {key: take_arrays(inner, arrays) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [take_arrays(inner, arrays) for inner in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def put_arrays(value: Any, found: Any) -> Any:
    """Return nested values with the arrays that `take_arrays` took, which `found` has by their names."""
    if isinstance(value, dict):
        if set(value) == {"array"}:
            return found[value["array"]]
        return {key: put_arrays(inner, found) for key, inner in value.items()}
    if isinstance(value, list):
        return [put_arrays(inner, found) for inner in value]
    return value
