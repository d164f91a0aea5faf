"""A running search: its ledger, budget, resources, the Ray Tune backend and MLflow."""
