"""The monitor of one model: it is shown every answer, or logged to, and says when something is no longer as it was."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine._common.vocabulary import REASONS, SOURCES
from engine.errors import ClosedError, MonitorError
from engine.monitor._background import watch
from engine.monitor._learning import Learning
from engine.monitor._optional import need
from engine.monitor._sketch import Sketch
from engine.monitor._tallies import Tallies
from engine.monitor.alerts import Alert, Alerts, Handler
from engine.monitor.counters import BusinessCounter
from engine.monitor.drift.budgets import Budgets
from engine.monitor.drift.detector import DriftDetector
from engine.monitor.drift.distribution import Distribution, as_outputs
from engine.monitor.drift.open_alerts import Lasting
from engine.monitor.outcomes import Outcomes, checked
from engine.monitor.reference import Reference

FEATURES_MAX = 256


class ModelMonitor:
    """Watches a model's inputs, outputs, latency, fallbacks and outcomes. Thread-safe.

    Handed to an engine (`Engine(…, monitor=m)`) it is shown every answer; on its own it takes `log_prediction`. Answers
    are counted by a native thread; a daemon thread tests the counts a few times a second and calls the handlers.
    After a fork the child's calls raise ClosedError, but for `close`; make another monitor there.

    Attributes:
        input_distribution, output_distribution: `update(rows)`, `drift_detected()`, `drifted`, `columns()`.
        reference: Reference or None, while it is being learned.
    """

    def __init__(
        self,
        reference: Reference | str | bytes | Mapping[str, Any] | None = None,
        *,
        handlers: Iterable[Handler] | None = None,
        learn_rows: int = 5000,
        n_features: int | None = None,
        n_outputs: int | None = None,
        window_rows: int = 1000,
        block_rows: int = 50,
        false_alarms_per_100k: float = 1.0,
        fallback_share_max: float = 0.05,
        late_share_max: float = 0.01,
        error_share_max: float = 0.01,
        ring_rows: int = 16384,
        answers_max: int = 131072,
        outcomes_rolling: int = 2000,
        shadow_tolerance: float = 0.01,
        decision_threshold: float = 0.5,
        background: bool = True,
    ) -> None:
        """Args:
        reference: what to compare with, or its JSON. Without one the first `learn_rows` rows become it.
        handlers: called once with each Alert when it begins; default: the logger "engine.monitor".
        n_features, n_outputs: widths, where there is no reference to tell; at most 256 features and 1 output without.
        window_rows: rows of a window that is tested as a whole.
        false_alarms_per_100k: false drift alerts in 100,000 rows that are acceptable, over all columns together.
        fallback_share_max, late_share_max, error_share_max: budgets as shares of the answers; 1 for none.
        ring_rows: answers that may wait to be counted; more are dropped and counted as dropped.
        answers_max: answers remembered for `outcome`.
        outcomes_rolling: labels in the rolling figures of each version and source.
        shadow_tolerance, decision_threshold: when a shadow's output agrees with the live one.
        background: False for no thread of Python's: tests are made by `check` and `drift_detected` alone.

        Raises:
            MonitorError: a reference that cannot be used, a number out of range.
            MissingDependencyError: SciPy is not installed.
        """
        need("scipy", "a monitor")
        if reference is not None and not isinstance(reference, Reference):
            reference = Reference.from_json(reference)
        for name, given in (
            ("learn_rows", learn_rows), ("window_rows", window_rows), ("block_rows", block_rows),
            ("ring_rows", ring_rows), ("answers_max", answers_max), ("outcomes_rolling", outcomes_rolling),
        ):  # fmt: skip
            _check_count(name, given)
        if not 0.0 < false_alarms_per_100k < 1000.0:
            raise MonitorError(
                f"false_alarms_per_100k must be over 0 and under 1,000, got {false_alarms_per_100k}"
            )
        self.reference: Reference | None = None
        self._window_rows, self._false_alarms = window_rows, false_alarms_per_100k
        widths = (n_features or FEATURES_MAX, n_outputs or 1)
        if reference is not None:
            widths = (len(reference.features), max(len(reference.outputs), n_outputs or 1))
        self._sketch = Sketch(
            features_max=max(widths[0], 1),
            outputs_max=widths[1],
            ring_rows=ring_rows,
            block_rows=block_rows,
            answers_max=answers_max,
            sample_rows=0 if reference is not None else learn_rows,
            shadow_tolerance=shadow_tolerance,
            decision_threshold=decision_threshold,
        )
        self._finalizer = weakref.finalize(self, self._sketch.close)
        self._lock = threading.RLock()
        self._alerts = Alerts(handlers)
        self._lasting = Lasting(self._alerts)
        self._tallies = Tallies()
        self._budgets = Budgets(
            fallback_share_max, late_share_max, error_share_max, false_alarms_per_100k / 100_000
        )
        self._outcomes = Outcomes(outcomes_rolling)
        self._counters: dict[str, BusinessCounter] = {}
        self._learning = Learning(learn_rows)
        self._ids = itertools.count(secrets.randbits(62))
        self._deployments: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self.input_distribution = Distribution("input_drift", "warning", self._update_inputs, self.check)
        self.output_distribution = Distribution("output_drift", "critical", self._update_outputs, self.check)
        if reference is not None:
            self.set_reference(reference)
        self._thread = watch(self, self._sketch) if background else None

    # Answers in.

    @property
    def observer(self) -> Any:
        """The capsule of csrc/include/engine/observer.h through which an engine shows its answers."""
        return self._sketch.observer

    def log_prediction(
        self,
        input_features: Mapping[str, Any] | Sequence[Any] | np.ndarray,
        prediction: Any,
        latency_ms: float,
        *,
        version: str = "",
        source: str = "primary",
        reason: str = "ok",
        deadline_ms: float | None = None,
    ) -> int:
        """Logs one prediction that no engine made; returns the id that `outcome` takes.

        Args:
            input_features: a mapping by name, or values in the reference's order; None is missing.
            prediction: a number, or n_outputs of them.
            latency_ms: how long it took, at least 0; `deadline_ms` how long it had.
            version, source, reason: as in `engine.Answer`.

        Raises:
            MonitorError: a row of another width than the reference's, a latency below 0, an unknown source.
        """
        self._check_process()
        values = as_outputs(prediction)
        if values.size > self._sketch.outputs_max or (values.shape[0] != 1 and values.shape[1] != 1):
            raise MonitorError(
                f"expected at most {self._sketch.outputs_max} outputs, got shape {list(np.shape(prediction))}"
            )
        latency = checked("latency_ms", latency_ms)
        if latency < 0.0:
            raise MonitorError(f"latency_ms must be at least 0, got {latency}")
        row = None
        with self._lock:
            if self.reference is not None:
                row = self.reference.row(input_features)
            else:
                self._learning.add(input_features, values.ravel())
                self._learn()
        now = time.monotonic_ns()
        started = now - int(latency * 1e6)
        answer: dict[str, Any] = {
            "deployment": self._deployment(version),
            "started_ns": started,
            "ready_ns": now,
            "deadline_ns": started + int(checked("deadline_ms", deadline_ms) * 1e6)
            if deadline_ms is not None
            else 0,
            "row": row,
            "values": values.ravel(),
            "source": _code("source", source, SOURCES),
            "reason": _code("reason", reason, REASONS),
        }
        number = next(self._ids)
        if not self._sketch.push(number, **answer):
            # Nobody waits for this call, so it makes room itself; only after close() does that not help.
            self._sketch.drain(False)
            self._sketch.push(number, **answer)
        return number

    def outcome(
        self, answer_id: int, label: float, value: float | None = None, *, strict: bool = False
    ) -> str:
        """Joins what really happened to an answer: "joined", or "unknown" or "repeated", which are counted.

        Args:
            answer_id: `Answer.id`, or what `log_prediction` returned; the latest `answers_max` are known.
            label: the truth: 0 or 1, a class, or a number.
            value: what the answer was worth, in any unit.
            strict: raise instead of returning anything but "joined".

        Raises:
            MonitorError: a label or value that is no finite number; with `strict`, an id that is unknown or repeated.
        """
        truth = checked("label", label)
        worth = None if value is None else checked("value", value)
        if isinstance(answer_id, bool) or not isinstance(answer_id, (int, np.integer)):
            raise MonitorError(f"answer_id must be an int, as in Answer.id, got {answer_id!r}")
        found = self._sketch.find(int(answer_id)) if 0 <= answer_id < 1 << 64 else None
        with self._lock:
            if found is None:
                return self._not_joined("unknown", answer_id, strict)
            if not self._sketch.label(int(answer_id)):
                return self._not_joined("repeated", answer_id, strict)
            deployment, _, source, _, _, outputs = found
            outputs = outputs[np.isfinite(outputs)] if len(outputs) > 1 else outputs
            version = self._names_of([deployment]).get(deployment, str(deployment) if deployment else "")
            self._outcomes.add(version, source, outputs if len(outputs) else np.array([np.nan]), truth, worth)
        return "joined"

    def _not_joined(self, status: str, answer_id: int, strict: bool) -> str:
        self._outcomes.counts[status] += 1
        if strict:
            why = {
                "unknown": "it was never seen here, or so many answers came since that it is forgotten",
                "repeated": "its label was given before",
            }
            raise MonitorError(f"outcome of answer {answer_id}: {status}: {why[status]}")
        return status

    def counter(self, name: str, description: str = "") -> BusinessCounter:
        """A counter of your own, shown among the metrics: `monitor.counter("bookings").inc(2)`. The same one for the
        same name."""
        with self._lock:
            if name not in self._counters:
                self._counters[name] = BusinessCounter(name, description)
            return self._counters[name]

    # Reference.

    def set_reference(self, reference: Reference | str | bytes | Mapping[str, Any]) -> None:
        """Compares with another reference from now on; changes that lasted against the old one end.

        Raises:
            MonitorError: a reference of another width than the rows are.
        """
        self._check_process()
        if not isinstance(reference, Reference):
            reference = Reference.from_json(reference)
        n_features, width = len(reference.features), self._sketch.n_features
        if width and n_features != width:
            raise MonitorError(
                f"the reference has {n_features} features, expected {width} as the rows have that this monitor sees; "
                f"make another monitor for a model of another width"
            )
        for what, got, most in (
            ("features", n_features, self._sketch.features_max),
            ("outputs", len(reference.outputs), self._sketch.outputs_max),
        ):
            if got > most:
                raise MonitorError(
                    f"the reference has {got} {what}, expected at most {most}, as the monitor was made for"
                )
        # What was counted against the old reference is tested against it.
        self._sketch.drain(True)
        self._take()
        with self._lock:
            columns = (*reference.features, *reference.outputs)
            self._sketch.set_layout(
                [(c.bins.cuts, c.bins.bin_of, c.bins.n_bins) for c in columns], n_features
            )
            bins_max = max((column.bins.n_bins for column in columns), default=1)
            parts = slice(0, n_features), slice(n_features, len(columns))
            self._lasting.end_drift()
            # Both sides share what is acceptable, by their columns.
            for side, part in zip((self.input_distribution, self.output_distribution), parts, strict=True):
                chance = self._false_alarms * len(columns[part]) / max(len(columns), 1)
                detector = None
                if columns[part]:
                    detector = DriftDetector(
                        columns[part], bins_max, rows_window=self._window_rows, false_alarms_per_100k=chance
                    )
                side.restart(detector, part)
            self.reference = reference
            self._learning.stop()

    def _learn(self) -> None:
        if self.reference is None and (reference := self._learning.reference(self._sketch)) is not None:
            self.set_reference(reference)

    def _update_inputs(self, rows: Any) -> None:
        self._check_process()
        with self._lock:
            if self.reference is None:
                self._learning.add_inputs(rows)
                self._learn()
                return
            matrix = self.reference.matrix(rows)
        self._sketch.fold_features(matrix)
        self._take()

    def _update_outputs(self, rows: Any) -> None:
        self._check_process()
        matrix = as_outputs(rows)
        with self._lock:
            if self.reference is None:
                self._learning.add_outputs(matrix)
                self._learn()
                return
            expected = len(self.reference.outputs)
        if expected == 0:
            raise MonitorError("the reference has no outputs; fit it with outputs=")
        if matrix.shape[1] != expected:
            if matrix.shape != (expected, 1):
                raise MonitorError(f"expected {expected} outputs a row, got {matrix.shape[1]}")
            matrix = matrix.reshape(1, expected)
        self._sketch.fold_outputs(matrix)
        self._take()

    # Tests and alerts.

    def check(self) -> tuple[Alert, ...]:
        """Tests all that has been counted up to now; the alerts that last. Handlers run on this thread."""
        self._sketch.drain(True)
        self._take()
        with self._lock:
            self._learn()
            return self._lasting.alerts()

    def _take(self) -> None:
        with self._lock:
            begun = self._take_blocks()
        # Handlers run without the lock: one may ask for a report.
        for alert in begun:
            self._alerts.tell(alert)

    def _take_blocks(self) -> list[Alert]:
        begun: list[Alert] = []
        while (block := self._sketch.take()) is not None:
            reasons = self._tallies.observe(block, self._names_of(block["deployments"].tolist()))
            for side in (self.input_distribution, self.output_distribution):
                for episode in side.observe(block):
                    begun += self._lasting.drift(side.kind, side.severity, episode)
            for spent in self._budgets.observe(reasons, int(block["late"].sum())):
                begun += self._lasting.budget(spent)
        return begun

    def alert(self, message: str, severity: str = "warning") -> Alert:
        """Raises an alert of your own: it is kept, and the handlers are called. They never raise here.

        Raises:
            MonitorError: a severity other than "info", "warning" and "critical".
        """
        made = self._alerts.add(message, severity)
        self._alerts.tell(made)
        return made

    @property
    def alerts(self) -> list[Alert]:
        """The latest 1,000, oldest first, those that ended too."""
        return self._alerts.all()

    def on_alert(self, handler: Handler) -> None:
        """Adds a handler, called once with each Alert when it begins, on whichever thread found it."""
        if not callable(handler):
            raise MonitorError(f"an alert handler must be callable, got {type(handler).__name__}")
        self._alerts.handlers.append(handler)

    # What is known.

    def to_json(self) -> dict[str, Any]:
        """Everything in plain values: alerts, columns, answers by version, outcomes, shadows, latency, counters."""
        from engine.monitor.report.summary import summary

        self.check()
        with self._lock:
            return summary(self)

    def metrics_text(self) -> str:
        """The metrics as Prometheus text. Raises MissingDependencyError without prometheus-client."""
        from engine.monitor.metrics import text

        return text(self.to_json())

    def report(self, path: str | Path = "report.html") -> Path:
        """Writes one HTML file that needs nothing else, pictures included, and returns its path.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        from engine.monitor.report.page import collect, write

        self.check()
        with self._lock:
            contents = collect(self)
        return write(contents, Path(path))

    def close(self) -> None:
        """Counts what is still on its way, tests it a last time and ends the threads. Always returns; again is nothing.
        What was found stays readable. In a child of fork() it does nothing."""
        if not self._sketch.alive:
            self._finalizer.detach()
            return
        self._finalizer()
        try:
            self._take()
        except ClosedError:
            return
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            # A handler of the user's may hang in it; it is a daemon.
            thread.join(timeout=2.0)

    def __enter__(self) -> ModelMonitor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check_process(self) -> None:
        """Before any lock is taken: in a child of fork() the parent's thread may hold it for ever."""
        if not self._sketch.alive:
            raise ClosedError("this monitor belongs to the parent process; make one in the child")

    def _names_of(self, deployments: list[int]) -> dict[int, str]:
        """The names of deployments, with these in it where they were announced; 0 is none."""
        if any(number and number not in self._names for number in deployments):
            self._names = self._sketch.versions()
        return self._names

    def _deployment(self, version: str) -> int:
        if not version:
            return 0
        if version not in self._deployments:
            with self._lock:
                # Far from the numbers that an engine counts up.
                number = self._deployments.setdefault(version, (1 << 62) + len(self._deployments))
                self._sketch.deployed(number, version)
        return self._deployments[version]


def _check_count(name: str, given: Any) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= 1 << 30:
        raise MonitorError(f"{name} must be an int from 1 to 2**30, got {given!r}")


def _code(what: str, given: str, known: tuple[str, ...]) -> int:
    try:
        return known.index(given)
    except ValueError:
        raise MonitorError(f"{what} must be one of {', '.join(known)}, got {given!r}") from None
