"""Trials that run a program of the user's instead of this project's training loop."""
