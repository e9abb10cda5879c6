"""Commands that are interrupted, or find no room: one line, an exit status, and a state that the next run goes on
from."""

import json
import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.registry.bundles import step

DEFINITIONS = """
    import time
    from engine.feature_store import *
    from engine.feature_store.online import base

    base.BATCH_ROWS = 100
    store = FeatureStore(DuckDBOffline({folder!r}, threads=1), LMDBOnline({folder!r} + "/online"))
    v = FeatureView("v", Entity("e", "k"), Source("rows.parquet", "t"), ["x"])
    print("ready", flush=True)
    write = LMDBOnline.write

    def slowly(self, pairs, *rest):
        time.sleep({pause})
        return write(self, pairs, *rest)

    LMDBOnline.write = slowly
"""


@pytest.fixture
def folder(tmp_path):
    n = 2_000
    table = pa.table(
        {"k": np.arange(n), "t": pa.array(np.arange(n), pa.timestamp("s", "UTC")), "x": np.ones(n)}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    pq.write_table(pa.table({"f0": np.arange(1e5), "f1": np.ones(100_000)}), tmp_path / "in.parquet")
    for name, pause in (("slow", 0.2), ("quick", 0.0)):
        text = textwrap.dedent(DEFINITIONS.format(folder=str(tmp_path), pause=pause))
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def started(folder, *words, file_bytes_max=None):
    def prepare():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if file_bytes_max is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))

    return subprocess.Popen(
        [sys.executable, "-m", "engine", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        preexec_fn=prepare,
    )  # fmt: skip


def ended(folder, *words, **options):
    process = started(folder, *words, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.slow
def test_a_materialisation_is_interrupted_and_goes_on(folder):
    process = started(folder, "materialize", "slow.py")
    assert process.stdout.readline() == "ready\n"
    # It writes for some seconds from here on. A library that is importing may swallow the signal; the next batch ends.
    while not (folder / "online").exists():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err.endswith("engine materialize: interrupted\n")
    assert "Traceback" not in err
    # Python ends by the signal itself where a C module saw it first, which a shell calls 130 too.
    assert process.returncode in (130, -signal.SIGINT)
    status, out, _ = ended(folder, "materialize", "quick.py", "--json")
    found = json.loads(out.splitlines()[-1])
    assert (status, found["view"], found["rows"]) == (0, "v", 2000)
    assert found["resumed"] + found["written"] + found["same"] == 2000


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_half_file(folder):
    step(folder, 1, 2).rename(folder / "m.txt")
    words = ("score", "in.parquet", "out.parquet", "--model", "m.txt", "--keep", "f0")
    status, out, err = ended(folder, *words, file_bytes_max=20_000)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "cannot be written: File too large" in err
    assert not (folder / "out.parquet").exists()
    assert ended(folder, *words)[0] == 0
    assert pq.read_metadata(folder / "out.parquet").num_rows == 100_000
    status, _, err = ended(folder, "materialize", "quick.py", file_bytes_max=8_192)
    assert (status, err.count("\n")) == (1, 1)
    assert "online" in err
    assert ended(folder, "materialize", "quick.py")[0] == 0


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_one_line(folder):
    step(folder, 1, 2).rename(folder / "m.txt")
    status, _, err = ended(folder, "score", "in.parquet", "/dev/null/out.parquet", "--model", "m.txt")
    assert (status, err.count("\n")) == (1, 1)
    assert "Not a directory" in err
