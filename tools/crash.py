"""Kills runs with SIGKILL at random instants, resumes them until they are done, and compares with runs left alone.

    python tools/crash.py                 50 runs, each killed once to four times
    python tools/crash.py --runs 5 --seed 1
    python tools/crash.py --ranks 2 --kills 20    runs over ranks: one rank is killed, the others must end

A run passes if its final models, versions and clocks, and every row of metrics.jsonl, are bit for bit those of the same
config without a kill, and no file is left that a finished run does not leave. Children are forked, so that each has
imported everything when it begins. Instants: anywhere in a run; while a checkpoint is being written; as a mark is.

Over ranks one of them is killed, whichever, and the run goes on with 1, 2 or 3 ranks; models and versions must be those
of one process bit for bit, metrics but for rounding, as `tools/same.py` says.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import same
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


OVER_RANKS = ["push", "meetings, stale gradients", "sweep", "age-aware, few sources", "messages"]
"""What is run over ranks."""

ENDED = 30.0
"""Time in which the ranks that are left must have ended [s]."""


def command_over(ranks: int, arguments: list[str]) -> list[str]:
    """Returns a command that some ranks of this machine run."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"] * (ranks > 1)
    return [sys.executable, "-m", *torchrun, "batchednodes", *arguments]


def workers(parent: int) -> list[int]:
    """Returns the processes that a process has started and that run the package, the ranks of a torchrun."""
    found = []
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with suppress(OSError):
            if b"batchednodes" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def killed_over(ranks: int, arguments: list[str], due: Callable[[], bool], draw: random.Random) -> int | None:
    """Runs a command over ranks until it ends; kills a rank as soon as it is due.

    Returns:
        The exit code; None: a rank was killed, and all others have ended.

    Raises:
        RuntimeError: they have not.
    """
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    run = subprocess.Popen(command_over(ranks, arguments), env=os.environ | {"OMP_NUM_THREADS": "1"}, **quiet)
    while run.poll() is None:
        some = (workers(run.pid) if ranks > 1 else [run.pid]) if due() else []
        if some:
            with suppress(ProcessLookupError):
                os.kill(draw.choice(some), signal.SIGKILL)
            try:
                run.wait(ENDED)
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                raise RuntimeError(f"ranks were still there {ENDED:g} s after one of them was killed") from None
            return None
        time.sleep(0.005)
    return run.returncode


def over_ranks(ranks: int, kills: int, draw: random.Random) -> bool:
    """Kills ranks of runs, and says of each run whether it ended as one process does; returns whether all did."""
    done, runs, passed = 0, 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        alone = dict[str, tuple[Path, Path, float]]()
        while done < kills:
            variant, runs = OVER_RANKS[runs % len(OVER_RANKS)], runs + 1
            if variant not in alone:
                source, whole = Path(scratch, f"{len(alone)}.yaml"), Path(scratch, f"alone-{len(alone)}")
                source.write_text(config.dump(config.load(BASE, VARIANTS[variant])))
                begun = time.monotonic()
                if killed(["train", str(source), "--out", str(whole)], lambda: False):
                    sys.exit(f"the run without kills failed: {variant}")
                alone[variant] = source, whole, 2 * (time.monotonic() - begun) + 4  # ranks start more slowly
            source, whole, seconds = alone[variant]
            folder, mine, code = Path(scratch, f"run-{runs}"), 0, None
            while code is None:
                arguments = ["resume", str(folder)] if folder.exists() else ["train", str(source), "--out", str(folder)]
                count = draw.choice((1, 2, 3)) if folder.exists() else ranks
                due = draw.choice([*instants(folder, seconds, draw).values()])
                more = mine < 3 and done + mine < kills
                code = killed_over(count, arguments, due if more else lambda: False, draw)
                mine += code is None
                if code == 0 and not mine:  # it ended before its first kill: again, with an earlier one
                    shutil.rmtree(folder)
                    code, seconds = None, 0.7 * seconds
            wrong = [f"exit code {code}"] if code else same.differences(whole, folder)
            done, passed = done + mine, passed + (not wrong)
            print(f"{runs:3} {variant}: {mine} kills, {'; '.join(wrong[:3]) or 'the same'}", flush=True)
    print(f"{passed} of {runs} runs over ranks the same as of one process, after {done} kills")
    return passed == runs


def main() -> None:
    """Runs all trials and prints one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help="runs to kill and resume (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: 0)")
    parser.add_argument("--ranks", type=int, help="ranks that hold each run at first; one of them is killed at a time")
    parser.add_argument("--kills", type=int, default=20, help="of ranks, in all (default: 20)")
    chosen = parser.parse_args()
    if chosen.ranks:
        sys.exit(not over_ranks(chosen.ranks, chosen.kills, random.Random(chosen.seed)))
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
