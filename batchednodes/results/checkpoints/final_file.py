"""The final state of a run over ranks: one file, which the first rank writes as others send it rows, some at a time.

No rank ever has all models. The file is as one process would have written it.

Notation: n nodes, t tracked sources, s slots of messages.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from batchednodes.events.messages.records import SLOTS as SLOT_COUNT
from batchednodes.events.messages.regrouping import owners
from batchednodes.events.regrouping import regrouped
from batchednodes.events.timeline import Clocks
from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.checkpoints.file_format import Content, begun, checksum
from batchednodes.results.checkpoints.header import FORMAT
from batchednodes.results.checkpoints.part import SAME, Part, Span, groups
from batchednodes.results.checkpoints.snapshot import SLOTS, VERSIONS, Snapshot
from batchednodes.results.checkpoints.together import Together
from batchednodes.results.folder.inside import BorderError, Inside

_BLOCK = 1 << 24
"""Bytes of whole rows that are sent at once."""

_UNSIGNED = "0" * 64
"""In place of the checksum, until that is known."""


def write(path: Inside, snapshot: Snapshot, together: Together) -> None:
    """Writes the final state. On all ranks.

    Args:
        path: of the file.
        snapshot: this rank's part, with sums over its group.
        together: all ranks.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    rows, why = _Rows(snapshot, together), None
    try:
        if together.first:
            with path.replacing() as file:
                rows.write_(file)
        else:
            rows.drain()
    except (OSError, BorderError) as error:
        rows.drain()
        why = str(error)
    if (why := together.told(lambda: why)) is not None:
        raise OSError(why)


@dataclass(frozen=True)
class _Run:
    """Rows that lie side by side in the file, all of one group of ranks."""

    group: int
    rows: np.ndarray
    """Which of the group's they are."""
    own: Callable[[], Tensor]
    """Returns this rank's columns of the rows of its group."""
    spans: Sequence[Span] | None
    """Columns of each rank of the group; None: its first rank has them whole."""
    owner: np.ndarray | None = None
    """Of versions of slots: the network of each, on which depends where columns lie."""

    def of(self, some: slice) -> "_Run":
        """Returns some of the rows."""
        return replace(self, rows=self.rows[some], owner=None if self.owner is None else self.owner[some])


