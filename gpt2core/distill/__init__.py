"""Impossible Distillation (Jung et al. 2023, arXiv 2305.16635): a language model generates paraphrases, a critic and filters
accept the good ones, a student learns from them. Pure functions and plain PyTorch; `trainables/candidates/` runs them on Ray.
"""
