"""Every setting, as frozen dataclasses, each of which checks itself.

Notation: n nodes.
"""

import copy
import re
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_type_hints

from batchednodes import data as sources
from batchednodes import models
from batchednodes import topology as graphs
from batchednodes.algorithms.attacks import Attack, NoAttack
from batchednodes.algorithms.base import Algorithm
from batchednodes.algorithms.compression import Compressor, Uncompressed
from batchednodes.algorithms.compression.feedback import compressed
from batchednodes.algorithms.gossip_sgd import GossipSGD
from batchednodes.config.algorithm import check_algorithm
from batchednodes.config.checks import check_nodes, check_together
from batchednodes.config.kinds import READER
from batchednodes.config.local import Local
from batchednodes.config.messages import check_messages
from batchednodes.config.rules import given
from batchednodes.config.run import Run, Staleness
from batchednodes.events import clocks, schemes
from batchednodes.events.availability import Always, Availability, Churn
from batchednodes.events.links.delay import Delay, Instant
from batchednodes.events.links.loss import Loss, NoLoss
from batchednodes.events.merge import Fixed, Merge
from batchednodes.events.rounds import Continuous, Timing
from batchednodes.events.synchronous import Synchronous
from batchednodes.events.token_accounts import Flow, Unlimited
from batchednodes.models.criterion import Criterion
from batchednodes.numerics.values import PerNode, count, shown


@dataclass(frozen=True)
class Network:
    """The nodes, and who may contact whom."""

    nodes: int = 100
    """Number of nodes n; at least 1, at most 100 million."""

    topology: graphs.Topology = graphs.Complete()
    """Whom a node may contact."""

    weights: graphs.Weights = graphs.UniformWeights()
    """With which probability a contact of a node is with each of them; what is left to 1 makes no contact."""

    availability: Availability = Always()
    """When nodes are on: those that are off send nothing, and what comes is gone."""

    churn: Churn = Churn()
    """Nodes that come late, or leave for good."""

    attack: Attack = NoAttack()
    """Nodes that do not follow the protocol; loss, accuracy and consensus are of the others."""

    silent: tuple[int, ...] = ()
    """Numbers of nodes from whom nothing comes, to see what did: they train, hear others and make contacts as they
    would, and all clocks, draws and links are the same."""

    def __post_init__(self) -> None:
        count(self.nodes, 1, "nodes", high=10**8)
        if any(not 0 <= i < self.nodes for i in self.silent) or len({*self.silent}) < len(self.silent):
            rule = f"different numbers of nodes, from 0 to {self.nodes - 1}"
            raise ValueError(f"silent must be {rule}, got {shown([*self.silent])}")


@dataclass(frozen=True)
class Update:
    """Local training: when it completes, and from which model it starts."""

    clock: clocks.Clock = clocks.ShiftedExponential(delay=0.5, rate=2.0)
    """Time that one update takes."""

    applies: Literal["at_completion", "delta"] = "at_completion"
    """Start of an update: `at_completion` starts from the model at the instant of completion; `delta` starts from the
    model that the node had when it began to compute, and adds the difference at completion (stale gradients)."""

    while_off: Literal["continue", "pause"] = "continue"
    """Whether a node that is off, see `network.availability`, goes on computing."""


