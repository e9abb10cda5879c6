"""Load: arrivals drawn beforehand, sent open-loop, and what came back."""
