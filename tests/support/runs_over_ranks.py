"""Started by torchrun: trains cases, and goes on with some, each in a folder of its own; rank 0 says how each ended."""

import json
import sys

import batchednodes
from batchednodes.numerics import ranks


def stops(after):
    """Returns what asks to halt at one of its calls, on the last rank alone; None: never."""
    calls = 0

    def asked():
        nonlocal calls
        calls += 1
        return after is not None and ranks.number() == ranks.size() - 1 and calls > after

    return asked


def main():
    for name, settings, folder, after in json.loads(sys.argv[1]):
        go = batchednodes.resume if settings is None else batchednodes.train
        given = {"out": folder} if settings is not None and folder else {}
        run = go(folder if settings is None else settings, stop=stops(after), **given)
        said = {"case": name, "rank": ranks.number(), "status": run.summary["status"], "shape": [*run.x.shape]}
        said |= {"rows": len(run.metrics), "sum": float(run.x.double().sum()), "ranks": run.summary["ranks"]}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
