"""Settings: what a file, an override and Python may say, and that nothing is lost on the way."""

import functools
import time

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from batchednodes import models
from batchednodes.config import KINDS, Config, Gossip, Network, Task, document, dump, load, to_dict
from batchednodes.events import clocks
from batchednodes.numerics.values import Choice, LogNormal, Uniform

TOP = "name, seed, device, dtype, executor, network, update, gossip, timing, algorithm, local, task, run, staleness"
TOP += ", sweep, sweep_mode, replicas"
NEEDED = {
    "trace": {"path": "trace.csv"},
    "edges": {"i": [0], "j": [1]},
    "adjacency": {"lists": "0 1"},
    "networkx": {"generator": "path_graph"},
    "given": {"path": "weights.csv"},
    "edge_list": {"path": "edges.txt"},
    "lora": {"targets": ["0"]},
    "npz": {"path": "data.npz"},
    "leaf": {"path": "femnist"},
    "heart_disease": {"path": "heart"},
    "tcga_brca": {"path": "fed_tcga_brca"},
    "csv": {"path": "data.csv"},
    "parquet": {"path": "data.parquet"},
    "libsvm": {"path": "data.svm"},
    "image_folder": {"path": "images"},
    "huggingface": {"path": "folder"},
    "python": {"target": "package.module:factory"},
    "function": {"target": "torch.nn.functional:cross_entropy"},
    "choice": {"values": [1, 2]},
}
"""What a kind needs besides its name."""

ROUNDS_ONLY = {
    *("clipped_gossip", "trimmed_mean", "median", "geometric_median", "krum"),
    *("alie", "ipm", "dissensus"),
}
"""Kinds that need whole neighbourhoods."""


def section(path, content):
    """Returns nested mappings with one section filled."""
    for key in reversed(path.split(".")):
        content = {key: content}
    return content


@pytest.mark.parametrize("content", ["", "# nothing but a comment\n", "{}", "\ufeffseed: 0"])
def test_an_empty_file_means_all_defaults(file, content):
    assert load(file(content)) == Config() == load({})


def test_a_config_that_comes_with_the_package_is_found_where_none_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("configs/quickstart.yaml").name == "quickstart"
    assert load("configs/gossipy/push.yaml").timing == load({"timing": {"kind": "rounds", "steps": 100}}).timing
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text("name: my-own")
    assert load("configs/quickstart.yaml").name == "my-own"
    for path in ("configs/mine.yaml", "quickstart.yaml", "configs/../configs/million.yaml"):
        with pytest.raises(ValueError, match="does not exist"):
            load(path)


def test_the_smallest_useful_config():
    config = load({"network": {"nodes": 50}})
    assert config == Config(network=Network(nodes=50))
    assert load({"network": {"nodes": 1}}).network.nodes == 1


def test_every_form_of_source_reads_alike(file):
    expected = Config(name="a", gossip=Gossip(clock=clocks.Poisson(rate="2*log(n)")))
    tree = {"name": "a", "gossip": {"clock": {"kind": "poisson", "rate": "2*log(n)"}}}
    path = file("name: a\ngossip:\n  clock: {kind: poisson, rate: 2*log(n)}\n")
    assert load(tree) == load(path) == load(str(path)) == load(expected) == expected
    assert load({"name": "a", "gossip": {"clock": clocks.Poisson(rate="2*log(n)")}}) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("n", "n"),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("3", 3.0),
        ('"3"', "3"),
        ("[1, 2.5]", [1.0, 2.5]),
        ("log(n)", "log(n)"),
        ("min(n, 4)", "min(n, 4)"),
        ("{kind: uniform, low: 1, high: 2}", Uniform(1.0, 2.0)),
        ("{kind: choice, values: [1, 2]}", Choice([1.0, 2.0])),
    ],
)
def test_per_node_quantities(file, text, value):
    config = load(file(f"network: {{nodes: 2}}\ngossip:\n  clock:\n    rate: {text}\n"))
    assert config.gossip.clock == clocks.Poisson(rate=value)
    assert type(config.gossip.clock.rate) is type(value)


def test_a_section_without_kind_is_of_the_default_kind():
    assert load({"update": {"clock": {"rate": 3}}}).update.clock == clocks.ShiftedExponential(0.5, 3.0)


