r"""Stack: the parameters of many equal modules as the rows of one tensor.

The parameters live in the rows only. One module without parameter storage (a skeleton) gives the computation, and
`torch.func.functional_call` runs it on views of a row; `torch.func.vmap` runs it on many rows at once (functorch, as it
was called before PyTorch 2.0, is `torch.func` now).

Notation: p parameters of a module, b examples.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call

from batchednodes.models.refusal import REMEDY, refusal
from batchednodes.models.stand_ins import StandIns
from batchednodes.models.statistics import set_buffers_, statistics_of
from batchednodes.numerics.convolution import replace_, restore_


@dataclass(frozen=True)
class Ways:
    """How the computation of a module is carried by vmap: the plainest way that works, which trying it finds."""

    stand_ins: bool = True
    """Whether forward may call functions that others stand in for."""
    draws: bool = False
    """Whether training draws masks, by the keys of minibatch steps."""
    guarded: bool = False
    """Whether rows of tables are looked up by indices that training may change, each surely in its own table."""
    anchored: bool = False
    """Whether all tensors have rows, so that forward may write what has rows into what it makes."""
    composed: bool = False
    """Whether scoring runs as if for a gradient, where PyTorch composes what vmap carries no other way."""
    block: int | None = None
    """Test examples of a forward pass, at most; None: all."""


@dataclass(frozen=True)
class Stack:
    """The layout of one module's trainable parameters in a row of x, and the computation that they belong to.

    Example:
        >>> import torch
        >>> from batchednodes.models.stacked import Stack
        >>> stack = Stack.of(torch.nn.Linear(3, 1), torch.float32, torch.device("cpu"))
        >>> stack.p, {name: tuple(shape) for name, shape in stack.shapes.items()}
        (4, {'weight': (1, 3), 'bias': (1,)})
        >>> x = torch.ones(2, stack.p)  # two models, all of whose parameters are 1
        >>> stack.module(x[0])(torch.ones(1, 3)).item()
        4.0
    """

    skeleton: nn.Module
    """The module: trainable parameters without storage (meta device), buffers and frozen parameters shared by all."""
    shapes: Mapping[str, torch.Size]
    """Name and shape of each trainable parameter, in the order of `nn.Module.named_parameters`."""
    scorer: nn.Module
    """The same module in evaluation mode, with which models are scored."""
    blank: nn.Module
    """The same module as it was made: never called, it holds nothing that a forward left behind."""
    tied: Mapping[str, str]
    """The first name of each tensor that stands at several places of the module, by each other name."""
    made: tuple[Tensor, ...]
    """Values of the trainable parameters that the module was made with; without storage where it has none."""
    ways: Ways = Ways()
    """How vmap carries the computation."""
    kept: Mapping[str, torch.dtype] = field(default_factory=dict)
    """Which of `shapes` no gradient trains: buffers that forward changes in training, as running statistics, and
    counts, which are integers. They come last in a row; with the type that each has in the module."""

    @staticmethod
    def of(
        module: nn.Module, dtype: torch.dtype, device: torch.device, shape: tuple[int, ...] | None = None
    ) -> "Stack":
        """Returns the layout of a module, whose frozen parameters and buffers become constants on the device.

        Args:
            module: as it was made.
            dtype: of rows, and of constants.
            device: of constants.
            shape: of the features of one example, by which buffers are found that forward changes; None: those of
                normalisation layers alone.

        Raises:
            ValueError: the module holds something that rows cannot: a lock, weights that forward bounds, no parameters.
        """
        for part in module.modules():
            if (
                type(part).train is not nn.Module.train
            ):  # what it freezes is known once it was called, as training would
                part.train(part.training)
        _refuse_modules(module)
        skeleton = _copied(module)
        replace_(skeleton)
        trained = {name: w for name, w in skeleton.named_parameters() if w.requires_grad}
        if not any(w.numel() for w in trained.values()):
            raise ValueError(f"task.model must have trainable parameters, got {type(module).__name__} with none")
        statistics = statistics_of(skeleton, shape)
        named = trained | statistics
        shapes, made = {name: w.shape for name, w in named.items()}, tuple(w.detach() for w in named.values())
        _replace(skeleton, lambda _, w: torch.empty(w.shape, device="meta", dtype=dtype))
        set_buffers_(skeleton, {k: torch.empty(t.shape, device="meta", dtype=dtype) for k, t in statistics.items()})
        skeleton._apply(lambda t: t if t.is_meta else t.to(device, _kind(t, dtype)))
        scorer, blank = apart(skeleton), apart(skeleton)
        kept = {name: t.dtype for name, t in statistics.items()}
        return Stack(skeleton, shapes, scorer.eval(), blank, _tied(skeleton), made, kept=kept)

    def apart(self) -> "Stack":
        """Returns the same layout with modules of its own, which hold the same tensors."""
        return replace(self, skeleton=apart(self.skeleton), scorer=apart(self.scorer))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers of a row."""
        return next(w.dtype for w in self.skeleton.parameters() if w.is_meta)

    @property
    def p(self) -> int:
        """Number of parameters of a row."""
        return sum(math.prod(s) for s in self.shapes.values())

    @property
    def shared(self) -> int:
        """Bytes of what all models share: buffers and frozen parameters [B]."""
        held = {id(t): t for t in itertools.chain(self.skeleton.parameters(), self.skeleton.buffers())}
        return sum(t.nbytes for t in held.values() if not t.is_meta)

    def start(self, device: torch.device) -> Float[Tensor, " p"]:
        """Returns parameters to try the module with: near those that it was made with, some of which may be zeros."""
        flat = [torch.zeros(w.shape) if w.is_meta else w for w in self.made]
        none = torch.zeros(0, dtype=self.dtype, device=device)
        own = torch.cat([none, *(w.flatten().to(device, self.dtype) for w in flat)])
        return own + torch.linspace(-0.01, 0.01, own.numel(), dtype=self.dtype, device=device)

    def views(self, rows: Float[Tensor, "*w p"]) -> dict[str, Tensor]:
        """Returns the named parameters as views of a row, or of rows."""
        parts, w = rows.split([math.prod(s) for s in self.shapes.values()], -1), rows.shape[:-1]
        return {name: part.view((*w, *shape)) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def write_(self, row: Float[Tensor, "*w p"], kept: Mapping[str, Tensor]) -> None:
        """Writes running statistics into a row, or rows, in place."""
        views = self.views(row) if kept else {}
        for name, value in kept.items():
            views[name].copy_(value)

    def call(
        self, row: Float[Tensor, " p"], features: Tensor, key: Int64[Tensor, ""] | None = None, stacked: bool = False
    ) -> Any:
        """Returns what the module puts out in training for b examples, with the parameters of a row.

        Args:
            row: parameters.
            features: inputs [b, ...].
            key: of the minibatch step, by which masks are drawn; None: 0.
            stacked: whether vmap carries the call.
        """
        return self.call_named(self.views(row), features, key, stacked)

    def call_named(
        self,
        parameters: Mapping[str, Tensor],
        features: Tensor,
        key: Int64[Tensor, ""] | None = None,
        stacked: bool = True,
    ) -> Any:
        """Returns the same with parameters given by name."""
        return self._run(self.skeleton, dict(parameters), features, key, stacked)

    def score(self, row: Float[Tensor, " p"], features: Tensor, stacked: bool = True) -> Any:
        """Returns what the module puts out in evaluation mode for b examples, with the parameters of a row."""
        parts = features.split(self.ways.block or max(1, len(features)))
        made = [self._run(self.scorer, self.views(row), some, None, stacked) for some in parts]
        return made[0] if len(made) == 1 else torch.cat(made)

    def _run(
        self, module: nn.Module, named: dict[str, Tensor], features: Tensor, key: Tensor | None, stacked: bool
    ) -> Any:
        """Returns what a module puts out with parameters given by name."""
        if not self.ways.stand_ins:
            return self.forward(module, named, features)
        key = torch.zeros((), dtype=torch.int64, device=features.device) if key is None else key
        like = next(iter(named.values())) if stacked and self.ways.anchored else None
        mode = StandIns(key, stacked, like, self.ways.guarded)
        if like is not None:
            constants = itertools.chain(module.named_parameters(), module.named_buffers())
            named |= {name: mode.anchored(t) for name, t in constants if name not in named}
        with mode:
            return self.forward(module, named, features)

    def forward(self, module: nn.Module, named: Mapping[str, Tensor], features: Tensor) -> Any:
        """Returns what a module of this layout puts out as it is, with parameters given by name."""
        tied = {other: named[name] for other, name in self.tied.items() if name in named}
        given = {**named, **tied}
        held = dict(given)
        outputs = functional_call(module, held, (features,), tie_weights=False)
        for name in self._names_of_kept():
            if name in held and held[name] is not given[name]:  # forward assigned another tensor to the buffer
                if held[name].shape != given[name].shape:
                    size, made = [*given[name].shape], [*held[name].shape]
                    raise ValueError(f"buffer {name} must keep its shape {size}, got {made} after forward")
                given[name].copy_(held[name])
        return outputs

    def _names_of_kept(self) -> Iterator[str]:
        """Yields all names of running statistics, of one that stands at several places too."""
        yield from self.kept
        yield from (other for other, name in self.tied.items() if name in self.kept)

    def row(self, module: nn.Module) -> Float[Tensor, " p"]:
        """Returns the trainable parameters of a module of this layout as a new row."""
        named = dict(itertools.chain(module.named_parameters(), module.named_buffers()))
        found = [named[name].detach().flatten() for name in self.shapes]
        return torch.cat([t.to(found[0].dtype) for t in found])

    def module(self, row: Float[Tensor, " p"]) -> nn.Module:
        """Returns a module of its own with the parameters of a row, copied."""
        module, views = copy.deepcopy(self.blank), self.views(row)
        _replace(module, lambda name, _: views[name].detach().clone())
        kinds = {name: None if kind.is_floating_point else kind for name, kind in self.kept.items()}
        set_buffers_(module, {name: views[name].detach().clone().to(kind) for name, kind in kinds.items()})
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
        leaves = [m for m in self.scorer.modules() if not list(m.children())]
        hooks = [m.register_forward_hook(lambda m, _, out: sizes.append((m, _numel(out) // 2))) for m in leaves]
        try:
            zeros = torch.zeros(2, *shape, dtype=dtype, device=device)  # two: batch statistics need more than one
            self.score(self.start(device), zeros if two is None else two, stacked=False)
        except (Exception, SystemExit) as error:  # whatever the user's forward raises
            raise refusal(f"take features of shape [b, {', '.join(map(str, shape))}]", error) from error
        finally:
            for hook in hooks:
                hook.remove()
        return sizes


def apart(module: nn.Module) -> nn.Module:
    """Returns a copy of a module that holds the same tensors."""
    shared = {id(t): t for t in itertools.chain(module.parameters(), module.buffers())}
    return copy.deepcopy(module, dict(shared))


def _tied(module: nn.Module) -> dict[str, str]:
    """Returns the first name of each tensor of a module that has several, by each other one.

    A module that stands at several places counts once: `functional_call` must not replace its tensors twice.
    """
    first, tied = dict[int, str](), dict[str, str]()
    for prefix, part in module.named_modules():
        own = (part.named_parameters(prefix, False, False), part.named_buffers(prefix, False, False))
        for name, tensor in itertools.chain(*own):
            if first.setdefault(id(tensor), name) != name:
                tied[name] = first[id(tensor)]
    return tied


def _numel(out: object) -> int:
    return out.numel() if isinstance(out, Tensor) else 0


def _kind(t: Tensor, dtype: torch.dtype) -> torch.dtype | None:
    """Returns the type that a constant takes where real numbers have one; None: its own."""
    return dtype if t.is_floating_point() else dtype.to_complex() if t.is_complex() else None


def _replace(module: nn.Module, value: Callable[[str, Tensor], Tensor]) -> None:
    """Puts new tensors in place of the trainable parameters; a parameter that is used twice stays one."""
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # keeps the old one alive, so that its id is not used again
    for prefix, part in module.named_modules():
        for name, w in list(part.named_parameters(recurse=False)):
            if w.requires_grad:
                if id(w) not in made:
                    made[id(w)] = w, nn.Parameter(value(f"{prefix}.{name}" if prefix else name, w))
                setattr(part, name, made[id(w)][1])


def materialise_(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Makes the parameters that a module makes at its first forward pass, for features of a shape.

    Raises:
        ValueError: the module does not take such features.
    """
    modes = [(part, part.training) for part in module.modules()]
    zeros = torch.zeros(2, *shape)
    try:
        with torch.no_grad():
            module.eval()(zeros)
    except (Exception, SystemExit) as error:  # whatever the user's forward raises
        try:
            with torch.no_grad():
                module(zeros.long())
        except (Exception, SystemExit):
            raise refusal(f"take features of shape {[2, *shape]}", error) from error
    for part, training in modes:
        part.training = training


def _copied(module: nn.Module) -> nn.Module:
    """Returns a copy of a module, whose frozen parameters, which may be large, hold the same numbers, not copies.

    Raises:
        ValueError: it holds what cannot be copied.
    """
    frozen = [w for w in module.parameters() if not w.requires_grad and type(w) is nn.Parameter]
    try:
        return copy.deepcopy(module, {id(w): nn.Parameter(w.data, False) for w in frozen})
    except (Exception, SystemExit):  # of a lock, a file, a tensor that is computed, ...
        for name, part in reversed(list(module.named_modules())):  # what lies deepest first
            try:
                copy.deepcopy(part)
            except (Exception, SystemExit) as error:
                place = f"{type(part).__name__} at {name or 'the top'!r}"
                raise refusal("be a module that copy.deepcopy copies", error, place) from error
        raise


def _refuse_modules(module: nn.Module) -> None:
    """Refuses modules that a stack cannot hold, by name."""
    for name, part in module.named_modules():
        where = f"task.model must be a stateless computation, got {type(part).__name__} at {name or 'the top'!r}"
        if isinstance(part, torch.jit.ScriptModule):
            raise ValueError(f"{where}, which torch.jit has compiled; give the module that it was made of{REMEDY}")
        if getattr(part, "max_norm", None) is not None:
            raise ValueError(f"{where} with max_norm, which changes weights in forward; leave it None{REMEDY}")
    complex_ = [name for name, w in module.named_parameters() if w.requires_grad and w.is_complex()]
    if complex_:
        raise ValueError(
            f"task.model must have real parameters, got complex ones {complex_}; hold real [..., 2] and use "
            f"torch.view_as_complex in forward{REMEDY}"
        )
