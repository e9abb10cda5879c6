import numpy as np
import pytest

from engine import cli
from engine.errors import MonitorError
from engine.monitor import ModelMonitor, Reference, compare

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(path, rng, n=2000, broken=False, **more):
    table = {
        "temp": rng.normal(25.0 if broken else 10.0, 5, n),
        "carrier": rng.choice(["AA", "UA"], n),
        "flag": rng.random(n) < 0.5,
        "when": np.arange(n).astype("datetime64[s]"),
        "prediction": rng.random(n),
    }
    parquet.write_table(pa.table({**table, **more}), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("files")
    return (
        write(folder / "a.parquet", rng),
        write(folder / "same.parquet", rng),
        write(folder / "b.parquet", rng, broken=True),
    )


def test_two_files_are_compared_column_by_column(files):
    monitor = compare(files[0], files[2], outputs=["prediction"])
    assert [(alert.kind, alert.column) for alert in monitor.alerts] == [("input_drift", "temp")]
    assert monitor.reference.names == ("temp", "carrier", "flag")  # times are no numbers
    assert monitor.input_distribution.rows == monitor.output_distribution.rows == 2000
    figures = monitor.input_distribution.columns()["temp"]
    assert figures["mean_reference"] == pytest.approx(10, abs=0.5)


def test_all_rows_are_in_the_picture(files):
    monitor = compare(files[0], files[2])
    (_, counts, _) = monitor.input_distribution.histograms()[0]
    assert counts.sum() == 2000


def test_rows_of_the_same_kind_raise_nothing(files):
    assert compare(files[0], files[1]).alerts == []
    assert compare(files[0], files[0]).alerts == []


def test_the_columns_of_the_reference_are_the_same_as_those_fitted_at_once(files):
    made = compare(files[0], files[1], columns=["temp", "carrier"], categorical=["carrier"]).reference
    at_once = Reference.fit(parquet.read_table(files[0]), ["temp", "carrier"], categorical=["carrier"])
    assert [column.to_json() for column in made.features] == [column.to_json() for column in at_once.features]
    # Columns are read one by one, so nothing is known of two at a time.
    assert made.pairs is None


def test_ids_beyond_float32_are_told_apart(tmp_path):
    ids = np.array([16777216, 16777217] * 500)
    parquet.write_table(pa.table({"id": ids}), tmp_path / "a.parquet")
    parquet.write_table(pa.table({"id": np.full(1000, 16777217)}), tmp_path / "b.parquet")
    monitor = compare(tmp_path / "a.parquet", tmp_path / "b.parquet", categorical=["id"])
    assert [alert.column for alert in monitor.alerts] == ["id"]


def test_a_column_that_is_gone_is_missing(files, tmp_path):
    parquet.write_table(parquet.read_table(files[1]).drop(["temp"]), tmp_path / "b.parquet")
    monitor = compare(files[0], tmp_path / "b.parquet")
    assert monitor.input_distribution.columns()["temp"]["missing_share"] == 1.0
    assert [alert.column for alert in monitor.alerts] == ["temp"]


def test_wrong_files_are_explained(files, tmp_path):
    (tmp_path / "text.parquet").write_text("no Parquet")
    parquet.write_table(parquet.read_table(files[0]).slice(0, 50), tmp_path / "few.parquet")
    parquet.write_table(parquet.read_table(files[0]).slice(0, 0), tmp_path / "none.parquet")
    parquet.write_table(pa.table({"other": [1.0]}), tmp_path / "other.parquet")
    for given, error in (
        ((tmp_path / "text.parquet", files[1]), "cannot be read as Parquet"),
        ((tmp_path / "few.parquet", files[1]), "at least 100 rows, got 50"),
        ((files[0], tmp_path / "none.parquet"), "at least one row"),
        ((files[0], tmp_path / "other.parquet"), "expected columns of the reference"),
    ):
        with pytest.raises(MonitorError, match=error):
            compare(*given)
    with pytest.raises(MonitorError, match="no column 'tmp'; it has: temp"):
        compare(*files[:2], columns=["tmp"])
    with pytest.raises(MonitorError, match=r"nowhere\.parquet: cannot be read"):
        compare(tmp_path / "nowhere.parquet", files[0])


def test_the_command_writes_the_page_and_tells_the_alerts(files, tmp_path, capsys):
    out = tmp_path / "page.html"
    given = ["monitor", "report", "--reference", str(files[0]), "--current", str(files[2]), "--out", str(out)]
    assert cli.main([*given, "--name", "flights"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        f"{out}: 2,000 rows against 2,000, 1 alerts\n  warning: input drift: temp is no longer"
    )
    assert "Warning: flights" in out.read_text()
    assert cli.main(["monitor", "report", "--reference", str(files[0])]) == 1
    assert "say --reference FILE and --current FILE, or --state FILE" in capsys.readouterr().err


def test_the_command_shows_the_state_of_a_running_service(files, tmp_path, capsys):
    reference = compare(files[0], files[1]).reference
    (tmp_path / "reference.json").write_text(reference.to_json())
    state = tmp_path / "fraud.state"
    with ModelMonitor(reference, handlers=[], background=False, state=state) as monitor:
        monitor.input_distribution.update(
            {"temp": np.full(500, 99.0), "carrier": ["AA"] * 500, "flag": [0] * 500}
        )
        monitor.save()
        before = state.read_bytes()
        given = [
            "monitor",
            "report",
            "--state",
            f"fraud={state}",
            "--reference",
            str(tmp_path / "reference.json"),
        ]
        assert cli.main([*given, "--out", str(tmp_path / "page.html")]) == 0
        assert state.read_bytes() == before
    assert "500 rows against 2,000" in capsys.readouterr().out
    assert "Warning: fraud" in (tmp_path / "page.html").read_text()
    state.write_bytes(b"damaged")
    assert cli.main([*given, "--out", str(tmp_path / "page.html")]) == 1
    assert "not the state of a monitor" in capsys.readouterr().err
    assert state.read_bytes() == b"damaged"
