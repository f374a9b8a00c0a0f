"""Running statistics: the buffers that forward writes in training, which lie in the row of each node."""

import copy
import itertools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from batchednodes.numerics import torch_modes


def statistics_of(module: nn.Module, shape: tuple[int, ...] | None = None) -> dict[str, Tensor]:
    """Returns the buffers of numbers that forward changes in training, by their first names.

    Those of normalisation layers are known. Others are found by a forward pass in training mode of a copy: what is
    written in place, or replaced by other numbers. Of those that such a pass makes, or that are not numbers, nothing is
    said: a trial of the model refuses them.

    Args:
        module: with values; what is frozen or in evaluation mode stays so.
        shape: of the features of one example; None: layers alone are looked at.
    """
    found = dict[str, Tensor]()
    for prefix, part in module.named_modules():
        if getattr(part, "track_running_stats", False) and part.training:
            found |= dict(part.named_buffers(prefix, recurse=False))
    buffers = {name: t for name, t in module.named_buffers() if _is_number(t)}
    if shape is not None and not found.keys() >= buffers.keys():
        changed = _changed(module, buffers, shape)
        found = {name: t for name, t in module.named_buffers() if name in found or name in changed}
    return found


def _is_number(t: Tensor) -> bool:
    return t.dtype is not torch.bool and not t.is_complex() and not t.is_meta


def _changed(module: nn.Module, buffers: Mapping[str, Tensor], shape: tuple[int, ...]) -> set[str]:
    """Returns which buffers a forward pass in training changes; none where the module takes no such features."""
    shared = {id(w): w for w in module.parameters()}
    for features in _examples(module, shape):
        tried = copy.deepcopy(module, dict(shared))
        held = dict(tried.named_buffers())
        versions = {name: held[name]._version for name in buffers}
        try:
            with torch.no_grad(), torch_modes.generators():
                tried(features)
        except (Exception, SystemExit):  # whatever the user's forward raises: the trial says it
            continue
        now = dict(tried.named_buffers())
        return {
            name for name, old in buffers.items()
            if held[name]._version != versions[name] or (name in now and not _same(now[name], old))
        }  # fmt: skip
    return set()


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()))


def _examples(module: nn.Module, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yields features of two examples that differ, real numbers in [0, 1], then tokens 0 and 1."""
    kinds = (w.dtype for w in itertools.chain(module.parameters(), module.buffers()) if w.is_floating_point())
    size = (2, *shape)
    yield torch.linspace(0, 1, torch.Size(size).numel(), dtype=next(kinds, torch.float32)).view(size)
    yield torch.arange(2).view(2, *[1] * len(shape)).expand(size).clone()


def set_buffers_(module: nn.Module, made: Mapping[str, Tensor]) -> None:
    """Puts new buffers in place of some, at all places where these stand."""
    old = {id(t): made[name] for name, t in module.named_buffers() if name in made}
    for part in module.modules():
        part._buffers.update({name: old[id(t)] for name, t in part._buffers.items() if t is not None and id(t) in old})
