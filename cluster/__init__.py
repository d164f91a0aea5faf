"""Where a search runs: connecting to Ray, on this machine or on a cluster."""
