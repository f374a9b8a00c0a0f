"""Changes: how two configs differ, and which differences a run can go on with."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from batchednodes import config
from batchednodes.config import Config, Override
from batchednodes.config.sweep import NetworkSpec, leaves
from batchednodes.numerics.values import shown
from batchednodes.results.checkpoints.header import (
    DamageError,
    Header,
    believing,
    check_rows,
    finite,
    header,
    newest_first,
)
from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.paths import CONFIG
from batchednodes.simulation.resume import input_files

_GOES_ON = (
    "run.until",
    "run.stop_when",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.checkpoint_folder",
    "run.baseline",
    "run.loggers",
    "device",
)
"""Settings, and sections, that may change when a run is resumed: the events so far stay what they were."""


Files = Mapping[str, str]
"""Path and checksum of files."""

_KEPT = ("task.model",)
"""Section that must not change when a run starts from another's models."""

_DRAWN = ("task.model.init",)
"""What may change of it all the same: how models would be drawn."""


class DivergedError(ValueError):
    """A run diverged, so that it cannot go on."""


def between(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Returns the settings that differ between two configs as plain data, each with its old and its new value."""
    before, after = dict(leaves(old)), dict(leaves(new))
    before |= {key: value for key, value in leaves(config.to_dict(Config())) if key in after and _is_later(key, before)}
    keys = [*after, *(key for key in before if key not in after)]
    return {key: [before.get(key), after.get(key)] for key in keys if before.get(key) != after.get(key)}


def _is_later(key: str, before: Mapping[str, Any]) -> bool:
    """Returns whether a setting is one that the version of a run did not have yet, so that its default held."""
    section = key.rpartition(".")[0]
    return key not in before and f"{section}.kind" not in before and not any(k.startswith(f"{key}.") for k in before)


def words(changed: Mapping[str, list[Any]]) -> str:
    """Returns changes in words: "local.lr 0.1 -> 0.01, ..."."""
    some = [f"{key} {shown(old)} -> {shown(new)}" for key, (old, new) in [*changed.items()][:10]]
    return ", ".join(some) + (", ..." if len(changed) > 10 else "")


def check_resumed(old: Mapping[str, Any], new: Mapping[str, Any], time: float) -> None:
    """Checks that a run which has come to some time may go on with other settings.

    Args:
        old: settings so far, as plain data.
        new: settings from now on.
        time: simulated time that the run has reached [s].

    Raises:
        ValueError: a setting must not change, or the run is past its new end.
    """
    for key, (before, after) in between(old, new).items():
        if not inside(key, _GOES_ON):
            raise ValueError(
                f"{key} must not change when a run is resumed ({', '.join(_GOES_ON)} may), got {shown(after)} instead "
                f"of {shown(before)}; `batchednodes train CONFIG --from DIR` starts from the run's models with other "
                "settings"
            )
    if new["run"]["until"] < time:
        raise ValueError(
            f"run.until must be at least what the run has reached, {time:g} [s], got {new['run']['until']}"
        )


def check_goes_on(folder: Inside, found: Header, settings: Config, points: Sequence[NetworkSpec], files: Files) -> None:
    """Checks that a run can go on from a state.

    Args:
        folder: of the run.
        found: what the state is.
        settings: from now on.
        points: the networks that they stand for.
        files: path and checksum of each file that they name.

    Raises:
        DivergedError: models are not finite.
        ValueError: a setting, or a file, must not change, or the run is past its new end.
    """
    check_resumed(found.journal.config, config.to_dict(settings), found.reached)
    if found.journal.status == "diverged":
        raise DivergedError(f"DIR must hold a run that can go on, got {str(folder)!r}, which diverged{_again(folder)}")
    input_files.check(points, found.journal.files, files)


def _again(folder: Inside) -> str:
    """Returns what helps where a run diverged."""
    if next(finite(folder), None) is None:
        return "; to begin again with other settings: `batchednodes train CONFIG local.lr=...`"
    again = f"batchednodes train CONFIG --from {shlex.quote(str(folder))} local.lr=..."
    return f"; to start from its last finite models with other settings: `{again}`"


def check_resumable(folder: Inside, settings: Config, points: Sequence[NetworkSpec], files: Files) -> None:
    """Checks that a run can go on from its latest state, as far as headers of files say; arguments as above.

    Raises:
        ValueError: it cannot, and the file that says so is whole; or another version of batchednodes wrote it.
        OSError: a file cannot be read.
    """
    for path in newest_first(folder):
        with suppress(DamageError):
            found = header(path)
            if not _has_metrics(folder, found):
                continue
            with believing(path):
                check_goes_on(folder, found, settings, points, files)
            return


def _has_metrics(folder: Inside, found: Header) -> bool:
    try:
        check_rows(folder, found)
    except ValueError:
        return False
    return True


def reopened(folder: str | Path, overrides: Sequence[Override]) -> Config:
    """Returns the settings of a run in a folder with some changes, with which it can go on.

    Args:
        folder: of the run.
        overrides: settings to change, as of `config.load`.

    Raises:
        ValueError: the folder holds no run, or a setting must not change.
    """
    place = Path(folder)
    file = Inside(place) / CONFIG
    if not file.is_file():
        raise ValueError(f"DIR must be the folder of a run, got {str(folder)!r} without a config.yaml")
    old = config.load(file.path)
    if not file.read().strip():  # which is all defaults
        raise ValueError(
            f"DIR must hold the settings of a run, got {shown(str(place))} with an empty config.yaml; put back "
            "those that it was started with"
        )
    settings = config.load(old, overrides)
    check_resumed(config.to_dict(old), config.to_dict(settings), 0.0)
    return settings


def check_start(settings: Config, sizes: Sequence[int], p: int | None, found: Header) -> dict[str, list[Any]]:
    """Checks that a run may start from the models of another one.

    Args:
        settings: of the new run.
        sizes: nodes of its networks.
        p: parameters of its models; None: not known.
        found: what the other run's state is.

    Returns:
        The settings that differ, each with the other run's value and the new one.

    Raises:
        ValueError: its models or networks are of another kind or size.
    """
    changed = between(found.journal.config, config.to_dict(settings))
    for key, (before, after) in changed.items():
        if inside(key, _KEPT) and key not in _DRAWN:
            raise ValueError(
                f"{key} must be that of the run that run.start_from names, {shown(before)}, got {shown(after)}; models "
                "of another kind cannot be taken over"
            )
    if p is not None and p != found.p:
        raise ValueError(
            f"run.start_from must name a run of models with {p} parameters, got {found.p}; did the data's features or "
            "classes change?"
        )
    one = len(found.sizes) == 1 and all(n == found.sizes[0] for n in sizes)
    if not one and tuple(sizes) != found.sizes:
        fix = "" if found.sizes[0] in sizes else f" (network.nodes={found.sizes[0]}?)"
        raise ValueError(
            f"run.start_from must name a run of networks with {_listed(sizes)} nodes, got {_listed(found.sizes)}{fix}; "
            "or of one such network, which then serves all"
        )
    changed.pop("run.start_from", None)
    return changed


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(str(n) for n in sizes[:10]) + (", ..." if len(sizes) > 10 else "")


def inside(key: str, sections: Sequence[str]) -> bool:
    """Returns whether a setting is one of some settings, or in one of some sections."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)
