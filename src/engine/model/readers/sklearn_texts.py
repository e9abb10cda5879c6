"""The columns of text that a fitted scikit-learn estimator reads, wherever in it the encoders are.

Rows of a model are numbers, so a text needs a code in them. A text that an encoder knows has its place among those. Any
other that comes gets a code of its own, -1.5, -2.5 and so on, and the estimator gets the text back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model import rows as by_name

TEXTS_MAX = 1 << 20  # of one column that no encoder knows; the texts after these count as one
DEPTH_MAX = 12


class OpenTexts(tuple[str, ...]):
    """The texts that the encoders of one column know, in the order of their codes; codes for others as they come."""

    texts_only = True
    _places: dict[str, float]
    _missing: Any
    _others: list[str]
    _lock: threading.Lock

    @classmethod
    def of(cls, known: Iterable[Any]) -> OpenTexts:
        """Return the codes of the texts among `known`.

        A missing value becomes None for the estimator where None is one of `known`, else NaN.
        """
        found = list(known)
        made = cls(sorted({str(text) for text in found if isinstance(text, str)}))
        made._missing = None if any(value is None for value in found) else float("nan")
        made._places = {text: float(at) for at, text in enumerate(made)}
        made._others = []
        made._lock = threading.Lock()
        return made

    def code(self, value: Any) -> float:
        """Return the code of a value: NaN where it is missing."""
        if by_name.is_missing(value):
            return float("nan")
        text = str(value)
        found = self._places.get(text)
        if found is not None:
            return found
        with self._lock:
            if text not in self._places:
                if len(self._others) == TEXTS_MAX:
                    return -1.0
                self._others.append(text)
                self._places[text] = -len(self._others) - 0.5
            return self._places[text]

    def texts_of(self, codes: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Return the texts of codes, as objects. A number that is no code is an empty text."""
        found = np.empty(len(codes), object)
        for at, code in enumerate(codes.tolist()):
            other = -code - 1.5
            if code != code:
                found[at] = self._missing
            elif float(code).is_integer() and 0 <= code < len(self):
                found[at] = self[int(code)]
            else:
                known = float(other).is_integer() and 0 <= other < len(self._others)
                found[at] = self._others[int(other)] if known else ""
        return found


def text_columns(fitted: Any, names: Sequence[str] | None, n_features: int) -> dict[int, OpenTexts]:
    """Return the positions of the columns that some encoder knows as text, with codes for each."""
    found: dict[int, list[Any]] = {}
    for columns, encoder in _encoders(fitted, list(range(n_features)), names, 0):
        for at, categories in zip(columns, encoder.categories_, strict=False):
            if any(isinstance(value, str) for value in categories):
                found.setdefault(at, []).extend(categories)
    return {at: OpenTexts.of(known) for at, known in found.items()}


def known_values(fitted: Any, names: Sequence[str] | None, n_features: int) -> dict[int, float]:
    """Return one value, or the code of one text, that the encoders know for each column that they read."""
    found: dict[int, float] = {}
    for columns, encoder in _encoders(fitted, list(range(n_features)), names, 0):
        for at, categories in zip(columns, encoder.categories_, strict=False):
            numbers = [
                float(value)
                for value in categories
                if isinstance(value, int | float | np.number | np.bool_) and value == value
            ]
            is_text = any(isinstance(value, str) for value in categories)
            if is_text or numbers:
                found.setdefault(at, 0.0 if is_text else numbers[0])
    return found


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
