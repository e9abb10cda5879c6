"""Models with planned faults, for demos, benchmarks and your own tests."""

from engine.testing.faults import FaultyModel, corrupting, failing, hanging, slow, stalling

__all__ = ["FaultyModel", "corrupting", "failing", "hanging", "slow", "stalling"]
