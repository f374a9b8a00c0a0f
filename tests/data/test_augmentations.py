"""Augmentations: each is what a plain loop makes of one image, and a run with them is that of one event at a time."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from scipy import stats
from test_exactness import SMALL, finish, run, same

from batchednodes import load, train
from batchednodes.config import dump
from batchednodes.config.document import parse
from batchednodes.data import Augmentation, Crop, Cutout, DataSizes, Flip, Mixup
from batchednodes.models import feed
from batchednodes.models.feed import uniform
from batchednodes.models.losses import choose
from batchednodes.simulation.build import learning
from batchednodes.simulation.planning import memory_plan, preflight

M, B, H, W = 3, 5, 6, 4
KEYS, HERE = torch.arange(1, M + 1) * 7919, torch.ones(M, B, dtype=torch.bool)
DRAWS = uniform(KEYS, B, 0)
IMAGES = torch.arange(1.0, 1 + M * B * 2 * H * W, dtype=torch.float64).view(M, B, 2, H, W)
LABELS = torch.arange(M * B).view(M, B) % 3
SQUARES = "{kind: crop, padding: 1, shape: [2, 2]}, {kind: flip, shape: [2, 2]}, {kind: cutout, size: 1, shape: [2, 2]}"
ALL = f"task.augment=[{SQUARES}, {{kind: mixup, alpha: 0.5}}]"


@dataclass(frozen=True)
class Jitter(Augmentation):
    """Examples are scaled by random factors."""

    most: float = 0.2
    """By how much."""

    def change(self, x, y, here, uniform):
        factor = 1 + self.most * (2 * uniform(1) - 1)
        return x * factor.to(x.dtype).view(*x.shape[:2], *[1] * (x.ndim - 2)), y


@dataclass(frozen=True)
class Leaking(Augmentation):
    """Minibatches are changed by those beside them."""

    def change(self, x, y, here, uniform):
        return x - x.mean(), y


@dataclass(frozen=True)
class Widening(Augmentation):
    """Features become of another type."""

    def change(self, x, y, here, uniform):
        return x.double() if x.dtype == torch.float32 else x.float(), y


def test_a_crop_is_a_part_of_the_padded_image():
    moved, _ = Crop(padding=2, fill=-1.0).change(IMAGES, LABELS, HERE, DRAWS)
    places = (DRAWS(2) * 5).long().numpy()
    all_ = (t.view(-1, 2, H, W) for t in (IMAGES, moved))
    for image, found, (down, right) in zip(*all_, places.reshape(-1, 2), strict=True):
        padded = np.pad(image.numpy(), ((0, 0), (2, 2), (2, 2)), constant_values=-1)
        assert np.array_equal(found, padded[:, down : down + H, right : right + W])
    assert len(np.unique(places.reshape(-1, 2), axis=0)) > 5


def test_a_flip_and_a_cutout_do_so_to_each_image_by_itself():
    turned, _ = Flip(probability=0.4).change(IMAGES, LABELS, HERE, DRAWS)
    covered, _ = Cutout(size=3).change(IMAGES, LABELS, HERE, DRAWS)
    u = DRAWS(2)
    for m in range(M):
        for b in range(B):
            image = IMAGES[m, b]
            assert torch.equal(turned[m, b], image.flip(-1) if DRAWS(1)[m, b, 0] < 0.4 else image)
            y, x = (int(u[m, b, k] * size) for k, size in enumerate((H, W)))
            plain = image.clone()
            plain[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = 0
            assert torch.equal(covered[m, b], plain)


def test_mixup_mixes_each_minibatch_in_one_share_with_an_order_of_its_examples():
    here = HERE.clone()
    here[1, 3:] = False  # a smaller minibatch
    soft = F.one_hot(LABELS, 3).double()
    x, y = Mixup(alpha=0.4).change(IMAGES, soft, here, DRAWS)
    share = stats.beta(0.4, 0.4).ppf(DRAWS(2)[:, 0, 0].numpy())
    for m in range(M):
        some = int(here[m].sum())
        order = DRAWS(2)[m, :some, 1].argsort()
        for b in range(some):
            mixed = share[m] * IMAGES[m, b] + (1 - share[m]) * IMAGES[m, order[b]]
            assert torch.allclose(x[m, b], mixed, rtol=0, atol=1e-4 * IMAGES.max())  # straight between 4,097 points
            assert torch.allclose(y[m, b], share[m] * soft[m, b] + (1 - share[m]) * soft[m, order[b]], atol=1e-4)


def test_the_share_of_mixup_has_the_law_of_beta_and_draws_look_uniform():
    u = uniform(torch.arange(4000) * 0x9E3779B97F4A7C1, 2, 1)(2)
    x = torch.stack([torch.ones(4000, 2), torch.zeros(4000, 2)], 1)[:, :, :1]
    mixed, _ = Mixup(alpha=0.3).change(x, x, torch.ones(4000, 2, dtype=torch.bool), lambda size: u)
    first, swapped = mixed[:, 0, 0].double(), u[:, 0, 1] > u[:, 1, 1]
    share = first[swapped]  # of pairs in which each takes the other one
    assert stats.kstest(share, stats.beta(0.3, 0.3).cdf).pvalue > 1e-3  # false alarms: one in a thousand
    assert all(stats.kstest(column, "uniform").pvalue > 1e-3 for column in u.flatten(1).T)
    assert abs(np.corrcoef(u.flatten(1).T) - np.eye(4)).max() < 0.06  # 4 standard deviations
    assert not (DRAWS(2) == uniform(KEYS, B, 1)(2)).any()  # another augmentation


def test_each_node_update_and_step_has_draws_of_its_own(monkeypatch):
    seen = list[int]()

    def noting(keys, b, number):
        seen.extend(keys.tolist())
        return uniform(keys, b, number)

    config = load({}, [*SMALL, "network.nodes=4", "local.steps=3", "task.augment=[{kind: mixup}]"])
    found = learning.problem([config], preflight.networks([config]), torch.float64, torch.device("cpu"))[0].holding(4)
    monkeypatch.setattr(feed, "uniform", noting)
    for count in (0, 1):
        found.draw(np.arange(4), np.full(4, count))
    assert len(seen) == len({*seen}) == 4 * 3 * 2
    found.draw(np.arange(4), np.zeros(4, np.int64))
    assert seen[24:] == seen[:12]


def test_losses_take_probabilities_in_place_of_labels():
    outputs, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    hard, mixed = F.one_hot(labels, 3).double(), torch.rand(5, 3, dtype=torch.float64)
    for name in ("cross_entropy", "mse"):
        loss = choose(name, 3)
        assert torch.allclose(loss.mean(outputs, hard), loss.mean(outputs, labels), rtol=1e-14)
        assert torch.allclose(loss.each(outputs, mixed).mean(), loss.mean(outputs, mixed), rtol=1e-14)
    assert torch.allclose(choose("cross_entropy", 3).mean(outputs, mixed), F.cross_entropy(outputs, mixed), rtol=1e-14)


DIGITS = ["task.data.kind=digits", "task.model={kind: mlp, hidden: [6]}", "local.batch_size=8", "dtype=float64"]
WAYS = {
    "local SGD": (),
    "two steps, adam": ("local.steps=2", "local.optimizer.kind=adam", "gossip.exchange=meet"),
    "epochs": ("local.epochs=1", "task.partition.kind=quantity_skew"),
    "messages": ("gossip.delay={kind: exponential, mean: 0.5}", "gossip.on_receipt=update_merge", "local.steps=2"),
    "tracking": ("algorithm.kind=gradient_tracking", "timing.kind=synchronous", "local.steps=2"),
    "no form of its own": ("algorithm.kind=dfedsam", "timing.kind=synchronous", "local.steps=2"),
}


@pytest.mark.parametrize("way", WAYS)
def test_batched_equals_serial(way):
    options = (*SMALL, ALL, "network.nodes=6", "local.lr=0.05", "run.until=4", *WAYS[way])
    batched = train({}, *options)
    same(batched, train({}, *options, "executor=serial"))
    assert not torch.equal(batched.x, train({}, *options, "task.augment=[]").x)


def test_labels_that_are_mixed_by_a_tape_are_those_of_the_serial_executor(monkeypatch):
    monkeypatch.setattr(memory_plan, "_PROGRAMS", 0)  # as in a long run
    crop = "{kind: crop, padding: 1, shape: [8, 8]}"
    options = [f"task.augment=[{crop}, {{kind: mixup}}]", "network.nodes=6", "run.until=2", "local.lr=0.3"]
    same(run(*options, base=DIGITS), run(*options, "executor=serial", base=DIGITS), 1e-9)


@pytest.mark.parametrize("change", ["local.chunk=2", "run.window=0.3", "run.mark_every=0.7", "replicas=2"])
def test_nothing_but_the_address_says_what_an_example_becomes(change):
    options = (ALL, "network.nodes=8", "local.steps=2")
    plain, found = run(*options), run(*options, change)
    assert torch.equal(plain.x, found.x[:8])


def test_a_run_that_goes_on_from_a_checkpoint_is_bit_identical(tmp_path):
    config = load({"run": {"until": 6.0}, "network": {"nodes": 6}}, [*SMALL, ALL])
    (straight, _), (restarted, _) = finish([config]), finish([config], restart=tmp_path / "half.safetensors")
    assert torch.equal(straight.x, restarted.x)


def test_test_data_and_losses_on_all_examples_are_never_changed():
    options = ("network.nodes=5", "local.lr=0", "task.data.kind=linear_regression")
    columns = ["loss_mean", "loss_max"]
    assert run(*options, ALL).metrics[columns].equals(run(*options).metrics[columns])


def test_a_kind_of_the_users_own_is_tried_written_and_run():
    options = (*SMALL, "network.nodes=5", "run.until=3")

    def own(name, **args):
        return {"kind": "python", "target": f"{__name__}:{name}", "args": args}

    config = load({"task": {"augment": [own("Jitter", most=0.3), {"kind": "mixup"}]}}, options)
    assert [type(one).__name__ for one in config.task.augment] == ["Jitter", "Mixup"]
    assert load(parse(dump(config))) == config
    same(train(config), train(config, "executor=serial"))
    for wrong, words in (("Leaking", "change each minibatch by itself"), ("Widening", "of the shapes and types")):
        with pytest.raises(ValueError, match=rf"^task.augment\[0\] must be a kind that works, .*{words}"):
            train({"task": {"augment": [own(wrong)]}}, *options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[{kind: crop}]", r"task.augment\[0\].shape must be given to crop unless features are images"),
        ("[{kind: crop, shape: [3, 3]}]", r"task.augment\[0\].shape must be \[height, width\] or .*got \[3, 3\]"),
        ("[{kind: crop, padding: 0}]", r"task.augment\[0\].padding must be an integer in \[1, 10000\], got 0"),
        ("[{kind: flip, probability: 2}]", r"task.augment\[0\].probability must be in \(0, 1\], got 2"),
        ("[{kind: mixup, alpha: 0}]", r"task.augment\[0\].alpha must be in \[0.01, 1000\], got 0"),
        ("[{kind: flipp}]", r"task.augment\[0\].kind must be one of .*did you mean 'flip'"),
        ("{kind: flip}", r"task.augment must be a list"),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        run(f"task.augment={settings}", "network.nodes=4")


def test_what_covers_integers_is_whole():
    sizes = DataSizes(9, 9, (4, 4), 2, is_classes=True)
    Cutout(fill=0.5).check(sizes)
    with pytest.raises(ValueError, match=r"^fill must be a whole number where features are integers, got 0.5"):
        Cutout(fill=0.5).check(replace(sizes, integers=True))


def test_integers_are_not_mixed_and_quadratics_are_not_augmented():
    with pytest.raises(ValueError, match=r"^kind must be one that keeps integers"):
        Mixup().check(DataSizes(9, 9, (4,), 2, is_classes=True, integers=True))
    with pytest.raises(ValueError, match=r"^task.augment must be left out with data.kind=quadratics"):
        load({}, ["task.data.kind=quadratics", "task.augment=[{kind: mixup}]"])
