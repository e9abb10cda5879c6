"""The registry: immutable versions of models, the aliases that point at them, and their lineage."""

from engine.model.golden import Golden
from engine.registry.bundle import Bundle
from engine.registry.registry import ModelRegistry
from engine.registry.versions import AliasState, AuditEntry, Version
from engine.registry.watch import Watch

__all__ = ["AliasState", "AuditEntry", "Bundle", "Golden", "ModelRegistry", "Version", "Watch"]
