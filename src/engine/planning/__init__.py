"""Former name of `engine.simulation`, `engine.loadgen` and `engine.testing`."""

from engine._common.renamed import keep

_SIMULATION = ("fault_plan", "liveness", "oracle", "random_plans", "simulate")

keep(
    "engine.planning",
    {
        **{name: f"engine.simulation.{name}" for name in _SIMULATION},
        "simulation_plan": "engine.simulation.plan",
        "bench": "engine.loadgen.bench",
        "drive": "engine.loadgen.drive",
        "load": "engine.loadgen.load",
        "faults": "engine.testing.faults",
    },
)
