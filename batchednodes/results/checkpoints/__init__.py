"""Checkpoints: what continues a run."""
