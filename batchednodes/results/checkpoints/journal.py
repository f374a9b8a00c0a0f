"""Journal: what a run knows beside its state and its clocks, and what a file says of both.

What is read is checked whole, since the file may come from anywhere: a checksum says only that it is as somebody wrote
it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from batchednodes.numerics.memory import Chunks
from batchednodes.numerics.values import shown
from batchednodes.results.checkpoints.part import SAME, Part, Span

_LARGE, _LONG, _WIDE = (1 << 63) - 1, 1e300, 1 << 50
"""The largest whole number, the largest real number, and the most rows, or bytes of one, that are taken for true."""

_THREADS = 1 << 12
"""The most threads: of many more the system gives none, and the process ends without a word."""


def _is_whole(value: Any, low: int = 0, high: int = _LARGE) -> bool:
    return type(value) is int and low <= value <= high


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= _LONG


def _is_texts(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(text, str) for text in value)


def _is_config(value: Any) -> bool:
    """Whether settings have what is asked of them without their reader."""
    run = value.get("run") if isinstance(value, dict) else None
    return isinstance(run, dict) and _is_real(run.get("until")) and isinstance(value.get("dtype", ""), str)


def _is_metrics(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) != 2 or not _is_whole(value[0]):
        return False
    return isinstance(value[1], str) and (re.fullmatch(r"[0-9a-f]{64}", value[1]) is not None or value == (0, ""))


def _is_chunks(value: Any) -> bool:
    known = dict.fromkeys(("traced", "scored"), lambda v: isinstance(v, bool))
    known |= {f"{name}_row": lambda v: v is None or _is_whole(v, 0, _WIDE) for name in ("update", "evaluate")}
    known["block"] = lambda v: v is None or _is_whole(v, 1, _WIDE)
    names = {f.name for f in fields(Chunks)}
    if not isinstance(value, dict) or not {"update", "evaluate"} <= value.keys() <= names:
        return False
    return all(known.get(name, lambda v: _is_whole(v, 1, _WIDE))(part) for name, part in value.items())


def _is_curves(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, tuple) or len(value) != 3 or not all(map(_is_real, value[:2])):
        return False
    return value[0] <= value[1] and _is_whole(value[2], 1)


def _is_resumed(value: Any) -> bool:
    """Whether resumptions have times, none before the one before it, and devices."""
    if not isinstance(value, tuple) or not all(isinstance(one, dict) for one in value):
        return False
    times = [one.get("time") for one in value]
    return all(map(_is_real, times)) and times == sorted(times) and _is_texts([one.get("device") for one in value])


def _is_start(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or not isinstance(changed := value.get("changed"), dict):
        return False
    pairs = all(isinstance(pair, list) and len(pair) == 2 for pair in changed.values())
    return pairs and isinstance(value.get("folder"), str) and _is_real(value.get("time"))


_RULES: dict[str, Callable[[Any], bool]] = {
    "config": _is_config,
    "status": lambda v: v in ("running", "interrupted", "finished", "stopped", "diverged"),
    "events waves marks done": _is_whole,
    "end": lambda v: v is None or _is_real(v),
    "seconds": _is_real,
    "metrics nodes": _is_metrics,
    "chunks": _is_chunks,
    "threads": lambda v: _is_whole(v, 1, _THREADS),
    "curves": _is_curves,
    "devices": lambda v: _is_texts(v) and len(v) > 0,
    "resumed": _is_resumed,
    "start": _is_start,
    "files": lambda v: isinstance(v, dict) and _is_texts([*v.values()]),
}
"""What must be true of each part of a journal."""


@dataclass(frozen=True)
class RunJournal:
    """What a run knows beside its state and clocks."""

    config: dict[str, Any]
    """Its settings, resolved, as plain data."""
    status: str = "running"
    """running, interrupted, finished, stopped (`run.stop_when`) or diverged."""
    events: int = 0
    """Events executed, see `engine.Progress`, as the next four."""
    waves: int = 0
    """Waves that they took."""
    marks: int = 0
    """Marks observed."""
    done: int = 0
    """Steps that the state has seen of a window that has begun."""
    end: float | None = None
    """End of that window [s]."""
    seconds: float = 0.0
    """Wall time that the run has taken so far, evaluation included [s]."""
    metrics: tuple[int, str] = (0, "")
    """Length [B] and SHA-256 of metrics.jsonl."""
    nodes: tuple[int, str] = (0, "")
    """Number and SHA-256 of the rows of nodes.npy."""
    chunks: dict[str, Any] = field(default_factory=dict)
    """Rows handled at once, see `memory.Chunks`, which rounding depends on."""
    threads: int = 1
    """Threads of the CPU, likewise."""
    curves: tuple[float, float, int] | None = None
    """Scalars of the staleness averaged so far, see `staleness.StalenessAverages`."""
    devices: tuple[str, ...] = ()
    """Devices that the run has been on, one after the other."""
    resumed: tuple[dict[str, Any], ...] = ()
    """Simulated time [s] and device of each resumption."""
    start: dict[str, Any] | None = None
    """The run whose models were the initial ones, see `warm_start.Origin`; None: models were drawn."""
    files: dict[str, str] = field(default_factory=dict)
    """Path and checksum of each file and folder that the settings name, see input_files.py."""

    @staticmethod
    def read(written: Any) -> "RunJournal":
        """Returns a journal from JSON, as an older or newer version of this one wrote it.

        Raises:
            ValueError: something in it is not what a run writes.
        """
        if not isinstance(written, dict) or "config" not in written:
            raise ValueError(f"journal is {shown(written)}")
        usual = vars(RunJournal(config={}))
        found: dict[str, Any] = {name: written.get(name, usual[name]) for name in usual}
        found = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
        for names, holds in _RULES.items():
            for name in names.split():
                if not holds(found[name]):
                    raise ValueError(f"{name} is {shown(found[name])}")
        curves = found["curves"] and (float(found["curves"][0]), float(found["curves"][1]), found["curves"][2])
        end = None if found["end"] is None else float(found["end"])
        return RunJournal(**found | {"seconds": float(found["seconds"]), "end": end, "curves": curves})


@dataclass(frozen=True)
class Said:
    """What a file says of the state in it."""

    time: float
    """Simulated time [s]."""
    nodes: tuple[int, ...]
    """Nodes of each network."""
    tracked: tuple[int, ...]
    """Tracked sources of each network."""
    state: tuple[str, ...]
    """Names of the tensors of its state."""
    edges: tuple[str, ...]
    """Those with a row for each directed edge in place of each node."""
    journal: RunJournal
    beside: tuple[str, ...] | None = None
    """Those whose rows lie behind the models in the rows of x, in this order; None: an older version wrote the file."""
    on_edges: tuple[int, ...] | None = None
    """Directed edges of each network; None: not known."""
    part: Part | None = None
    """The part of all this that the file holds; None: all."""

    @property
    def networks(self) -> tuple[int, ...]:
        """Numbers of the networks that the file holds."""
        return tuple(range(len(self.nodes))) if self.part is None else self.part.networks

    @property
    def sizes(self) -> list[int]:
        """Nodes of each of these."""
        return [self.nodes[g] for g in self.networks]

    @property
    def widths(self) -> list[int]:
        """Tracked sources of each of these of which it has versions."""
        return [*self.tracked] if self.part is None else [end - first for first, end in self.part.sources]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors of the state that it holds."""
        if self.part is None or self.part.first:
            return self.state
        return tuple(name for name in self.state if name not in SAME)

    def span(self, name: str, width: int) -> Span:
        """Returns the columns of a tensor that it holds, of rows of some width; of what messages bring, too."""
        return (0, width) if self.part is None else self.part.span(name.removeprefix("messages."), width)

    @staticmethod
    def read(written: Any) -> "Said":
        """Returns what plain data, as `said` makes them, say.

        Raises:
            ValueError: something in them is not what a run writes.
        """
        said: Mapping[str, Any] = written if isinstance(written, dict) else {}
        journal = RunJournal.read(said.get("journal"))
        for name, holds in _SAID.items():
            if not holds(said.get(name)):
                raise ValueError(f"{name} is {shown(said.get(name))}")
        if len(said["nodes"]) != len(said["tracked"]):
            raise ValueError(f"nodes are of {len(said['nodes'])} networks, tracked of {len(said['tracked'])}")
        time, end = said["time"], journal.end
        late = [one["time"] for one in journal.resumed if one["time"] > time]
        if late or (journal.curves is not None and journal.curves[1] > time):
            raise ValueError(f"time is {shown(time)}, with something that comes later")
        if (end is None and journal.done) or (end is not None and end <= time):
            raise ValueError(f"end is {shown(end)} at t = {shown(time)} with {journal.done} steps done")
        names, g = (tuple(said["state"]), tuple(said["edges"])), len(said["nodes"])
        beside, on_edges = (None if said.get(name) is None else tuple(said[name]) for name in ("beside", "on_edges"))
        if (beside is not None and not {*beside} <= {*names[0]}) or (on_edges is not None and len(on_edges) != g):
            raise ValueError(f"beside is {shown(said.get('beside'))}, on_edges {shown(said.get('on_edges'))}")
        part = None if said.get("part") is None else Part.read(said["part"], g)
        more = journal, beside, on_edges, part
        return Said(float(time), tuple(said["nodes"]), tuple(said["tracked"]), *names, *more)


def _is_wholes(value: Any, low: int) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(_is_whole(one, low, _WIDE) for one in value)


_SAID: dict[str, Callable[[Any], bool]] = {
    "time": _is_real,
    "nodes": lambda v: _is_wholes(v, 1),
    "tracked": lambda v: _is_wholes(v, 0),
    "state": _is_texts,
    "edges": _is_texts,
    "beside": lambda v: v is None or (_is_texts(v) and len({*v}) == len(v)),
    "on_edges": lambda v: v is None or _is_wholes(v, 0),
}
