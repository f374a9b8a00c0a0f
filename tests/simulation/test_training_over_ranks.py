"""Runs over ranks equal those of one process, also where they halt and go on with other numbers of ranks."""

import json

import pytest
from folders import differences
from ranks import run

from batchednodes import resume, train

LINEAR = {"network": {"nodes": 12}, "run": {"until": 6, "mark_every": 2, "checkpoint_every": {"time": 3}}}
"""One network, which ranks hold together."""
PLAIN = LINEAR | {"local.compile": "off"}
DELAYED = PLAIN | {
    "gossip.delay": {"kind": "exponential", "mean": 0.3},
    "run.node_metrics": True,
    "run.baseline": "isolated",
}
SWEEP = PLAIN | {"sweep": {"gossip.clock.rate": [1, 2, 3]}, "run.baseline": "isolated"}
"""More networks than ranks, with a run of isolated nodes after it."""
STOPPED = PLAIN | {"run.stop_when": {"metric": "loss_mean", "below": 0.3}, "run.on_divergence": "quarantine"}


@pytest.mark.slow
def test_two_ranks_leave_what_one_leaves_and_their_halted_runs_go_on_anywhere(tmp_path):
    """One start of ranks for all: whole runs, and two that halt because the second rank asks for it."""
    whole = {"linear": LINEAR, "delayed": DELAYED, "sweep": SWEEP, "stopped": STOPPED}
    cases = [(name, settings, str(tmp_path / name), None) for name, settings in whole.items()]
    cases += [("halted", DELAYED, str(tmp_path / "halted"), 12), ("gone on", None, str(tmp_path / "halted"), 6)]
    cases += [("paused", SWEEP, str(tmp_path / "paused"), 3), ("alone", LINEAR, None, None)]
    said = run(2, "runs_over_ranks.py", json.dumps(cases))
    first = {one["case"]: one for one in said if one["rank"] == 0}
    others = {one["case"]: one for one in said if one["rank"] == 1}
    ended = {"stopped": "stopped", "halted": "interrupted", "gone on": "interrupted", "paused": "interrupted"}
    for case, one in first.items():
        assert one["status"] == ended.get(case, "finished"), case
        assert one["ranks"] == 2
        assert one["shape"][0] in (12, 36)
        assert others[case] | {"rank": 0, "shape": 0, "sum": 0} == one | {"shape": 0, "sum": 0}
        assert others[case]["shape"][0] == 0
    for name, settings in whole.items():
        train(settings, out=tmp_path / "one" / name)
        assert differences(tmp_path / "one" / name, tmp_path / name) == [], name
    assert first["alone"]["sum"] == first["linear"]["sum"]
    assert resume(tmp_path / "halted").summary["status"] == "finished"
    assert differences(tmp_path / "one" / "delayed", tmp_path / "halted") == []
    run(3, "runs_over_ranks.py", json.dumps([("paused", None, str(tmp_path / "paused"), None)]))
    assert differences(tmp_path / "one" / "sweep", tmp_path / "paused") == []
