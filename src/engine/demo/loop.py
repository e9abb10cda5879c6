"""The whole loop on the same flights: features, training, registry, serving, drift, a bad version and the way back.

January to June is materialised, learned from and registered; July is replayed in the flights' own order under load,
its events coming into the store as they come to pass. Later a version is promoted whose author took a logarithm that
some flights have none for: it passes its golden rows, fails on live ones, and is rolled back by the service itself.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import engine
from engine.demo import events as flight_events
from engine.demo.events import BEGIN, LEARNED, Events
from engine.feature_store import DatasetConfig, DuckDBOffline, FeatureStore, LMDBOnline
from engine.loadgen import drive, load
from engine.monitor import Alert, ModelMonitor, Reference
from engine.registry import Bundle, ModelRegistry, Version
from engine.rollout import Probation, Service
from engine.training import LightGBM, TrainingPipeline, TrainingRun

NAME = "flight-delay"
DEADLINE_MS = 10.0
RATE_PER_S = 800.0
GRACE_S = 5.0

Say = Callable[[str], None]


class Clock:
    """The replay's own time: the instant of the flight that is being asked about. Two processes read it."""

    def __init__(self) -> None:
        self.shared = multiprocessing.get_context("spawn").Value("d", LEARNED.timestamp())

    def set(self, at: datetime) -> None:
        self.shared.value = at.timestamp()

    def now_ns(self) -> int:
        return int(self.shared.value * 1e9)


