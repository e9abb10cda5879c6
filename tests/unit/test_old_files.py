"""Files that version 0.1.0 wrote open, and answer the same bits. tests/fixtures/make_v0_1_0.py wrote them."""

import json
import shutil
import socket

import numpy as np
import pytest
from tests.fixtures import make_v0_1_0 as made

from engine.feature_store import DuckDBOffline, FeatureStore, LMDBOnline, RedisOnline
from engine.monitor import Reference
from engine.registry import ModelRegistry, artifacts, lineage
from engine.training import LightGBM
from engine.training.checkpoints import Checkpoints
from engine.transform import FeatureProgram
from engine.transform.ops import REGISTRY

ANSWERS = json.loads((made.FOLDER / "answers.json").read_text())


def bits(values):
    return np.ascontiguousarray(values).tobytes().hex()


@pytest.fixture
def folder(tmp_path):
    """A copy: reading a registry or a store may touch locks."""
    return shutil.copytree(made.FOLDER, tmp_path / "v0.1.0")


# --- feature programs ---


@pytest.mark.parametrize("name", sorted(ANSWERS["programs"]))
def test_a_saved_program_opens_with_its_digest_and_bits(name):
    path, expected = made.FOLDER / "programs" / f"{name}.json", ANSWERS["programs"][name]
    program = FeatureProgram.load(path, functions=made.FUNCTIONS)
    assert program.digest == expected["digest"]
    assert list(program.output_names) == expected["outputs"]
    wanted = [{key: row[key] for key in program.input_names} for row in made.requests()]
    assert [bits(program.row(row)) for row in wanted] == expected["rows"]
    assert program.to_json() + "\n" == path.read_text()


@pytest.mark.parametrize("name", sorted(ANSWERS["programs"]))
def test_fitting_again_freezes_the_same_program(name):
    program = FeatureProgram.fit(made.specs()[name], made.table())
    expected = json.loads((made.FOLDER / "programs" / f"{name}.json").read_text())
    found = json.loads(program.to_json())
    # A newer database of time zones may know other changes of the clock.
    for body in (found, expected):
        body.pop("digest")
        for feature in body["features"]:
            for op in feature.get("ops", ()):
                if op["op"] == "part":
                    del op["edges"], op["offsets"]
    assert found == expected


def test_the_saved_programs_cover_every_op_of_their_version():
    saved = set()
    for path in (made.FOLDER / "programs").glob("*.json"):
        for feature in json.loads(path.read_text())["features"]:
            saved |= set(ops_of(feature))
    # `_scaling` is what standardise, min_max and robust share.
    known = {op for _, op in REGISTRY if not op.startswith("_")}
    since = {"affine", "map"}
    assert saved == known - since


def ops_of(feature):
    for op in feature.get("ops", ()):
        yield op["op"]
    for part in feature.get("of", ()):
        yield from ops_of(part)


# --- a monitor's reference ---


def test_a_reference_opens_and_writes_the_same_text():
    text, expected = (made.FOLDER / "reference.json").read_text(), ANSWERS["reference"]
    reference = Reference.from_json(text)
    assert reference.to_json() == text
    assert reference.rows == expected["n"]
    assert [column.name for column in reference.features] == expected["features"]
    assert [column.name for column in reference.outputs] == expected["outputs"]
    assert [bits(reference.row(row)) for row in expected["requests"]] == expected["rows"]


# --- a registry ---


def test_a_registry_opens_with_its_versions_aliases_and_history(folder):
    expected = ANSWERS["registry"]
    with ModelRegistry(folder / "registry", code=False) as registry:
        assert registry.verify().problems == []
        assert registry.names() == ["flights"]
        for version, was in zip(registry.versions("flights"), expected["versions"], strict=True):
            bundle = registry.resolve(version)
            program = bundle.program()
            rows = np.stack([program.row(row) for row in expected["asked"]])
            assert (version.digest, version.created_ns) == (was["digest"], was["created_ns"])
            assert program.digest == was["program"]
            assert bits(bundle.primary().predict(rows)) == was["primary"]
            assert bits(bundle.fallback().predict(rows)) == was["fallback"]
            assert bits(bundle.golden.rows) == was["golden_rows"]
            assert bits(bundle.golden.values) == was["golden_values"]
            assert {name: was[name] for name in ("metrics", "policy", "default", "lineage")} == {
                "metrics": bundle.metrics,
                "policy": bundle.policy,
                "default": bundle.default,
                "lineage": bundle.lineage,
            }
            assert Reference.from_json(bundle.reference).rows == 200
        aliases = [[a.alias, a.number, a.generation, list(a.past)] for a in registry.aliases("flights")]
        assert aliases == expected["aliases"]
        history = [
            [e.id, e.at_ns, e.action, e.alias, e.before, e.after, e.generation, e.who, e.note]
            for e in registry.history("flights")
        ]
        assert history == expected["history"]


