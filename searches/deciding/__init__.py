"""Which trial is next, which one ends, and what may be claimed in the end. Nothing here knows Tune or MLflow."""
