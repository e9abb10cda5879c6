from collections.abc import Sequence

KINDS: tuple[str, ...]

class RowReader:
    """Reads rows of a program's inputs into registers. The caller holds the GIL.

    Args:
        inputs: one (name, kind, size) for each input, in order; `kind` is one of KINDS, `size` the values a row. A
            category takes the next text register, any other input the next `size` number registers.
        refuse_missing: True makes an absent key an InputError; False makes it a missing value.
    """

    names: tuple[str, ...]
    def __init__(self, inputs: Sequence[tuple[str, str, int]], refuse_missing: bool) -> None: ...
