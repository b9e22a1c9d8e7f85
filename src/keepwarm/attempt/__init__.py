"""One try: start checkpoint + blend + schedule + optimizer state + budget, in exact numbers."""
