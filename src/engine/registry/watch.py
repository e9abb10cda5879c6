"""Following an alias from another process: a look that costs a few microseconds while nothing has changed."""

from __future__ import annotations

from engine.registry.index import Index
from engine.registry.versions import AliasState


class Watch:
    """Says when an alias was flipped. Not thread-safe: it belongs to whoever polls.

    SQLite keeps a number in shared memory that changes with every commit; only when that moves is the alias read.
    """

    def __init__(self, index: Index, name: str, alias: str, *, generation: int = 0) -> None:
        self.name = name
        self.alias = alias
        self.generation = generation
        self._index = index
        # None until the first poll, which therefore looks at the alias itself.
        self._changes: int | None = None

    def poll(self) -> AliasState | None:
        """The alias's new state where it was flipped since the last poll that said so, else None.

        Raises:
            RegistryError: the index cannot be read; later polls may succeed.
        """
        changes = self._index.changes()
        if changes == self._changes:
            return None
        found = self._index.alias(self.name, self.alias)
        # Only now, so that a read that failed is tried again.
        self._changes = changes
        if found.generation == self.generation:
            return None
        self.generation = found.generation
        return found

    def close(self) -> None:
        self._index.close()
