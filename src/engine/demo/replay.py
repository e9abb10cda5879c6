"""July replayed under load: flights in order of departure, a bad version late in the month, and its rollback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import engine
from engine.demo.clock import Clock, ReplayedStore
from engine.demo.events import LEARNED, Events
from engine.demo.materializer import Materializer
from engine.demo.report import AGAIN
from engine.demo.size import Size
from engine.feature_store import FeatureStore
from engine.loadgen import drive, load
from engine.monitor import Alert, ModelMonitor, Reference
from engine.registry import ModelRegistry, Version
from engine.rollout import Probation, Service

NAME = "flight-delay"
RATE_PER_S = 800.0
GRACE_S = 5.0
ALERTS_SHOWN = 12

Say = Callable[[str], None]


@dataclass
class Replayed:
    """The result of a replay.

    Attributes:
        figures: of the load generator.
        alerts: of the monitor.
        events: of the service, as plain JSON.
        outcomes: the monitor's figures of labels.
        versions: answers by version.
        materialised: rows that entered the online store meanwhile.
        missing: features that were missing from online reads.
    """

    figures: dict[str, Any]
    alerts: list[Alert]
    events: list[dict[str, Any]]
    outcomes: dict[str, Any]
    versions: dict[str, int]
    materialised: int
    missing: int


class Replay:
    """The flights of July, to be served once.

    Args:
        folder: of the demo, with the folders data and online.
        made: the events of the year.
        bad: the version to promote after two thirds of the flights.
        size: how many flights, and their deadline.
        seed: of the arrivals.
        say: prints a line.
    """

    def __init__(self, folder: Path, made: Events, bad: Version, *, size: Size, seed: int, say: Say) -> None:
        self.folder, self.views, self.bad = folder, made.views, bad
        self.size, self.seed, self.say = size, seed, say
        flights = made.flights
        july = flights[(flights["departs"] >= LEARNED) & (flights["departs"] < LEARNED + timedelta(days=31))]
        july = july.iloc[: size.flights]
        self.records: list[dict[str, Any]] = july.drop(columns=["departs", "late"]).to_dict("records")
        self.late: npt.NDArray[np.int64] = july["late"].to_numpy()
        self.departs = [moment.to_pydatetime().astimezone(UTC) for moment in july["departs"]]
        self.clock = Clock()
        self._alerts_said = 0

    def run(self, store: FeatureStore, registry: ModelRegistry, january: Reference) -> Replayed:
        """Serve the flights from the registry's production version, watched by a monitor. Write report.html."""
        with (
            ModelMonitor(handlers=[self._heard]) as monitor,
            engine.open(
                f"{NAME}@production",
                registry=registry,
                store=ReplayedStore(store, self.clock),
                views=self.views,
                monitor=monitor,
                probation=Probation(failures_min=self.size.failures_min),
            ) as service,
        ):
            monitor.set_reference(january)
            seconds = len(self.records) / RATE_PER_S
            self.say(
                f"replaying {len(self.records):,} flights of July at {RATE_PER_S:,.0f} a second, {seconds:.0f} s"
            )
            materializer = Materializer(self.folder, self.clock)
            replayed = asyncio.run(self._serve(service, registry, monitor))
            replayed.materialised = materializer.stop()
            monitor.check()
            monitor.report(self.folder / "report.html")
            replayed.alerts = monitor.alerts
            replayed.events = service.status()["events"]
            replayed.outcomes = monitor.to_json()["outcomes"]
            self._summarise(replayed, service)
        return replayed

    def _heard(self, alert: Alert) -> None:
        self._alerts_said += 1
        if self._alerts_said <= ALERTS_SHOWN:
            self.say(f"{alert.severity} alert: {alert.message}")

    async def _serve(self, service: Service, registry: ModelRegistry, monitor: ModelMonitor) -> Replayed:
        schedule = load.poisson(RATE_PER_S, len(self.records) / RATE_PER_S, self.seed)
        count = min(len(schedule), len(self.records))
        schedule = load.Schedule(schedule.due_ns[:count], schedule.seconds)
        versions: dict[str, int] = {}
        missing = 0
        promoted: asyncio.Task[Any] | None = None

        async def submit(start: int, stop: int, deadlines_ns: Any) -> Any:
            nonlocal promoted, missing
            self.clock.set(self.departs[start])
            if promoted is None and start >= count * 2 // 3:
                self.say(f"promoting {self.bad}, which answers NaN to the shortest flights")
                promoted = asyncio.create_task(
                    asyncio.to_thread(registry.promote, NAME, self.bad, note="cheaper and almost as good")
                )
            answers = await service.predict_many_async(self.records[start:stop], deadline_ns=deadlines_ns)
            for answer_id, label in zip(answers.ids.tolist(), self.late[start:stop].tolist(), strict=True):
                monitor.outcome(answer_id, label)
            versions[answers.version] = versions.get(answers.version, 0) + len(answers)
            missing += sum(map(len, answers.missing_features))
            return answers

        done = await drive.drive_async_many(submit, schedule, deadline_ms=self.size.deadline_ms)
        give_up = time.monotonic() + GRACE_S
        while service.version == str(self.bad) and time.monotonic() < give_up:
            await asyncio.sleep(0.05)
        return Replayed(done.summary(), [], [], {}, versions, 0, missing)

    def _summarise(self, replayed: Replayed, service: Service) -> None:
        figures = replayed.figures
        if "void" in figures:
            self.say(f"the replay is void: {figures['void']}; {AGAIN}")
        else:
            sources = ", ".join(
                f"{share:.2%} {source}" for source, share in figures["sources"].items() if share
            )
            self.say(
                f"answered in time {figures['on_time']:.2%}: {sources}; p99 {figures['latency_us_p99']:.0f} us"
            )
        answered = replayed.versions.get(str(self.bad), 0)
        rollback = next(
            (event["message"] for event in replayed.events if event["kind"] == "rolled_back"),
            "not rolled back",
        )
        self.say(f"{self.bad} answered {answered:,} flights; {service.version} serves: {rollback}")
        kinds = sorted({alert.kind for alert in replayed.alerts})
        self.say(f"{len(replayed.alerts)} alerts ({', '.join(kinds) or 'none'}); report.html shows them")
