"""Each operation on categories against values worked out by hand or published."""

import math

import numpy as np
import pytest

from engine import transform as t
from engine.errors import InputError, ProgramError
from engine.transform._program import xxh64

# From the checks that the xxHash project publishes, seed 0.
XXH64_ABC = 0x44BC2CF5AD770999


def outputs(feature, learn, values):
    program = t.FeatureProgram.fit([feature], {"c": learn})
    return program.batch({"c": values}).T.tolist()


def test_ordinal_codes_follow_code_points_and_unknown_is_minus_one():
    (column,) = outputs(
        t.category("c").ordinal(), ["b", "a", None, "Z", "é"], ["Z", "a", "b", "é", "new", None]
    )
    assert column[:5] == [0, 1, 2, 3, -1]
    assert math.isnan(column[5])


def test_ordinal_takes_categories_and_codes_that_are_declared():
    feature = t.category("c").ordinal(["low", "high"], unknown=9, missing=8)
    assert outputs(feature, ["x"], ["high", "low", "x", None]) == [[1, 0, 9, 8]]


def test_one_hot_has_no_column_for_the_unknown_and_the_missing():
    assert outputs(t.category("c").one_hot(), ["b", "a"], ["a", "b", "new", None]) == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
    ]


def test_hash_is_xxh64_of_the_utf8_bytes():
    assert xxh64(b"abc") == XXH64_ABC
    feature = t.category("c").hash(buckets=1000)
    (column,) = outputs(feature, ["x"], ["abc", "", None])
    assert column[:2] == [XXH64_ABC % 1000, 0xEF46DB3751D8E999 % 1000]
    assert math.isnan(column[2])
    assert outputs(t.category("c").hash(buckets=1 << 24, seed=7, missing=-1), ["x"], ["Zürich", None]) == [
        [xxh64("Zürich".encode(), 7) % (1 << 24), -1]
    ]


def test_cross_hashes_both_texts_in_order():
    spec = [t.cross(t.category("a"), t.category("b"), buckets=1 << 20, seed=3)]
    program = t.FeatureProgram.fit(spec, {"a": ["x"], "b": ["y"]})
    assert program.row({"a": "x", "b": "y"}).tolist() == [xxh64(b"y", xxh64(b"x", 3)) % (1 << 20)]
    assert math.isnan(program.row({"a": "x"})[0])


def test_impute_count_length_and_missing():
    learn = ["b", "a", None, "b", "a", "c"]
    assert outputs(t.category("c").impute("most_frequent").ordinal(), learn, [None, "c"]) == [[0, 2]]
    assert outputs(t.category("c").impute_constant("?").ordinal(), learn, [None, "?", "a"]) == [[0, 0, 1]]
    assert outputs(t.category("c").count(), learn, ["a", "c", "new"]) == [[2, 1, 0]]
    assert outputs(t.category("c").length(), learn, ["", "é", "abc"]) == [[0, 2, 3]]
    assert outputs(t.category("c").missing(), learn, ["", None]) == [[0, 1]]


def test_numbers_that_are_equal_are_one_category():
    import numpy as np

    feature = t.category("c").ordinal(["7", "0", "1", "-9223372036854775808"])
    values = [7, 7.0, "7", np.int64(7), np.float32(7), -0.0, True, -(2**63), math.nan]
    (column,) = outputs(feature, ["x"], values)
    assert column[:8] == [0, 0, 0, 0, 0, 1, 2, 3]
    assert math.isnan(column[8])


@pytest.mark.parametrize("value", [2.5, math.inf, 2**63, 1e300])
def test_numbers_that_are_no_category_are_refused(value):
    program = t.FeatureProgram.fit([t.category("c").ordinal()], {"c": ["x"]})
    with pytest.raises(InputError, match=r"input 'c'.*whole and within 64 bits"):
        program.row({"c": value})
    with pytest.raises(InputError, match=r"row 1, input 'c'.*whole"):
        program.batch({"c": ["x", value]})


def test_long_and_empty_texts_are_texts():
    long = "x" * 1_000_000
    assert outputs(t.category("c").ordinal(), [long, ""], ["", long, long[1:]]) == [[0, 1, -1]]


@pytest.mark.parametrize(
    "build",
    [
        lambda: t.category("c").hash(buckets=0),
        lambda: t.category("c").hash(buckets=(1 << 24) + 1),
        lambda: t.category("c").hash(buckets=8, seed=-1),
        lambda: t.category("c").impute("mean"),
        lambda: t.category("c").impute_constant("\ud800"),
        lambda: t.category("c").ordinal(["a", "a"]),
        lambda: t.category("c").ordinal([1]),
        lambda: t.category("c").standardise(),
        lambda: t.category("c").one_hot().impute(0),
        lambda: t.cross(t.number("x"), t.category("c"), buckets=4),
    ],
)
def test_nonsense_is_refused_where_it_is_written(build):
    with pytest.raises(ProgramError):
        build()


def test_a_feature_that_ends_as_a_category_is_refused():
    with pytest.raises(ProgramError, match="'c' ends as a category"):
        t.FeatureProgram.fit([t.category("c")], {"c": ["x"]})


