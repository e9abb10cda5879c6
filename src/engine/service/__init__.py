"""Former name of `engine.rollout`."""

from engine._common.renamed import keep

keep(
    "engine.service",
    {
        "": "engine.rollout",
        "events": "engine.rollout.events",
        "opening": "engine.rollout.opening",
        "probation": "engine.rollout.probation",
        "residents": "engine.rollout.loaded",
        "service": "engine.rollout.service",
    },
)

from engine.rollout import *  # noqa: E402, F403
