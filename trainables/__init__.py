"""How a trial runs on Ray: one training loop, in a warm Tune function or in a Ray Train worker group."""
