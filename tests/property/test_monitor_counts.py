"""The native counter against NumPy, and properties of any reference and any rows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.monitor import Reference
from engine.monitor._sketch import Sketch
from engine.monitor.drift import DriftDetector
from engine.monitor.drift.bins import codes, numeric, scores
from engine.monitor.drift.charts import tilt

ANY = st.floats(width=32, allow_nan=True, allow_infinity=True)
SOME = st.one_of(ANY, st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, float("nan"), float("inf"), float("-inf")]))


def column(elements, least=1, most=300):
    return hnp.arrays(np.float32, st.integers(least, most), elements=elements)


@settings(max_examples=150, deadline=None)
@given(column(st.floats(width=32, allow_nan=False, allow_infinity=False)), column(SOME, 0), st.booleans())
def test_the_native_counter_counts_as_numpy_does(reference, live, discrete):
    bins = (codes if discrete else numeric)(reference)
    sketch = Sketch(features_max=1, outputs_max=1, ring_rows=2, block_rows=1 << 20)
    sketch.set_layout([(bins.cuts, bins.bin_of, bins.n_bins)], 1)
    sketch.fold_features(live[:, None].copy())
    sketch.drain(True)
    block = sketch.take()
    sketch.close()
    if not len(live):
        assert block is None
        return
    index = bins.index(live)
    assert block["counts"][0].tolist() == np.bincount(index[index >= 0], minlength=bins.n_bins).tolist()
    assert block["missing"][0] == np.isnan(live).sum()
    assert block["infinite"][0] == np.isinf(live).sum()
    assert block["unseen"][0] == (index == -2).sum()
    assert block["counts"].sum() + block["missing"].sum() + block["unseen"].sum() == len(live)
    finite = live[np.isfinite(live)].astype(np.float64)
    np.testing.assert_allclose(block["sums"][0], [finite.sum(), (finite**2).sum()], rtol=1e-9, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(column(st.floats(width=32, allow_nan=False, allow_infinity=False)), st.booleans())
def test_scores_are_standard_and_tilts_exist_for_any_column(values, discrete):
    bins = (codes if discrete else numeric)(values)
    made = scores(bins, np.bincount(bins.index(values), minlength=bins.n_bins))
    assert np.isfinite(made.share).all()
    assert abs(made.share.sum() - 1) < 1e-9
    for score in made.names.values():
        assert np.isfinite(score).all()
        assert abs((made.share * score).sum()) < 1e-6
        for steps in (score - 0.125, -score - 0.125):
            if score.any() and steps.max() > 0:
                theta = tilt(steps, made.share)
                assert theta > 0
                assert abs(np.log((made.share * np.exp(theta * steps)).sum())) < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(100, 300), st.integers(1, 4)), elements=SOME),
    st.integers(0, 2**32 - 1),
)
def test_any_table_makes_a_reference_that_reads_back_and_tests_anything(table, seed):
    reference = Reference.fit(table)
    again = Reference.from_json(reference.to_json())
    assert again.to_json() == reference.to_json()
    rng = np.random.default_rng(seed)
    live = rng.permutation(table.ravel()).reshape(table.shape)
    events = []
    for made in (reference, again):
        columns = made.features
        sketch = Sketch(features_max=len(columns), outputs_max=1, ring_rows=2)
        sketch.set_layout([(c.bins.cuts, c.bins.bin_of, c.bins.n_bins) for c in columns], len(columns))
        detector = DriftDetector(columns, max(c.bins.n_bins for c in columns), rows_window=100)
        found = []
        sketch.fold_features(np.ascontiguousarray(live))
        sketch.drain(True)
        while (block := sketch.take()) is not None:
            found += detector.observe(
                block["rows"],
                *(block[name] for name in ("counts", "missing", "infinite", "unseen", "runs", "sums")),
            )
        sketch.close()
        for _, figures in detector.state():
            assert all(value is None or np.isfinite(value) for value in figures.values())
        events.append([(e.column, e.started_row, e.detected_row) for e in found])
    assert events[0] == events[1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 1)), max_size=300))
def test_the_memory_of_answers_is_the_latest_ones(pushed):
    sketch = Sketch(features_max=1, outputs_max=1, ring_rows=512, answers_max=8)
    truth = {}
    for number, value in pushed:
        assert sketch.push(number, values=np.array([value]))
        # An id that comes again keeps its place and takes the new value.
        truth[number] = value
        if len(truth) > 8:
            del truth[next(iter(truth))]
    sketch.drain(False)
    for number in range(31):
        found = sketch.find(number)
        assert (found is None) == (number not in truth)
        assert found is None or found[5][0] == truth[number]
    sketch.close()
