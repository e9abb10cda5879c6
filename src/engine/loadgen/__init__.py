"""Open-loop load: arrivals drawn beforehand, drivers that send them, and a record of each answer."""

from engine.loadgen.bench import Bench, bench
from engine.loadgen.drive import drive_async, drive_async_many, drive_sync, drive_sync_many
from engine.loadgen.load import SOURCES, Reply, Run, Schedule, percentile, poisson

__all__ = [
    "SOURCES",
    "Bench",
    "Reply",
    "Run",
    "Schedule",
    "bench",
    "drive_async",
    "drive_async_many",
    "drive_sync",
    "drive_sync_many",
    "percentile",
    "poisson",
]
