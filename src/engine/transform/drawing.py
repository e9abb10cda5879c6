"""A program as an HTML table for notebooks: each output, and its way from the inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from engine.transform.ops import Op
from engine.transform.spec import Feature

#: A longer constant, as a list of categories, is cut. `to_json` has it whole.
SHOWN_CHARACTERS = 60


def html_of(features: Iterable[Feature], outputs: Sequence[Sequence[str]], title: str) -> str:
    """Return a table with one row for each feature: its outputs, its inputs, and its ops with the fitted constants.

    Args:
        features: of the program.
        outputs: the names of the outputs of each feature.
        title: the table's caption.
    """
    rows = "".join(
        f"<tr><td>{_listed(names)}</td><td>{_listed([name for name, _ in feature.inputs()])}</td>"
        f"<td>{_way(feature)}</td></tr>"
        for feature, names in zip(features, outputs, strict=True)
    )
    return (
        f"<table><caption>{escape(title)}</caption><thead><tr><th>outputs</th><th>inputs</th><th>way</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _listed(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    shown = distinct if len(distinct) <= 6 else [*distinct[:5], f"… {len(distinct)} in all"]
    return "<br/>".join(map(escape, shown))


def _way(feature: Feature) -> str:
    """Return the source and the ops with arrows between. The parts of a combination stand in brackets."""
    kind = feature.kind if feature.function is None else feature.function.name
    parameters = [f"{name}={value}" for name, value in feature.parameters if value is not None]
    parts = [_way(part) for part in feature.of]
    source = escape(feature.input) if feature.input is not None else ""
    inside = ", ".join([*([source] if source else []), *parts, *map(escape, parameters)])
    return " → ".join([f"<b>{escape(kind)}</b>({inside})", *map(_op, feature.ops)])


def _op(op: Op) -> str:
    fields = (f"{name}={value}" for name, value in op.to_json().items() if name != "op")
    short = (text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…" for text in fields)
    return f"<b>{escape(op.op)}</b>({escape(', '.join(short))})"
