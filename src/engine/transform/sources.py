"""What a feature starts from: an input or a combination of features, as Python calls and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.errors import ProgramError
from engine.transform import date_ops, text_ops, vector_ops
from engine.transform.functions import UserFunction
from engine.transform.ops import number as number_of
from engine.transform.ops import optional_number, whole
from engine.transform.plan import NUMBER, TEXT, TIMESTAMP, VECTOR
from engine.transform.spec import Feature, name_of

#: Of each combination: what its parts are, and how many; 0 is for the function to say.
COMBINATIONS = {
    "difference": (NUMBER, 2),
    "ratio": (NUMBER, 2),
    "product": (NUMBER, 2),
    "cross": (TEXT, 2),
    "cross_codes": (NUMBER, 2),
    "geo_distance": (NUMBER, 4),
    "function": (NUMBER, 0),
}


def number(name: str) -> Feature:
    """A number input; without ops it passes through, NaN for what is missing."""
    return Feature(NUMBER, input=name_of(name, "an input"))


def category(name: str) -> Feature:
    """A category input: text, or whole numbers read as their digits."""
    return Feature(TEXT, input=name_of(name, "an input"))


def timestamp(name: str, *, zone: str, naive: str | None = None) -> Feature:
    """A timestamp input: a datetime, a datetime64 or ISO 8601 text, to the microsecond.

    Args:
        zone: where the clock hangs that `.part(…)` reads, "Europe/Berlin" say, or "UTC".
        naive: "utc" reads a timestamp that says no time zone as UTC; None refuses it.
    """
    if naive not in (None, "utc"):
        raise ProgramError(f"timestamp {name!r}: naive is 'utc' or None, got {naive!r}")
    if not isinstance(zone, str) or not zone:
        raise ProgramError(
            f"timestamp {name!r}: expected a time zone such as 'Europe/Berlin' or 'UTC', got {zone!r}"
        )
    date_ops.changes_of(zone)
    return Feature(TIMESTAMP, input=name_of(name, "an input"), parameters=(("naive", naive), ("zone", zone)))


def vector(name: str, size: int) -> Feature:
    """A vector input of `size` numbers: one column each, or by `[i]` a number that ops can follow."""
    whole(size, f"vector {name!r} size", 1, vector_ops.COLUMNS_MAX)
    return Feature(VECTOR, input=name_of(name, "an input"), parameters=(("size", size),))


def difference(a: Feature, b: Feature) -> Feature:
    """a - b; NaN where either is missing."""
    return _combination("difference", a, b)


def product(a: Feature, b: Feature) -> Feature:
    """a * b; NaN where either is missing."""
    return _combination("product", a, b)


def ratio(a: Feature, b: Feature, *, when_zero: float | None = None) -> Feature:
    """a / b; `when_zero` (None: NaN) where b is zero; NaN where either is missing."""
    return _combination("ratio", a, b, when_zero=optional_number(when_zero, "ratio when_zero"))


def cross(a: Feature, b: Feature, *, buckets: int | None = None, seed: int = 0) -> Feature:
    """Pairs of categories. With `buckets` of two texts: XXH64 of b's text, seeded by the XXH64 of a's text (seeded
    by `seed`), modulo `buckets`. Without, of two features that end in `ordinal` or `bucketize`: one code for each
    pair, place in a times b's categories plus place in b. NaN where either is missing, or unknown to an ordinal."""
    if buckets is None:
        return _combination("cross_codes", a, b)
    whole(buckets, "cross buckets", 1, text_ops.CODES_MAX)
    whole(seed, "cross seed", 0, 2**64 - 1)
    return _combination("cross", a, b, buckets=buckets, seed=seed)


def geo_distance(
    latitude: Feature,
    longitude: Feature,
    to_latitude: Feature,
    to_longitude: Feature,
    *,
    radius_km: float = 6371.0088,
) -> Feature:
    """Kilometres along the surface of a sphere between two places in degrees (haversine; the Earth is up to 0.6 %
    off a sphere). NaN where a part is missing or a latitude is beyond the poles."""
    if number_of(radius_km, "geo_distance radius_km") <= 0.0:
        raise ProgramError(f"geo_distance: the radius must be above zero, got {radius_km}")
    parts = (latitude, longitude, to_latitude, to_longitude)
    return _combination("geo_distance", *parts, radius_km=float(radius_km))


