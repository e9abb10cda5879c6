"""Following an alias from another process."""

from __future__ import annotations

import time

from engine.registry.index import Index
from engine.registry.notice_page import Notice
from engine.registry.versions import AliasState

# Between looks at the index, where no notice says that there is something to see.
INDEX_EVERY_S = 1.0


class Watch:
    """Says when an alias was flipped. Not thread-safe: it belongs to whoever polls.

    A look at the notice takes 0.2 us; the index is asked now and then all the same, because a process may be killed
    between its flip and its notice, and some registries cannot be written.
    """

    def __init__(self, index: Index, name: str, alias: str, *, generation: int = 0) -> None:
        self.name = name
        self.alias = alias
        self.generation = generation
        self._index = index
        self._notice = Notice(index.path.parent, name, alias)
        self._ask_s = 0.0

    def poll(self, *, ask: bool = False) -> AliasState | None:
        """The alias's new state where it was flipped since the last poll that said so, else None.

        Args:
            ask: ask the index in any case.

        Raises:
            RegistryError: the index cannot be read; later polls may succeed.
        """
        if self._notice.changed():
            found = self._notice.read()
            # An older one is of a writer that was overtaken between its flip and its notice.
            if found is not None and found.generation > self.generation:
                self.generation = found.generation
                return found
            ask = True
        now = time.monotonic()
        if not ask and self._notice.is_open and now < self._ask_s:
            return None
        self._ask_s = now + INDEX_EVERY_S
        self._notice.open()
        state = self._index.alias(self.name, self.alias)
        if state.generation == self.generation:
            return None
        self.generation = state.generation
        return state

    def close(self) -> None:
        """Gives the connection back; the next poll opens another."""
        self._notice.close()
        self._index.close()
