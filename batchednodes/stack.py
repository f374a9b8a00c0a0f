r"""Stack: the parameters of many equal modules as the rows of one tensor.

The parameters live in the rows only. One module without parameter storage (a skeleton) gives the computation, and
`torch.func.functional_call` runs it on views of a row; `torch.func.vmap` runs it on many rows at once (functorch, as it
was called before PyTorch 2.0, is `torch.func` now).

Letters: n nodes, p parameters of a module, b examples, x models [n, p].
"""

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from batchednodes import memory
from batchednodes.layers import OneHot, replace_, restore_

_REMEDY = "; see 'Any model' in README.md for what a stacked model may hold"


@dataclass(frozen=True)
class Stack:
    """The layout of one module's trainable parameters in a row of x, and the computation that they belong to."""

    skeleton: nn.Module
    """The module: trainable parameters without storage (meta device), buffers and frozen parameters shared by all."""
    shapes: Mapping[str, torch.Size]
    """Name and shape of each trainable parameter, in the order of `nn.Module.named_parameters`."""

    @staticmethod
    def of(module: nn.Module, dtype: torch.dtype, device: torch.device) -> "Stack":
        """Returns the layout of a module, whose frozen parameters and buffers become constants on the device.

        Raises:
            ValueError: the module holds something that rows cannot: running statistics, dropout, no parameters.
        """
        _refuse_modules(module)
        skeleton = copy.deepcopy(module)
        replace_(skeleton)
        shapes = {name: w.shape for name, w in skeleton.named_parameters() if w.requires_grad}
        if not shapes:
            raise ValueError(f"task.model must have trainable parameters, got {type(module).__name__} with none")
        _replace(skeleton, lambda _, w: torch.empty(w.shape, device="meta", dtype=dtype))
        skeleton._apply(lambda t: t if t.is_meta else t.to(device, dtype if t.is_floating_point() else None))
        return Stack(skeleton, shapes)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers of a row."""
        return next(w.dtype for w in self.skeleton.parameters() if w.is_meta)

    @property
    def p(self) -> int:
        """Number of parameters of a row."""
        return sum(math.prod(s) for s in self.shapes.values())

    def views(self, rows: Float[Tensor, "*w p"]) -> dict[str, Tensor]:
        """Returns the named parameters as views of a row, or of rows."""
        parts, w = rows.split([math.prod(s) for s in self.shapes.values()], -1), rows.shape[:-1]
        return {name: part.view(*w, *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def call(self, row: Float[Tensor, " p"], features: Tensor) -> Any:
        """Returns what the module puts out for features [b, ...], with the parameters of a row; see `check`."""
        return self.call_named(self.views(row), features)

    def call_named(self, parameters: Mapping[str, Tensor], features: Tensor) -> Any:
        """Returns the same with parameters given by name."""
        with nullcontext() if features.is_floating_point() else OneHot():
            return functional_call(self.skeleton, dict(parameters), (features,))

    def row(self, module: nn.Module) -> Float[Tensor, " p"]:
        """Returns the trainable parameters of a module of this layout as a new row."""
        named = dict(module.named_parameters())
        return torch.cat([named[name].detach().flatten() for name in self.shapes])

    def module(self, row: Float[Tensor, " p"]) -> nn.Module:
        """Returns a module of its own with the parameters of a row, copied."""
        module, views = copy.deepcopy(self.skeleton), self.views(row)
        _replace(module, lambda name, _: views[name].detach().clone())
        restore_(module)
        return module

    def activations(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, two: Tensor | None = None
    ) -> int:
        """Returns how many numbers the leaf modules put out for one example of features of a shape.

        Args:
            shape, dtype, device: of the features.
            two: examples [2, ...] to find it with; None: zeros, which need not be tokens.

        Raises:
            ValueError: the module does not take features of that shape.
        """
        return sum(size for _, size in self._outputs(shape, dtype, device, two))

    def convolved(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, two: Tensor | None = None
    ) -> int:
        """Returns how many multiply-adds the convolutions take for one example of features of a shape.

        Raises:
            ValueError: the module does not take features of that shape.
        """
        outputs = self._outputs(shape, dtype, device, two)
        return sum(size * part.weight[0].numel() for part, size in outputs if isinstance(part, nn.Conv2d))

    def _outputs(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, two: Tensor | None = None
    ) -> list[tuple[nn.Module, int]]:
        """Returns each leaf module that is called, with how many numbers it puts out for one example."""
        sizes: list[tuple[nn.Module, int]] = []
        leaves = [m for m in self.skeleton.modules() if not list(m.children())]
        hooks = [m.register_forward_hook(lambda m, _, out: sizes.append((m, _numel(out) // 2))) for m in leaves]
        try:
            zeros = torch.zeros(2, *shape, dtype=dtype, device=device)  # two: batch statistics need more than one
            self.call(torch.zeros(self.p, dtype=self.dtype, device=device), zeros if two is None else two)
        except (Exception, SystemExit) as error:  # whatever the user's forward raises
            raise _refusal(f"take features of shape [b, {', '.join(map(str, shape))}]", error) from error
        finally:
            for hook in hooks:
                hook.remove()
        return sizes


def _numel(out: object) -> int:
    return out.numel() if isinstance(out, Tensor) else 0


def _refusal(rule: str, error: BaseException) -> BaseException:
    """Returns the error to raise for one that a user's model raised."""
    if memory.exhausted(error):
        return MemoryError(memory.reason(error))
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return ValueError(f"task.model must {rule}, got: {reason}{_REMEDY}")


