"""A search while it runs: its ledger, its budget, and the ways to Tune and MLflow."""
