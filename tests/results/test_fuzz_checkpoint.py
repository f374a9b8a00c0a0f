"""Checkpoints that are well signed but wrong inside: named as damaged, or harmless; never a traceback or a crash."""

import copy
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from test_resume import TINY, after, same_files

from batchednodes import config, resume, train
from batchednodes.config import sweep
from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.checkpoints import header as states
from batchednodes.results.checkpoints.header import DamageError, check_rows, header, newest_first
from batchednodes.results.folder.inside import Inside
from batchednodes.simulation.resume.rules import check_goes_on

CPU = torch.device("cpu")


def nested(levels):
    """Returns a list in a list, and so on."""
    value = []
    for _ in range(levels):
        value = [value]
    return value


GONE = object()
WRONG = [GONE, None, True, -1, 0, 7, 2.5, 1e300, math.nan, math.inf, 1 << 63, 10**400]
WRONG += ["", "3", [], ["cpu"], {}, {"a": 1}, nested(500)]
FEW = [GONE, None, -1, math.nan, "text", {}, nested(500)]


@pytest.fixture(scope="module")
def halted(tmp_path_factory):
    """Returns a run that was halted, resumed and halted again, with all that a checkpoint may hold."""
    place = tmp_path_factory.mktemp("halted")
    train(TINY, "local.momentum=0.5", out=place / "first")
    options = [f"run.start_from={place / 'first'}", "run.keep_checkpoints=3", "run.checkpoint_every.time=1"]
    options += ["gossip.merge={kind: partitioned, parts: 3}", "gossip.delay={kind: constant, time: 0.4}"]
    options += ["local.momentum=0.5", "run.mark_every=0.5"]
    train(TINY, *options, out=place / "whole")
    train(TINY, *options, out=place / "run", stop=after(9))
    resume(place / "run", stop=after(19))
    about = said(newest_first(Inside(place / "run"))[0].path)["__metadata__"]["about"]
    assert about["time"] > 3
    assert all(about["journal"][name] for name in ("curves", "resumed", "start", "devices", "end", "metrics"))
    assert {"age", "v"} < {*about["state"]}
    return place


def said(path):
    """Returns the header of a file, with what it says of its state as plain data."""
    content = path.read_bytes()
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    head["__metadata__"]["about"] = json.loads(head["__metadata__"]["about"])
    return head


def written(head, content, path):
    """Writes a file with another header, signed if it can be read at all."""
    body = content[8 + int.from_bytes(content[:8], "little") :]
    for sign in (False, True):
        held = {**head}
        metadata = held.get("__metadata__")
        if isinstance(metadata, dict):
            metadata = {**metadata}
            if not isinstance(metadata.get("about", ""), str):
                metadata["about"] = json.dumps(metadata["about"])
            if sign:
                rest = {name: text for name, text in metadata.items() if name != "sha256"}
                try:
                    metadata["sha256"] = states.checksum(states._parts(Inside(path.parent) / path.name), rest)
                except (LookupError, TypeError, ValueError, AttributeError, OSError):
                    return
            held["__metadata__"] = metadata
        text = json.dumps(held).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def places(value, path=()) -> Iterator[tuple]:
    """Yields the way to each part of plain data, and to the whole."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def changed(head, path, value):
    """Returns a header in which one part is another."""
    head = copy.deepcopy(head)
    *way, last = path
    place = head
    for key in way:
        place = place[key]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return head


def at(head, path):
    for key in path:
        head = head[key]
    return head


@pytest.mark.slow
def test_what_headers_say_is_true_or_damage(halted, tmp_path):
    """Of each part of a header, with every third wrong value, others at each."""
    run, target = Inside(halted / "run"), Inside(tmp_path) / "a.safetensors"
    file = newest_first(run)[0]
    content, head = file.read(), said(file.path)
    settings = config.load(halted / "run" / "config.yaml")
    points, damaged, harmless = sweep.points(settings), 0, {}
    for k, path in enumerate(places(head)):
        if not path or path[-1] == "sha256":
            continue
        plain = {"config", "changed"} & {*path[:-1]}  # settings as plain data, which are only compared and shown
        values = FEW if plain or path[0] != "__metadata__" else WRONG
        for value in values[k % 3 :: 3]:
            if value is not GONE and repr(value) == repr(at(head, path)):
                continue
            written(changed(head, path, value), content, target.path)
            try:
                snapshot = checkpoint.load(target, CPU)
                assert header(target) == snapshot.header
                check_goes_on(run, snapshot.header, settings, points, {})
                check_rows(run, snapshot.header)
                harmless |= {} if plain else {path: value}
            except ValueError as error:
                damaged += isinstance(error, DamageError)
    assert damaged > 700
    assert len(harmless) > 10
    for path, value in harmless.items():
        place = shutil.copytree(halted / "run", tmp_path / "run")
        written(changed(head, path, value), content, place / "checkpoints" / file.name)
        said_otherwise = (path[-1] == "done" and value is not GONE) or "state" in path
        with pytest.raises(ValueError, match=r"steps done$|fit the settings") if said_otherwise else nullcontext():
            assert resume(place).summary["status"] == "finished"
        shutil.rmtree(place)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("chunks",), "text"),
        (("chunks", "update"), -1),
        (("chunks", "more"), 1),
        (("devices",), []),
        (("threads",), 1 << 30),
        (("seconds",), math.nan),
        (("end",), "5.5"),
    ],
    ids=str,
)
def test_the_one_before_a_damaged_one_is_used(path, value, halted, tmp_path):
    place = shutil.copytree(halted / "run", tmp_path / "run")
    file = newest_first(Inside(place))[0]
    written(changed(said(file.path), ("__metadata__", "about", "journal", *path), value), file.read(), file.path)
    goes_on_from_the_one_before(place, file, halted)


@pytest.mark.parametrize("levels", [150, 900, 100_000])
def test_what_is_nested_too_deep_is_damaged(levels, halted, tmp_path):
    place = shutil.copytree(halted / "run", tmp_path / "run")
    file = newest_first(Inside(place))[0]
    head = said(file.path)
    text = json.dumps(changed(head["__metadata__"]["about"], ("journal", "config", "name"), "HERE"))
    head["__metadata__"]["about"] = text.replace('"HERE"', "[" * levels + "]" * levels)
    written(head, file.read(), file.path)
    goes_on_from_the_one_before(place, file, halted)


def goes_on_from_the_one_before(place, file, halted):
    """Resumes a run of which one state is damaged, and compares it with the same run left alone."""
    with pytest.warns(
        UserWarning, match=rf"checkpoint must hold all that .*{file.name}.*, going on from the one before"
    ):
        resume(place)
    file.path.with_name(f"{file.name}.unusable").unlink()
    same_files(halted / "whole", place)
