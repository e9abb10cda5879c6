"""The public names are the committed ones, and importing the package stays light and pulls in nothing optional."""

import json
import subprocess
import sys

import engine

PUBLIC = [
    "Answer",
    "Answers",
    "Engine",
    "EngineError",
    "Executors",
    "FeatureProgram",
    "FeatureStore",
    "Model",
    "ModelMonitor",
    "ModelRegistry",
    "NOTHING",
    "TrainingPipeline",
    "get_include",
    "inspect",
    "load_model",
    "open",
    "remaining_ms",
    "simulate",
]
# Everything that only some users have. Nothing of it may come with `import engine`.
OPTIONAL = [
    "treelite",
    "lightgbm",
    "xgboost",
    "sklearn",
    "scipy",
    "onnxruntime",
    "onnx",
    "onnxmltools",
    "skl2onnx",
    "pandas",
    "pyarrow",
    "polars",
    "numba",
    "uvloop",
    "matplotlib",
    "cupy",
    "tensorrt",
    "redis",
    "boto3",
    "ray",
    "pyspark",
    "grpc",
    "duckdb",
    "lmdb",
    "typing_extensions",
    "tokenizers",
    "model2vec",
    "engine.cache",
    "engine.demo",
    "engine.cli",
    "engine.feature_store",
    "engine.monitor",
    "engine.registry",
    "engine.rollout",
    "engine.training",
]


def test_the_public_names_are_these():
    assert sorted(engine.__all__) == PUBLIC
    assert all(getattr(engine, name) is not None for name in PUBLIC)


def test_every_public_name_is_documented():
    for name in PUBLIC:
        assert (getattr(engine, name).__doc__ or "").strip(), name


def test_importing_the_package_imports_nothing_optional():
    script = (
        f"import engine, json, sys; print(json.dumps([name for name in {OPTIONAL!r} if name in sys.modules]))"
    )
    assert json.loads(_run(script)) == []


def test_importing_the_package_imports_few_modules():
    # Beside what NumPy brings: a count does not depend on how busy the machine is, and grows when something creeps in.
    script = "import numpy, sys; before = len(sys.modules); import engine; print(len(sys.modules) - before)"
    assert int(_run(script)) < 150


def _run(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout
