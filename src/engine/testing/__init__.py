"""For tests of what stands on an engine: models that fail, stall or answer late on a plan."""