@dataclass(frozen=True)
class _Table:
    """A tensor of the file whose rows ranks hold."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    width: int
    """Columns of a row, whole."""
    runs: Sequence[_Run]


class _Rows:
    """All that the file is to hold; all ranks go through it alike."""

    def __init__(self, snapshot: Snapshot, together: Together) -> None:
        """Lets all ranks know what there is."""
        self.snapshot, self.together, self.batch = snapshot, together, together.of(snapshot)
        self.state, self.clocks, self.layout = snapshot.state, snapshot.clocks, snapshot.layout
        self.sizes, self.tracked = np.array(self.batch.nodes), np.array(self.batch.tracked)
        asks = self.batch.part.first and len(together.share.groups) > 1
        found = together.all.collected((self.batch.part, snapshot.clocks if asks else None, self.state.versions.dtype))
        told = None
        if found is not None:
            parts, clocks, dtypes = zip(*found, strict=True)
            told = parts, self._slots(parts, clocks), max(dtypes, key=lambda each: each.itemsize)
        self.parts, self.slots, self.dtype = together.all.told(told)
        self.groups = groups(self.parts, self.sizes.size)
        self.mine = next(k for k, places in enumerate(self.groups) if together.all.rank in places)
        self.tables = sorted([*self._of_state(), *self._of_versions()], key=lambda table: table.name)
        self.left: Iterator[Content] | None = None

    def _slots(
        self, parts: Sequence[Part], clocks: Sequence[Clocks | None]
    ) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Returns which slots of which group come one after the other in the file, and whose they are.

        The clocks become those of all networks.
        """
        held = groups(parts, self.sizes.size)
        if len(held) == 1:
            in_flight = self.clocks.in_flight
            owner = np.zeros(0, np.int64) if in_flight is None else owners(in_flight, self.sizes)
            return [(0, np.arange(owner.size), owner)]
        networks = [[*parts[places[0]].networks] for places in held]
        given = [(clocks[places[0]], self.sizes[own]) for places, own in zip(held, networks, strict=True)]
        known = [(one, sizes) for one, sizes in given if one is not None]
        self.clocks, slots = regrouped(known, np.argsort(np.concatenate(networks)))
        counts = [0 if one.in_flight is None else int(one.in_flight.head[SLOT_COUNT]) for one, _ in known]
        group = np.searchsorted(np.cumsum(counts), slots.number, side="right")
        number = slots.number - (np.cumsum(counts) - counts)[group]
        cuts = np.flatnonzero(np.diff(group)) + 1
        columns = zip(*(np.split(column, cuts) for column in (group, number, slots.network)), strict=True)
        return [(int(g[0]), at, own) for g, at, own in columns if at.size]

    # ----------------------------------------------------------------------------------------------------------- rows

    def _of_state(self) -> Iterator[_Table]:
        """Yields the tensors of the state but the versions."""
        for name, tensor in self.state.tensors().items():
            if name == VERSIONS:
                continue
            part = self.parts[self.groups[self.mine][-1]]
            width = 1 if tensor.ndim == 1 else part.span(name, tensor.shape[1])[1]
            spans = [
                None if name in SAME else [self.parts[k].span(name, width) for k in places] for places in self.groups
            ]
            sizes = np.array(self.batch.edges or [len(tensor)]) if name in self.state.on_edges else self.sizes
            own, rest = (lambda t=tensor: t.view(len(t), -1)), () if tensor.ndim == 1 else (width,)
            runs = [_Run(k, at, own, spans[k]) for k, at, _ in (self._of(g, sizes) for g in range(self.sizes.size))]
            yield _Table(name, (int(sizes.sum()), *rest), tensor.dtype, width, runs)
            if self.snapshot.clocks.in_flight is not None and name in self.state.travelling():
                behind = lambda t=tensor: t[self.state.nodes :]  # noqa: E731
                runs = [_Run(k, at, behind, spans[k]) for k, at, _ in self.slots]
                yield _Table(f"{SLOTS}{name}", (sum(run.rows.size for run in runs), *rest), tensor.dtype, width, runs)

    def _of(self, g: int, sizes: np.ndarray) -> tuple[int, np.ndarray, int]:
        """Returns the group of a network, its rows there, and which one of its networks it is."""
        for k, places in enumerate(self.groups):
            networks = self.parts[places[0]].networks
            if g in networks:
                local = networks.index(g)
                return k, int(sizes[[*networks[:local]]].sum()) + np.arange(int(sizes[g])), local
        raise AssertionError

    def _of_versions(self) -> Iterator[_Table]:
        """Yields the tables of versions, of all networks or each, and of slots."""
        runs = list[_Run]()
        for g, n in enumerate(self.sizes.tolist()):
            k, _, local = self._of(g, self.sizes)
            block = lambda local=local: self.layout.block(self.state.versions, local)  # noqa: E731
            runs.append(_Run(k, np.arange(n), block, [self.parts[place].sources[local] for place in self.groups[k]]))
        n, t = int(self.sizes.sum()), int(self.tracked.max())
        if np.unique(self.tracked).size == 1:
            yield _Table(VERSIONS, (n, t), self.dtype, t, runs)
        else:
            for g, run in enumerate(runs):
                width = int(self.tracked[g])
                yield _Table(f"{VERSIONS}.{g}", (int(self.sizes[g]), width), self.dtype, width, [run])
        if self.snapshot.clocks.in_flight is not None:
            slots = self.layout.place.numel() - self.layout.network.size
            behind = lambda: self.state.versions[self.layout.numbers :].view(slots, int(self.layout.kinds.max()))  # noqa: E731
            widest = [
                [(0, max(end - first for first, end in self.parts[k].sources)) for k in places]
                for places in self.groups
            ]
            runs = [_Run(k, at, behind, widest[k], own) for k, at, own in self.slots]
            yield _Table(f"{SLOTS}{VERSIONS}", (t * sum(run.rows.size for run in runs),), self.dtype, t, runs)

    def _gathered(self, table: _Table) -> Iterator[Tensor]:
        """Yields the rows of a table, whole, some at a time; nothing on ranks that are not the first."""
        row = max(1, table.width * table.dtype.itemsize)
        each, batch = max(1, _BLOCK // row), list[_Run]()
        for run in table.runs:
            for first in range(0, run.rows.size, each):
                batch.append(run.of(slice(first, first + each)))
                if row * sum(some.rows.size for some in batch) >= _BLOCK:
                    yield from self._sent(table, batch)
                    batch.clear()
        yield from self._sent(table, batch)

    def _sent(self, table: _Table, batch: Sequence[_Run]) -> Iterator[Tensor]:
        """Yields the rows of some runs, which ranks send by one exchange."""
        ranks, own = self.together.all, [self._own(table, run) for run in batch]
        sizes = [0] * ranks.size
        for run in batch:
            for k, each in self._widths(table, run):
                sizes[k] += run.rows.size * each
        if any(sizes[1:]):
            send = torch.cat([piece.flatten() for piece in own]).view(torch.uint8)
            sent = [send.numel() if q == 0 else 0 for q in range(ranks.size)]
            received = [size * table.dtype.itemsize if self.together.first else 0 for size in sizes]
            came = [part.clone().view(table.dtype) for part in ranks.exchange(send, sent, received).split(received)]
        else:
            came = [torch.cat([piece.flatten() for piece in own])] if own else []
            came += [torch.empty(0, dtype=table.dtype)] * (ranks.size - 1)  # others have no columns
        first = [0] * ranks.size
        for run in batch if self.together.first else ():
            pieces = list[Tensor]()
            for k, each in self._widths(table, run):
                size = run.rows.size * each
                pieces.append(came[k][first[k] : first[k] + size].view(run.rows.size, each))
                first[k] += size
            yield self._whole(table, run, pieces)

    def _widths(self, table: _Table, run: _Run) -> list[Span]:
        """Returns the ranks that hold rows, and how many columns each."""
        spans = [(0, table.width)] if run.spans is None else run.spans
        return [(k, end - first) for k, (first, end) in zip(self.groups[run.group], spans, strict=False)]

    def _own(self, table: _Table, run: _Run) -> Tensor:
        """Returns what this rank holds of some rows."""
        if self.together.all.rank not in dict(self._widths(table, run)):
            return torch.empty(0, dtype=table.dtype)
        rows = torch.from_numpy(run.rows).to(self.state.x.device)
        return run.own().index_select(0, rows).cpu().to(table.dtype)

    def _whole(self, table: _Table, run: _Run, pieces: Sequence[Tensor]) -> Tensor:
        """Returns some rows from what each rank has of them."""
        if run.owner is None:
            return torch.cat([*pieces], 1)
        out = torch.zeros(run.rows.size, table.width, dtype=table.dtype)
        for g in np.unique(run.owner).tolist():
            some, local = torch.from_numpy(run.owner == g), self._of(g, self.sizes)[2]
            for k, piece in zip(self.groups[run.group], pieces, strict=True):
                first, end = self.parts[k].sources[local]
                out[some, first:end] = piece[some, : end - first]
        return out

    # ------------------------------------------------------------------------------------------------------- the file

    def write_(self, file: BinaryIO) -> None:
        """Writes the file; what fails while rows come is raised after them."""
        said = checkpoint.said(replace(self.snapshot, clocks=self.clocks), self.batch) | {"part": None}
        metadata = {"format": FORMAT, "about": json.dumps(said)}
        arrays = checkpoint.clocks_of(self.clocks) | {**self.snapshot.arrays}
        kept = [*checkpoint.contents({name: checkpoint.tensor(array) for name, array in arrays.items()})]
        shapes = [(table.name, str(table.dtype)[6:], table.shape) for table in self.tables]
        shapes += [content[:3] for content in kept]
        places, errors = begun(shapes, metadata | {"sha256": _UNSIGNED})[1], list[OSError]()

        def written(content: Content) -> Iterator[Any]:
            place = places[content[0]]
            for block in content[3]:
                try:
                    if not errors:
                        file.seek(place)
                        file.write(block)
                        place += len(block)
                except OSError as error:
                    errors.append(error)
                yield block

        self.left = self._contents()
        every = merge(kept, self.left, key=lambda content: content[0])
        signed = checksum(((*content[:3], written(content)) for content in every), metadata)
        if errors:
            raise errors[0]
        file.seek(0)
        file.write(begun(shapes, metadata | {"sha256": signed})[0])

    def _contents(self) -> Iterator[Content]:
        """Yields the tensors whose rows ranks hold, in the order of their names."""
        for table in self.tables:
            blocks = (checkpoint.raw(rows) for rows in self._gathered(table))
            yield table.name, str(table.dtype)[6:], table.shape, blocks

    def drain(self) -> None:
        """Goes through all that is still to be sent."""
        for *_, blocks in self._contents() if self.left is None else self.left:
            for _ in blocks:
                pass
