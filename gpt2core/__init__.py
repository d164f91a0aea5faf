"""GPT-2 and the ways of tuning it, in plain PyTorch; knows nothing of Ray, Optuna or MLflow."""

__version__ = "0.2.0"
