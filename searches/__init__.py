"""The questions, one script each, and the runner that they share; the only room that knows Tune, Optuna and MLflow."""
