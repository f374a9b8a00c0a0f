"""Races: who may enter and how, what they spend, how step sizes are chosen, and what the ranking says."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import batchednodes
from batchednodes import load, train
from batchednodes.config import KINDS, Config, sweep
from batchednodes.figures.race import picture, ranking, tuning
from batchednodes.figures.race import race as races
from batchednodes.figures.race.entrants import Entrant, entrants, named
from batchednodes.figures.race.entry import AWAY, Entry
from batchednodes.figures.race.ranking import Standing
from batchednodes.figures.race.rules import Rules, rungs
from batchednodes.figures.race.spending import Spending
from batchednodes.results.folder.paths import OutputFolder
from batchednodes.simulation.build import datasets
from batchednodes.simulation.planning import plan
from batchednodes.simulation.planning.plan import planned
from batchednodes.simulation.planning.preflight import prepare

TINY = {
    "network": {"nodes": 6, "topology": {"kind": "ring"}},
    "task": {"data": {"kind": "linear_regression", "features": 3, "samples_per_node": 8, "test_samples": 20}},
    "local": {"lr": 0.1, "batch_size": 4},
    "run": {"until": 6, "mark_every": 2, "loggers": []},
    "staleness.track": "none",
}


def enter(*texts: str, seeds: int = 2, **changes) -> list[Entrant]:
    return entrants(load(TINY, [changes]), named(list(texts)), seeds)


# ------------------------------------------------------------------------------------------------------------ entrants


def test_each_algorithm_enters_a_race_in_continuous_time_as_it_is_sound():
    for kind, algorithm in KINDS["algorithm"].items():
        one, _ = enter(f"one: {kind}", "gossip_sgd")
        rounds, a, settings = "events" not in algorithm.timing or algorithm.mixes_after, algorithm, one.settings
        assert one.way.startswith("rounds") == bool(rounds), kind
        if not rounds:
            assert bool(settings.gossip.clock.at_update()) == (a.contact != "any"), kind
            assert a.mixing != "double" or settings.gossip.exchange == "meet", kind
        elif a.mixing == "double" and not a.has_own_rounds():
            assert type(settings.network.weights).__name__ == "MetropolisHastings", kind


def test_a_round_comes_as_often_as_a_node_completes_an_update_in_the_mean():
    clock = {"kind": "shifted_exponential", "delay": 0.1, "rate": {"kind": "lognormal", "median": 1, "sigma": 1}}
    events, rounds = enter("gossip_sgd", "d2", seeds=3, **{"update.clock": clock, "network.nodes": 200})
    updates = [Spending.of(one.settings).events.expected(1000.0)[0] for one in (events, rounds)]
    assert updates[0] == pytest.approx(updates[1], rel=1e-12)  # sums of 600 rates in another order


def test_entrants_share_data_clocks_and_first_models():
    rows = [train(one.settings).metrics for one in enter("gossip_sgd", "ad_psgd")]
    assert rows[0]["updates"].tolist() == rows[1]["updates"].tolist()
    first = [table["loss_mean"][table["time"] == 0].tolist() for table in rows]
    assert first[0] == first[1]
    assert len({*first[0]}) == 2  # seeds differ


def test_an_option_with_a_dot_is_any_setting_of_an_entrant_but_those_of_the_race():
    fast, star = enter(
        "gossip_sgd(gossip.clock={kind: poisson, rate: 2})", "a star: gossip_sgd(network.topology.kind=star)"
    )
    assert fast.settings.gossip.clock.rate == 2
    assert type(star.settings.network.topology).__name__ == "Star"
    assert (star.name, star.folder) == ("a star", "a-star")
    assert fast.folder == "gossip_sgd-gossip.clock=-kind-poisson-rate-2"
    with pytest.raises(
        ValueError, match="'gossip_sgd\\(seed=3\\)' cannot enter this race: seed must be that of the race"
    ):
        enter("gossip_sgd(seed=3)", "d2")


def test_what_means_nothing_to_an_entrant_is_left_as_it_usually_is():
    complete = {"network.topology": {"kind": "complete"}, "gossip.weight": 0.3}
    rounds, unweighted = enter("d2", "swift", **complete)
    assert type(rounds.settings.network.weights).__name__ == "UniformWeights"
    assert unweighted.settings.gossip.weight == 0.5
    assert enter("gossip_sgd", "push_sum", **complete)[0].settings.gossip.weight == 0.3
    assert [one.folder for one in enter("a: gossip_sgd", "A: gossip_sgd")] == [
        "a",
        "A-2",
    ]  # one, where case is no matter


@pytest.mark.parametrize(
    ("by", "falls"),
    [("accuracy_std", True), ("accuracy_own_gini", True), ("accuracy_jain", False), ("f1_mean", False),
     ("perplexity_mean", True), ("max:accuracy_std", False)],
)  # fmt: skip
def test_what_is_unequal_or_perplexing_is_better_where_it_is_less(by, falls):
    assert Rules(by=by).falls is falls


@pytest.mark.parametrize(
    ("algorithms", "rules", "changes", "message"),
    [
        ("gossip_sgd", {}, {}, "--algorithms must name at least two entrants, each once, got 'gossip_sgd'"),
        ("d2, d2", {}, {}, "got 'd2' twice"),
        ("d2, fedavg(0.2)", {}, {}, "options as option=value, got '0.2'"),
        ("d2, fedavg(0.2", {}, {}, r"must be names, or name\(option=value, ...\)"),
        ("d2, relay_sgd", {}, {}, "'relay_sgd' cannot enter this race: network.topology must be a tree.*leave it out"),
        ("d2, gossip_sgd", {}, {"gossip.delay": {"kind": "constant"}}, "'d2' cannot enter this race: gossip.delay "),
        ("d2, fedavg(local.lr=1)", {"tune": "lr=0.1..1"}, {}, "local.lr must be left out where --tune chooses it"),
        ("d2, led", {"tune": "steps=1..4"}, {}, "--tune cannot be of local.steps for 'd2'"),
        ("d2, led", {"tune": "lr=1"}, {}, r"--tune must be key=low..high, as lr=1e-3..1"),
        ("d2, led", {"tune": "lr=0..1"}, {}, "--tune low and high must be a positive number, got 'lr=0..1'"),
        ("d2, led", {"tune": "lr=1..1"}, {}, "--tune must have low < high, and 2 to 64 values"),
        ("d2, led", {"budget": "money"}, {}, "--budget must be one of time, gradients, bytes"),
        ("d2, led", {"budget": "bytes=-1"}, {}, "--budget bytes= must be a positive number"),
        ("d2, led", {"rank": "worst"}, {}, "--rank must be final, best or to=value"),
        ("d2, led", {"rank": "to=x"}, {}, "--rank to= must be a number"),
        ("d2, led", {"by": "speed"}, {}, "--by must be a metric of `batchednodes list metrics`, or your own"),
        ("d2, led", {"by": "up:loss_mean"}, {}, "--by must be a metric, or min:metric or max:metric"),
        ("d2, led", {"by": "accuracy_mean"}, {}, "--by must be a metric of data without labels.*use loss_mean"),
        ("d2, led", {"by": "loss_meen"}, {}, "got 'loss_meen'; use one of .*; did you mean 'loss_mean'"),
        ("d2, led", {"by": "min:seed"}, {}, "--by must be a metric that runs measure, got 'seed'; use one of "),
        ("d2, led", {"seeds": 0}, {}, r"--seeds must be an integer in \[1, 1000\]"),
        ("d2, led", {}, {"sweep": {"seed": [1]}}, "sweep must be left out in a race"),
        ("d2, led", {}, {"replicas": 2}, "replicas must be left out in a race"),
        ("d2, gossip_sgd", {}, {"run.baseline": "isolated"}, "run.baseline must be none in a race"),
        ("d2, gossip_sgd", {}, {"update.clock.kind": "never"}, "update.clock must let some node update"),
        ("gossip_sgd, ad_psgd", {"budget": "gradients"},
         {"gossip.on_receipt": "update"}, "gossip.on_receipt must be merge with --budget gradients"),
    ],
)  # fmt: skip
def test_what_cannot_race_is_refused_before_it_runs(algorithms, rules, changes, message):
    with pytest.raises(ValueError, match=message):
        Entry.of(load(TINY, [changes]), algorithms, Rules(**rules))


# ------------------------------------------------------------------------------------------------------------ spending

KNOWN = {
    "pushes": {},
    "meetings": {"gossip.exchange": "meet"},
    "messages": {"gossip.delay": {"kind": "constant", "time": 0.3}, "gossip.loss": {"kind": "independent"}},
    "requests": {"gossip.exchange": "push_pull", "gossip.delay": {"kind": "constant", "time": 0.3}},
    "personal": {"gossip.personal": ["*bias"]},
    "rounds": {"algorithm": {"kind": "fedavg", "fraction": 0.5}, "timing.kind": "synchronous"},
    "to all": {"algorithm.kind": "all2all", "gossip.clock": {"kind": "at_update", "order": "after", "peers": "all"}},
}


@pytest.mark.parametrize("changes", KNOWN.values(), ids=KNOWN)
def test_what_is_spent_is_known_before_the_run(changes):
    settings = load(TINY, [changes, {"replicas": 2, "local.steps": 3}])
    rows, spending = train(settings).metrics, Spending.of(settings)
    spent = spending.at(sorted({*rows["time"]}))
    for name, found in (("bytes", rows["bytes_sent"] / 6), ("gradients", 3 * rows["updates"] / 6)):
        assert spent[name].flatten().tolist() == pytest.approx(found.tolist(), rel=1e-15)  # by 6, then by 3
    amount = float(spent["bytes"][-1].mean()) / 2
    end = spending.until("bytes", amount, 6.0)
    assert end is not None
    assert 0 < end < 6
    before, then = spending.at([math.nextafter(end, 0), end])["bytes"].mean(1)
    assert before < amount <= then


def test_gradients_are_those_of_each_node_and_algorithm():
    uneven = {"task.partition": {"kind": "quantity_power_law"}, "local": {"epochs": 2, "batch_size": 4}}
    settings = load(TINY, [uneven])
    _, shards = datasets.split(settings)
    steps = (2 * np.ceil(shards.sizes / 4)).tolist()
    assert len({*steps}) > 1
    assert Spending.of(settings).steps.tolist() == steps
    sharp = load(TINY, [{"algorithm.kind": "dfedsam", "local.steps": {"kind": "geometric", "mean": 3.0}}])
    assert Spending.of(sharp).steps == pytest.approx(6.0, rel=1e-6)  # beyond 20 times the mean lies less than e^-20


# ------------------------------------------------------------------------------------------------------------- ranking


def standings(table: dict[str, list[float]], finals: dict[str, list[float]] | None = None) -> list[Standing]:
    return [Standing(name, np.array(x), np.array((finals or table)[name])) for name, x in table.items()]


def places(found: list[Standing], rules: Rules) -> pd.DataFrame:
    return ranking.table(found, {one.name: {} for one in found}, rules)


def test_entrants_are_tied_where_the_paired_t_test_does_not_tell_them_apart():
    rng = np.random.default_rng(0)
    seeds = rng.normal(size=5)  # what a seed does to all: pairs cancel it
    found = standings({name: (seeds + shift + 0.1 * rng.normal(size=5)).tolist()
                       for name, shift in (("a", 0.0), ("b", 0.05), ("c", 0.6), ("d", 2.0))})  # fmt: skip
    rules = Rules(by="max:own")
    table, pairs = places(found, rules), ranking.pairs(found, rules)
    assert table["algorithm"].tolist() == ["d", "c", "a", "b"]
    assert table["tied_with"].tolist() == ["", "", "4", "3"]
    scores = {one.name: one.scores for one in found}
    for row in pairs.to_dict("records"):
        test = stats.ttest_rel(scores[row["first"]], scores[row["second"]])
        assert row["tied"] == (test.pvalue >= 0.05)
        assert (row["low"], row["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)), rel=1e-9)
    gap = table.iloc[1]
    assert gap["gap"] == pytest.approx((scores["c"] - scores["d"]).mean(), rel=1e-12)
    assert gap["gap_low"] < gap["gap"] < gap["gap_high"] < 0


def test_who_diverged_or_never_arrived_comes_last_by_what_is_known():
    nan, rules = math.nan, Rules(by="accuracy_mean", rank="to=0.9")
    reached = {"late": [9.0, 9.0], "early": [4.0, 5.0], "one": [1.0, nan], "none": [nan, nan], "gone": [nan, nan]}
    finals = {"late": [0.9, 0.9], "early": [0.9, 0.9], "one": [0.9, 0.8], "none": [0.7, 0.8], "gone": [nan, nan]}
    table = places(standings(reached, finals), rules)
    assert table["algorithm"].tolist() == ["early", "late", "one", "none", "gone"]
    assert table["seeds"].tolist() == [2, 2, 1, 0, 0]
    assert table["tied_with"].tolist() == ["2", "1", "", "", ""]  # 4.5 apart over two seeds: -4.5 +- 6.4


@pytest.mark.parametrize(
    ("by", "rank", "expected"),
    [
        ("accuracy_mean", "final", 0.3),
        ("accuracy_mean", "best", 0.5),
        ("loss_mean", "best", 0.1),
        ("accuracy_mean", "to=0.4", 20.0),
        ("loss_mean", "to=0.15", 0.0),
        ("accuracy_mean", "to=0.6", math.nan),
    ],
)
def test_the_score_is_final_best_or_what_was_spent(by, rank, expected):
    values, spent = np.array([0.1, math.nan, 0.5, 0.3]), np.array([0.0, 10.0, 20.0, 30.0])
    score, final = ranking.scored(values, spent, Rules(by=by, rank=rank), diverged=False)
    assert [score, final] == pytest.approx([expected, 0.3], nan_ok=True)
    assert math.isnan(ranking.scored(values, spent, Rules(by=by), diverged=True)[0])


# ------------------------------------------------------------------------------------------------------------ the race


def test_candidates_come_to_what_they_come_to_alone_and_the_worse_half_leaves():
    entry = Entry.of(load(TINY), "gossip_sgd, d2", Rules(seeds=2, tune="lr=0.01..10:4", by="loss_mean"))
    one = entry.entrants[0]
    value, seen = tuning.tuned(one, entry.rules, lambda chosen, _: (train(chosen).metrics.to_dict("records"), False))
    table = pd.DataFrame(seen)
    assert rungs(4) == [0.5, 1.0]
    assert table.groupby("rung")["until"].first().tolist() == [3.0, 6.0]
    assert {*table["seed"]} == {AWAY, AWAY + 1}
    for rung, own in table.groupby("rung"):
        means = own.groupby("local.lr")["score"].mean()
        stay = {*own["local.lr"][own["stays"]]}
        assert stay == {*means.sort_values().index[: len(means) // 2]}, rung
    assert {value} == stay
    alone = load(one.settings, [{"local.lr": value, "seed": AWAY + 1, "replicas": 1}])
    last = table[(table["rung"] == 2) & (table["local.lr"] == value) & (table["seed"] == AWAY + 1)]
    assert last["score"].item() == pytest.approx(train(alone).metrics["loss_mean"].iloc[-1], rel=1e-5)  # float32


def test_of_five_candidates_three_two_and_one_stay():
    entry = Entry.of(load(TINY), "gossip_sgd, d2", Rules(seeds=1, tune="lr=1..5:5", by="loss_mean", rank="best"))

    def run(chosen: Config, _: str) -> tuple[list[dict[str, Any]], bool]:
        assert (chosen.run.mark_every, chosen.run.on_divergence) == (min(2.0, chosen.run.until), "ignore")
        values = chosen.sweep["local.lr"]
        return [{"local.lr": value, "replica": 0, "time": 1.0, "loss_mean": -value} for value in values], False

    value, seen = tuning.tuned(entry.entrants[0], entry.rules, run)
    assert value == 5
    assert [sum(row["stays"] for row in seen if row["rung"] == rung) for rung in (1, 2, 3)] == [3, 2, 1]


@pytest.mark.slow
def test_a_race_leaves_runs_that_train_repeats_and_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = Entry.of(
        load(TINY), "gossip_sgd, fedavg(fraction=0.5), bad: d2(local.weight_decay=1e9)",
        Rules(seeds=2, tune="lr=0.05..0.2:2", budget="gradients"), ["png"],
    )  # fmt: skip
    whole = races.start(entry, OutputFolder(Path("whole")))
    table = whole.ranking.set_index("algorithm")
    assert whole.ranking["algorithm"].iloc[-1] == "bad"
    assert table["diverged"].tolist() == [False, False, True]
    assert table["gradients"].iloc[0] == pytest.approx(table["gradients"].iloc[1], abs=0.5)  # a round of half of them
    assert table["time"]["fedavg(fraction=0.5)"] > 1.5 * table["time"]["gossip_sgd"]  # half of the nodes a round
    assert (
        whole.curves.groupby(["algorithm", "seed"]).size()[["gossip_sgd", "fedavg(fraction=0.5)"]].tolist() == [4] * 4
    )
    assert not [*Path("whole/tuning").rglob("final.safetensors")]
    for name, settings in list(whole.settings.items())[:2]:
        again = train(Path("whole") / table["folder"][name] / "config.yaml").metrics
        assert load(Path("whole") / table["folder"][name] / "config.yaml") == settings
        mine = whole.curves[whole.curves["algorithm"] == name]["loss_mean"].tolist()
        assert again.sort_values(["seed", "time"])["loss_mean"].tolist() == mine
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 60

    with pytest.raises(races.HaltedError, match="the run halted"):
        races.start(entry, OutputFolder(Path("halted")), stop=stop)
    assert not Path("halted/ranking.csv").exists()
    races.go_on(Entry.read(Path("halted")), Path("halted"))
    for name in races.TABLES:
        assert Path(f"halted/{name}.csv").read_text() == Path(f"whole/{name}.csv").read_text(), name
    assert Path("halted/race.png").read_bytes()[:4] == b"\x89PNG"
    Path("halted/race.yaml").write_text("seeds: 3")
    with pytest.raises(ValueError, match=r"DIR must hold a whole race\.yaml, got 'halted': it must have the keys"):
        Entry.read(Path("halted"))


def test_a_race_from_python_draws_itself_and_takes_settings_by_names():
    own = {"push": {}, "meet": {"gossip": {"exchange": "meet"}}}
    found = batchednodes.race(TINY, algorithms=own, seeds=1, budget="bytes=500", rank="to=0.5")
    assert sorted(found.ranking["algorithm"]) == ["meet", "push"]
    assert found.folder is None
    assert found.ranking["bytes"].between(500, 600).all()
    assert found.pairs["tied"].isna().all()  # of one seed nothing is known
    left, right = found.plot().axes
    assert left.get_xlabel() == "bytes sent by a node"
    assert right.get_xlabel() == "bytes sent by a node until loss_mean is 0.5"
    with pytest.raises(ValueError, match="--budget must be one that all spend, got bytes=1e\\+09"):
        batchednodes.race(TINY, algorithms=own, budget="bytes=1e9")


def test_an_entrant_that_does_not_fit_is_refused_before_any_other_runs(tmp_path: Path, monkeypatch):
    settings = load(TINY, [{"task.model": {"kind": "mlp", "hidden": [400, 400]}}])
    entry = Entry.of(settings, "gossip_sgd, adam: gossip_sgd(local.optimizer={kind: adam})", Rules(seeds=2))
    need = [planned(prepare(sweep.points(one.settings)))[1].total for one in entry.entrants]
    assert need[1] > 1.5 * need[0]  # two moments beside each model
    monkeypatch.setattr(plan, "free", lambda _: int(1.2 * need[0] / plan.SHARE))
    message = r"'adam' cannot enter this race: the run must fit in memory, got .* needed with .* free .*leave it out"
    with pytest.raises(ValueError, match=message):
        races.start(entry, OutputFolder(tmp_path / "race"), stop=lambda: pytest.fail("something ran"))
    assert not (tmp_path / "race").exists()
    tuned = Entry.of(settings, "gossip_sgd, d2", Rules(seeds=2, tune="lr=0.1..1:8"))
    with pytest.raises(ValueError, match="'gossip_sgd' cannot enter this race: the run must fit"):
        races.start(tuned, None)  # eight candidates are networks of one batch


def test_the_first_and_who_is_tied_with_it_are_filled():
    names = [f"a{k}" for k in range(11)]
    found = standings({name: [-1.0 * k, -1.0 * k - 0.01 * (k % 2)] for k, name in enumerate(names)})
    rules = Rules(seeds=2, by="max:own")
    table = places(found, rules)
    table["tied_with"] = ["2", "1", *[""] * 8, "10"]
    table["diverged"] = False
    curves = pd.DataFrame([{"algorithm": name, "seed": k, "time": 0.0, "own": 1.0} for name in names for k in (0, 1)])
    right = picture.draw(curves, table, rules).axes[1]
    faces = [line.get_markerfacecolor() for line in right.lines if len(line.get_xdata()) == 1]
    assert [face != "white" for face in faces] == [True, True, *[False] * 9]


def test_points_of_an_entry_are_the_seeds_of_the_race():
    one = Entry.of(load(TINY, [{"seed": 5}]), "d2, led", Rules(seeds=3)).entrants[0]
    assert [point.config.seed for point in sweep.points(one.settings)] == [5, 6, 7]
