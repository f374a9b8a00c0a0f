"""Cases: a module, a data set and settings, in plain data, drawn at random; and smaller ones that fail alike."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any

from fuzz import data as sets
from fuzz.network import HEADS, LAYERS, ODD, SOUND, kinds
from fuzz.tables import IDS

HOST_ONLY = ("local.compile", "local.chunk", "run.mixing")
"""Settings of batches, which one event at a time has none of."""

_UNSURE = ("local.epochs=", "task.partition", "task.shift", "gossip.merge", "local.compile=on", "task.loss",
           "task.data.", "run.eval_nodes", "network.nodes=5", "gossip.on_receipt", "gossip.delay")  # fmt: skip
"""Beginnings of settings with which a sound case may be refused for a good reason."""


@dataclass(frozen=True)
class Case:
    """What is run, batched and one event at a time."""

    data: dict[str, Any]
    """See `data.drawn`."""
    layers: tuple[tuple[str, int], ...] = ()
    """Name and seed of each layer of the network."""
    head: str = "right"
    """What the network puts out."""
    raw: bool = False
    """Whether indices are looked up as they come."""
    tables: int = 9
    """Rows of tables."""
    settings: tuple[str, ...] = field(default=())
    """Settings as "key=value"."""
    traced: bool = False
    """Whether minibatch steps are tapes or programs, as in long runs."""
    files: bool = False
    """Whether the batched run leaves files."""

    @staticmethod
    def of(text: str) -> "Case":
        """Returns the case that a text describes, see `text`."""
        said = json.loads(text)
        said |= {"layers": tuple((name, seed) for name, seed in said["layers"]), "settings": tuple(said["settings"])}
        return Case(**said)

    def text(self) -> str:
        """Returns the case as one line of JSON."""
        return json.dumps(asdict(self))

    @property
    def network(self) -> dict[str, Any]:
        """Arguments of `network.build`."""
        shape = self.data["shape"] or [1]
        outputs, tokens = sets.width(self.data), sets.tokens(self.data)
        return {
            "layers": [list(layer) for layer in self.layers],
            "shape": shape,
            "outputs": outputs,
            "tokens": tokens,
            "rows": self.tables,
            "head": self.head,
            "raw": self.raw,
        }

    @property
    def jumps(self) -> bool:
        """Whether rounding may change what the network puts out by much."""
        known = kinds(self.tables)
        return any(known[name].jumps for name, _ in self.layers) or self.head in ("integers", "constant")

    @property
    def is_sound(self) -> bool:
        """Whether a run must train this."""
        known, ids = kinds(self.tables), [name in IDS for name, _ in self.layers]
        looked_up = any(ids[1:]) or (ids[:1] == [True] and (self.data["kind"] != "ids" or self.raw))
        fits = self.tables >= self.data["high"] and not looked_up and self.head in SOUND
        fits &= self.head != "more" or self.data["targets"] not in ("reals", "columns")
        sure = not any(setting.startswith(_UNSURE) for setting in self.settings)
        return fits and sure and sets.is_sound(self.data) and all(known[name].sound for name, _ in self.layers)


_ODDS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.2, ("local.steps=2", "local.steps=3")),
    (0.3, ("local.momentum=0.5", "local.momentum={kind: choice, values: [0, 0.9]}")),
    (0.1, ("local.weight_decay=0.1",)),
    (0.1, ("local.sampling=replacement",)),
    (0.3, ("task.model.init=independent",)),
    (0.4, ("gossip.exchange=meet", "gossip.exchange=pull")),
    (0.15, ("update.applies=delta",)),
    (0.1, ("replicas=2",)),
    (0.05, ("sweep.local.lr=[0.01, 0.05]",)),
    (0.1, ("local.chunk=1", "local.chunk=2")),
    (0.1, ("run.window=0.5",)),
    (0.3, ("local.compile=off",)),
    (0.004, ("local.compile=on",)),
    (0.1, ("run.eval_nodes=1", "run.eval_nodes=1", "run.eval_nodes=2")),
    (0.1, ("run.mark_every=0.5",)),
    (0.2, ("run.on_divergence=ignore", "run.on_divergence=quarantine")),
    (0.1, ("staleness.track=none",)),
    (0.1, ("task.partition.kind=quantity_skew", "task.partition={kind: dirichlet, alpha: 1}",
           "task.partition.kind=shards", "task.partition.kind=natural", "task.partition.kind=iid")),
    (0.12, ("task.loss=mse", "task.loss=cross_entropy")),
    (0.1, ("task.data.standardize=train", "task.data.standardize=all")),
    (0.05, ("task.data.features_as=real", "task.data.features_as=integers")),
    (0.03, ("task.data.classes=true", "task.data.classes=false")),
    (0.05, ("task.shift={kind: noise, level: 0.1}", "task.shift={kind: rotation, angle: [0, 90], groups: 2}")),
    (0.1, ("run.mixing=sparse",)),
    (0.03, ("gossip.merge={kind: partitioned, parts: 2}", "gossip.merge.kind=mean")),
    (0.03, ("gossip.on_receipt=update_merge", "gossip.on_receipt=merge_update")),
    (0.03, ("gossip.delay={kind: constant, time: 0.2}",)),
)  # fmt: skip
"""Settings, one of some with some probability."""


def drawn(seed: int, number: int) -> Case:
    """Returns case number k of a seed."""
    draw = Random(f"{seed}:{number}")
    data = sets.drawn(draw)
    return Case(
        data,
        tuple(_layers(draw, data["kind"])),
        draw.choice(["right"] * 60 + ["more"] * 4 + [*HEADS]),
        draw.random() < 0.3,
        draw.choice([data["high"], data["high"] + 1, 9, 9, 12, 12, data["high"] - 1]),
        tuple(_settings(draw, data)),
        draw.random() < 0.15,
        draw.random() < 0.1,
    )


def _layers(draw: Random, kind: str) -> Iterator[tuple[str, int]]:
    def some(names: tuple[str, ...]) -> tuple[str, int]:
        return draw.choice(names), draw.randrange(1 << 20)

    if draw.random() < (0.85 if kind == "ids" else 0.04):
        yield some(IDS)
    for _ in range(draw.choice([0, 1, 1, 2, 2, 3, 4])):
        yield some(("learned",) if draw.random() < 0.02 else IDS if draw.random() < 0.02 else tuple(LAYERS))
    if draw.random() < 0.12:
        yield some(tuple(ODD))
        if draw.random() < 0.5:
            yield some(tuple(LAYERS))


def _settings(draw: Random, data: sets.Data) -> Iterator[str]:
    """Yields settings, each as "key=value"."""
    yield f"network.nodes={draw.choice([1, 2, 3, 3, 4, 5] if data['rows'] > 8 else [1, 1, 2, 3])}"
    yield f"dtype={draw.choice(['float64'] * 6 + ['float32'] * 3 + ['bfloat16'])}"
    yield f"local.batch_size={draw.choice([1, 2, 3, 4, 5, 8])}"
    yield f"local.lr={draw.choice([0.01, 0.05, 0.1])}"
    yield f"run.until={draw.choice([1, 2, 3])}"
    yield f"seed={draw.randrange(1000)}"
    given = [draw.choice(choices) for chance, choices in _ODDS if draw.random() < chance]
    if draw.random() < 0.15:
        given = [setting for setting in given if not setting.startswith(("local.steps", "local.sampling"))]
        given.append(draw.choice(["local.epochs=1", "local.epochs=2"]))
    messages = any(setting.startswith(("gossip.merge", "gossip.on_receipt", "gossip.delay")) for setting in given)
    for setting in given:
        if not messages or not setting.startswith(("gossip.exchange", "update.applies")):
            yield setting


# ------------------------------------------------------------------------------------------------------ smaller ones

_PLAIN: dict[str, Any] = {
    "bad": None,
    "node": False,
    "test": None,
    "targets": "labels",
    "kind": "reals",
    "dtype": "float64",
}
"""What is simple about data."""


def smaller(case: Case) -> Iterator[Case]:
    """Yields cases that are simpler in one thing each."""
    for k in range(len(case.layers)):
        yield replace(case, layers=case.layers[:k] + case.layers[k + 1 :])
    for k in range(len(case.settings)):
        yield replace(case, settings=case.settings[:k] + case.settings[k + 1 :])
    for name, value in (("traced", False), ("files", False), ("head", "right"), ("raw", False)):
        if getattr(case, name) != value:
            yield replace(case, **{name: value})
    for name, value in _PLAIN.items():
        if case.data[name] != value:
            yield replace(case, data=case.data | {name: value})
    for rows in (3, 8):
        if rows < case.data["rows"]:
            yield replace(case, data=case.data | {"rows": rows})


def smallest(case: Case, fails: Callable[[Case], bool], tries: int = 60) -> Case:
    """Returns a case that fails too, of which nothing can be left out, as far as some tries show."""
    while True:
        for one in smaller(case):
            tries -= 1
            if tries >= 0 and fails(one):
                case = one
                break
        else:
            return case
        if tries <= 0:
            return case
