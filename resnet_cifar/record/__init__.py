"""What a run leaves, and the one writer of it."""
