from typing import Any

SOURCES: tuple[str, ...]
REASONS: tuple[str, ...]

def run(plan: dict[str, Any], deadlines: list[tuple[int, float]]) -> dict[str, Any]: ...
