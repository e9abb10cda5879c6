"""Run bqemulator without DuckDB's spatial extension, which it would download when it starts.

python run_bqemulator.py REST_PORT GRPC_PORT

Geography is the one type that needs the extension, and no feature is of it.
"""

import sys

from bqemulator.cli import main
from bqemulator.storage import engine

engine.DuckDBEngine._load_spatial = lambda self: None

if __name__ == "__main__":
    main(["start", "--rest-port", sys.argv[1], "--grpc-port", sys.argv[2], "--log-level", "error"])
