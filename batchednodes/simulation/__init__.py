"""From settings to a run: built, planned, executed, resumed."""
