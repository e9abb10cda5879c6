"""`kill -9` at random moments of registering and flipping: nothing corrupt, nothing lost that was acknowledged.

ENGINE_KILLS sets how many (15 unless said); the seed is printed by pytest and taken back from ENGINE_SEED.
"""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from tests.unit.registry.bundles import constant

from engine.registry import ModelRegistry

KILLS = int(os.environ.get("ENGINE_KILLS", "15"))

CHILD = """
    import sys
    from engine.registry import ModelRegistry
    folder, model, life = sys.argv[1:]
    registry = ModelRegistry(folder, code=False)
    print("ready", flush=True)
    base = open(model, "rb").read()
    number = 0
    while True:
        number += 1
        # Another file each time, of a size that takes a moment to write.
        path = f"{model}.{life}"
        with open(path, "wb") as out:
            out.write(base + b"\\n" + f"{life} {number} ".encode() * 20_000)
        version = registry.register(path, {"number": number}, lineage={"life": life})
        print(f"registered {version.number} {version.digest}", flush=True)
        state = registry.promote("model", version)
        print(f"flipped {state.generation} {state.number}", flush=True)
        if number % 3 == 0:
            state = registry.rollback("model")
            print(f"flipped {state.generation} {state.number}", flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(60 + 10 * KILLS)
def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path, seed):
    rng = random.Random(seed)
    folder, model = tmp_path / "registry", constant(tmp_path, 1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    registered, flips, left = {}, {}, 0
    for life in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), str(folder), str(model), str(life)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert child.stdout.readline() == "ready\n"
        said = "".join(child.stdout.readline() for _ in range(rng.randrange(4)))
        time.sleep(rng.uniform(0.0, 0.03))  # no wait for anything: the random moment of its death
        child.send_signal(signal.SIGKILL)
        said += child.communicate()[0]
        for line in said.split("\n")[:-1]:  # an unfinished line does not count
            what, first, second = line.split()
            (registered if what == "registered" else flips)[int(first)] = second
        registry = ModelRegistry(folder, code=False)
        assert registry.verify().problems == [], f"after kill {life}"
        collected = registry.gc()
        left += collected.parts + collected.orphans
        registry.close()
    registry = ModelRegistry(folder)
    found = {version.number: version.digest for version in registry.versions("model")} if registered else {}
    assert registered.items() <= found.items()
    log = {entry.generation: str(entry.after) for entry in registry.history("model", "production")}
    assert flips.items() <= log.items()
    if log:
        state = registry.alias("model")
        assert (state.generation, str(state.number)) == (max(log), log[max(log)])
    assert sorted(log) == list(range(1, len(log) + 1))
    assert registry.verify().problems == []
    assert registry.gc().parts == 0
    print(f"{KILLS} kills: {len(registered)} registered, {len(flips)} flips, {left} files left and collected")