def _replace(module: nn.Module, value: Callable[[str, Tensor], Tensor]) -> None:
    """Puts new tensors in place of the trainable parameters; a parameter that is used twice stays one."""
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # keeps the old one alive, so that its id is not used again
    for prefix, part in module.named_modules():
        for name, w in list(part.named_parameters(recurse=False)):
            if w.requires_grad:
                if id(w) not in made:
                    made[id(w)] = w, nn.Parameter(value(f"{prefix}.{name}" if prefix else name, w))
                setattr(part, name, made[id(w)][1])


def check(stack: Stack, loss: Callable[..., Tensor], features: Tensor, targets: Tensor, classes: int | None) -> None:
    """Runs a forward pass twice and a batched update once, on a minibatch.

    Args:
        stack: of the module.
        loss: of a row and a minibatch.
        features: inputs [b, ...].
        targets: labels [b] or [b, ...], or values [b, k].
        classes: number of labels; None: targets are values.

    Raises:
        ValueError: the module changes its own state, gives outputs of a wrong shape, or cannot be carried by
            `torch.func.vmap`.
    """
    row = _probe(stack, features)
    before = {name: b.clone() for name, b in stack.skeleton.named_buffers()}
    try:
        first, second = stack.call(row, features), stack.call(row, features)
    except (Exception, SystemExit) as error:  # whatever the user's forward raises
        raise _refusal(f"take features of shape {list(features.shape)}", error) from error
    changed = [name for name, b in stack.skeleton.named_buffers() if not torch.equal(b, before[name])]
    if changed:
        raise ValueError(f"task.model must not change its state, got a forward that writes buffers {changed}{_REMEDY}")
    _check_outputs(first, targets, classes)
    if not torch.equal(first.nan_to_num(), second.nan_to_num()):
        raise ValueError(f"task.model must be a function of its input, got two different outputs for one{_REMEDY}")
    try:
        vmap(grad(loss))(*(torch.stack([part, part]) for part in (row, features, targets)))
    except (Exception, SystemExit) as error:  # vmap's refusals are of many types
        raise _refusal("run under torch.func.vmap", error) from error


def check_apart(stack: Stack, features: Tensor) -> None:
    """Checks, on some examples, that a module computes each of them by itself.

    Raises:
        ValueError: outputs depend on the other examples of the minibatch.
    """
    row, half = _probe(stack, features), len(features) // 2 or 1
    try:
        whole, part = (stack.call(row, some) for some in (features, features[:half]))
    except (Exception, SystemExit) as error:  # whatever the user's forward raises
        raise _refusal("take minibatches of any size with local.epochs", error) from error
    # Products of another size round otherwise; statistics of other examples differ by as much as the outputs.
    close = 1e3 * torch.finfo(stack.dtype).eps * whole.abs().max()
    if bool(((whole[:half] - part).abs() > close).any()):
        raise ValueError(
            "task.model must compute each example by itself with local.epochs, where minibatches differ in size, got "
            f"outputs that depend on the rest of the minibatch; use local.steps, or GroupNorm or LayerNorm{_REMEDY}"
        )


def _probe(stack: Stack, features: Tensor) -> Float[Tensor, " p"]:
    """Returns a row to try a module with."""
    return torch.linspace(-0.1, 0.1, stack.p, dtype=stack.dtype, device=features.device)


def _check_outputs(outputs: object, targets: Tensor, classes: int | None) -> None:
    shape = list(outputs.shape) if isinstance(outputs, Tensor) else [-1]
    wanted, fits = list(targets.shape), shape == list(targets.shape)
    if classes:
        wanted, fits = [*wanted, f"at least {classes}"], shape[:-1] == wanted and shape[-1] >= classes
    if not fits:
        got = shape if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"task.model must put out a tensor of shape [{', '.join(map(str, wanted))}] for {len(targets)} examples, "
            f"got {got}{_shape_hint(shape, targets, classes) if classes else ''}"
        )


def _shape_hint(shape: list[int], targets: Tensor, classes: int) -> str:
    """Returns what may help where outputs of a shape do not fit labels."""
    own = list(targets.shape)
    if targets.ndim > 1 and [*shape[:1], *shape[2:]] == own and shape[1] >= classes - 1:
        return "; classes come last here: put .movedim(1, -1) after the model"
    if shape == [*own, classes - 1] and targets.min() > 0:
        return "; labels count from 0: if yours begin at 1, subtract 1 from them"
    return ""


def _refuse_modules(module: nn.Module) -> None:
    for name, part in module.named_modules():
        where = f"task.model must be a stateless computation, got {type(part).__name__} at {name or 'the top'!r}"
        if getattr(part, "track_running_stats", False):
            raise ValueError(
                f"{where}, which keeps running statistics; use GroupNorm, or track_running_stats=False{_REMEDY}"
            )
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            raise ValueError(f"{where}, whose random draws have no address; use local.weight_decay instead{_REMEDY}")
        if isinstance(part, nn.RNNBase | nn.MultiheadAttention) and float(part.dropout) > 0:
            raise ValueError(f"{where} with dropout, whose random draws have no address; set dropout=0{_REMEDY}")
