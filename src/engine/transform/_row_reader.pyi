from collections.abc import Sequence

KINDS: tuple[str, ...]

class RowReader:
    names: tuple[str, ...]
    def __init__(self, inputs: Sequence[tuple[str, str, int]], refuse_missing: bool) -> None: ...
