"""A frozen program with one part replaced, under a matching digest, works or is a ProgramError."""

import copy
import json
import os
import random

from engine import transform as t
from engine.errors import ProgramError
from engine.transform.frozen import digest_of

SPEC = [
    t.number("x").impute("mean").standardise(),
    t.number("x").min_max().named("m"),
    t.number("x").robust().clip(-1, 1).named("r"),
    t.number("x").bucketize([0.0, 1.0]).one_hot().named("b"),
    t.number("x").bucketize(quantiles=3).named("q"),
    t.number("x").cyclic(24).named("c"),
    t.category("k").impute("most_frequent").ordinal().named("o"),
    t.category("k").one_hot().named("h"),
    t.category("k").hash(buckets=8, seed=3, missing=1).named("s"),
    t.category("k").count().named("n"),
    t.category("k").target("y").named("t"),
    t.ratio(t.number("x"), t.number("y").log1p(), when_zero=1.0),
    t.cross(t.category("k"), t.category("k"), buckets=9),
    t.cross(t.category("k").ordinal(), t.number("x").bucketize([1.0])).one_hot().named("p"),
    t.number("x").power(1.5).named("w"),
    t.category("k").tokens(3, seed=4).named("k3"),
    t.category("k").embed({"a": [1.0, 2.0], "b": [3.0, 4.0]}, unknown="a").named("e"),
    t.geo_distance(t.number("x"), t.number("y"), t.number("y"), t.number("x")),
    t.timestamp("at", zone="Africa/Cairo").part("hour"),
    t.vector("v", 2),
    t.vector("v", 2)[1].named("v1"),
]
WRONG = [
    None,
    True,
    -1,
    0,
    2,
    2**70,
    0.5,
    -0.0,
    1e308,
    "",
    "x",
    "number",
    "\ud800",
    [],
    [0],
    ["a", "a"],
    [1, 0],
    {},
    {"op": 1},
]
SEED = int(os.environ.get("ENGINE_SEED", "20240607"))


def places(node, path=()):
    """Every path into a JSON value."""
    yield path
    for key, child in (
        node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    ):
        yield from places(child, (*path, key))


def replaced(body, path, value):
    out = copy.deepcopy(body)
    node = out
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return out


def test_a_damaged_program_is_refused_or_works():
    program = t.FeatureProgram.fit(
        SPEC,
        {
            "x": [0.0, 1.0, None, 4.0],
            "y": [1, 2, 3, 4],
            "k": ["a", "b", None, "a"],
            "v": [[1, 2]] * 4,
            "at": [None] * 4,
        },
    )
    body = json.loads(program.to_json())
    del body["digest"]
    draw = random.Random(SEED)
    refused, failures = 0, []
    for path in [path for path in places(body) if path]:
        for value in draw.sample(WRONG, 8):
            changed = replaced(body, path, value)
            changed["digest"] = digest_of(changed)
            try:
                other = t.FeatureProgram.from_json(json.dumps(changed))
            except ProgramError:
                refused += 1
                continue
            except Exception as error:
                failures.append(f"{'/'.join(map(str, path))} = {value!r}: {type(error).__name__}: {error}")
                continue
            values = {"number": 1.0, "category": "a"}
            row = [values.get(kind) for _, kind in other._inputs]
            assert other.row(row).shape == (other.n_outputs,)
    assert not failures, f"seed {SEED}"
    assert refused > 100
