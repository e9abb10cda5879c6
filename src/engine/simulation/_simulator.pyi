from typing import Any

SOURCES: tuple[str, ...]
REASONS: tuple[str, ...]
FAULTS: tuple[str, ...]
INVARIANTS: tuple[str, ...]

def arrivals(plan: dict[str, Any]) -> list[tuple[int, int]]: ...
def run(plan: dict[str, Any]) -> dict[str, Any]: ...
