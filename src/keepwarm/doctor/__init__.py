"""What goes wrong silently around the reference trainer: one trap a function, found before or after it cost a run."""
