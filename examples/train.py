"""Trains the small model that the other examples serve.

python examples/train.py model.txt
"""

import sys

import lightgbm
import numpy as np

FEATURES = ["amount", "age_days", "hour"]


def main(path: str) -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.gamma(2, 50, 5000), rng.integers(0, 3000, 5000), rng.integers(0, 24, 5000)])
    risky = rows[:, 0] / 100 - rows[:, 1] / 2000 + (rows[:, 2] < 6) + rng.normal(0, 0.5, 5000) > 1
    data = lightgbm.Dataset(rows, risky, feature_name=FEATURES)
    lightgbm.train({"objective": "binary", "verbose": -1}, data, 20).save_model(path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "model.txt")
