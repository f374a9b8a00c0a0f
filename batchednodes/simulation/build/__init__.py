"""What a run is made of, built from settings."""