def apply_function(function: UserFunction, arguments: Sequence[Feature]) -> Feature:
    """The user's function of features."""
    if len(arguments) != function.n_arguments:
        raise ProgramError(f"{function.name} takes {function.n_arguments} features, got {len(arguments)}")
    made = _combination("function", *arguments)
    return replace(made, function=function)


_KEYS = frozenset(["type", "input", "of", "ops", "name", "when_zero", "buckets", "seed", "zone", "naive"])
_KEYS |= {"size", "index", "radius_km", "function"}


def feature_from_json(found: Any, functions: Mapping[str, UserFunction] | None = None) -> Feature:
    """A feature from `Feature.to_json` or from hand-written JSON; `functions` by name are the user's that it may
    call. Raises ProgramError saying what is wrong."""
    if not isinstance(found, dict):
        raise ProgramError(f"expected a feature as an object, got {found!r}")
    unknown = found.keys() - _KEYS
    if unknown:
        raise ProgramError(
            f"unknown key {min(map(str, unknown))!r} in a feature; expected: {', '.join(sorted(_KEYS))}"
        )
    made = _source_from_json(found, functions or {})
    if found.get("index") is not None:
        made = made[found["index"]]
    ops = found.get("ops", [])
    if not isinstance(ops, list):
        raise ProgramError(f"feature {made.label!r}: 'ops' is a list, got {ops!r}")
    for op in ops:
        made = made.then(op)
    return made if found.get("name") is None else made.named(found["name"])


def _source_from_json(found: dict[str, Any], functions: Mapping[str, UserFunction]) -> Feature:
    kind = found.get("type")
    if kind in (NUMBER, TEXT):
        return Feature(str(kind), input=name_of(found.get("input"), "an input"))
    if kind == TIMESTAMP:
        return timestamp(found.get("input", ""), zone=found.get("zone", ""), naive=found.get("naive"))
    if kind == VECTOR:
        return vector(found.get("input", ""), found.get("size", 0))
    if not isinstance(kind, str) or kind not in COMBINATIONS:
        known = ", ".join([NUMBER, TEXT, TIMESTAMP, VECTOR, *COMBINATIONS])
        raise ProgramError(f"unknown feature type {kind!r}; expected one of: {known}")
    of = found.get("of")
    if not isinstance(of, list):
        raise ProgramError(f"a {kind} is of a list of features, got {of!r}")
    parts = [feature_from_json(part, functions) for part in of]
    if kind == "function":
        return apply_function(_known_function(found.get("function"), functions), parts)
    if len(parts) != COMBINATIONS[kind][1]:
        raise ProgramError(f"a {kind} is of {COMBINATIONS[kind][1]} features, got {len(parts)}")
    if kind == "geo_distance":
        return geo_distance(*parts, radius_km=found.get("radius_km", 6371.0088))
    if kind == "ratio":
        return ratio(*parts, when_zero=found.get("when_zero"))
    if kind == "cross":
        return cross(*parts, buckets=found.get("buckets", 0), seed=found.get("seed", 0))
    return _combination(kind, *parts)


def _known_function(found: Any, functions: Mapping[str, UserFunction]) -> UserFunction:
    """The function handed over by the caller that is, to the letter, the one that was frozen."""
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise ProgramError(f"expected a function as an object with 'name' and 'digest', got {found!r}")
    known = functions.get(found["name"])
    if known is None:
        raise ProgramError(
            f"the program calls the function {found['name']!r}; hand it over: load(path, functions=[{found['name']}])"
        )
    if found.get("digest") != known.digest:
        raise ProgramError(
            f"the function {known.name!r} is not the one that the program was fitted with: its digest is "
            f"{known.digest}, expected {found.get('digest')}; fit again"
        )
    return known


def _combination(kind: str, *parts: Feature, **parameters: float | None) -> Feature:
    expected = COMBINATIONS[kind][0]
    for part in parts:
        if (
            not isinstance(part, Feature)
            or part.gives != expected
            or part.n_values > 1
            or (part.ops and part.ops[-1].final)
        ):
            count = {2: "two", 4: "four"}.get(COMBINATIONS[kind][1], "some")
            raise ProgramError(f"a {kind} is of {count} {expected} features of one column, got {part!r}")
    return Feature(kind, of=parts, parameters=tuple(sorted(parameters.items())))
