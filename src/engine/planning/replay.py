"""Former name of `engine.simulation.replay`: a file of its own, because `python -m` needs one."""

import sys

from engine.simulation.replay import broken, command, fewest_faults, main, message

__all__ = ["broken", "command", "fewest_faults", "main", "message"]

if __name__ == "__main__":
    sys.exit(main())
