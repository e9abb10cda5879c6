"""The sources of a feature: an input, or a combination of features. As Python calls, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.errors import ProgramError
from engine.transform import date_ops, text_ops, vector_ops
from engine.transform.ops import finite, optional_finite, whole
from engine.transform.plan import NUMBER, TEXT, TIMESTAMP, VECTOR, NativeFunction
from engine.transform.spec import Feature, name_of

#: The mean radius of the Earth.
EARTH_KM = 6371.0088
#: Combination -> (kind of its parts, how many). A function says itself how many it takes.
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
    """Start a feature from a number input: int, float, bool, a NumPy scalar, Decimal or Fraction.

    Without ops the number passes through, NaN where missing.

    Args:
        name: of the input: a key of rows, a column of tables.

    Raises:
        ProgramError: an empty name.
    """
    return Feature(NUMBER, input=name_of(name, "an input"))


def category(name: str) -> Feature:
    """Start a feature from a category input: text, or a whole number, which is read as its decimal digits.

    Args:
        name: of the input: a key of rows, a column of tables.

    Raises:
        ProgramError: an empty name.
    """
    return Feature(TEXT, input=name_of(name, "an input"))


def timestamp(name: str, *, zone: str, naive: str | None = None) -> Feature:
    """Start a feature from a timestamp input: a datetime, a datetime64 or ISO 8601 text, cut to the microsecond.

    Args:
        name: of the input: a key of rows, a column of tables.
        zone: the time zone in which `.part(…)` reads the clock and the calendar, as "Europe/Berlin" or "UTC".
        naive: "utc" reads a timestamp without a time zone as UTC; None refuses it.

    Raises:
        ProgramError: an empty name, or an unknown time zone.
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
    """Start a feature from a vector input. It gives one column for each number; `[i]` takes one that ops can follow.

    Args:
        name: of the input: a key of rows, a column of tables.
        size: how many numbers a vector has, 1 to 65,536.

    Raises:
        ProgramError: an empty name, or another size.
    """
    whole(f"vector {name!r} size", size, 1, vector_ops.COLUMNS_MAX)
    return Feature(VECTOR, input=name_of(name, "an input"), parameters=(("size", size),))


def difference(a: Feature, b: Feature) -> Feature:
    """Give a - b of two numbers; NaN where either is missing. Raise ProgramError for other features."""
    return _combination("difference", a, b)


def product(a: Feature, b: Feature) -> Feature:
    """Give a * b of two numbers; NaN where either is missing. Raise ProgramError for other features."""
    return _combination("product", a, b)


def ratio(a: Feature, b: Feature, *, when_zero: float | None = None) -> Feature:
    """Give a / b of two numbers; NaN where either is missing.

    Args:
        when_zero: the result where b is zero; None gives NaN.

    Raises:
        ProgramError: other features, or a `when_zero` that is not finite.
    """
    return _combination("ratio", a, b, when_zero=optional_finite("ratio when_zero", when_zero))


def cross(a: Feature, b: Feature, *, buckets: int | None = None, seed: int = 0) -> Feature:
    """Give one number for each pair of categories; NaN where either is missing.

    With `buckets`, a and b are categories, and the result is XXH64(b, seed=XXH64(a, seed)) % buckets. Without, a and b
    are features that end in `ordinal` or `bucketize`, and the result is a * (codes of b) + b: one code for each pair,
    which `one_hot` can follow. NaN also where an ordinal does not know its category.

    Args:
        buckets: 1 to 2^24, or None.
        seed: 0 to 2^64 - 1, with `buckets` alone.

    Raises:
        ProgramError: other features, buckets or seeds.
    """
    if buckets is None:
        return _combination("cross_codes", a, b)
    whole("cross buckets", buckets, 1, text_ops.CODES_MAX)
    whole("cross seed", seed, 0, 2**64 - 1)
    return _combination("cross", a, b, buckets=buckets, seed=seed)


def geo_distance(
    latitude: Feature,
    longitude: Feature,
    to_latitude: Feature,
    to_longitude: Feature,
    *,
    radius_km: float = EARTH_KM,
) -> Feature:
    """Give the kilometres between two places along the surface of a sphere, by the haversine formula.

    All parts are number features in degrees. NaN where one is missing or a latitude is beyond the poles. Because the
    Earth is no exact sphere, the result is up to 0.6 % off.

    Args:
        radius_km: of the sphere, above zero.

    Raises:
        ProgramError: other features, or another radius.
    """
    if finite("geo_distance radius_km", radius_km) <= 0.0:
        raise ProgramError(f"geo_distance: the radius must be above zero, got {radius_km}")
    parts = (latitude, longitude, to_latitude, to_longitude)
    return _combination("geo_distance", *parts, radius_km=float(radius_km))


def apply_function(function: NativeFunction, arguments: Sequence[Feature]) -> Feature:
    """Give a function of number features. Raise ProgramError for another number or kind of features."""
    if len(arguments) != function.n_arguments:
        raise ProgramError(f"{function.name} takes {function.n_arguments} features, got {len(arguments)}")
    made = _combination("function", *arguments)
    return replace(made, function=function)


_KEYS = frozenset(["type", "input", "of", "ops", "name", "when_zero", "buckets", "seed", "zone", "naive"])
_KEYS |= {"size", "index", "radius_km", "function"}


def feature_from_json(found: Any, functions: Mapping[str, NativeFunction] | None = None) -> Feature:
    """Return the feature that JSON describes, as `Feature.to_json` gives it or written by hand.

    Args:
        functions: the functions that it may call, by name.

    Raises:
        ProgramError: an unknown key, type, op or function, or a value that is not accepted; says which.
    """
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


def _source_from_json(found: dict[str, Any], functions: Mapping[str, NativeFunction]) -> Feature:
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
        return geo_distance(*parts, radius_km=found.get("radius_km", EARTH_KM))
    if kind == "ratio":
        return ratio(*parts, when_zero=found.get("when_zero"))
    if kind == "cross":
        return cross(*parts, buckets=found.get("buckets", 0), seed=found.get("seed", 0))
    return _combination(kind, *parts)


def _known_function(found: Any, functions: Mapping[str, NativeFunction]) -> NativeFunction:
    """Return the caller's function of that name. Raise ProgramError unless its digest is the frozen one."""
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
