from collections.abc import Callable as AnyCallable
from typing import Any

from typing_extensions import CapsuleType

class BadShape(ValueError): ...

class Callable:
    n_features: int
    n_outputs: int
    error: BaseException | None
    error_text: str
    def __init__(self, fn: AnyCallable[..., Any], n_features: int, n_outputs: int) -> None: ...
    def scorer(self) -> CapsuleType: ...
