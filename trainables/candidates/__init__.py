"""Candidate generation for Impossible Distillation on Ray: `gpt2-search candidates`.

`pipeline.py` runs a round: its actors (`actors.py`) generate contexts and candidates, score and filter pairs, and write the
accepted pairs. `rounds.py` trains a student between two rounds.
"""
