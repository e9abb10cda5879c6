"""MLflow's registry, driven in an environment of its own by bench_registry: MODEL FOLDER COUNT; prints JSON."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path


def main() -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    import logging

    import lightgbm
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    path, folder, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.create_experiment("bench", artifact_location=(folder / "mlruns").as_uri())
    mlflow.set_experiment(experiment_id=experiment)
    client = mlflow.MlflowClient()
    client.create_registered_model("artifact")
    booster = lightgbm.Booster(model_file=str(path))

    def artifact() -> None:
        with mlflow.start_run() as run:
            mlflow.log_metric("auc", 0.7)
            mlflow.log_artifact(str(path))
        client.create_model_version("artifact", f"{run.info.artifact_uri}/{path.name}", run.info.run_id)

    def model() -> None:
        with mlflow.start_run():
            mlflow.log_metric("auc", 0.7)
            mlflow.lightgbm.log_model(
                booster, name="model", registered_model_name="model", pip_requirements=["lightgbm"]
            )

    def flip(number: int) -> None:
        client.set_registered_model_alias("artifact", "production", str(number % 2 + 1))

    def resolve() -> None:
        client.get_model_version_by_alias("artifact", "production")

    found = {"register_artifact_ms": median_ms(artifact, count), "register_ms_p50": median_ms(model, count)}
    found["flip_ms_p50"] = statistics.median(
        taken_ms(lambda number=number: flip(number)) for number in range(count)
    )
    found["resolve_us_p50"] = median_ms(resolve, 10 * count) * 1e3
    print(json.dumps(found))


def median_ms(call: object, count: int) -> float:
    taken_ms(call)
    return statistics.median(taken_ms(call) for _ in range(count))


def taken_ms(call: object) -> float:
    started = time.perf_counter_ns()
    call()  # type: ignore[operator]
    return (time.perf_counter_ns() - started) * 1e-6


if __name__ == "__main__":
    main()
