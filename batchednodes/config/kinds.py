"""The one table of kinds: what may stand where.

A new built-in kind is its own file and one line here; users add theirs without a line, see `registry`.
"""

from batchednodes import data as sources
from batchednodes import models
from batchednodes import topology as graphs
from batchednodes.algorithms import (
    acid,
    ad_psgd,
    admm,
    all2all,
    all_reduce,
    async_diloco,
    atg,
    attacks,
    aug_dgm,
    compression,
    d2,
    d_psgd,
    decentlam,
    dfedavgm,
    dfedsam,
    diloco,
    divshare,
    el_local,
    el_oracle,
    exact_diffusion,
    extra,
    fedavg,
    fedopt,
    fedprox,
    gossip_sgd,
    gradient_tracking,
    k_gt,
    led,
    lt_admm,
    matcha,
    momentum_tracking,
    nids,
    noloco,
    optim,
    pens,
    proxskip,
    push_sum,
    quasi_global,
    r_fast,
    relay_sgd,
    scaffold,
    swarm_sgd,
    swift,
    wang_elia,
)
from batchednodes.config.hints import nearest
from batchednodes.config.own_metrics import PythonMetric
from batchednodes.config.reader import Reader
from batchednodes.config.registry import register_
from batchednodes.config.synonyms import SYNONYMS
from batchednodes.events import availability, clocks, merge, rounds, schemes, synchronous, token_accounts
from batchednodes.events.links import delay, loss
from batchednodes.models import adapters
from batchednodes.models.criterion import Criterion, FunctionLoss
from batchednodes.numerics import values
from batchednodes.numerics.values import shown

