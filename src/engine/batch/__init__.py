"""Former name of `engine.scoring`."""

from engine._common.renamed import keep

keep(
    "engine.batch",
    {
        "": "engine.scoring",
        "commands": "engine.scoring.command",
        "parts": "engine.scoring.parts",
        "score": "engine.scoring.score",
    },
)

from engine.scoring import *  # noqa: E402, F403
