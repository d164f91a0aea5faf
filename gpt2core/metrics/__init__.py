"""Scores: chrF with the baselines it must be laid beside, and how sure one can be of a difference."""