KINDS: dict[str, dict[str, type]] = {
    "network.topology": {
        "complete": graphs.Complete,
        "ring": graphs.Ring,
        "chain": graphs.Chain,
        "grid": graphs.Grid,
        "torus": graphs.Torus,
        "hypercube": graphs.Hypercube,
        "star": graphs.Star,
        "binary_tree": graphs.BinaryTree,
        "double_binary_tree": graphs.DoubleBinaryTree,
        "k_regular": graphs.KRegular,
        "erdos_renyi": graphs.ErdosRenyi,
        "watts_strogatz": graphs.WattsStrogatz,
        "barabasi_albert": graphs.BarabasiAlbert,
        "stochastic_block": graphs.StochasticBlock,
        "two_cliques": graphs.TwoCliques,
        "random_geometric": graphs.RandomGeometric,
        "exponential": graphs.Exponential,
        "one_peer_exponential": graphs.OnePeerExponential,
        "random_matching": graphs.RandomMatching,
        "random_peers": graphs.RandomPeers,
        "base_graph": graphs.BaseGraph,
        "karate": graphs.Karate,
        "davis": graphs.Davis,
        "networkx": graphs.NetworkX,
        "edges": graphs.Edges,
        "adjacency": graphs.Adjacency,
        "edge_list": graphs.EdgeList,
    },
    "network.weights": {
        "uniform": graphs.UniformWeights,
        "metropolis_hastings": graphs.MetropolisHastings,
        "max_degree": graphs.MaxDegree,
        "laplacian": graphs.Laplacian,
        "constant": graphs.ConstantWeights,
        "given": graphs.GivenWeights,
    },
    "update.clock": {
        "shifted_exponential": clocks.ShiftedExponential,
        "deterministic": clocks.Deterministic,
        "exponential": clocks.Exponential,
        "never": clocks.Never,
    },
    "gossip.clock": {"poisson": clocks.Poisson, "at_update": clocks.AtUpdate, "never": clocks.Never},
    "gossip.scheme": {
        "uniform": schemes.Uniform,
        "freshest": schemes.Freshest,
        "fixed_duration": schemes.FixedDuration,
        "age_aware": schemes.AgeAware,
    },
    "network.availability": {
        "always": availability.Always,
        "per_message": availability.PerMessage,
        "markov": availability.Markov,
        "diurnal": availability.Diurnal,
        "trace": availability.TraceAvailability,
    },
    "network.attack": {
        "none": attacks.NoAttack,
        "sign_flip": attacks.SignFlip,
        "noise": attacks.Noise,
        "label_flip": attacks.LabelFlip,
        "alie": attacks.Alie,
        "ipm": attacks.Ipm,
        "dissensus": attacks.Dissensus,
    },
    "gossip.delay": {
        "none": delay.Instant,
        "constant": delay.Constant,
        "uniform": delay.UniformDelay,
        "exponential": delay.ExponentialDelay,
        "lognormal": delay.LogNormalDelay,
        "bandwidth": delay.Bandwidth,
        "trace": delay.TraceDelay,
    },
    "gossip.loss": {"none": loss.NoLoss, "independent": loss.Independent, "bursts": loss.Bursts},
    "gossip.merge": {
        "fixed": merge.Fixed,
        "mean": merge.Mean,
        "age_weighted": merge.AgeWeighted,
        "staleness_weighted": merge.StalenessWeighted,
        "limited": merge.Limited,
        "sampled": merge.Sampled,
        "partitioned": merge.Partitioned,
        "clipped_gossip": merge.ClippedGossip,
        "trimmed_mean": merge.TrimmedMean,
        "median": merge.Median,
        "geometric_median": merge.GeometricMedian,
        "krum": merge.Krum,
    },
    "gossip.flow": {
        "none": token_accounts.Unlimited,
        "simple": token_accounts.Simple,
        "generalized": token_accounts.Generalized,
        "randomized": token_accounts.Randomized,
    },
    "gossip.compress": {
        "none": compression.Uncompressed,
        "top_k": compression.TopK,
        "random_k": compression.RandomK,
        "sign": compression.Sign,
        "qsgd": compression.QSGD,
        "low_rank": compression.LowRank,
        "float8": compression.Float8,
        "float16": compression.Float16,
    },
    "algorithm": {
        "gossip_sgd": gossip_sgd.GossipSGD,
        "push_sum": push_sum.PushSum,
        "gradient_tracking": gradient_tracking.GradientTracking,
        "ad_psgd": ad_psgd.ADPSGD,
        "d_psgd": d_psgd.DPSGD,
        "d2": d2.D2,
        "exact_diffusion": exact_diffusion.ExactDiffusion,
        "nids": nids.NIDS,
        "extra": extra.EXTRA,
        "wang_elia": wang_elia.WangElia,
        "aug_dgm": aug_dgm.AugDGM,
        "proxskip": proxskip.ProxSkip,
        "led": led.LED,
        "k_gt": k_gt.KGT,
        "quasi_global": quasi_global.QuasiGlobal,
        "acid": acid.ACiD,
        "swarm_sgd": swarm_sgd.SwarmSGD,
        "noloco": noloco.NoLoCo,
        "momentum_tracking": momentum_tracking.MomentumTracking,
        "decentlam": decentlam.DecentLaM,
        "dfedavgm": dfedavgm.DFedAvgM,
        "dfedsam": dfedsam.DFedSAM,
        "relay_sgd": relay_sgd.RelaySGD,
        "r_fast": r_fast.RFast,
        "swift": swift.Swift,
        "divshare": divshare.DivShare,
        "all2all": all2all.All2All,
        "admm": admm.ADMM,
        "lt_admm": lt_admm.LTADMM,
        "atg": atg.ATG,
        "all_reduce": all_reduce.AllReduce,
        "fedavg": fedavg.FedAvg,
        "fedprox": fedprox.FedProx,
        "scaffold": scaffold.Scaffold,
        "fedopt": fedopt.FedOpt,
        "diloco": diloco.DiLoCo,
        "async_diloco": async_diloco.AsyncDiLoCo,
        "matcha": matcha.Matcha,
        "el_oracle": el_oracle.ELOracle,
        "el_local": el_local.ELLocal,
        "pens": pens.PENS,
    },
    "local.steps": {"geometric": sources.Geometric},
    "local.optimizer": {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW},
    "local.schedule": {
        "constant": optim.Constant,
        "step": optim.Step,
        "milestones": optim.Milestones,
        "cosine": optim.Cosine,
        "inverse": optim.Inverse,
        "inverse_sqrt": optim.InverseSqrt,
    },
    "timing": {
        "continuous": rounds.Continuous,
        "rounds": rounds.Rounds,
        "synchronous": synchronous.Synchronous,
    },
    "task.data": {
        "linear_regression": sources.LinearRegression,
        "nonlinear_regression": sources.NonlinearRegression,
        "digits": sources.Digits,
        "sklearn": sources.Sklearn,
        "csv": sources.Csv,
        "parquet": sources.Parquet,
        "libsvm": sources.Libsvm,
        "image_folder": sources.ImageFolder,
        "huggingface": sources.HuggingFace,
        "npz": sources.Npz,
        "leaf": sources.Leaf,
        "heart_disease": sources.HeartDisease,
        "tcga_brca": sources.TcgaBrca,
        "quadratics": sources.Quadratics,
    },
    "task.partition": {
        "iid": sources.IID,
        "dirichlet": sources.Dirichlet,
        "dirichlet_per_class": sources.DirichletPerClass,
        "dirichlet_groups": sources.DirichletGroups,
        "shards": sources.LabelShards,
        "labels_per_node": sources.LabelsPerNode,
        "quantity_skew": sources.QuantitySkew,
        "quantity_power_law": sources.PowerLaw,
        "quantity_lognormal": sources.LogNormalSizes,
        "natural": sources.Natural,
    },
    "task.augment[]": {
        "crop": sources.Crop,
        "flip": sources.Flip,
        "cutout": sources.Cutout,
        "mixup": sources.Mixup,
    },
    "task.shift": {"rotation": sources.Rotation, "noise": sources.Noise},
    "task.model": {
        "linear": models.Linear,
        "noisy_linear": models.NoisyLinear,
        "mlp": models.MLP,
        "python": models.PythonModule,
    },
    "task.model.adapter": {"none": adapters.NoAdapter, "lora": adapters.LoRA},
    "run.metrics[]": {"python": PythonMetric},
    "task.loss": {"function": FunctionLoss},
    "distribution": {
        "lognormal": values.LogNormal,
        "uniform": values.Uniform,
        "exponential": values.Exponential,
        "choice": values.Choice,
    },
}
"""Section -> kind -> class: what may stand where. "distribution" may stand for any per-node quantity."""

