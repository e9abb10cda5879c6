"""engine.open: following an alias, refusing what is bad, going back. The alias is looked at by hand, but for the
tests that say otherwise, so that nothing here depends on time."""

import asyncio
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from tests.unit.registry.bundles import constant, overflowing, step

import engine
from engine import transform as t
from engine.errors import ConfigError, RegistryError
from engine.monitor import ModelMonitor, Reference
from engine.registry import ModelRegistry
from engine.rollout import Probation
from engine.rollout import open as open_service

ROW = [0.0, 0.0]


@pytest.fixture
def registry(tmp_path):
    """Versions 1, 2 and 3 of "model" answer 1, 2 and 3; production is 1."""
    made = ModelRegistry(tmp_path / "registry", code=False)
    for value in (1, 2, 3):
        made.register(
            constant(tmp_path, value), golden=[[ROW], [float(value)]], policy={"deadline_ms": 1000.0}
        )
    made.promote("model", 1)
    return made


@pytest.fixture
def monitor():
    with contextlib.closing(ModelMonitor()) as made:
        yield made


def published(monitor):
    """What the service had to say to the monitor, besides what that found itself."""
    return [(alert.severity, alert.message) for alert in monitor.alerts if alert.kind == "message"]


@pytest.fixture
def service(registry):
    with open_service("model@production", registry=registry, poll_ms=None, deadline_ms=1000.0) as opened:
        yield opened


def kinds(service):
    return [(event.kind, event.version) for event in service.events]


def test_it_serves_what_the_alias_points_at(service):
    answer = service.predict(ROW)
    assert (answer.value, answer.source, answer.version) == (1.0, "primary", "model@1")
    assert service.predict_many([ROW, ROW]).values.tolist() == [1.0, 1.0]
    assert asyncio.run(ask(service)) == (1.0, [1.0])
    status = service.status()
    assert (status["version"], status["generation"], status["resident"]) == ("model@1", 1, [])
    assert kinds(service) == [("serving", "model@1")]


async def ask(service):
    one = await service.predict_async(ROW)
    many = await service.predict_many_async([ROW])
    return one.value, many.values.tolist()


def test_calls_are_the_engines_own(service):
    assert service.predict.__self__ is service.engine
    assert service.predict_many_async.__self__ is service.engine


def test_it_follows_the_alias_and_keeps_the_version_before(service, registry):
    running = service.engine
    registry.promote("model", 2)
    service.follow()
    assert service.predict(ROW).version == "model@2"
    assert service.engine is running  # alike: swapped inside
    assert service.status()["resident"] == ["model@1"]
    registry.promote("model", 3)
    service.follow()
    registry.promote("model", 1)
    service.follow()
    assert service.predict(ROW).value == 1.0
    assert sorted(service.status()["resident"]) == ["model@2", "model@3"]


def test_rollback_goes_back_here_and_in_the_registry(service, registry):
    registry.promote("model", 2)
    service.follow()
    assert service.rollback("too slow") == "model@1"
    assert service.predict(ROW).version == "model@1"
    state = registry.alias("model")
    assert (state.number, state.generation) == (1, 3)
    assert registry.history("model")[-1].note == "service: too slow"
    service.follow()
    assert service.version == "model@1"
    with pytest.raises(RegistryError, match="no version before model@1"):
        service.rollback()


def test_a_rollback_by_somebody_else_needs_no_loading(service, registry):
    registry.promote("model", 2)
    service.follow()
    (registry.path / "blobs").rename(registry.path / "gone")  # nothing can be loaded now
    registry.rollback("model")
    service.follow()
    assert service.predict(ROW).value == 1.0


def test_rollback_serves_the_version_before_even_where_the_registry_cannot_be_written(service, registry):
    registry.promote("model", 2)
    service.follow()
    registry.promote("model", 3)  # this service has not looked yet, so the alias is not its to flip
    with pytest.raises(RegistryError, match=r"model@1 serves here, but the alias .* has moved on"):
        service.rollback()
    assert service.predict(ROW).value == 1.0
    service.follow()
    assert service.predict(ROW).value == 3.0


