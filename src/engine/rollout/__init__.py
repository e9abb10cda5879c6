"""A running service: an engine that follows an alias of the registry and rolls a bad version back by itself.

It composes the registry, the store, the monitor and serving, which do not know one another. Code that runs once per
request is the engine's own; this room runs once per version.
"""

from engine.rollout.events import Event
from engine.rollout.opening import open
from engine.rollout.probation import Probation
from engine.rollout.service import Service

__all__ = ["Event", "Probation", "Service", "open"]
