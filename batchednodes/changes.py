"""Changes: how two configs differ, and which differences a run can go on with.

Letters: none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchednodes import config
from batchednodes.config import Config
from batchednodes.sweep import leaves
from batchednodes.values import shown

_GOES_ON = ("run.until", "run.checkpoint_every", "run.keep_checkpoints", "run.baseline", "device")
"""Settings, and sections, that may change when a run is resumed: the events so far stay what they were."""


def between(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Returns the settings that differ between two configs as plain data, each with its old and its new value."""
    before, after = dict(leaves(old)), dict(leaves(new))
    keys = [*after, *(key for key in before if key not in after)]
    return {key: [before.get(key), after.get(key)] for key in keys if before.get(key) != after.get(key)}


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


def reopened(folder: str | Path, overrides: Sequence[str]) -> Config:
    """Returns the settings of a run in a folder with some changes, with which it can go on.

    Args:
        folder: of the run.
        overrides: settings to change, "run.until=200".

    Raises:
        ValueError: the folder holds no run, or a setting must not change.
    """
    place = Path(folder)
    if not (place / "config.yaml").is_file():
        raise ValueError(f"DIR must be the folder of a run, got {str(folder)!r} without a config.yaml")
    old = config.load(place / "config.yaml")
    settings = config.load(old, overrides)
    check_resumed(config.to_dict(old), config.to_dict(settings), 0.0)
    return settings


def inside(key: str, sections: Sequence[str]) -> bool:
    """Returns whether a setting is one of some settings, or in one of some sections."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)
