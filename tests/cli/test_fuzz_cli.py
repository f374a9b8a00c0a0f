"""Command lines that nobody meant: unknown words, folders that cannot be, and runs that were damaged since."""

import json
import os
import shutil
from itertools import count
from pathlib import Path
from random import Random

import pytest
from fuzzing import TINY, Case, call, case, check, listing
from hypothesis import given, settings
from hypothesis import strategies as st

from batchednodes import train
from batchednodes.cli.interruption import TIMED_OUT

pytestmark = pytest.mark.slow

LINES, DAMAGED, RESUMED, RUNS = 180, 100, 40, 20
"""Cases of each test."""

COMMANDS = {
    "train": ["c.yaml"],
    "resume": ["run"],
    "plan": ["c.yaml"],
    "list": ["gossip"],
    "plot": ["run"],
    "compare": ["run"],
    "figure": ["quickstart"],
}
"""Every command with the arguments that it needs: a new command needs one line here."""

WORDS = (
    "", " ", "-", "--", "-x", "--out", "--out=", "--quiet", "--quick", "--no-such", "--help", "-h", "c.yaml",
    "missing.yaml", ".", "/", "/dev/null", "run", "seed=1", "seed=", "=1", "seed", "seed==1", "a.b=1", "seed.=1",
    ".seed=1", "seed..x=1", "\udcff", "c\udcff.yaml", "name=\udcff", "x" * 300, "x" * 5000, "é", "\u202e", "a\nb",
    "network.nodes=0", "network.nodes=[", "network.nodes={a: 1}", "gossip.clock.kind=never",
    "task.model={kind: python, target: 'os:getcwd'}", "run={", "sweep=3", "sweep.seed=[1, 2]",
    "sweep.network.nodes=[2, 3]", "local.lr=&a 1", "local.lr=*a", "name=${seed}", "seed=${oc.env:HOME}", "name=../x",
    "name=/etc", "name=..", "name=.", "name=a b", "task.data={kind: npz, path: /dev/zero}", "replicas=2",
    "task.data={kind: npz, path: ../../etc/passwd}", "device=cuda:9", "train", "plan", "resume", "gosip", "task.data",
    "network.topology={kind: edge_list, path: c.yaml}", "network.topology={kind: edge_list, path: fifo}", "[bold]",
    "%s", "{}", "dtype=float64", "staleness.track=none", "executor=serial", "run.baseline=isolated",
    "sweep.name=[../a, /b]", "\x1b[31m",
)  # fmt: skip
OUTS = (
    "", ".", "..", "/", "c.yaml", "c.yaml/x", "run", "there", "there/x", "a/b/c", "x" * 300, "a\nb", "\udcff", "link",
    "fifo", "dangling", "/proc/x", "/dev/null", "/dev/null/x", "~", "-", "--quiet", "é", "new", "new",
    "deep/" + "x" * 300,
)  # fmt: skip


def furnish(folder: Path, run: Path | None = None) -> None:
    """Puts a config, folders, links, a pipe and a finished run into a working directory."""
    (folder / "c.yaml").write_bytes(TINY)
    (folder / "there").mkdir()
    (folder / "link").symlink_to("there")
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "fifo")
    if run:
        shutil.copytree(run, folder / "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a finished run with two networks."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "c.yaml").write_bytes(TINY)
    outcome = call(folder, "train", "c.yaml", "replicas=2", "--out", "run", "--quiet")
    assert outcome.code == 0, outcome
    return folder / "run"


def line(random: Random) -> list[str]:
    """Returns a command line: a command with its arguments, some of them changed."""
    words = [
        random.choice(
            [
                *(name for name in COMMANDS if name not in ("plot", "list") or random.random() < 0.03),
                "trian",
                "",
                "--version",
            ]
        )
    ]
    words += COMMANDS.get(words[0], [])
    for _ in range(random.choice([0, 1, 1, 2])):
        words.insert(random.randrange(1, len(words) + 1), random.choice(WORDS))
    if random.random() < 0.4:
        words += ["--out", random.choice(OUTS)]
    if words[0] == "figure":
        words[1:] = [random.choice(WORDS) if word == "quickstart" else word for word in words[1:]]
    return words


