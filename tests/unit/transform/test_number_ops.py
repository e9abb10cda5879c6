"""Each operation on numbers against values worked out by hand."""

import math

import numpy as np
import pytest

from engine import transform as t
from engine.errors import InputError, ProgramError

NAN = math.nan


def outputs(feature, learn, values):
    """The columns that `feature`, fitted on `learn`, makes of `values`."""
    program = t.FeatureProgram.fit([feature], {"x": learn})
    return program.batch({"x": values}).T.tolist()


def test_a_plain_number_passes_through_and_nan_stays_nan():
    (column,) = outputs(t.number("x"), [0.0], [1.5, None, -2.0])
    assert column[0] == 1.5
    assert math.isnan(column[1])
    assert column[2] == -2.0


@pytest.mark.parametrize(
    ("with_", "expected"),
    [("mean", 3.0), ("median", 2.0), ("most_frequent", 1.0), (9.5, 9.5), (0, 0.0)],
)
def test_impute_fills_what_is_missing_and_nothing_else(with_, expected):
    # 1, 1, 2, 3, 8: mean 3, median 2, most frequent 1.
    assert outputs(t.number("x").impute(with_), [1, 8, None, 1, 3, 2, NAN], [None, NAN, 5.0]) == [
        [expected, expected, 5.0]
    ]


def test_the_least_of_equally_frequent_values_is_imputed():
    assert outputs(t.number("x").impute("most_frequent"), [7, 3, 3, 7, 5], [None]) == [[3.0]]


def test_standardise_uses_the_population_standard_deviation():
    # 2, 4, 4, 4, 5, 5, 7, 9: mean 5, squares sum to 32, over 8 is 4.
    assert outputs(t.number("x").standardise(), [2, 4, 4, 4, 5, 5, 7, 9], [5, 7, 1]) == [[0.0, 1.0, -2.0]]


def test_standardise_before_and_after_imputing_differ():
    learn = [0.0, 10.0, None, None]
    # Over the two values present: mean 5, std 5. After imputing the mean, 0, 10, 5, 5: the root of 12.5.
    assert outputs(t.number("x").standardise().impute(0.0), learn, [10.0]) == [[1.0]]
    (column,) = outputs(t.number("x").impute("mean").standardise(), learn, [10.0])
    assert column == [np.float32(5.0 / math.sqrt(12.5))]


def test_a_constant_column_is_shifted_and_divided_by_one():
    for feature in (t.number("x").standardise(), t.number("x").min_max(), t.number("x").robust()):
        assert outputs(feature, [0.1, 0.1, 0.1], [0.1]) == [[0.0]]
    assert outputs(t.number("x").standardise(), [2, 2], [5]) == [[3.0]]


def test_min_max_and_robust():
    assert outputs(t.number("x").min_max(), [2, 6, 4], [2, 4, 6, 8]) == [[0.0, 0.5, 1.0, 1.5]]
    # 1 … 5: quartiles 2 and 4, median 3.
    assert outputs(t.number("x").robust(), [5, 1, 4, 2, 3], [3, 5, 1]) == [[0.0, 1.0, -1.0]]


def test_clip_log1p_sqrt():
    assert outputs(t.number("x").clip(-1, 2), [0], [-5, 1, 5, math.inf]) == [[-1.0, 1.0, 2.0, 2.0]]
    assert outputs(t.number("x").clip(high=2), [0], [-5, 3]) == [[-5.0, 2.0]]
    assert outputs(t.number("x").log1p(), [0], [0, math.e - 1, -1]) == [[0.0, 1.0, -math.inf]]
    (column,) = outputs(t.number("x").sqrt(), [0], [9, -1])
    assert column[0] == 3.0
    assert math.isnan(column[1])


def test_bucketize_puts_an_edge_on_the_side_that_is_asked_for():
    values = [-1, 0, 5, 10, 11]
    assert outputs(t.number("x").bucketize([0, 10]), [0], values) == [[0, 1, 1, 2, 2]]
    assert outputs(t.number("x").bucketize([0, 10], edge="right"), [0], values) == [[0, 0, 1, 1, 2]]


def test_quantile_buckets_learn_their_edges_and_drop_equal_ones():
    # 0 … 4 in four: edges 1, 2, 3.
    assert outputs(t.number("x").bucketize(quantiles=4), [0, 1, 2, 3, 4], [0.5, 1, 3.5]) == [[0, 1, 3]]
    assert outputs(t.number("x").bucketize(quantiles=4), [1, 1, 1, 1], [0, 1]) == [[0, 1]]


def test_one_hot_of_buckets_has_one_column_a_code():
    feature = t.number("x").bucketize([0, 10]).one_hot()
    assert outputs(feature, [5], [-1, 5, 20, None]) == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


def test_one_hot_of_a_number_sets_only_whole_codes():
    assert outputs(t.number("x").one_hot(), [0, 1], [1, 0.5, 7, -1]) == [[0, 0, 0, 0], [1, 0, 0, 0]]


def test_cyclic_makes_a_sine_and_a_cosine():
    assert outputs(t.number("x").cyclic(24), [0], [0, 6, 12, 18, 24]) == [[0, 1, 0, -1, 0], [1, 0, -1, 0, 1]]


def test_missing_says_so():
    assert outputs(t.number("x").missing(), [0], [None, 0.0, NAN]) == [[1, 0, 1]]


