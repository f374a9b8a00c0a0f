"""Running statistics, of layers and of modules of one's own: as PyTorch's on one node, batched equals serial."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from batchednodes import load, train
from batchednodes.models.stacked import Stack
from batchednodes.simulation.build import assembly
from batchednodes.simulation.engine import Batched, Unobserved
from batchednodes.simulation.planning import plan

BASE = {
    "task": {"data": {"kind": "digits"}, "partition": {"kind": "dirichlet", "alpha": 0.5}},
    "local": {"batch_size": 8, "lr": 0.05},
    "run": {"until": 2},
    "dtype": "float64",
}


class Residual(nn.Module):
    """A block of a ResNet, with a shortcut and operations in place."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return self.relu(out)


def resnet() -> nn.Module:
    """Returns a ResNet of one block for 8x8 images with 10 labels."""
    torch.manual_seed(0)
    stem = (nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 2, 3, 1, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(inplace=True))
    return nn.Sequential(*stem, Residual(2, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


class Centred(nn.Module):
    """Two layers with a running mean of the hidden one between them, and a count of minibatches."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head, self.way = nn.Linear(64, 6), nn.Linear(6, 10), way
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("scale", torch.full((6,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        if self.training and self.way == "in place":
            with torch.no_grad():
                self.mean.mul_(0.9).add_(hidden.mean(0), alpha=0.1)
                self.seen += 1
        elif self.training:
            self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
            self.seen = self.seen + 1
        return self.head(torch.tanh(self.scale * (hidden - self.mean)))


FEDBN = 'gossip.personal=["2.*", "*bn*", "*shortcut.1*"]'
ROUNDS = "timing={kind: synchronous}"
WAYS = {
    "mixed": ("local.momentum=0.9", "local.steps=2", "local.weight_decay=0.1"),
    "local": ('gossip.personal=["*running*"]', "gossip.exchange=meet", "local.optimizer={kind: adam}", "local.clip=1"),
    "mixed, rounds": (ROUNDS, "local.proximal=0.5", "local.steps=2", "local.clip=0.5"),
    "local, rounds": (ROUNDS, FEDBN, "algorithm.kind=fedavg"),
    "messages": ("gossip.delay={kind: uniform, low: 0.1, high: 1}", "local.steps={kind: geometric, mean: 2}"),
}


@pytest.mark.parametrize("way", WAYS)
def test_batched_equals_serial(way):
    options, model = (*WAYS[way], "network.nodes=8"), {"task.model": resnet()}
    batched, serial = (train(BASE, model, *options, f"executor={kind}") for kind in ("batched", "serial"))
    assert torch.allclose(batched.x, serial.x, rtol=0, atol=1e-11)  # products of a few layers in another order
    states = [batched.model(i).state_dict() for i in range(8)]
    counts = [int(state["2.num_batches_tracked"]) for state in states]
    if "geometric" not in str(options) and "algorithm" not in str(options):
        updates = int(batched.metrics["updates"].iloc[-1])
        assert sum(counts) == updates * (2 if "local.steps=2" in options else 1)
    assert not torch.equal(states[0]["2.running_var"], torch.ones(2).double())
    apart = bool((states[0]["2.running_mean"] != states[1]["2.running_mean"]).any())
    assert apart == (way != "mixed, rounds")
    if "rounds" in way:
        assert torch.allclose(states[0]["7.weight"], states[1]["7.weight"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", ["in place", "assigned"])
def test_buffers_of_ones_own_are_rows(way):
    stays = {"mixed": [], "local": ["mean"]}
    for options in (
        ["local.steps=2", "local.optimizer={kind: adam}"],
        [ROUNDS, "local.steps={kind: geometric, mean: 2}"],
    ):
        runs = {}
        for name, personal in stays.items():
            more = {"task.model": Centred(way), "gossip.personal": personal, "network.nodes": 6}
            runs[name], serial = (train(BASE, more, *options, f"executor={k}") for k in ("batched", "serial"))
            assert torch.allclose(runs[name].x, serial.x, rtol=0, atol=1e-12)  # products in another order
        models = [runs["mixed"].model(i) for i in range(6)]
        assert runs["mixed"].x.shape[1] == 64 * 6 + 6 + 6 * 10 + 10 + 6 + 1  # `scale`, which nobody writes, is shared
        assert models[0].seen.dtype == torch.int64
        assert max(int(model.seen) for model in models) > 0
        means = [torch.stack([runs[name].model(i).mean for i in range(6)]) for name in stays]
        assert not torch.allclose(*means)
        if ROUNDS in options:
            assert torch.allclose(models[0].mean, models[1].mean, rtol=0, atol=1e-12)
            assert not torch.allclose(runs["local"].model(0).mean, runs["local"].model(1).mean)


class Growing(Centred):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        self.mean = torch.cat([self.mean, self.mean]) if self.training else self.mean
        return out


class Always(Centred):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return super().forward(x)


WRONG = {
    "grows": (
        Growing,
        r"task.model must take features of shape .* got: buffer mean must keep its shape \[6\], got \[12\]",
    ),
    "writes in evaluation": (Always, r"task.model must not write buffers in evaluation mode, got .*\['seen'\]; write"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_forward_may_not_do_with_buffers(case):
    kind, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        train(BASE, {"task.model": kind("in place")}, "network.nodes=2")


def test_buffers_are_found_whatever_forward_takes():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(3, 4), nn.Linear(4, 2)
            self.register_buffer("usage", torch.zeros(4))
            self.register_buffer("positions", torch.arange(5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            positions = self.positions[: x.shape[1]]
            mean = self.table(x).mean(1) + positions.sum()
            if self.training:
                self.usage.lerp_(mean.detach().mean(0), 0.1)
            return self.head(mean)

    stack = Stack.of(Tokens(), torch.float32, torch.device("cpu"), (5,))
    assert {**stack.kept} == {"usage": torch.float32}
    assert stack.made[-1].tolist() == [0.0] * 4  # as it was made, before it was tried


MODELS = {"resnet": "2.num_batches_tracked", "own_in_place": "seen", "own_assigned": "seen"}
"""Functions that make a module -> the name of its count of minibatches."""


def own_in_place() -> nn.Module:
    return Centred("in place")


def own_assigned() -> nn.Module:
    return Centred("assigned")


@pytest.mark.parametrize("model", MODELS)
def test_one_node_is_what_pytorch_trains(model):
    target, count_of = f"test_statistics:{model}", MODELS[model]
    options = ["network.nodes=1", "local.momentum=0.5", "local.steps=3", "run.until=4"]
    config = load(BASE, [{"task": {"model": {"kind": "python", "target": target}}}, *options])
    events = assembly.timeline([config])
    run = assembly.assemble([config], events, plan.plan([config], events).chunks)
    run.engine.run_(run.state, run.engine.begin(), Unobserved())
    updates = int(run.state.versions.max())
    model = run.problem.stack.module(assembly.assemble([config], events, run.chunks).state.x[0]).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    for count in range(updates):
        for examples in run.problem.draw(*(torch.tensor([a]).numpy() for a in (0, count)))[0]:
            features, targets = run.problem.batch(examples)
            optimizer.zero_grad()
            functional.cross_entropy(model(features), targets).backward()
            optimizer.step()
    made, own = run.problem.stack.module(run.state.x[0]).state_dict(), model.state_dict()
    assert made.keys() == own.keys()
    assert updates > 0
    assert int(own[count_of]) == 3 * updates
    for name, value in own.items():
        assert made[name].dtype == value.dtype
        assert torch.allclose(made[name], value, rtol=0, atol=1e-12), name
    tests = run.problem.tests[0]
    with torch.no_grad():
        loss = functional.cross_entropy(model.eval()(tests.features[0]), tests.targets[0])
    assert torch.allclose(run.problem.scores(run.state.models[None], tests)[0], loss, rtol=1e-10)


def test_counts_say_why_no_tape_makes_the_steps():
    config = load(BASE, [{"task": {"model": {"kind": "python", "target": "test_statistics:resnet"}}}, "run.until=500"])
    events = assembly.timeline([config])
    executor = assembly.assemble([config], events, plan.plan([config], events).chunks).engine.executor
    assert isinstance(executor, Batched)
    assert executor.algorithm.descent.tape is None
    assert executor.algorithm.descent.refused == (
        "the model keeps running statistics, which no tape or program writes",
    )


def test_a_layer_that_stands_twice_has_one_row_of_statistics():
    norm = nn.BatchNorm1d(3)
    module = nn.Sequential(norm, nn.Linear(3, 3), norm)
    stack = Stack.of(module, torch.float64, torch.device("cpu"))
    assert [*stack.kept] == ["0.running_mean", "0.running_var", "0.num_batches_tracked"]
    made = stack.module(stack.row(module) + 1)
    assert made[0] is made[2]
    assert made[2].running_mean.tolist() == [1.0, 1.0, 1.0]
    assert made[2].num_batches_tracked.item() == 1


REFUSED = {
    "algorithm.kind=gradient_tracking": "algorithm.kind must be one that trains by local SGD .*got 'gradient_tracking'",
    "algorithm={kind: fedopt}": "algorithm.kind must be one that trains by local SGD",
    "update.applies=delta": r"update.applies must be at_completion where task.model keeps running .*\(2.running_mean",
    "gossip.compress={kind: top_k, share: 0.5, feedback: none}": "gossip.compress must be left out where task.model",
    "gossip.merge={kind: partitioned, parts: 2}": "gossip.merge must average whole models",
    "dtype=bfloat16": "dtype must be float32 or float64 where",
    "local.compile=on": "local.compile must be auto or off where",
    "local.epochs=1": "task.model must compute each example by itself with local.epochs",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_refusals(setting):
    more = {"algorithm.kind=gradient_tracking": ["gossip.exchange=meet"], "algorithm={kind: fedopt}": [ROUNDS]}
    with pytest.raises(ValueError, match=REFUSED[setting]):
        train(BASE, {"task.model": resnet()}, setting, "network.nodes=8", *more.get(setting, []))
