"""The build notices every edit, and what it makes installs and serves elsewhere.

The sdist carries what is committed, the wheel what is needed to run; the wheel that is made from the sdist is installed
into a fresh environment, which serves a model.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

import engine

ROOT = Path(__file__).parents[2]
KERNELS = "engine/model/gpu/sources/"
# Suffixes that no compiler reads.
NOT_COMPILED = {".py", ".pyi", ".typed", ".md", ".css", ".js", ".json", ".yml"}


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, (
        f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


@pytest.fixture(scope="module")
def committed():
    """Every file that git knows or would take up, as paths from the root."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = run(
        "git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", cwd=ROOT
    ).splitlines()
    return {path for path in listed if (ROOT / path).exists()}


@pytest.fixture(scope="module")
def build():
    """setup.py as a module: its functions, without a build."""
    spec = importlib.util.spec_from_file_location("engine_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        spec.loader.exec_module(module)
    finally:
        os.chdir(before)
    return module


# --- what is out of date is made again ---


def test_make_installs_again_after_an_edit_of_any_file_it_compiles(committed):
    listed = run("make", "-s", "--eval", "listed: ; @echo $(NATIVE)", "listed", cwd=ROOT).split()
    compiled = {
        path
        for path in committed
        if path.startswith(("src/", "csrc/", "kernels/"))
        and not path.startswith(("csrc/tests/", "csrc/fuzz/"))
        and Path(path).suffix not in NOT_COMPILED
    }
    assert compiled <= set(listed)
    assert {"setup.py", "pyproject.toml", "csrc/Makefile"} <= set(listed)


def test_the_core_compiles_again_what_rests_on_an_edited_file(tmp_path):
    shutil.copy(ROOT / "csrc" / "Makefile", tmp_path)
    for room in [
        "base",
        "scheduler",
        "simulator",
        "model",
        "transform",
        "monitor",
        "feature_store",
        "fault",
        "tests",
    ]:
        (tmp_path / room).mkdir()
    (tmp_path / "base" / "one.cpp").write_text(
        '#include "base/one.hpp"\nint one() {\n#include "base/one.inc"\n}\n'
    )
    (tmp_path / "base" / "one.hpp").write_text("int one();\n")
    (tmp_path / "base" / "one.inc").write_text("return 1;\n")
    (tmp_path / "base" / "two.cpp").write_text("int two() { return 2; }\n")
    make = ["make", "lib", f"BUILD={tmp_path / 'build'}"]

    def made():
        out = run(*make, cwd=tmp_path)
        return [line.split()[1] for line in out.splitlines() if line.startswith("CXX")]

    assert sorted(made()) == ["base/one.cpp", "base/two.cpp"]
    assert made() == []
    make.append("CXXFLAGS=-std=c++20 -I. -DOTHER")
    assert sorted(made()) == ["base/one.cpp", "base/two.cpp"]
    # Later than anything that was compiled, whatever the resolution of the file system.
    later = time.time_ns()
    for name in ("one.hpp", "one.inc", "one.cpp"):
        later += 60 * 10**9
        os.utime(tmp_path / "base" / name, ns=(later, later))
        assert made() == ["base/one.cpp"], name
        os.utime(tmp_path / "build" / "lib" / "base" / "one.o", ns=(later, later))
    # A source that is gone leaves the archive.
    (tmp_path / "base" / "two.cpp").unlink()
    run(*make, cwd=tmp_path)
    assert run("ar", "t", tmp_path / "build" / "lib" / "libengine.a").split() == ["one.o"]


def test_make_fuzz_runs_every_target(tmp_path):
    said = run("make", "-n", "-C", "csrc", "fuzz", "FUZZER=", f"BUILD={tmp_path}", "SECONDS=7", cwd=ROOT)
    for target in (ROOT / "csrc" / "fuzz").glob("*/fuzz_*.cpp"):
        name = f"{target.parent.name}/{target.stem}"
        assert f"== fuzz {name} for 7 s" in said
        assert f"fuzz/{target.parent.name}/corpus/{target.stem.removeprefix('fuzz_')}" in said


def test_redis_is_installed_without_its_service(tmp_path):
    """Debian's redis-server starts a service when it is installed; redis-tools holds the same program and none."""
    tools, venv = tmp_path / "tools", tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    tools.mkdir()
    for name in ("ln", "nproc", "find", "make"):
        (tools / name).symlink_to(shutil.which(name))
    for name, script in (
        ("apt-get", f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'),
        ("redis-check-rdb", '#!/bin/sh\necho "$0 $1"\n'),
        *((name, "#!/bin/sh\n") for name in ("chromium", "promtool", "prometheus-alertmanager")),
    ):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    command = ["make", "-s", "servers", f"VENV={venv}"]
    said = run(*command, cwd=ROOT, env={"PATH": str(tools)})
    assert said.split() == [f"{venv}/bin/redis-server", "--version"]
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["update -qq", "install -y -qq --no-install-recommends redis-tools"]
    # The second time there is nothing to do.
    assert run(*command, cwd=ROOT, env={"PATH": str(tools)}) == ""
    assert (tmp_path / "asked").read_text().splitlines() == asked


def test_a_binding_is_compiled_again_after_an_edit_of_what_it_includes(build, tmp_path):
    made, source, header = (tmp_path / name for name in ("m.o", "m.cpp", "a header.hpp"))
    escaped = str(header).replace(" ", "\\ ")
    rule = tmp_path / "m.d"
    rule.write_text(f"{made}: {source} \\\n  {escaped}\n")
    assert build.written_down(rule) == [source, header]
    assert build.written_down(tmp_path / "none.d") == []
    for age, path in enumerate((source, header, made)):
        path.write_text("")
        os.utime(path, ns=(age, age))
    assert not build.out_of_date(made, [source, header])
    os.utime(header, ns=(9, 9))
    assert build.out_of_date(made, [source, header])
    header.unlink()
    assert build.out_of_date(made, [source, header])
    made.unlink()
    assert build.out_of_date(made, [source])


def test_debug_and_release_builds_share_no_object(build, monkeypatch):
    release = build.OBJECTS
    monkeypatch.setenv("ENGINE_DEBUG_BUILD", "1")
    spec = importlib.util.spec_from_file_location("engine_setup_debug", ROOT / "setup.py")
    debug = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(debug)
    assert release != debug.OBJECTS
    assert debug.ARCHIVE != build.ARCHIVE
    assert "-UNDEBUG" in debug.COMPILE
    assert "-DNDEBUG" in build.COMPILE


def test_every_binding_is_an_extension(build):
    names = {build.extension(path.relative_to(ROOT)).name for path in (ROOT / "src").rglob("*.pyx")}
    assert "engine.serving._engine" in names
    assert all((ROOT / "src" / Path(*name.split("."))).with_suffix(".pyi").exists() for name in names)


# --- headers ---

SCORER = """
#include <engine/features.h>
#include <engine/observer.h>
#include <engine/scorer.h>
int main(void) { engine_scorer scorer = {ENGINE_SCORER_ABI}; return scorer.abi != ENGINE_SCORER_ABI; }
"""


def test_the_headers_compile_as_plain_c(tmp_path):
    folder = Path(engine.get_include())
    assert folder.is_absolute()
    compile_headers(folder, tmp_path)


def compile_headers(folder, tmp_path):
    (tmp_path / "scorer.c").write_text(SCORER)
    flags = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-Wno-missing-field-initializers"]
    run("gcc", *flags, f"-I{folder}", "scorer.c", "-o", "scorer", cwd=tmp_path)
    run(tmp_path / "scorer")


# --- sdist, wheel, fresh environment ---


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    script = f"from setuptools import build_meta; print(build_meta.build_sdist({str(folder)!r}))"
    name = run(sys.executable, "-c", script, cwd=ROOT).splitlines()[-1]
    return folder / name


@pytest.mark.slow
def test_the_sdist_carries_what_is_committed(sdist, committed):
    with tarfile.open(sdist) as archive:
        found = {path.partition("/")[2] for path in archive.getnames() if archive.getmember(path).isfile()}
    # Written by setuptools.
    made = {path for path in found if "egg-info" in path or path in ("PKG-INFO", "setup.cfg")}
    assert sorted(found - made - committed) == []
    assert sorted(committed - found) == []


SERVE = """
    import json, pathlib, sys
    import numpy as np
    import engine
    assert pathlib.Path(engine.__file__).is_relative_to(sys.prefix), engine.__file__
    model = engine.load_model(sys.argv[1])
    rows = np.array(json.loads(sys.argv[2]), dtype=np.float32)
    with engine.Engine(primary=model, default=0.5, deadline_ms=5000) as served:
        answers = [served.predict(row) for row in rows]
    assert [answer.source for answer in answers] == ["primary"] * len(rows)
    print(json.dumps({"values": [answer.value for answer in answers], "include": engine.get_include()}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_wheel_made_from_the_sdist_serves_in_a_fresh_environment(sdist, tmp_path):
    # A debug build takes half the time, makes one archive instead of two, and gives the same bits.
    environment = {**os.environ, "ENGINE_DEBUG_BUILD": "1"}
    environment.pop("PYTHONPATH", None)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    # Without isolation, which would ask the network for what this interpreter has already.
    run(
        *pip,
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        tmp_path,
        sdist,
        cwd=tmp_path,
        env=environment,
    )
    (wheel,) = tmp_path.glob("*.whl")
    check_wheel(zipfile.ZipFile(wheel).namelist())
    fresh = tmp_path / "fresh"
    run(sys.executable, "-m", "venv", "--without-pip", fresh)
    python = fresh / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path, env=environment)
    # NumPy is this interpreter's; the .pth files of its folder, an editable install among them, do not apply there.
    import numpy

    packages = Path(sysconfig.get_path("purelib", vars={"base": str(fresh)}))
    (packages / "numpy.pth").write_text(str(Path(numpy.__file__).parents[1]))
    fixtures = ROOT / "tests" / "fixtures" / "v0.1.0"
    version = json.loads((fixtures / "answers.json").read_text())["registry"]["versions"][1]
    rows = numpy.frombuffer(bytes.fromhex(version["golden_rows"]), numpy.float32).reshape(5, -1)
    model = max((fixtures / "registry" / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    shutil.copy(model, tmp_path / "model.txt")
    arguments = [tmp_path / "model.txt", json.dumps(rows.tolist())]
    out = json.loads(run(python, "-c", textwrap.dedent(SERVE), *arguments, cwd=tmp_path, env=environment))
    assert out["values"] == numpy.frombuffer(bytes.fromhex(version["golden_values"])).tolist()
    assert Path(out["include"]).is_relative_to(fresh)
    compile_headers(out["include"], tmp_path)


def check_wheel(names):
    package = [name for name in names if name.startswith("engine/")]
    kinds = {Path(name).suffix for name in package}
    # The page and what goes with it, and the sources of the GPU's kernels, which are compiled where a GPU is.
    pages, kernels = {".css", ".js", ".json", ".yml"}, {".cu", ".cuh", ".hpp", ".inc"}
    assert kinds == {".py", ".pyi", ".pxd", ".typed", ".so", ".h"} | pages | kernels
    assert not [name for name in package if Path(name).suffix in kernels and not name.startswith(KERNELS)]
    sources = {path.relative_to(ROOT / "src").with_suffix("") for path in (ROOT / "src").rglob("*.pyx")}
    bindings = {Path(name.split(".")[0]) for name in package if name.endswith(".so")}
    assert bindings == sources
    headers = {f"engine/include/engine/{path.name}" for path in (ROOT / "csrc/include/engine").glob("*.h")}
    assert headers == {name for name in package if name.endswith(".h")}
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/engine").rglob("*.py")}
    assert modules == {name for name in package if name.endswith(".py")}
