"""The registry on full and read-only disks, with damaged files, and with other processes at work."""

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from tests.unit.registry.bundles import constant

from engine.errors import RegistryError
from engine.registry import ModelRegistry


@pytest.fixture
def registry(tmp_path):
    """Version 1 answers 1, version 2 answers 2; production is 1."""
    made = ModelRegistry(tmp_path / "registry", code=False)
    for value in (1, 2):
        made.register(constant(tmp_path, value), golden=[[[0.0, 0.0]], [float(value)]])
    made.promote("model", 1)
    return made


def primary_file(registry, reference="model@1"):
    return registry.path / "blobs" / registry.resolve(reference).manifest["artifacts"]["primary"]["digest"]


def edited(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    replaced(path, bytes(content))


def replaced(path, content):
    path.unlink()
    path.write_bytes(content)


def test_an_edited_artifact_is_found_by_its_digest_before_it_is_parsed(registry):
    edited(primary_file(registry))
    with pytest.raises(RegistryError, match=r"model@1 primary: .*the content is not what was registered"):
        registry.resolve("model@1").primary()
    assert [problem[:16] for problem in registry.verify().problems] == ["model@1 primary:"]
    assert registry.resolve("model@2").primary().predict([[0.0, 0.0]]).tolist() == [2.0]


def test_a_truncated_and_a_missing_artifact(registry):
    path = primary_file(registry)
    replaced(path, path.read_bytes()[:-1])
    with pytest.raises(RegistryError, match=r"expected the \d+ bytes that were registered, got \d+"):
        registry.resolve("model@1").primary()
    path.unlink()
    with pytest.raises(RegistryError, match=r"model@1 primary: artifact .*: it is missing"):
        registry.resolve("model@1").primary()
    assert len(registry.verify().problems) == 1


def test_swapped_artifacts(registry):
    one, two = primary_file(registry, "model@1"), primary_file(registry, "model@2")
    contents = one.read_bytes(), two.read_bytes()
    replaced(one, contents[1])
    replaced(two, contents[0])
    for reference in ("model@1", "model@2"):
        with pytest.raises(RegistryError, match="not what was registered"):
            registry.resolve(reference).primary()


def test_links_and_what_is_no_file_are_not_followed(registry, tmp_path):
    path = primary_file(registry)
    content = path.read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(content)
    path.unlink()
    path.symlink_to(elsewhere)
    with pytest.raises(RegistryError, match="links are not followed"):
        registry.resolve("model@1").primary()
    path.unlink()
    os.link(elsewhere, path)
    with pytest.raises(RegistryError, match=r"2 names \(hard links\)"):
        registry.resolve("model@1").primary()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RegistryError, match="expected a plain file"):
        registry.resolve("model@1").primary()
    path.unlink()
    path.mkdir()
    with pytest.raises(RegistryError):
        registry.resolve("model@1").primary()
    blobs = registry.path / "blobs"
    blobs.rename(tmp_path / "moved")
    blobs.symlink_to(tmp_path / "moved")
    with pytest.raises(RegistryError, match="registry folder"):
        registry.resolve("model@2").primary()


def test_registering_again_heals_a_damaged_artifact(registry, tmp_path):
    edited(primary_file(registry))
    again = registry.register(constant(tmp_path, 1), golden=[[[0.0, 0.0]], [1.0]])
    assert again.number == 1
    assert registry.verify().problems == []


def test_a_manifest_that_was_edited_in_the_index(registry):
    with sqlite3.connect(registry.path / "registry.db") as index:
        index.execute(
            "UPDATE versions SET manifest=replace(manifest, '\"default\":null', '\"default\":9.25')"
        )
    fresh = ModelRegistry(registry.path)
    with pytest.raises(RegistryError, match="model@1: the manifest is not what was registered"):
        fresh.resolve("model@1")
    assert len(fresh.verify().problems) == 2


def without_index(registry):
    registry.close()
    for name in ("registry.db", "registry.db-wal", "registry.db-shm"):
        (registry.path / name).unlink(missing_ok=True)
    return registry.path / "registry.db"


