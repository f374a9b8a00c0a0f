r"""The interface of algorithms: one paper, one file, one short class.

An algorithm says what it keeps for each node (`fields`), what the completion of an update does to a row (`update_`),
and how rows are mixed. It sees its own rows only, and numbers that have addresses, so that a wave of rows gives what
one row after the other does:

    @dataclass(frozen=True)
    class Lookahead(Algorithm):
        fields = {"slow": Field(start="model")}

        def update_(self, r: Rows, k: Context) -> None:
            fast = k.descend(r["x"])
            r["slow"] = r["slow"] + (fast - r["slow"]) / 2
            r["x"] = r["slow"]

Mixing is linear by default: of the fields that `emits` names, a contact makes (1 - w) own + w other, and a round W
times all rows. The engine then keeps these fields side by side, so that one product mixes them all. What is not linear
overrides `emit_`, `absorb_` and, for contacts, `combine`, for rounds `gather`, or `asks` where rows choose whom they
hear. In a contact a field that lives on edges is the row of the other node, [w, width]; in an update or a round it is
those of all neighbours, [w, d, width]. What a round emits under its name goes to each of them. What is emitted under
the name of a field in an inbox is added up there, until the next update has seen it.

Notation: w rows, p parameters of a model, x models [w, p], i the node of a row, eta its step size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from batchednodes.algorithms.fields import Field
from batchednodes.topology import RoundLaw, RoundWeights

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from batchednodes.topology import Graph
else:
    Tensor = Any  # so that settings are read without PyTorch

Rows = dict[str, Any]
"""Tensors of some rows by name: "x" [w, p], and each field [w, width]. A method replaces entries by new tensors; it
writes into none."""

Step = Callable[[Any, Callable[[Any], Any]], Any]
"""Maps models and the gradient of a minibatch, as a function of models, to models."""

Law = Callable[[Mapping[str, Any]], Any]
"""Maps all rows of one network, those under way included, to numbers that no mixing may change."""


_MIXES = ("emit_", "combine", "gather", "asks", "absorb_", "flow_")
"""Methods of an algorithm that make its mixing more than a product with W."""


class Context(ABC):
    """What a method may know of its rows besides their fields: a row of numbers for each of them.

    `count`, `steps`, `kept`, `grad`, `descend` and `descend_by` are for updates only, `neighbours` also for rounds,
    `others`, `weights` and `round` for rounds only.
    """

    @property
    @abstractmethod
    def lr(self) -> Tensor:
        """Step size eta of this update [w, 1]; dimensionless."""

    @property
    @abstractmethod
    def time(self) -> Tensor:
        """Simulated time of the event [w, 1]; s."""

    @property
    @abstractmethod
    def elapsed(self) -> Tensor:
        """Time since the row's last event that wrote it [w, 1]; s; only of algorithms with `elapses`."""

    @abstractmethod
    def constant(self, name: str) -> Tensor:
        """Returns a number that `constants` gives, that of the row's network [w, 1]."""

    @property
    @abstractmethod
    def count(self) -> Tensor:
        """Updates of the node before this one [w, 1]."""

    @property
    @abstractmethod
    def steps(self) -> Tensor:
        """Minibatch steps that `descend` makes [w, 1]."""

    @property
    @abstractmethod
    def degree(self) -> Tensor:
        """How many nodes the node may contact [w, 1]."""

    @property
    @abstractmethod
    def node(self) -> Tensor:
        """Number of the node in its network [w, 1]."""

    @property
    @abstractmethod
    def size(self) -> Tensor:
        """How many nodes its network has [w, 1]."""

    @property
    @abstractmethod
    def owned(self) -> Tensor:
        """How many examples the node owns [w, 1]."""

    @property
    @abstractmethod
    def neighbours(self) -> Tensor:
        """Which entries of a field on edges [w, d, width] are of a neighbour, bool [w, d]."""

    @property
    @abstractmethod
    def others(self) -> Tensor:
        """Of these entries the number of each neighbour in the network [w, d]; in rounds only."""

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """Of these entries the weight of each neighbour in W [w, d]; dimensionless.

        Known to algorithms with fields that live on edges: in rounds, and in updates where contacts are with all
        neighbours.
        """

    @property
    @abstractmethod
    def round(self) -> int:
        """Number of the round, the same for all rows: 0, 1, ..."""

    @property
    @abstractmethod
    def kept(self) -> tuple[str, ...]:
        """Names of the fields that `descend` keeps: a momentum buffer "v", or those of `local.optimizer`."""

    @abstractmethod
    def grad(self, x: Tensor) -> Tensor:
        """Returns the gradient at x [w, p] of the mean loss of the update's minibatches, with weight decay."""

    @abstractmethod
    def descend(self, x: Tensor) -> Tensor:
        """Returns what local SGD of `local` makes of x [w, p], by the update's minibatches."""

    @abstractmethod
    def descend_by(self, x: Tensor, step: Step) -> Tensor:
        """Returns what the update's minibatches make of x [w, p], one after the other, by steps of the algorithm's own.

        Args:
            x: models.
            step: maps models and a function, which returns the gradient at any models of one minibatch each, as `grad`
                does, to the models after the step.
        """

    @abstractmethod
    def loss(self, x: Tensor) -> Tensor:
        """Returns the mean loss [w, 1] of models x [w, p], in evaluation mode, over all examples that the node owns."""

    @abstractmethod
    def uniform(self, stream: int, size: int) -> Tensor:
        """Returns numbers in (0, 1) [w, size], by the address (seed, stream, node, event)."""

    @abstractmethod
    def common(self, stream: int, size: int) -> Tensor:
        """Returns numbers in (0, 1) [w, size] that all rows of a network share at a time, by (seed, stream, time)."""


