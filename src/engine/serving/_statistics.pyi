# Nothing here is for Python: see _statistics.pxd.