@dataclass(frozen=True)
class Gossip:
    """Mixing: when nodes transmit, and what the receiver does."""

    clock: clocks.Clock = clocks.Poisson(rate="log(n)")
    """When a node contacts a random peer, while its scheme lets it: its gossip capacity."""

    scheme: schemes.Scheme = schemes.Uniform()
    """Which nodes may transmit, when."""

    exchange: Literal["push", "pull", "push_pull", "meet"] = "push"
    """Direction: `push` changes the peer's model, `pull` the caller's, `meet` both at one instant; `push_pull`, both
    too, by a model that asks for another."""

    reply: Literal["after", "before"] = "after"
    """Which model answers a `push_pull`: that `after` the one which came has been merged, or the one `before`."""

    delay: Delay = Instant()
    """How long a message is under way; it brings the model that its sender had when it was sent."""

    fifo: bool = False
    """Whether messages from one node to another arrive in the order in which they were sent."""

    loss: Loss = NoLoss()
    """Which messages never arrive."""

    merge: Merge = Fixed()
    """How much a model received counts; or, in rounds, what a node makes of its whole neighbourhood."""

    on_receipt: Literal["merge", "merge_update", "update_merge", "update"] = "merge"
    """What a node does with a model that comes: it merges it; then trains, too (merge_update); trains its own and that
    one, then merges (update_merge); trains that one, and takes it in place of its own (update)."""

    flow: Flow = Unlimited()
    """Token accounts, which say when a node sends besides its own contacts, and when it saves these."""

    compress: Compressor = Uncompressed()
    """What arrives of a message that is made smaller, and what makes up for the rest; of algorithms that mix their
    models and nothing else."""

    weight: PerNode = 0.5
    """Weight w of the other's model in x <- (1 - w) x + w x_other [dimensionless]; in [0, 1]; that of the node which
    made the contact counts."""

    personal: tuple[str, ...] | dict[str, Any] = ()
    """Parameters that stay at their node, and are never sent or mixed: patterns of their names, as "head.*", where * is
    any text; one that begins with ! names parameters that are mixed all the same, and the last that fits decides. Or a
    mapping from each pattern to `all`, or to the nodes where it holds: a parameter is mixed in a contact of two nodes
    that both mix it."""


@dataclass(frozen=True)
class Task:
    """What is learned: data, their split over the nodes, model, loss."""

    data: sources.Source = sources.LinearRegression()
    """Samples to train on and to test with."""

    partition: sources.Partition | None = None
    """Who owns which sample; null: the data's own node array where it has one, else iid."""

    shift: sources.Shift | None = None
    """How the features of a node differ from those of others; null: not at all."""

    augment: tuple[sources.Augmentation, ...] = ()
    """What is changed at random about the examples of each minibatch, one after the other; of test data, nothing."""

    model: models.Model = models.Linear()
    """The model of each node."""

    loss: Literal["auto", "cross_entropy", "mse"] | Criterion = "auto"
    """What training minimises; `auto` is cross_entropy for labels, the mean over all tokens where each has one, and
    mse (mean squared error) for real targets; or a section of kind python: a loss of your own."""

    own_tests: float | Literal["none", "dealt"] = "none"
    """Test rows of the nodes' own, on which each is scored besides: `dealt`, the test rows of the data, each to one
    node, with the shares of labels of its training rows, as it sees them; or a share of its own rows, held out
    [dimensionless], between 0 and 1, both excluded."""

    def __post_init__(self) -> None:
        """Lets models of quadratic losses be vectors that begin at 0, unless it is said how they begin."""
        if isinstance(self.own_tests, float) and not 0 < self.own_tests < 1:
            rule = "own_tests must be none, dealt, or a share between 0 and 1, both excluded [dimensionless]"
            raise ValueError(f"{rule}, got {shown(self.own_tests)}; 0.2 holds out a fifth of each node's rows")
        if not self.data.is_quadratic():
            if isinstance(self.model, models.NoisyLinear):
                raise ValueError("model.kind must be another than noisy_linear unless data.kind=quadratics; use linear")
            return
        for name in ("partition", "shift", "augment", "loss", "own_tests"):
            if given(self, name):
                raise ValueError(f"{name} must be left out with data.kind=quadratics, which says it; leave it out")
        model, noise = self.model, self.data.gradient_noise()
        if model == models.Linear():
            model = models.NoisyLinear()
        elif isinstance(model, models.Linear) and not model.bias and model.output == "identity":
            model = models.NoisyLinear(init=model.init)
        if not isinstance(model, models.NoisyLinear):
            rule = "model must be left out, or be {kind: linear, bias: false}, with data.kind=quadratics"
            raise ValueError(f"{rule}, whose models are vectors x, got {shown(self.model)}")
        made = replace(model, noise=noise) if noise else models.Linear(bias=False, init=model.init)
        object.__setattr__(self, "model", made)


