"""What is measured at a mark."""
