"""Kills runs with SIGKILL at random instants, resumes them until they are done, and compares with runs left alone.

    python tools/crash.py                 50 runs, each killed once to four times
    python tools/crash.py --runs 5 --seed 1

A run passes if its final models, versions and clocks, and every row of metrics.jsonl, are bit for bit those of the same
config without a kill, and no file is left that a finished run does not leave. Children are forked, so that each has
imported everything when it begins. Instants: anywhere in a run; while a checkpoint is being written; as a mark is.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import load_file

from batchednodes import config
from batchednodes.cli import app

BASE: dict[str, Any] = {
    "network": {"nodes": 24},
    "local": {"momentum": 0.5, "batch_size": 8},
    "task": {"data": {"kind": "digits"}, "model": {"kind": "mlp", "hidden": [16]}},
    "run": {"until": 30.0, "mark_every": 3.0, "threads": 1, "checkpoint_every": {"time": 1.0}, "window": 0.7},
}
"""What all runs share: a second or two of work, a checkpoint after every other window."""

VARIANTS: dict[str, list[str]] = {
    "push": [],
    "meetings, stale gradients": ["gossip.exchange=meet", "update.applies=delta"],
    "baseline": ["run.baseline=isolated"],
    "sweep": ["sweep.gossip.clock.rate=[1, log(n)]", "replicas=2", "network.nodes=10"],
    "freshest": ["gossip.scheme.kind=freshest", "run.until=60", "local.steps=2"],
    "one event at a time": ["executor=serial", "run.until=12"],
    "age-aware, few sources": ["gossip.scheme={kind: age_aware, wait: 0.5}", "staleness.track=5"],
    "long windows": ["run.window=null", "run.mark_every=30", "run.checkpoint_every={time: null, minutes: 0.005}"],
    "messages": [
        "gossip={exchange: push_pull, delay: {kind: exponential, mean: 0.7}, merge: {kind: age_weighted}}",
        "gossip.loss={kind: bursts, good_to_bad: 0.1, bad_to_good: 0.3}",
        "network.availability={kind: markov, mean_on: 8, mean_off: 1}",
        "network.churn={join: {kind: uniform, low: 0, high: 9}, start: neighbour}",
        "run.until=60",
        "local.steps=2",
    ],
    "updates on receipt": [
        "gossip={on_receipt: update_merge, delay: {kind: bandwidth, rate: 4e4}, fifo: true, flow: {kind: randomized}}",
        "gossip.loss={kind: independent, probability: 0.2}",
        "run.until=60",
    ],
}


def child(arguments: list[str]) -> int:
    """Starts a command in a child process; returns its number."""
    number = os.fork()
    if number:
        return number
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.argv = ["batchednodes", *arguments]
    code = 1
    try:
        app.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def ended(number: int, wait: bool = False) -> int | None:
    """Returns the exit code of a child, negative if a signal ended it; None while it runs."""
    found, status = os.waitpid(number, 0 if wait else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def killed(arguments: list[str], due: Callable[[], bool]) -> int:
    """Runs a command until it ends, or kills it as soon as it is due; returns its exit code."""
    number = child(arguments)
    while (code := ended(number)) is None:
        if due():
            os.kill(number, signal.SIGKILL)
            return ended(number, wait=True) or 0
        time.sleep(0.0005)
    return code


def instants(folder: Path, seconds: float, draw: random.Random) -> dict[str, Callable[[], bool]]:
    """Returns kinds of instants to kill at, in a run that takes some seconds."""
    begun, size = time.monotonic(), _size(folder / "metrics.jsonl")
    after, late = draw.uniform(0, seconds), draw.uniform(0, 0.7 * seconds)

    def writing() -> bool:
        return time.monotonic() > begun + late and any(folder.glob("checkpoints/*.partial"))

    def marking() -> bool:
        return time.monotonic() > begun + late and _size(folder / "metrics.jsonl") > size

    return {"anywhere": lambda: time.monotonic() > begun + after, "writing": writing, "marking": marking}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def differences(one: Path, other: Path) -> list[str]:
    """Returns what differs between the results of two runs."""
    found, pair = [], [load_file(folder / "final.safetensors") for folder in (one, other)]
    names = {name for final in pair for name in final}
    for name in sorted(names):
        arrays = [final.get(name) for final in pair]
        if arrays[0] is None or arrays[1] is None or arrays[0].tobytes() != arrays[1].tobytes():
            found.append(name)
    if (one / "metrics.jsonl").read_bytes() != (other / "metrics.jsonl").read_bytes():
        found.append("metrics.jsonl")
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    found += [
        f"summary.json {key}" for key in ("networks", "isolated", "status") if len({str(s[key]) for s in summaries}) > 1
    ]
    kinds = [{path.name.partition(".")[0] for path in folder.iterdir()} - {"checkpoints"} for folder in (one, other)]
    return found + [f"file {name}" for name in sorted(kinds[0] ^ kinds[1])]


def traits(folder: Path) -> list[str]:
    """Returns what a run without kills had: minibatch steps by tapes, messages under way at its end."""
    with safe_open(folder / "final.safetensors", framework="np") as file:
        journal = json.loads(file.metadata()["about"])["journal"]
    flying = json.loads((folder / "summary.json").read_text())["networks"][0]["messages_in_flight"]
    return ["tapes"] * bool(journal["chunks"]["traced"]) + ["messages under way"] * bool(flying)


def trial(
    source: Path, folder: Path, alone: Path, seconds: float, draw: random.Random
) -> tuple[Counter[str], list[str]]:
    """Runs a config with kills until it is done; returns how often it was killed, by kind, and what is wrong.

    A run that ended before its first kill is run again, with earlier ones.
    """
    kills: Counter[str] = Counter()
    while True:
        begin = ["train", str(source), "--out", str(folder)]
        arguments = ["resume", str(folder)] if folder.exists() else begin
        due = instants(folder, seconds, draw)
        kind = draw.choice(list(due)) if kills.total() < 4 else "never"
        code = killed(arguments, due.get(kind, lambda: False))
        if code == 0 and not kills:
            shutil.rmtree(folder)
            seconds *= 0.7
            continue
        if code == 0:
            return kills, differences(alone, folder)
        if code != -signal.SIGKILL:
            return kills, [f"exit code {code} of {arguments[0]}"]
        kills[kind] += 1


def main() -> None:
    """Runs all trials and prints one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="runs to kill and resume (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: 0)")
    chosen = parser.parse_args()
    draw, passed, kills, had = random.Random(chosen.seed), 0, Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        places: dict[str, tuple[Path, Path, float]] = {}
        for k in range(chosen.runs):
            variant = list(VARIANTS)[k % len(VARIANTS)]
            if variant not in places:
                source, alone = Path(scratch, f"{len(places)}.yaml"), Path(scratch, f"alone-{len(places)}")
                source.write_text(config.dump(config.load(BASE, VARIANTS[variant])))
                for folder in (Path(scratch, f"first-{len(places)}"), alone):  # the first one may compile
                    begun = time.monotonic()
                    if killed(["train", str(source), "--out", str(folder)], lambda: False):
                        sys.exit(f"the run without kills failed: {variant}")
                places[variant] = source, alone, time.monotonic() - begun
            source, alone, seconds = places[variant]
            some, wrong = trial(source, Path(scratch, f"run-{k}"), alone, seconds, draw)
            kills, passed = kills + some, passed + (not wrong)
            had[" and ".join(traits(alone)) or "neither"] += 1
            print(f"{k + 1:3} {variant}: {some.total()} kills, {', '.join(wrong) or 'bit-identical'}", flush=True)
    counts = ", ".join(f"{count} {kind}" for kind, count in kills.items())
    print(f"{passed} of {chosen.runs} bit-identical after {kills.total()} kills ({counts})")
    print("runs with " + ", ".join(f"{trait}: {count}" for trait, count in sorted(had.items())))
    sys.exit(passed < chosen.runs)


if __name__ == "__main__":
    main()
