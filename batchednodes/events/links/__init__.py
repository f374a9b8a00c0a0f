"""Links between nodes: how long messages take, and which are lost."""
