"""What a run measures and leaves behind."""
