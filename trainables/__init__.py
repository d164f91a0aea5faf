"""What Ray workers run: trials, packs of trials, and the generation of candidate paraphrases."""
