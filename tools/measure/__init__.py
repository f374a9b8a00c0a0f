"""What `tools/bench.py` measures: limits of the machine, parts of the package, whole runs."""
