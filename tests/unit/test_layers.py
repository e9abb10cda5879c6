"""Who may import whom: the rule of docs/architecture.md, walked over every module of the package."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "engine"

# A room and the rooms it may import from, besides itself. `engine` is the package's own face.
BESIDE = {"errors", "_common", "transform", "model"}
MAY = {
    "errors": set(),
    "_common": {"errors"},
    "transform": {"errors", "_common"},
    # A pipeline of scikit-learn is a feature program in front of a model.
    "model": {"errors", "_common", "transform"},
    "serving": BESIDE,
    # The rooms that stand beside serving know neither it nor each other.
    "feature_store": BESIDE,
    "registry": BESIDE,
    # A monitor watches whatever it is shown: it knows nothing of models or of what made the features.
    "monitor": {"errors", "_common"},
    "rollout": {*BESIDE, "serving", "feature_store", "registry", "monitor"},
    # A cache asks its encoder through an engine, and reads its second level as online features are read.
    "cache": {*BESIDE, "serving", "feature_store"},
    # The simulator is the scheduler's own code on a virtual clock, and needs nothing of what serves.
    "simulation": {"errors", "_common"},
    "engine": {
        *BESIDE,
        "serving",
        "simulation",
        "rollout",
        "training",
        "feature_store",
        "registry",
        "monitor",
    },
}
# What stands on top may use anything below it; below each other they go in this order.
TOP = ("testing", "loadgen", "training", "scoring", "server", "integrations", "demo", "cli", "__main__")
BELOW_TOP = {
    *BESIDE,
    "serving",
    "feature_store",
    "registry",
    "monitor",
    "rollout",
    "cache",
    "simulation",
    "engine",
}
for position, room in enumerate(TOP):
    MAY[room] = BELOW_TOP | set(TOP[:position])
# Former names of rooms, for one release.
for room in ("batch", "planning", "service"):
    MAY[room] = {"_common", "rollout", "scoring", "simulation"}


def room_of(parts):
    return parts[0] if parts else "engine"


def modules():
    for path in sorted(SOURCE.rglob("*")):
        if path.suffix not in (".py", ".pyx", ".pyi") or "__pycache__" in path.parts:
            continue
        parts = path.relative_to(SOURCE).with_suffix("").parts
        yield path, room_of([part for part in parts if part != "__init__"])


def imported_rooms(path):
    """The rooms a module imports, wherever in it the import stands."""
    if path.suffix == ".pyx":
        names = _cython_imports(path.read_text())
    else:
        names = []
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import; write it in full"
                names += [f"{node.module}.{alias.name}" for alias in node.names]
    rooms = {room_of(_inside(name)) for name in names if name.split(".")[0] == "engine"}
    return rooms


def _inside(name):
    """The part of a dotted name below `engine` that names a room; empty for a public name of the package."""
    parts = name.split(".")[1:]
    if parts and ((SOURCE / parts[0]).is_dir() or (SOURCE / f"{parts[0]}.py").exists()):
        return parts
    return []


def _cython_imports(text):
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["from"] and len(words) > 2 and words[2] in ("import", "cimport"):
            yield f"{words[1]}.{words[3].strip('(,')}" if len(words) > 3 else words[1]
        elif words[:1] in (["import"], ["cimport"]) and len(words) > 1:
            yield words[1].strip(",")


@pytest.mark.parametrize(("path", "room"), modules(), ids=lambda value: str(getattr(value, "name", value)))
def test_a_module_imports_only_from_the_rooms_below_it(path, room):
    assert room in MAY, (
        f"{path}: room {room!r} is not in the rule; docs/architecture.md says where a room stands"
    )
    wrong = imported_rooms(path) - MAY[room] - {room}
    assert not wrong, f"{path.relative_to(SOURCE)}: {room} may not import {', '.join(sorted(wrong))}"


def test_the_walk_finds_imports_of_every_form(tmp_path):
    found = tmp_path / "module.py"
    found.write_text(
        "def f():\n    from engine.serving import Engine\nimport engine.model._forest\nimport engine\n"
    )
    assert imported_rooms(found) == {"serving", "model", "engine"}
    found = tmp_path / "module.pyx"
    found.write_text("from engine.model._scorer cimport score\nfrom engine.errors import ConfigError\n")
    assert imported_rooms(found) == {"model", "errors"}


# Between the rooms of the core there is only the C ABI (`engine/…`). The simulator is the scheduler on a virtual clock.
CORE = SOURCE.parents[1] / "csrc"
CORE_MAY = {
    "base": set(),
    "scheduler": {"base", "engine"},
    "simulator": {"base", "engine", "scheduler"},
    "model": {"base", "engine"},
    "transform": {"base", "engine"},
    "monitor": {"base", "engine"},
    "feature_store": {"base", "engine"},
    "cache": {"base", "engine"},
    "fault": {"base", "engine"},
    # A body holds a model of the model room in device memory.
    "gpu": {"base", "engine", "model"},
    "include": set(),
}


def core_files():
    return [
        path for kind in ("cpp", "hpp", "h", "inc", "cu", "cuh") for path in sorted(CORE.rglob(f"*.{kind}"))
    ]


def core_room(path):
    """Return the room of a file of the core. A test or fuzz target belongs to the room it tests."""
    parts = path.relative_to(CORE).parts
    return parts[1] if parts[0] in ("tests", "fuzz") and len(parts) > 2 else parts[0]


def included(path):
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", core_files(), ids=lambda path: str(path.relative_to(CORE)))
def test_a_file_of_the_core_includes_only_what_its_room_may(path):
    rooms = {name.split("/")[0] for name in included(path) if "/" in name}
    own = core_room(path)
    if path.relative_to(CORE).parts[0] in ("tests", "fuzz"):
        # A test may look into every room that its own stands on, and into the frame of the tests.
        rooms -= {"tests", "fuzz", "kernels", "base", "engine", *CORE_MAY}
        assert not rooms, f"{path}: unknown rooms {rooms}"
        return
    assert own in CORE_MAY, (
        f"{path}: room {own!r} is not in the rule; docs/architecture.md says where a room stands"
    )
    wrong = rooms - CORE_MAY[own] - {own}
    assert not wrong, f"{path.relative_to(CORE)}: {own} may not include from {', '.join(sorted(wrong))}"


def test_the_native_core_knows_neither_python_nor_numpy():
    for path in core_files():
        code = [line for line in path.read_text().splitlines() if line.lstrip().startswith("#include")]
        assert not [line for line in code if "Python.h" in line or "numpy" in line], path
