"""Impossible Distillation (Jung et al. 2023, arXiv 2305.16635), as pure functions and plain PyTorch.

A language model generates candidate paraphrases (`generator.py`), a critic scores them (`scores.py`, `critics/`), filters
reject the bad ones (`filters.py`), acceptance writes the rest (`acceptance.py`), and a student learns from them (`dataset.py`,
`student.py`). `trainables/candidates/` runs this on Ray.
"""
