"""Python objects in place of settings: a module, data in memory, a graph, a loss, arrays of numbers.

Each becomes the ordinary setting that means the same, before anything else is read: so a run of objects is planned,
checked, swept, repeated and resumed as any other. What no folder could hold is refused here.

Notation: n nodes.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

from batchednodes import data
from batchednodes.config.hints import join
from batchednodes.numerics import inputs, targets
from batchednodes.numerics.lazy import deferred
from batchednodes.numerics.source_text import text_of
from batchednodes.numerics.values import shown
from batchednodes.topology import Adjacency, EdgeList, from_matrix, from_networkx

if TYPE_CHECKING:
    from batchednodes.models import written
else:
    written = deferred("batchednodes.models.written")

SHORT = {"model": "task.model", "data": "task.data", "graph": "network.topology", "loss": "task.loss"}
"""Words for objects -> the settings that they stand for."""

LONGEST = 1 << 20
"""Letters of a graph that stands in the settings themselves, at most; larger ones are an input."""

Implied = dict[str, int]
"""Word for an object -> how many nodes it has."""


def replaced(given: Mapping[Any, Any], implied: Implied) -> dict[Any, Any]:
    """Returns settings with plain data in place of Python objects, and full keys in place of the short words.

    Example:
        >>> import networkx
        >>> import numpy as np
        >>> from batchednodes.config.objects import replaced
        >>> nodes = {}
        >>> replaced({"graph": networkx.path_graph(3), "gossip.weight": np.array([0.5, 0.2, 0.1])}, nodes)
        {'network.topology': Adjacency(lists='0 1, 1 2', directed=False), 'gossip.weight': [0.5, 0.2, 0.1]}
        >>> nodes
        {'graph': 3}

    Args:
        given: nested settings, or by full keys.
        implied: gets the numbers of nodes that objects have.

    Raises:
        ValueError: an object is of no use there, or cannot be written down.
    """
    full = [(SHORT.get(key, key) if _stands_alone(value) else key, value) for key, value in given.items()]
    return {key: _value(value, str(key), implied) for key, value in full}


def _stands_alone(value: Any) -> bool:
    """Returns whether a value is an object or a setting made in Python; else a short word is taken for a mistake."""
    return _is_object(value) or (is_dataclass(value) and not isinstance(value, type))


def _value(value: Any, path: str, implied: Implied) -> Any:
    """Returns what stands for a value at a full key."""
    make = _MAKERS.get(path)
    if make is not None and _is_object(value):
        return make(value, implied)
    if isinstance(value, Mapping):
        return {key: _value(one, join(path, str(key)), implied) for key, one in value.items()}
    listed = getattr(value, "tolist", None)  # of an array, a tensor, a column
    return listed() if callable(listed) and not isinstance(value, type) else value


def _is_object(value: Any) -> bool:
    """Returns whether a value is neither plain data nor a setting."""
    if type(value).__module__.startswith("datasets."):  # some are mappings
        return True
    settings = is_dataclass(value) and not isinstance(value, type) and not _is_module(value)
    return not (settings or value is None or isinstance(value, Mapping | str | bool | int | float))


def _is_module(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _name(thing: Any, key: str) -> str:
    """Returns the name of a class or function; one that cannot be imported is written into an input of the run."""
    found = targets.name_of(thing)
    if found is not None:
        return found
    text = text_of([thing], key)
    code = inputs.keep("code", ".py", lambda path: path.write_text(text, encoding="utf-8"))
    return f"{code}:{thing.__name__}"


def _model(found: Any, _: Implied) -> dict[str, Any]:
    return {"kind": "python"} | _called(found, "model", "read", "an nn.Module, or a class or function that makes one")


def _loss(found: Any, _: Implied) -> dict[str, Any]:
    rule = "a function of outputs and targets, or an nn.Module that is called so"
    return {"kind": "function"} | _called(found, "loss", "Function", rule)


def _called(found: Any, key: str, reader: str, rule: str) -> dict[str, Any]:
    """Returns target and arguments of a module, by what reads it again, or of a class or function by its name."""
    if _is_module(found):
        return {"target": f"batchednodes.models.written:{reader}", "args": written.write(found, key)}
    args: dict[str, Any] = {}
    if isinstance(found, functools.partial) and not found.args:
        found, args = found.func, dict(found.keywords)
    if not isinstance(found, type | FunctionType | BuiltinFunctionType):
        raise ValueError(f"task.{key} must be {rule}, got {shown(found)}")
    return {"target": _name(found, key), "args": args}


def _data(found: Any, implied: Implied) -> Any:
    if isinstance(found, list):
        implied["data"] = len(found)
    return data.from_objects(found)


def _graph(found: Any, implied: Implied) -> Adjacency | EdgeList:
    if hasattr(found, "edges") and hasattr(found, "is_directed"):
        made, implied["graph"] = from_networkx(found), len(found)
    elif hasattr(found, "shape"):
        made, implied["graph"] = from_matrix(found), int(found.shape[0])
    else:
        rule = "graph must be one of networkx, a sparse matrix of SciPy, or an adjacency matrix"
        raise ValueError(f"{rule}, got {shown(found)}")
    if len(made.lists) <= LONGEST:
        return made
    lists = [one.split() for one in made.lists.split(",")]
    text = "".join(f"{first} {other}\n" for first, *others in lists for other in others)
    return EdgeList(inputs.keep("graph", ".txt", lambda path: path.write_text(text)), made.directed)


_MAKERS: dict[str, Callable[[Any, Implied], Any]] = {
    "task.model": _model,
    "task.data": _data,
    "network.topology": _graph,
    "task.loss": _loss,
}
"""Full key -> what makes the setting that an object stands for."""


def fill_(tree: dict[Any, Any], implied: Implied) -> None:
    """Gives settings the number of nodes that objects have.

    Args:
        tree: nested settings; changed.
        implied: see above.

    Raises:
        ValueError: they have, or the settings say, another one.
    """
    network = tree.setdefault("network", {})
    for word, n in implied.items():
        nodes = network.setdefault("nodes", n) if isinstance(network, dict) else n
        if nodes != n:
            raise ValueError(
                f"network.nodes must be {n}, as many as {word} has, got {shown(nodes)}; leave it out, or change {word}"
            )
