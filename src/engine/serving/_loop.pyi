class ManyCall:
    """A call of many rows in the batch lane. Not public."""

    def cancelled(self, _: int = 0) -> None:
        """Stop work on rows that nobody has answered yet: the future was cancelled."""

class LoopBridge:
    """One event loop's end of the completions. Not public."""

    def cancelled(self, index: int) -> None:
        """Abandon slot `index`, because its future was cancelled. A drain gives it back if it is answered already."""
    def drain(self, direct: bool = True) -> None:
        """Hand out all answers that are there.

        The loop calls it when the eventfd is readable. No task of the loop runs then, so with `direct` the waiting
        tasks are stepped here and now.
        """

class Bridges:
    """The bridges of one engine. Not public."""