@pytest.mark.parametrize("fault", ["edited", "missing", "golden"])
def test_a_bad_version_never_takes_traffic_and_says_why(registry, monitor, fault):
    bad = registry.resolve("model@2").manifest["artifacts"]
    primary, golden = (registry.path / "blobs" / bad[role]["digest"] for role in ("primary", "golden"))
    expected = {
        "edited": "not what was registered",
        "missing": "it is missing",
        "golden": "not what was registered",
    }
    target = golden if fault == "golden" else primary
    content = target.read_bytes()
    target.unlink()
    if fault != "missing":
        target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    seen = []
    parts = {"registry": registry, "monitor": monitor, "poll_ms": None, "on_event": seen.append}
    with open_service("model@production", **parts) as service:
        registry.promote("model", 2)
        service.follow()
        assert service.predict(ROW).version == "model@1"
        assert kinds(service)[-1] == ("refused", "model@2")
        assert "model@1 serves on" in service.events[-1].message
        assert expected[fault] in service.status()["refused"]["model@2"]
        assert published(monitor) == [("critical", service.events[-1].message)]
        assert [event.kind for event in seen] == ["serving", "refused"]
        registry.promote("model", 3)
        service.follow()
        assert service.predict(ROW).version == "model@3"


def test_golden_rows_answered_otherwise_are_refused(service, registry, tmp_path, monkeypatch):
    from engine.registry import Golden

    # As if another build of a library read the same model differently.
    monkeypatch.setattr(Golden, "from_bytes", lambda content: Golden(np.array([ROW]), np.array([2.5])))
    registry.promote("model", 2)
    service.follow()
    assert service.version == "model@1"
    assert "golden row 0: expected 2.5, got 2" in service.status()["refused"]["model@2"]


def test_answers_that_are_no_numbers_are_refused(service, registry, tmp_path):
    registry.promote("model", registry.register(overflowing(tmp_path)))
    service.follow()
    assert service.version == "model@1"
    assert "the primary answered no number for" in service.status()["refused"]["model@4"]


@pytest.mark.parametrize("what", ["features", "outputs", "program"])
def test_a_version_that_callers_could_not_call_is_refused(service, registry, tmp_path, what):
    from tests.unit.model.handmade_models import lightgbm_text, lightgbm_tree

    if what == "features":
        version = registry.register(constant(tmp_path, 1, n_features=3))
        text = "it takes rows of 3 features, callers of model@1 send rows of 2 features"
    elif what == "outputs":
        path = tmp_path / "two.txt"
        trees = [lightgbm_tree(leaf="1"), lightgbm_tree(leaf="2")]
        path.write_bytes(lightgbm_text(trees, per_iteration=2))
        version = registry.register(path)
        text = "it answers 2 outputs, callers of model@1 read 1"
    else:
        program = engine.FeatureProgram.fit([t.number("a"), t.number("b")], {"a": [0.0], "b": [0.0]})
        version = registry.register(constant(tmp_path, 1), program=program)
        text = "it takes the inputs of a feature program, callers of model@1 send rows of 2"
    registry.promote("model", version)
    service.follow()
    assert service.predict(ROW).version == "model@1"
    assert text in service.status()["refused"][str(version)]


