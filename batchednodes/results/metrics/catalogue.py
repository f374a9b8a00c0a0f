"""Catalogue: every metric of a run, once: its key, unit and meaning, and where it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["mean", "low", "high", "worst", "best", "average", "law", "middle", "tail"]
"""What a curve is in its panel: the mean over nodes, the ends of a band, the worst and best node, the average model,
an exact law, the median and the 99% quantile over pairs."""


@dataclass(frozen=True)
class Metric:
    """One measured quantity and every place that shows it."""

    key: str
    """Name in metrics.jsonl, summary.json and result.metrics."""
    unit: str
    """Its unit; "" for a number without dimension."""
    meaning: str
    """What it is, in one line."""
    tag: str | None = None
    """Curve in TensorBoard; None: none."""
    panel: str | None = None
    """Panel of `batchednodes plot`, see `PANELS`; one that is not there has the metric alone. None: it is not drawn."""
    roles: tuple[Role, ...] = ()
    """What it is in that panel."""
    column: str | None = None
    """Head of its column in `batchednodes compare`; None: it has none."""
    chart: str | None = None
    """Axis of its chart across a sweep in TensorBoard; None: it has none."""
    kept: Literal["row", "summary", "throughput"] = "row"
    """Where it stands: in each row of metrics.jsonl, in the final rows of summary.json only, or nowhere but there."""


METRICS = (
    Metric("time", "s", "simulated time of the mark", column="time [s]"),
    Metric("network", "", "number of the network in its batch"),
    Metric("seed", "", "seed of the network"),
    Metric("n", "nodes", "number of nodes of the network"),
    Metric("updates", "updates", "completed updates of all nodes", "run/updates"),
    Metric("gossips", "contacts", "contacts of all nodes", "run/contacts"),
    Metric(
        "loss_mean", "", "test loss, mean over nodes", "loss/node_mean", "loss", ("mean",), "loss, mean",
        "loss, mean node",
    ),
    Metric(
        "loss_max", "", "test loss of the worst node", "loss/node_worst", "loss", ("high", "worst"), "loss, worst",
        "loss, worst node",
    ),
    Metric(
        "accuracy_mean", "", "test accuracy, mean over nodes", "accuracy/node_mean", "accuracy", ("mean",),
        "accuracy, mean", "accuracy, mean node",
    ),
    Metric(
        "accuracy_min", "", "test accuracy of the worst node", "accuracy/node_worst", "accuracy", ("low", "worst"),
        "accuracy, worst", "accuracy, worst node",
    ),
    Metric(
        "loss_mean_model", "", "test loss of the average model", "loss/average_model", "loss", ("average",),
        "loss, average",
    ),
    Metric(
        "accuracy_mean_model", "", "test accuracy of the average model", "accuracy/average_model", "accuracy",
        ("average",), "accuracy, average",
    ),
    Metric(
        "consensus_distance", "", "root mean square distance of models from their mean", "models/consensus_distance",
        "consensus", ("mean",), "consensus", "consensus distance",
    ),
    Metric(
        "staleness_mean", "updates", "staleness, exact mean over the time since the mark before", None,
        "staleness", ("mean",),
    ),
    Metric(
        "staleness_average", "updates", "staleness, exact mean over the second half of the run", column="staleness",
        chart="staleness [updates]", kept="summary",
    ),
    Metric("staleness_average_half_width", "updates", "half-width of its 95% interval", kept="summary"),
    Metric("staleness_max", "updates", "largest staleness of any pair at the mark", "staleness/max"),
    Metric(
        "staleness_theory", "updates", "exact law of the mean of staleness", "staleness/exact_law", "staleness",
        ("law",), "law",
    ),
    Metric("loss_min", "", "test loss of the best node", "loss/node_best", "loss", ("low", "best")),
    Metric("loss_median", "", "test loss of the median node; of an even number, the lower of two"),
    Metric(
        "accuracy_max", "", "test accuracy of the best node", "accuracy/node_best", "accuracy", ("high", "best")
    ),
    Metric("staleness_now", "updates", "mean staleness over pairs at the mark", "staleness/mean"),
    Metric("staleness_integral", "updates s", "time integral of mean staleness since t = 0"),
    Metric(
        "staleness_median", "updates", "median of staleness over pairs at the mark", "staleness/median", "staleness",
        ("middle",),
    ),
    Metric("staleness_p90", "updates", "90% quantile of staleness over pairs at the mark", "staleness/p90"),
    Metric(
        "staleness_p99", "updates", "99% quantile of staleness over pairs at the mark", "staleness/p99", "staleness",
        ("tail",),
    ),
    Metric("gossip_rate_mean", "1/s", "contacts of a node in a second since t = 0, mean", "run/contact_rate_mean"),
    Metric("gossip_rate_max", "1/s", "contacts of a node in a second since t = 0, largest", "run/contact_rate_max"),
    Metric("gossip_rate_peak", "1/s", "largest rate at which any one node may ever transmit"),
    Metric("quarantined", "nodes", "nodes cut off because their loss or model is not finite", "run/quarantined"),
    Metric("model_norm_mean", "", "length of a model, mean over nodes", "models/norm_mean"),
    Metric("model_age_mean", "steps", "minibatch steps behind a model, mean over nodes", "models/age_mean"),
    Metric("nodes_present", "nodes", "nodes that have joined and not left", "run/nodes_present"),
    Metric("messages_sent", "messages", "messages sent since t = 0", "run/messages_sent"),
    Metric("messages_delivered", "messages", "messages that arrived", "run/messages_delivered"),
    Metric("messages_lost", "messages", "messages that got lost", "run/messages_lost"),
    Metric("messages_offline", "messages", "messages that found nobody", "run/messages_offline"),
    Metric("messages_in_flight", "messages", "messages under way at the mark", "run/messages_in_flight"),
    Metric("bytes_sent", "B", "bytes of all that nodes have sent since t = 0, and a server back", "run/bytes_sent"),
    Metric(
        "suboptimality", "", "of quadratics, mean of |A_i x - B_i|^2 over nodes at the average model, less its least",
        "models/suboptimality", "suboptimality", ("mean",), "suboptimality", "suboptimality",
    ),
    Metric(
        "distance_to_optimum", "", "of quadratics, root mean square distance of models from the optimum",
        "models/distance_to_optimum",
    ),
    Metric("accuracy_worst", "", "test accuracy, mean over the worst tenth of nodes", "accuracy/worst_tenth"),
    Metric("accuracy_std", "", "test accuracy, standard deviation over nodes", "accuracy/node_std"),
    Metric("accuracy_gini", "", "test accuracy, Gini coefficient over nodes: 0 where all are alike"),
    Metric("accuracy_jain", "", "test accuracy, Jain's index over nodes: 1 where all are alike"),
    Metric("perplexity_mean", "", "exp of the test cross-entropy of a node, mean over nodes", "loss/perplexity_mean"),
    Metric("perplexity_mean_model", "", "exp of the test cross-entropy of the average model"),
    Metric(
        "f1_mean", "", "macro F1 on the test set, mean over nodes (run.metrics: classes)", "accuracy/f1_mean",
        column="macro F1, mean",
    ),
    Metric(
        "f1_mean_model", "", "macro F1 of the average model (run.metrics: classes)", "accuracy/f1_average_model",
        column="macro F1, average",
    ),
    Metric(
        "accuracy_balanced_mean", "", "balanced test accuracy, the mean over labels, mean over nodes (run.metrics: "
        "classes)", "accuracy/balanced_mean",
    ),
    Metric(
        "accuracy_balanced_mean_model", "", "balanced test accuracy of the average model (run.metrics: classes)",
        "accuracy/balanced_average_model",
    ),
    Metric(
        "loss_own_mean", "", "loss of a node on its own test rows, mean over nodes (task.own_tests)",
        "own_tests/loss_mean",
    ),
    Metric(
        "loss_own_worst", "", "loss of a node on its own test rows, mean over the worst tenth of nodes",
        "own_tests/loss_worst_tenth",
    ),
    Metric(
        "accuracy_own_mean", "", "accuracy of a node on its own test rows, mean over nodes (task.own_tests)",
        "own_tests/accuracy_mean", "own", ("mean",), "own accuracy, mean", "accuracy on own test rows, mean node",
    ),
    Metric(
        "accuracy_own_worst", "", "accuracy of a node on its own test rows, mean over the worst tenth of nodes",
        "own_tests/accuracy_worst_tenth", column="own accuracy, worst 10%",
    ),
    Metric("accuracy_own_min", "", "the same of the worst node", "own_tests/accuracy_worst"),
    Metric("accuracy_own_std", "", "the same, standard deviation over nodes", "own_tests/accuracy_std"),
    Metric("accuracy_own_pooled", "", "the same, mean over own test rows of all nodes", "own_tests/accuracy_pooled"),
    Metric("accuracy_own_gini", "", "the same, Gini coefficient over nodes: 0 where all are alike"),
    Metric("accuracy_own_jain", "", "the same, Jain's index over nodes: 1 where all are alike"),
    Metric(
        "epsilon_mean", "", "privacy loss epsilon of a node at local.privacy.delta, mean over nodes",
        "privacy/epsilon_mean",
    ),
    Metric(
        "epsilon_max", "", "privacy loss epsilon of the node that has lost most", "privacy/epsilon_max",
    ),
    Metric(
        "events_per_second", "1/s", "events in a second of wall time since the mark before",
        "run/events_per_second", kept="throughput",
    ),
    Metric(
        "updates_per_second", "1/s", "updates in a second of wall time since the mark before",
        "run/updates_per_second", kept="throughput",
    ),
)  # fmt: skip
"""All of them; those of a row in the order of its keys."""

KEYS = tuple(metric.key for metric in METRICS if metric.kept == "row")
"""Keys of a row of metrics.jsonl, before those of users' metrics, the replica and swept settings."""

