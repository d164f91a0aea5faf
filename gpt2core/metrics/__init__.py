"""Metrics, trivial baselines, and statistics of differences between settings."""