def test_a_version_of_other_features_gets_an_engine_of_its_own(tmp_path):
    registry = ModelRegistry(tmp_path / "registry", code=False)
    two = engine.FeatureProgram.fit([t.number("a"), t.number("b")], {"a": [0.0], "b": [0.0]})
    three = engine.FeatureProgram.fit([t.number(name) for name in "abc"], {name: [0.0] for name in "abc"})
    registry.register(step(tmp_path, 10, 20), program=two)
    registry.register(constant(tmp_path, 5, n_features=3), program=three)
    registry.promote("model", 1)
    row = {"a": 2.0, "b": 0.0, "c": 0.0}
    with open_service("model", registry=registry, poll_ms=None, deadline_ms=1000.0) as service:
        assert service.predict(row).value == 20.0
        before, kept = service.engine, service.predict
        registry.promote("model", 2)
        service.follow()
        assert (service.predict(row).value, service.predict(row).version) == (5.0, "model@2")
        assert service.engine is not before
        assert kept(row).value == 20.0  # whoever had looked the method up is still answered
        service.rollback()
        assert service.engine is before
        assert service.predict(row).value == 20.0
        assert asyncio.run(service_async(service, row)) == 20.0
    with pytest.raises(engine.EngineError):
        kept(row)


async def service_async(service, row):
    return (await service.predict_async(row)).value


def test_the_monitor_gets_the_versions_reference_and_cannot_stop_a_flip(registry, tmp_path):
    given = []

    class Listening:
        def set_reference(self, reference):
            given.append(reference)
            if reference == {"columns": "bad"}:
                raise ValueError("what is this?")

    for columns in ("good", "bad"):
        registry.register(constant(tmp_path, 5), reference={"columns": columns})
    with open_service("model@production", registry=registry, poll_ms=None) as service:
        # An engine asks a monitor for its observer, which is native; the references are what is tested here.
        service._parts = dataclasses.replace(service._parts, monitor=Listening())
        for number in (4, 5, 1):
            registry.promote("model", number)
            service.follow()
            assert service.predict(ROW).version == f"model@{number}"
        assert given == [{"columns": "good"}, {"columns": "bad"}]
        assert ("error", "model@5") in kinds(service)
        assert "ValueError: what is this?" in next(e.message for e in service.events if e.kind == "error")


def test_a_promotion_does_not_replace_the_reference_that_the_user_gave(registry, tmp_path):
    rows = np.random.default_rng(0).normal(size=(200, 2))
    mine, other = Reference.fit(rows), Reference.fit(rows + 1.0)
    registry.register(constant(tmp_path, 5), reference=json.loads(other.to_json()))
    for given, expected in ((mine, mine), (None, other)):
        registry.promote("model", 1)
        with (
            ModelMonitor(given, handlers=[], n_features=2) as monitor,
            open_service("model@production", registry=registry, poll_ms=None, monitor=monitor) as service,
        ):
            registry.promote("model", 4)
            service.follow()
            assert monitor.reference.to_json() == expected.to_json()


def test_a_version_without_a_fallback_does_not_inherit_one(tmp_path):
    registry = ModelRegistry(tmp_path / "registry", code=False)
    registry.register(constant(tmp_path, 1), fallback=constant(tmp_path, 8), default=9.0)
    registry.register(overflowing(tmp_path), golden=[[[0.0, 0.0]], [1.0]])
    registry.promote("model", 1)
    with open_service("model", registry=registry, poll_ms=None, deadline_ms=1000.0) as service:
        registry.promote("model", 2)
        service.follow()
        answer = service.predict([2.0, 0.0])
        assert (answer.version, answer.source) == ("model@2", "default")
        assert np.isnan(answer.value)


class OnlineStore:
    """A store whose online features are the program itself, counted as they are opened and closed."""

    def __init__(self):
        self.opened = self.closed = 0

    def online_features(self, program, views):
        store, names = self, [view.name for view in views]
        self.opened += 1

        class Features:
            capsule, views_read = program.capsule, names

            def close(self):
                store.closed += 1

        return Features()


