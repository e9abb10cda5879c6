"""The examples of docs/features.md run as printed."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "features.md"


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {})
