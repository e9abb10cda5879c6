"""Oracles: the most requests that a primary could answer in time under a scheduler that knows the future.

Both oracles know every arrival beforehand and the cost of a batch of b rows, base + row * b without noise. They need no
safety margin and no fallback, and may leave any request unanswered. So they bound every policy, and the ratio of
`goodput_vs_oracle`, the policy's in-time answers of the primary over the oracle's, is a lower bound on its quality.

`most_exactly` is exact for one executor and up to 14 requests: a dynamic programme over sets of requests. Among all
ways to answer exactly the set S in time only the earliest end matters, because an executor that is free earlier can do
everything that one free later can. From S, every set of up to batch_rows_max remaining requests may be the next batch.
The batch starts when the executor is free and its last member has arrived, and counts if it ends by its first deadline.

`most_at_most` is an upper bound for any number of requests and executors. It treats work as fluid: a row needs its
share of the most efficient batch that its own budget allows, c = min over b of L(b) / b, at any time between its
arrival and its deadline, on any executor, with interruptions. Every real schedule gives each answered row that much, so
none does better. If all rows have one c, earliest deadline first processes the most work (a maximum flow into windows:
Glover, Naval Research Logistics Quarterly 14, 1967, for unit work). With several, cheap rows come first: the work that
sets of rows can get is a polymatroid, on which the greedy rule is optimal (Edmonds, 1970). So the bound is the sum over
classes k, cheapest first, of (1 / c_k - 1 / c_(k+1)) times the most work of classes 1 to k. The bound is loose if a
batch costs much before its first row, because no real schedule can then stop for an urgent row.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import ConfigError
from engine.simulation import _simulator
from engine.simulation.plan import at_once
from engine.simulation.simulate import native_plan, simulate

EXACT_MAX = 14

Arrivals = Sequence[tuple[int, int]]  # (arrived_ns, budget_ns), in order of arrival


def most_exactly(arrivals: Arrivals, *, base_ns: int, row_ns: int, batch_rows_max: int) -> int:
    """Return the most requests that one executor can answer in time.

    Args:
        arrivals: (arrived_ns, budget_ns) pairs in order of arrival; at most EXACT_MAX, because it takes 3^n steps.
        base_ns, row_ns: a batch of b rows costs base_ns + row_ns * b.
        batch_rows_max: rows in a batch, at most.

    Raises:
        ConfigError: too many arrivals.
    """
    count = len(arrivals)
    if count > EXACT_MAX:
        raise ConfigError(
            f"the exact oracle takes at most {EXACT_MAX} arrivals, got {count}; use most_at_most"
        )
    everyone = (1 << count) - 1
    # For each set of requests: the arrival of its last, the deadline of its first, and the end of its batch.
    latest = [0] * (1 << count)
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
    """Return an upper bound on the requests that `executors` executors can answer in time.

    It need not be a whole number, because the bound answers rows in part. Arguments as in `most_exactly`, for any
    number of arrivals.
    """
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
    """Return a row's share of the largest batch that ends within its budget; None if no batch does."""
    if base_ns + row_ns > budget_ns:
        return None
    rows = batch_rows_max if row_ns == 0 else min(batch_rows_max, (budget_ns - base_ns) // row_ns)
    return (base_ns + row_ns * rows) / rows


def _most_work_ns(work: Sequence[tuple[int, int, float]], rate: int) -> float:
    """Return the most work done by its deadline, in ns, at `rate` ns of work a ns.

    Args:
        work: (arrived, deadline, ns of work) in order of arrival.
    """
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
    """Run `simulate` with these arguments, and an oracle on the same arrivals.

    The oracle takes bursts and overloads into account, and no other fault.

    Args:
        exactly: use `most_exactly` instead of `most_at_most`.
        **arguments: of `simulate`.

    Returns:
        A dict. in_time: requests that the primary answered in time. oracle: the most it could have answered. ratio: of
        the two. on_time and violations_total of the run.

    Raises:
        ConfigError: `exactly` with several executors or more than EXACT_MAX requests, or as `simulate` raises.
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
    # A device is as many executors as it has batches at work; that each of them is also begun takes no time.
    executors = at_once(plan)
    if exactly and executors != 1:
        raise ConfigError(f"the exact oracle is for one executor, got {executors}")
    most = (
        most_exactly(arrivals, **costs) if exactly else most_at_most(arrivals, **costs, executors=executors)
    )
    return {
        "in_time": run["primary_in_time"],
        "oracle": most,
        "ratio": run["primary_in_time"] / most if most else 1.0,
        "on_time": run["on_time"],
        "violations_total": run["violations_total"],
    }
