"""What a search would take, predicted from a few timed steps, and what it took."""
