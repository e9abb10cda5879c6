"""Engine.stats(): the native counters as a plain dict."""
from libc.stdint cimport uint64_t

from engine._common.vocabulary import PRIORITIES as _priorities
from engine._common.vocabulary import REASONS as _reasons
from engine._common.vocabulary import SOURCES as _sources

from engine.serving._scheduler cimport *

cdef tuple REASON_NAMES = _reasons
cdef tuple SOURCE_NAMES = _sources
cdef tuple PRIORITY_NAMES = _priorities


cdef dict statistics_of(Runtime* runtime, bint inline):
    cdef Counters* counters = &runtime.counters()
    cdef uint64_t batches = counters.batches.load()
    cdef int s, c
    # Late answers are read before all answers, so that a count of late ones never exceeds the count of all.
    cdef uint64_t late_ready = counters.late_ready.load(), late_returned = counters.late_returned.load()
    reasons = {SOURCE_NAMES[s]: _reason_counts(runtime, s) for s in range(SOURCES)}
    answers = {source: sum(counts.values()) for source, counts in reasons.items()}
    answered = sum(answers.values())
    return {
        "answers": answers,
        "reasons": reasons,
        "on_time_ready": answered - late_ready,
        "on_time_returned": answered - late_returned,
        "late_dropped": counters.late_dropped.load(),
        "batches": batches,
        "batch_rows_mean": <double>counters.batch_rows.load() / batches if batches else 0.0,
        "failed_batches": counters.failed_batches.load(),
        "queue_depth": runtime.policy().live(),
        "queue_depth_max": counters.queue_depth_max.load(),
        "in_flight": runtime.slots().in_use(),
        "cancelled": counters.cancelled.load(),
        "classes": {PRIORITY_NAMES[c]: {SOURCE_NAMES[s]: _class_count(runtime, c, s) for s in range(SOURCES)}
                    for c in range(PRIORITIES)},
        "executors": {"threads": runtime.executors().count(), "replaced": runtime.executors().replaced(),
                      "missing": runtime.executors().missing(), "refused": runtime.executors().refused(),
                      "engines": runtime.executors().shared().models(),
                      "abandoned": runtime.executors().abandoned()},
        "inline_overruns": counters.inline_overruns.load(),
        "latency_us": {SOURCE_NAMES[s]: _quantiles(counters.latency(s)) for s in range(SOURCES)},
        "returned_us": _quantiles(counters.returned_ns),
        "queued_us": _quantiles(counters.queued_ns),
        "cost": _cost(runtime.inline_cost() if inline else runtime.cost()),
        "guard_us": {
            "sync": _terms(runtime.margin(True)),
            "async": _terms(runtime.margin(False)),
            "handoff": runtime.executors().handoff_ns() / 1e3,
            "prediction_error": runtime.policy().prediction_error_ns() / 1e3,
        },
    }


cdef dict _reason_counts(Runtime* runtime, int source):
    cdef int c, r
    counts = [sum([runtime.answered(c, source, r) for c in range(PRIORITIES)]) for r in range(REASONS)]
    return {REASON_NAMES[r]: count for r, count in enumerate(counts) if count}


cdef object _class_count(Runtime* runtime, int priority, int source):
    cdef int r
    return sum([runtime.answered(priority, source, r) for r in range(REASONS)])


cdef dict _cost(const CostModel& cost):
    return {
        "row_us": cost.expected_ns(1) / 1e3,
        "batch_us": {rows: cost.expected_ns(rows) / 1e3 for rows in (1, 2, 4, 8, 16, 32, 64)},
        "efficient_rows": cost.efficient_rows(),
        "spread": cost.spread(),
        "stalls": cost.stalls(),
    }


cdef dict _terms(const SafetyMargin& margin):
    cdef MarginTerms terms = margin.terms()
    return {"timer": terms.timer_ns / 1e3, "return": terms.return_ns / 1e3, "fallback": terms.fallback_ns / 1e3,
            "fallback_typical": terms.typical_ns / 1e3}


cdef dict _quantiles(const Histogram& histogram):
    return {"count": histogram.count(), "p50": histogram.quantile(0.5) / 1e3, "p99": histogram.quantile(0.99) / 1e3,
            "p999": histogram.quantile(0.999) / 1e3, "max": histogram.quantile(1.0) / 1e3}