OPEN: dict[str, type] = {"task.loss": Criterion, "run.metrics[]": PythonMetric}
"""Sections without built-in kinds -> what a class of the user's own derives from."""

CLOSED: dict[str, str] = {
    "timing": "a timing is how the engine makes events: laws of one's own go into update.clock, gossip.clock and "
    "gossip.scheme",
    "task.model.adapter": "a module with adapters of your own is what your function returns, with the rest frozen: "
    "requires_grad_(False)",
    "run.metrics[]": "a metric is named where it is measured, in run.metrics: {kind: python, target: ..., args: ...}",
}
"""Sections where no kind of the user's own can be registered, by `register` or an entry point -> why."""

READER = Reader(KINDS, SYNONYMS, OPEN, CLOSED)
"""Turns plain data into settings and back, with this table; tells what a wrong key may mean."""


def register(section: str, kind: str, cls: type) -> None:
    """Lets a class of one's own stand in a section under a name, from YAML and from Python, in this process.

    Settings that are written name the kind, so whoever reads them, `resume` too, must have registered it before;
    `kind: python`, and entry points of installed packages, need no such call.

    Example:
        >>> from dataclasses import dataclass
        >>> import batchednodes
        >>> import networkx
        >>> from batchednodes.topology import Topology, from_networkx
        >>> @dataclass(frozen=True)
        ... class Petersen(Topology):
        ...     def graph(self, n, seed):
        ...         return from_networkx(networkx.petersen_graph()).graph(n, seed)
        ...     def contacts(self, n):
        ...         return 30.0
        ...
        >>> batchednodes.register("network.topology", "petersen", Petersen)
        >>> batchednodes.load({"network": {"nodes": 10, "topology": {"kind": "petersen"}}}).network.topology
        Petersen()

    Args:
        section: full path, as "network.topology"; "distribution" is any per-node quantity.
        kind: name of the kind, as "petersen".
        cls: a frozen dataclass derived from what all kinds of the section derive from.

    Raises:
        ValueError: there is no such section, it takes no kinds of your own, the name is taken, or the class cannot
            stand there.
    """
    if section not in KINDS:
        choices = [name for name in KINDS if name not in CLOSED]
        raise ValueError(
            f"section must be one of {', '.join(choices)}, got {shown(section)}{nearest(section, choices)}"
        )
    if section in CLOSED:
        raise ValueError(f"section must be one that takes kinds of your own, got {section!r}; {CLOSED[section]}")
    register_(KINDS, section, READER.base(section), kind, cls)