def test_whole_numbers_are_integers():
    config = load({"network": {"nodes": 3.0}, "run": {"until": 5}})
    assert type(config.network.nodes) is int
    assert type(config.run.until) is float


def test_interpolations():
    tree = {"network": {"nodes": 7}, "staleness": {"track": "${network.nodes}"}}
    assert load(tree, ["network.nodes=9"]).staleness.track == 9


@pytest.mark.parametrize(
    ("overrides", "clock"),
    [
        ([], clocks.Poisson(rate=3.0)),
        (["gossip.clock.rate=4"], clocks.Poisson(rate=4.0)),
        (["gossip.clock.rate=4", "gossip.clock.rate=1e-3"], clocks.Poisson(rate=0.001)),
        (["gossip.clock.rate=2*log(n)"], clocks.Poisson(rate="2*log(n)")),
        (["gossip.clock.rate.kind=lognormal"], clocks.Poisson(rate=LogNormal())),
        (["gossip.clock.rate={kind: lognormal, sigma: 1}"], clocks.Poisson(rate=LogNormal(sigma=1.0))),
        (["gossip.clock.kind=never"], clocks.Never()),
        (["gossip.clock={kind: never}"], clocks.Never()),
        (["gossip={clock: {kind: never}}"], clocks.Never()),
        (["gossip.clock.kind=poisson"], clocks.Poisson(rate=3.0)),
    ],
)
def test_overrides(file, overrides, clock):
    config = load(file("gossip: {clock: {kind: poisson, rate: 3}}"), overrides)
    assert config.gossip.clock == clock


def test_a_new_kind_keeps_what_both_kinds_have():
    tree = {"update": {"clock": {"delay": 1, "rate": 3}}, "task": {"model": {"bias": False, "init": "independent"}}}
    config = load(tree, ["update.clock.kind=exponential", "task.model.kind=mlp"])
    assert config.update.clock == clocks.Exponential(rate=3.0)
    assert config.task.model == models.MLP(init="independent")


def test_a_new_distribution_drops_the_settings_of_the_old_one():
    tree = {"gossip": {"clock": {"rate": {"kind": "lognormal", "median": 2}}}}
    assert load(tree, ["gossip.clock.rate.kind=uniform"]).gossip.clock == clocks.Poisson(rate=Uniform())
    assert load(tree, ["gossip.clock.rate=2"]).gossip.clock == clocks.Poisson(rate=2.0)


def test_overrides_apply_to_mappings_and_configs_and_leave_them_alone():
    tree = {"gossip": {"clock": {"kind": "poisson", "rate": 3}}}
    assert load(tree, ["gossip.clock.kind=never"]).gossip.clock == clocks.Never()
    assert tree == {"gossip": {"clock": {"kind": "poisson", "rate": 3}}}
    config = Config(gossip=Gossip(clock=clocks.Poisson(rate=3.0)))
    assert load(config, ["gossip.clock.kind=never", "seed=4"]) == Config(seed=4, gossip=Gossip(clock=clocks.Never()))


CHOICES = [
    (path, kind) for path, kinds in KINDS.items() if path != "distribution" and "[]" not in path for kind in kinds
]


@pytest.mark.parametrize(("path", "kind"), CHOICES)
def test_every_kind_round_trips(file, path, kind):
    graph = ["network.topology.kind=ring"] if path == "network.weights" else []
    if path == "algorithm" and "events" not in KINDS[path][kind].timing:
        graph = ["timing.kind=synchronous"]
    elif path == "algorithm" and (KINDS[path][kind].mixing == "double" or KINDS[path][kind].contact != "any"):
        peers = "all" if KINDS[path][kind].contact == "to_all" else "one"
        graph = ["gossip.exchange=meet", f"gossip.clock={{kind: at_update, order: after, peers: {peers}}}"]
    elif kind == "noisy_linear":
        graph = ["task.data={kind: quadratics, noise: 0.1}"]
    elif path == "task.model.adapter":
        graph = ["task.model.kind=python", "task.model.target='a:b'"]
    if kind in ROUNDS_ONLY:
        graph = ["timing.kind=synchronous"]
    needed = {"nodes": 2} if path == "network.attack" and kind != "none" else NEEDED.get(kind, {})
    if getattr(KINDS[path].get(kind), "feedback", None) == "choco":
        needed, graph = {"gamma": 0.1}, ["gossip.exchange=meet"]
    config = load(section(path, {"kind": kind, **needed}), graph)
    chosen = config
    for key in path.split("."):
        chosen = getattr(chosen, key)
    assert type(chosen) is KINDS[path][kind]
    assert load(file(dump(config))) == config == load(to_dict(config)) == load(config)


