"""The examples of docs/features.md run as printed."""

import re
import runpy
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "features.md"


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        # Each in a file of its own, because a function of the user's is compiled from its source.
        example = tmp_path / f"example_{number}.py"
        example.write_text(block)
        runpy.run_path(str(example))
