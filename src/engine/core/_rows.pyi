# Nothing here is for Python: see _rows.pxd.
