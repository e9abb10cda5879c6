"""Engine: every prediction answered before its deadline, inside your own process."""
