"""Data that a program has in memory, as the arrays of an .npz file: of NumPy, PyTorch, pandas, SciPy, Hugging Face.

Notation: S samples.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batchednodes.data.sources.huggingface import HuggingFace
from batchednodes.data.sources.npz import Npz
from batchednodes.numerics import inputs
from batchednodes.numerics.values import shown

_FORMS = (
    "(X, y) of arrays or tensors, (X, y, X_test, y_test), a data set of PyTorch or Hugging Face, a DataFrame whose "
    "last column is the target, (DataFrame, name of the target), or a list with one of these for each node"
)

Arrays = dict[str, np.ndarray]
"""Those of an .npz file, by name."""


def from_objects(found: Any, classes: int | None = None) -> Npz:
    """Returns the setting `task.data` that stands for data in memory, which are written into an input of a run.

    Example:
        >>> import numpy as np
        >>> from batchednodes.data import from_objects
        >>> nodes = [(np.ones((8, 3)) * k, np.arange(8) % 2) for k in range(4)]  # a data set for each node
        >>> data = from_objects(nodes).load(4, seed=0)
        >>> data.features.shape, data.test_features.shape, sorted({*data.node.tolist()})
        ((26, 3), (6, 3), [0, 1, 2, 3])

    Args:
        found: (X, y) of arrays or tensors, or (X, y, X_test, y_test); a `TensorDataset`, or any data set of PyTorch
            with a length; a DataFrame whose last column is the target, or (DataFrame, name of the target); a data set
            of Hugging Face, whose target is `label` unless it comes with another name; or a list of these, one for
            each node.
        classes: how many there must be where they are numbered here, as in data that models know; None: any number.

    Raises:
        ValueError: it is none of these, or holds something else than numbers.
    """
    arrays = _owned(found, classes) if isinstance(found, list) else _numbered([_arrays(found, "data")], classes)[0]

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    return Npz(inputs.keep("data", ".npz", write))


def _owned(found: Sequence[Any], classes: int | None) -> Arrays:
    """Returns the rows of all nodes, and who owns them."""
    if not found:
        raise ValueError("data must be a list of at least one data set, one for each node, got an empty list")
    parts = [_arrays(one, f"data[{i}]") for i, one in enumerate(found)]
    for i, part in enumerate(parts):
        if part.keys() != parts[0].keys():
            rule = "test rows as data[0] has, or none, and classes or real targets, as data[0]"
            raise ValueError(f"data[{i}] must have {rule}; give both alike")
        for name in part:
            if part[name].shape[1:] != parts[0][name].shape[1:]:
                shapes = [list(one[name].shape[1:]) for one in (parts[0], part)]
                raise ValueError(f"data[{i}] must have rows of {name} as data[0], {shapes[0]}, got {shapes[1]}")
    parts = _numbered(parts, classes)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return joined | {"node": np.repeat(np.arange(len(parts)), [len(part["features"]) for part in parts])}


def _numbered(parts: list[Arrays], classes: int | None) -> list[Arrays]:
    """Returns data sets with the classes of all of them as targets, numbered in their sorted order."""
    named = [part[name] for part in parts for name in part if name.endswith("classes")]
    if not named:
        return parts
    texts = any(one.dtype.kind not in "biu" for one in named)
    values = np.unique(np.concatenate([one.astype(str if texts else one.dtype).ravel() for one in named]))
    if classes not in (None, values.size):
        fix = f"give targets as an array of labels from 0 to {classes - 1}"
        raise ValueError(f"data must have rows of all {classes} classes, which are numbered, got {values.size}; {fix}")

    def label(one: np.ndarray) -> np.ndarray:
        return np.searchsorted(values, one.astype(str if texts else one.dtype))

    return [
        {k.replace("classes", "targets"): label(one) if k.endswith("classes") else one for k, one in part.items()}
        for part in parts
    ]


def _arrays(found: Any, key: str) -> Arrays:
    """Returns the arrays of one data set; targets that are still to be numbered are `classes`, not `targets`."""
    owner = type(found[0] if isinstance(found, tuple) and len(found) == 2 else found).__module__.partition(".")[0]
    target = found[1] if isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], str) else None
    whole = found if target is None else found[0]
    if owner == "datasets":
        return _hugging_face(whole, target or "label", key)
    if hasattr(whole, "iloc") and hasattr(whole, "columns"):
        return _frame(whole, target, key)
    tensors = getattr(whole, "tensors", None)  # of a TensorDataset
    parts = tensors if isinstance(tensors, tuple) else whole
    if isinstance(parts, tuple) and len(parts) in (2, 4) and target is None:
        return _pairs(parts, key)
    counted = hasattr(parts, "__getitem__") and hasattr(parts, "__len__") and not hasattr(parts, "shape")
    if counted and not isinstance(parts, tuple | Mapping | str):
        return _items(parts, key)
    raise ValueError(f"{key} must be {_FORMS}, got {shown(found)}")


def _hugging_face(found: Any, target: str, key: str) -> Arrays:
    splits = dict(found) if isinstance(found, Mapping) else {"train": found}
    first = "train" if "train" in splits else next(iter(splits))
    test = "test" if "test" in splits and first != "test" else None
    try:
        made = HuggingFace(path=key, split=first, test_split=test, target=target).arrays(splits)
    except ValueError as error:
        raise ValueError(f"{key} must be a data set that can be learned from, got one where {error}") from None
    if made["targets"].ndim == 1 and not hasattr(splits[first].features[target], "names"):  # numbers of this set only
        for prefix, split in {"": first, "test_": test}.items():
            if split is not None:
                del made[f"{prefix}targets"]
                made[f"{prefix}classes"] = splits[split].select_columns([target]).to_pandas()[target].to_numpy()
    return made


def _frame(found: Any, target: str | None, key: str) -> Arrays:
    """Returns the columns of a DataFrame: the target, and all others as features, which must be numbers."""
    names = [*found.columns]
    target = names[-1] if target is None and names else target
    if target not in names or len(names) < 2:
        wanted = "columns" if target is None else f"a column {shown(target)}, the target, and others"
        raise ValueError(f"{key} must have {wanted}, got {shown(names)}")
    if not found.columns.is_unique:
        twice = names[int(np.argmax(found.columns.duplicated()))]
        raise ValueError(f"{key} must have columns of different names, got {shown(twice)} twice; rename one")
    others = [name for name in names if name != target]
    for name in others:
        if getattr(found[name].dtype, "kind", "O") not in "biuf":
            got = f"column {shown(str(name))} of type {found[name].dtype}"
            raise ValueError(f"{key} must have numbers as features, got {got}; encode it, or leave it out")
    labels = found[target]
    is_real = getattr(labels.dtype, "kind", "O") == "f"
    if not is_real and labels.isna().any():
        row = int(np.argmax(labels.isna()))
        raise ValueError(f"{key} must have a target in each row, got none in row {row} of {shown(str(target))}")
    features = np.stack([found[name].to_numpy() for name in others], 1)
    return {"features": features, "targets" if is_real else "classes": labels.to_numpy()}


def _pairs(found: tuple[Any, ...], key: str) -> Arrays:
    """Returns features and targets, and those to test on; targets that are texts are classes."""
    names = ("features", "targets", "test_features", "test_targets")[: len(found)]
    made = {name: _array(part, f"{key}: {name}") for name, part in zip(names, found, strict=True)}
    for x, y in zip(names[::2], names[1::2], strict=True):
        if made[x].dtype.kind not in "biuf":
            raise ValueError(f"{key} must have numbers as {x}, got {made[x].dtype}; encode them")
        if made[x].ndim == 0 or made[y].ndim == 0 or len(made[x]) != len(made[y]):
            shapes = f"{list(made[x].shape)} and {list(made[y].shape)}"
            raise ValueError(f"{key} must have as many rows of {x} as of {y}, got shapes {shapes}")
    texts = any(made[y].dtype.kind in "OUSb" for y in names[1::2])
    return {name.replace("targets", "classes") if texts else name: one for name, one in made.items()}


def _items(found: Any, key: str) -> Arrays:
    """Returns the pairs of a data set with a length, stacked."""
    features, targets = list[np.ndarray](), list[np.ndarray]()
    for i in range(len(found)):
        one = found[i]
        if not isinstance(one, tuple | list) or len(one) != 2:
            raise ValueError(f"{key} must have pairs (x, y), got {shown(one)} at {i}; {_FORMS} are data")
        features.append(_array(one[0], f"{key}[{i}][0]"))
        targets.append(_array(one[1], f"{key}[{i}][1]"))
        if features[i].shape != features[0].shape or targets[i].shape != targets[0].shape:
            shapes = f"{list(features[0].shape)} and {list(features[i].shape)} at {i}"
            raise ValueError(f"{key} must have samples of one shape, got {shapes}; pad or cut them")
    if not features:
        raise ValueError(f"{key} must have at least one sample, got none")
    return _pairs((np.stack(features), np.stack(targets)), key)


def _array(found: Any, key: str) -> np.ndarray:
    """Returns an array of NumPy with the numbers, or the texts, of something that holds them."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(found, torch.Tensor):
        if found.layout != torch.strided or found.is_meta:
            raise ValueError(f"{key} must be a dense tensor, got {shown(found)}; use to_dense()")
        found = found.detach().cpu()
        return (found.float() if found.dtype in (torch.bfloat16, torch.float16) else found).numpy()
    if hasattr(found, "toarray"):  # a sparse matrix of SciPy
        return found.toarray()
    if isinstance(found, np.ma.MaskedArray):
        raise ValueError(f"{key} must have all numbers, got a masked array; fill it, or leave those rows out")
    try:
        made = np.asarray(found)
    except ValueError:
        made = np.asarray(None)
    if made.dtype.kind not in "biufUSO" or (made.dtype.kind == "O" and not _texts(made)):
        raise ValueError(f"{key} must be an array of numbers, got {shown(found)}")
    return made


def _texts(made: np.ndarray) -> bool:
    return made.ndim > 0 and all(isinstance(one, str) for one in made.flat)
