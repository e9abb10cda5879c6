"""Former name of `engine.scoring`."""

from engine._common.renamed import keep
from engine.scoring import *  # noqa: F403

keep("engine.batch", "engine.scoring", former={"commands": "engine.scoring.command"})
