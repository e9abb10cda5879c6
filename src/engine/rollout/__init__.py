"""A running service: an engine that follows an alias of the registry, and goes back by itself where a version is bad.

Composes the registry, the store, the monitor and serving, which do not know one another. What runs once per request is
the engine's own; here is what runs once per version.
"""

from engine.rollout.events import Event
from engine.rollout.opening import open
from engine.rollout.probation import Probation
from engine.rollout.service import Service

__all__ = ["Event", "Probation", "Service", "open"]
