"""What it knows: held-out losses and forgetting."""
