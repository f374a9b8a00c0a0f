"""Files of events: TensorBoard reads what was written, and its own checksum agrees."""

import struct

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from torch.utils.tensorboard.summary import histogram_raw, scalar, text

from batchednodes.results.folder.inside import Inside
from batchednodes.results.folder.tensorboard import Board, _checksum


@pytest.mark.parametrize("size", [0, 1, 15, 4000])
def test_the_checksum_is_tensorboards(size):
    data = np.random.default_rng(size).bytes(size)
    assert struct.unpack("<I", _checksum(data))[0] == masked_crc32c(data)


def test_tensorboard_reads_what_was_written(tmp_path):
    board = Board(Inside(tmp_path) / "deep/er")
    board.add(text("config", "some words"))
    both = scalar("a/b", 1.5)
    both.MergeFrom(histogram_raw("h", 0.0, 2.0, 3, 3.0, 5.0, [1.0, 2.0], [1, 2]))
    board.add(both, 7)
    board.add(scalar("a/b", 2.5), 300_000)
    board.flush()
    (file,) = (tmp_path / "deep" / "er").iterdir()
    assert file.name.startswith("events.out.tfevents.")
    shown = EventAccumulator(str(tmp_path / "deep" / "er"), {"histograms": 0, "scalars": 0})
    shown.Reload()  # of a file that is still open: a run in progress
    assert [(e.step, e.value) for e in shown.Scalars("a/b")] == [(7, 1.5), (300_000, 2.5)]
    assert shown.Histograms("h")[0].histogram_value.bucket == [1, 2]
    assert shown.Tags()["tensors"] == ["config/text_summary"]
    board.close()
    other = Board(Inside(tmp_path) / "deep/er")  # a second file, not the same one
    other.close()
    assert len(list((tmp_path / "deep" / "er").iterdir())) == 1  # of nothing there is no file
    assert other.file.name > board.file.name  # as text, in which order TensorBoard reads them
    other.add(scalar("a/b", 3.5), 300_001)
    other.close()
    assert len(list((tmp_path / "deep" / "er").iterdir())) == 2


def test_names_of_files_have_the_order_in_which_they_were_begun(tmp_path):
    names = [Board(Inside(tmp_path)).file.name for _ in range(120)]
    assert names == sorted(names)


def test_what_follows_is_later_though_the_clock_was_set_back(tmp_path):
    first = Board(Inside(tmp_path))
    first.late, first.now = 3600.0, first.now + 3600.0  # as if it had followed a file of a clock an hour fast,
    first.now += 100.0  # and had gone on for a while
    first.add(scalar("a/b", 1.0), 1)
    first.close()
    second = Board(Inside(tmp_path), 2)
    second.add(scalar("a/b", 2.0), 2)
    second.close()
    shown = EventAccumulator(str(tmp_path)).Reload().Scalars("a/b")
    assert [event.step for event in shown] == [1, 2]
    assert shown[0].wall_time <= shown[1].wall_time
