"""Release: the version of this package, of an installation or of a checkout that is not installed."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def release() -> str:
    """Returns the version of this package.

    Example:
        >>> import batchednodes
        >>> from batchednodes.numerics.release import release
        >>> release() == batchednodes.__version__
        True
    """
    try:
        return version("batchednodes")
    except PackageNotFoundError:
        with (Path(__file__).parents[2] / "pyproject.toml").open("rb") as file:
            return tomllib.load(file)["project"]["version"]
