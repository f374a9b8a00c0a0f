"""What headers say of states is what is in them; and one wrong byte is found."""

import json
import os

import pytest
import torch
from test_resume import TINY, after, same_files

from batchednodes import resume, train
from batchednodes.results.checkpoints import checkpoint
from batchednodes.results.checkpoints.header import DamageError, check_whole, finite, header, newest_first
from batchednodes.results.folder.inside import Inside

CPU = torch.device("cpu")
KINDS = {
    "plain": [],
    "momentum": ["local.momentum=0.5", "update.applies=delta"],
    "messages": ["gossip.delay={kind: constant, time: 0.4}", "gossip.merge={kind: partitioned, parts: 3}"],
    "sweep": ["sweep.staleness.track=[2, 3]"],
    "bfloat16": ["dtype=bfloat16"],
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_header_is_that_of_the_snapshot(options, tmp_path):
    train(TINY, *options, out=tmp_path / "run", stop=after(9))
    paths = newest_first(Inside(tmp_path / "run"))
    assert len(paths) > 1
    found = [header(path) for path in paths]
    assert [one.age for one in found] == sorted((one.age for one in found), reverse=True)
    for path, one in zip(paths, found, strict=True):
        assert one == checkpoint.load(path, CPU).header
        check_whole(path)


def test_one_wrong_bit_of_a_tensor_or_of_what_is_said_is_found(tmp_path):
    train(TINY, out=tmp_path / "run")
    path, file = tmp_path / "run" / "final.safetensors", Inside(tmp_path / "run") / "final.safetensors"
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    for place in (8 + size, 8 + size + 1000, len(whole) - 1, whole.index(b"simulated") if b"simulated" in whole else 0):
        if place:
            damaged = bytearray(whole)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(DamageError, match="with another checksum: it is damaged"):
                check_whole(file)
    said = whole.replace(b'\\"status\\": \\"finished\\"', b'\\"status\\": \\"diverged\\"')
    assert said != whole
    path.write_bytes(said)
    assert header(file).journal.status == "diverged"  # which no one is to believe before
    with pytest.raises(DamageError):
        check_whole(file)


def test_what_diverged_is_not_among_the_finite(tmp_path):
    options = ["local.lr=1e30", "local.steps=3", "update.clock={kind: deterministic, period: 3}"]
    train(TINY, *options, out=tmp_path / "run")
    assert header(Inside(tmp_path / "run") / "final.safetensors").journal.status == "diverged"
    assert [path.parts[0] for path, _ in finite(Inside(tmp_path / "run"))] == ["checkpoints", "checkpoints"]


def test_others_may_read_what_they_may_read_of_the_settings(tmp_path):
    before = os.umask(0o027)
    try:
        train(TINY, out=tmp_path / "run")
    finally:
        os.umask(before)
    modes = {name: (tmp_path / "run" / name).stat().st_mode & 0o777 for name in ("config.yaml", "final.safetensors")}
    assert modes == {"config.yaml": 0o640, "final.safetensors": 0o640}


def test_a_header_without_its_parts_is_damaged(tmp_path):
    path = tmp_path / "a.safetensors"
    for about in ("3", "{", "{}", '{"time": 1, "nodes": [2], "journal": 3}'):
        head = json.dumps({"__metadata__": {"format": "batchednodes-4", "about": about}}).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head)
        with pytest.raises(DamageError, match=r"^checkpoint must .*a.safetensors: "):
            header(Inside(tmp_path) / "a.safetensors")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb"\"metrics\": [47", rb"\"metrics\": [4."),
        (rb"\"status\": \"interrupted\"", rb"\"status\": 3            "),
        (rb"\"until\": 6.0", rb"\"until\": 4.0"),
        (rb"\"marks\": 2", rb"\"marks\": []"[:12]),
    ],
)
def test_a_byte_that_is_wrong_in_a_header_costs_one_checkpoint(old, new, tmp_path):
    train(TINY, out=tmp_path / "whole")
    train(TINY, out=tmp_path / "run", stop=after(29))
    path = newest_first(Inside(tmp_path / "run"))[0].path
    content = path.read_bytes()
    new = new.ljust(len(old))[: len(old)]
    assert old[:10] in content
    place = content.index(old) if old in content else content.index(old[:-2])
    path.write_bytes(content[:place] + new + content[place + len(old) :])
    with pytest.warns(UserWarning, match=f"renamed to {path.name}.unusable, going on from the one before"):
        resume(tmp_path / "run")
    path.with_name(path.name + ".unusable").unlink()
    same_files(tmp_path / "whole", tmp_path / "run")


def test_a_run_starts_from_the_newest_models_that_are_whole(tmp_path):
    train(TINY, out=tmp_path / "run", stop=after(29))
    path, before = newest_first(Inside(tmp_path / "run"))[:2]
    content = path.read()
    for old, new in ((b"output", b"outpuT"), (rb"\"nodes\": [8]", rb"\"nodes\": [9]")):
        assert old in content
        path.path.write_bytes(content.replace(old, new))
        found = train(TINY, f"run.start_from={tmp_path / 'run'}").summary["start"]
        assert found["time"] == header(before).time