@dataclass(frozen=True)
class Algorithm(ABC):  # noqa: B024  (every method has a default: that of gossip averaging)
    """What events do to the rows of nodes; a frozen dataclass, whose fields are its settings.

    Example:
        >>> from dataclasses import dataclass
        >>> from batchednodes.algorithms.base import Algorithm
        >>> @dataclass(frozen=True)
        ... class Halved(Algorithm):
        ...     def update_(self, r, k):
        ...         r["x"] = r["x"] - k.lr * k.grad(r["x"]) / 2
        ...
        >>> Halved.linear(), Halved().declared()  # pushes mix the models, and a node keeps nothing else
        (True, {})
    """

    fields: ClassVar[dict[str, Field]] = {}
    """What each node keeps besides its model, by name."""
    emits: ClassVar[tuple[str, ...]] = ("x",)
    """What is mixed, and what a message brings: "x" and names of fields, or of what `emit_` returns."""
    mixes_after: ClassVar[tuple[str, ...]] = ()
    """What a round mixes by W in a second exchange, after `absorb_`: "x", and names of fields on nodes; rounds only."""
    mixing: ClassVar[Literal["row", "double", "column"]] = "row"
    """What W must keep: row, nothing but means; double, the sum over nodes (meetings, doubly stochastic rounds);
    column, the mass: one-way pushes that take from the sender what they bring."""
    contact: ClassVar[Literal["any", "at_update", "after_update", "to_all"]] = "any"
    """Whether contacts must be made at completions of updates, `gossip.clock: {kind: at_update}`; or must be meetings
    right after these, `order: after`; or after them, with all neighbours, `order: after, peers: all`."""
    timing: ClassVar[tuple[str, ...]] = ("events", "rounds")
    """Where it is sound: at single contacts, in synchronous rounds."""
    graph: ClassVar[Literal["any", "tree", "two_trees", "star"]] = "any"
    """Whether nodes must be connected by edges without a cycle, as those of a tree; by the two trees of kind
    double_binary_tree; or each with node 0, and no other, which then makes no contacts: it answers."""
    least_eigenvalue: ClassVar[float] = -1.0
    """Least eigenvalue that W may have in rounds, where it is symmetric and does not change; -1.0: any."""
    descends: ClassVar[bool] = True
    """Whether updates are local SGD as it is set; else they make their own steps, for which momentum and the optimizer
    have no meaning."""
    writes_sender: ClassVar[bool] = False
    """Whether `emit_` changes the rows it is given: a push then occupies both rows."""
    weighs: ClassVar[bool] = True
    """Whether contacts have weights, those of `gossip.weight` and `gossip.merge`; else these mean nothing."""
    elapses: ClassVar[bool] = False
    """Whether methods ask for `Context.elapsed`."""
    spares: ClassVar[bool] = False
    """Whether mixing that is no product with W may leave some entries of x, and of all fields as wide, as they were."""
    averages: ClassVar[bool] = False
    """Whether updates are local SGD and mixing a mean, though methods are its own: models may keep statistics."""
    laws: ClassVar[dict[str, Law]] = {}
    """What no mixing may change, by name."""

    def update_(self, r: Rows, k: Context) -> None:
        """Replaces what the completion of an update changes."""
        r["x"] = k.descend(r["x"])

    def flow_(self, r: Rows, k: Context) -> None:  # noqa: B027  (nothing flows by default)
        """Replaces what time alone has changed since the row's last event; of algorithms with `elapses`.

        Both rows of a contact, the row of an update, and rows that are scored flow first, to the instant of the event.
        """

    def constants(self, graph: "Graph | None", rate: "np.ndarray") -> Mapping[str, float]:
        """Returns numbers that follow from a network, for `Context.constant`.

        Args:
            graph: whom each node may contact, all alike; None: everyone.
            rate: contacts that each node makes [1/s].
        """
        return {}

    def emit_(self, r: Rows, k: Context) -> Rows:
        """Returns what rows give to a mixing; may replace fields where `writes_sender`."""
        return {name: r[name] for name in self.emits}

    def combine(self, own: Rows, other: Rows, w: Tensor) -> Rows:
        """Returns what a contact makes of the emissions of both sides; rounds do not ask it.

        Args:
            own: that of the row which receives.
            other: that of the row which sends.
            w: weight of the other [w, 1]; dimensionless.
        """
        return {name: (1 - w) * own[name] + w * other[name] for name in own}

    def gather(self, own: Rows, others: Rows, w: Tensor, here: Tensor) -> Rows:
        """Returns what a round makes of the emissions of whole neighbourhoods, if that is not W times them.

        Args:
            own: those of the rows that receive [w, width].
            others: those of all who send to each [w, d, width].
            w: weights of these in W [w, d], 0 where there is nobody; dimensionless.
            here: which of the d places are taken, bool [w, d].
        """
        left, each = 1 - w.sum(1, keepdim=True), w.unsqueeze(2)
        return {name: left * own[name] + (each * others[name]).sum(1) for name in own}

    def asks(self, r: Rows, k: Context) -> Any:  # noqa: B027  (nodes hear whom W says by default)
        """Returns whom rows ask in a round for what these emit, places among `neighbours` [w, s]; -1: nobody.

        It may depend on what is kept on edges, which an algorithm that asks has. `absorb_` is then given, in place of W
        times emissions, those of all who are asked [w, s, width], a row's own where that is nobody, and the places
        themselves under "asked".
        """

    def absorb_(self, r: Rows, mixed: Rows, k: Context) -> None:
        """Replaces what a mixing changes, given what it made of emissions."""
        r.update(mixed)

    def model(self, r: Rows) -> Any:
        """Returns the models [w, p] that are scored."""
        return r["x"]

    def payload(self, p: int, item: int) -> int:
        """Returns the bytes of what a contact sends in one direction, for models of p parameters of some bytes each."""
        sent = self.emits + self.mixes_after
        return sum(self.fields[name].size(p, item) if name in self.fields else p * item for name in sent)

    def gradients(self) -> int:
        """Returns how many gradients an update computes of each of its minibatches."""
        return 1

    def round_law(self, weights: RoundWeights, seed: int) -> RoundLaw:
        """Returns by what matrices rounds mix, and who takes part.

        Args:
            weights: those of `network.weights`; what an algorithm returns besides takes their place.
            seed: of the network.
        """
        return weights

    @classmethod
    def has_own_rounds(cls) -> bool:
        """Returns whether rounds mix by matrices of the algorithm's own, not by `network.weights`."""
        return cls.round_law is not Algorithm.round_law

    @classmethod
    def linear(cls) -> bool:
        """Returns whether mixing is nothing but W times the emitted fields, which can lie side by side."""
        return not cls.mixes_after and all(getattr(cls, name) is getattr(Algorithm, name) for name in _MIXES)

    @classmethod
    def asks_some(cls) -> bool:
        """Returns whether nodes choose whom they hear in a round."""
        return cls.asks is not Algorithm.asks

    @classmethod
    def flows(cls) -> bool:
        """Returns whether rows change with time between events."""
        return cls.elapses and cls.flow_ is not Algorithm.flow_

    @classmethod
    def living(cls, where: str) -> tuple[str, ...]:
        """Returns the names of the fields that live on a "node", an "edge" or in an "inbox"."""
        return tuple(name for name, one in cls.fields.items() if one.lives == where)

    @classmethod
    def occupies_sender(cls) -> bool:
        """Returns whether a push changes its sender, too."""
        return cls.mixing == "column" or cls.writes_sender

    def shape(self) -> Literal["any", "tree", "two_trees", "star"]:
        """Returns what graph it is for: `graph`, unless its settings say more."""
        return type(self).graph

    def plain(self) -> bool:
        """Returns whether an update is local SGD, and nothing else: then rows are trained where they lie."""
        return type(self).update_ is Algorithm.update_

    def declared(self) -> dict[str, Field]:
        """Returns the fields, those that are mixed linearly marked so."""
        cls = type(self)
        own = dict(cls.fields)
        if cls.elapses:
            own["last_event"] = Field(width=1, dtype="float64")
        if not cls.linear():  # what `emit_` makes of a model under way may need all of its row
            return {name: replace(one, travels=one.lives == "node") for name, one in own.items()}
        return {name: one.mixing() if name in cls.emits else one for name, one in own.items()}
