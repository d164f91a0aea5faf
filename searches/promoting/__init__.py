"""The winner as a model folder with its card, and in MLflow's registry."""