PANELS = {
    "loss": "test loss",
    "accuracy": "test accuracy",
    "own": "accuracy on own test rows",
    "consensus": "consensus distance",
    "suboptimality": "suboptimality",
    "staleness": "staleness [updates]",
}
"""Panels of `batchednodes plot` in their order, each with the label of its axis."""

SCALARS = {
    "accuracy over nodes": ("accuracy_mean", "accuracy_min", "accuracy_mean_model"),
    "loss over nodes": ("loss_mean", "loss_max", "loss_mean_model"),
    "staleness and its exact law": ("staleness_now", "staleness_theory"),
}
"""Custom scalars of TensorBoard: metrics whose curves belong into one chart."""

_RENAMED = {"there": "nodes_present"}
"""Keys that earlier versions wrote, and what they are called now."""


def renamed(row: Mapping[Any, Any]) -> dict[Any, Any]:
    """Returns a row with the keys of today, whichever version wrote it.

    Example:
        >>> from batchednodes.results.metrics.catalogue import renamed
        >>> renamed({"there": 10, "time": 1.0})
        {'nodes_present': 10, 'time': 1.0}
    """
    return {_RENAMED.get(key, key): value for key, value in row.items()}


def tags() -> dict[str, str]:
    """Returns the TensorBoard curve of each metric that has one.

    Example:
        >>> from batchednodes.results.metrics.catalogue import tags
        >>> tags()["gossip_rate_mean"]
        'run/contact_rate_mean'
    """
    return {metric.key: metric.tag for metric in METRICS if metric.tag is not None}


def roles(panel: str) -> dict[Role, str]:
    """Returns the key that has each role in a panel.

    Example:
        >>> from batchednodes.results.metrics.catalogue import roles
        >>> sorted(roles("staleness").items())
        [('law', 'staleness_theory'), ('mean', 'staleness_mean'), ('middle', 'staleness_median'), ('tail', ...
    """
    return {role: metric.key for metric in METRICS if metric.panel == panel for role in metric.roles}


def shown() -> tuple[str, ...]:
    """Returns the keys that tables and figures show."""
    return tuple(metric.key for metric in METRICS if metric.panel or metric.column)
