"""The room's modules import each other in one direction only, and former paths still lead to them."""

import ast
import subprocess
import sys

import pytest


def imports_of(path, package):
    """Modules of the room that a module imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith(package)}
    return found


def test_no_module_imports_one_that_imports_it(root):
    folder, package = root / "src" / "engine" / "monitor", "engine.monitor"
    edges = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder.parents[1]).with_suffix("").parts
        edges[".".join(part for part in parts if part != "__init__")] = imports_of(path, package)
    modules = set(edges)
    # A package's own __init__ re-exports; `from package import module` names the module beside it.
    edges = {name: (found & modules) - {name, package} for name, found in edges.items()}

    def walk(name, above):
        assert name not in above, f"a circle of imports: {' -> '.join([*above, name])}"
        for below in edges[name]:
            walk(below, [*above, name])

    for name in modules - {package}:
        walk(name, [])


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("engine.monitor.distribution", "engine.monitor.drift.distribution", "Distribution"),
        ("engine.monitor.pictures", "engine.monitor.report.pictures", "column_picture"),
        ("engine.monitor.summary", "engine.monitor.report.summary", "summary"),
    ],
)
def test_a_former_path_warns_and_has_the_same_names(old, new, name):
    script = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        f"    from {old} import {name} as old\n"
        f"from {new} import {name} as new\n"
        "assert old is new\n"
        f"assert any('import {new}' in str(each.message) for each in seen), seen\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_of_the_former_modules_are_the_packages_own():
    from engine.monitor.drift import DriftDetector, Episode
    from engine.monitor.report import Contents, collect, write

    assert all((DriftDetector, Episode, Contents, collect, write))