def test_learning_from_nothing_but_missing_is_refused():
    with pytest.raises(ProgramError, match="feature 'c': op 'ordinal' has nothing to learn from"):
        t.FeatureProgram.fit([t.category("c").ordinal()], {"c": [None]})


TARGETS = {"c": ["a", "a", "b", None], "y": [1.0, 0.0, 1.0, 0.0]}


def test_target_is_the_smoothed_mean_of_the_label():
    # The prior is 1/2; a: (1 + 2/2) / (2 + 2), b: (1 + 2/2) / (1 + 2).
    program = t.FeatureProgram.fit([t.category("c").target("y", smoothing=2)], TARGETS)
    assert program.input_names == ("c",)
    (column,) = program.batch({"c": ["a", "b", "new", None]}).T.tolist()
    assert column[0] == 0.5
    assert column[1] == pytest.approx(2 / 3, rel=1e-7)
    assert column[2] == 0.5
    assert math.isnan(column[3])


def test_rows_to_train_on_have_not_seen_their_own_label():
    spec = [t.category("c").target("y", smoothing=0).impute(9.0), t.category("c").length().named("n")]
    program, rows = t.FeatureProgram.fit_batch(spec, TARGETS, folds=2)
    assert program.digest == t.FeatureProgram.fit(spec, TARGETS).digest
    # Row 0 sees rows 1 and 3, where a is 0; row 1 sees rows 0 and 2, where a is 1; row 2's b is unknown to
    # rows 1 and 3, whose prior is 0; row 3 has no category.
    assert rows[:, 0].tolist() == [0.0, 1.0, 0.0, 9.0]
    assert rows[:, 1].tobytes() == program.batch(TARGETS)[:, 1].tobytes()
    assert program.batch(TARGETS)[:, 0].tolist() == [0.5, 0.5, 1.0, 9.0]


def test_target_needs_its_label_in_every_row_and_a_sensible_number_of_folds():
    spec = [t.category("c").target("y")]
    with pytest.raises(InputError, match="no column 'y'"):
        t.FeatureProgram.fit(spec, {"c": ["a"]})
    with pytest.raises(ProgramError, match="feature 'c': op 'target' needs a finite value of 'y'"):
        t.FeatureProgram.fit(spec, {"c": ["a", "b"], "y": [1.0, None]})
    for folds, words in ((1, "from 2 to 4, got 1"), (5, "from 2 to 4, got 5"), (True, "got bool True")):
        with pytest.raises(ProgramError, match=f"folds must be an int.*{words}"):
            t.FeatureProgram.fit_batch(spec, TARGETS, folds=folds)


def test_map_gives_the_number_of_a_category():
    op = {"op": "map", "categories": ["a", "b"], "values": [2.5, -1]}
    given = t.category("c").then({**op, "unknown": 9, "missing": 7})
    assert outputs(given, ["x"], ["b", "a", "x", None]) == [[-1.0, 2.5, 9.0, 7.0]]
    assert all(map(math.isnan, outputs(t.category("c").then(op), ["x"], ["x", None])[0]))


def test_map_can_refuse_a_row_and_names_the_category():
    op = {"op": "map", "categories": ["a"], "values": [1], "refuse": "unknown_or_missing"}
    program = t.FeatureProgram.fit(
        [t.category("d").ordinal(), t.category("c").then(op)], {"c": ["a"], "d": ["x"]}
    )
    assert program.row({"c": "a"}).tolist()[1] == 1.0
    for value, shown in (("Zürich", "'Zürich'"), (None, "None"), (7, "'7'"), (np.int64(7), "'7'")):
        with pytest.raises(InputError, match=f"^input 'c': expected a category .*, got {shown};"):
            program.row({"c": value})
        with pytest.raises(InputError, match=f"^row 1, input 'c': expected a category .*, got {shown};"):
            program.batch([{"c": "a"}, {"c": value}])
    filled = t.category("c").impute_constant("a").then(op)
    assert outputs(filled, ["x"], ["a", None]) == [[1.0, 1.0]]
    with pytest.raises(InputError, match=r"input 'c': .*got 'b'"):
        outputs(filled, ["x"], ["a", "b"])


@pytest.mark.parametrize(
    ("op", "words"),
    [
        ({"categories": ["a", "a"], "values": [0, 0]}, "a category is given twice"),
        ({"categories": ["a"], "values": [0, 1]}, "expected one value for each of 1 keys"),
        ({"categories": ["a"], "values": [0], "refuse": True}, "map refuse must be one of"),
    ],
)
def test_constants_of_a_map_are_checked(op, words):
    with pytest.raises(ProgramError, match=words):
        t.category("c").then({"op": "map", **op})


def test_a_category_that_is_only_imputed_is_no_output():
    with pytest.raises(
        ProgramError, match="feature 'c' ends as a category: add ordinal, one_hot, hash or count"
    ):
        t.FeatureProgram.fit([t.category("c").impute_constant("a")], {"c": ["a"]})
