"""An observer by csrc/include/engine/observer.h alone, without a monitor, for tests of serving."""

from __future__ import annotations

import ctypes
from typing import Any

NAME = b"engine.observer.v1"


class _Answer(ctypes.Structure):
    _fields_ = [
        ("id", ctypes.c_uint64),
        ("deployment", ctypes.c_uint64),
        ("started_ns", ctypes.c_int64),
        ("deadline_ns", ctypes.c_int64),
        ("ready_ns", ctypes.c_int64),
        ("row", ctypes.c_void_p),
        ("values", ctypes.POINTER(ctypes.c_double)),
        ("n_features", ctypes.c_uint32),
        ("n_outputs", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("source", ctypes.c_uint8),
        ("reason", ctypes.c_uint8),
    ]


_OBSERVE = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(_Answer))
_SHADOW_OBSERVE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(_Answer))
_DEPLOYED = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p)
_COUNT = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Observer(ctypes.Structure):
    _fields_ = [
        ("abi", ctypes.c_uint32),
        ("n_features", ctypes.c_uint32),
        ("ctx", ctypes.c_void_p),
        ("observe", _SHADOW_OBSERVE),
        ("deployed", _DEPLOYED),
        ("retain", _COUNT),
        ("release", _COUNT),
    ]


class Recorder:
    """Keeps every answer it is shown as a dict, and every version that is announced."""

    def __init__(self, n_features: int = 0, abi: int = 1) -> None:
        self.answers: list[dict[str, Any]] = []
        self.versions: dict[int, str] = {}
        # CFUNCTYPE takes the GIL where the calling thread does not hold it, as a shadow's thread does not.
        self._struct = _Observer(
            abi,
            n_features,
            None,
            _SHADOW_OBSERVE(self._observe),
            _DEPLOYED(self._deployed),
            _COUNT(lambda _: None),
            _COUNT(lambda _: None),
        )
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        self.observer = new(ctypes.addressof(self._struct), NAME, None)

    def _observe(self, _ctx: int, answer: Any) -> None:
        it = answer.contents
        kind = ctypes.c_double if it.flags & 1 else ctypes.c_float
        row = ctypes.cast(it.row, ctypes.POINTER(kind))[: it.n_features] if it.row else []
        self.answers.append(
            {
                "id": it.id,
                "version": self.versions[it.deployment],
                "row": list(row),
                "values": it.values[: it.n_outputs],
                "source": it.source,
                "reason": it.reason,
                "shadow": bool(it.flags & 2),
                "canary": bool(it.flags & 4),
                "on_time": it.ready_ns <= it.deadline_ns,
            }
        )

    def _deployed(self, _ctx: int, number: int, version: bytes) -> None:
        self.versions[number] = version.decode()
