"""Rival drift detectors, run in an environment of their own: prints one JSON object.

    python rivals_monitor.py alibi|evidently|nannyml|adwin SEED

Each rival gets the same normal rows: 30 features, a reference of 10,000 rows, windows of 1,000 rows. For each window it
names the features that drifted. A false alarm is one feature in one window. The delay is the number of rows from a
change of all features to the end of the first window that names a feature, median over features. A feature that is
never named in 3,000 rows counts as 3,000.
"""

import json
import sys
import time
import warnings

import numpy as np

FEATURES = 30
REFERENCE_ROWS = 10_000
WINDOW = 1000


def alibi():
    """KSDrift, Bonferroni-corrected over the features, p < 0.05."""
    from alibi_detect.cd import KSDrift

    def made(reference):
        detector = KSDrift(reference, p_val=0.05, correction="bonferroni")
        level = 0.05 / FEATURES

        def drifted(window):
            p_values = detector.predict(window, drift_type="feature", return_p_val=True)["data"]["p_val"]
            return p_values < level

        return drifted

    return made


def evidently():
    """DataDriftPreset with its defaults: normed Wasserstein distance (references over 1,000 rows), drift from 0.1."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    names = [f"f{i}" for i in range(FEATURES)]
    definition = DataDefinition(numerical_columns=names)

    def made(reference):
        before = Dataset.from_pandas(pd.DataFrame(reference, columns=names), data_definition=definition)

        def drifted(window):
            after = Dataset.from_pandas(pd.DataFrame(window, columns=names), data_definition=definition)
            metrics = Report([DataDriftPreset()]).run(after, before).dict()["metrics"]
            values = {metric["metric_id"]: metric["value"] for metric in metrics}
            return np.array([values[f"ValueDrift(column={name})"] >= 0.1 for name in names])

        return drifted

    return made


def nannyml():
    """UnivariateDriftCalculator with its defaults: Jensen-Shannon distance, a threshold of three deviations."""
    import pandas as pd
    from nannyml import UnivariateDriftCalculator

    names = [f"f{i}" for i in range(FEATURES)]

    def made(reference):
        calculator = UnivariateDriftCalculator(column_names=names, chunk_size=WINDOW)
        calculator.fit(pd.DataFrame(reference, columns=names))

        def drifted(window):
            found = (
                calculator.calculate(pd.DataFrame(window, columns=names)).filter(period="analysis").to_df()
            )
            return np.array([bool(found[(name, "jensen_shannon", "alert")].iloc[-1]) for name in names])

        return drifted

    return made


def adwin():
    """One ADWIN a feature (Bifet and Gavaldà, 2007) of river, delta 0.002 / 30; the reference comes first."""
    from river.drift import ADWIN

    def made(reference):
        detectors = [ADWIN(delta=0.002 / FEATURES) for _ in range(FEATURES)]

        def drifted(window):
            found = np.zeros(FEATURES, dtype=bool)
            for place, detector in enumerate(detectors):
                for value in window[:, place].tolist():
                    detector.update(value)
                    found[place] |= detector.drift_detected
            return found

        drifted(reference)
        return drifted

    return made


def measure(made, seed, windows):
    rng = np.random.default_rng(seed)
    drifted = made(rng.normal(size=(REFERENCE_ROWS, FEATURES)).astype(np.float32))
    false_alarms, taken = 0, []
    for _ in range(windows):
        window = rng.normal(size=(WINDOW, FEATURES)).astype(np.float32)
        before = time.perf_counter()
        false_alarms += int(drifted(window).sum())
        taken.append(time.perf_counter() - before)
    figures = {
        "us_per_row_feature": min(taken) / (WINDOW * FEATURES) * 1e6,
        "false_alarms_100k": false_alarms * (100_000 / (windows * WINDOW)),
    }
    for key, shift, scale in (("delay_mean_0.25", 0.25, 1.0), ("delay_sd_1.3", 0.0, 1.3)):
        delays = np.full(FEATURES, 3 * WINDOW)
        for window in range(3):
            rows = (rng.normal(size=(WINDOW, FEATURES)) * scale + shift).astype(np.float32)
            delays[drifted(rows) & (delays == 3 * WINDOW)] = (window + 1) * WINDOW
        figures[key] = float(np.median(delays))
    return figures


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    which, seed = sys.argv[1], int(sys.argv[2])
    detector = {"alibi": alibi, "evidently": evidently, "nannyml": nannyml, "adwin": adwin}[which]()
    # A tenth of the rows for Evidently, which takes 72 us a row and feature.
    print(json.dumps(measure(detector, seed, 10 if which == "evidently" else 100)))