class ReplayedStore:
    """The store as of the replay's time: whoever opens online features of it goes by that clock."""

    def __init__(self, store: FeatureStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def online_features(self, program: Any, views: Any) -> Any:
        return self._store.online_features(program, views, now_ns=self._clock.now_ns)


class Materializer:
    """Brings what has come to pass by the replay's clock into the online store, in a process of its own: the work is
    Python's too, and would keep the interpreter from the answers."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop, self._rows = context.Event(), context.Value("q", 0)
        self._process = context.Process(
            target=_follow, args=(folder, clock.shared, self._stop, self._rows), daemon=True
        )
        self._process.start()

    def stop(self) -> int:
        """Ends it; how many rows it has written."""
        self._stop.set()
        self._process.join()
        return self._rows.value


def _follow(folder: Path, clock: Any, stop: Any, rows: Any) -> None:
    # It has an hour's time, the answers have milliseconds. To be nice is not enough: the slice it has begun goes on.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    store = FeatureStore(DuckDBOffline(), LMDBOnline(folder / "online"))
    views = flight_events.views_on(folder / "data")
    done = LEARNED
    while not stop.wait(0.01):
        until = datetime.fromtimestamp(clock.value, UTC).replace(minute=0, second=0, microsecond=0)
        if until > done:
            rows.value += sum(store.materialize(view, done, until).written for view in views)
            done = until


@dataclass
class Replay:
    """What was served of July, and what became of it."""

    figures: dict[str, Any]
    alerts: list[Alert]
    events: list[dict[str, Any]]
    outcomes: dict[str, Any]
    versions: dict[str, int]
    materialised: int
    missing: int


def run(folder: Path, *, quick: bool, seed: int, say: Say) -> dict[str, Any]:
    """Runs the loop and writes loop.json and report.html into `folder`. Returns what loop.json holds."""
    for name in (
        "online",
        "registry",
        "data",
    ):  # of an earlier run: its July would be newer than this one's June
        shutil.rmtree(folder / name, ignore_errors=True)
    made = flight_events.write(folder / "data")
    store = FeatureStore(DuckDBOffline(), LMDBOnline(folder / "online"))
    started = time.monotonic()
    written = {view.name: store.materialize(view, BEGIN, LEARNED).written for view in made.views}
    say(
        f"materialised January to June: {', '.join(f'{rows} rows of {view}' for view, rows in written.items())} in "
        f"{time.monotonic() - started:.1f} s"
    )
    registry = ModelRegistry(folder / "registry")
    trained = _train(store, registry, made, quick, say)
    january = _january(store, made, registry.resolve(str(trained.version)))
    registry.promote(NAME, trained.version, note="trained on January to June")
    bad = _register_bad(registry, trained.version, made, 0.05 if quick else 0.01)
    replay = _replay(store, registry, made, bad, january, folder, quick, seed, say)
    told = {
        "materialised": written,
        "version": str(trained.version),
        "metrics": trained.metrics,
        "fallback": trained.fallback,
        "bad_version": str(bad),
        "replay": replay.figures,
        "versions": replay.versions,
        "rows_materialised_meanwhile": replay.materialised,
        "missing_features": replay.missing,
        "alerts": [alert.to_json() for alert in replay.alerts],
        "events": replay.events,
        "outcomes": replay.outcomes,
    }
    (folder / "loop.json").write_text(json.dumps(told, indent=1, default=str) + "\n")
    return told


def _train(store: FeatureStore, registry: ModelRegistry, made: Events, quick: bool, say: Say) -> TrainingRun:
    config = DatasetConfig(made.labels, made.views, label="late", end_time=LEARNED)
    learner = LightGBM(40 if quick else 150, num_leaves=15 if quick else 63, learning_rate=0.1)
    pipeline = TrainingPipeline(
        store,
        registry,
        learner=learner,
        spec=made.spec,
        name=NAME,
        # Through the batch lane, where any later version can take its place, whatever it is made of.
        policy={"deadline_ms": _deadline_ms(quick), "lane": "batch"},
    )
    started = time.monotonic()
    trained = pipeline.train(config)
    fallback = f"; fallback of {trained.fallback['trees']} trees" if trained.fallback else ""
    say(
        f"trained {trained.version} in {time.monotonic() - started:.0f} s: AUC {trained.metrics['auc']:.3f} on June's "
        f"flights{fallback}"
    )
    return trained


def _january(store: FeatureStore, made: Events, bundle: Bundle) -> Reference:
    """What July is compared with. All of what was learned from spans two seasons, and takes July's warmth for usual."""
    config = DatasetConfig(made.labels, made.views, end_time=BEGIN + timedelta(days=31))
    program = bundle.program()
    assert program is not None, "the pipeline registers one"
    rows = program.batch(store.get_training_features(config))
    return Reference.fit(rows, names=program.output_names, outputs=bundle.primary().predict(rows))


def _deadline_ms(quick: bool) -> float:
    """A second where nothing is measured: who answers then does not depend on how busy the machine is."""
    return 1_000.0 if quick else DEADLINE_MS


def _register_bad(registry: ModelRegistry, good: Version, made: Events, share: float) -> Version:
    """The good version with another primary: the logarithm of the miles beyond those of the shortest flights, of which
    there is none for this share of them."""
    bundle = registry.resolve(str(good))
    program, golden = bundle.program(), bundle.golden
    assert program is not None, "the pipeline registers one"
    assert golden is not None, "the pipeline registers some"
    column = program.output_names.index("distance")
    rows = np.asarray(golden.rows)
    shortest = float(np.quantile(made.flights["distance"], share))
    return registry.register(
        _logarithm(rows.shape[1], column, shortest),
        name=NAME,
        fallback=bundle.content("fallback"),
        default=bundle.default,
        program=program,
        golden=rows[rows[:, column] > shortest + 1.0],
        reference=bundle.reference,
        policy=bundle.policy,
        note="a simpler model, by the logarithm of the distance",
    )


def _logarithm(n_features: int, column: int, shortest: float) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    def constant(name: str, value: Any, dtype: Any) -> Any:
        return numpy_helper.from_array(np.array(value, dtype=dtype), name)

    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["x", "column"], ["miles"], axis=1),
            helper.make_node("Sub", ["miles", "shortest"], ["beyond"]),
            helper.make_node("Log", ["beyond"], ["logarithm"]),
            helper.make_node("Mul", ["logarithm", "slope"], ["y"]),
        ],
        "logarithm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", n_features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])],
        [
            constant("column", [column], np.int64),
            constant("shortest", shortest, np.float32),
            constant("slope", 0.03, np.float32),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def _replay(
    store: FeatureStore,
    registry: ModelRegistry,
    made: Events,
    bad: Version,
    january: Reference,
    folder: Path,
    quick: bool,
    seed: int,
    say: Say,
) -> Replay:
    july = made.flights[
        (made.flights["departs"] >= LEARNED) & (made.flights["departs"] < LEARNED + timedelta(days=31))
    ]
    july = july.iloc[: 2400 if quick else None]
    clock = Clock()
    said: list[str] = []

    def heard(alert: Alert) -> None:
        if len(said) < 12:
            say(f"{alert.severity} alert: {alert.message}")
        said.append(alert.message)

    with (
        ModelMonitor(handlers=[heard]) as monitor,
        engine.open(
            f"{NAME}@production",
            registry=registry,
            store=ReplayedStore(store, clock),
            views=made.views,
            monitor=monitor,
            probation=Probation(failures_min=5 if quick else 10),
        ) as service,
    ):
        monitor.set_reference(january)
        seconds = len(july) / RATE_PER_S
        say(f"replaying {len(july):,} flights of July at {RATE_PER_S:,.0f} a second, {seconds:.0f} s")
        materializer = Materializer(folder, clock)
        replay = asyncio.run(_serve(service, registry, monitor, july, clock, bad, quick, seed, say))
        replay.materialised = materializer.stop()
        monitor.check()
        monitor.report(folder / "report.html")
        replay.alerts = monitor.alerts
        replay.events = service.status()["events"]
        replay.outcomes = monitor.to_json()["outcomes"]
        _tell(replay, service, bad, say)
    return replay


async def _serve(
    service: Service,
    registry: ModelRegistry,
    monitor: ModelMonitor,
    july: Any,
    clock: Clock,
    bad: Version,
    quick: bool,
    seed: int,
    say: Say,
) -> Replay:
    records = july.drop(columns=["departs", "late"]).to_dict("records")
    late: npt.NDArray[np.int64] = july["late"].to_numpy()
    departs = [moment.to_pydatetime().astimezone(UTC) for moment in july["departs"]]
    schedule = load.poisson(RATE_PER_S, len(records) / RATE_PER_S, seed)
    count = min(len(schedule), len(records))
    schedule = load.Schedule(schedule.due_ns[:count], schedule.seconds)
    versions: dict[str, int] = {}
    missing = 0
    promoted: asyncio.Task[Any] | None = None

    async def submit(start: int, stop: int, deadlines_ns: Any) -> Any:
        nonlocal promoted, missing
        clock.set(departs[start])
        if promoted is None and start >= count * 2 // 3:
            say(f"promoting {bad}, which gives no number for the shortest flights")
            promoted = asyncio.create_task(
                asyncio.to_thread(registry.promote, NAME, bad, note="cheaper and almost as good")
            )
        answers = await service.predict_many_async(records[start:stop], deadline_ns=deadlines_ns)
        for answer_id, label in zip(answers.ids.tolist(), late[start:stop].tolist(), strict=True):
            monitor.outcome(answer_id, label)
        versions[answers.version] = versions.get(answers.version, 0) + len(answers)
        missing += sum(map(len, answers.missing_features))
        return answers

    done = await drive.drive_async_many(submit, schedule, deadline_ms=_deadline_ms(quick))
    give_up = time.monotonic() + GRACE_S
    while service.version == str(bad) and time.monotonic() < give_up:
        await asyncio.sleep(0.05)
    return Replay(done.summary(), [], [], {}, versions, 0, missing)


def _tell(replay: Replay, service: Service, bad: Version, say: Say) -> None:
    figures = replay.figures
    if "void" in figures:
        say(f"the replay is void: {figures['void']}")
    else:
        sources = ", ".join(f"{share:.2%} {source}" for source, share in figures["sources"].items() if share)
        say(f"answered in time {figures['on_time']:.2%}: {sources}; p99 {figures['latency_us_p99']:.0f} us")
    served = replay.versions.get(str(bad), 0)
    back = next(
        (event["message"] for event in replay.events if event["kind"] == "rolled_back"), "not rolled back"
    )
    say(f"{bad} answered {served:,} flights; {service.version} serves: {back}")
    drifted = sorted({alert.kind for alert in replay.alerts})
    say(f"{len(replay.alerts)} alerts ({', '.join(drifted) or 'none'}); report.html shows them")
