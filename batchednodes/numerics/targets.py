"""Names of Python objects of the user's own: "package.module:name", or "path/to/file.py:name".

A module is found from the working directory, too; a file is loaded as a module whose name is its path as it is written,
so that the name of what it defines leads back to it.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from batchednodes.numerics.inputs import located
from batchednodes.numerics.values import shown


def check(target: str, rule: str = '"package.module:name"') -> None:
    """Raises ValueError unless a text has the form of a name of a Python object; rule: that form, in words."""
    if target.count(":") != 1 or not all(target.split(":")):
        raise ValueError(f"target must be {rule}, got {shown(target)}")


def imported(target: str, key: str) -> Any:
    """Returns the object of a name; its module is imported, which runs it.

    Example:
        >>> from batchednodes.numerics.targets import imported
        >>> imported("math:sqrt", "task.model.target")(9.0)
        3.0
        >>> imported("math:root", "task.model.target")
        Traceback (most recent call last):
            ...
        ValueError: task.model.target must be importable, got 'math:root': AttributeError: module 'math' has no ...

    Args:
        target: the name, as `check` wants it.
        key: path of the setting that holds it, for messages.

    Raises:
        ValueError: there is no such object, or its module raises when it is imported.
    """
    name, attribute = target.split(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found: Any = _file(name) if name.endswith(".py") else importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # whatever the user's module raises when it is imported
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{key} must be importable, got {shown(target)}: {reason}") from error
    finally:
        sys.path.remove(here)
    return found


def _file(name: str) -> ModuleType:
    """Returns the module of a file, loaded once for each place that its path leads to."""
    place, known = Path(located(name)).resolve(), sys.modules.get(name)
    if known is not None and known.__file__ == str(place):
        return known
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as `import` does: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def name_of(thing: Any) -> str | None:
    """Returns the name by which a class or function can be imported again, in another process too; None: by none.

    Example:
        >>> from collections import Counter
        >>> from batchednodes.numerics.targets import name_of
        >>> name_of(Counter), name_of(type("Mine", (), {}))
        ('collections:Counter', None)
    """
    module, path = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str) or module == "__main__":
        return None
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return f"{module}:{path}" if found is thing else None


def is_own(cls: type) -> bool:
    """Returns whether a class is the user's, or a figure's, which settings name as the user's; else it is a kind."""
    package, _, inside = cls.__module__.partition(".")
    return package != "batchednodes" or inside.startswith("figures.")


def returned(
    found: Any, kinds: tuple[type, ...], owner: object, method: str, key: str, **sizes: tuple[int, ...]
) -> Any:
    """Returns what a method of a kind of the user's own returned, once it is seen to be what callers go by.

    Args:
        found: what it returned.
        kinds: classes, one of which it is to be.
        owner: whose method it is.
        method: its name.
        key: section where the kind stands.
        sizes: shapes of arrays that are to be attributes of it.

    Raises:
        ValueError: it is something else.
    """
    if not is_own(type(owner)):
        return found
    said = (
        f"{key} must be a kind that works, got {type(owner).__module__}:{type(owner).__qualname__}, {method}() of which"
    )
    if not isinstance(found, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{said} must return {names}, returned {type(found).__name__}")
    for name, shape in sizes.items():
        got = getattr(getattr(found, name), "shape", None)
        if got != shape:
            words = "no array" if got is None else f"one of shape {list(got)}"
            raise ValueError(f"{said} must return {name} of shape {list(shape)}, returned {words}")
    return found
