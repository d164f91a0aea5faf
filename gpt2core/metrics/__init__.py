"""Scores: chrF with the floors it must be laid beside, and how sure one can be of a difference."""
