"""From sources to batches: validated rows with a digest, a tokenised Arrow cache, length-bucketed batches."""