def test_a_registry_is_written_to_as_before(folder):
    with ModelRegistry(folder / "registry", code=False) as registry:
        # The same bundle is the version that it was.
        bundle = registry.resolve("flights@2")
        again = registry.register(
            bundle.content("primary"),
            bundle.metrics,
            name="flights",
            fallback=bundle.content("fallback"),
            default=bundle.default,
            program=bundle.content("program").decode(),
            golden=(bundle.golden.rows, bundle.golden.values),
            reference=bundle.reference,
            policy=bundle.policy,
            lineage=bundle.lineage,
        )
        assert (again.number, again.digest) == (2, bundle.version.digest)
        state = registry.promote("flights", 2, generation=3)
        assert (state.number, state.generation) == (2, 4)


def test_a_registry_serves(folder):
    import engine

    expected = ANSWERS["registry"]
    (asked, _), was = expected["asked"], expected["versions"][0]
    with engine.open("flights@production", registry=folder / "registry") as service:
        answer = service.predict(asked, deadline_ms=5000)
    assert (answer.version, answer.source) == ("flights@1", "primary")
    assert answer.value == np.frombuffer(bytes.fromhex(was["primary"]))[0]


# --- online stores ---


def test_an_lmdb_store_opens(folder, tmp_path):
    check_online(LMDBOnline(folder / "online", map_bytes=1 << 20), tmp_path)


def test_rows_in_redis_are_read(redis_url, tmp_path):
    commands = (made.FOLDER / "redis.resp").read_bytes()
    port = int(redis_url.rsplit(":", 1)[1].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(commands)
        connection.shutdown(socket.SHUT_WR)
        replies = b"".join(iter(lambda: connection.recv(4096), b""))
    assert replies == b"+OK\r\n" * commands.count(b"$3\r\nSET\r\n")
    check_online(RedisOnline(redis_url), tmp_path)


def check_online(online, sources):
    store = FeatureStore(DuckDBOffline(sources), online)
    assert made.online_answers(store) == ANSWERS["online"]
    # Materialising again finds every row there already.
    made.write_sources(sources)
    until = made.BEGIN + made.timedelta(days=1)
    for view in made.VIEWS:
        again = store.materialize(view, None, until)
        assert again.rows > 0
        assert again.older == 0
    assert made.online_answers(store) == ANSWERS["online"]


# --- a training run cut in the middle ---


def test_a_cut_run_goes_on_from_its_checkpoint(folder, tmp_path, monkeypatch):
    expected = ANSWERS["checkpoint"]
    # The digest of a run covers the versions of libraries, so the test pretends to have those of the old run.
    monkeypatch.setattr(lineage, "environment", lambda: expected["environment"])
    monkeypatch.setattr("engine.training.learners._version", lambda *names: expected["library"])
    steps = []

    class Seen(LightGBM):
        def step(self, data, index, so_far, stop):
            steps.append(index)
            return super().step(data, index, so_far, stop)

    saved = Checkpoints(folder / "checkpoints", expected["run"]).load("primary")
    assert saved.step == 2
    assert artifacts.from_bytes("the checkpoint", saved.payload, trust=False).n_features == 4
    registry = ModelRegistry(tmp_path / "registry", code=False)
    learner = Seen(20, 5, num_leaves=4, bagging_fraction=0.6, bagging_freq=1)
    run = made.pipeline(registry, folder / "checkpoints", learner).train(made.CONFIG)
    assert (run.run, run.resumed_step, steps) == (expected["run"], 2, [2, 3])
    primary = registry.resolve(run.version).content("primary").decode()
    assert trees(primary, 10) == trees(expected["primary"], 10)
    if lightgbm_version() == expected["lightgbm"]:
        assert primary == expected["primary"]
        assert run.metrics.items() >= expected["metrics"].items()


def trees(text, count):
    """The first trees of a LightGBM model, as text."""
    return text[text.index("Tree=0") : text.index(f"Tree={count}")]


def lightgbm_version():
    import lightgbm

    return lightgbm.__version__
