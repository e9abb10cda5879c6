"""Scoring whole files: Parquet in, Parquet out, as fast as the machine decodes it."""

from engine.scoring.score import Scored, score

__all__ = ["Scored", "score"]
