"""Says in a minute whether anything works on CUDA: short runs there and on the CPU, and how far apart they are.

    python tools/measure/works.py FILE

Writes JSON: devices and versions first, then each run as it ends; the exit code is 1 if one fails.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from batchednodes import __version__, train
from batchednodes.numerics import devices
from batchednodes.simulation.planning import memory_plan

RUNS = {
    "gossip": [],
    "sparse products": ["run.mixing=sparse", "gossip.exchange=meet"],
    "messages": ["gossip.delay={kind: exponential, mean: 0.5}"],
    "mlp": ["task.data={kind: digits}", "task.model={kind: mlp, hidden: [16]}", "local.batch_size=8"],
}
NEAR = 1e-9
"""How far float64 on CUDA may be from the CPU, relative to the largest parameter: the same sums in another order."""


def compared(options: list[str]) -> dict[str, Any]:
    """Returns how long a run took on CUDA [s], and how far it is from the same one on the CPU."""
    common = ["network.nodes=12", "run.until=3", "dtype=float64", *options]
    begun = time.perf_counter()
    there = train({}, *common, "device=cuda")
    seconds, here = time.perf_counter() - begun, train({}, *common, "device=cpu")
    apart = float((there.x.cpu() - here.x).abs().max() / here.x.abs().max())
    same = all(torch.equal(a.cpu(), b) for a, b in zip(there.tables, here.tables, strict=True))
    return {"seconds": seconds, "apart": apart, "works": same and apart <= NEAR}


def main() -> None:
    """Makes the runs, operation by operation and by CUDA graphs."""
    path, few = Path(sys.argv[1]), memory_plan._PROGRAMS
    report: dict[str, Any] = {"version": __version__, "torch": torch.__version__, "runs": {}}
    report["devices"] = [torch.cuda.get_device_name(k) for k in range(devices.count())]
    for graphs in (False, True):
        memory_plan._PROGRAMS = 0 if graphs else few
        for name, options in RUNS.items():
            try:
                found = compared(options)
            except Exception as error:
                found = {"works": False, "error": f"{type(error).__name__}: {error}"[:2000]}
            report["runs"][name + (", graphs" if graphs else "")] = found
            path.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(not all(found["works"] for found in report["runs"].values()))


if __name__ == "__main__":
    main()
