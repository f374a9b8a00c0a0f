"""Runs random models on random data, batched and one event at a time, and says where the two do not end alike.

    python tools/fuzz_models.py                      10,000 pairs of a model and a data set
    python tools/fuzz_models.py --pairs 200 --seed 1
    python tools/fuzz_models.py --only 17            one of them, in full
    python tools/fuzz_models.py --case '{...}'       one that was printed

A pair passes if both runs end alike: with equal versions, models and metrics, whose last losses and accuracies are
those of the modules by themselves; or in one message each, by the same rule, without files. Nothing else may be raised
or warned of, and what is sound must train. Pairs are run in forked children, so that one that crashes or hangs is one
that fails. What fails is made smaller, layer by layer and setting by setting, and printed with a command that repeats
it.
"""

import argparse
import os
import select
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from fuzz.cases import Case, drawn, smallest
from fuzz.outcomes import Verdict, judged

LIMIT = 300.0
"""Time that one pair may take on a busy machine [s]."""

SHARE = 25
"""Pairs that one child runs, so that what PyTorch keeps of them does not add up."""

OFTEN = 250
"""Pairs between two lines that say how far the run has come."""

SHRUNK = 40
"""Failures that are made smaller, at most."""


@dataclass
class Child:
    """A process that runs some pairs."""

    pairs: list[int]
    """Numbers of those that it has not reported."""
    number: int
    """Of the process."""
    pipe: int
    """Where its reports come from: a line for each pair."""
    begun: float = field(default_factory=time.monotonic)
    """When it reported last [s]."""
    rest: bytes = b""

    def lines(self) -> list[str]:
        """Returns what it has reported; empty where it has ended."""
        some = os.read(self.pipe, 1 << 16)
        if not some:
            return []
        *whole, self.rest = (self.rest + some).split(b"\n")
        self.begun = time.monotonic()
        return [line.decode() for line in whole]

    def end(self) -> str:
        """Ends the process; returns how it ended."""
        with_signal = time.monotonic() > self.begun + LIMIT
        if with_signal:
            os.kill(self.number, signal.SIGKILL)
        _, status = os.waitpid(self.number, 0)
        os.close(self.pipe)
        return f"hang: no end in {LIMIT:g} s" if with_signal else f"crash: exit {os.waitstatus_to_exitcode(status)}"


def started(seed: int, pairs: list[int]) -> Child:
    """Starts a child that runs some pairs of a seed."""
    out, into = os.pipe()
    number = os.fork()
    if number:
        os.close(into)
        return Child(pairs, number, out)
    code = 1
    try:
        os.close(out)
        quiet = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(quiet, stream)
        for k in pairs:
            verdict = judged(drawn(seed, k))
            os.write(into, f"{k}\t{verdict.rule[:200]!r}\t{' | '.join(verdict.wrong)[:600]!r}\n".encode())
        code = 0
    finally:
        os._exit(code)


def reports(seed: int, pairs: range, processes: int) -> Iterator[tuple[int, str, str]]:
    """Yields number, rule and what is wrong of all pairs, as they end."""
    todo = [list(pairs[first : first + SHARE]) for first in range(0, len(pairs), SHARE)][::-1]
    children = list[Child]()
    while todo or children:
        while todo and len(children) < processes:
            children.append(started(seed, todo.pop()))
        ready, _, _ = select.select([child.pipe for child in children], [], [], 1.0)
        for child in list(children):
            late = time.monotonic() > child.begun + LIMIT
            lines = child.lines() if child.pipe in ready else []
            for line in lines:
                number, rule, wrong = line.split("\t")
                child.pairs.remove(int(number))
                yield int(number), rule[1:-1], wrong[1:-1]
            if not lines and (late or child.pipe in ready):
                children.remove(child)
                how = child.end()
                if child.pairs:
                    yield child.pairs[0], how, how
                    todo.append(child.pairs[1:])
                    todo = [some for some in todo if some]


def fails_like(verdict: Verdict, case: Case) -> Case:
    """Returns the smallest case found that fails as one did."""
    return smallest(case, lambda one: judged(one).kind == verdict.kind)


def show(case: Case, verdict: Verdict) -> None:
    """Prints what became of a case, and how to repeat it."""
    print(f"  {verdict.rule}")
    for words in verdict.wrong:
        print(f"  WRONG {words}")
    print(f"  python tools/fuzz_models.py --case {shlex.quote(case.text())}", flush=True)


def explain(case: Case, shrink: bool) -> None:
    """Runs one case here, makes it smaller if it fails, and prints what became of it."""
    verdict = judged(case)
    if verdict.wrong and shrink:
        case = fails_like(verdict, case)
        verdict = judged(case)
    show(case, verdict)


def apart(seed: int, number: int) -> None:
    """Explains a failure in a child of its own, since a smaller case may crash."""
    child = os.fork()
    if not child:
        try:
            signal.alarm(int(3 * LIMIT))
            explain(drawn(seed, number), shrink=True)
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(child, 0)


def run(chosen: argparse.Namespace) -> bool:
    """Runs some pairs, prints each failure, then a table of what became of the pairs; returns whether none failed."""
    rules, failed = Counter[str](), 0
    pairs = range(chosen.first, chosen.first + chosen.pairs)
    for number, rule, wrong in reports(chosen.seed, pairs, chosen.processes):
        rules[rule] += 1
        if rules.total() % OFTEN == 0:
            print(f"{rules.total()} pairs, {rules['trained']} trained, {failed} failed", flush=True)
        if wrong:
            failed += 1
            print(f"pair {number}: {wrong}", flush=True)
            if not chosen.whole and failed <= SHRUNK and not wrong.startswith(("hang", "crash")):
                apart(chosen.seed, number)
    print(f"\n{'pairs':>6}  what became of them")
    for rule, count in rules.most_common():
        print(f"{count:6}  {rule}")
    print(f"{chosen.pairs - failed} of {chosen.pairs} pairs ended alike, {rules['trained']} of them trained")
    return failed == 0


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000, help="pairs to run (default: 10,000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="pairs at once (default: all cores)")
    parser.add_argument("--only", type=int, help="number of the one pair to run")
    parser.add_argument("--case", help="the one case to run, as it was printed")
    parser.add_argument("--whole", action="store_true", help="leave what fails as it is, instead of making it smaller")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.case or chosen.only is not None:
        explain(Case.of(chosen.case) if chosen.case else drawn(chosen.seed, chosen.only), shrink=not chosen.whole)
    else:
        sys.exit(not run(chosen))


if __name__ == "__main__":
    main()
