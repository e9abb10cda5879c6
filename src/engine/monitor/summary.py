"""Former path of `engine.monitor.report.summary`."""

from engine._common.renamed import keep

keep("engine.monitor.summary", {"": "engine.monitor.report.summary"})

from engine.monitor.report.summary import *  # noqa: E402, F403
