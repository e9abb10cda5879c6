"""Former name of `engine.simulation`, `engine.loadgen` and `engine.testing`."""

from engine._common.renamed import keep

keep(
    "engine.planning",
    "engine.simulation",
    "engine.loadgen",
    "engine.testing",
    former={"simulation_plan": "engine.simulation.plan"},
)
