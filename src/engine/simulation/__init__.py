"""The simulator: the scheduler that serves, driven by a virtual clock, seeded arrivals and faults."""
