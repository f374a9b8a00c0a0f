"""Ways to apply a phase of gossip to the rows of a tensor; the sparse matrix product is the reference."""
