"""Images in folders: what becomes of pixels, sizes and classes, and what is refused."""

import zlib

import numpy as np
import pytest
from PIL import Image

from batchednodes.data import ImageFolder, check_dataset


def picture(seed, shape=(6, 8, 3)):
    """Returns random pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Returns the working directory with a folder of five images of each of two classes."""
    monkeypatch.chdir(tmp_path)
    for k in range(5):
        save(tmp_path / "in" / "cat" / f"{k}.png", picture(k))
        save(tmp_path / "in" / "ant" / "inner" / f"{k}.bmp", picture(10 + k))
    return tmp_path


def loaded(source):
    dataset = source.load(2, 0)
    assert dataset.sizes == source.sizes(2)
    check_dataset(dataset)
    return dataset


def test_images_are_channels_of_pixels(folder):
    (folder / "in" / "cat" / "notes.txt").write_text("no image")
    (folder / "in" / "cat" / ".hidden.png").write_text("no image")
    (folder / "in" / ".cache").mkdir()
    dataset = loaded(ImageFolder("in"))
    assert dataset.features.shape == (8, 3, 6, 8)
    assert dataset.features.dtype == np.float32
    assert dataset.classes == 2
    x = np.concatenate([dataset.features, dataset.test_features])
    y = np.concatenate([dataset.targets, dataset.test_targets])
    for seeds, label in ((range(10, 15), 0), (range(5), 1)):
        expected = [picture(seed).transpose(2, 0, 1) / np.float32(255) for seed in seeds]
        assert {part.tobytes() for part in x[y == label]} == {part.tobytes() for part in expected}
    assert np.array_equal(np.bincount(dataset.test_targets), [1, 1])


@pytest.mark.parametrize(("channels", "depth"), [(None, 1), (1, 1), (3, 3)])
def test_grey_images(tmp_path, channels, depth):
    for k in range(3):
        save(tmp_path / "a" / f"{k}.png", picture(k, (4, 5)))
    dataset = loaded(ImageFolder(str(tmp_path), channels=channels))
    assert dataset.features.shape == (2, depth, 4, 5)
    values = {part[0].tobytes() for part in dataset.features}
    assert values < {(picture(k, (4, 5)) / np.float32(255)).tobytes() for k in range(3)}


def test_images_are_scaled_to_a_size(folder):
    save(folder / "in" / "cat" / "9.png", picture(3, (12, 16, 3)))
    dataset = loaded(ImageFolder("in", size=(3, 4)))
    assert dataset.features.shape == (9, 3, 3, 4)
    flat = np.full((30, 30, 3), 51, np.uint8)
    save(folder / "flat" / "x" / "0.png", flat)
    dataset = loaded(ImageFolder("in", size=(3, 4), test_path="in"))
    assert len(dataset.test_features) == 11
    (folder / "flat" / "x").rename(folder / "flat" / "cat")
    dataset = loaded(ImageFolder("in", size=(3, 4), test_path="flat"))
    assert np.all(dataset.test_features == np.float32(0.2))
    assert dataset.test_targets.tolist() == [1]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_pixels_of_other_modes_are_converted(tmp_path, mode):
    image = Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode)
    (tmp_path / "a").mkdir()
    for k in range(2):
        how = {"transparency": bytes(range(256))} if mode == "P" else {}
        image.save(tmp_path / "a" / f"{k}.{'tif' if mode == 'CMYK' else 'png'}", **how)
    assert np.all(loaded(ImageFolder(str(tmp_path), channels=3)).features == 1)


def test_channels_are_standardized(folder):
    dataset = loaded(ImageFolder("in", standardize="all"))
    x = np.concatenate([dataset.features, dataset.test_features]).astype(np.float64)
    # Rounding of 480 numbers of size 1 to float32.
    assert np.allclose(x.mean(axis=(0, 2, 3)), 0, rtol=0, atol=1e-6)
    assert np.allclose(x.std(axis=(0, 2, 3)), 1, rtol=0, atol=1e-6)


def test_links_are_images_too(folder):
    (folder / "in" / "cat" / "8.png").symlink_to(folder / "in" / "cat" / "1.png")
    (folder / "in" / "cat" / "circle").symlink_to(folder / "in")
    assert ImageFolder("in").sizes(1).samples == 9


def large(path):
    """Writes a PNG file whose header promises 10,000 x 10,000 pixels."""
    save(path, picture(0))
    content = path.read_bytes()
    header = content[12:16] + (10_000).to_bytes(4, "big") * 2 + content[24:29]
    path.write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:])


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (
            lambda at: save(at / "cat" / "9.png", picture(0, (7, 8, 3))),
            {},
            "path must hold images alike, got 'in/cat/9.png', with 7 x 8 pixels where the first has 6 x 8: give si",
        ),
        (
            lambda at: save(at / "cat" / "9.png", np.zeros((6, 8), np.uint16)),
            {},
            "pixels of Pillow's mode I;16: convert",
        ),
        (
            lambda at: (at / "cat" / "9.png").write_bytes(b""),
            {},
            "'in/cat/9.png', with damage, or no image of BMP, GIF",
        ),
        (lambda at: (at / "cat" / "9.png").write_bytes((at / "cat" / "0.png").read_bytes()[:100]), {}, "with damage"),
        (lambda at: large(at / "cat" / "9.png"), {}, "'in/cat/9.png', with more than 89,478,485 pixels"),
        (lambda at: large(at / "ant" / "0.png"), {}, "path must hold images, got 'in/ant/0.png', with more than"),
        (
            lambda at: (at / "bee").mkdir(),
            {},
            "path must hold a folder of images for each class, got 'bee' without one in",
        ),
        (lambda at: None, {"path": "in/cat"}, "got none in 'in/cat': put images (.bmp, .gif"),
        (
            lambda at: None,
            {"path": "none"},
            "path must be an existing folder of folders of images, got 'none' (relative",
        ),
        (lambda at: None, {"path": "in/cat/0.png"}, "got 'in/cat/0.png', a file"),
        (
            lambda at: None,
            {"test_path": "."},
            "test_path must hold test labels that training rows have, got only others: 'in' (10 times)",
        ),
    ],
)
def test_faults(folder, change, settings, words):
    change(folder / "in")
    with pytest.raises(ValueError, match=r"path must") as error:
        ImageFolder(**{"path": "in"} | settings).load(1, 0)
    assert words in str(error.value)


def test_one_image_is_no_data(tmp_path):
    save(tmp_path / "a" / "0.png", picture(0))
    with pytest.raises(ValueError, match=r"^path must hold at least 2 images, one to test on, got 1 in"):
        ImageFolder(str(tmp_path)).sizes(1)