@pytest.mark.parametrize("kind", KINDS["distribution"])
@pytest.mark.parametrize("path", ["update.clock.delay", "gossip.clock.rate", "gossip.weight", "local.lr"])
def test_every_distribution_round_trips(file, path, kind):
    needed = {"choice": {"values": [0.25, 1]}, "uniform": {"low": 0, "high": 1}}.get(kind, {})
    tree = section(path, {"kind": kind, **needed})
    if path == "gossip.weight" and kind in ("lognormal", "exponential"):
        with pytest.raises(ValueError, match=r"^gossip.weight must be in \[0, 1\], got .* at node "):
            load(tree)
        return
    config = load(tree)
    assert load(file(dump(config))) == config == load(to_dict(config))


def test_kind_comes_first():
    tree = to_dict(load({"task": {"partition": {"kind": "dirichlet"}}, "gossip": {"clock": {"rate": LogNormal()}}}))
    assert list(tree) == TOP.split(", ")
    assert list(tree["task"]["partition"]) == ["kind", "alpha"]
    assert list(tree["gossip"]["clock"]["rate"]) == ["kind", "median", "sigma"]
    assert to_dict(Config())["task"]["partition"] is None


@pytest.mark.parametrize(
    "text", ["a ${b} c", "\\${b}", "\\\\${", "${", "on", "1e-3", "null", "~", "", " ", "a: b", "é\n"]
)
def test_odd_texts_round_trip(file, text):
    model = models.PythonModule("a:b", {"text": text, "list": [1, None, {"more": text}]})
    config = Config(task=Task(model=model))
    assert load(file(dump(config))) == config == load(config)


WORD = st.text("ab1.-?:${}[]\\'\"#&*!|>%@~ \n\té", min_size=1, max_size=6)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=6,
)


def words(data):
    """Yields every text of plain data."""
    if isinstance(data, dict):
        yield from data
    items = data.values() if isinstance(data, dict) else data if isinstance(data, list) else []
    yield from [data] if isinstance(data, str) else [word for item in items for word in words(item)]


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(WORD, PLAIN, max_size=3))
def test_random_arguments_round_trip(tmp_path_factory, args):
    config = Config(task=Task(model=models.PythonModule("a:b", args)))
    path = tmp_path_factory.getbasetemp() / "random.yaml"
    path.write_text(dump(config), encoding="utf-8")
    if "???" in words(args):  # OmegaConf's mark of a missing value
        return
    assert load(path) == config == load(config)


VALUES = [
    None, True, False, 0, -7, 10**300, 0.0, -0.0, 1.0, 1e-300, 5e-324, 1.7976931348623157e308, 1e22, 123456.789, -1e16,
    float("inf"), float("-inf"), "", " ", "~", "null", "NULL", "on", "No", "true", "1", "-1", "+1", "1_000", "010",
    "0o17", "0x1F", "0b11", "1e5", "1E-3", ".5", "5.", ".5e3", ".inf", "-.INF", ".nan", "1:30", "2001-01-01", "<<", "=",
    "???", "a: b", "- a", "# a", "a #b", "[a]", "{a}", "*a", "&a", "!a", "!!int 3", "%a", "@a", "`a", "'", '"', "'a'",
    "|", ">", "é", "日本語", "\u2028", "\u0085", "\ufeff", "\x00", "\x1b", "\x7f", "😀", "a\nb", "\na\n", "a\r\nb",
    "\tb", " a ", "a\\b", "word " * 60, "w" * 300, "0 1 2, " * 40 + "3 4", "${a}", "\\${a}", [], {}, [[]], [{}],
    [[1, 2], [3]], [{"a": [1]}, {}], {"a": {}},
    {"1": 1, "on": 2, "": 3, "a b": 4, "<<": 5, "a: b": 6, "é": 7, "k" * 200: 8, "a\nb": 9},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=ascii)