@dataclass(frozen=True)
class Config:
    """Everything about a run."""

    name: str = "run"
    """Name of the run, and of its folder; letters, digits, spaces and . + = , - _, at most 100 of them."""

    seed: int = 0
    """Seed of every random draw; in [0, 2^63)."""

    device: str = "auto"
    """Where to compute: auto (cuda where there is one), cpu, cuda, or cuda:N."""

    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Numbers that models are made of."""

    executor: Literal["batched", "serial"] = "batched"
    """`batched` runs waves of events; `serial` one event at a time: slow, and the meaning of "correct"."""

    network: Network = Network()
    """The nodes, and who may contact whom."""

    update: Update = Update()
    """Local training: when it completes, and from which model it starts."""

    gossip: Gossip = Gossip()
    """Mixing: when nodes transmit, and what the receiver does."""

    timing: Timing = Continuous()
    """Whether nodes act in continuous time or in rounds of steps."""

    algorithm: Algorithm = GossipSGD()
    """What an update does to a model, and a contact to two; one file a paper."""

    local: Local = Local()
    """Stochastic gradient descent inside one update."""

    task: Task = Task()
    """What is learned."""

    run: Run = Run()
    """How long, and how often the run is observed."""

    staleness: Staleness = Staleness()
    """Which nodes' updates are followed through the network."""

    sweep: dict[str, Any] = field(default_factory=dict)
    """Settings and the values to run them with, key: [value, ...]; all networks run in one batch."""

    sweep_mode: Literal["product", "zip"] = "product"
    """How the lists of a sweep are combined: `product`, each with each; `zip`, the first with the first, and so on."""

    replicas: int = 1
    """Networks of each combination, with seeds seed, seed + 1, ...; at least 1."""

    def __post_init__(self) -> None:
        """Checks every type, then what concerns several settings, with n and seed known."""
        if self.task.data.is_quadratic() and self.local.batch_size != "all":
            for name in ("batch_size", "epochs", "sampling"):
                if given(self.local, name):
                    rule = f"local.{name} must be left out with task.data.kind=quadratics, whose gradients are full"
                    raise ValueError(f"{rule}, got {shown(getattr(self.local, name))}")
            object.__setattr__(self, "local", replace(self.local, batch_size="all"))
        hints = get_type_hints(Config)
        for one in fields(self):
            READER.read(READER.plain(getattr(self, one.name), one.name), hints[one.name], one.name, one)
        if not re.fullmatch(r"\w[\w .+=,-]{0,99}", self.name):
            rule = "1 to 100 letters, digits, spaces or . + = , - _, the first a letter or digit"
            raise ValueError(f"name must be {rule}, got {shown(self.name)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2^63), got {self.seed}")
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", self.device):
            raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {shown(self.device)}")
        count(self.replicas, 1, "replicas", high=100_000)
        if self.sweep:  # what fits together is the matter of its networks, whose settings differ from these
            return
        check_together(self)
        check_messages(self)
        check_algorithm(self)
        try:
            check_nodes(self)
        except ValueError as error:
            raise READER.located(self, error) from None

    @property
    def method(self) -> Algorithm:
        """The algorithm as it runs, its messages compressed by `gossip.compress`."""
        return compressed(self.algorithm, self.gossip.compress, isinstance(self.timing, Synchronous))


def reseeded(config: Config, seed: int) -> Config:
    """Returns the same settings, which are not checked again, with another seed, 0 <= seed < 2^63."""
    if seed >= 2**63:
        raise ValueError(f"replicas must leave seeds below 2^63, got {seed} for the last; lower seed")
    return _with(config, seed=seed)


def unswept(config: Config) -> Config:
    """Returns the same settings, which are not checked again, of one network, nothing of which is swept."""
    return _with(config, sweep={}, replicas=1)


def _with(config: Config, **settings: Any) -> Config:
    made = copy.copy(config)
    for name, value in settings.items():
        object.__setattr__(made, name, value)
    return made
