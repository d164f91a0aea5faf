"""Candidate generation for Impossible Distillation on Ray: `python -m trainables.candidates`.

`pipeline.py` runs a round, `actors.py` does its work, `rounds.py` trains a student between two rounds.
"""
