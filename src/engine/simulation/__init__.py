"""The simulator: the scheduler that serves, driven by a virtual clock, seeded arrivals and faults."""

from engine.simulation.fault_plan import FAULTS, INVARIANTS, parse_fault
from engine.simulation.liveness import recovery
from engine.simulation.oracle import goodput_vs_oracle, most_at_most, most_exactly
from engine.simulation.random_plans import random_plan, recovering_plan
from engine.simulation.simulate import simulate

__all__ = [
    "FAULTS",
    "INVARIANTS",
    "goodput_vs_oracle",
    "most_at_most",
    "most_exactly",
    "parse_fault",
    "random_plan",
    "recovering_plan",
    "recovery",
    "simulate",
]
