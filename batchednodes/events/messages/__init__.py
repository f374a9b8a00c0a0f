"""Messages between nodes, one by one: sent, under way, lost, delivered, and what their receivers do."""
