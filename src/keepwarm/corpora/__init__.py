"""What exists: file lists, token files, tokenizing, holdouts."""
