"""Draws by address, numbers for nodes, and compiled code that knows arrays and rows only."""
