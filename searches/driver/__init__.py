"""The driver of a search, in three steps that `searches.runner` calls: connect, tune, finish."""