def test_combinations_of_two_features():
    a, b = t.number("a"), t.number("b")
    spec = [
        t.ratio(a, b),
        t.ratio(a, b, when_zero=-1.0).named("r"),
        t.difference(a, b),
        t.product(a, b.impute(2)),
    ]
    program = t.FeatureProgram.fit(spec, {"a": [1.0], "b": [1.0]})
    assert program.output_names == ("ratio(a, b)", "r", "difference(a, b)", "product(a, b)")
    assert program.row({"a": 6, "b": 4}).tolist() == [1.5, 1.5, 2.0, 24.0]
    row = program.row({"a": 6, "b": 0}).tolist()
    assert math.isnan(row[0])
    assert row[1:] == [-1.0, 6.0, 0.0]
    row = program.row({"a": 6}).tolist()
    assert [math.isnan(v) for v in row] == [True, True, True, False]
    assert row[3] == 12.0


@pytest.mark.parametrize("learn", [[None, NAN], [1.0, math.inf]])
@pytest.mark.parametrize("verb", ["standardise", "min_max", "robust"])
def test_statistics_of_nothing_or_of_infinity_are_refused(learn, verb):
    with pytest.raises(ProgramError, match=r"feature 'x': op .*(every value is missing|infinite)"):
        t.FeatureProgram.fit([getattr(t.number("x"), verb)()], {"x": learn})


def test_a_sum_beyond_float64_is_refused():
    with pytest.raises(ProgramError, match=r"'x'.*float64"):
        t.FeatureProgram.fit([t.number("x").standardise()], {"x": [1.7e308, 1.6e308]})


@pytest.mark.parametrize(
    "build",
    [
        lambda: t.number("x").impute("average"),
        lambda: t.number("x").impute(math.nan),
        lambda: t.number("x").clip(2, 1),
        lambda: t.number("x").clip(math.inf),
        lambda: t.number("x").bucketize([1, 1]),
        lambda: t.number("x").bucketize(),
        lambda: t.number("x").bucketize([1], edge="up"),
        lambda: t.number("x").cyclic(0),
        lambda: t.number("x").cyclic(24).log1p(),
        lambda: t.number("x").ordinal(),
        lambda: t.ratio(t.number("x"), t.category("y")),
        lambda: t.ratio(t.number("x"), t.number("y").cyclic(2)),
        lambda: t.number(""),
    ],
)
def test_nonsense_is_refused_where_it_is_written(build):
    with pytest.raises(ProgramError):
        build()


def test_affine_multiplies_and_then_adds():
    feature = t.number("x").then({"op": "affine", "factor": 0.5, "offset": -1.0})
    assert outputs(feature, [0.0], [4.0, -2.0]) == [[1.0, -2.0]]
    assert math.isnan(outputs(feature, [0.0], [None])[0][0])


def test_map_gives_the_value_of_an_equal_number():
    op = {"op": "map", "keys": [0.0, 0.5, 10.0], "values": [3, 4, 5]}
    given = t.number("x").then({**op, "unknown": -1, "missing": 7})
    assert outputs(given, [0.0], [-0.0, 0.5, 10, 9.99, None, math.inf]) == [[3.0, 4.0, 5.0, -1.0, 7.0, -1.0]]
    assert all(map(math.isnan, outputs(t.number("x").then(op), [0.0], [1.0, None])[0]))


@pytest.mark.parametrize(
    ("refuse", "taken", "refused"),
    [("unknown", [1.0, None], [2.0]), ("unknown_or_missing", [1.0], [2.0, None])],
)
def test_map_can_refuse_a_row(refuse, taken, refused):
    op = {"op": "map", "keys": [1.0], "values": [5.0], "missing": 6.0, "refuse": refuse}
    program = t.FeatureProgram.fit(
        [t.number("y"), t.number("x").clip(0, 9).then(op)], {"x": [1.0], "y": [0.0]}
    )
    for value in taken:
        assert program.row({"x": value}).tolist()[1] == (6.0 if value is None else 5.0)
    for value in refused:
        with pytest.raises(InputError, match=f"input 'x': expected a category .* got {value and 2}"):
            program.row({"x": value})
        with pytest.raises(InputError, match="row 1, input 'x': expected a category"):
            program.batch({"x": [1.0, value], "y": [0.0, 0.0]})


@pytest.mark.parametrize(
    ("op", "words"),
    [
        ({"op": "map", "keys": [1.0, 1.0], "values": [0, 0]}, "keys must rise strictly"),
        ({"op": "map", "keys": [1.0], "values": []}, "expected one value for each of 1 keys"),
        ({"op": "map", "keys": [1.0], "values": [math.inf]}, "map values must be"),
        (
            {"op": "map", "keys": [1.0], "values": [1], "refuse": "all"},
            "map refuse must be one of unknown, unknown_or",
        ),
        ({"op": "affine", "factor": "x"}, "affine factor must be"),
        ({"op": "one_hot", "n": 2, "names": ["a"]}, "expected one name for each of 2 codes"),
    ],
)
def test_constants_of_maps_are_checked(op, words):
    with pytest.raises(ProgramError, match=words):
        t.number("x").then(op)


def test_columns_of_codes_can_have_names():
    feature = t.number("x").then({"op": "one_hot", "n": 2, "names": ["no", "yes"]})
    assert t.FeatureProgram.fit([feature], {"x": [0.0]}).output_names == ("x=no", "x=yes")
