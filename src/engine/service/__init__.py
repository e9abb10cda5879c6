"""Former name of `engine.rollout`."""

from engine._common.renamed import keep
from engine.rollout import *  # noqa: F403

keep("engine.service", "engine.rollout", former={"residents": "engine.rollout.loaded"})
