"""Statistics in bounded memory equal those of NumPy and of exact arithmetic on the whole column, in any batching."""

from collections import Counter
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from engine.transform import statistics

values = st.lists(
    st.one_of(
        st.floats(-1e300, 1e300),
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 1e-310, 2.5]),
        st.integers(-5, 5).map(float),
        st.just(float("nan")),
    ),
    min_size=1,
    max_size=60,
).filter(lambda drawn: not np.isnan(drawn).all())


@pytest.fixture(autouse=True, params=[0, 4, 1 << 20])
def memory(request, monkeypatch):
    """Set how many values may be sorted or counted at once: so few that every pass runs, or all."""
    monkeypatch.setattr(statistics, "SORTED_MAX", request.param)
    monkeypatch.setattr(statistics, "DISTINCT_MAX", max(1, request.param))
    monkeypatch.setattr(statistics, "_WIDE_PREFIXES_MAX", 2)


def column(drawn, size):
    array = np.array(drawn)
    return lambda: iter([array[i : i + size] for i in range(0, len(array), size)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values, st.integers(1, 60), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_numbers(drawn, size, shares):
    whole = np.array([v + 0.0 for v in drawn if v == v])
    numbers = statistics.Numbers(column(drawn, size), "op")
    assert (numbers.count, numbers.low, numbers.high) == (len(whole), whole.min(), whole.max())
    assert numbers.median() == np.median(whole)
    assert numbers.quantiles(shares) == np.quantile(whole, shares).tolist()
    counts = Counter(whole.tolist())
    assert numbers.most_frequent() == min(counts, key=lambda value: (-counts[value], value))
    assert numbers.mean() == float(sum(map(Fraction, whole.tolist()))) / len(whole)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(-1e300, 1e300), max_size=600))
def test_a_sum_is_rounded_once(drawn):
    total = statistics.ExactSum()
    for value in drawn:
        total.add(value)
    assert total.count == len(drawn)
    assert total.value() == float(sum(map(Fraction, drawn)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.none(), st.text(max_size=2)), min_size=1), st.integers(1, 9))
def test_texts(drawn, size):
    batches = [drawn[i : i + size] for i in range(0, len(drawn), size)]
    counts = Counter(text for text in drawn if text is not None)
    if not counts:
        return
    expected = min(counts, key=lambda text: (-counts[text], text))
    assert statistics.most_frequent_text(lambda: iter(batches), "op") == expected
    assert list(statistics.count_texts(lambda: iter(batches), "op", 10**6).items()) == sorted(counts.items())