def test_online_features_are_opened_once_a_program_and_closed_in_the_end(tmp_path, monkeypatch):
    from engine.rollout import loaded

    class Weather:
        name, version = "weather", "w"

    class Other:
        name, version = "other", "o"

    registry = ModelRegistry(tmp_path / "registry", code=False)
    for value, column in ((1, "weather__temp"), (2, "weather__temp"), (3, "weather__wind"), (4, "plain")):
        program = engine.FeatureProgram.fit([t.number(column)], {column: [0.0]})
        registry.register(constant(tmp_path, value, n_features=1), program=program)
    registry.promote("model", 1)
    store = OnlineStore()
    monkeypatch.setattr(loaded, "RETIRED_S", 0.0)
    parts = {
        "registry": registry,
        "store": store,
        "views": [Weather, Other],
        "poll_ms": None,
        "deadline_ms": 1000.0,
    }
    with open_service("model@production", **parts) as service:
        assert service._loaded.active.features.views_read == ["weather"]
        for number, opened, closed in ((2, 1, 0), (3, 2, 0), (4, 2, 0), (2, 2, 0)):
            registry.promote("model", number)
            service.follow()
            service._loaded.sweep()
            assert service.predict({}).value == number
            assert (store.opened, store.closed) == (opened, closed)
    assert store.closed == store.opened


def bad_on_live_rows(registry, tmp_path, name="overflowing"):
    """A version that answers its golden row, and no number where feature 0 is above 1.5."""
    return registry.register(
        overflowing(tmp_path, name), golden=[[ROW], [1.0]], policy={"deadline_ms": 1000.0}
    )


def test_a_version_that_fails_on_live_traffic_is_rolled_back_by_itself(registry, monitor, tmp_path):
    with open_service("model@production", registry=registry, monitor=monitor, poll_ms=None) as service:
        registry.promote("model", bad_on_live_rows(registry, tmp_path))
        service.follow()
        assert service.version == "model@4"
        for index in range(2000):  # one in a hundred
            service.predict([2.0 if index % 100 == 0 else 0.0, 0.0])
        service.follow()
        assert service.version == "model@1"
        assert service.predict([2.0, 0.0]).value == 1.0
        state = registry.alias("model")
        assert (state.number, state.generation) == (1, 3)
        assert "20 of 2000 answers" in registry.history("model")[-1].note
        assert ("rolled_back", "model@4") in kinds(service)
        assert [severity for severity, _ in published(monitor)] == ["critical"]
        assert "20 of 2000" in service.status()["refused"]["model@4"]
        assert not service.status()["on_probation"]


def test_few_failures_or_a_small_share_decide_nothing(registry, tmp_path):
    with open_service("model@production", registry=registry, poll_ms=None) as service:
        registry.promote("model", bad_on_live_rows(registry, tmp_path))
        service.follow()
        for _ in range(9):
            service.predict([2.0, 0.0])
        service.follow()
        assert service.version == "model@4"  # nine
        service.predict_many(np.zeros((2000, 2)))
        service.predict([2.0, 0.0])
        service.follow()
        assert service.version == "model@4"  # ten, and 0.5 %
        service.predict([2.0, 0.0])
        service.follow()
        assert service.version == "model@1"  # eleven of 2,011


def test_a_version_that_fails_as_often_as_the_one_before_stays(registry, tmp_path):
    one, other = (bad_on_live_rows(registry, tmp_path, name) for name in ("one", "other"))
    registry.promote("model", one)
    with open_service("model", registry=registry, poll_ms=None) as service:
        rows = np.zeros((1000, 2))
        rows[:50, 0] = 2.0  # the data's own fault
        service.predict_many(rows)
        registry.promote("model", other)
        service.follow()
        service.predict_many(rows)
        service.follow()
        assert service.version == str(other)


def test_two_services_that_see_the_same_fault_go_back_once(registry, tmp_path):
    registry.promote("model", 2)
    registry.promote("model", 3)
    pair = [open_service("model", registry=registry, poll_ms=None) for _ in range(2)]
    try:
        registry.promote("model", bad_on_live_rows(registry, tmp_path))
        for service in pair:
            service.follow()
            for _ in range(20):
                service.predict([2.0, 0.0])
        for service in pair:
            service._check_bake()  # as if neither had heard of the other
        assert [service.version for service in pair] == ["model@3", "model@3"]
        assert registry.alias("model").number == 3
        for service in pair:
            service.follow()
            assert service.version == "model@3"
            assert "error" not in [event.kind for event in service.events]
    finally:
        for service in pair:
            service.close()


