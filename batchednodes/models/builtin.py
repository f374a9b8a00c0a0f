r"""Models: which module a node trains, and how its row begins.

Notation: n nodes, p parameters, x models [n, p].
"""

from __future__ import annotations  # signatures name tensors, and torch is not imported for that

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from batchednodes.models.adapters import Adapter, NoAdapter
from batchednodes.numerics import rng, targets
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.values import LARGEST, shown

if TYPE_CHECKING:
    import torch
    from torch import nn

    from batchednodes.models import noisy
    from batchednodes.models import stacked as layout
    from batchednodes.numerics import torch_modes
else:
    torch = deferred("torch")
    nn = deferred("torch.nn")
    torch_modes = deferred("batchednodes.numerics.torch_modes")
    layout = deferred("batchednodes.models.stacked")
    noisy = deferred("batchednodes.models.noisy")

Init = Literal["same", "independent"]
"""How the rows of nodes begin: as one draw, or each as a draw of its own."""


_CHUNK = 1 << 22
"""Numbers drawn at once when rows are initialised, so that little is held besides x."""


_TARGET = "task.model.target"

LAYERS = 1_000
"""The most hidden layers of a perceptron."""


class Model(ABC):
    """A kind of model: which module every node trains, and with which parameters it begins."""

    @abstractmethod
    def module(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Returns the module for some data; its parameters may be without storage.

        Args:
            shape: of the features of one example, as (1, 28, 28).
            outputs: labels, or targets of one example; at least 1.

        Raises:
            ValueError: a function of the user's own cannot be imported, or makes no such module.
        """

    @abstractmethod
    def count(self, shape: tuple[int, ...], outputs: int) -> int | None:
        """Returns the number of parameters of that module, without PyTorch; None: only the module says.

        Raises:
            ValueError: what makes the module cannot be imported.
        """

    @abstractmethod
    def init_(
        self, x: Float[torch.Tensor, "n p"], stack: layout.Stack, seed: int, shape: tuple[int, ...], outputs: int,
        first: int = 0,
    ) -> None:  # fmt: skip
        """Writes initial models of a network: that of node i by the address (seed, i), or all as that of node 0.

        Args:
            x: rows of some nodes of the network, one after the other, which are written.
            stack: layout of a row.
            seed: of the network; 0 <= seed < 2^63.
            shape: as for `module`.
            outputs: as for `module`.
            first: number of the first of these nodes; a class that does not take it makes rows of all nodes at once.
        """

    def is_own(self) -> bool:
        """Returns whether the module is the user's own, which may take integers, and put out numbers for each token."""
        return False

    def merged(self, module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
        """Returns a module without adapters that computes what one of this model does; itself where it has none.

        Args:
            module: with parameters of a node; may be changed.
            shape: as for `module`.
        """
        return module


def _check_init(init: str, more: tuple[str, ...] = ()) -> None:
    kinds = ("same", "independent", *more)
    if init not in kinds:
        raise ValueError(f"init must be one of {', '.join(kinds)}, got {shown(init)}")


def _uniform_(x: torch.Tensor, module: nn.Module, stack: layout.Stack, seed: int, init: str, first: int) -> None:
    """Writes rows of PyTorch's default law for linear layers, U(-1, 1) / sqrt(inputs of the layer)."""
    bounds = {
        f"{name}.{kind}": 1.0 / math.sqrt(part.in_features)
        for name, part in module.named_modules()
        for kind in ("weight", "bias")
        if isinstance(part, nn.Linear)
    }
    sizes = [math.prod(s) for s in stack.shapes.values()]
    bound = np.repeat([bounds[name] for name in stack.shapes], sizes)
    rows = 1 if init == "same" else x.shape[0]
    step = max(1, _CHUNK // stack.p)
    for begin in range(0, rows, step):
        nodes = np.arange(begin, min(rows, begin + step)) + (0 if init == "same" else first)
        values = bound * (2.0 * rng.uniforms(seed, rng.INIT, nodes, stack.p) - 1.0)
        x[begin : begin + nodes.size] = torch.as_tensor(values, dtype=x.dtype, device=x.device)
    if init == "same":
        x[1:] = x[0]


@dataclass(frozen=True)
class Linear(Model):
    """One linear layer: linear regression, or multinomial logistic regression.

    Example:
        >>> from batchednodes.models import Linear
        >>> Linear().module((8, 8), outputs=10)
        Sequential(
          (0): Flatten(start_dim=1, end_dim=-1)
          (1): Linear(in_features=64, out_features=10, bias=True)
        )
        >>> Linear().count((8, 8), outputs=10)
        650
    """

    bias: bool = True
    """Whether the layer adds a bias."""

    output: Literal["identity", "sigmoid"] = "identity"
    """What follows the layer; with sigmoid, cross_entropy takes numbers in (0, 1) for logits, as gossipy's logistic
    regression does."""

    init: Literal["same", "independent", "zero"] = "same"
    """same: all nodes begin with equal parameters; independent: each node with its own draw; zero: all begin at 0."""

    def __post_init__(self) -> None:
        _check_init(self.init, ("zero",))
        if self.output not in ("identity", "sigmoid"):
            raise ValueError(f"output must be one of identity, sigmoid, got {shown(self.output)}")

    def module(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        last = [nn.Sigmoid()] if self.output == "sigmoid" else []
        with torch.device("meta"):
            return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs, bias=self.bias), *last)

    def count(self, shape: tuple[int, ...], outputs: int) -> int | None:
        return (math.prod(shape) + self.bias) * outputs

    def init_(
        self, x: Float[torch.Tensor, "n p"], stack: layout.Stack, seed: int, shape: tuple[int, ...], outputs: int,
        first: int = 0,
    ) -> None:  # fmt: skip
        if self.init == "zero":
            x.zero_()
            return
        _uniform_(x, self.module(shape, outputs), stack, seed, self.init, first)


@dataclass(frozen=True)
class NoisyLinear(Model):
    """One linear layer without bias, whose gradients have noise; the model of quadratics with noise.

    Example:
        >>> from batchednodes.models import NoisyLinear
        >>> NoisyLinear(noise=0.1).count((10,), outputs=1)
        10
    """

    noise: float = 0.0
    """Length of the random part of a gradient, that of the data; at least 0."""

    init: Literal["same", "independent", "zero"] = "zero"
    """As of `linear`."""

    def __post_init__(self) -> None:
        _check_init(self.init, ("zero",))

    def module(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        with torch.device("meta"):
            return noisy.NoisyLayer(math.prod(shape), self.noise)

    def count(self, shape: tuple[int, ...], outputs: int) -> int | None:
        return math.prod(shape)

    def init_(
        self, x: Float[torch.Tensor, "n p"], stack: layout.Stack, seed: int, shape: tuple[int, ...], outputs: int,
        first: int = 0,
    ) -> None:  # fmt: skip
        if self.init == "zero":
            x.zero_()
            return
        _uniform_(x, self.module(shape, outputs), stack, seed, self.init, first)


_ACTIVATIONS = {"relu": "ReLU", "tanh": "Tanh", "gelu": "GELU"}
"""Names of `torch.nn` for what may follow a layer."""


@dataclass(frozen=True)
class MLP(Model):
    """A multilayer perceptron.

    Example:
        >>> from batchednodes.models import MLP
        >>> MLP(hidden=(32, 16), activation="tanh").module((64,), outputs=10)
        Sequential(
          (0): Flatten(start_dim=1, end_dim=-1)
          (1): Linear(in_features=64, out_features=32, bias=True)
          (2): Tanh()
          (3): Linear(in_features=32, out_features=16, bias=True)
          (4): Tanh()
          (5): Linear(in_features=16, out_features=10, bias=True)
        )
        >>> MLP(hidden=(32, 16)).count((64,), outputs=10)
        2778
    """

    hidden: tuple[int, ...] = (64,)
    """Width of each hidden layer; each at least 1; at most 1,000 layers."""

    activation: Literal["relu", "tanh", "gelu"] = "relu"
    """What follows each hidden layer."""

    init: Init = "same"
    """same: all nodes begin with equal parameters; independent: each node with its own draw."""

    def __post_init__(self) -> None:
        _check_init(self.init)
        if len(self.hidden) > LAYERS:
            raise ValueError(f"hidden must be a list of at most {LAYERS} widths, got {len(self.hidden)} of them")
        if any(not 1 <= width <= LARGEST for width in self.hidden):
            raise ValueError(f"hidden must be widths of 1 to {LARGEST:,}, got {shown(list(self.hidden))}")
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {shown(self.activation)}")

    def module(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        widths = [math.prod(shape), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        with torch.device("meta"):
            for a, b in itertools.pairwise(widths):
                layers += [nn.Linear(a, b), getattr(nn, _ACTIVATIONS[self.activation])()]
            return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def count(self, shape: tuple[int, ...], outputs: int) -> int | None:
        widths = [math.prod(shape), *self.hidden, outputs]
        return sum((a + 1) * b for a, b in itertools.pairwise(widths))

    def init_(
        self, x: Float[torch.Tensor, "n p"], stack: layout.Stack, seed: int, shape: tuple[int, ...], outputs: int,
        first: int = 0,
    ) -> None:  # fmt: skip
        _uniform_(x, self.module(shape, outputs), stack, seed, self.init, first)


@dataclass(frozen=True)
class PythonModule(Model):
    """A module of the user's own, made by a Python function. The function is imported and run.

    Example:
        >>> from batchednodes.models import PythonModule
        >>> model = PythonModule("torch.nn:Linear", args={"in_features": 8, "out_features": 2})
        >>> model.module((8,), outputs=2)
        Linear(in_features=8, out_features=2, bias=True)
    """

    target: str = ""
    """Function or class that returns an nn.Module, as "package.module:name", found from the working directory
    too, or "path/to/file.py:name"."""

    args: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the call."""

    init: Init = "same"
    """same: all nodes begin with equal parameters; independent: each node with its own call under its own seed."""

    adapter: Adapter = field(default_factory=NoAdapter)
    """What is trained in place of the whole module; none: all its parameters that require gradients."""

    def __post_init__(self) -> None:
        _check_init(self.init)
        targets.check(self.target)

    def module(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        module = self._make(0, shape)
        self.adapter.adapt_(module)
        return module

    def count(self, shape: tuple[int, ...], outputs: int) -> int | None:
        targets.imported(self.target, _TARGET)
        return None

    def init_(
        self, x: Float[torch.Tensor, "n p"], stack: layout.Stack, seed: int, shape: tuple[int, ...], outputs: int,
        first: int = 0,
    ) -> None:  # fmt: skip
        made = [w.flatten().to(x) for w in stack.made] if self.adapter.shares else []
        for i in range(1 if self.init == "same" else x.shape[0]):
            node = 0 if self.init == "same" else first + i
            one, two = (int(bits) >> 1 for bits in rng.block(np.uint64(seed), rng.INIT, node, np.uint64(0)))
            x[i] = torch.cat(made) if made else stack.row(self._make(one, shape)).to(x)
            with torch_modes.own(), torch_modes.generators():
                torch.manual_seed(two)
                self.adapter.draw_(stack.skeleton, stack.views(x[i]))
        if self.init == "same":
            x[1:] = x[0]

    def is_own(self) -> bool:
        return True

    def merged(self, module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
        return self.adapter.merged(module, lambda: self._make(0, shape))

    def _make(self, seed: int, shape: tuple[int, ...]) -> nn.Module:
        """Returns what the user's function makes with torch's generator seeded, which is then as it was before.

        What PyTorch makes at the first forward pass is made: it gets features of a shape.
        """
        make = targets.imported(self.target, _TARGET)
        with torch_modes.own(), torch_modes.generators():
            torch.manual_seed(seed)
            try:
                module = make(**self.args)
            except (Exception, SystemExit) as error:  # whatever the user's function raises
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(
                    f"task.model.target {shown(self.target)} must take args {self.args}, got {reason}"
                ) from error
            if isinstance(module, nn.Module) and any(torch.nn.parameter.is_lazy(w) for w in module.parameters()):
                layout.materialise_(module, shape)
        if not isinstance(module, nn.Module):
            raise ValueError(f"task.model.target must return an nn.Module, got {type(module).__name__}")
        empty = [name for name, t in itertools.chain(module.named_parameters(), module.named_buffers()) if t.is_meta]
        if empty:
            raise ValueError(
                f"task.model.target must return a module whose parameters have values, got {empty} on the meta device"
            )
        return module
