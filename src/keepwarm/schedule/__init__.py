"""How fast: the learning rate as a pure function of tokens."""