def test_opening_an_alias_that_points_at_a_bad_version_serves_the_last_good_one(registry):
    registry.promote("model", 2)
    registry.promote("model", 3)
    for number in (2, 3):
        bad = registry.resolve(f"model@{number}").manifest["artifacts"]["primary"]["digest"]
        (registry.path / "blobs" / bad).unlink()
    with open_service("model@production", registry=registry, poll_ms=None) as service:
        assert service.predict(ROW).version == "model@1"
        assert kinds(service) == [("refused", "model@3"), ("refused", "model@2"), ("serving", "model@1")]
    with pytest.raises(RegistryError, match=r"model@3 has no version that can serve: .*it is missing"):
        open_service("model@3", registry=registry)


def test_a_fixed_version_follows_nothing(registry):
    with open_service("model@2", registry=registry.path) as service:
        service.follow()
        assert (service.version, service.status()["generation"]) == ("model@2", None)
        assert not service.status()["following"]
        with pytest.raises(RegistryError, match="no version before"):
            service.rollback()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"poll_ms": 0.0}, "poll_ms must be above 0"),
        ({"store": object()}, "a store needs views"),
        ({"lane": "nowhere"}, "lane must be one of"),
    ],
)
def test_options_that_make_no_sense(registry, options, text):
    with pytest.raises(ConfigError, match=text):
        open_service("model", registry=registry, **options)


@pytest.mark.parametrize("option", ["version", "warmup", "deadline"])
def test_an_option_that_engine_does_not_take_is_named_before_anything_is_loaded(registry, option):
    with pytest.raises(TypeError, match=f"Engine has no option {option}; it has: deadline_ms, "):
        open_service("nobody@production", registry=registry, **{option: 1})


@pytest.mark.parametrize("keywords", [{"share_max": 0.0}, {"failures_min": 0}, {"seconds": -1.0}])
def test_a_probation_that_makes_no_sense(keywords):
    with pytest.raises(ConfigError, match="expected share_max"):
        Probation(**keywords)


def test_what_is_given_goes_before_the_versions_own_policy(registry):
    with open_service("model", registry=registry, poll_ms=None, lane="batch") as service:
        assert service.engine.lane == "batch"


def test_a_view_of_another_definition_is_refused(registry, tmp_path):
    class View:
        name, version = "flights", "b" * 64

    registry.register(constant(tmp_path, 7), lineage={"views": {"flights": "a" * 64, "weather": "c" * 64}})
    with pytest.raises(
        RegistryError, match="trained on version aaaaaaaaaaaa of feature view 'flights', got bbbb"
    ):
        open_service("model@4", registry=registry, store=object(), views=[View])


def wait_for(condition, seconds=20.0):
    """Waits for another thread or process to get there; the time it may take is no part of any expectation."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.002)


FLIPPER = """
    import sys
    from engine.registry import ModelRegistry
    registry = ModelRegistry(sys.argv[1], code=False)
    print(registry.promote("model", 2).generation, flush=True)
    sys.stdin.readline()
    print(registry.rollback("model").generation, flush=True)
