"""The seed of this test run. ENGINE_SEED=<seed> repeats a run that failed."""

import os
import secrets

SEED = int(os.environ.get("ENGINE_SEED") or secrets.randbelow(1 << 32))
