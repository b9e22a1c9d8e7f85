"""One method of merging weights a file."""
