"""Tests of stores that need servers or libraries of their own: `make test-stores` runs them in an environment that has
them, and plain `make test` leaves them alone."""

import os

if not os.environ.get("ENGINE_STORES"):
    collect_ignore_glob = ["*"]
