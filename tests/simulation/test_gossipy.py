"""Rounds against a plain simulation with one model object for each node, in the manner of gossipy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from batchednodes import train

CONFIGS = Path(__file__).parents[2] / "configs" / "gossipy"
NODES, STEPS, ROUNDS, SEEDS = 24, 10, 12, 16
FEATURES, EXAMPLES, BATCH = 6, 20, 16


def table(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Writes a task of two classes as csv; returns its features and labels."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, NODES * EXAMPLES * 10 // 9 + 1)
    features = draw.standard_normal((labels.size, FEATURES)) + 0.7 * (labels[:, None] - 0.5)
    path.write_text("\n".join(",".join(map(str, [*row, label])) for row, label in zip(features, labels, strict=True)))
    return (features - features.mean(0)) / features.std(0), labels


class Node:
    """A model, its optimizer, its age and its data."""

    def __init__(self, model: nn.Linear, features: torch.Tensor, labels: torch.Tensor) -> None:
        self.model, self.features, self.labels, self.age = model, features, labels, 0
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.001)

    def train(self) -> None:
        order = torch.randperm(len(self.labels))
        for part in order.split(BATCH):
            self.optimizer.zero_grad()
            outputs = torch.sigmoid(self.model(self.features[part]))
            nn.functional.cross_entropy(outputs, self.labels[part]).backward()
            self.optimizer.step()
            self.age += 1

    def receive(self, weights: list[torch.Tensor], age: int) -> None:
        with torch.no_grad():
            for own, other in zip(self.model.parameters(), weights, strict=True):
                own.copy_((own + other) / 2)
        self.age = max(self.age, age)
        self.train()

    def snapshot(self) -> tuple[list[torch.Tensor], int]:
        return [parameter.detach().clone() for parameter in self.model.parameters()], self.age


def plain(seed: int, features: np.ndarray, labels: np.ndarray, exchange: str, delay: int, online: float, loss: float):
    """Returns norm, consensus sum and age at the end of a run on the complete graph; steps as in gossipy's `start`."""
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    first = nn.Linear(FEATURES, 2)
    rows = draw.permutation(len(labels))[: NODES * EXAMPLES].reshape(NODES, EXAMPLES)
    nodes = []
    for mine in rows:
        model = nn.Linear(FEATURES, 2)
        model.load_state_dict(first.state_dict())
        nodes.append(Node(model, torch.tensor(features[mine], dtype=torch.float32), torch.tensor(labels[mine])))
        nodes[-1].train()
    phases = draw.integers(0, STEPS, NODES)
    queue, replies = {}, {}
    for t in range(STEPS * ROUNDS):
        if t % STEPS == 0:
            order = draw.permutation(NODES)
        for i in order[phases[order] == t % STEPS]:
            j = draw.choice(np.delete(np.arange(NODES), i))
            if draw.random() >= loss:
                what = None if exchange == "pull" else nodes[i].snapshot()
                queue.setdefault(t + draw.integers(0, delay + 1), []).append((i, j, what))
        on = draw.random(NODES) <= online
        for i, j, what in queue.pop(t, []):
            if not on[j]:
                continue
            if what is not None:
                nodes[j].receive(*what)
            if exchange != "push" and draw.random() >= loss:
                replies.setdefault(t + draw.integers(0, delay + 1), []).append((i, nodes[j].snapshot()))
        for i, what in replies.pop(t, []):
            if on[i]:
                nodes[i].receive(*what)
    x = torch.stack([nn.utils.parameters_to_vector(node.model.parameters()) for node in nodes]).detach()
    spread = (x - x.mean(0)).square().sum(1).mean()
    return float(x.norm(dim=1).mean()), float(spread), float(np.mean([node.age for node in nodes]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "exchange", "delay", "online", "loss"),
    [("push", "push", 0, 1.0, 0.0), ("push-delays", "push", 3, 0.5, 0.1), ("pull", "pull", 0, 1.0, 0.0),
     ("push-pull", "push_pull", 0, 1.0, 0.0)],
)  # fmt: skip
def test_shortened_runs_agree_with_one_object_a_node(name, exchange, delay, online, loss, tmp_path):
    """Means over 16 seeds: 4.5 standard errors apart by chance once in 10,000 times, for each of twelve numbers."""
    features, labels = table(tmp_path / "table.csv")
    expected = np.array([plain(seed, features, labels, exchange, delay, online, loss) for seed in range(SEEDS)])
    options = [f"gossip.delay.high={delay}", f"network.availability.probability={online}"] if delay else []
    result = train(
        CONFIGS / f"{name}.yaml",
        f"task.data.path={tmp_path / 'table.csv'}",
        "network.topology={kind: complete}",
        f"network.nodes={NODES}",
        f"timing.steps={STEPS}",
        f"local.batch_size={BATCH}",
        f"run.until={STEPS * ROUNDS}",
        f"run.mark_every={STEPS * ROUNDS}",
        f"replicas={SEEDS}",
        *options,
    )
    rows = result.metrics[result.metrics.time == STEPS * ROUNDS]
    found = np.stack([rows.model_norm_mean, rows.consensus_distance**2, rows.model_age_mean], 1)
    error = np.sqrt((expected.var(0, ddof=1) + found.var(0, ddof=1)) / SEEDS)
    assert (np.abs(found.mean(0) - expected.mean(0)) <= 4.5 * error).all(), (found.mean(0), expected.mean(0), error)
    assert (error < 0.15 * expected.mean(0)).all()  # so that a training too many shows
