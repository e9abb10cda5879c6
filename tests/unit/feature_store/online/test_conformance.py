"""The stores that need no server of somebody else's go through the conformance suite, as a store of yours would."""

from pathlib import Path

import pytest
from tests.servers import free_port

from engine.errors import StoreError
from engine.feature_store import LMDBOnline, RedisOnline
from engine.feature_store.testing import OnlineStoreConformance


class TestLMDB(OnlineStoreConformance):
    @pytest.fixture
    def open_store(self, tmp_path: Path):
        return lambda: LMDBOnline(tmp_path / "online")


class TestRedis(OnlineStoreConformance):
    @pytest.fixture
    def open_store(self, redis_url):
        return lambda: RedisOnline(redis_url, namespace="conformance")

    @pytest.fixture
    def open_unreachable(self):
        url = f"redis://127.0.0.1:{free_port()}/0"
        return lambda: RedisOnline(url, timeout_s=1.0)

    @pytest.fixture
    def forgets_after_s(self):
        # A second after the TTL, because clocks differ between machines.
        return 2.5


class LastWins(LMDBOnline):
    """Whoever writes last wins."""

    def write(self, pairs, ttl_ns, notes):
        super().write([], ttl_ns, notes)
        self.erase(dict(pairs), ttl_ns, b"{}")
        return len(pairs), 0, 0, None


class OnePlace(LMDBOnline):
    """All views have their rows in one place."""

    def prefix(self, view):
        return b"v\x00"


class KeepsNotes(LMDBOnline):
    """No note is ever deleted."""

    def write(self, pairs, ttl_ns, notes):
        return super().write(
            pairs, ttl_ns, {name: value for name, value in notes.items() if value is not None}
        )


class OneRevision(LMDBOnline):
    """Every run has the same revision."""

    def next_revision(self):
        super().next_revision()
        return 1


class Reading(LMDBOnline):
    """A store whose reader changes what it read."""

    def wire(self):
        wire = super().wire()
        read = wire.read
        wire.read = lambda keys, deadline_ns: self.changed(keys, read(keys, deadline_ns))
        return wire


class Sorted(Reading):
    """Rows come in the order of their keys."""

    def changed(self, keys, rows):
        return [dict(zip(keys, rows, strict=True))[key] for key in sorted(keys)]


class Text(Reading):
    """Rows pass through text, which replaces what is not UTF-8."""

    def changed(self, keys, rows):
        return [row if row is None else row.decode(errors="replace").encode() for row in rows]


class Quiet(LMDBOnline):
    """A deletion leaves no mark."""

    def erase(self, rows, ttl_ns, entry):
        super().erase(dict.fromkeys(rows), ttl_ns, entry)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (LastWins, "nothing_older_wins_in_any_order_of_writing"),
        (LastWins, "an_older_range_replaces_nothing_and_a_second_run_writes_nothing"),
        (LastWins, "pushed_rows_follow_the_same_rule"),
        (LastWins, "other_peoples_bytes_are_left_alone"),
        (OnePlace, "no_view_reads_rows_of_another"),
        (KeepsNotes, "notes_are_kept_and_deleted"),
        (OneRevision, "revisions_rise_whoever_draws_them"),
        (Sorted, "a_batch_has_each_row_in_its_place"),
        (Text, "every_kind_of_value_comes_back_with_its_bits"),
        (Quiet, "a_deleted_entity_stays_deleted_and_newer_rows_come"),
    ],
)
def test_the_suite_fails_for_a_store_that_breaks_a_promise(broken, test, tmp_path):
    def run(kind, folder):
        getattr(OnlineStoreConformance(), f"test_{test}")(lambda: kind(folder))

    with pytest.raises((AssertionError, StoreError, pytest.fail.Exception)):
        run(broken, tmp_path / "broken")
    run(LMDBOnline, tmp_path / "right")
