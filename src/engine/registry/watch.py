"""Following an alias from another process: a look takes about 10 us."""

from __future__ import annotations

from engine.registry.index import Index
from engine.registry.versions import AliasState


class Watch:
    """Says when an alias was flipped. Not thread-safe: it belongs to whoever polls.

    The alias is read at each look. Asking SQLite first whether anything has changed (`PRAGMA data_version`) takes half
    as long while nothing has; but each statement gives up the GIL, and beside busy threads getting it back takes up to
    a switch interval (5 ms), twice a statement: that is time between a flip and its effect.
    """

    def __init__(self, index: Index, name: str, alias: str, *, generation: int = 0) -> None:
        self.name = name
        self.alias = alias
        self.generation = generation
        self._index = index

    def poll(self) -> AliasState | None:
        """The alias's new state where it was flipped since the last poll that said so, else None.

        Raises:
            RegistryError: the index cannot be read; later polls may succeed.
        """
        found = self._index.alias(self.name, self.alias)
        if found.generation == self.generation:
            return None
        self.generation = found.generation
        return found

    def close(self) -> None:
        """Gives the connection back; the next poll opens another."""
        self._index.close()
