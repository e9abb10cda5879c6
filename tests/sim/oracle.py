"""The most that a primary can answer in time under a scheduler that knows the future: slow, obvious, exact.

For one executor, one deadline for all and a cost of base + row * b without noise. Then order of arrival is
order of deadline, and some best schedule takes requests in that order in batches of neighbours, leaving
others out. So: over requests and over the number answered, the earliest instant at which the executor can be
free.
"""

from __future__ import annotations


def most_in_time(
    arrivals_ns: list[int], budget_ns: int, base_ns: int, row_ns: int, batch_rows_max: int
) -> int:
    count = len(arrivals_ns)
    never = 1 << 62
    # free[i][k]: k of the first i requests are answered in time; the executor is free from then on.
    free = [[never] * (count + 1) for _ in range(count + 1)]
    free[0][0] = 0
    for i in range(count):
        for k in range(i + 1):
            now = free[i][k]
            if now == never:
                continue
            free[i + 1][k] = min(free[i + 1][k], now)
            for rows in range(1, min(batch_rows_max, count - i) + 1):
                end = max(now, arrivals_ns[i + rows - 1]) + base_ns + row_ns * rows
                if end > arrivals_ns[i] + budget_ns:
                    break  # more rows only end later
                free[i + rows][k + rows] = min(free[i + rows][k + rows], end)
    return max(k for k in range(count + 1) if free[count][k] != never)
