"""The README's Python blocks run as printed, in order, in a folder of their own; its commands exist."""

import os
import re
import subprocess
import sys

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_python_blocks_run_as_printed(root, tmp_path):
    blocks = BLOCK.findall((root / "README.md").read_text())
    assert blocks
    (tmp_path / "readme.py").write_text("\n".join(blocks))
    # This checkout's package, wherever it was found from: a relative PYTHONPATH would not survive the change of folder.
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "readme.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # What a block says it prints stands behind the print as a comment.
    promised = re.findall(r"^ *print\(.*\)  # (.*)$", "\n".join(blocks), re.MULTILINE)
    assert done.stdout.splitlines() == promised


def test_every_make_target_it_names_exists(root):
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"`make ([a-z]+)`", (root / page).read_text()))
        assert named <= targets, page
    assert {"demo", "test", "setup", "bench", "lint", "debug"} <= targets


def test_every_file_it_links_to_exists(root):
    for page in ("README.md", "CONTRIBUTING.md", "docs/architecture.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", (root / page).read_text()):
            assert ((root / page).parent / target).exists(), f"{page} links to {target}"
