"""What a person sees of a search: the screen, plots, reports."""
