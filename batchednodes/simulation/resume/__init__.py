"""What makes a run go on, or begin from another."""