def test_an_index_that_is_damaged(registry):
    without_index(registry).write_bytes(b"not a database at all" * 400)
    with pytest.raises(RegistryError, match="index is damaged"):
        ModelRegistry(registry.path)


@pytest.mark.parametrize("left", [None, b""], ids=["missing", "empty"])
def test_a_registry_that_lost_its_index_is_not_begun_anew(registry, left):
    """Collection would take every blob for an orphan."""
    index = without_index(registry)
    if left is not None:
        index.write_bytes(left)
    with pytest.raises(
        RegistryError, match=r"registry.db is missing or empty, and 4 files in blobs/ belong to it"
    ):
        ModelRegistry(registry.path)


@pytest.mark.parametrize("died", ["before", "empty", "blank"])
def test_a_registry_whose_maker_died_is_made(tmp_path, died):
    folder = tmp_path / "registry"
    (folder / "blobs").mkdir(parents=True)
    if died == "empty":
        (folder / "registry.db").touch()
    if died == "blank":
        with sqlite3.connect(folder / "registry.db") as index:
            index.execute("PRAGMA journal_mode=WAL")
    assert ModelRegistry(folder, code=False).register(constant(tmp_path, 1)).number == 1


def test_folders_that_hold_something_else(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RegistryError, match="is not empty and no registry"):
        ModelRegistry(tmp_path)
    with pytest.raises(RegistryError):
        ModelRegistry(tmp_path / "file")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    with sqlite3.connect(foreign / "registry.db") as other:
        other.execute("CREATE TABLE mine(x)")
    (foreign / "blobs").mkdir()
    with pytest.raises(RegistryError, match="an SQLite file of another program"):
        ModelRegistry(foreign)
    with sqlite3.connect(foreign / "registry.db") as other:
        assert other.execute("SELECT count(*) FROM mine").fetchone() == (0,)


def test_an_index_of_a_later_version_is_left_alone(registry):
    registry.close()
    with sqlite3.connect(registry.path / "registry.db") as index:
        index.execute("PRAGMA user_version=2")
    with pytest.raises(RegistryError, match="version 2 of the index; this build reads 1"):
        ModelRegistry(registry.path)


