"""What a scheduler that knows the future could do: how many requests, at most, the primary can answer in time.

Both oracles know every arrival beforehand and what a batch costs, base + row * b without noise; they need no guard, no
margin and no fallback, and let whoever they like go unanswered. So they bound every policy, and `goodput_vs_oracle`,
the policy's in-time primary answers over the oracle's, is a lower bound on how well it does.

`most_exactly` is exact for one executor and a dozen or so requests: a dynamic programme over sets of requests. Of all
ways to have answered just the set S in time, only the earliest end matters, because an executor that is free earlier
can do all that one free later can. From S each set of those left, up to batch_rows_max of them, may be the next batch:
it starts when the executor is free and its last member has come, and counts if it ends by its first member's deadline.

`most_at_most` is an upper bound, for any number of requests and executors. It cuts work into fluid: a row needs its
share of the most efficient batch that its own budget allows, c = min over b of L(b) / b, anywhere between its arrival
and its deadline, on any executor, interrupted at will. Every real schedule gives each of its rows that much, so none
does better. With one c for all, earliest deadline first processes the most work there is to process (it is a maximum
flow into windows: Glover, Naval Research Logistics Quarterly 14, 1967, for unit work). With several, rows that cost
less come first: the work that sets of rows can get is a polymatroid, on which the greedy rule is optimal (Edmonds,
1970), so the bound is the sum over classes k, cheapest first, of (1 / c_k - 1 / c_(k+1)) times the most work of classes
1 to k. It is loose where a batch costs much before its first row: there no real schedule can stop for an urgent row.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import ConfigError
from engine.simulation import _simulator
from engine.simulation.simulate import native_plan, simulate

EXACT_MAX = 14

Arrivals = Sequence[tuple[int, int]]  # (arrived_ns, budget_ns), in order of arrival


def most_exactly(arrivals: Arrivals, *, base_ns: int, row_ns: int, batch_rows_max: int) -> int:
    """The most that one executor can answer in time. At most EXACT_MAX arrivals: it takes 3^n steps."""
    count = len(arrivals)
    if count > EXACT_MAX:
        raise ConfigError(
            f"the exact oracle takes at most {EXACT_MAX} arrivals, got {count}; use most_at_most"
        )
    everyone = (1 << count) - 1
    latest = [0] * (
        1 << count
    )  # of a set: the arrival of its last, the deadline of its first, when its batch ends
    first_deadline = [1 << 62] * (1 << count)
    for group in range(1, 1 << count):
        low = group & -group
        arrived, budget = arrivals[low.bit_length() - 1]
        latest[group] = max(latest[group ^ low], arrived)
        first_deadline[group] = min(first_deadline[group ^ low], arrived + budget)
    never = 1 << 62
    free = [never] * (1 << count)
    free[0] = best = 0
    for done in range(1 << count):
        if free[done] == never:
            continue
        best = max(best, done.bit_count())
        left = everyone ^ done
        batch = left
        while batch:
            rows = batch.bit_count()
            if rows <= batch_rows_max:
                end = max(free[done], latest[batch]) + base_ns + row_ns * rows
                if end <= first_deadline[batch] and end < free[done | batch]:
                    free[done | batch] = end
            batch = (batch - 1) & left
    return best


def most_at_most(
    arrivals: Arrivals, *, base_ns: int, row_ns: int, batch_rows_max: int, executors: int = 1
) -> float:
    """A bound on what `executors` executors can answer in time; no whole number, for rows may be answered in part."""
    share_ns = {
        budget: share
        for budget in {budget for _, budget in arrivals}
        if (share := _cheapest_share_ns(budget, base_ns, row_ns, batch_rows_max)) is not None
    }
    shares = sorted(set(share_ns.values()))
    bound = 0.0
    for k, share in enumerate(shares):
        dearer = shares[k + 1] if k + 1 < len(shares) else None
        weight = 1.0 / share - (1.0 / dearer if dearer else 0.0)
        work = [
            (arrived, arrived + budget, share_ns[budget])
            for arrived, budget in arrivals
            if share_ns.get(budget, share + 1.0) <= share
        ]
        bound += weight * _most_work_ns(work, executors)
    return bound


def _cheapest_share_ns(budget_ns: int, base_ns: int, row_ns: int, batch_rows_max: int) -> float | None:
    """What a row takes of an executor in the largest batch that ends within its budget; None where no batch does."""
    if base_ns + row_ns > budget_ns:
        return None
    rows = batch_rows_max if row_ns == 0 else min(batch_rows_max, (budget_ns - base_ns) // row_ns)
    return (base_ns + row_ns * rows) / rows


def _most_work_ns(work: Sequence[tuple[int, int, float]], rate: int) -> float:
    """The most work done by its deadline, in ns at `rate` ns a ns; `work` is (arrived, deadline, ns), in order."""
    waiting: list[list[float]] = []
    done, now = 0.0, 0.0
    for arrived, deadline, ns in [*work, (float("inf"), 0, 0.0)]:
        while waiting and now < arrived:
            deadline_first, left = waiting[0]
            until = min(arrived, deadline_first)
            some = min(left, (until - now) * rate) if until > now else 0.0
            done += some
            now += some / rate
            if some >= left or deadline_first <= now or until == deadline_first:
                heapq.heappop(waiting)
            else:
                waiting[0][1] = left - some
        now = max(now, arrived)
        heapq.heappush(waiting, [deadline, ns])
    return done


def goodput_vs_oracle(*, exactly: bool = False, **arguments: Any) -> dict[str, Any]:
    """Runs `simulate` with these arguments, and an oracle on the same arrivals.

    Returns a dict: in_time (the primary's answers in time), oracle (what it could have been at most), ratio, and the
    run's on_time and violations_total. The oracle knows nothing of faults but bursts and overloads.
    """
    run = simulate(**arguments)
    return _compared(run, arguments, exactly)


def _compared(run: Mapping[str, Any], arguments: Mapping[str, Any], exactly: bool) -> dict[str, Any]:
    plan = native_plan(**arguments)
    arrivals = _simulator.arrivals(plan)
    costs = {
        "base_ns": plan["batch_base_ns"],
        "row_ns": plan["batch_row_ns"],
        "batch_rows_max": plan["batch_rows_max"],
    }
    if exactly and plan["executors"] != 1:
        raise ConfigError(f"the exact oracle is for one executor, got {plan['executors']}")
    most = (
        most_exactly(arrivals, **costs)
        if exactly
        else most_at_most(arrivals, **costs, executors=plan["executors"])
    )
    return {
        "in_time": run["primary_in_time"],
        "oracle": most,
        "ratio": run["primary_in_time"] / most if most else 1.0,
        "on_time": run["on_time"],
        "violations_total": run["violations_total"],
    }
