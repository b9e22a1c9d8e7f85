"""Checkpoints in the formats of others, a target a file."""
