"""`make check` runs the tests of what changed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("engine_check", ROOT / ".ci" / "check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("src/engine/registry/index.py", "tests/unit/registry"),
        ("src/engine/serving/_engine.pyx", "tests/unit/serving"),
        ("src/engine/cli.py", "tests/unit/test_build.py"),
        ("csrc/transform/json.cpp", "tests/unit/transform"),
        ("csrc/scheduler/policy.cpp", "tests/unit/serving"),
        ("csrc/tests/simulator/test_simulator.cpp", "tests/unit/simulation"),
        ("tests/unit/registry/test_notice_page.py", "tests/unit/registry/test_notice_page.py"),
        ("tests/unit/registry/bundles.py", "tests/unit/registry"),
        ("benchmarks/runner.py", "tests/test_benchmarks_smoke.py"),
        ("setup.py", "tests/unit/test_build.py"),
        ("tests/fixtures/v0.1.0/reference.json", "tests/unit/test_old_files.py"),
    ],
)
def test_a_changed_file_brings_the_tests_of_its_room(check, path, expected):
    assert expected in check.tests_of(path)
    assert all((ROOT / name).exists() for name in check.tests_of(path))


def test_every_room_brings_tests(check):
    for path in [*(ROOT / "src/engine").glob("*/*.py"), *(ROOT / "csrc").glob("*/*.cpp")]:
        room = path.parent.name
        if room not in ("batch", "planning", "service"):
            assert check.tests_of(str(path.relative_to(ROOT))), path


def test_the_core_s_own_tests_run_room_by_room(check):
    assert check.core_rooms("csrc/transform/json.cpp") == ["transform"]
    assert check.core_rooms("csrc/tests/scheduler/test_cost.cpp") == ["scheduler"]
    assert check.core_rooms("csrc/include/engine/scorer.h") == []
    assert check.core_rooms("src/engine/cli.py") == []


def test_nothing_changed_runs_nothing(check):
    assert check.commands([]) == []


def test_each_kind_of_file_brings_its_lint(check):
    steps = [
        " ".join(step) for step in check.commands(["src/engine/cli.py", "csrc/base/cpu.cpp", "README.md"])
    ]
    assert any("ruff check src/engine/cli.py" in step for step in steps)
    assert any(step.endswith("mypy") for step in steps)
    assert any(".ci/lint.py csrc/base/cpu.cpp" in step for step in steps)
    assert any("test_docs.py -k README.md" in step for step in steps)
    assert any("ROOM=base" in step for step in steps)


def test_the_command_lists_what_it_would_run():
    done = subprocess.run(
        [sys.executable, ".ci/check.py", "--list", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
