"""Building a version: the bytes of its parts, a check that they fit, and the manifest that names them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine._common import canonical
from engine.errors import EngineError, RegistryError
from engine.model.golden import Golden
from engine.registry import artifacts, lineage, manifest

Stored = dict[str, tuple[bytes, str]]  # role -> (bytes, format)


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The arguments of `ModelRegistry.register`, unchecked."""

    primary: Any
    fallback: Any
    default: Any
    program: Any
    golden: Any
    reference: Any
    policy: Mapping[str, Any] | None
    metrics: Mapping[str, float] | None
    lineage: Mapping[str, Any] | None
    classes: Sequence[Any] | None = None
    artifacts: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A manifest without the digests of its artifacts, and the artifacts' contents."""

    body: dict[str, Any]
    stored: Stored

    @property
    def contents(self) -> list[bytes]:
        """The artifacts' bytes, in the order that `manifest` expects."""
        return [content for content, _ in self.stored.values()]

    def manifest(self, digests: Sequence[str]) -> bytes:
        """Return the manifest's bytes, given a digest for each of `contents`."""
        artifacts = {
            role: {"digest": digest, "size": len(content), "format": kind}
            for (role, (content, kind)), digest in zip(self.stored.items(), digests, strict=True)
        }
        return manifest.canonical({**self.body, "artifacts": artifacts})


def built(name: str, parts: Parts, *, trust: bool, code: Path | None) -> Draft:
    """Return a version that is complete but not stored.

    Args:
        trust: accept pickles.
        code: the folder whose git commit is recorded; None for none.

    Raises:
        RegistryError: a part cannot be stored, or does not fit the others.
    """
    stored: Stored = {"primary": artifacts.to_bytes("primary", parts.primary, trust=trust)}
    if parts.fallback is not None:
        stored["fallback"] = artifacts.to_bytes("fallback", parts.fallback, trust=trust)
    if parts.program is not None:
        stored["program"] = artifacts.program_text(parts.program), "engine.features"
    if parts.reference is not None:
        stored["reference"] = _reference(parts.reference), "json"
    body: dict[str, Any] = {
        "format": manifest.FORMAT,
        "version": manifest.FORMAT_VERSION,
        "name": name,
        "default": manifest.checked_default(parts.default),
        "policy": manifest.checked_policy(parts.policy),
        "metrics": manifest.checked_metrics(parts.metrics),
        "shape": None,
    }
    if (classes := manifest.checked_classes(parts.classes)) is not None:
        body["classes"] = classes
    if not (parts.fallback is None and parts.program is None and parts.golden is None and classes is None):
        body["shape"] = _tried(stored, parts.golden, body["default"], trust)
        _require_answers(classes, body["shape"]["n_outputs"])
    body["lineage"] = _lineage(parts.lineage, stored, code)
    stored |= artifacts.attached(parts.artifacts)
    return Draft(body, stored)


def _tried(stored: Stored, golden: Any, default: Any, trust: bool) -> dict[str, int]:
    """Load the parts from their stored bytes, check that they fit, add the golden rows, and return the shape."""
    primary = artifacts.from_bytes("the primary", stored["primary"][0], trust=trust)
    if "fallback" in stored:
        spare = artifacts.from_bytes("the fallback", stored["fallback"][0], trust=trust)
        if (spare.n_features, spare.n_outputs) != (primary.n_features, primary.n_outputs):
            raise RegistryError(
                f"primary and fallback must agree: {primary.n_features} features and {primary.n_outputs} outputs, got "
                f"{spare.n_features} and {spare.n_outputs}"
            )
        if not spare.native:
            raise RegistryError(f"the fallback must be native, got format {spare.format!r}")
    if "program" in stored:
        _require_width(stored["program"][0], primary.n_features)
    if isinstance(default, list) and len(default) != primary.n_outputs:
        raise RegistryError(f"the default must have {primary.n_outputs} values, got {len(default)}")
    if golden is not None:
        stored["golden"] = _golden(primary, golden).to_bytes(), "npy"
    return {"n_features": primary.n_features, "n_outputs": primary.n_outputs}


def _require_answers(classes: list[Any] | None, n_outputs: int) -> None:
    """Raise where a model with several outputs has another number of classes. One output may be a code or a share."""
    if classes is not None and n_outputs not in (1, len(classes)):
        raise RegistryError(
            f"the primary gives {n_outputs} answers a row, but there are {len(classes)} classes"
        )


def _golden(primary: Any, golden: Any) -> Golden:
    try:
        if isinstance(golden, np.ndarray):
            golden = (golden, primary.predict(golden))
        checked = manifest.checked_golden(golden)
        wrong = checked.mismatch(primary.predict(checked.rows))
    except RegistryError:
        raise
    except EngineError as error:
        raise RegistryError(f"golden rows: {error}") from error
    if wrong:
        raise RegistryError(f"the primary as stored does not answer as expected: {wrong}")
    return checked


def _lineage(given: Mapping[str, Any] | None, stored: Stored, code: Path | None) -> dict[str, Any]:
    found = dict(given or {})
    found.setdefault("environment", lineage.environment())
    if "code" not in found and code is not None:
        found["code"], diff = lineage.code(code)
        if diff:
            stored["diff"] = diff, "diff"
    return found


def _reference(reference: Any) -> bytes:
    found = reference.to_json() if hasattr(reference, "to_json") else reference
    try:
        body = json.loads(found) if isinstance(found, str | bytes) else found
        return canonical.to_bytes(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise RegistryError(f"the reference must be plain JSON: {error}") from None


def _require_width(program: bytes, n_features: int) -> None:
    try:
        outputs = json.loads(program)["outputs"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RegistryError(f"the program was not written by FeatureProgram.save: {error!r}") from None
    if len(outputs) != n_features:
        raise RegistryError(
            f"the program must make the primary's {n_features} features, got {len(outputs)}: {outputs[:8]}"
        )
