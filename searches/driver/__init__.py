"""The driver of a search, in three steps that `searches.runner` calls: connect, tune, finish. What it learns is in the ledger."""
