"""Own parts of gpt2-search: the adapter `bitfit` and the decoder `epsilon`."""
