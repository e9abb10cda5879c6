"""Each example under examples/, started as its first lines say, with real servers on loopback."""

import asyncio
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.minilm import minilm_folder
from tests.servers import RedisServer, free_port

pytest.importorskip("lightgbm")
httpx = pytest.importorskip("httpx")

EXAMPLES = Path(__file__).parents[2] / "examples"
ROW = {"amount": 250.0, "age_days": 20.0, "hour": 3}
STARTED_S_MAX = 30.0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The path of the model that examples/train.py makes, and what LightGBM itself says of ROW."""
    import lightgbm

    path = tmp_path_factory.mktemp("examples") / "model.txt"
    runpy.run_path(str(EXAMPLES / "train.py"))["main"](str(path))
    expected = lightgbm.Booster(model_file=str(path)).predict(np.array([list(ROW.values())]))[0]
    assert 0.5 < expected < 1.0
    return path, expected


@contextmanager
def started(command, model, folder, **environment) -> Iterator[subprocess.Popen]:
    """A process of this interpreter, stopped by its process id; its output is shown if the block fails."""
    log = folder / "log.txt"
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES.parent / "src"), *filter(None, sys.path)]),
        "MODEL": str(model),
        "PYTHONUNBUFFERED": "1",
        **environment,
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=EXAMPLES.parent,
            env=variables,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    except BaseException:
        print(log.read_text(errors="replace")[-4000:])
        raise
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def ended(process):
    """The exit status after SIGTERM."""
    process.send_signal(signal.SIGTERM)
    return process.wait(STARTED_S_MAX)


def answering(port, process):
    """Wait until something listens on a port of 127.0.0.1."""
    give_up = time.monotonic() + STARTED_S_MAX
    while True:
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < give_up, "nothing listens"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return f"http://127.0.0.1:{port}"


def test_fastapi(model, tmp_path):
    pytest.importorskip("uvicorn")
    path, expected = model
    port = free_port()
    command = ["-m", "uvicorn", "--app-dir", "examples", "fastapi_app:app", "--port", str(port)]
    command += ["--timeout-graceful-shutdown", "10"]
    with started(command, path, tmp_path) as process, httpx.Client() as client:
        url = answering(port, process)
        assert client.get(f"{url}/ready").json() is True
        answer = client.post(f"{url}/risk?deadline_ms=5000", json=ROW)
        assert answer.status_code == 200
        assert answer.json() == {
            "value": pytest.approx(expected),
            "source": "primary",
            "reason": "ok",
            "version": answer.json()["version"],
        }
        for spent in (0, -3):  # no time left: the default answers, and nothing raises
            assert client.post(f"{url}/risk?deadline_ms={spent}", json=ROW).json()["reason"] == "expired"
        assert client.post(f"{url}/risk", json={**ROW, "hour": 25}).status_code == 422
        metrics = client.get(f"{url}/metrics").text
        assert 'model="risk"' in metrics
        assert "# TYPE" in metrics
        # A request under way when SIGTERM comes is answered.
        body = json.dumps(ROW).encode()
        with socket.create_connection(("127.0.0.1", port), STARTED_S_MAX) as late:
            head = f"POST /risk?deadline_ms=5000 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            late.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body[:5])
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            late.sendall(body[5:])
            assert late.recv(1000).startswith(b"HTTP/1.1 200")
        process.wait(STARTED_S_MAX)


def test_gunicorn_with_preload(model, tmp_path):
    pytest.importorskip("gunicorn")
    path, expected = model
    port = free_port()
    command = ["-m", "gunicorn", "--chdir", "examples", "--config", "examples/gunicorn.conf.py"]
    with started(
        [*command, "--bind", f"127.0.0.1:{port}", "gunicorn_app:application"], path, tmp_path
    ) as process:
        url = answering(port, process)
        pids = set()
        for _ in range(500):
            answer = httpx.post(url, json=ROW).json()
            assert answer["value"] == pytest.approx(expected) or answer["source"] == "default"
            pids.add(answer["pid"])
            if len(pids) == 2:
                break
        assert len(pids) == 2
        assert process.pid not in pids
        assert ended(process) == 0


def test_flask(model, tmp_path):
    pytest.importorskip("flask")
    path, expected = model
    port = free_port()
    command = ["-m", "flask", "--app", "examples/flask_app.py", "run", "--port", str(port)]
    with started(command, path, tmp_path) as process, httpx.Client() as client:
        url = answering(port, process)
        answer = client.post(f"{url}/risk?deadline_ms=5000", json=ROW).json()
        assert (answer["value"], answer["source"]) == (pytest.approx(expected), "primary")
        refused = client.post(f"{url}/risk", json={**ROW, "ammount": 3})
        assert refused.status_code == 422
        assert "ammount" in refused.text
        assert client.get(f"{url}/stats").json()["primary"] == 1


@pytest.fixture
def redis(tmp_path):
    pytest.importorskip("redis")
    try:
        server = RedisServer(tmp_path)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    yield server
    server.stop()


def test_celery(model, tmp_path, redis):
    celery = pytest.importorskip("celery")
    path, expected = model
    command = [
        "-m",
        "celery",
        "--workdir",
        "examples",
        "--app",
        "celery_tasks",
        "worker",
        "--concurrency",
        "2",
    ]
    with started(command, path, tmp_path, BROKER=redis.url) as process:
        app = celery.Celery(broker=redis.url, backend=redis.url)
        try:
            due = time.time() + 60
            asked = [app.send_task("celery_tasks.risk", args=[ROW, due]) for _ in range(8)]
            late = app.send_task("celery_tasks.risk", args=[ROW, time.time() - 1])
            answers = [one.get(timeout=STARTED_S_MAX) for one in asked]
            assert {answer["source"] for answer in answers} == {"primary"}
            assert [answer["value"] for answer in answers] == pytest.approx([expected] * 8)
            assert late.get(timeout=STARTED_S_MAX)["reason"] == "expired"
        finally:
            app.close()
        assert ended(process) == 0


def test_stream_consumer(model, tmp_path, redis):
    path, expected = model
    client = redis.client()

    def risks(count):
        give_up = time.monotonic() + STARTED_S_MAX
        while len(found := client.xrange("risks")) < count:
            assert time.monotonic() < give_up, found
            time.sleep(0.02)
        return {fields[b"of"]: fields for _, fields in found}

    with client, started(["examples/stream_consumer.py"], path, tmp_path, REDIS=redis.url) as process:
        late = client.xadd("payments", ROW, id=f"{int(time.time() * 1e3) - 60_000}-0")
        mine = [client.xadd("payments", {**ROW, "note": "more"}) for _ in range(20)]
        found = risks(21)
        assert found[late][b"source"] == b"default"
        assert [float(found[one][b"value"]) for one in mine if found[one][b"source"] == b"primary"] == (
            pytest.approx([expected] * sum(found[one][b"source"] == b"primary" for one in mine))
        )
        again = client.xadd("payments", ROW)
        risks(22)
        assert again in risks(22)
        assert ended(process) == 0
        assert client.xpending("payments", "scorers")["pending"] == 0


def test_notebook(model, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("MODEL", str(model[0]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent / "src"), *filter(None, sys.path)]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3")
    asyncio.run(client.async_execute())
    assert all(
        cell.outputs == []
        for cell in nbformat.read(EXAMPLES / "notebook.ipynb", 4).cells
        if "outputs" in cell
    )
    text = "".join(
        output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert "lightgbm" in text
    assert "'primary'" in text


def test_the_embeddings_example_answers_each_text_and_keeps_what_it_computed(tmp_path):
    pytest.importorskip("model2vec")
    pytest.importorskip("lmdb")
    minilm_folder()
    texts = "where is my bag?\nthank you, that was lovely\nwhere is my bag?\n"

    def answers():
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "embeddings.py"), str(tmp_path / "kept")],
            input=texts,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(EXAMPLES.parent / "src"), *filter(None, sys.path)]),
                "VOCABULARY_MAX": "300",
                "DEADLINE_MS": "20000",
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    first, second = answers(), answers()
    assert [each["source"] for each in first] == ["primary"] * 3
    assert first[0]["thanks"] < 0.5 < first[1]["thanks"]
    assert [each["thanks"] for each in first] == [each["thanks"] for each in second]