"""


@pytest.mark.slow
def test_a_flip_in_another_process_reaches_running_callers_without_a_failed_request(registry):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    with open_service("model@production", registry=registry, deadline_ms=10_000.0) as service:
        stop, seen, wrong = threading.Event(), set(), []

        def call():
            while not stop.is_set():
                answer = service.predict(ROW)
                seen.add(answer.version)
                if answer.source != "primary" or answer.value != float(answer.version[-1]):
                    wrong.append(answer)

        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        flipper = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(FLIPPER), str(registry.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        wait_for(lambda: service.version == "model@2")
        assert service.status()["resident"] == ["model@1"]
        wait_for(lambda: "model@2" in seen)
        flipper.stdin.write("\n")
        flipper.stdin.flush()
        wait_for(lambda: service.version == "model@1")
        stop.set()
        for caller in callers:
            caller.join()
        flipper.communicate(timeout=20)
        assert wrong == []
        assert seen == {"model@1", "model@2"}


@pytest.mark.slow
def test_following_outlives_a_registry_that_goes_away(registry, tmp_path):
    with open_service("model@production", registry=registry, poll_ms=1.0) as service:
        registry.promote("model", 2)
        wait_for(lambda: service.version == "model@2")
        (registry.path / "blobs").rename(tmp_path / "blobs")
        registry.promote("model", 3)
        wait_for(lambda: "model@3" in service.status()["refused"])
        assert service.predict(ROW).version == "model@2"
        (tmp_path / "blobs").rename(registry.path / "blobs")
        registry.promote("model", 1)
        registry.promote("model", 3)
        wait_for(lambda: service.version == "model@3")


@pytest.mark.slow
def test_the_version_before_is_loaded_soon_after_opening(registry):
    registry.promote("model", 2)
    with open_service("model@production", registry=registry) as service:
        wait_for(lambda: service.status()["resident"] == ["model@1"])


@pytest.mark.slow
def test_no_request_fails_while_versions_take_turns_with_engines_of_their_own(tmp_path):
    """Another policy means another engine, so the methods themselves are exchanged under the callers."""
    registry = ModelRegistry(tmp_path / "registry", code=False)
    for value, lane in ((1, "inline"), (2, "batch"), (3, "inline")):
        registry.register(constant(tmp_path, value), policy={"deadline_ms": 10_000.0, "lane": lane})
    registry.promote("model", 1)
    with open_service("model@production", registry=registry, poll_ms=None) as service:
        stop, seen, wrong = threading.Event(), set(), []

        def call():
            while not stop.is_set():
                try:
                    answer = service.predict(ROW)
                    many = service.predict_many([ROW, ROW])
                except Exception as error:
                    wrong.append(error)
                    return
                seen.add(answer.version)
                if answer.source != "primary" or answer.value != float(answer.version[-1]):
                    wrong.append(answer)
                if len(set(many.values.tolist())) != 1:
                    wrong.append(many)

        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        engines = set()
        for number in (2, 3, 1, 2, 3, 2, 1):
            registry.promote("model", number)
            service.follow()
            engines.add(id(service.engine))
            wait_for(lambda number=number: f"model@{number}" in seen)
        stop.set()
        for caller in callers:
            caller.join()
        assert wrong == []
        assert len(engines) >= 2


def test_versions_trained_on_other_columns(tmp_path):
    """The same columns in another order share an engine; other columns get one of their own."""
    lightgbm = pytest.importorskip("lightgbm")
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({name: rng.normal(size=400) for name in ("amount", "age", "hour", "weekday")})
    label = rows["amount"] + 3.0 * rows["hour"]
    made = ModelRegistry(tmp_path / "registry", code=False)
    trained = []
    for columns in (["amount", "age", "hour"], ["hour", "amount", "age"], ["hour", "weekday", "amount"]):
        trained.append(lightgbm.LGBMRegressor(n_estimators=5, verbose=-1).fit(rows[columns], label))
        path = tmp_path / f"{len(trained)}.txt"
        trained[-1].booster_.save_model(path)
        made.register(path, name="model", policy={"deadline_ms": 60_000.0})
    made.promote("model", 1)
    with open_service("model@production", registry=made, poll_ms=None) as service:
        first = service.engine
        for number, model in enumerate(trained, 1):
            made.promote("model", number)
            service.follow()
            assert service.version == f"model@{number}"
            found = service.predict_many(rows[:5]).values
            np.testing.assert_allclose(found, model.predict(rows[:5][list(model.feature_name_)]), rtol=1e-6)
            assert service.predict(rows.iloc[0]).value == found[0]
            assert (service.engine is first) is (number < 3)
