from typing import Any

SOURCES: tuple[str, ...]
REASONS: tuple[str, ...]

def arrivals(plan: dict[str, Any], deadlines: list[tuple[int, float]]) -> list[tuple[int, int]]: ...
def run(plan: dict[str, Any], deadlines: list[tuple[int, float]]) -> dict[str, Any]: ...
