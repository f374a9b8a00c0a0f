"""Races: several algorithms on the same data, seeds, clocks and budget, tuned alike, and their ranking."""
