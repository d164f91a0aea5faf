"""Impossible Distillation (Jung et al. 2023, arXiv 2305.16635): a language model writes paraphrases, critics and filters keep
the good ones, a student learns from them. Pure functions and plain PyTorch; `trainables/` runs them in parallel.
"""
