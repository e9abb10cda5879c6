"""Writes the tables of README.md and docs/ from benchmarks/results; nobody types a number there.

docs/benchmarks.md holds every case. Any other page of docs gets the figures of a case between the lines
`<!-- benchmark NAME: begin -->` and `<!-- benchmark NAME: end -->`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import runner

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- benchmarks: begin (python -m benchmarks render) -->"
END = "<!-- benchmarks: end -->"


@dataclass(frozen=True)
class Row:
    """A line of the README's table: a figure of one case, ours and two rivals'."""

    label: str
    case: str
    key: str
    rivals: tuple[str, ...]
    scale: str = ""


ROWS = (
    Row(
        "`predict(dict of 30)`, trivial model, p50",
        "overhead",
        "predict_us_p50",
        ("onnxruntime_call", "asyncio_batcher"),
        " us",
    ),
    Row(
        "`await predict_async`, round trip p50",
        "async",
        "round_trip_us_p50",
        ("call_soon_threadsafe",),
        " us",
    ),
    Row(
        "answered in 10 ms at half load",
        "deadline",
        "on_time_0.5x",
        ("asyncio_batcher", "wait_for_fallback"),
        "%",
    ),
    Row("… at twice the capacity", "deadline", "on_time_2x", ("asyncio_batcher", "wait_for_fallback"), "%"),
    Row(
        "… at half load, model stalled 200 ms in every 2 s",
        "deadline",
        "on_time_stall_0.5x",
        ("asyncio_batcher", "wait_for_fallback"),
        "%",
    ),
    Row(
        "… at twice the capacity, stalled",
        "deadline",
        "on_time_stall_2x",
        ("asyncio_batcher", "wait_for_fallback"),
        "%",
    ),
    Row(
        "the model's own answers in time at 2x, of its capacity",
        "deadline",
        "primary_goodput_2x",
        ("asyncio_batcher", "wait_for_fallback"),
        "%",
    ),
)
FURTHER = (
    "All figures, their conditions and what each case does not measure:\n"
    "[docs/benchmarks.md](docs/benchmarks.md)."
)
HEAD = (
    "Written by `python -m benchmarks render` from `benchmarks/results`. "
    "Ratios within one run carry from machine to machine; absolute figures do not."
)
NAMES = {
    "onnxruntime_call": "bare ONNX Runtime call",
    "asyncio_batcher": "asyncio micro-batcher",
    "call_soon_threadsafe": "`call_soon_threadsafe`",
    "wait_for_fallback": "batcher, `wait_for`, fallback",
}


def results() -> dict[str, dict[str, Any]]:
    """The committed results by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(runner.RESULTS.glob("*.json"))}


def write_all() -> list[Path]:
    """Writes both files; returns those that changed."""
    found = results()
    changed = []
    pages = [path for path in sorted(DOCUMENT.parent.glob("*.md")) if path != DOCUMENT]
    for path, text in (
        (README, _readme(found)),
        (DOCUMENT, document(found)),
        *((page, with_tables(page.read_text(), found)) for page in pages),
    ):
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            changed.append(path)
    return changed


def _readme(found: dict[str, dict[str, Any]]) -> str:
    text = README.read_text()
    before, marked, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (marked and closed):
        raise ValueError(f"{README}: expected the lines {BEGIN!r} and {END!r} around its table")
    return f"{before}{BEGIN}\n{table(found)}\n{END}{after}"


def table(found: dict[str, dict[str, Any]]) -> str:
    """The README's table; a row whose result is not there yet is left out."""
    lines = ["| | Engine | in the same run |", "|---|---|---|"]
    for row in ROWS:
        result = found.get(row.case)
        if result is None or row.key not in result["metrics"]:
            continue
        theirs = [
            f"{NAMES[rival]} {_shown(result['rivals'][rival][row.key], row.scale)}"
            for rival in row.rivals
            if row.key in result["rivals"].get(rival, {})
        ]
        lines.append(
            f"| {row.label} | {_shown(result['metrics'][row.key], row.scale)} | {'; '.join(theirs)} |"
        )
    if len(lines) == 2:
        return "No results yet: `make bench`."
    where = next(iter(found.values()))["conditions"]
    lines += [
        "",
        f"{where['cpu']}, {where['cores']} cores, {where['date'][:10]}. {FURTHER}",
    ]
    return "\n".join(lines)


def with_tables(page: str, found: dict[str, dict[str, Any]]) -> str:
    """A page of docs with the figures of each case that it marks; a case without a result keeps what is there."""

    def table_of(match: re.Match[str]) -> str:
        result = found.get(match["name"])
        return match[0] if result is None else f"{match['begin']}\n{sizes_table(result)}\n{match['end']}"

    return _MARKED.sub(table_of, page)


_MARKED = re.compile(
    r"(?P<begin><!-- benchmark (?P<name>\w+): begin -->)\n.*?(?P<end><!-- benchmark (?P=name): end -->)",
    re.DOTALL,
)


def sizes_table(result: dict[str, Any]) -> str:
    """The metrics of a case, those of several sizes of model (`small_…`, `medium_…`, `large_…`) side by side."""
    sizes = ("small", "medium", "large")
    metrics = result["metrics"]
    split = {key: key.partition("_") for key in metrics}
    lines = [f"| | {' | '.join(sizes)} |", f"|---|{'---:|' * len(sizes)}"]
    for key in dict.fromkeys(rest for size, _, rest in split.values() if size in sizes):
        cells = [runner.figure(metrics.get(f"{size}_{key}")) for size in sizes]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    single = [f"{key} {runner.figure(metrics[key])}" for key, parts in split.items() if parts[0] not in sizes]
    where = result["conditions"]
    lines += ["", f"{'; '.join([*single, where['cpu']])}, {where['date'][:10]}."]
    return "\n".join(lines)


def document(found: dict[str, dict[str, Any]]) -> str:
    """docs/benchmarks.md: every case in full."""
    parts = [
        "# Benchmarks",
        "",
        HEAD,
        "",
    ]
    for name, result in found.items():
        rivals = list(result["rivals"])
        parts += [f"## {name}", "", (runner.load(name).__doc__ or "").strip(), ""]
        parts += [
            f"| | engine |{''.join(f' {rival} |' for rival in rivals)}",
            f"|---|{'---:|' * (1 + len(rivals))}",
        ]
        columns = [result["metrics"], *(result["rivals"][rival] for rival in rivals)]
        for key in dict.fromkeys(key for column in columns for key in column):
            parts.append(f"| {key} |{''.join(f' {runner.figure(column.get(key))} |' for column in columns)}")
        parts += ["", *_conditions(result["conditions"]), ""]
    return "\n".join(parts).rstrip() + "\n"


def _conditions(conditions: dict[str, Any]) -> list[str]:
    lines = []
    for key, value in conditions.items():
        # The spread is for those who look into the JSON: a pair of numbers for every figure above.
        if key in ("spread", "smoke"):
            continue
        if isinstance(value, dict):
            value = ", ".join(
                f"{name} {runner.figure(each) if isinstance(each, float) else each}"
                for name, each in value.items()
            )
        elif isinstance(value, list):
            value = "; ".join(map(str, value)) or "none"
        lines.append(f"- {key}: {runner.figure(value) if isinstance(value, float) else value}")
    return lines


def _shown(value: float, scale: str) -> str:
    if scale == "%":
        # Rounded down: 99.996 % is not all of them.
        return f"{int(value * 1e4) / 1e2:g} %"
    return f"{runner.figure(value)}{scale}"
