"""Algorithms: one paper, one file; what an update and a phase of gossip do to the state."""
