"""The columns of text that a fitted scikit-learn estimator reads, wherever in it the encoders are.

Rows of a model are numbers, so a text needs a code in them. Each text that comes gets one, -1.5, -2.5 and so on, and
the estimator gets the text back. No column of text has numbers, so the codes take no number's place.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model import rows as by_name

TEXTS_MAX = 1 << 20  # of one column; the texts after these count as missing
DEPTH_MAX = 12


class OpenTexts:
    """Codes for the texts of one column, made as they come.

    Args:
        missing: the value that the estimator gets for a missing one: None or NaN.
    """

    texts_only = True

    def __init__(self, missing: Any) -> None:
        self._missing = missing
        self._codes: dict[str, float] = {}
        self._texts: list[str] = []
        self._lock = threading.Lock()

    def code(self, value: Any) -> float:
        """Return the code of a value: NaN where it is missing."""
        if by_name.is_missing(value):
            return float("nan")
        text = str(value)
        with self._lock:
            if text not in self._codes:
                if len(self._texts) == TEXTS_MAX:
                    return float("nan")
                self._texts.append(text)
                self._codes[text] = -len(self._texts) - 0.5
            return self._codes[text]

    def texts_of(self, codes: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Return the texts of codes, as objects. A number that is no code is an empty text."""
        found = np.empty(len(codes), object)
        for at, code in enumerate(codes.tolist()):
            place = -code - 1.5
            if code != code:
                found[at] = self._missing
            else:
                known = place.is_integer() and 0 <= place < len(self._texts)
                found[at] = self._texts[int(place)] if known else ""
        return found


def text_columns(fitted: Any, names: Sequence[str] | None, n_features: int) -> dict[int, OpenTexts]:
    """Return the positions of the columns that some encoder knows as text, with codes for each."""
    found: dict[int, Any] = {}
    for columns, encoder in _encoders(fitted, list(range(n_features)), names, 0):
        for at, categories in zip(columns, encoder.categories_, strict=False):
            if any(isinstance(value, str) for value in categories):
                found.setdefault(at, None if any(value is None for value in categories) else float("nan"))
    return {at: OpenTexts(missing) for at, missing in found.items()}


def _encoders(
    part: Any, columns: list[int], names: Sequence[str] | None, depth: int
) -> Iterator[tuple[list[int], Any]]:
    """(columns, encoder) of each encoder with categories in `part`, which reads these columns of the rows."""
    if depth > DEPTH_MAX or part is None or isinstance(part, str | bytes | np.ndarray | int | float):
        return
    if hasattr(part, "transformers_") and hasattr(part, "_columns"):  # ColumnTransformer
        for _, inner, chosen in part.transformers_:
            yield from _encoders(inner, _chosen(chosen, columns, names), names, depth + 1)
    elif hasattr(part, "categories_"):
        if len(part.categories_) == len(columns):
            yield columns, part
    elif hasattr(part, "steps") and hasattr(part, "named_steps"):
        for _, step in part.steps:
            yield from _encoders(step, columns, names, depth + 1)
            # Behind a step that changes the columns, positions mean others.
            if getattr(step, "transformers_", None) is not None or hasattr(step, "categories_"):
                break
    elif type(part).__module__.partition(".")[0] == "sklearn" or depth == 0:
        for value in _parts(part):
            yield from _encoders(value, columns, names, depth + 1)


def _parts(part: Any) -> Iterable[Any]:
    for value in getattr(part, "__dict__", {}).values():
        if isinstance(value, list | tuple):
            for each in value:
                yield from each if isinstance(each, tuple) else (each,)
        else:
            yield value


def _chosen(chosen: Any, columns: list[int], names: Sequence[str] | None) -> list[int]:
    """The columns that a ColumnTransformer hands to one transformer."""
    if callable(chosen):
        return []
    if isinstance(chosen, str | int | np.integer):
        chosen = [chosen]
    if isinstance(chosen, slice):
        if isinstance(chosen.start, str) or isinstance(chosen.stop, str):
            known = [None if names is None else names[at] for at in columns]
            first = known.index(chosen.start) if chosen.start is not None else 0
            end = known.index(chosen.stop) + 1 if chosen.stop is not None else len(known)
            return columns[first : end : chosen.step]
        return columns[chosen]
    flat = list(chosen)
    if flat and all(isinstance(one, bool | np.bool_) for one in flat):
        return [column for column, one in zip(columns, flat, strict=False) if one]
    places = {names[at]: at for at in columns} if names is not None else {}
    return [places[str(one)] if isinstance(one, str) else columns[int(one)] for one in flat]