@pytest.mark.parametrize("library", ["C", "Python"])
def test_every_value_round_trips(value, library, monkeypatch):
    if library == "Python":
        monkeypatch.setattr(document, "_LOADER", yaml.SafeLoader)
        monkeypatch.setattr(document, "_DUMPER", yaml.SafeDumper)
    text = document.write({"a": value, "b": [value, {"c": value}]})
    found = document.parse(text)
    assert found == {"a": value, "b": [value, {"c": value}]}
    assert repr(found) == repr({"a": value, "b": [value, {"c": value}]})  # types, and the sign of 0


def test_numbers_are_numbers_to_other_readers_too():
    values = [1e-300, 1e22, 0.1, -1e16, float("inf"), 3, None, True]
    assert yaml.safe_load(document.write({"a": values, "b": "1e5", "c": "010"})) == {
        "a": values,
        "b": "1e5",
        "c": "010",
    }


def test_nan_round_trips():
    assert repr(document.parse(document.write({"a": float("nan")}))) == "{'a': nan}"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_all_texts_round_trip(text):
    assert document.parse(document.write({"a": text, text: ["b", text]})) == {"a": text, text: ["b", text]}


def test_long_lists_are_written_and_read_in_a_moment():
    n = 50_000
    rates = np.random.default_rng(0).uniform(0.5, 1.5, n).tolist()
    config = load({"network": {"nodes": n}, "update": {"clock": {"rate": rates}}})
    before = time.process_time()
    text = dump(config)
    assert time.process_time() - before < 2  # 0.2 s; 7 s by OmegaConf
    assert load(document.parse(text)) == config


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"long": list(range(130_000)), "more": [1] * 100},
         r"^task.model.args.long must be shorter: a config is a file of at most 120,000 values and 16 MiB, got "
         r"130,\d{3} and \d\.\d; use an expression in n or a distribution, or keep it in a file of its own, as "
         r"network.topology.kind=edge_list does$"),
        ({"a": {"text": "x" * (17 << 20)}, "b": [1] * 100},
         r"^task.model.args.a.text must be shorter: .* 16 MiB, got \d+ and 17\.0"),
        ({"text": "\0" * (9 << 20)}, r"^task.model.args.text must be shorter: .* got \d+ and 18\.\d"),
        ({"deep": functools.reduce(lambda inner, _: [inner], range(60), 1)},
         r"^a config must be nested at most 50 levels deep, got \d+$"),
        ({"odd": "\ud800"}, "^a config must be UTF-8 text, got characters that are not$"),
    ],
    ids=["values", "letters", "escapes", "depth", "surrogates"],
)  # fmt: skip
def test_what_could_not_be_read_again_is_not_written(args, message):
    with pytest.raises(ValueError, match=message):
        dump(Config(task=Task(model=models.PythonModule("a:b", args))))


@pytest.mark.parametrize(
    ("mapping", "texts"),
    [
        ({"seed": 1}, ["seed=1"]),
        ({"local.lr": np.float64(0.5), "network": {"nodes": np.int64(7)}}, ["local.lr=0.5", "network.nodes=7"]),
        ({"gossip": {"clock": {"kind": "never"}}}, ["gossip.clock={kind: never}"]),
        ({"gossip.clock": clocks.Never()}, ["gossip.clock.kind=never"]),
        ({"local": {"steps": 2}, "local.lr": 1}, ["local.steps=2", "local.lr=1"]),
        ({"sweep": {"local.lr": [1, 2]}}, ["sweep={local.lr: [1, 2]}"]),
        ({"task": Task(loss="mse")}, ["task.loss=mse"]),
        ({}, []),
    ],
)
def test_overrides_may_be_mappings(mapping, texts):
    source = {"gossip": {"clock": {"rate": 3}}}
    assert load(source, [mapping]) == load(source, texts)
    assert load(source, ["seed=9", mapping, "seed=3"]).seed == 3
    assert load(mapping) == load({}, texts)


@pytest.mark.parametrize("wrong", [["seed=1"], 5, None, b"seed=1", ("seed", 1), Config(), {1: 1}, {None: 1}])
def test_what_is_no_override_is_refused(wrong):
    first = "^Type-check error"  # what refuses it where signatures are checked
    with pytest.raises((ValueError, TypeError), match=rf"^overrides must .*, got |{first}"):
        load({}, [wrong])


@pytest.mark.parametrize("key", ["", "seed..x", "a b"])
def test_keys_of_mappings_are_those_of_settings(key):
    with pytest.raises(ValueError, match=r"^overrides must have full keys of settings, as network.nodes, got "):
        load({}, [{key: 1}])
