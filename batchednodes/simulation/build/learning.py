r"""Problems: from the settings of some networks to what they learn, on its device.

Notation: n nodes of all networks, p parameters.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from batchednodes.algorithms.gradient_step import filled
from batchednodes.config import Config, Local
from batchednodes.data import Dataset, DataSizes, Heterogeneity, Sampler, Shards
from batchednodes.data.sources.mapped import MappedRows
from batchednodes.models import losses
from batchednodes.models.feed import Feed, HostRows
from batchednodes.models.frozen import without_trunk
from batchednodes.models.lookups import Lookups
from batchednodes.models.own_rows import OwnRows, joined
from batchednodes.models.problem import Problem, Tests
from batchednodes.models.refusal import RangeError
from batchednodes.models.stacked import Stack, Ways
from batchednodes.models.trial import Trial, check_apart
from batchednodes.numerics import devices
from batchednodes.simulation.build import datasets, trials
from batchednodes.topology import Networks

_APART, _TRACED = 8, 256
"""Examples on which a model is tried, and those for which its look-ups are traced, at most."""

_HOST = torch.device("cpu")

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
"""Types of models by their names."""

_SHOWN = 8
"""Features that name an example."""

_EXACT = {"bfloat16": 1 << 8, "float32": 1 << 24, "float64": 1 << 53}
"""Up to which size a type holds all whole numbers."""

_BLOCK = 1 << 20
"""Features that are looked at at once."""


def skeleton(config: Config, sizes: DataSizes, dtype: torch.dtype, where: torch.device) -> Stack:
    """Returns the layout of the model's parameters for data of some sizes; allocates no row."""
    return Stack.of(config.task.model.module(sizes.features, sizes.outputs), dtype, where, sizes.features)


def problem(
    configs: Sequence[Config],
    batch: Networks,
    dtype: torch.dtype,
    where: torch.device,
    dealt: list[tuple[Dataset, Shards]] | None = None,
    block: int | None = None,
) -> tuple[Problem, tuple[Heterogeneity | None, ...]]:
    """Returns what is learned, and how heterogeneous it is in each network.

    Args:
        configs: settings of each network.
        batch: the networks.
        dtype: of models and data.
        where: the device.
        dealt: data of each network, and who owns them; None: they are loaded.
        block: test examples of a forward pass, at most; None: all.

    Raises:
        ValueError: data, partition or model do not fit together.
    """
    config = configs[0]
    local = config.local
    dealt = dealt or [datasets.split(c) for c in configs]
    sets, shards = [data for data, _ in dealt], [own for _, own in dealt]
    firsts = np.cumsum([0, *(len(d.features) for d in sets)])
    rows = np.concatenate([s.rows + first for s, first in zip(shards, firsts[:-1], strict=True)])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([s.sizes for s in shards]))])
    seeds = batch.seeds[batch.network_of()]
    sampler = _sampler(local, seeds, batch.index(), rows, offsets)
    stack_ = skeleton(config, sets[0].sizes, dtype, where)
    on_host = stack_.apart() if where.type == "cpu" else skeleton(config, sets[0].sizes, dtype, _HOST)
    kind, send = _checked_type(config, on_host, sets), Sender(dtype, where)
    tests = tuple(_tests(batch, sets, send, kind))
    targets = send(np.concatenate([d.targets for d in sets]))
    features = _features([d.features for d in sets], send, kind)
    criterion = losses.choose(config.task.loss, sets[0].classes)
    stack_ = replace(stack_, ways=replace(check_lookups(configs, dealt, on_host), block=block))
    feed = _feed(config, features, targets, sampler, sets[0].classes)
    found = Problem(stack_, criterion, sets[0].classes, targets[:0], targets, tests, sampler, _own(sets, send, kind))
    found = replace(found, features=features) if feed is None else found.fed(feed)
    trials.check(config, targets, sets[0].classes)
    trials.check_augmentations(config, found)
    return without_trunk(_tried(configs, found)), tuple(datasets.heterogeneity(*one) for one in dealt)


