"""What is asked: the plan file and the cookbooks (pure data)."""
