"""What users see of a search: screen, plots and reports."""
