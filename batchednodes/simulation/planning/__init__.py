"""What a run needs, known and refused before it begins."""
