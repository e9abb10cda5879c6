"""The monitor of one model: it sees every answer, and raises an alert when the model's work changes."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine._common.arguments import finite, number, one_of, whole
from engine._common.optional import need
from engine._common.vocabulary import REASONS, SOURCES
from engine.errors import ClosedError, MonitorError
from engine.monitor import metrics
from engine.monitor._background import watch
from engine.monitor._delivery import Delivery
from engine.monitor._knowledge import DAMAGE, knowledge, remember, take_over
from engine.monitor._learning import Learning
from engine.monitor._merging import Merging
from engine.monitor._sketch import Sketch
from engine.monitor._state import StateFile, digest, state_file
from engine.monitor._tallies import Tallies
from engine.monitor.alerts import Alert, Alerts, Handler, Incident, incidents
from engine.monitor.counters import BusinessCounter
from engine.monitor.drift.budgets import PRIMARY, Budgets
from engine.monitor.drift.detector import DriftDetector
from engine.monitor.drift.distribution import Distribution, as_outputs
from engine.monitor.drift.open_alerts import OpenAlerts
from engine.monitor.drift.pairs import pair_scores
from engine.monitor.outcomes import Outcomes
from engine.monitor.performance import Performance
from engine.monitor.reference import Reference
from engine.monitor.report import page
from engine.monitor.report.summary import Facts, summary

# Widest row of an engine where neither a reference nor `n_features` tells. The first logged row may be wider.
FEATURES_MAX = 256
BLOCKS_MAX = 64
# How often a change of the reference waits for rows to be tested that arrive meanwhile.
LAYOUT_TRIES = 100
COUNT_MAX = 1 << 30
SOURCE_CODES = {name: code for code, name in enumerate(SOURCES)}
REASON_CODES = {name: code for code, name in enumerate(REASONS)}
LOGGER = logging.getLogger("engine.monitor")


class ModelMonitor:
    """Watches a model's inputs, outputs, latency, fallbacks and outcomes. Thread-safe.

    Hand it to an engine (`Engine(…, monitor=monitor)`) and it sees every answer, or call `log_prediction` yourself. A
    native thread counts the answers. A daemon thread tests the counts a few times a second and calls the handlers.

    In a child of fork() every call raises ClosedError, except `close`, which returns. Make another monitor there.

    Attributes:
        input_distribution: Distribution of the rows. Its alerts are warnings.
        output_distribution: Distribution of the primary's outputs. Its alerts are critical.
        reference: Reference that rows are compared with; None while it is being learned.
        name: str, as given.
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
        name: str = "",
        state: str | Path | None = None,
        shared: str | Path | None = None,
    ) -> None:
        """Args:
        reference: what rows are compared with: a Reference, or its JSON. Where None, the first `learn_rows` rows become
            the reference.
        handlers: callables, called with each Alert when it begins, as by `on_alert`. None for the logger
            "engine.monitor".
        learn_rows: rows that become the reference, at least 100 of them.
        n_features, n_outputs: widths where there is no reference. Where None, the first logged row tells. Rows of an
            engine then have at most 256 features and 1 output.
        window_rows: rows of a window, which is tested as a whole.
        block_rows: rows that are tested together. The same rows raise the same alerts, however they came and whenever
            `check` is called, because each block is tested when its last row came.
        false_alarms_per_100k: acceptable false drift alerts in 100,000 rows, over all columns together: above 0, at
            most 1,000.
        fallback_share_max, late_share_max, error_share_max: budgets as shares of the answers: above 0, at most 1; 1 is
            no budget.
        ring_rows: answers that may wait to be counted, rounded up to a power of two. Further ones are dropped and
            counted.
        answers_max: answers remembered for `outcome`; the oldest is forgotten first.
        outcomes_rolling: labels in the rolling figures of each version and source.
        shadow_tolerance: largest difference at which a shadow's first output agrees with the live one.
        decision_threshold: outputs on the same side of it are the same decision.
        background: False for no thread of Python's. Handlers are then called by `check`, `drift_detected`, `update`,
            `alert` and `close` alone.
        name: of the model; the label "model" of all metrics. Empty for none.
        state: file that keeps what the monitor knows, so that a process that starts again goes on: rows, evidence, open
            alerts, answers that wait for labels, figures of outcomes, counters, and a reference that was learned. It is
            read here, and written once a minute by `check` or the background thread, and by `close` and `save`. One
            process a file. A damaged file is logged, put aside as "….damaged", and the monitor starts anew. Where None
            and `shared` is None too, the environment variable ENGINE_MONITOR_STATE may name a folder that keeps it.
        shared: folder, or address of a Redis server ("redis://host:port/0"), in which the monitors of several processes
            of one service merge. All of them then know what one process would that saw all rows: rows, evidence,
            alerts, answers that wait for labels, outcomes. One of them calls the handlers. A process that starts goes
            on from what the others, or those before it, knew. Monitors of one name share; use a folder for each model.

        Raises:
            MonitorError: a reference that cannot be used, or a number out of range; `state` and `shared` together; a
                folder that cannot be made.
            MissingDependencyError: SciPy is not installed, or redis where `shared` names a server.
        """
        need("scipy", "a monitor", "monitor")
        self.name = str(name)
        if reference is not None and not isinstance(reference, Reference):
            reference = Reference.from_json(reference)
        for option, given in (
            ("learn_rows", learn_rows), ("window_rows", window_rows), ("block_rows", block_rows),
            ("ring_rows", ring_rows), ("answers_max", answers_max), ("outcomes_rolling", outcomes_rolling),
        ):  # fmt: skip
            whole(option, given, 1, COUNT_MAX, error=MonitorError)
        self._false_alarms = number(
            "false_alarms_per_100k", false_alarms_per_100k, 0.0, 1000.0, above=True, error=MonitorError
        )
        self.reference: Reference | None = None
        self._reference_given = reference is not None
        self._window_rows = window_rows
        self._block_rows = block_rows
        for option, width in (("n_features", n_features), ("n_outputs", n_outputs)):
            if width is not None:
                whole(option, width, 0, COUNT_MAX, error=MonitorError)
        widths = (n_features or FEATURES_MAX, n_outputs or 1)
        if reference is not None:
            widths = (len(reference.features), max(len(reference.outputs), n_outputs or 1))
        self._widths_given = n_features is not None, n_outputs is not None
        self._sketch_options: dict[str, Any] = {
            "features_max": max(widths[0], 1),
            "outputs_max": widths[1],
            "ring_rows": ring_rows,
            "block_rows": block_rows,
            "blocks_max": BLOCKS_MAX,
            "answers_max": answers_max,
            "sample_rows": 0 if reference is not None else learn_rows,
            "shadow_tolerance": shadow_tolerance,
            "decision_threshold": decision_threshold,
        }
        if state is not None and shared is not None:
            raise MonitorError(
                "a shared monitor keeps its state where it is shared; give either state= or shared="
            )
        self._merging = Merging(shared, self.name) if shared is not None else None
        self._digest = ""
        self._test_rounds = 2 + ring_rows // (BLOCKS_MAX * block_rows)
        self._sketch = Sketch(**self._sketch_options)
        self._shown_to_engine = False
        self._finalizer = weakref.finalize(self, self._sketch.close)
        self._lock = threading.RLock()
        self._alerts = Alerts(handlers)
        self._open_alerts = OpenAlerts(self._alerts, window_rows)
        self._begun: list[Alert] = []  # alerts that the handlers have not seen
        self._ended: list[Alert] = []  # the same of ends
        self._delivery = Delivery(self._alerts, apart=background)
        self._tallies = Tallies()
        self._budgets = Budgets(
            fallback_share_max, late_share_max, error_share_max, false_alarms_per_100k / 100_000, block_rows,
            self._merging is not None,
        )  # fmt: skip
        self._outcomes = Outcomes(outcomes_rolling)
        self._performance = Performance(
            false_alarms_per_100k / 100_000, None if reference is None else reference.performance
        )
        self._counters: dict[str, BusinessCounter] = {}
        self._learning = Learning(learn_rows, n_features)
        self._ids = itertools.count(secrets.randbits(62))
        self._deployments: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self.input_distribution = Distribution("input_drift", "warning", self._update_inputs, self.check)
        self.output_distribution = Distribution("output_drift", "critical", self._update_outputs, self.check)
        self._state = StateFile(None) if shared is not None else state_file(state, self.name, reference)
        self._background = False  # no thread until the state is read
        found, learned = self._state.read()
        if reference is None and learned is not None:
            reference = learned
            self._make_room(len(reference.features), len(reference.outputs))
        if reference is not None:
            self._switch(reference)
        if found is not None:
            self._go_on(found)
        if self._merging is not None:
            self._merge()
            if reference is not None:
                self._compare_with(reference)
        self._background = background
        self._thread = watch(self._look, self._sketch) if background else None

    # Answers and labels.

    @property
    def observer(self) -> Any:
        """A capsule of csrc/include/engine/observer.h, through which an engine shows its answers."""
        self._shown_to_engine = True
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
        """Log one prediction that no engine made, and return the id that `outcome` takes.

        Copies its arguments. Where many answers wait to be tested, it tests them.

        Args:
            input_features: a mapping by name, or values in the reference's order. None and NaN are missing.
            prediction: a number, or n_outputs numbers, such as the shares of the classes.
            latency_ms: how long the prediction took, at least 0.
            version: of the model; any text.
            source: "primary", "fallback" or "default", as `Answer.source`.
            reason: as `Answer.reason`.
            deadline_ms: how long the prediction might have taken, counted from its start; None for no deadline.

        Raises:
            MonitorError: a row of another width than the reference's, a value that is no number, a latency below 0, an
                unknown source or reason.
            ClosedError: this is a child of fork().
        """
        self._check_process()
        values = as_outputs(prediction)
        if self.reference is None and 1 in values.shape:
            self._make_room(0, values.size)
        if values.size > self._sketch.outputs_max or (values.shape[0] != 1 and values.shape[1] != 1):
            raise MonitorError(
                f"expected at most {self._sketch.outputs_max} outputs, got shape {list(np.shape(prediction))}"
            )
        latency = finite("latency_ms", latency_ms, error=MonitorError)
        if latency < 0.0:
            raise MonitorError(f"latency_ms must be at least 0, got {latency}")
        budget_ms = None if deadline_ms is None else finite("deadline_ms", deadline_ms, error=MonitorError)
        source_code, reason_code = SOURCE_CODES.get(source), REASON_CODES.get(reason)
        if source_code is None or reason_code is None:
            one_of("source", source, SOURCES, error=MonitorError)
            one_of("reason", reason, REASONS, error=MonitorError)
        now = time.monotonic_ns()
        started = now - int(latency * 1e6)
        answer: dict[str, Any] = {
            "deployment": self._deployment(version),
            "started_ns": started,
            "ready_ns": now,
            "deadline_ns": 0 if budget_ms is None else started + int(budget_ms * 1e6),
            "values": values.ravel(),
            "source": source_code,
            "reason": reason_code,
        }
        with self._lock:
            learns = self.reference is None
            row = None if self.reference is None else self.reference.raw_row(input_features)
            if learns:
                self._learning.add(input_features, values.ravel())
                self._make_room(self._learning.width, values.size)
                # Under the lock, so that no answer is both learned and counted.
                answer_id = self._push(None, answer)
        if not learns:
            answer_id = self._push(row, answer)
        elif not self._background:
            self._learn()
        return answer_id

    def _push(self, row: np.ndarray | None, answer: dict[str, Any]) -> int:
        answer_id = next(self._ids)
        if self._sketch.pressed:
            # No deadline waits for this call, so it tests what waits, and no block grows.
            self._test()
        if not self._sketch.push(answer_id, row=row, **answer):
            # After close() that does not help, and is no error.
            self._test()
            self._sketch.push(answer_id, row=row, **answer)
        return answer_id

    def outcome(
        self,
        answer_id: int,
        label: float | None = None,
        value: float | None = None,
        *,
        strict: bool = False,
    ) -> str:
        """Join what really happened to an answer. Return "joined", "unknown" or "repeated"; all are counted.

        Label and value may come together, or in two calls in any order. "unknown": the answer was never seen, or
        `answers_max` later ones came since. "repeated": all that is given was given before; the first one counts.

        Args:
            answer_id: `Answer.id`, or what `log_prediction` returned.
            label: the truth: 0 or 1, a class, or a number; finite. None where only the value is known.
            value: what the answer was worth, in any unit; finite, or None.
            strict: raise instead of returning "unknown" or "repeated".

        Raises:
            MonitorError: neither a label nor a value, one that is no finite number, an id that is no int; with
                `strict`, an id that is unknown or repeated.
            ClosedError: this is a child of fork().
        """
        if label is None and value is None:
            raise MonitorError("outcome needs a label, a value or both, got neither")
        truth = None if label is None else finite("label", label, error=MonitorError)
        worth = None if value is None else finite("value", value, error=MonitorError)
        if isinstance(answer_id, bool) or not isinstance(answer_id, (int, np.integer)):
            raise MonitorError(f"answer_id must be an int, as in Answer.id, got {answer_id!r}")
        found = self._find(int(answer_id)) if 0 <= answer_id < 1 << 64 else None
        with self._lock:
            if found is None:
                return self._not_joined("unknown", answer_id, strict)
            if truth is not None and not self._sketch.label(int(answer_id)):
                truth = None
            if worth is not None and not self._sketch.value(int(answer_id)):
                worth = None
            if truth is None and worth is None:
                return self._not_joined("repeated", answer_id, strict)
            if self._merging is not None:
                self._merging.add_outcome(int(answer_id), truth, worth)
            else:
                self._begun += self._join(found, truth, worth)
        return "joined"

    def _join(self, found: Any, label: float | None, value: float | None) -> list[Alert]:
        """Add an outcome of a remembered answer, and return the alerts that began with it."""
        deployment, _, source, _, canary, outputs = found
        version = self._names_of([deployment]).get(deployment, str(deployment) if deployment else "")
        self._outcomes.add(version, source, outputs, label, value)
        if label is None or source != PRIMARY or canary:
            return []
        worse = self._performance.add(outputs, label)
        return [] if worse is None else self._open_alerts.performance(worse)

    def _find(self, answer_id: int) -> Any:
        found = self._sketch.find(answer_id)
        if found is None and self._sketch.pressed:
            # The answer may wait in the ring until there is room for its block.
            self._test()
            found = self._sketch.find(answer_id)
        if found is None and self._merging is not None:
            # Another process may have given the answer a moment ago.
            self._merge()
            found = self._sketch.find(answer_id)
        return found

    def _not_joined(self, status: str, answer_id: int, strict: bool) -> str:
        self._outcomes.counts[status] += 1
        if strict:
            why = {
                "unknown": "it was never seen here, or it is forgotten because answers_max later ones came",
                "repeated": "its label was given before",
            }
            raise MonitorError(f"outcome of answer {answer_id}: {status}: {why[status]}")
        return status

    def counter(self, name: str, description: str = "") -> BusinessCounter:
        """Return the counter of that name, and make it at first: `monitor.counter("bookings").inc(2)`.

        Args:
            name: a letter a-z, then up to 62 of a-z, 0-9 and _; the metric is "engine_business_" and this name.
            description: shown beside the metric; the first call's counts.

        Raises:
            MonitorError: a name of other characters.
        """
        with self._lock:
            if name not in self._counters:
                self._counters[name] = BusinessCounter(name, description)
            return self._counters[name]

    # Reference.

    def set_reference(self, reference: Reference | str | bytes | Mapping[str, Any]) -> None:
        """Compare with another reference from now on. What came before is tested against the old one.

        Rows count on. A drift alert goes on until the tests against the new reference no longer see a change; it ends
        now where its column is gone. The same reference again changes nothing.

        Args:
            reference: a Reference, or its JSON.

        Raises:
            MonitorError: no reference, or one of another width than the rows.
            ClosedError: this is a child of fork().
        """
        self._check_process()
        if not isinstance(reference, Reference):
            reference = Reference.from_json(reference)
        self._compare_with(reference)
        self._reference_given = True

    def set_version_reference(self, reference: Reference | str | bytes | Mapping[str, Any]) -> bool:
        """Compare with the reference of a version that was promoted, unless you gave one yourself.

        Return whether rows are compared with it. A service calls this at every promotion. A reference that you gave to
        ModelMonitor or to `set_reference` stays.

        Args:
            reference: a Reference, or its JSON.

        Raises:
            MonitorError, ClosedError: as `set_reference`.
        """
        self._check_process()
        if self._reference_given:
            return False
        if not isinstance(reference, Reference):
            reference = Reference.from_json(reference)
        self._compare_with(reference)
        return True

    def _compare_with(self, reference: Reference, learned: bool = False) -> None:
        """Compare with another reference; all processes of a shared monitor do, at the same place of their log."""
        if self._merging is None:
            self._switch(reference)
            return
        if self.reference is not None and self.reference.to_json() == reference.to_json():
            return
        self._check_fits(reference)
        with self._lock:
            self._merging.add_reference(reference.to_json(), learned)
        self._merge()

    def _check_fits(self, reference: Reference) -> None:
        """Raise MonitorError where a reference is of another width than the rows."""
        n_features, width = len(reference.features), self._sketch.n_features
        if width and n_features != width:
            raise MonitorError(
                f"the reference has {n_features} features, expected {width} as the rows of this monitor have; make "
                f"another monitor for a model of another width"
            )
        self._make_room(n_features, len(reference.outputs))
        for name, got, most in (
            ("features", n_features, self._sketch.features_max),
            ("outputs", len(reference.outputs), self._sketch.outputs_max),
        ):
            if got > most:
                raise MonitorError(
                    f"the reference has {got} {name}, expected at most {most}, the width this monitor was made for"
                )

    def _switch(self, reference: Reference) -> None:
        if self.reference is not None and self.reference.to_json() == reference.to_json():
            return
        self._check_fits(reference)
        n_features = len(reference.features)
        with self._lock:
            columns = (*reference.features, *reference.outputs)
            paired = set() if reference.pairs is None else set(reference.pairs.names)
            layout: list[tuple[Any, ...]] = [
                (c.bins.cuts, c.bins.bin_of, c.bins.n_bins, pair_scores(c) if c.name in paired else None)
                for c in reference.features
            ]
            layout += [(c.bins.cuts, c.bins.bin_of, c.bins.n_bins) for c in reference.outputs]
            # Test earlier rows against the old reference. More may come meanwhile, so try again.
            for left in reversed(range(LAYOUT_TRIES)):
                self._test()
                if self._sketch.set_layout(layout, n_features, left == 0):
                    break
            if self._merging is None:
                self._finish_blocks()
            bins_max = max((column.bins.n_bins for column in columns), default=1)
            parts = slice(0, n_features), slice(n_features, len(columns))
            # Each side gets its part of the acceptable false alarms, by its number of columns.
            for side, part in zip((self.input_distribution, self.output_distribution), parts, strict=True):
                chance = self._false_alarms * len(columns[part]) / max(len(columns), 1)
                detector = None
                if columns[part]:
                    detector = DriftDetector(
                        columns[part],
                        bins_max,
                        rows_window=self._window_rows,
                        rows_block=self._block_rows,
                        false_alarms_per_100k=chance,
                        rows_before=side.rows,
                        merged=self._merging is not None,
                        together=reference.together,
                        pairs=reference.pairs if side is self.input_distribution else None,
                    )
                for episode in side.restart(detector, part):
                    self._open_alerts.drift(side.kind, side.severity, episode)
            self._open_alerts.relate(reference.together)
            self._take_baseline(reference)
            self.reference = reference
            self._digest = digest(reference) if self._merging is not None else ""

    def _take_baseline(self, reference: Reference) -> None:
        """Compare the performance with that of a reference, if it has one."""
        before = None if self.reference is None else self.reference.performance
        if reference.performance is None or reference.performance is before:
            return
        worse = self._performance.restart(reference.performance)
        if worse is not None:
            self._open_alerts.performance(worse)

    def _learn(self) -> None:
        """Make the reference once there are enough rows. Rows that come meanwhile are kept, and counted then."""
        with self._lock:
            fit = self._learning.enough(self._sketch) if self.reference is None else None
        if fit is None:
            return
        reference = fit()
        if reference is not None and self._merging is not None and self.reference is None:
            # The first process that has learned one tells the others.
            self._compare_with(reference, learned=True)
            reference = self.reference
        with self._lock:
            if reference is None or (self.reference is not None and self._merging is None):
                self._learning.forget()
                return
            try:
                self._switch(reference)
            except MonitorError:
                LOGGER.exception("the first rows cannot become the reference")
                self._learning.forget()
                return
            rows, outputs = self._learning.rest(reference)
            self._fold(self._sketch.fold_features, rows)
            if len(outputs) and outputs.shape[1] == len(reference.outputs):
                self._fold(self._sketch.fold_outputs, outputs)

    def _make_room(self, n_features: int, n_outputs: int) -> None:
        """Take wider rows and outputs than the native part was made for, as long as it has seen nothing."""
        options = self._sketch_options
        wanted = {
            "features_max": options["features_max"] if self._widths_given[0] else n_features,
            "outputs_max": options["outputs_max"] if self._widths_given[1] else n_outputs,
        }
        if all(options[key] >= width for key, width in wanted.items()):
            return
        with self._lock:
            if self._shown_to_engine or self._sketch.n_features or self._sketch.totals()["pushed"]:
                return
            options |= {key: max(options[key], width) for key, width in wanted.items()}
            before, self._sketch = self._sketch, Sketch(**options)
            self._finalizer.detach()
            self._finalizer = weakref.finalize(self, self._sketch.close)
            for version, deployment in self._deployments.items():
                self._sketch.deployed(deployment, version)
            if self._background:
                self._thread = watch(self._look, self._sketch)
        # Ends its threads.
        before.close()

    def _update_inputs(self, rows: Any) -> None:
        self._check_process()
        with self._lock:
            if self.reference is None:
                self._learning.add_inputs(rows)
                matrix = None
            else:
                matrix = self.reference.matrix(rows)
        if matrix is None:
            self._learn()
        else:
            self._fold(self._sketch.fold_features, matrix)
        self._merge()
        self._notify()

    def _update_outputs(self, rows: Any) -> None:
        self._check_process()
        matrix = as_outputs(rows)
        with self._lock:
            learns = self.reference is None
            if learns:
                self._learning.add_outputs(matrix)
            expected = 0 if self.reference is None else len(self.reference.outputs)
        if learns:
            self._learn()
            self._notify()
            return
        if expected == 0:
            raise MonitorError("the reference has no outputs; fit it with outputs=")
        if matrix.shape[1] != expected:
            if matrix.shape != (expected, 1):
                raise MonitorError(f"expected {expected} outputs a row, got {matrix.shape[1]}")
            matrix = matrix.reshape(1, expected)
        self._fold(self._sketch.fold_outputs, matrix)
        self._merge()
        self._notify()

    def _fold(self, fold: Callable[[np.ndarray], None], rows: np.ndarray) -> None:
        """Count and test rows that come past the ring, in parts that find room."""
        with self._lock:
            # Logged rows came before these.
            self._test(flush=False)
            step = BLOCKS_MAX // 2 * self._block_rows
            for start in range(0, len(rows), step):
                fold(rows[start : start + step])
                self._test_blocks()

    # Tests and alerts.

    def check(self) -> tuple[Alert, ...]:
        """Count everything that came up to now, test all whole blocks, and return the alerts that last.

        Handlers run on another thread, for which this call waits at most a second; with `background=False` they run on
        this one. The last rows, fewer than `block_rows`, wait for the others of their block; `close` tests them.

        Raises:
            ClosedError: this is a child of fork().
        """
        self._look()
        self._notify()
        with self._lock:
            return self._open_alerts.all()

    def _look(self) -> None:
        """Count and test what came, and call no handler on this thread, because a scrape must not wait for one."""
        self._test()
        self._learn()
        self._merge()
        self._state.save_at_times(self._knowledge)
        if self._background:
            self._notify(wait_s=0.0)

    # State between processes.

    def save(self) -> None:
        """Write the state to the file that `state=` names; does nothing without one.

        The file is written whole or not at all, whenever the process or the machine stops.

        Raises:
            OSError: the file cannot be written. The former one stays.
            ClosedError: this is a child of fork().
        """
        self._check_process()
        self._state.save(self._knowledge)

    def _knowledge(self) -> dict[str, Any]:
        """Return all that a process that goes on needs to know."""
        with self._lock:
            return self._known()

    def _known(self) -> dict[str, Any]:
        learned = self.reference if not self._reference_given else None
        return knowledge(self._facts(), self.reference, learned, self._names_of)

    def _go_on(self, found: dict[str, Any]) -> None:
        """Take over the state of a process that has ended."""
        try:
            take_over(found, self._facts(), self.reference, self.counter, self._deployment)
        except DAMAGE as error:
            # The parts taken over before the damage stay.
            self._state.put_aside(error)

    def _test(self, flush: bool = True) -> None:
        """Count and test what waits. Handlers are called by `_notify`."""
        # Counting stops where blocks have no room. Producers that never stop must not keep the caller here.
        for _ in range(self._test_rounds):
            done = self._sketch.drain(flush)
            with self._lock:
                self._test_blocks()
            if done:
                return

    # Merging with other processes.

    def _merge(self) -> None:
        """Publish what came, and apply what all processes published. Does nothing where the monitor is not shared."""
        merging = self._merging
        if merging is None or merging.rests:
            return
        with merging.lock:
            with self._lock:
                entries = merging.entries(self._sketch, self._names_of)
            try:
                snapshot, found = merging.exchange(entries)
            except (OSError, MonitorError):
                LOGGER.exception("the shared monitor cannot be reached; its entries wait")
                return
            with self._lock:
                if snapshot is not None:
                    self._begin_with(snapshot)
                for entry in found:
                    self._apply(merging, entry)
                merging.keep_at_times(self._snapshot)

    def _apply(self, merging: Merging, entry: Mapping[str, Any]) -> None:
        """Apply one entry of the shared log. Every process does the same."""
        own = merging.is_own(entry)
        begun = []
        try:
            merging.add_totals(entry)
            for block, names in merging.blocks(entry):
                if entry["digest"] != self._digest:
                    # Counted before this process, or that one, knew the other reference.
                    block["rows"] = block["output_rows"] = 0
                begun += self._observe(block, names)
            if "answers" in entry and not own:
                deployments = {number: self._deployment(name) for number, name in entry["versions"]}
                raw, outputs = entry["answers"]
                remember(self._sketch, raw, outputs, deployments)
                merging.remembered(len(outputs))
            for answer_id, label, value in entry.get("outcomes", ()):
                begun += self._join_shared(answer_id, label, value, own)
            if not own:
                for message, severity in entry.get("messages", ()):
                    self._alerts.add(message, severity)
            if "reference" in entry and not (entry["learned"] and self.reference is not None):
                self._switch(Reference.from_json(entry["reference"]))
        except DAMAGE:
            LOGGER.exception("an entry of the shared monitor is left out")
        ended = self._open_alerts.take_ended()
        if own:
            # The process whose rows made it certain calls the handlers.
            self._begun += begun
            self._ended += ended

    def _join_shared(
        self, answer_id: int, label: float | None, value: float | None, own: bool
    ) -> list[Alert]:
        found = self._sketch.find(answer_id)
        if found is None:
            return []
        if not own:
            label = label if label is not None and self._sketch.label(answer_id) else None
            value = value if value is not None and self._sketch.value(answer_id) else None
        return self._join(found, label, value) if label is not None or value is not None else []

    def _snapshot(self) -> dict[str, Any]:
        assert self._merging is not None
        made = knowledge(self._facts(), self.reference, self.reference, self._names_of)
        return {"knowledge": {**made, "counters": []}, "totals": self._merging.totals}

    def _begin_with(self, snapshot: Mapping[str, Any]) -> None:
        assert self._merging is not None
        try:
            found = snapshot["knowledge"]
            if found["reference"] is not None:
                self._switch(Reference.from_json(found["reference"]))
            self._merging.totals = dict(snapshot["totals"])
            take_over(found, self._facts(), self.reference, self.counter, self._deployment)
            self._merging.remembered(len(found["answers"][1]))
        except DAMAGE:
            LOGGER.exception("the snapshot of the shared monitor is left out")

    def _notify(self, wait_s: float | None = None) -> None:
        with self._lock:
            # One call an incident: its other columns are in its members.
            begun = [alert for alert in self._begun if alert.incident == alert.number]
            self._delivery.add(begun, [*self._ended, *self._open_alerts.take_ended()])
            self._begun, self._ended = [], []
            self._delivery.repeat(self._open_alerts.all())
        # Handlers run without the lock, because one may ask for a report.
        self._delivery.bring(Delivery.WAIT_S if wait_s is None else wait_s)

    def _test_blocks(self) -> None:
        while (block := self._sketch.take()) is not None:
            names = self._names_of(block["deployments"].tolist()) if block["answers"] else {}
            if self._merging is not None:
                self._merging.add_block(block, self._digest, names)
            else:
                self._begun += self._observe(block, names)

    def _observe(self, block: dict[str, Any], names: Mapping[int, str]) -> list[Alert]:
        """Test a block, and return the alerts that began with it."""
        begun = []
        for side in (self.input_distribution, self.output_distribution):
            for episode in side.observe(block):
                begun += self._open_alerts.drift(side.kind, side.severity, episode)
        if block["answers"]:
            reasons = self._tallies.observe(block, names)
            for spent in self._budgets.observe(reasons, int(block["late"].sum())):
                begun += self._open_alerts.budget(spent)
        return begun

    def _finish_blocks(self) -> None:
        """Test the rows that wait for others of their block."""
        for side in (self.input_distribution, self.output_distribution):
            for episode in side.finish():
                self._begun += self._open_alerts.drift(side.kind, side.severity, episode)

    def alert(self, message: str, severity: str = "warning") -> Alert:
        """Raise an alert of your own: keep it, call the handlers, and return it. Errors of handlers are logged.

        With a background thread the handlers run on another thread, for which this call waits at most a second.

        Args:
            message: any text.
            severity: "info", "warning" or "critical".

        Raises:
            MonitorError: another severity.
        """
        made = self._alerts.add(message, severity)
        if self._merging is not None:
            with self._lock:
                self._merging.add_message(made.message, severity)
            self._merge()
        self._delivery.add([made])
        self._delivery.bring(Delivery.WAIT_S)
        return made

    @property
    def alerts(self) -> list[Alert]:
        """The latest 1,000 alerts, oldest first, ended ones included."""
        return self._alerts.all()

    @property
    def incidents(self) -> list[Incident]:
        """The latest alerts by cause, the oldest first: columns that broke together are one incident."""
        return incidents(self._alerts.all())

    def on_alert(self, handler: Handler, *, ends: bool = False) -> None:
        """Add a handler. It is called with each Alert when it begins, on a thread of its own, after the former alerts.

        With `background=False` it is called on the thread of `check`, `drift_detected`, `update`, `alert` or `close`.

        Args:
            handler: takes the Alert.
            ends: call it again with the same Alert when it has ended; `Alert.lasts` is then False. A handler with an
                attribute `ends` that is true is called again too, and one with `repeat_s` every so many seconds while
                an alert lasts. Those of `engine.monitor.handlers` have both.

        Raises:
            MonitorError: it cannot be called.
        """
        self._alerts.add_handler(handler, ends)

    # Everything a monitor knows.

    def _facts(self) -> Facts:
        """The parts that a summary reads, under the lock."""
        return Facts(
            reference_rows=self.reference.rows if self.reference else None,
            sketch=self._sketch,
            alerts=self._alerts,
            open_alerts=self._open_alerts,
            inputs=self.input_distribution,
            outputs=self.output_distribution,
            tallies=self._tallies,
            budgets=self._budgets,
            outcomes=self._outcomes,
            performance=self._performance,
            decision_threshold=self._sketch_options["decision_threshold"],
            counters=self._counters,
            merged={} if self._merging is None else self._merging.totals,
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as values that JSON has, after a `check`.

        Keys: reference_rows, rows, answers, dropped, wrong_width, handler_errors, alerts, alert_counts, lasting,
        inputs, outputs, sources, latency_us, latency_seconds, deadline_share, budgets, outcomes, shadows,
        unpaired_shadows, counters.

        Raises:
            ClosedError: this is a child of fork().
        """
        self._look()
        with self._lock:
            return summary(self._facts())

    def metrics_text(self, *others: ModelMonitor) -> str:
        """Return everything that is a number in Prometheus' text format, after a `check`.

        Args:
            others: further monitors of this process. Each metric then comes once, with a sample for each monitor,
                because two texts one after the other are not valid. The label "model" is a monitor's `name`; monitors
                of one name get "-2", "-3", … behind it.

        Raises:
            MissingDependencyError: prometheus-client is not installed.
            ClosedError: this is a child of fork().
        """
        return metrics.text([(monitor.name, monitor.to_json()) for monitor in (self, *others)])

    def report(self, path: str | Path = "report.html", *others: ModelMonitor) -> Path:
        """Write one HTML file that needs no other and no network, pictures included, and return its path.

        Args:
            path: of the file.
            others: further monitors; each model has a status of its own on the page.

        Raises:
            OSError: the file cannot be written. A file that was there before stays as it was.
            ClosedError: this is a child of fork().
        """
        return page.write([monitor.contents() for monitor in (self, *others)], Path(path))

    def contents(self) -> page.Contents:
        """Return the contents of this model's page, after a `check`; `engine.monitor.report` makes the page.

        Raises:
            ClosedError: this is a child of fork().
        """
        self._look()
        with self._lock:
            return page.collect(self._facts(), self.name)

    def _repr_html_(self) -> str:
        """Return the page in a frame, as notebooks show it."""
        return page.frame([self.contents()])

    def close(self) -> None:
        """Count and test what is left, and end the threads. Always returns; a second call does nothing.

        Alerts, `to_json` and reports stay readable. In a child of fork() it does nothing.
        """
        if not self._sketch.alive:
            self._finalizer.detach()
            return
        try:
            self._test()
            self._learn()
            self._finalizer()
            self._test()
            with self._lock:
                if self._merging is None:
                    self._finish_blocks()
                    for spent in self._budgets.finish():
                        self._begun += self._open_alerts.budget(spent)
            self._merge()
            self._notify()
            self._state.try_save(self._knowledge)
            self._state.release()
        except ClosedError:
            return
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            # A handler may hang in the thread, which is a daemon and does not keep the process.
            thread.join(timeout=2.0)
        self._delivery.wait(2.0)
        self._delivery.flush(2.0)

    def __enter__(self) -> ModelMonitor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check_process(self) -> None:
        """Raise ClosedError in a child of fork(). Called before any lock, which the parent may hold."""
        if not self._sketch.alive:
            raise ClosedError("this monitor belongs to the parent process; make one in the child")

    def _names_of(self, deployments: list[int]) -> dict[int, str]:
        """Return versions by deployment number; 0 is none. Read the announced ones again where one of these is new."""
        if any(deployment and deployment not in self._names for deployment in deployments):
            self._names = self._sketch.versions()
        return self._names

    def _deployment(self, version: str) -> int:
        if not version:
            return 0
        if version not in self._deployments:
            with self._lock:
                # An engine numbers its deployments from 1; these are far from them.
                deployment = self._deployments.setdefault(version, (1 << 62) + len(self._deployments))
                self._sketch.deployed(deployment, version)
        return self._deployments[version]
