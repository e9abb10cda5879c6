"""The manifest: one JSON object that describes a version and names its artifacts by digest.

The manifest's own digest is the version's. Nothing in it depends on the time or the place of writing, so
registering the same bundle twice gives the same version.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from engine._common import canonical as canonical_json
from engine._common.options import POLICY
from engine.errors import RegistryError
from engine.model.golden import Golden

FORMAT = "engine.bundle"
FORMAT_VERSION = 1
MANIFEST_BYTES_MAX = 4 << 20
GOLDEN_BYTES_MAX = 64 << 20


def checked_golden(golden: Any) -> Golden:
    """Return golden rows, as given to `register`, copied. Raises RegistryError for rows that cannot be compared."""
    try:
        rows, values = (golden.rows, golden.values) if isinstance(golden, Golden) else golden
    except (TypeError, ValueError):
        raise RegistryError(f"golden must be (rows, values), got {type(golden).__name__}") from None
    checked = Golden.of(rows, values, error=RegistryError)
    if checked.rows.nbytes + checked.values.nbytes > GOLDEN_BYTES_MAX:
        raise RegistryError(f"golden rows may have {GOLDEN_BYTES_MAX:,} bytes; a few hundred rows are enough")
    return checked


def canonical(body: Mapping[str, Any]) -> bytes:
    """Return the manifest's bytes as canonical JSON. Raises RegistryError if a value is no JSON, or it is too long."""
    try:
        content = canonical_json.to_bytes(body, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise RegistryError(f"metrics, policy and lineage must be plain JSON: {error}") from None
    if len(content) > MANIFEST_BYTES_MAX:
        raise RegistryError(
            f"metrics and lineage may have {MANIFEST_BYTES_MAX:,} bytes as JSON, got {len(content):,}"
        )
    return content


def read(content: bytes, name: str) -> dict[str, Any]:
    """Return a manifest whose digest has been checked. Raises RegistryError for another format or name."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"a manifest of {name!r} is no JSON: {error}") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise RegistryError(f"a manifest of {name!r}: expected an object with format {FORMAT!r}")
    if body.get("version") != FORMAT_VERSION:
        raise RegistryError(
            f"a manifest of {name!r} has version {body.get('version')!r}; this build reads {FORMAT_VERSION}"
        )
    if body.get("name") != name:
        raise RegistryError(f"a manifest of {name!r} says that it is of {body.get('name')!r}")
    return body


def checked_metrics(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return metrics as finite numbers by name. Raises RegistryError for anything else."""
    found = {}
    for key, value in dict(metrics or {}).items():
        value = _plain(value) if isinstance(value, np.generic) else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RegistryError(f"metrics[{key!r}] must be a finite number, got {value!r:.80}")
        found[str(key)] = value
    return found


def checked_policy(policy: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a policy: known options of Engine, numbers and texts. Engine checks their ranges. Raises RegistryError."""
    found = dict(policy or {})
    unknown = sorted(set(map(str, found)) - set(POLICY))
    if unknown:
        raise RegistryError(f"policy has no {', '.join(unknown)}; there are: {', '.join(POLICY)}")
    for key, value in found.items():
        if not isinstance(value, bool | int | float | str):
            raise RegistryError(f"policy[{key!r}] must be a number or text, got {value!r:.80}")
    return found


def checked_default(default: Any) -> float | list[float] | None:
    """Return a default: a number, several, or None. Raises RegistryError; a function cannot be stored."""
    if default is None:
        return None
    try:
        found = np.asarray(default, dtype=np.float64)
    except (TypeError, ValueError):
        found = None
    if found is None or found.ndim > 1 or not np.isfinite(found).all():
        raise RegistryError(
            f"the default must be a finite number, or one for each output, got {default!r:.80}"
        )
    return float(found) if found.ndim == 0 else [float(value) for value in found]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | set | frozenset):
        return sorted(value) if isinstance(value, set | frozenset) else value.tolist()
    return str(value)
