"""Every Python block of README.md and docs runs as printed, page by page and in order, in a folder of its own.

A block that must not run has a comment before it with the reason: `<!-- not run: it needs a network -->`. A comment
behind a `print` promises its output. Links lead to files, commands exist, and docstring examples hold.
"""

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n)?^```python\n(?P<code>.*?)^```", re.M | re.S)
PROMISED = re.compile(r"^ *print\(.*\)  # (.*)$", re.M)
SOURCES = ROOT / "src" / "engine"


def blocks(page):
    return [match["code"] for match in BLOCK.finditer(page.read_text()) if match["why"] is None]


def names(pages):
    return [str(page.relative_to(ROOT)) for page in pages]


def run(page, folder):
    # In one file, because a function of the user's is compiled from its source.
    (folder / "page.py").write_text("\n".join(blocks(page)))
    # This checkout's package, wherever it was found from: a relative PYTHONPATH would not survive the change of folder.
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "page.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )


WITH_CODE = [page for page in PAGES if blocks(page)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", WITH_CODE, ids=names(WITH_CODE))
def test_the_python_blocks_run_as_printed(page, tmp_path):
    done = run(page, tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    # A comment behind a print promises its output. A page may print more than it promises.
    shown = iter(done.stdout.splitlines())
    for promised in PROMISED.findall("\n".join(blocks(page))):
        assert promised in shown, f"{page.name} promises {promised!r}; it prints:\n{done.stdout}"


def test_the_walk_finds_the_pages_and_their_blocks(tmp_path):
    assert {"README.md", "docs/features.md", "docs/feature_store.md", "docs/monitor.md"} <= set(
        names(WITH_CODE)
    )
    page = tmp_path / "page.md"
    page.write_text("```python\na\n```\n<!-- not run: why -->\n```python\nb\n```\n\n```sh\nc\n```\n")
    assert blocks(page) == ["a\n"]


@pytest.mark.timeout(600)
def test_the_page_of_the_monitor_shows_a_drift_and_writes_a_report(tmp_path):
    done = run(ROOT / "docs" / "monitor.md", tmp_path)
    assert "temp is no longer as in the reference" in done.stdout, done.stderr
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_print_of_the_readme_is_promised(tmp_path):
    done = run(ROOT / "README.md", tmp_path)
    assert done.stdout.splitlines() == PROMISED.findall("\n".join(blocks(ROOT / "README.md"))), done.stderr


def test_every_make_target_that_a_page_names_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z]+)", page.read_text()))
        assert named <= targets, page
    assert {"demo", "test", "check", "setup", "bench", "lint", "fuzz", "debug"} <= targets


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_link_leads_to_a_file(page):
    for target, _, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]*))?\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), f"{page} links to {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page} links to {target}#{anchor}"


def anchors(page):
    """The names that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_a_file_that_a_page_names_is_there(page):
    """A path such as `tests/conftest.py` in code marks: renaming a file must not leave its former name."""
    for name in re.findall(r"`((?:csrc|src|tests|docs|benchmarks)/[\w./-]+\.\w+)`", page.read_text()):
        assert "NAME" in name or (ROOT / name).exists(), f"{page} names {name}"


WITH_EXAMPLES = [
    ".".join(["engine", *path.relative_to(SOURCES).with_suffix("").parts])
    for path in sorted(SOURCES.rglob("*.py"))
    if re.search(r">>> (?!.*# doctest: \+SKIP)", path.read_text())
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_docstrings_hold(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert done.attempted > 0
    assert done.failed == 0