def _tried(configs: Sequence[Config], found: Problem) -> Problem:
    """Returns a problem that knows how vmap carries its model, which is tried on a minibatch.

    Raises:
        ValueError: the model cannot be trained on such examples.
    """
    node, like = np.zeros(1, np.int64), torch.zeros((), dtype=found.stack.dtype)
    first, _ = filled(found.draw(node, node)[0, :1], like)
    ways = Trial(found, *found.batch(first[0])).ways()
    found = replace(found, stack=replace(found.stack, ways=ways))
    privacy = [c.local.privacy for c in configs if c.local.privacy is not None]
    if ways.draws or any(one.is_noisy() for one in privacy):
        found = replace(found, sampler=replace(found.sampler, keyed=True))
        found = found if found.feed is None else found.fed(found.feed.drawing(keyed=True))
    if found.sampler.padded or privacy:
        exact = torch.promote_types(found.stack.dtype, torch.float32)  # bfloat16 rounds as much as examples may matter
        samples, where = found.sampler.rows.size, found.features.device
        some, _ = found.rows(torch.arange(0, samples, max(1, samples // _APART), device=where)[:_APART])
        some = some.to(exact) if some.is_floating_point() else some
        outputs = found.classes or found.targets.shape[1]
        whole = Stack.of(configs[0].task.model.module(found.shape, outputs), exact, where, found.shape)
        check_apart(replace(whole, ways=ways), some)
    return found


def _features(parts: list[np.ndarray | MappedRows], send: "Sender", kind: torch.dtype) -> Tensor | HostRows:
    """Returns features of all training examples, on the device; or, where some stay in files, what reads them."""
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    return send(np.concatenate(arrays), kind) if len(arrays) == len(parts) else HostRows(parts, kind, send.where)


def _feed(
    config: Config, features: Tensor | HostRows, targets: Tensor, sampler: Sampler, classes: int | None
) -> Feed | None:
    """Returns what makes the examples of each minibatch; None: they are there already, and stay as they are."""
    if isinstance(features, Tensor) and not config.task.augment:
        return None
    if isinstance(features, HostRows) and devices.is_cuda(targets.device) and config.method.asks_some():
        rule = "task.data.memory must be loaded on CUDA where nodes score models on all their examples"
        raise ValueError(f"{rule}, got mapped; or use device=cpu")
    return Feed.of(features, targets, sampler, config.task.augment, classes, DTYPES[config.dtype])


def _sampler(local: Local, seeds: np.ndarray, index: np.ndarray, rows: np.ndarray, offsets: np.ndarray) -> Sampler:
    """Returns the minibatches of all nodes; arguments: see `Sampler`.

    Raises:
        ValueError: a node owns too few examples.
    """
    owned = np.diff(offsets)
    if local.sampling == "poisson" and int(local.batch_size) > owned.min():
        raise ValueError(
            f"local.batch_size must be at most the examples of each node with local.sampling=poisson, got "
            f"{local.batch_size} where node {owned.argmin()} of the batch owns {owned.min()}; make it smaller"
        )
    law = None if isinstance(local.steps, int) else local.steps.cumulated()
    steps = local.steps if isinstance(local.steps, int) else local.steps.cumulated().size
    size, epochs = local.batch_size, local.epochs
    if isinstance(size, str):  # a full gradient is an epoch in one minibatch
        size, steps, epochs = int(np.diff(offsets).max()), 1, steps
    return Sampler(seeds, index, rows, offsets, size, steps, local.sampling, epochs, steps_law=law)


def check_lookups(
    configs: Sequence[Config], dealt: Sequence[tuple[Dataset, Shards]], on_host: Stack | None = None
) -> Ways:
    """Checks what models look up of the data, and returns how vmap carries that.

    Args:
        configs: settings of each network.
        dealt: its data, and who owns them.
        on_host: layout of the model on the CPU; None: it is made.

    Raises:
        ValueError: an example leads to an index that is out of range.
    """
    config, sizes = configs[0], dealt[0][0].sizes
    if not config.task.model.is_own():
        return Ways()
    stack = on_host or skeleton(config, sizes, DTYPES[config.dtype], _HOST)
    send = partial(Sender(stack.dtype, _HOST), kind=feature_type(config, sizes, stack))
    lookups = Lookups.of(stack, send(dealt[0][0].features[:_TRACED]))
    if lookups is None:
        return stack.ways
    for g, (data, shards) in enumerate(dealt):
        own = () if data.own is None else (("own test", data.own.features),)
        for part, features in (("training", data.features), ("test", data.test_features), *own):
            fault = lookups.fault(features, send)
            if fault is not None:
                row, said = fault
                node = f" of node {shards.owners[row]}" if part == "training" else ""
                where = f"{part} row {row}{node}" + (f" of network {g}" if len(configs) > 1 else "")
                values = ", ".join(f"{value:g}" for value in features[row].ravel()[:_SHOWN])
                more = ", ..." if features[row].size > _SHOWN else ""
                raise ValueError(
                    f"task.data must hold what task.model looks up, got {said}, in {where} (counted after the "
                    f"hold-out), which is [{values}{more}]; correct the data, or make the model's tables larger"
                )
    return replace(stack.ways, guarded=lookups.guarded)


def _tests(batch: Networks, sets: list[Dataset], send: "Sender", kind: torch.dtype) -> Iterator[Tests]:
    """Yields the test sets of all networks, those of networks with equally many nodes and examples together."""
    parts = zip(batch.sizes, sets, strict=True)
    keys = np.array([(int(n), len(d.test_features), d.optimum is not None) for n, d in parts])
    for key in np.unique(keys, axis=0):
        alike = np.flatnonzero((keys == key).all(1))
        pairs = [(sets[g].test_features, sets[g].test_targets) for g in alike]
        features, targets = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
        optima = [d.optimum for d in (sets[g] for g in alike) if d.optimum is not None]
        known = torch.from_numpy(np.stack(optima)).to(send.where) if optima else None
        yield Tests(alike, send(features, kind), send(targets), known)


def _own(sets: list[Dataset], send: "Sender", kind: torch.dtype) -> OwnRows | None:
    """Returns the test rows that nodes of all networks own; None where they have none of their own."""
    found = [data.own for data in sets if data.own is not None]
    if len(found) < len(sets):
        return None
    features, targets, sizes = joined(found)
    return OwnRows.of(send(features, kind), send(targets), sizes)


@dataclass(frozen=True)
class Sender:
    """Puts arrays on a device: real values in the dtype of x, labels as they are, features in a type of their own."""

    dtype: torch.dtype
    where: torch.device

    def __call__(self, array: np.ndarray, kind: torch.dtype | None = None) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.to(device=self.where, dtype=kind or (self.dtype if tensor.is_floating_point() else None))


# --------------------------------------------------------------------------------------------------------- integers


def feature_type(config: Config, sizes: DataSizes, stack: Stack) -> torch.dtype:
    """Returns the type in which the module gets features: int64 where they are integers and it takes them.

    A module that takes neither integers nor reals gets integers, so that what it says of them is shown. Where features
    are integers, the layout must be one on the CPU.
    """
    if not sizes.integers or not config.task.model.is_own():
        return stack.dtype
    if config.task.data.demands_integers():
        return torch.int64
    kinds = (torch.int64, stack.dtype)
    return next((kind for kind in kinds if _takes(stack, examples(sizes, kind))), torch.int64)


@contextmanager
def pointed_to_integers(config: Config, sizes: DataSizes, dtype: torch.dtype) -> Iterator[None]:
    """Adds to a refusal of features that are reals that integers may be had, where the module takes those."""
    try:
        yield
    except RangeError:
        raise
    except ValueError as error:
        data = config.task.data
        if sizes.integers or not (config.task.model.is_own() and hasattr(data, "features_as")):
            raise
        if not _takes(skeleton(config, sizes, dtype, _HOST), examples(sizes, torch.int64)):
            raise
        raise ValueError(f"{error}; task.data.features_as=integers gives the model integers") from error


def examples(sizes: DataSizes, kind: torch.dtype) -> Tensor:
    """Returns features of two examples in a type, on the CPU: a sample of the data, or zeros where none is known."""
    first = np.zeros(sizes.features) if sizes.first is None else sizes.first
    return torch.from_numpy(np.stack([first, first])).to(kind)


def _takes(stack: Stack, features: Tensor) -> bool:
    """Returns whether a module takes some features, and makes real numbers of them."""
    try:
        outputs = stack.score(stack.start(features.device), features, stacked=False)
    except (Exception, SystemExit):  # whatever the user's forward raises
        return False
    return not isinstance(outputs, Tensor) or outputs.is_floating_point()


def _checked_type(config: Config, on_host: Stack, sets: Sequence[Dataset]) -> torch.dtype:
    """Returns the type in which the module gets features; warns if it rounds them; on_host: layout on the CPU."""
    kind = feature_type(config, sets[0].sizes, on_host)
    if kind.is_floating_point:
        _warn_if_rounded(sets, config.dtype)
    return kind


def _warn_if_rounded(sets: Sequence[Dataset], dtype: str) -> None:
    """Warns of places of a row that hold whole numbers, some of which the dtype of the run does not hold exactly."""
    arrays = [part for data in sets for part in (data.features, data.test_features)]
    for x in [part for part in arrays if isinstance(part, np.ndarray)]:  # of what stays in files nobody looks at all
        rows = x.reshape(len(x), -1)
        places = _rounded(rows, _EXACT[dtype])
        if places.size:
            some = rows[:, places]
            size = f"features are whole numbers up to {max(int(some.max()), -int(some.min())):,} in size"
            where = f"(at place {places[0]} of a row, from 0)"
            fix = "use a module that takes integers" if x.dtype.kind == "i" else "number them 0, 1, 2, ..."
            fix += ", or use dtype=float64" if dtype != "float64" else ""
            held = f"of which dtype={dtype} holds those to {_EXACT[dtype]:,}"
            warnings.warn(f"task.data: {size}, {held} {where}; {fix}", stacklevel=1)
            return


def _rounded(rows: np.ndarray, exact: int) -> np.ndarray:
    """Returns at which places all rows hold whole numbers, some beyond `exact` in size, but none beyond their type."""
    least, most = rows.min(0), rows.max(0)
    large = (most > exact) | (least < -exact)
    if rows.dtype.kind == "f":
        own = 1 << (np.finfo(rows.dtype).nmant + 1)  # beyond, all reals are whole
        large &= (most <= own) & (least >= -own)
    places = np.flatnonzero(large)
    for part in np.array_split(rows, -(-rows.size // _BLOCK)):
        some = part[:, places]
        places = places[(some == np.rint(some)).all(0)]
    return places
