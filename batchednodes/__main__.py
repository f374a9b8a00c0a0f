"""Runs the command line: `python -m batchednodes`."""

from batchednodes.cli import main

main()
