"""Before a search: checks of its plan, baselines, and a forecast of time and cost from a few timed steps."""
