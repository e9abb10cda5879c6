"""Former path of `engine.monitor.report.pictures`."""

from engine._common.renamed import keep

keep("engine.monitor.pictures", {"": "engine.monitor.report.pictures"})

from engine.monitor.report.pictures import *  # noqa: E402, F403
