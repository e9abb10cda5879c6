"""Following an alias from another process."""

from __future__ import annotations

import time

from engine.registry.index import Index
from engine.registry.notice_page import NoticePage
from engine.registry.versions import AliasState

# Seconds between looks at the index while the notice page shows no change.
INDEX_EVERY_S = 1.0


class Watch:
    """Reports when an alias is flipped. Made by `ModelRegistry.watch`. Not thread-safe: one thread polls it.

    A poll compares the notice page, which takes 0.2 us. It asks the index once a second besides, because a process may
    die between its flip and its notice, and some registries have no page.

    Attributes:
        name, alias: `name@alias`.
        generation: the last one that `poll` returned, or that was known at the start.
    """

    def __init__(self, index: Index, name: str, alias: str, *, generation: int = 0) -> None:
        self.name = name
        self.alias = alias
        self.generation = generation
        self._index = index
        self._page = NoticePage(index.path.parent, name, alias)
        self._ask_s = 0.0

    def poll(self, *, ask: bool = False) -> AliasState | None:
        """Return the alias's state if it was flipped since the last poll that returned one, else None.

        Args:
            ask: ask the index in any case.

        Raises:
            RegistryError: the index cannot be read, or the alias is gone. Later polls may succeed.
        """
        if self._page.changed():
            found = self._page.read()
            # An older state comes from a writer that was overtaken between its flip and its notice.
            if found is not None and found.generation > self.generation:
                self.generation = found.generation
                return found
            ask = True
        now = time.monotonic()
        if not ask and self._page.is_open and now < self._ask_s:
            return None
        self._ask_s = now + INDEX_EVERY_S
        self._page.open()
        state = self._index.alias(self.name, self.alias)
        if state.generation == self.generation:
            return None
        self.generation = state.generation
        return state

    def close(self) -> None:
        """Close the connection and the page. The next poll opens another connection."""
        self._page.close()
        self._index.close()
