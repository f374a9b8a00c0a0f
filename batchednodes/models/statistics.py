"""Running statistics: the buffers that normalisation layers write in training, which lie in the row of each node."""

from collections.abc import Mapping

from torch import Tensor, nn


def statistics_of(module: nn.Module) -> dict[str, Tensor]:
    """Returns the buffers in which layers in training keep running statistics, by their first names."""
    found = dict[str, Tensor]()
    for prefix, part in module.named_modules():
        if getattr(part, "track_running_stats", False) and part.training:
            found |= dict(part.named_buffers(prefix, recurse=False))
    return found


def set_buffers_(module: nn.Module, made: Mapping[str, Tensor]) -> None:
    """Puts new buffers in place of some, at all places where these stand."""
    old = {id(t): made[name] for name, t in module.named_buffers() if name in made}
    for part in module.modules():
        part._buffers.update({name: old[id(t)] for name, t in part._buffers.items() if t is not None and id(t) in old})
