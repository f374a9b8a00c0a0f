"""Settings that nobody meant: every one is planned, or refused at once with one message that names the key.

The strategies know every setting from the table of kinds, as `batchednodes list` does, and put at each place what fits,
what nearly fits, and what does not.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from random import Random
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from fuzzing import case, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from batchednodes.config import KINDS, Config
from batchednodes.config.hints import join, members
from batchednodes.numerics.values import Distribution

pytestmark = pytest.mark.slow

TREES, FILES, OVERRIDES = 3600, 3600, 1500
"""Cases of each test."""

SMALL: dict[str, Any] = {"network": {"nodes": 6}, "run": {"until": 3.0}, "task": {}}
"""What keeps plans of valid configs cheap; beneath what a case says."""

NEEDY = (
    "npz",
    "csv",
    "parquet",
    "libsvm",
    "image_folder",
    "huggingface",
    "python",
    "edge_list",
    "hypercube",
    "dirichlet",
    "dirichlet_per_class",
    "dirichlet_groups",
    "shards",
    "labels_per_node",
    "rotation",
    "freshest",
    "age_aware",
    "edges",
    "adjacency",
    "networkx",
    "karate",
    "davis",
    "metropolis_hastings",
    "max_degree",
    "laplacian",
    "given",
)
"""Kinds that need files or suit few other settings: chosen seldom."""

USUAL = {
    "name": ["a", "b c"],
    "device": ["cpu", "auto"],
    "run.threads": [1, None],
    "run.mark_every": [0.5, 1],
    "local.momentum": [0, 0.5],
    "task.model.target": ["a:b", "example_models:small_cnn"],
    "task.data.path": ["missing.npz"],
    "network.topology.path": ["missing.txt"],
    "network.weights.path": ["missing.csv"],
    "network.topology.neighbours": [2, 4],
    "network.topology.degree": [2, 3],
    "network.topology.period": [0.5, 1, "1/n"],
    "network.topology.sides": [None, [2, 3]],
    "network.topology.generator": ["star_graph", "cycle_graph", "gnp_random_graph", "no_such"],
    "network.topology.arguments": [{"n": "n"}, {"n": "n", "p": 0.5}, {}],
    "network.topology.i": [[0, 1], []],
    "network.topology.j": [[1, 2], []],
    "network.topology.lists": ["0 1, 1 2 3, 4 5", "", "0 1; 2"],
    "task.loss": ["auto"],
    "sweep": [{}, {"network.nodes": [2, 3]}, {"seed": [1, 2]}, {"gossip.clock.rate": ["n", 1]}],
}
"""Values that fit where few of a type do."""


def sections(cls: type = Config, path: str = "") -> dict[str, dict[str, dict[str, Any]]]:
    """Returns each section and its kinds ("" where it has none), with the type of each setting."""
    found: dict[str, dict[str, dict[str, Any]]] = {path: {"": {}}}
    for field in fields(cls):
        at, hint = join(path, field.name), get_type_hints(cls)[field.name]
        if at in KINDS:
            found[at] = {name: get_type_hints(kind) for name, kind in KINDS[at].items()}
        elif is_dataclass(members(hint)[0]):
            found |= sections(members(hint)[0], at)
        else:
            found[path][""][field.name] = hint
    return found


SECTIONS = sections()
NAMES = {join(path, name) for path, kinds in SECTIONS.items() for hints in kinds.values() for name in hints} | {
    *SECTIONS
}
NUMBERS = (
    0, 1, -1, 2, 3, 4, 6, 7, 10, 0.5, 1.0, 1.5, 2.5, -0.0, 1e-9, 1e-300, 5e-324, 1e9, 1e17, 1e300, 1.7e308, 1e400,
    float("nan"), float("-inf"), 2**31, 2**31 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 10**399,
    -(2**63), 100, 1000, 10**6, 10**8, 10**9, 10**12,
)  # fmt: skip
EXPRESSIONS = (
    "log(n)", "n**n", "n**n**n", "1/n", "1/0", "n/(n-n)", "log(0)", "sqrt(-1)", "(-1)**0.5", "exp(1000)", "9**9**9",
    "1e308*10", "-n", "--n", "n-6", "n/6", "min(n, 4)", "min(n)", "max()", "min(1, 2, 3)", "log2(n)", "n n", "n;n",
    "(n", "n)", "()", "", " ", "m", "N", "\u0661+1", "\u00b2", "n\u00b2", "lambda: 1", "__import__('os').system('x')",
    "n.real", "n[0]", "1 if n else 2", "True", "None", "0x10", "1_000", "1j", "n if", "'n'", "[n]", "{n}", "n < 3",
    "n and 1", "@n", "(" * 60 + "n" + ")" * 60, "(" * 99 + "n" + ")" * 99, "-" * 150 + "n", "+".join("n" * 100),
    "n" * 201, "1" * 200, "2**" * 60 + "2", "n//2", "n%2", "~n", "not n", "nan", "inf", "\t", "n\n", "\x00", "# n",
    "f(n)", "log(n, 2)", "log(x=1)", "sqrt", "n:=1", "*n", "log(*[1])", "1.e5", "1e5n",
)  # fmt: skip
TEXTS = (
    "", "a", "auto", "on", "yes", "~", "null", "../x", "/etc/passwd", ".", "..", "a/b", "a\\b", "nul\x00l", "\u202e",
    "é", "x" * 300, "cpu", "cuda", "cuda:0", "cuda:999", "cuda:\u0661", "${", "${seed}", "${network.nodes}",
    "${oc.env:HOME}", "${no.such}", "\\${seed}", "???", "a:b", "no_such_module:f", "os:getcwd", "os:abort_", ":",
    "a:b:c", "missing.npz", ".", "/dev/null", "/dev/zero", "\n", "\ud800", "2012-01-01", "1:30", "010", "1e3", "all",
    "none",
)  # fmt: skip


def anything(random: Random, depth: int = 0) -> Any:
    """Returns a value that may stand anywhere in a YAML file."""
    match random.randrange(12 if depth < 3 else 9):
        case 0 | 1 | 2:
            return random.choice(NUMBERS)
        case 3 | 4:
            return random.choice(EXPRESSIONS)
        case 5 | 6:
            return random.choice(TEXTS)
        case 7:
            return random.choice([None, True, False])
        case 8:
            return random.choice(
                [random.gauss(0, 1), random.randint(-(10**6), 10**6), "".join(random.choices("n1+-*/() .,e", k=9))]
            )
        case 9:
            return [anything(random, depth + 1) for _ in range(random.randrange(4))]
        case 10:
            return {random.choice(["kind", "rate", "nodes", "x", "1"]): anything(random, depth + 1) for _ in range(3)}
        case _:
            return distribution(random, lambda: anything(random, depth + 1))


def distribution(random: Random, value: Callable[[], Any]) -> dict[str, Any]:
    """Returns a distribution over nodes, its settings given by a function."""
    kind = random.choice([*KINDS["distribution"]])
    some = {name: value() for name in get_type_hints(KINDS["distribution"][kind]) if random.random() < 0.7}
    return {"kind": kind if random.random() < 0.95 else "unform", **some}


def fitting(random: Random, key: str, hint: Any) -> Any:
    """Returns a value of a setting's own type, small, and within its range as a rule."""
    part = random.choice([part for part in members(hint) if part is not tuple])
    if key in ("network.nodes", "run.until", "replicas"):
        return random.randint(1, 8)
    if key in USUAL:
        return random.choice(USUAL[key])
    if get_origin(part) is Literal:
        return random.choice(get_args(part))
    if get_origin(part) in (list, tuple):
        return [random.randint(1, 3) for _ in range(random.randrange(3))]
    if part is str:
        return random.choice(["log(n)", "1/n"] if float in members(hint) else ["a", "auto", "cpu", "a:b"])
    if part is Distribution:
        return distribution(random, lambda: random.choice([0.25, 0.5, [0.5], [0.5, 0.5], 1]))
    values = {bool: [True, False], int: [1, 2, 3, 4], float: [0.25, 0.5, 0.9, 1.0], NoneType: [None], list: [[0.5] * 6]}
    return random.choice(values.get(part, [{}]))


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets a full key, sections made on the way."""
    *outer, last = key.split(".")
    for part in outer:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[last] = value


def tree(random: Random) -> dict[str, Any]:
    """Returns a config: some settings that fit, and at no, one or two places anything."""
    made, chosen = copy.deepcopy(SMALL), []
    for path, kinds in ((path, kinds) for path, kinds in SECTIONS.items() if kinds):
        kind = random.choice([name for name in kinds if name not in NEEDY or random.random() < 0.1])
        if kind:
            put(made, f"{path}.kind", kind)
        if kind.endswith("_regression"):
            made["task"]["data"] |= {"samples_per_node": 3, "test_samples": 4, "features": 2}
        chosen += [(join(path, name), hint) for name, hint in kinds[kind].items()]
        for name, hint in kinds[kind].items():
            if random.random() < 0.2:
                put(made, join(path, name), fitting(random, join(path, name), hint))
    for _ in range(random.choice([0, 1, 1, 1, 2])):
        key = random.choice(chosen)[0] if random.random() < 0.8 else random.choice(sorted(NAMES - {""}))
        put(made, key, anything(random))
    if random.random() < 0.1:
        put(made, join(random.choice([*SECTIONS]), random.choice([*TEXTS, "nods", "knd", "Seed", "rate "])), 1)
    return made


def named(message: str) -> bool:
    """Returns whether a message names a key."""
    return any(re.search(rf"\b{re.escape(name)}\b", message) for name in NAMES if name) or "key" in message


@settings(max_examples=TREES)
@given(st.randoms(use_true_random=True))
def test_trees(random):
    source = tree(random)
    message = settle(source)
    assert not message or named(message), (message, source)


ODD_VALUES = (
    "yes", "off", "~", "NULL", "010", "0o17", "0x1F", "0b11", "1_000", "1__0", "1:30", "1:30.5", "2012-01-01", "=",
    "<<", "2012-01-01T00:00:00Z", ".inf", "-.INF", ".nan", "1e400", "-0", "+5", "9" * 400, "9" * 5000,
    "0x" + "f" * 290, "&a 1", "*a", "&a [*a]", "!!python/object/apply:os.system ['x']", "!!python/name:os.system",
    "!!binary aGk=", "!!str 3", "!x 1", "!!int '3'", "!!timestamp 2012-01-01", "[", "]", "{", "}", "[1, 2", "{a: 1",
    "'", '"', '"\\ud800"', '"\\x00"', '"\\q"', "|\n  text", ">-\n  text", "%", "@", "`", "- 1", "? a",
    "[[[[[[[[[[1]]]]]]]]]]", "[" * 60 + "]" * 60, "{a: {b: {c: 1}}}", "\t1", "1\t", "\u2028", "\x85", "\x00", "\x07",
    "\x7f", "\ufeff", "\ufffe", "${seed}", "${a}", "${.seed}", "${oc.env:HOME}", "${oc.create:[1]}",
    "${network.${seed}}", "${seed}${seed}", "${", "$", "${}", "\\\\${seed}", "a" * 2000, "[" + "1, " * 500 + "1]",
)  # fmt: skip
ODD_LINES = (
    "seed: 1\nseed: 2", "a: &a {x: 1}\n<<: *a", "<<: {seed: 4}", "<<: [{seed: 4}, {seed: 5}]", "<<: 3",
    "<<: *missing", "---", "---\nseed: 1", "...", "--- 1", "%YAML 1.1\n---", "%TAG ! x", "? [1, 2]\n: 3",
    "? {a: 1}\n: 3", "1: 2", "null: 1", "true: 1", "1.5: 2", "'': 1", "\tseed: 1", "  seed: 1", "seed 1", "seed:1",
    "- seed", "# comment", "network:", "run: []", "task: 3", "update: text", "gossip: {clock}",
    "sweep: {seed: [1, 2]}", "sweep: {seed: 1}", "sweep: {nodes: [1]}", "sweep: [1]",
    "sweep: {network: {nodes: [2, 3]}}", "sweep: {gossip.clock.rate: [1, log(n)], seed: [1, 2, 3]}\nsweep_mode: zip",
    "sweep: {name: [../x, /a]}", "sweep: {network.nodes: [2, x]}", "replicas: 3", "replicas: 1000000",
    "a" * 3000 + ": 1", "sweep: {seed: &s [1, 2], network.nodes: *s}", "&a seed: *a", "&x seed: 1\nreplicas: *x",
    "{seed: 1}", "[1]", "text", "",
)  # fmt: skip


def text(random: Random) -> bytes:
    """Returns a YAML file of a few lines, odd ones among them."""
    lines = []
    for _ in range(random.randrange(4)):
        path = random.choice(sorted(NAMES - {""}))
        *outer, last = path.split(".")
        value = random.choice([*ODD_VALUES, *map(str, NUMBERS), *EXPRESSIONS])
        lines.append(
            "".join(f"{'  ' * k}{part}:\n" for k, part in enumerate(outer)) + f"{'  ' * len(outer)}{last}: {value}"
        )
    usual = {"network": "{nodes: 4}", "run": "{until: 2}", "task": "{data: {samples_per_node: 3, test_samples: 4}}"}
    lines += [f"{key}: {value}" for key, value in usual.items() if not any(line.startswith(key) for line in lines)]
    if random.random() < 0.5:
        lines.insert(random.randrange(len(lines) + 1), random.choice(ODD_LINES))
    random.shuffle(lines)
    content = random.choice(["\n", "\n", "\n", "\r\n", "\r"]).join(lines)
    encoded = content.encode(random.choice(["utf-8"] * 9 + ["utf-16"]), "surrogatepass")
    if random.random() < 0.2 and encoded:
        changed = bytearray(encoded)
        for _ in range(random.choice([1, 2, 10])):
            changed[random.randrange(len(changed))] = random.choice(b"\x00\xff\t\n:{}[]&*!|>'\"%@` -#$\\")
        encoded = bytes(changed)
    return random.choice([b""] * 9 + [b"\xef\xbb\xbf"]) + encoded


@settings(max_examples=FILES)
@given(st.randoms(use_true_random=True))
def test_files(random):
    content = text(random)
    with case(c__yaml=content) as here:
        message = settle("c.yaml", folder=here.folder)
        assert not message or named(message) or "config file 'c.yaml'" in message, (message, content)


@settings(max_examples=OVERRIDES)
@given(st.randoms(use_true_random=True))
def test_overrides(random):
    key = random.choice([*sorted(NAMES - {""}), "seed.x", "a.b", "0", "local.lr.1", "network.nodes.x", "sweep.seed"])
    value = random.choice([*ODD_VALUES, *map(str, NUMBERS), *EXPRESSIONS, *TEXTS])
    changes = (
        f"{key}={value}",
        *random.sample(["seed=3", "network.nodes=5", "gossip.clock.kind=never"], random.randrange(3)),
    )
    message = settle(SMALL, changes)
    assert not message or named(message) or "overrides" in message or key in message, (message, changes)
