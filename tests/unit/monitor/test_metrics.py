import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from engine.monitor import ModelMonitor, Reference


def samples(monitor):
    families = text_string_to_metric_families(monitor.metrics_text())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_text_is_prometheus_and_has_the_counts():
    rng = np.random.default_rng(0)
    made = Reference.fit(rng.normal(size=(500, 2)), ["a", 'odd "name"'], outputs=rng.random(500))
    with ModelMonitor(made, handlers=[], background=False) as monitor:
        answer = monitor.log_prediction([0, 9e9], 0.5, 2.0, version="7")
        monitor.outcome(answer, 1, value=2.5)
        monitor.input_distribution.update(np.full((500, 2), 9.0))
        monitor.counter("bookings", "Bookings made").inc(3, version="7")
        found = samples(monitor)
    labels = (("reason", "ok"), ("source", "primary"), ("version", "7"))
    assert found[("engine_monitor_answers_total", *labels)] == 1
    assert found[("engine_business_bookings_total", ("version", "7"))] == 3
    assert found[("engine_monitor_column_drifted", ("column", 'odd "name"'), ("side", "inputs"))] == 1
    assert found[("engine_monitor_alert_lasts", ("column", "a"), ("kind", "input_drift"))] == 1
    assert found[("engine_monitor_labels_total", ("status", "joined"))] == 1
    assert found[("engine_monitor_outcome_value_mean", ("source", "primary"), ("version", "7"))] == 2.5
    assert found[("engine_monitor_dropped_total",)] == 0


def test_monitors_of_one_process_make_one_valid_text():
    made = [ModelMonitor(background=False, name=name) for name in ("fraud", "", "fraud")]
    for count, monitor in enumerate(made):
        monitor.counter("bookings", "Bookings made").inc(count + 1, version="7")
    text = made[0].metrics_text(*made[1:])
    metadata = [line for line in text.splitlines() if line.startswith("# ")]
    assert len(metadata) == len(set(metadata))
    values = [line for line in text.splitlines() if not line.startswith("# ")]
    assert len({line.rsplit(" ", 1)[0] for line in values}) == len(values)
    bookings = [line for line in values if line.startswith("engine_business_bookings_total")]
    assert bookings == [
        'engine_business_bookings_total{model="fraud",version="7"} 1.0',
        'engine_business_bookings_total{model="model",version="7"} 2.0',
        'engine_business_bookings_total{model="fraud-2",version="7"} 3.0',
    ]
    # The lines of a metric stand together.
    names = [line.split("{")[0].split(" ")[0] for line in values]
    assert len([name for name, before in zip(names, ["", *names], strict=False) if name != before]) == len(
        set(names)
    )
    for monitor in made:
        monitor.close()


def test_a_name_is_the_model_s_label():
    with ModelMonitor(background=False, name="fraud") as monitor:
        assert samples(monitor)[("engine_monitor_dropped_total", ("model", "fraud"))] == 0


def test_a_monitor_without_answers_has_metrics_too():
    with ModelMonitor(background=False) as monitor:
        assert samples(monitor)[("engine_monitor_dropped_total",)] == 0
