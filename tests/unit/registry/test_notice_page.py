"""Notice pages: readers see a flip at once, ignore a damaged or overtaken page, and manage without one."""

import fcntl
import os
import shutil
from dataclasses import replace

import pytest
from tests.unit.registry.bundles import constant

from engine.registry import AliasState, ModelRegistry, notice_page
from engine.registry import watch as watching


@pytest.fixture
def registry(tmp_path):
    made = ModelRegistry(tmp_path / "registry", code=False)
    for value in (1, 2, 3):
        made.register(constant(tmp_path, value))
    made.promote("model", 1)
    return made


@pytest.fixture
def rarely(monkeypatch):
    """The index is not asked again in this test."""
    monkeypatch.setattr(watching, "INDEX_EVERY_S", 3600.0)


def page_of(registry):
    (page,) = (registry.path / "notices").iterdir()
    return page


def publish(registry, number, generation):
    state = AliasState("model", "production", number, generation, (1,))
    notice_page.publish(registry.path, "model", "production", lambda: state)


def test_a_flip_is_seen_without_asking_the_index(registry, rarely):
    watch = registry.watch("model@production", generation=1)
    assert watch.poll() is None
    watch._index.close()
    registry.promote("model", 2)
    state = watch.poll()
    assert (state.number, state.generation, state.past) == (2, 2, (1,))
    assert watch.poll() is None
    assert state == registry.alias("model")
    assert watch._index._connection._connection is None, "it was asked"


def test_a_flip_by_another_process_is_seen(registry, rarely):
    watch = registry.watch("model@production", generation=1)
    assert watch.poll() is None
    child = os.fork()
    if child == 0:
        ModelRegistry(registry.path, code=False).promote("model", 3)
        os._exit(0)
    os.waitpid(child, 0)
    assert watch.poll().number == 3


def test_an_overtaken_writer_does_not_lead_back(registry, rarely):
    watch = registry.watch("model@production", generation=1)
    registry.promote("model", 2)
    registry.promote("model", 3)
    assert watch.poll().generation == 3
    publish(registry, 2, 2)
    assert watch.poll() is None


@pytest.mark.parametrize("at", [3, 9, 20, 40])
def test_a_damaged_notice_counts_as_none(registry, rarely, at):
    watch = registry.watch("model@production", generation=1)
    assert watch.poll() is None
    registry.promote("model", 2)
    with open(page_of(registry), "r+b") as page:
        page.seek(at)
        byte = page.read(1)
        page.seek(at)
        page.write(bytes([byte[0] ^ 0x40]))
    assert watch.poll() == registry.alias("model"), "the index says what it is"


def test_a_flip_without_a_notice_is_found_in_the_index(registry, monkeypatch):
    monkeypatch.setattr(watching, "INDEX_EVERY_S", 0.0)
    watch = registry.watch("model@production", generation=1)
    registry._index.point("model", "production", 2, "somebody killed after the commit", "", None)
    assert watch.poll().number == 2


def test_a_registry_without_notices_is_followed(registry, rarely):
    shutil.rmtree(registry.path / "notices")
    watch = registry.watch("model@production", generation=1)
    assert watch.poll() is None
    registry._index.point("model", "production", 2, "nobody", "", None)
    assert watch.poll().number == 2
    registry.promote("model", 3)
    assert watch.poll().number == 3


def test_a_notice_that_cannot_be_published_stops_no_flip(registry):
    shutil.rmtree(registry.path / "notices")
    (registry.path / "notices").write_text("in the way")
    assert registry.promote("model", 2).number == 2
    assert registry.rollback("model").number == 1


def test_a_state_too_long_for_the_page_counts_as_none(registry, rarely):
    watch = registry.watch("model@production", generation=1)
    assert watch.poll() is None
    long = AliasState("model", "production", 2, 2, tuple(range(10_000)))
    notice_page.publish(registry.path, "model", "production", lambda: long)
    assert watch.poll() is None, "the index knows of no flip"
    registry._index.point("model", "production", 3, "somebody", "", None)
    notice_page.publish(registry.path, "model", "production", lambda: replace(long, generation=3))
    assert watch.poll().number == 3


def test_a_writer_that_hangs_holds_up_no_flip_for_long(registry, monkeypatch):
    monkeypatch.setattr(notice_page, "LOCK_S_MAX", 0.05)
    with page_of(registry).open("rb") as hung:
        fcntl.flock(hung, fcntl.LOCK_EX)
        assert registry.promote("model", 2).number == 2
    assert registry.watch("model@production").poll().number == 2
