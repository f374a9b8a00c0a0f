"""Limits of the machine: what copies and matrix products reach, with the threads that are measured elsewhere.

Notation: w rows of a batch, b examples, i inputs and o outputs of a layer.
"""

from collections.abc import Sequence
from typing import Any

import torch

from measure.timing import Work, interleaved, rates

COPIED = 512 << 20
"""Bytes of a copy: far beyond every cache."""


def copying(device: torch.device) -> tuple[Work, int]:
    """Returns a copy, and the bytes that it reads and writes."""
    source = torch.ones(COPIED // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * COPIED


def products(layers: Sequence[tuple[int, int]], w: int, b: int, device: torch.device) -> tuple[Work, float]:
    """Returns the batched products of one SGD step of w models, and their floating-point operations.

    For each layer: the outputs, the gradient of the weights, and, but for the first layer, that of the inputs.
    """
    shapes = [shape for i, o in layers for shape in (((b, i), (i, o)), ((i, b), (b, o)))]
    shapes += [((b, o), (o, i)) for i, o in layers[1:]]
    pairs = [tuple(torch.randn(w, *shape, device=device) for shape in pair) for pair in shapes]
    outs = [torch.bmm(a, c) for a, c in pairs]
    operations = sum(2.0 * w * p[0] * p[1] * q[1] for p, q in shapes)
    return lambda: [torch.bmm(a, c, out=out) for (a, c), out in zip(pairs, outs, strict=True)], operations


def limits(device: torch.device, repeats: int) -> dict[str, Any]:
    """Returns bytes per second of a copy, and operations per second of products, large and batched."""
    copy, moved = copying(device)
    size = 2048 if device.type == "cpu" else 8192
    a, c = (torch.randn(size, size, device=device) for _ in range(2))
    out = torch.empty_like(a)
    logreg, logreg_work = products(((57, 2),), 1000, 32, device)
    mlp, mlp_work = products(((64, 64), (64, 10)), 1000, 32, device)
    works = {"copy": copy, "product": lambda: torch.mm(a, c, out=out), "logreg": logreg, "mlp": mlp}
    times = interleaved(works, repeats, device)
    return {
        "copy, bytes/s": rates(moved, times["copy"]),
        f"product of {size} x {size}, op/s": rates(2.0 * size**3, times["product"]),
        "batched products of logreg, op/s": rates(logreg_work, times["logreg"]),
        "batched products of mlp, op/s": rates(mlp_work, times["mlp"]),
    }
