"""Train: the only room (with merge and convert) that imports torch."""
