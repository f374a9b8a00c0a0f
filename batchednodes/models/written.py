"""Modules as files: an `nn.Module` that a program has made, so that another process can have the same.

Not by pickle, which runs whatever a file says: a tree of plain data names the classes of modules and what each holds,
and tensors lie beside it. To read one makes modules of those classes, and nothing else, without calling them.
"""

import json
from collections import OrderedDict
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from batchednodes.numerics import inputs, targets
from batchednodes.numerics.inputs import located
from batchednodes.numerics.source_text import text_of
from batchednodes.numerics.values import shown

_LISTS = {"tuple": tuple, "list": list, "set": set, "size": torch.Size}
_MAPPINGS = {"dict": dict, "ordered": OrderedDict}
"""Words of the tree -> what holds other values."""


def write(module: nn.Module, key: str) -> dict[str, Any]:
    """Writes a module, and the text of those of its classes that cannot be imported, into inputs of a run.

    Example:
        >>> import torch
        >>> from batchednodes.models.written import read, write
        >>> args = write(torch.nn.Linear(2, 1), "task.model")
        >>> read(**args)
        Linear(in_features=2, out_features=1, bias=True)

    Args:
        module: as the nodes are to begin.
        key: the setting that it is for, for messages.

    Returns:
        The arguments of `read`.

    Raises:
        ValueError: it holds something that no file can.
    """
    tree = _Writer(key)
    tree.module(module, "")
    code = None
    if tree.own:
        text = text_of([*tree.own], key)
        code = inputs.keep("code", ".py", lambda path: path.write_text(text, encoding="utf-8"))
    meta = {"modules": json.dumps(tree.modules)}
    named = {f"{k}": t.detach().cpu().clone().contiguous() for k, t in enumerate(tree.tensors)}
    path = inputs.keep("module", ".safetensors", lambda path: path.write_bytes(save(named, meta)))
    return {"path": path, "code": code}


def read(path: str, code: str | None = None) -> nn.Module:
    """Returns the module of a file, a new one each time.

    Args:
        path: of the file.
        code: of the text of classes that cannot be imported.

    Raises:
        ValueError: a class is not there, or is none of modules.
    """
    with safe_open(located(path), "pt") as file:
        modules = json.loads(file.metadata()["modules"])
        reader = _Reader(path, code, [file.get_tensor(f"{k}") for k in range(len(file.keys()))])
    reader.modules += [reader.empty(one["class"]) for one in modules]
    for one, module in zip(modules, reader.modules, strict=True):
        module.__setstate__(reader.value(one["state"]))
    return reader.modules[0]


class Function:
    """A loss that is a module, as a function of outputs and targets."""

    def __init__(self, path: str, code: str | None = None) -> None:
        """Reads the module; arguments as of `read`."""
        self.module = read(path, code)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.module(outputs, targets)


class _Writer:
    """Turns modules into plain data; each module and tensor stands once, whoever holds it."""

    def __init__(self, key: str) -> None:
        self.key, self.modules, self.tensors = key, list[dict[str, Any]](), list[Tensor]()
        self.own, self.numbers, self.places = dict[Any, None](), dict[int, int](), dict[int, int]()

    def name(self, thing: Any) -> str:
        """Returns the name of a class or function; one that cannot be imported begins with a colon."""
        found = targets.name_of(thing)
        if found is None:
            self.own[thing] = None
        return found or f":{thing.__name__}"

    def module(self, module: nn.Module, path: str) -> int:
        """Returns the number of a module."""
        if id(module) in self.numbers:
            return self.numbers[id(module)]
        number = self.numbers[id(module)] = len(self.modules)
        entry: dict[str, Any] = {"class": self.name(type(module))}
        self.modules.append(entry)
        try:
            state: Any = module.__getstate__()
        except (Exception, SystemExit) as error:  # whatever the class raises
            raise self.refused(path, f"{type(error).__name__}: {error}") from error
        entry["state"] = self.value(state, path)
        return number

    def value(self, value: Any, path: str) -> Any:
        """Returns plain data that stand for a value."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, nn.Module):
            return {"module": self.module(value, path)}
        if isinstance(value, Tensor):
            return self.tensor(value)
        for word, kind in _LISTS.items():
            if type(value) is kind:
                return {word: [self.value(one, path) for one in value]}
        for word, kind in _MAPPINGS.items():
            if type(value) is kind:
                return {word: [[self.value(key, path), self.value(v, f"{path}.{key}")] for key, v in value.items()]}
        if isinstance(value, torch.dtype | torch.device):
            return {type(value).__name__: str(value).removeprefix("torch.")}
        if isinstance(value, type | FunctionType | BuiltinFunctionType):
            return {"name": self.name(value)}
        raise self.refused(path, f"a {type(value).__name__}, {shown(value)}")

    def tensor(self, value: Tensor) -> dict[str, Any]:
        """Returns what stands for a tensor."""
        if id(value) not in self.places:
            self.places[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return {"tensor": self.places[id(value)], "parameter": isinstance(value, nn.Parameter),
                "trained": value.requires_grad}  # fmt: skip

    def refused(self, path: str, got: str) -> ValueError:
        """Returns the error of a module that holds something else."""
        rule = "hold numbers, texts, tensors, lists and modules only, which a folder of a run can keep"
        fix = "give the class, or a function that makes the module"
        return ValueError(f"{self.key} must {rule}, got {path.lstrip('.') or 'the module'}: {got}; {fix}")


class _Reader:
    """Turns plain data back."""

    def __init__(self, path: str, code: str | None, tensors: list[Tensor]) -> None:
        self.path, self.code, self.tensors = path, code, tensors
        self.modules, self.made = list[nn.Module](), dict[int, Tensor]()

    def named(self, name: str) -> Any:
        """Returns a class or function by its name."""
        return targets.imported(f"{self.code}{name}" if name.startswith(":") else name, f"what {self.path} names")

    def empty(self, name: str) -> nn.Module:
        """Returns a module of a class, which holds nothing yet."""
        cls = self.named(name)
        if not isinstance(cls, type) or not issubclass(cls, nn.Module):
            raise ValueError(f"{shown(self.path)} must name classes of modules, got {shown(name)}")
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        return made

    def value(self, data: Any) -> Any:
        """Returns the value that plain data stand for."""
        if not isinstance(data, dict):
            return data
        (word, held), *_ = data.items()
        if word in _LISTS:
            return _LISTS[word](self.value(one) for one in held)
        if word in _MAPPINGS:
            return _MAPPINGS[word]((self.value(a), self.value(b)) for a, b in held)
        if word == "tensor" and held not in self.made:
            plain = self.tensors[held]
            self.made[held] = nn.Parameter(plain, data["trained"]) if data["parameter"] else plain
        single: dict[str, Callable[[Any], Any]] = {
            "tensor": lambda k: self.made[k],
            "module": lambda k: self.modules[k],
            "dtype": lambda name: getattr(torch, name),
            "device": torch.device,
            "name": self.named,
        }
        return single[word](held)
