"""The examples of docs/feature_store.md and of FeatureStore's docstring run as printed."""

import doctest
import re

import engine.feature_store.store as store


def test_the_document_runs(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^```python\n(.*?)^```", (root / "docs" / "feature_store.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


def test_the_docstring_runs():
    assert doctest.testmod(store).attempted > 0
    assert doctest.testmod(store).failed == 0
