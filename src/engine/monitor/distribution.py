"""Former path of `engine.monitor.drift.distribution`."""

from engine._common.renamed import keep

keep("engine.monitor.distribution", {"": "engine.monitor.drift.distribution"})

from engine.monitor.drift.distribution import *  # noqa: E402, F403