def run(script, *arguments, wrapper=()):
    """Run Python code in another process and return its output. A failure shows its stderr."""
    command = [*wrapper, sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def can_mount():
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


needs_mount = pytest.mark.skipif(
    not can_mount(), reason="this machine lets no test mount a file system of its own"
)


@needs_mount
def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    constant(tmp_path, 1)
    (tmp_path / "large.txt").write_bytes(constant(tmp_path, 2).read_bytes() + b"\n" * 3_000_000)
    out = run(
        """
        import subprocess, sys, pathlib
        from engine.errors import RegistryError
        from engine.registry import ModelRegistry
        folder, models = map(pathlib.Path, sys.argv[1:])
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
        registry = ModelRegistry(folder / "registry", code=False)
        registry.register(models / "constant-1-2.txt")
        registry.promote("model", 1)
        try:
            registry.register(models / "large.txt")
        except RegistryError as error:
            print(error)
        print(sorted(path.suffix for path in (folder / "registry/blobs").iterdir()))
        # Now not even the index has room.
        try:
            with open(folder / "filler", "wb") as filler:
                while True:
                    filler.write(bytes(4096)); filler.flush()
        except OSError:
            pass
        for flip in range(2000):
            try:
                registry.promote("model", 1, alias=f"a{flip}")
            except RegistryError as error:
                print(error)
                break
        print(flip, len(registry.aliases("model")) == flip + 1)
        print(registry.resolve("model@production").primary().predict([[0.0, 0.0]]), registry.verify().problems)
        (folder / "filler").unlink()
        print(registry.promote("model", 1, alias="room-again").generation)
        """,
        folder,
        tmp_path,
        wrapper=("unshare", "-rm"),
    )
    lines = out.splitlines()
    assert lines[0].endswith("the disk is full; free some space and register again")
    assert lines[1] == "['']"  # the blob of version 1, and no temporary file
    assert lines[2].endswith("the disk is full; free some space and try again")
    assert lines[3].endswith("True")
    assert lines[4:] == ["[1.] []", "1"]


READ_ONLY = """
    import subprocess, sys, pathlib
    from engine.errors import RegistryError
    from engine.registry import ModelRegistry
    folder, model = map(pathlib.Path, sys.argv[1:])
    subprocess.run(["mount", "--bind", "-o", "ro", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    registry = ModelRegistry(folder, code=False)
    print(registry.resolve("model@production").primary().predict([[0.0, 0.0]]), len(registry.verify().problems))
    for change in (lambda: registry.register(model), lambda: registry.promote("model", 2), registry.gc):
        try:
            change()
        except RegistryError as error:
            print(error)
"""


@needs_mount
@pytest.mark.parametrize("busy", [False, True], ids=["no writer", "a writer has it open"])
def test_a_read_only_folder_can_be_read(registry, tmp_path, busy):
    if not busy:
        registry.close()
        assert not (registry.path / "registry.db-wal").exists()
    out = run(READ_ONLY, registry.path, constant(tmp_path, 5), wrapper=("unshare", "-rm"))
    lines = out.splitlines()
    assert lines[0] == "[1.] 0"
    assert len(lines) == 4
    assert all("read-only" in line for line in lines[1:]), lines


WRITER = """
    import sys
    from engine.registry import ModelRegistry
    folder, model, who = sys.argv[1:]
    registry = ModelRegistry(folder, code=False)
    for number in range(15):
        version = registry.register(model, {"number": number}, name="shared", lineage={"who": who})
        registry.promote("shared", version)
        print(version.number, flush=True)
"""


def test_two_writers_at_once_wait_for_each_other(tmp_path):
    model = constant(tmp_path, 1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "registry"), str(model), who],
            stdout=subprocess.PIPE, text=True, env=environment,
        )  # both make the folder too
        for who in "ab"
    ]  # fmt: skip
    numbers = [int(line) for writer in writers for line in writer.communicate(timeout=100)[0].split()]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sorted(numbers) == list(range(1, 31))
    registry = ModelRegistry(tmp_path / "registry")
    state = registry.alias("shared")
    flips = registry.history("shared", "production")
    assert [entry.generation for entry in flips] == list(range(1, state.generation + 1))
    assert [entry.before for entry in flips[1:]] == [entry.after for entry in flips[:-1]]
    assert registry.verify().problems == []


def test_collection_waits_for_a_writer_between_its_files_and_its_commit(registry, tmp_path, monkeypatch):
    """A blob without a version may belong to a writer at work; collecting it would lose that version."""
    import threading

    from engine.registry.index import Index

    written, collected = threading.Event(), threading.Event()
    add = Index.add_version

    def slow(self, *arguments):
        written.set()
        assert not collected.wait(0.05)
        return add(self, *arguments)

    monkeypatch.setattr(Index, "add_version", slow)
    writer = threading.Thread(target=registry.register, args=(constant(tmp_path, 3),))
    writer.start()
    assert written.wait(10)
    assert ModelRegistry(registry.path).gc().orphans == 0
    collected.set()
    writer.join()
    assert registry.resolve("model@3").primary().predict([[0.0, 0.0]]).tolist() == [3.0]


def test_parent_and_child_of_a_fork_have_connections_of_their_own(registry):
    import threading

    stop = threading.Event()

    def read():
        while not stop.is_set():
            registry.resolve("model@1")

    reader = threading.Thread(target=read)  # fork while another thread works
    reader.start()
    for number in (2, 1, 2):
        child = os.fork()
        if child == 0:
            # No code of pytest may run here.
            try:
                registry.promote("model", number)
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert registry.alias("model").number == number
    stop.set()
    reader.join()
    registry.promote("model", 1)
    assert registry.alias("model").generation == 5
    assert registry.verify().problems == []


def test_a_folder_that_is_taken_away_is_an_error_and_comes_back(registry, tmp_path):
    registry.path.rename(tmp_path / "away")
    with pytest.raises(RegistryError):
        registry.resolve("model@1").primary()
    shutil.copytree(tmp_path / "away", registry.path)
    assert registry.resolve("model@1").primary().n_features == 2
