"""Feature shift: what each node sees of the same data."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, stats

from batchednodes import train
from batchednodes.data import IID, Dataset, Noise, Rotation, shifted
from batchednodes.numerics.values import Choice, Uniform


def images(samples, *shape, dtype=np.float32, seed=0):
    g = np.random.default_rng(seed)
    x, tests = (g.random((rows, *shape)).astype(dtype) for rows in (samples, 50))
    return Dataset(x, np.arange(samples) % 3, tests, np.arange(50) % 3, classes=3)


def seen(data, shift, n, seed=1):
    """Returns the data as the nodes see them, the owner of each row, and the data as they were."""
    shards, before = IID().split(data, n, seed), data.features.copy()
    return shifted(data, shards, shift, seed), shards.owners, before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 5), (6, 6), (3, 4, 4), (1, 1)])
def test_quarter_turns_are_exact_and_go_by_groups(shape, dtype):
    data = images(40, *shape, dtype=dtype)
    after, owners, before = seen(data, Rotation(), 8)
    turns = owners * 4 // 8
    assert np.bincount(turns).min() == 10
    for r in range(40):
        assert np.array_equal(after.features[r], np.rot90(before[r], turns[r], axes=(-2, -1)))
    assert after.features.dtype == dtype


def test_flat_features_are_square_images_or_of_the_given_size():
    square, oblong = images(12, 16), images(12, 2 * 3 * 5)
    after, owners, before = seen(square, Rotation(angle=[180.0], groups=1), 3)
    assert np.array_equal(after.features, before.reshape(12, 4, 4)[:, ::-1, ::-1].reshape(12, 16))
    after, owners, before = seen(oblong, Rotation(angle=[0.0, 180.0, 180.0], groups=None, image=(3, 5)), 3)
    turned = before.reshape(12, 2, 3, 5)[:, :, ::-1, ::-1].reshape(12, 30)
    assert np.array_equal(after.features, np.where(owners[:, None] > 0, turned, before))


@pytest.mark.parametrize("angle", [30.0, -117.0, 359.0, 45.0])
@pytest.mark.parametrize("shape", [(9, 9), (8, 5)])
def test_other_angles_interpolate_as_scipy_does(angle, shape):
    data = images(6, *shape, dtype=np.float64)
    after, _, before = seen(data, Rotation(angle=angle, groups=None), 2)
    expected = [ndimage.rotate(x, angle, reshape=False, order=1, mode="grid-constant") for x in before]
    assert np.allclose(after.features, expected, rtol=0, atol=1e-12)  # sums of four products of at most 1


def test_angles_of_nodes_may_be_drawn():
    data = images(60, 4, 4)
    after, owners, before = seen(data, Rotation(angle=Choice([0.0, 90.0]), groups=None), 20)
    turned = np.stack([np.rot90(x) for x in before])
    is_turned = (after.features == turned).all(axis=(1, 2))
    assert np.array_equal(is_turned, ~(after.features == before).all(axis=(1, 2)))
    by_node = np.bincount(owners, is_turned)
    assert set(by_node) == {0, 3}


def test_noise_of_each_node_is_normal_with_its_level():
    n, m, d, level = 8, 50, 30, 0.4
    data = images(n * m, d)
    data.features[:] = 0
    after, owners, _ = seen(data, Noise(level=level), n)
    z = after.features / (level * (owners + 1) / n)[:, None]
    assert stats.kstest(z.ravel(), stats.norm.cdf).pvalue > 1e-6
    squares = np.array([(z[owners == i] ** 2).sum() for i in range(n)])
    tails = stats.chi2(m * d)
    assert np.all(np.minimum(tails.cdf(squares), tails.sf(squares)) > 1e-7)  # false alarm: 16 x 1e-7


def test_whole_levels_may_differ_by_node():
    data = images(400, 25)
    after, owners, before = seen(data, Noise(level=[0.0, 2.0], rising=False), 2)
    spread = [(after.features - before)[owners == i].std() for i in range(2)]
    assert spread[0] == 0
    assert abs(spread[1] / 2 - 1) < 5 / np.sqrt(2 * 200 * 25)  # false alarm: 6e-7


@pytest.mark.parametrize("shift", [Noise(level=Uniform(0.1, 1.0)), Rotation(angle=Uniform(-180.0, 180.0), groups=None)])
def test_a_seed_gives_one_shift_whatever_is_drawn_at_once(shift, monkeypatch):
    one, _, _ = seen(images(30, 5, 5), shift, 6)
    monkeypatch.setattr("batchednodes.data.feature_shift._BLOCK", 70)
    two, _, _ = seen(images(30, 5, 5), shift, 6)
    assert np.array_equal(one.features, two.features)
    assert not np.array_equal(one.features, seen(images(30, 5, 5), shift, 6, seed=2)[0].features)


@pytest.mark.parametrize(("shift", "same"), [(Noise(level=0.5), {False}), (Rotation(), {False, True})])
def test_tests_stay_clean_unless_shifted_as_at_nodes_drawn_at_random(shift, same):
    data = images(40, 3, 3)
    tests = data.test_features.copy()
    assert np.array_equal(seen(data, shift, 8)[0].test_features, tests)
    after = seen(data, replace(shift, test="shifted"), 8)[0].test_features
    assert {
        np.array_equal(*pair) for pair in zip(after, tests, strict=True)
    } == same  # a quarter is turned by 0 degrees


def test_test_rows_are_those_of_all_nodes_alike():
    tests = {"test_features": np.zeros((20_000, 9), np.float32), "test_targets": np.zeros(20_000, np.int64)}
    data = replace(images(8, 9), **tests)
    shift = Noise(level=[0.0, 1.0, 0.0, 1.0], rising=False, test="shifted")
    noisy = int((seen(data, shift, 4)[0].test_features != 0).all(axis=1).sum())
    assert stats.binomtest(noisy, 20_000, 0.5).pvalue > 1e-6


def test_memory_that_may_not_be_written_is_copied():
    data = images(12, 4, 4)
    data.features.flags.writeable = False
    after, _, before = seen(data, Rotation(), 4)
    assert np.array_equal(data.features, before)
    assert not np.array_equal(after.features, before)


@pytest.mark.parametrize(
    ("shift", "shape", "n", "words"),
    [
        (
            Rotation(),
            (6,),
            4,
            "task.shift.image must be the height and width of the images that the features are, got null for features "
            "of shape [6]; set task.shift.image=[height, width]",
        ),
        (
            Rotation(image=(2, 4)),
            (6,),
            4,
            "task.shift.image must be the height and width of the images that the features are, got [2, 4] for "
            "features of shape [6]; set task.shift.image=[height, width]",
        ),
        (
            Rotation(image=(4, 3)),
            (3, 4),
            4,
            "task.shift.image must be the height and width of the images that the features are, got [4, 3] for "
            "features of shape [3, 4]; set task.shift.image=[height, width]",
        ),
        (
            Rotation(),
            (4, 4),
            3,
            "task.shift.groups must be at most network.nodes = 3, got 4; lower it, or use null: each node has an angle "
            "of its own",
        ),
        (
            Rotation(angle=[0, 180]),
            (4, 4),
            8,
            "task.shift.angle must be a list of one angle for each of the 4 groups, got 2; set task.shift.groups=2, or "
            "null: each node has its own",
        ),
        (
            Rotation(angle=400),
            (4, 4),
            4,
            "task.shift.angle must be in [-360, 360] [degrees], got 400",
        ),
        (Noise(level=-1), (4,), 4, "task.shift.level must be in [0, 1e+30] [unit of the features], got -1"),
    ],
)
def test_what_a_shift_refuses(shift, shape, n, words):
    with pytest.raises(ValueError, match="must be") as error:
        shift.check(images(12, *shape).sizes, n, 0)
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Rotation(groups=0), "groups must be at least 1, got 0"),
        (lambda: Rotation(image=(3,)), "image must be two sizes, height and width [pixels], got [3]"),
        (lambda: Rotation(image=(3, 0)), "image must be an integer in [1, 1000000], got 0"),
    ],
)
def test_settings_out_of_range(make, words):
    with pytest.raises(ValueError, match="must be") as error:
        make()
    assert str(error.value) == words


def test_shifts_suit_real_targets_and_differ_between_networks_of_a_batch():
    """Each network of a sweep learns from what its own nodes see, as it would alone."""
    settings = {
        "network": {"nodes": 4},
        "run": {"until": 2, "mark_every": 2},
        "task": {"data": {"features": 4, "samples_per_node": 3, "test_samples": 5}, "shift": {"kind": "noise"}},
        "dtype": "float64",
    }
    both = train(settings, "sweep.task.shift.level=[0, 0.5]").x
    alone = [train(settings, f"task.shift.level={level}").x for level in (0, 0.5)]
    clean = train(settings | {"task": {"data": settings["task"]["data"]}}).x
    # One vmap over eight rows sums as over four but for rounding, in float64 and over few steps.
    assert np.allclose(both[:4], alone[0], rtol=1e-12, atol=0)
    assert np.allclose(both[4:], alone[1], rtol=1e-12, atol=0)
    assert np.array_equal(alone[0], clean)
    assert not np.allclose(alone[0], alone[1])


@pytest.mark.parametrize("features", [(4, 4), (2, 3, 3), (9,)])
def test_integers_are_turned_exactly(features):
    x = np.random.default_rng(0).integers(2**60, 2**62, (8, *features))  # beyond what reals hold
    data = Dataset(x, np.zeros(8, np.int64), x[:1].copy(), np.zeros(1, np.int64), 1)
    after, owners, before = seen(data, Rotation(), 8)
    assert after.features.dtype == np.int64
    square = (-1, 3, 3) if len(features) != 2 else (-1, 4, 4)
    for row, owner, old in zip(after.features, owners, before, strict=True):
        turned = np.rot90(old.reshape(square), owner * 4 // 8, axes=(1, 2))
        assert np.array_equal(row.reshape(square), turned)


@pytest.mark.parametrize(("angle", "kept"), [("[0, 90, -270, 360]", True), ("[0, 45, 90, 180]", False)])
def test_rotations_that_keep_integers_go_with_them(angle, kept, tmp_path):
    x = np.random.default_rng(0).integers(0, 300, (40, 4, 4)).astype(np.int16)
    np.savez(tmp_path / "d.npz", features=x, targets=np.arange(40) % 2)
    options = [f"task.data={{kind: npz, path: '{tmp_path / 'd.npz'}'}}", "task.model.kind=linear", "run.until=2"]
    options += [f"task.shift={{kind: rotation, angle: {angle}}}", "network.nodes=8"]
    if kept:
        train({}, *options)
        return
    with pytest.raises(ValueError, match=r"task.shift must be null where .*, or rotations by multiples of 90 degrees"):
        train({}, *options)
