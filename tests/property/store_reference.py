"""The slow, obvious reference of the feature store, which the package carries for the conformance suite of stores."""

from engine.feature_store.testing.reference import row_at, view_rows, windows_at

__all__ = ["row_at", "view_rows", "windows_at"]
