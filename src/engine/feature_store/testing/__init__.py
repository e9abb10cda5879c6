"""Conformance suites for stores of your own, run by pytest: one test for each promise that the feature store relies on.

`OnlineStoreConformance` is for online stores. Subclass it in a test file and say how a store is opened.
"""

import pytest

# So that a failed assertion in a suite shows its values.
pytest.register_assert_rewrite("engine.feature_store.testing.online", "engine.feature_store.testing.offline")

from engine.feature_store.testing.online import OnlineStoreConformance  # noqa: E402

__all__ = ["OnlineStoreConformance"]
