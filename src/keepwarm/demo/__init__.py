"""The demonstration: its plan and its text."""
