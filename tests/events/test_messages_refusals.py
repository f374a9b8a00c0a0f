"""What messages, rounds, churn and availability refuse: every rule, with the whole of its message."""

import re

import pytest

from batchednodes import load
from batchednodes.simulation.build import assembly
from batchednodes.simulation.planning.plan import screen

PARTITIONED = "gossip.merge={kind: partitioned, parts: 2, divide_step: true}"
MEETS = "gossip.exchange=meet"


def refused(message, *overrides):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        load({}, ["network.nodes=10", *overrides])


@pytest.mark.parametrize("setting", [
    "gossip.delay={kind: constant}", "gossip.loss={kind: independent}", "network.availability={kind: per_message}",
    "timing={kind: rounds}", "gossip.on_receipt=merge_update", "gossip.exchange=push_pull",
    "gossip.flow={kind: simple}", "gossip.merge={kind: mean}", "network.churn={join: 1}",
])  # fmt: skip
def test_schemes_other_than_uniform_have_no_messages(setting):
    rule = (
        "gossip.scheme.kind must be uniform where messages take time, get lost, find nobody or are more than merged, "
    )
    refused(rule + "or time goes by rounds; use kind uniform", "gossip.scheme={kind: freshest}", setting)


@pytest.mark.parametrize(
    ("message", "overrides"),
    [
        ("gossip.reply must be after unless gossip.exchange=push_pull; leave it out", ["gossip.reply=before"]),
        ("gossip.delay.kind must be none with gossip.exchange=meet, which happens at one instant; use exchange "
         "push_pull", [MEETS, "gossip.delay={kind: constant}"]),
        ("gossip.merge.kind must be fixed or mean with gossip.exchange=meet; use exchange push_pull",
         [MEETS, "gossip.merge={kind: limited}"]),
        ("gossip.on_receipt must be merge or merge_update with gossip.exchange=meet; use exchange push_pull",
         [MEETS, "gossip.on_receipt=update_merge"]),
        ("network.churn.start must be fresh with gossip.exchange=meet; use exchange push_pull",
         [MEETS, "network.churn={join: 1, start: neighbour}"]),
        ("gossip.fifo must be false where messages take no time; set gossip.delay", ["gossip.fifo=true"]),
        ("gossip.flow.kind must be none unless gossip.exchange=push; use exchange push",
         ["gossip.exchange=pull", "gossip.flow={kind: simple}"]),
        ("update.applies must be at_completion where nodes train when a model comes; use gossip.on_receipt=merge",
         ["update.applies=delta", "gossip.on_receipt=merge_update"]),
        ("gossip.merge.divide_step must be false with update.applies=delta, whose model is younger than its node; use "
         "at_completion", ["update.applies=delta", PARTITIONED]),
        ("gossip.merge.divide_step must be false with local.compile=on; use local.compile=auto",
         ["local.compile='on'", PARTITIONED]),
        ("run.on_divergence must be stop or ignore where nodes train models that come; use "
         "gossip.on_receipt=merge_update", ["run.on_divergence=quarantine", "gossip.on_receipt=update"]),
        ("update.while_off must be continue where nodes are never off; set network.availability",
         ["update.while_off=pause"]),
        ("update.while_off must be continue where nodes are never off; set network.availability",
         ["update.while_off=pause", "network.availability={kind: per_message}"]),
        ("gossip.clock must be left out with timing.kind=rounds, which says when nodes make contact; set timing.steps",
         ["timing={kind: rounds}", "gossip.clock.rate=2"]),
        ("gossip.merge must be left out, or of kind sampled or partitioned, with gossip.on_receipt=update, which takes "
         "a model that comes in place of its own; use update_merge",
         ["gossip.on_receipt=update", "gossip.merge={kind: mean}"]),
        ("gossip.weight must be left out where a model that comes does not count by it; use gossip.merge.kind fixed, "
         "sampled or staleness_weighted", ["gossip.weight=0.3", "gossip.merge={kind: age_weighted}"]),
        ("gossip.weight must be left out where a model that comes does not count by it; use gossip.merge.kind fixed, "
         "sampled or staleness_weighted", ["gossip.weight=0.3", "gossip.on_receipt=update"]),
        ("network.churn.start must be fresh where no node joins late; set network.churn.join",
         ["network.churn.start=neighbour"]),
        ("update.while_off must be continue with update.clock.kind=never; set update.clock",
         ["update.while_off=pause", "network.availability={kind: markov}", "update.clock.kind=never"]),
        ("run.baseline must be none where nodes train only when a model comes; set update.clock",
         ["run.baseline=isolated", "gossip.on_receipt=merge_update", "update.clock.kind=never"]),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_each_other_are_refused(message, overrides):
    refused(message, *overrides)


@pytest.mark.parametrize(
    ("message", "overrides"),
    [
        ("delay.time must be at least 0 and finite [s], got -1.0", ["delay={kind: constant, time: -1}"]),
        ("delay.high must be at least gossip.delay.low, got 1 and 2 [s]", ["delay={kind: uniform, low: 2, high: 1}"]),
        ("delay.low must be at least 0 and finite [s], got -1.0", ["delay={kind: uniform, low: -1}"]),
        ("delay.mean must be at least 0 and finite [s], got -1.0", ["delay={kind: exponential, mean: -1}"]),
        ("delay.median must be positive and finite [s], got 0.0", ["delay={kind: lognormal, median: 0}"]),
        ("delay.sigma must be in [0, 5], got 6.0", ["delay={kind: lognormal, sigma: 6}"]),
        ("delay.rate must be positive and finite [B/s], got 0.0", ["delay={kind: bandwidth, rate: 0}"]),
        ("delay.spread must be in [0, 5], got 6.0", ["delay={kind: bandwidth, spread: 6}"]),
        ("delay.latency must be at least 0 and finite [s], got -1.0", ["delay={kind: bandwidth, latency: -1}"]),
        ("loss.probability must be in [0, 1], got 2.0", ["loss={kind: independent, probability: 2}"]),
        *((f"loss.{name} must be in [0, 1], got -1.0", [f"loss={{kind: bursts, {name}: -1}}"])
          for name in ("good", "bad", "good_to_bad", "bad_to_good")),
        *(("flow.capacity must be an integer in [0, 10000], got -1", [f"flow={{kind: {kind}, capacity: -1}}"])
          for kind in ("simple", "generalized", "randomized")),
        *(("flow.spend must be an integer in [1, 10000], got 0", [f"flow={{kind: {kind}, spend: 0}}"])
          for kind in ("generalized", "randomized")),
        *(("flow.capacity must be at least spend = 3, got 2", [f"flow={{kind: {kind}, capacity: 2, spend: 3}}"])
          for kind in ("generalized", "randomized")),
        ("merge.limit must be an integer in [0, 9007199254740992], got -1", ["merge={kind: limited, limit: -1}"]),
        ("merge.parts must be an integer in [1, 1024], got 0", ["merge={kind: partitioned, parts: 0}"]),
        ("merge.parts must be an integer in [1, 1024], got 1025", ["merge={kind: partitioned, parts: 1025}"]),
        ("merge.share must be in (0, 1], got 0.0", ["merge={kind: sampled, share: 0}"]),
        ("merge.exponent must be at least 0 and finite, got -1.0", ["merge={kind: staleness_weighted, exponent: -1}"]),
    ],
)  # fmt: skip
def test_what_is_out_of_range_for_messages_is_refused(message, overrides):
    refused(f"gossip.{message}", *(f"gossip.{one}" for one in overrides))


@pytest.mark.parametrize(
    ("message", "override"),
    [
        ("availability.probability must be in [0, 1], got 1.5", "availability={kind: per_message, probability: 1.5}"),
        ("availability.mean_on must be positive and finite [s], got 0.0", "availability={kind: markov, mean_on: 0}"),
        ("availability.mean_off must be positive and finite [s], got 0.0", "availability={kind: markov, mean_off: 0}"),
        ("availability.period must be positive and finite [s], got 0.0", "availability={kind: diurnal, period: 0}"),
        ("availability.share must be in (0, 1), got 1.0", "availability={kind: diurnal, share: 1}"),
        ("churn.join must be at least 0 and finite [s], got -1.0", "churn={join: -1}"),
        ("churn.leave must be positive and finite [s], got 0.0", "churn={leave: 0}"),
        ("churn.leave must be later than network.churn.join, got 1 and 2 [s] at node 0", "churn={join: 2, leave: 1}"),
    ],
)
def test_what_is_out_of_range_for_nodes_is_refused(message, override):
    refused(f"network.{message}", f"network.{override}")


def test_rounds_have_steps_and_delays_a_whole_number_of_them():
    refused("timing.steps must be an integer in [1, 1000000000], got 0", "timing={kind: rounds, steps: 0}")
    message = "gossip.delay must allow a whole number of steps with timing.kind=rounds, got 0.2 .. 0.8 [s]"
    refused(message, "timing={kind: rounds}", "gossip.delay={kind: uniform, low: 0.2, high: 0.8}")


def timeline_refused(message, *lists):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        assembly.timeline([load({}, ["network.nodes=10", *one]) for one in lists])


def test_networks_of_a_batch_have_messages_of_one_size_and_uniform_schemes():
    message = (
        "sweep.gossip.merge must keep which part of a model a message brings, and whether its age divides the step, "
        "got networks of [(1, 0.5, False), (4, 1.0, False)] (parts, share, divided); run separate commands for them"
    )
    timeline_refused(
        message, ["gossip.merge={kind: sampled, share: 0.5}"], ["gossip.merge={kind: partitioned, divide_step: false}"]
    )
    one = "gossip.merge={kind: partitioned, divide_step: "
    message = message.replace("(1, 0.5, False), (4, 1.0, False)", "(4, 1.0, False), (4, 1.0, True)")
    timeline_refused(message, [one + "false}"], [one + "true}"])
    timeline_refused(
        "sweep.gossip.scheme must be of kind uniform in every network where some have messages under way, got "
        "'Freshest'; run separate commands for them",
        ["gossip.delay={kind: constant}"],
        ["gossip.scheme.kind=freshest"],
    )


def test_a_model_has_as_many_parts_as_parameters_at_most():
    message = "gossip.merge.parts must be at most the 11 parameters of the model, got 12"
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        screen([load({}, ["network.nodes=10", "gossip.merge={kind: partitioned, parts: 12}"])])


def test_nodes_change_between_on_and_off_a_bounded_number_of_times():
    rule = "network.availability must let nodes change at most 1e+08 times in a run, or 100 times an event, got"
    message = f"{rule} 2e+10 changes; make its times longer [s]"
    timeline_refused(message, ["network.availability={kind: markov, mean_on: 5e-9, mean_off: 5e-9}"])
    timeline_refused(message, ["network.availability={kind: diurnal, period: 1e-8}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1,0,1", "must have lines of a time from 0 on, a node of 0 .. 9, and 0 or 1, got '-1 0 1' in"),
        ("1,10,1", "must have lines of a time from 0 on, a node of 0 .. 9, and 0 or 1, got '1 10 1' in"),
        ("1,0.5,1", "must have lines of a time from 0 on, a node of 0 .. 9, and 0 or 1, got '1 0.5 1' in"),
        ("1,0,2", "must have lines of a time from 0 on, a node of 0 .. 9, and 0 or 1, got '1 0 2' in"),
        ("1,0", "must be 3 finite numbers (time,node,on), or a first line that names time,node,on, got '1 0'"),
        ("1,0,nan", "must be 3 finite numbers (time,node,on), or a first line that names time,node,on, got '1 0 nan'"),
        ("# nothing", "must hold at least one change, got none in"),
    ],
)
def test_traces_of_nodes_that_do_not_fit_are_refused(tmp_path, text, message):
    (tmp_path / "trace.txt").write_text(text)
    config = load({}, ["network.nodes=10", f"network.availability={{kind: trace, path: {tmp_path}/trace.txt}}"])
    with pytest.raises(ValueError, match=r"^network\.availability\.path.* " + re.escape(message)):
        assembly.timeline([config])


@pytest.mark.parametrize("setting", ["gossip.delay", "network.availability"])
def test_traces_are_readable_text(tmp_path, setting):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, reason in (("none", "it is not a file"), (".", "it is not a file"), ("binary", "it is not UTF-8 text")):
        config = load({}, ["network.nodes=10", f"{setting}={{kind: trace, path: {tmp_path / name}}}"])
        message = f"{setting}.path must be a readable text file, got '{tmp_path / name}': {reason}"
        with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
            assembly.timeline([config])
