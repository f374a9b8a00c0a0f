"""Compares what two runs have left: models and versions bit for bit, metrics but for the order of sums."""

import json

import torch
from safetensors import safe_open

SUMS = ("updated", "gained", "curves.before", "curves.integral", "curves.of_source", "staleness_of_node")
"""Sums of times, whose order of terms differs with the number of ranks and with windows."""


def differences(one, other):
    """Returns what is not the same in two folders of runs that are at their end, in words."""
    said = list[str]()
    with safe_open(one / "final.safetensors", "pt") as a, safe_open(other / "final.safetensors", "pt") as b:
        said += [f"{name} is in one only" for name in {*a.keys()} ^ {*b.keys()}]
        for name in {*a.keys()} & {*b.keys()}:
            first, second = a.get_tensor(name), b.get_tensor(name)
            sums = name in SUMS and first.shape == second.shape
            same = torch.allclose(first, second, 1e-12, 0, equal_nan=True) if sums else _same(first, second)
            said += [] if same else [name]
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    if len(rows[0]) != len(rows[1]):
        said.append(f"{len(rows[0])} and {len(rows[1])} rows")
    for first, second in zip(*rows, strict=False):
        for key, value in first.items():
            near = isinstance(value, float) and abs(value - second[key]) <= 1e-12 * max(1.0, abs(value))
            said += [] if value == second[key] or near else [f"{key} of {first['network']} at {first['time']}"]
    return said


def _same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
