"""Batch scoring: Parquet in, Parquet out, on every core, resumed after a kill."""

from engine.scoring.score import Scored, score

__all__ = ["Scored", "score"]
