"""Searches whose trials run a program of the user's: their flags, and the checks before they start."""
