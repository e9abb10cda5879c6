"""ONNX Runtime gives, for an exported program, the results of the program itself, row by row."""

import hypothesis.strategies as st
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings

from engine import transform as t
from engine.errors import MissingDependencyError, ProgramError

numbers = st.one_of(
    st.none(),
    st.integers(-1000, 1000),
    st.floats(-1e6, 1e6),
    st.sampled_from([0.0, -0.0, -1.0, 1e-12, 5e-324, 1e308, float("inf"), float("-inf")]),
)
texts = st.one_of(st.none(), st.sampled_from(["a", "b", "", "Zürich", "new", "<other>"]), st.text(max_size=3))
FIT = {
    "x": [1.0, None, 2.5, -3.0, 7.0, 0.0],
    "y": [0.5, 1.0, 2.0, 4.0, None, 9.0],
    "c": ["a", "Zürich", None, "a", "b", ""],
    "v": [[1.0, 2.0, None], [0.0, 3.0, 1.0], None, [1, 1, 1], [2, 2, 2], [5, 6, 7]],
    "label": [1, 0, 0, 1, 1, 0],
}
x, y, c, v = t.number("x"), t.number("y"), t.category("c"), t.vector("v", 3)

SAME_BITS = {
    "plain": x,
    "mean": x.impute("mean").standardise(),
    "median": x.impute("median").robust(),
    "frequent": x.impute("most_frequent").min_max(),
    "constant": x.impute(1.5).clip(-2, 3),
    "low": x.clip(low=0),
    "missing": x.missing(),
    "root": x.sqrt(),
    "left": x.bucketize([-1.0, 0.0, 3.5]),
    "right": x.bucketize([-1.0, 0.0, 3.5], edge="right"),
    "quantiles": x.bucketize(quantiles=3).one_hot(),
    "difference": t.difference(x, y.impute(0.0)),
    "product": t.product(x, t.product(x, y)),
    "ratio": t.ratio(x, y),
    "zero": t.ratio(x, t.difference(y, y), when_zero=4.0).clip(high=3.0),
    "ordinal": c.ordinal(),
    "codes": c.ordinal(["a", "b"], unknown=5, missing=6),
    "imputed": c.impute("most_frequent").ordinal(),
    "elsewhere": c.impute_constant("nowhere").ordinal(),
    "one_hot": c.one_hot(),
    "filled": c.impute("most_frequent").one_hot(),
    "count": c.count(),
    "target": c.target("label"),
    "scaled": c.target("label").standardise(),
    "text_missing": c.missing(),
    "never_missing": c.impute_constant("a").missing(),
    "embed": c.embed({"a": [0.1, 2.0], "Zürich": [-1.0, 1e30]}),
    "embed_unknown": c.embed({"a": [0.1, 2.0], "b": [-1.0, 1e30]}, unknown="b"),
    "affine": x.then({"op": "affine", "factor": 3.0, "offset": -0.1}),
    "map_number": x.then(
        {"op": "map", "keys": [-3.0, 0.0, 7.0], "values": [1.5, 2, -1], "unknown": 9, "missing": 4}
    ),
    "map_number_nan": x.then({"op": "map", "keys": [1.0], "values": [0.5]}),
    "map": c.then({"op": "map", "categories": ["a", "b"], "values": [1.5, -2], "unknown": 9}),
    "map_names": c.then(
        {"op": "map", "categories": ["a", "b"], "values": [1, 0], "unknown": 2, "missing": 2}
    ).then({"op": "one_hot", "n": 3, "names": ["b", "a", "other"]}),
    "crossed": t.cross(c.ordinal(), x.bucketize([0.0, 2.0])),
    "crossed_one_hot": t.cross(c.ordinal(["", "a"]), c.ordinal()).one_hot(),
    "vector": v,
    "component": v[1].standardise(),
    "of_component": t.ratio(v[0], x),
}
NEARLY = {
    "log": x.log1p(),
    "cyclic": x.cyclic(7.0),
    "square": x.power(2),
    "inverse": x.power(-1),
    "share": x.power(0.5).clip(high=1e30),
    "cubic": x.clip(-100, 100).power(3),
}


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A function that runs a program as an ONNX graph."""

    def exported(spec):
        program = t.FeatureProgram.fit([feature.named(name) for name, feature in spec.items()], FIT)
        path = tmp_path_factory.mktemp("onnx") / "features.onnx"
        program.to_onnx(path)
        session = onnxruntime.InferenceSession(path)
        assert session.get_modelmeta().custom_metadata_map["engine.digest"] == program.digest

        def run(rows):
            feeds = {}
            for name, value in (("x", np.nan), ("y", np.nan), ("c", "<missing>"), ("v", [np.nan] * 3)):
                column = [value if row[name] is None else row[name] for row in rows]
                dtype = object if name == "c" else np.float64
                feeds[name] = np.array(column, dtype).reshape(len(rows), -1)
            used = {item.name: feeds[item.name] for item in session.get_inputs()}
            return session.run(None, used)[0]

        return program, run

    return exported


@pytest.fixture(scope="module")
def same_bits(export):
    return export(SAME_BITS)


@pytest.fixture(scope="module")
def nearly(export):
    return export(NEARLY)


vectors = st.one_of(st.none(), st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
rows = st.lists(
    st.fixed_dictionaries({"x": numbers, "y": numbers, "c": texts, "v": vectors}), min_size=1, max_size=9
)


@settings(max_examples=150, deadline=None)
@given(drawn=rows)
def test_the_same_bits(same_bits, drawn):
    program, run = same_bits
    expected, got = program.batch(drawn), run(drawn)
    for row, (ours, theirs) in enumerate(zip(expected, got, strict=True)):
        # A NaN is a NaN: which one, a runtime may choose.
        different = (ours.view(np.uint32) != theirs.view(np.uint32)) & ~(np.isnan(ours) & np.isnan(theirs))
        names = [program.output_names[i] for i in np.flatnonzero(different)]
        assert not names, (drawn[row], names, ours[different], theirs[different])


@settings(max_examples=150, deadline=None)
@given(drawn=rows)
def test_nearly_the_same(nearly, drawn):
    program, run = nearly
    np.testing.assert_allclose(run(drawn), program.batch(drawn), rtol=1e-6, atol=1e-6)


@t.function
def twice(a):
    return a * 2.0


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        (c.hash(buckets=9), "feature 'c' cannot be exported: op 'hash': ONNX has no XXH64"),
        (c.tokens(4), "op 'tokens': ONNX has no XXH64"),
        (c.length().log1p(), "op 'length': ONNX has no length of a text"),
        (
            t.cross(c, c, buckets=5).named("pair"),
            "feature 'pair' cannot be exported: cross: ONNX has no XXH64",
        ),
        (twice(x), "function: a function of your own is native code"),
        (t.ratio(twice(x), y), "function: a function of your own is native code"),
        (t.timestamp("at", zone="UTC").part("hour"), "timestamp: ONNX has no time zones"),
        (t.geo_distance(x, x, y, y), "geo_distance: runtimes compute"),
        (c.one_hot(["<missing>"]), "'<missing>' is one of its categories; declare another missing_text"),
    ],
)
def test_a_feature_that_onnx_cannot_express_is_refused_by_name(feature, words, tmp_path):
    program = t.FeatureProgram.fit([feature], {**FIT, "at": ["2024-01-01T00:00:00Z"] * 6})
    with pytest.raises(ProgramError, match=words):
        program.to_onnx(tmp_path / "features.onnx")
    assert list(tmp_path.iterdir()) == []


def test_another_word_for_the_missing(tmp_path):
    program = t.FeatureProgram.fit([t.category("c").one_hot(["<missing>", "a"])], {"c": ["a"]})
    program.to_onnx(tmp_path / "f.onnx", missing_text="?")
    session = onnxruntime.InferenceSession(tmp_path / "f.onnx")
    fed = np.array([["<missing>"], ["a"], ["?"]], object)
    assert session.run(None, {"c": fed})[0].tolist() == [[1, 0], [0, 1], [0, 0]]


def test_without_onnx_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"deadline-engine\[onnx\]"):
        t.FeatureProgram.fit([x], FIT).to_onnx(tmp_path / "f.onnx")
