"""Reading: what a process holds, from a checkpoint of any number of files; of each no more than it needs.

Notation: n nodes, t tracked sources, s slots of messages.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batchednodes.algorithms.cut import Cut
from batchednodes.algorithms.share import Share
from batchednodes.algorithms.state import OWN, State
from batchednodes.algorithms.versions import Layout
from batchednodes.events.messages import records, regrouping
from batchednodes.events.messages.records import MESSAGE, NODE, InFlight
from batchednodes.events.messages.regrouping import Slots
from batchednodes.events.regrouping import regrouped
from batchednodes.events.timeline import Clocks
from batchednodes.numerics.memory import exhausted
from batchednodes.numerics.values import shown
from batchednodes.results.checkpoints.file_format import TYPES
from batchednodes.results.checkpoints.header import Header, about, check_whole, lacking, opened
from batchednodes.results.checkpoints.journal import Said
from batchednodes.results.checkpoints.part import SAME, Part, Span, files, groups
from batchednodes.results.checkpoints.snapshot import CLOCKS, IN_FLIGHT, SLOTS, VERSIONS, Snapshot
from batchednodes.results.folder.inside import Inside

_APART = ("v", "read", "age")
"""Fields that never lie beside the models."""


def load(path: Inside, device: torch.device, share: Share | None = None) -> Snapshot:
    """Reads what a process holds of a checkpoint: a file, or a folder of files that ranks have left.

    Args:
        path: of the checkpoint.
        device: where the state goes.
        share: what this rank holds; it looks for damage in its share of the files only. None: one process holds all.

    Raises:
        DamageError: a file is not what was written.
        ValueError: another version of batchednodes wrote it, or it cannot be cut.
        OSError: it cannot be read; that says nothing of what is in it.
    """
    found, saids = files(path), list[Said]()
    for k, file in enumerate(found):
        with opened(file, "np") as content:
            saids.append(about(file, content))
        if share is None or k % share.world.all.size == share.world.all.rank:
            check_whole(file)
    if share is not None and share.ranks.size > 1:
        _check_cut(path, saids[0])
    try:
        with ExitStack() as stack:
            return _Reader(stack, found, saids, share).snapshot(device)
    except UncutError as error:
        raise ValueError(f"{error}, got {path}") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and exhausted(error):
            raise
        raise lacking(path, error) from error


def _check_cut(path: Inside, said: Said) -> None:
    """Checks that a file says which fields lie beside the models, with which they are cut."""
    more = {*said.state} - {*OWN, *_APART}
    if said.beside is None and more:
        raise ValueError(
            f"checkpoint must say how {', '.join(sorted(more))} lie beside the models where ranks hold a network "
            f"together, got {path} of an older version; go on in one process until the next checkpoint"
        )


class UncutError(Exception):
    """A checkpoint that is whole, but cannot be dealt to these ranks."""


@dataclass(frozen=True)
class _Lines:
    """Rows that lie side by side in the files of a group of ranks, and in what is read."""

    files: Sequence[int]
    """Numbers of these files."""
    there: int
    """The first of them in a file."""
    here: int
    """The first of them in what is read."""
    count: int


class _Reader:
    """What is wanted of a checkpoint whose files are open."""

    def __init__(self, stack: ExitStack, paths: Sequence[Inside], saids: Sequence[Said], share: Share | None) -> None:
        """Opens the files that hold what a process needs.

        Raises:
            ValueError: the files contradict each other.
        """
        if any(replace(said, part=None) != replace(saids[0], part=None) for said in saids):
            raise ValueError("its files are of different checkpoints")
        self.said, self.share = saids[0], share
        self.sizes, self.tracked = np.array(self.said.nodes), np.array(self.said.tracked)
        self.networks = tuple(range(self.sizes.size)) if share is None else share.networks
        self.cut = None if share is None else Cut(share.ranks, {})
        self.parts = [said.part or Part.whole(said.tracked, 0) for said in saids]
        wanted = {*self.networks}
        found = groups(self.parts, self.sizes.size)
        last = [self.parts[places[-1]] for places in found]
        ends = {g: end for part in last for g, (_, end) in zip(part.networks, part.sources, strict=True)}
        if any(ends[g] != t for g, t in enumerate(self.said.tracked)):
            raise ValueError(f"parts have versions of {shown(ends)} sources")
        self.groups = [places for places in found if wanted & {*self.parts[places[0]].networks}]
        needed = {0} | {k for places in self.groups for k in places}
        self.files = {k: stack.enter_context(opened(paths[k], "pt")) for k in sorted(needed)}
        self.names = {k: {*file.keys()} for k, file in self.files.items()}
        self.clocks = [self._told(places[0]) for places in self.groups]
        part = saids[0].part
        if part is not None and part.p != self._width("x"):
            raise ValueError(f"parts are of models of {self._width('x')} parameters, not {part.p}")

    def snapshot(self, device: torch.device) -> Snapshot:
        """Returns what is wanted."""
        own = self.sizes[[*self.networks]]
        clocks, slots = self._clocks()
        rows = self._slot_rows(slots)
        kept = {name: self._tensor(name, rows).to(device) for name in self.said.state if name != VERSIONS}
        widths = [b - a for a, b in map(self._sources, self.networks)]
        layout = Layout.of(own, widths, device)
        layout.reserve(kept["x"].shape[0] - int(own.sum()))
        kept[VERSIONS] = self._versions(Layout.of(own, widths, torch.device("cpu")), clocks, slots, rows).to(device)
        tensors = [kept.pop(name) for name in OWN]
        first, journal = self.files[0], self.said.journal
        apart = {name for name in self.names[0] if not name.startswith((CLOCKS, SLOTS, VERSIONS))} - {*self.said.state}
        arrays = {name: first.get_tensor(name).clone().numpy() for name in sorted(apart)}
        header = None if self.share is None else Header(clocks.time, self.said.nodes, self._width("x"), journal)
        edges = None if self.said.on_edges is None else tuple(self.said.on_edges[g] for g in self.networks)
        state = State(*tensors, fields=kept, on_edges=frozenset(self.said.edges))
        return Snapshot(state, clocks, layout, journal, arrays, edges, self.said.beside, header)

    # -------------------------------------------------------------------------------------------------------- clocks

    def _clocks(self) -> tuple[Clocks, Slots | None]:
        """Returns the clocks of the networks that are wanted, and where their slots lie; None: where they did."""
        parts, held = list[tuple[Clocks, np.ndarray]](), list[int]()
        for places, clocks in zip(self.groups, self.clocks, strict=True):
            networks = self.parts[places[0]].networks
            sizes = self.sizes[[*networks]]
            clocks.check(np.repeat(np.arange(sizes.size, dtype=np.int32), sizes))
            parts.append((clocks, sizes))
            held += networks
        if tuple(held) == self.networks and len(parts) == 1:
            return parts[0][0], None
        return regrouped(parts, np.array([held.index(g) for g in self.networks]))

    def _told(self, k: int) -> Clocks:
        """Returns the clocks of a file."""
        named = {n: self.files[k].get_tensor(n).clone().numpy() for n in self.names[k] if n.startswith(CLOCKS)}
        post = {n.removeprefix(IN_FLIGHT): named.pop(n) for n in [*named] if n.startswith(IN_FLIGHT)}
        here = {f.name: named[CLOCKS + f.name] for f in fields(Clocks) if f.name not in ("time", "in_flight")}
        in_flight = InFlight(**{name: _records(name, array) for name, array in post.items()}) if post else None
        return Clocks(time=self.said.time, **here, in_flight=in_flight)

    def _slot_rows(self, slots: Slots | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns, of each group, which slots are wanted, and where they are to lie among those that are."""
        found, before = list[tuple[np.ndarray, np.ndarray]](), 0
        for places, clocks in zip(self.groups, self.clocks, strict=True):
            name = f"{SLOTS}x"
            size = self._shape(places[0], name)[0] if name in self.names[places[0]] else 0
            if slots is None:
                found.append((np.arange(size), np.arange(size)))
                continue
            count = 0 if clocks.in_flight is None else int(clocks.in_flight.head[records.SLOTS])
            if count > size:  # there may be more rows than slots
                raise ValueError(f"{name} has {size} rows for {count} slots")
            some = np.flatnonzero((slots.number >= before) & (slots.number < before + count))
            found.append((slots.number[some] - before, some))
            before += count
        return found

    # --------------------------------------------------------------------------------------------------------- state

    def _shape(self, k: int, name: str) -> list[int]:
        return self.files[k].get_slice(name).get_shape()

    def _width(self, name: str) -> int:
        """Returns the columns of whole rows of a tensor of the state."""
        last = self.groups[0][-1] if name not in SAME else self.groups[0][0]
        return self.parts[last].span(name, self._shape(last, name)[1])[1]

    def _wanted(self, name: str) -> Span:
        """Returns which columns of a tensor are wanted."""
        width, beside = self._width(name), self.said.beside or ()
        if self.cut is None or name in SAME:
            return 0, width
        if name != "x" and name not in beside:
            own = self.cut.columns(width)
            return own.start, own.stop
        row = ["x", *beside]
        widths = [self._width(each) for each in row]
        own, first = self.cut.columns(sum(widths)), sum(widths[: row.index(name)])
        return min(max(own.start - first, 0), width), min(max(own.stop - first, 0), width)

    def _sources(self, g: int) -> Span:
        """Returns which sources of a network are wanted."""
        if self.cut is None:
            return 0, int(self.tracked[g])
        own = self.cut.columns(int(self.tracked[g]))
        return own.start, own.stop

    def _lines(self, sizes: np.ndarray) -> Iterator[_Lines]:
        """Yields where the rows of each network that is wanted lie, if all have some numbers of rows."""
        for places in self.groups:
            there = 0
            for g in self.parts[places[0]].networks:
                if g in self.networks:
                    here = int(sizes[[*self.networks[: self.networks.index(g)]]].sum())
                    yield _Lines(places, there, here, int(sizes[g]))
                there += int(sizes[g])

    def _tensor(self, name: str, slots: Sequence[tuple[np.ndarray, np.ndarray]]) -> Tensor:
        """Returns what is wanted of a tensor of the state."""
        first, sizes = self.groups[0][0], self._rows(name)
        rows, dtype = int(sizes[[*self.networks]].sum()), self._dtype(name)
        if len(self._shape(first, name)) == 1:
            out = torch.zeros(rows, dtype=dtype)
            if name == "diverged_at" or self.share is None or self.share.ranks.rank == 0:  # of sums one rank has all
                for at in self._lines(sizes):
                    some = self.files[at.files[0]].get_slice(name)[at.there : at.there + at.count]
                    out[at.here : at.here + at.count] = some
            return out
        (a, b), mailed = self._wanted(name), f"{SLOTS}{name}" in self.names[first]
        out = torch.empty(rows + mailed * sum(here.size for _, here in slots), b - a, dtype=dtype)
        for at in self._lines(sizes):
            for k, there, here in self._overlaps(at.files, name, (a, b)):
                part = self.files[k].get_slice(name)[at.there : at.there + at.count, there]
                out[at.here : at.here + at.count, here] = part
        for places, (old, new) in zip(self.groups, slots, strict=True):
            for k, there, here in self._overlaps(places, name, (a, b)) if mailed and old.size else ():
                part = self.files[k].get_slice(f"{SLOTS}{name}")[:, there]
                out[rows + new, here] = part if old.size == len(part) else part[old]
        return out

    def _rows(self, name: str) -> np.ndarray:
        """Returns the rows that each network has of a tensor of the state."""
        if name not in self.said.edges:
            return self.sizes
        if self.said.on_edges is not None:
            return np.array(self.said.on_edges)
        if self.sizes.size > 1 and self.share is not None:
            raise ValueError(f"{name} lies on edges, of which it does not say whose they are")
        sizes = np.zeros(self.sizes.size, np.int64)
        sizes[0] = self._shape(0, name)[0]
        return sizes

    def _overlaps(self, places: Sequence[int], name: str, wanted: Span) -> Iterator[tuple[int, slice, slice]]:
        """Yields the files with columns that are wanted, which ones there, and where they are to lie."""
        for k in places[:1] if name in SAME else places:
            first, end = self.parts[k].span(name, self._shape(k, name)[1])
            yield from _overlap(k, (first, end), wanted)

    def _dtype(self, name: str) -> torch.dtype:
        """Returns the type of a tensor, which is the same in all files."""
        kinds = {self.files[places[0]].get_slice(name).get_dtype() for places in self.groups}
        if len(kinds) > 1:
            raise ValueError(f"{name} is of types {', '.join(sorted(kinds))}")
        return getattr(torch, TYPES[kinds.pop()])

    # ------------------------------------------------------------------------------------------------------ versions

    def _versions(
        self, layout: Layout, clocks: Clocks, slots: Slots | None, rows: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> Tensor:
        """Returns the versions that are wanted, as one flat tensor."""
        count = sum(here.size for _, here in rows)
        layout.reserve(count)
        found = [self.files[places[0]] for places in self.groups]
        kinds = {
            file.get_slice(name).get_dtype() for file in found for name in [*file.keys()] if name.startswith(VERSIONS)
        }
        dtype = max((getattr(torch, TYPES[kind]) for kind in kinds), key=lambda each: each.itemsize)
        versions = layout.zeros(dtype)
        for at, g in zip(self._lines(self.sizes), self._order(), strict=True):
            block, local = layout.block(versions, self.networks.index(g)), self.parts[at.files[0]].networks.index(g)
            for k in at.files:
                for _, there, here in _overlap(k, self.parts[k].sources[local], self._sources(g)):
                    block[:, here] = self._table(k, local, at)[:, there]
        table, some = (
            versions[layout.numbers :].view(count, int(layout.kinds.max())),
            [*zip(self.groups, rows, strict=True)],
        )
        for places, (old, new) in some:
            if old.size:
                self._fill_(table, places, (old, new), self._owners(places, clocks, slots, (old, new)))
        if versions.numel() and int(versions.min()) < 0:
            raise ValueError(f"versions are {int(versions.min())}")
        return versions

    def _order(self) -> list[int]:
        """Returns the networks that are wanted, in the order in which the groups have them."""
        return [g for places in self.groups for g in self.parts[places[0]].networks if g in self.networks]

    def _table(self, k: int, local: int, at: _Lines) -> Any:
        """Returns the versions that a file holds of one of its networks."""
        if VERSIONS in self.names[k]:
            return self.files[k].get_slice(VERSIONS)[at.there : at.there + at.count]
        return self.files[k].get_tensor(f"{VERSIONS}.{local}")

    def _owners(
        self, places: Sequence[int], clocks: Clocks, slots: Slots | None, rows: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """Returns the network of each slot of a group, as far as it matters.

        Raises:
            UncutError: it is not known of one.
        """
        if slots is not None:
            return np.array(self.networks)[slots.network[rows[1]]]
        networks = np.array(self.networks)
        same = len(self.parts[places[0]].sources) == len(networks) and any(
            self.parts[k].sources == tuple(map(self._sources, self.networks)) for k in places
        )
        if same or np.unique(self.tracked[networks]).size == 1:
            return np.full(rows[0].size, max(networks.tolist(), key=lambda g: np.ptp(self._sources(g))))
        assert clocks.in_flight is not None
        known = regrouping.owners(clocks.in_flight, self.sizes[networks])
        if known.size < rows[0].size:
            before = len(self.parts)
            raise UncutError(
                f"ranks must be as many as before, {before}, where a run with messages halted within a window and its "
                f"networks track different numbers of sources; go on with {before} until the next checkpoint, or "
                "give all networks the same staleness.track"
            )
        return networks[known[: rows[0].size]]

    def _fill_(
        self, table: Tensor, places: Sequence[int], rows: tuple[np.ndarray, np.ndarray], owners: np.ndarray
    ) -> None:
        """Writes the versions of the slots of a group."""
        networks = self.parts[places[0]].networks
        for g in np.unique(owners).tolist():
            some = owners == g
            for k in places:
                flat, widest = (
                    self.files[k].get_tensor(f"{SLOTS}{VERSIONS}"),
                    max(b - a for a, b in self.parts[k].sources),
                )
                spans = self.parts[k].sources[networks.index(g)], self._sources(g)
                for _, there, here in _overlap(k, *spans):
                    table[rows[1][some], here] = flat.view(-1, widest)[rows[0][some], there].to(table.dtype)


def _overlap(k: int, span: Span, wanted: Span) -> Iterator[tuple[int, slice, slice]]:
    """Yields what two spans share: of a file, which columns there, and where among those that are wanted."""
    low, high = max(span[0], wanted[0]), min(span[1], wanted[1])
    if low < high:
        yield k, slice(low - span[0], high - span[0]), slice(low - wanted[0], high - wanted[0])


def _records(name: str, array: np.ndarray) -> np.ndarray:
    """Returns what was written as rows of bytes as records of what was in flight."""
    dtype = {"nodes": NODE, "messages": MESSAGE}.get(name)
    return array if dtype is None else array.reshape(-1).view(dtype)
