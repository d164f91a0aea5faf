"""Promotion of a trial to a model folder with its card, and to MLflow's registry."""
