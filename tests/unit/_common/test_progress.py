"""Progress lines: silent for two seconds, then one line written over, or plain lines."""

import io

import pytest

from engine._common import progress
from engine._common.progress import Progress


class Stream(io.StringIO):
    """Text that may claim to be a terminal."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize(
    ("terminal", "expected"),
    [
        (True, "\rscore: 500 of 2,000 rows, 25 %\rscore: 1,000 of 2,000 rows, 50 %\n"),
        (False, "score: 500 of 2,000 rows, 25 %\n"),
    ],
)
def test_lines_are_due_after_two_seconds(monkeypatch, terminal, expected):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = Stream(terminal)
    with Progress("score", "rows", stream) as show:
        for at, done in ((1.9, 100), (2.0, 500), (2.1, 600), (2.3, 1000)):
            now[0] = at
            show(done, 2000)
    assert stream.getvalue() == expected


def test_a_short_command_says_nothing():
    stream = Stream(True)
    with Progress("score", "rows", stream) as show:
        show(1, 1)
    assert stream.getvalue() == ""
