"""The same flights for a feature store: events with the instant they became known, and labels to predict.

Weather becomes known at its hour, a departure delay at the departure, an arrival delay at the arrival. So a flight's
features hold only facts that an operator could know at its scheduled departure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from engine import transform as t
from engine._common.optional import need
from engine.demo.flights import CATEGORIES, LATE_MINUTES, TIMETABLE, WEATHER, data_folder
from engine.feature_store import Aggregate, Entity, FeatureView, Source

BEGIN = datetime(2013, 1, 1, 5, tzinfo=UTC)  # midnight in New York
LEARNED = datetime(2013, 7, 1, 4, tzinfo=UTC)
TAXI = timedelta(minutes=20)  # from and to the gate; `air_time` leaves it out


@dataclass(frozen=True, slots=True)
class Events:
    """The sources, written as Parquet, and the definitions on them.

    Attributes:
        views: the weather and the recent delays at the origin, and the carrier's recent delays.
        labels: Source of the flights: keys, timetable, `departs` (the instant of the prediction) and `late`.
        flights: the same as a data frame, in order of departure.
        spec: the features of the program.
    """

    views: list[FeatureView]
    labels: Source
    flights: Any
    spec: list[Any]


def write(folder: Path) -> Events:
    """Write the events of 2013 into `folder`, and define views and labels on them."""
    pandas = need("pandas", "the demo", "demo")
    folder.mkdir(parents=True, exist_ok=True)
    data = data_folder()
    flights = pandas.read_csv(data / "flights.csv.zip")
    flights = flights[flights["arr_delay"].notna() & flights["tailnum"].notna()]
    departs = pandas.to_datetime(flights["time_hour"], utc=True) + pandas.to_timedelta(
        flights["minute"], unit="min"
    )
    left = departs + pandas.to_timedelta(flights["dep_delay"], unit="min")
    arrived = left + pandas.to_timedelta(flights["air_time"], unit="min") + TAXI
    flights = flights.assign(
        departs=departs,
        left=left,
        arrived=arrived,
        weekday=pandas.to_datetime(flights[["year", "month", "day"]]).dt.weekday,
        late=(flights["arr_delay"] > LATE_MINUTES).astype("int64"),
        flight_id=range(len(flights)),
    ).sort_values("departs", kind="stable", ignore_index=True)
    weather = pandas.read_csv(data / "weather.csv", usecols=["origin", "time_hour", *WEATHER])
    weather["time"] = pandas.to_datetime(weather.pop("time_hour"), utc=True)
    weather = weather.drop_duplicates(["origin", "time"]).astype(dict.fromkeys(WEATHER, float))
    weather.to_parquet(folder / "weather.parquet", index=False)
    flights[["origin", "left", "dep_delay", "flight_id"]].to_parquet(
        folder / "departures.parquet", index=False
    )
    flights[["carrier", "arrived", "arr_delay", "flight_id"]].to_parquet(
        folder / "arrivals.parquet", index=False
    )
    asked = flights[[*CATEGORIES, *TIMETABLE, "departs", "late"]].astype(dict.fromkeys(TIMETABLE, float))
    asked.to_parquet(folder / "flights.parquet", index=False)
    views = views_on(folder)
    return Events(views, Source(folder / "flights.parquet", event_time="departs"), asked, _spec(views))


def views_on(folder: Path) -> list[FeatureView]:
    """Return the views on the files that `write` wrote."""
    origin, carrier = Entity("origin"), Entity("carrier")
    return [
        FeatureView(
            "weather", origin, Source(folder / "weather.parquet", event_time="time"), columns=list(WEATHER)
        ),
        FeatureView(
            "airport",
            origin,
            Source(folder / "departures.parquet", event_time="left", event_id="flight_id"),
            aggregates=[
                Aggregate("mean", "dep_delay", "1h"),
                Aggregate("mean", "dep_delay", "24h"),
                Aggregate("count", "dep_delay", "1h"),
            ],
        ),
        FeatureView(
            "carrier",
            carrier,
            Source(folder / "arrivals.parquet", event_time="arrived", event_id="flight_id"),
            aggregates=[Aggregate("mean", "arr_delay", "24h"), Aggregate("mean", "arr_delay", "7d")],
        ),
    ]


def _spec(views: list[FeatureView]) -> list[Any]:
    looked_up = [name for view in views for name in view.feature_names]
    return [
        *(t.number(name) for name in TIMETABLE),
        *(t.number(name).impute("median") for name in looked_up),
        t.category("origin").ordinal(),
        t.category("carrier").ordinal(),
        t.category("dest").ordinal(),
    ]