@settings(max_examples=LINES)
@given(st.randoms(use_true_random=True))
def test_lines(run, random):
    words = line(random)
    with case() as here:
        furnish(here.folder, run)
        Case(here.folder).call(*words)


@pytest.fixture(scope="module")
def halted(tmp_path_factory) -> Path:
    """The folder of a run that was halted with some checkpoints."""
    folder = tmp_path_factory.mktemp("halted")
    (folder / "c.yaml").write_bytes(TINY)
    calls = count()
    options = ["run.checkpoint_every.time=0.2", "run.window=0.1", "run.until=2", "replicas=2"]
    train(folder / "c.yaml", *options, out=folder / "run", stop=lambda: next(calls) > 60)
    assert len(list((folder / "run" / "checkpoints").iterdir())) > 1
    return folder / "run"


CHANGES = (
    "run.until=3", "run.until=1", "run.until=-1", "run.until=null", "run.until=1e400", "run=3", "run={until: 3}",
    "run.baseline=isolated", "run.baseline=x", "run.checkpoint_every=null", "run.checkpoint_every={time: 0}",
    "run.checkpoint_every.minutes=1e-9", "run.keep_checkpoints=1", "run.keep_checkpoints=0", "device=cpu",
    "device=cuda:9", "seed=2", "local.lr=0.2", "no.such=1", "network.nodes=9", "run.start_from=run", "name=../x",
    "sweep.local.lr=[1, 2]", "replicas=1", "run.mark_every=0.3", "run.window=1", "--quiet", "there", "run", "--from",
    "--time-limit=1s", "--time-limit=", "--time-limit=0", "--time-limit=x", "--time-limit=" + "1" * 40 + "y",
    "--time-limit=9" + "9" * 400 + "d", "--time-limit=1e9", "--time-limit=\u0663h", "--time-limit=-1",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")  # each damage is named
@settings(max_examples=RESUMED)
@given(st.randoms(use_true_random=True))
def test_resumed_runs(halted, random):
    with case() as here:
        furnish(here.folder, halted)
        files = sorted(path for path in (here.folder / "run").rglob("*") if path.is_file())
        for path in random.sample(files, random.choice([0, 0, 1, 1, 2, 4])):
            if path.exists():
                _spoil(random, path)
        words = ["resume", "run", *random.sample(CHANGES, random.choice([0, 0, 1, 2]))]
        outcome = call(here.folder, *words)
        check(outcome) if outcome.code != TIMED_OUT else None


def _spoil(random: Random, path: Path) -> None:
    """Removes a file, cuts it, changes a byte, or puts something else in its place."""
    content = path.read_bytes()
    path.unlink()
    place = random.randrange(len(content) + 1)
    put = [
        lambda: None,
        lambda: path.write_bytes(content[:place]),
        lambda: path.write_bytes(content[:place] + b"?" + content[place + 1 :]),
        lambda: path.write_bytes(random.choice(BITS)),
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("nowhere"),
    ]
    random.choice(put)()


BITS = (
    b"", b"\n", b"{}", b"[]", b"null", b"3", b'"x"', b"\xff\xfe", b"{", b'{"time": 1}\n', b'{"networks": []}',
    b'{"networks": [3]}', b'{"networks": {}}', b'{"networks": [{}]}', b"[" * 100_000, b'{"time": NaN}',
    b'{"time": 1e999}', b'{"time": "x"}', b'{"time": true}', b'{"time": ' + b"9" * 5000 + b"}",
    b'{"time": ' + b"9" * 400 + b"}", b"\x00" * 50, b'{"networks": null}',
)  # fmt: skip
ODD = (None, True, "x", "$\\frac", [], {}, float("nan"), float("inf"), -1, 0, 1e308, -1e308, 1e-320, 10**400, 2**70)


def damage(random: Random, path: Path) -> None:
    """Removes a file, cuts it, replaces it, or changes a value in it."""
    content = path.read_bytes()
    match random.randrange(6):
        case 0:
            path.unlink()
        case 1:
            path.write_bytes(content[: random.randrange(len(content))])
        case 2:
            path.write_bytes(random.choice(BITS))
        case 3:
            path.write_bytes(content + random.choice(BITS))
        case 4:
            path.unlink()
            random.choice([path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("nowhere")])()
        case _:
            rows = (
                [json.loads(part) for part in content.decode().splitlines()]
                if path.suffix == ".jsonl"
                else [json.loads(content)]
            )
            row = random.choice(rows)
            row = random.choice(row["networks"]) if "networks" in row else row
            for key in random.sample(sorted(row), random.choice([1, 1, 3, len(row)])):
                row[key] = random.choice(ODD)
                if random.random() < 0.3:
                    del row[key]
                if random.random() < 0.1:
                    row[random.choice(["a.b", "$\\x.y", "", "." * 50, "é.x"])] = random.choice(ODD)
            path.write_text("\n".join(map(json.dumps, rows)))


@settings(max_examples=DAMAGED)
@given(st.randoms(use_true_random=True))
def test_damaged_runs(run, random):
    with case() as here:
        furnish(here.folder, run)
        for name in random.choice([["metrics.jsonl"], ["summary.json"], ["metrics.jsonl", "summary.json"]]):
            damage(random, here.folder / "run" / name)
        command = random.choice(["compare"] * 30 + ["plot"])
        Case(here.folder).call(command, "run", *random.choice([[], [], ["run"], ["there"], ["c.yaml"], ["missing"]]))


def tiny(random: Random) -> list[str]:
    """Returns overrides that fit, as a rule, and keep a run short."""
    some = [
        f"network.nodes={random.choice([1, 2, 3, 5])}",
        f"name={random.choice(['a', 'a b', '.x', 'é', '../x', 'x' * 100, 'a..'])}",
        f"replicas={random.choice([1, 1, 2])}", f"run.mark_every={random.choice([0.5, 1, 5, '1/3'])}",
        f"dtype={random.choice(['float32', 'float64', 'bfloat16'])}",
        f"local.lr={random.choice([0.1, 1e30, 'log(n)', -1])}",
        f"gossip.exchange={random.choice(['push', 'pull', 'meet'])}",
        f"gossip.clock.rate={random.choice([0, 1, 'n', '1/n', '1/0'])}", "sweep.gossip.clock.rate=[1, n/2]",
        "sweep.update.clock.delay=['1/n', '../x']", "sweep.network.nodes=[2, 3]",
        "sweep.network.topology.kind=[ring, star]", "staleness.track=1", "run.baseline=isolated", "executor=serial",
        "sweep.gossip.clock.rate=[[1, 2, 3], [1, 1, 1]]", "task.model={kind: mlp, hidden: [3]}", "run.eval_nodes=1",
        "task.model={kind: python, target: 'example_models:not_a_module'}", "network.topology.kind=ring",
        "run.until=0.001", "task.model={kind: python, target: 'example_models:batch_norm'}",
        "update.clock.kind=never", "gossip.clock.kind=never",
    ]  # fmt: skip
    return random.sample(some, random.choice([1, 2, 3, 4]))


@settings(max_examples=RUNS)
@given(st.randoms(use_true_random=True))
def test_runs(random):
    words = ["train", "c.yaml", *tiny(random), *random.choice([[], ["--quiet"], ["--out", random.choice(OUTS)]])]
    with case() as here:
        furnish(here.folder)
        before = listing(here.folder)
        outcome = Case(here.folder).call(*words)
        made = {Path(name).parts[0] for name in listing(here.folder) - before}
        assert outcome.code == 2 or len(made) == 1, made
