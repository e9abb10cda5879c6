"""Small models with known answers, for tests of the registry and the rollout."""

from __future__ import annotations

from pathlib import Path

from tests.unit.model.handmade_models import lightgbm_text, lightgbm_tree, stump


def constant(folder: Path, value: float, *, n_features: int = 2) -> Path:
    """A model file that answers `value` to every row."""
    path = folder / f"constant-{value}-{n_features}.txt"
    path.write_bytes(lightgbm_text([lightgbm_tree(leaf=str(value))], n_features=n_features))
    return path


def step(folder: Path, below: float, above: float) -> Path:
    """Answers `below` where feature 0 is at most 1.5, else `above`."""
    path = folder / f"step-{below}-{above}.txt"
    path.write_bytes(lightgbm_text([stump("1.5", 2, leaf=f"{below} {above}")]))
    return path


def overflowing(folder: Path, name: str = "overflowing") -> Path:
    """Answers 1 where feature 0 is at most 1.5, and else exp(1000), which is no finite number."""
    path = folder / f"{name}.txt"
    tree = stump("1.5", 2, leaf="0 1000")
    path.write_bytes(lightgbm_text([tree], objective="poisson", header=f"note={name}"))
    return path
