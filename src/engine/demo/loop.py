"""The whole loop on the same flights: features, training, registry, serving, drift, a bad version and its rollback.

January to June is materialised, learned from and registered. July is replayed in order of departure under load, while
its events enter the store as they happen. Late in July a bad version is promoted: it passes its golden rows, fails on
live flights, and the service rolls it back by itself.
"""

from __future__ import annotations

import json
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from engine.demo import events as flight_events
from engine.demo.bad_version import register_bad
from engine.demo.events import BEGIN, LEARNED, Events
from engine.demo.replay import NAME, Replay, Say
from engine.demo.size import Size
from engine.feature_store import DatasetConfig, DuckDBOffline, FeatureStore, LMDBOnline
from engine.monitor import Reference
from engine.registry import Bundle, ModelRegistry
from engine.training import LightGBM, TrainingPipeline, TrainingRun


def run(folder: Path, *, size: Size, seed: int, say: Say) -> dict[str, Any]:
    """Run the loop, and write loop.json and report.html into `folder`. Return the content of loop.json."""
    # An earlier run's July would be newer than this run's June.
    for name in ("online", "registry", "data"):
        shutil.rmtree(folder / name, ignore_errors=True)
    made = flight_events.write(folder / "data")
    store = FeatureStore(DuckDBOffline(), LMDBOnline(folder / "online"))
    started = time.monotonic()
    written = {view.name: store.materialize(view, BEGIN, LEARNED).written for view in made.views}
    say(
        f"materialised January to June: {', '.join(f'{rows} rows of {view}' for view, rows in written.items())} in "
        f"{time.monotonic() - started:.1f} s"
    )
    registry = ModelRegistry(folder / "registry")
    trained = _train(store, registry, made, size, say)
    january = _january(store, made, registry.resolve(str(trained.version)))
    registry.promote(NAME, trained.version, note="trained on January to June")
    bad = register_bad(registry, NAME, trained.version, made, size.unlearned)
    july = Replay(folder, made, bad, size=size, seed=seed, say=say)
    served = july.run(store, registry, january)
    result = {
        "materialised": written,
        "version": str(trained.version),
        "metrics": trained.metrics,
        "fallback": trained.fallback,
        "bad_version": str(bad),
        "replay": served.figures,
        "versions": served.versions,
        "rows_materialised_meanwhile": served.materialised,
        "missing_features": served.missing,
        "alerts": [alert.to_json() for alert in served.alerts],
        "events": served.events,
        "outcomes": served.outcomes,
    }
    (folder / "loop.json").write_text(json.dumps(result, indent=1, default=str) + "\n")
    return result


def _train(store: FeatureStore, registry: ModelRegistry, made: Events, size: Size, say: Say) -> TrainingRun:
    config = DatasetConfig(made.labels, made.views, label="late", end_time=LEARNED)
    learner = LightGBM(size.loop_trees, num_leaves=size.loop_leaves, learning_rate=0.1)
    pipeline = TrainingPipeline(
        store,
        registry,
        learner=learner,
        spec=made.spec,
        name=NAME,
        # The batch lane, in which a later version of any kind can take its place.
        policy={"deadline_ms": size.deadline_ms, "lane": "batch"},
    )
    started = time.monotonic()
    trained = pipeline.train(config)
    fallback = f"; fallback of {trained.fallback['trees']} trees" if trained.fallback else ""
    say(
        f"trained {trained.version} in {time.monotonic() - started:.0f} s: AUC {trained.metrics['auc']:.3f} on June's "
        f"flights{fallback}"
    )
    return trained


def _january(store: FeatureStore, made: Events, bundle: Bundle) -> Reference:
    """Return the monitor's reference: January alone, because half a year of weather would hide July's warmth."""
    config = DatasetConfig(made.labels, made.views, end_time=BEGIN + timedelta(days=31))
    program = bundle.program()
    assert program is not None, "the pipeline registers one"
    rows = program.batch(store.get_training_features(config))
    return Reference.fit(rows, names=program.output_names, outputs=bundle.primary().predict(rows))
