"""Run by bench_feature_store in Feast's own environment: its historical join of the same files, as its quickstart has
it. Prints {"pit_join_s_300k": seconds, "pit_join_peak_mb": megabytes}."""

import json
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.types import Float64

folder = Path(sys.argv[1])
COLUMNS = {
    "weather": ("origin", ["temp", "humid", "wind_speed", "visib"]),
    "carrier": ("carrier", ["dep_delay", "distance", "air_time"]),
    "plane": ("tailnum", ["dep_delay", "distance", "air_time"]),
}
repository = Path(tempfile.mkdtemp())
(repository / "feature_store.yaml").write_text(
    "project: rival\nprovider: local\nregistry: registry.db\nonline_store:\n  path: online.db\n"
    "offline_store:\n  type: file\nentity_key_serialization_version: 3\n"
)
store = FeatureStore(repo_path=str(repository))
parts = []
for name, (key, columns) in COLUMNS.items():
    entity = Entity(name=f"{name}_entity", join_keys=[key])
    view = FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(days=7) if name == "carrier" else timedelta(days=3650),
        schema=[Field(name=column, dtype=Float64) for column in columns],
        source=FileSource(path=str(folder / f"{name}.parquet"), timestamp_field="time"),
    )
    parts += [entity, view]
store.apply(parts)
labels = pd.read_parquet(folder / "labels.parquet").rename(columns={"time": "event_timestamp"})
features = [f"{name}:{column}" for name, (_, columns) in COLUMNS.items() for column in columns]
began = time.perf_counter()
frame = store.get_historical_features(entity_df=labels, features=features, full_feature_names=True).to_df()
taken = time.perf_counter() - began
assert len(frame) > 0
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"pit_join_s_300k": taken, "pit_join_peak_mb": int(peak.split()[1]) / 1024}))
