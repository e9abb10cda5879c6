from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import CapsuleType

def with_program(program: Any, texts: Sequence[Sequence[bytes] | None], inner: CapsuleType) -> CapsuleType:
    """Return a scorer capsule of the inputs of `program`, whose features go to the scorer in `inner`.

    It takes rows in float32 and in double. Where `inner` takes doubles, the features are not rounded to float32. It has
    the flags of `inner`, and keeps both parts alive.

    Args:
        program: a NativeProgram without functions of the user's own.
        texts: for each input, in the order of a row: None for a number, or the UTF-8 texts that it may be. A row then
            holds a text's place in them; NaN is a missing text, any other number a text that is none of them.
        inner: PyCapsule `engine.scorer.v1`.

    Raises:
        ConfigError: no scorer capsule, or the scorer takes another number of features than the program makes.
        ProgramError: the program calls functions.
    """
