"""Errors of other libraries, raised as the package's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import EngineError, StoreError


@contextmanager
def explained(
    doing: str, of: type[Exception] = Exception, *, modules: tuple[str, ...] = ("",)
) -> Iterator[None]:
    """Raise errors of a library as StoreError, with their first line. Errors of ours pass.

    Args:
        doing: the purpose, in words.
        of: the class of the library's errors.
        modules: the beginnings of the names of the modules that define them.
    """
    try:
        yield
    except EngineError:
        raise
    except of as error:
        if not type(error).__module__.startswith(modules):
            raise
        raise StoreError(f"{doing}: {type(error).__name__}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's text, the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
