#!/usr/bin/env python3
"""Measures the package against the machine's limits and against other ways to do the same, in one process.

    python tools/bench.py [--device cpu|cuda] [--only SECTION ...] [--nodes 100 1000 10000]
        [--models NAME ...] [--repeats 5] [--json FILE]

With --json the figures are also written as a table, with the same name and the suffix .md.

Absolute times differ from machine to machine: what counts are the ratios, each from interleaved repeats of one run.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numba
import torch
from measure import costs, gossipy_rounds, models, parts, start, whole, zoo
from measure.limits import limits
from measure.networks import NETWORKS
from measure.workloads import LOGREG, MLP, WORKLOADS
from rich.console import Console
from rich.table import Table

import batchednodes
from batchednodes.numerics import devices

MIXED = ((1_000, 1_000), (1_000, 10_000), (100, 100_000), (10_000, 1_000))
"""Sizes (n, p) at which mixing is measured; on CUDA also larger ones."""

SECTIONS = (
    "limits",
    "scheduling",
    "mixing",
    "merging",
    "local",
    "models",
    "waves",
    "whole",
    "memory",
    "growth",
    "checkpoints",
    "million",
    "zoo",
    "costs",
    "events",
    "gossipy",
    "start",
)


def sections(
    device: torch.device, nodes: list[int], networks: list[str], repeats: int
) -> dict[str, list[tuple[str, Callable[[], Any]]]]:
    """Returns what each section measures, as (name, measurement)."""
    mixed = MIXED + (((10_000, 10_000), (1_000, 100_000)) if devices.is_cuda(device) else ())
    largest = {"cnn": 1_000}
    pairs = [(w, n) for w in WORKLOADS.values() for n in nodes if n <= largest.get(w.name, n)]
    grown = [10**k for k in range(2, 6 if device.type == "cpu" else 7)]
    return {
        "limits": [("machine", lambda: limits(device, repeats))],
        "scheduling": [
            *((f"n={n}", lambda n=n: parts.scheduling(n, repeats)) for n in nodes),
            *((f"threads n={n}", lambda n=n: parts.divided(n, repeats)) for n in [*nodes, 1_000_000]),
            *((f"logreg n={n}", lambda n=n: parts.hidden(LOGREG, n, device, repeats)) for n in nodes),
        ],
        "mixing": [(f"n={n} p={p}", lambda n=n, p=p: parts.mixing(n, p, device, repeats)) for n, p in mixed],
        "merging": [(f"n={n} t={n}", lambda n=n: parts.merging(n, min(n, 10_000), device, repeats)) for n in nodes],
        "local": [(f"{w.name} n={n}", lambda w=w, n=n: parts.local(w, n, device, repeats)) for w, n in pairs],
        "models": [(name, lambda name=name: models.models(name, repeats)) for name in networks if device.type == "cpu"],
        "waves": [
            (f"{name} n={n}", lambda name=name, n=n: models.on_device(name, n, device, repeats))
            for n in nodes
            for name in networks
            if device.type != "cpu"
        ],
        "whole": [
            (f"{w.name} n={n} rate={rate}", lambda w=w, n=n, rate=rate: whole.against(w, n, rate, device, repeats))
            for w, n in pairs
            for rate in ("1", "log(n)")
        ],
        "memory": [(f"{w.name} n={n}", lambda w=w, n=n: whole.memory(w, n, device)) for w, n in pairs if n >= 1_000],
        "growth": [
            ("logreg", lambda: whole.growth(LOGREG, grown, device)),
            ("mlp", lambda: whole.growth(MLP, [100_000], device)),
        ],
        "checkpoints": [(f"mlp n={max(nodes)}", lambda: whole.checkpoints(MLP, max(nodes), device, repeats))],
        "million": [("linear regression", lambda: whole.million(1))] if device.type == "cpu" else [],
        "zoo": [(f"n={n}", lambda n=n: zoo.rounds(n, device, repeats) | zoo.zoo(n, device, repeats)) for n in nodes],
        "costs": [
            ("quickstart", lambda: costs.evaluation(repeats)),
            *((f"n={n}", lambda n=n: costs.messages(n, device, repeats)) for n in nodes),
            *((f"n={n} t={n}", lambda n=n: costs.tracking(n, device, repeats)) for n in nodes if n <= 10_000),
        ],
        "events": [("n=1000000", lambda: costs.events(1_000_000, device, repeats))],
        "gossipy": [
            (f"{w.name} n=1000", lambda w=w: gossipy_rounds.rounds(w, 1_000, repeats))
            for w in (LOGREG, MLP)
            if device.type == "cpu"
        ],
        "start": [("n=10", lambda: start.start(repeats))],
    }


def table(report: dict[str, Any]) -> Table:
    """Returns the report as a table: median, and the smallest and largest of the repeats."""
    shown = Table("section", "case", "measured", "median", "min", "max")
    for column in shown.columns[3:]:
        column.justify = "right"
    for section in SECTIONS:
        for case, found in report.get(section, {}).items():
            for name, spread in found.items():
                shown.add_row(section, case, name, *(f"{spread[key]:,.4g}" for key in ("median", "min", "max")))
    return shown


def markdown(report: dict[str, Any]) -> str:
    """Returns the report as a table for documents, below what was measured where and when."""
    made = ", ".join(f"{name} {report[name]}" for name in ("date", "device", "cores", "python", "torch", "repeats"))
    lines = [f"{made}\n", "| case | measured | median | min | max |", "|---|---|---:|---:|---:|"]
    for section in SECTIONS:
        for case, found in report.get(section, {}).items():
            for name, spread in found.items():
                figures = " | ".join(f"{spread[key]:,.4g}" for key in ("median", "min", "max"))
                lines.append(f"| {section} {case} | {name} | {figures} |")
    return "\n".join(lines) + "\n"


def header(device: torch.device) -> dict[str, Any]:
    """Returns date, hardware and versions."""
    return {
        "date": date.today().isoformat(),
        "device": devices.label(device) if devices.is_cuda(device) else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numba": numba.__version__,
        "version": batchednodes.__version__,
    }


def processor() -> str:
    """Returns the name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    device = devices.named(chosen.device)
    report: dict[str, Any] = header(device) | {"repeats": chosen.repeats}
    for section, cases in sections(device, chosen.nodes, chosen.models, chosen.repeats).items():
        for name, measure in cases if section in chosen.only else []:
            print(f"{section} {name}", file=sys.stderr, flush=True)
            report.setdefault(section, {})[name] = measure()
            if chosen.json:  # as figures come: a run that is killed leaves what it had
                chosen.json.parent.mkdir(parents=True, exist_ok=True)
                chosen.json.write_text(json.dumps(report, indent=2) + "\n")
                chosen.json.with_suffix(".md").write_text(markdown(report))
    Console(width=140).print(table(report))


if __name__ == "__main__":
    main()
