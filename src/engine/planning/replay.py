"""Former name of `engine.simulation.replay`: a file, because `python -m` needs one."""

import sys

from engine.simulation.replay import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
