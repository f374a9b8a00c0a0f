"""What settings may not say: each message word for word, and nothing but ValueError for any input."""

import contextlib
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchednodes.config import KINDS, Config, Gossip, Network, Run, Staleness, Update, dump, load
from batchednodes.config.reference import catalogue
from batchednodes.config.synonyms import SYNONYMS

TOP = "name, seed, device, dtype, executor, network, update, gossip, timing, algorithm, local, task, run, staleness"
TOP += ", sweep, sweep_mode, replicas"
TOPOLOGIES = ", ".join([*KINDS["network.topology"], "python"])
PER_NODE = "a number, an expression in n, a list of n numbers or a distribution {kind: ...}"


def refused(message):
    """Expects exactly this error."""
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gosip: {}", "unknown key 'gosip'; did you mean 'gossip'?"),
        ("network: {nods: 3}", "unknown key 'network.nods'; did you mean 'network.nodes'?"),
        ("gossip: {clock: {rte: 3}}", "unknown key 'gossip.clock.rte'; did you mean 'gossip.clock.rate'?"),
        ("nodes: 50", "unknown key 'nodes'; did you mean 'network.nodes'?"),
        ("foo: 1", f"unknown key 'foo'; a config has: {TOP}"),
        ("on: 1", f"unknown key 'True'; a config has: {TOP}"),
        (
            "network: {foo: 3}",
            "unknown key 'network.foo'; network has: nodes, topology, weights, availability, churn, attack, silent",
        ),
        (
            "gossip: {clock: {kind: never, rate: 3}}",
            "unknown key 'gossip.clock.rate'; kind never of gossip.clock has no settings; it is a setting of kind "
            "poisson",
        ),
        ("algorithm: {kind: push_sum, w: 3}", "unknown key 'algorithm.w'; kind push_sum of algorithm has no settings"),
        (
            "update: {clock: {kind: never, delay: 3}}",
            "unknown key 'update.clock.delay'; kind never of update.clock has no settings; it is a setting of kind "
            "shifted_exponential",
        ),
        ("network: {nodes: many}", "network.nodes must be an integer, got 'many'"),
        ("network: {nodes: true}", "network.nodes must be an integer, got True"),
        ("network: {nodes: 2.5}", "network.nodes must be an integer, got 2.5"),
        ("network: {nodes: }", "network.nodes must be an integer, got None"),
        ("network: {nodes: [3]}", "network.nodes must be an integer, got [3]"),
        ("network: {nodes: 0}", "network.nodes must be an integer in [1, 100000000], got 0"),
        ("network: 3", "network must be a section of settings (leave it out for its defaults), got 3"),
        ("network:", "network must be a section of settings (leave it out for its defaults), got None"),
        ("network: {topology: ring}", "network.topology must be a section such as {kind: complete}, got 'ring'"),
        (
            "network: {topology: {kind: rng}}",
            f"network.topology.kind must be one of {TOPOLOGIES}, got 'rng'; did you mean 'ring'?",
        ),
        ("network: {topology: {kind: 3}}", f"network.topology.kind must be one of {TOPOLOGIES}, got 3"),
        ("network: {topology: {kind: edge_list}}", "network.topology.path must be given: text"),
        (
            "task: {partition: {alpha: 1}}",
            "task.partition.kind must be given: one of " + ", ".join([*KINDS["task.partition"], "python"]),
        ),
        (
            "gossip: {clock: {rate: {median: 2}}}",
            "gossip.clock.rate.kind must be given: one of lognormal, uniform, exponential, choice, python",
        ),
        (
            "gossip: {clock: {rate: {kind: lognormal, median: -2}}}",
            "gossip.clock.rate.median must be positive and finite, got -2.0",
        ),
        ("gossip: {clock: {rate: -1}}", "gossip.clock.rate must be at least 0 and finite [1/s], got -1.0"),
        ("gossip: {clock: {rate: .nan}}", "gossip.clock.rate must be at least 0 and finite [1/s], got nan"),
        ("gossip: {clock: {rate: .inf}}", "gossip.clock.rate must be at least 0 and finite [1/s], got inf"),
        ("gossip: {clock: {rate: no}}", f"gossip.clock.rate must be {PER_NODE}, got False"),
        ("gossip: {clock: {rate: [1, x]}}", "gossip.clock.rate[1] must be a number, got 'x'"),
        (
            "update: {clock: {rate: [1, 2, 3]}}",
            "update.clock.rate must be a number, or a list of n = 100 numbers, got a list of 3",
        ),
        (
            "gossip: {clock: {rate: log(m)}}",
            "gossip.clock.rate must be a number or an expression in n, got 'log(m)': unknown name 'm'; expressions may "
            "use n, numbers, + - * / ** ( ), log, log2, sqrt, exp, min, max",
        ),
        ("gossip: {weight: 2}", "gossip.weight must be in [0, 1], got 2.0"),
        (
            "gossip: {exchange: psh}",
            "gossip.exchange must be one of push, pull, push_pull, meet, got 'psh'; did you mean 'push'?",
        ),
        ("update: {applies: now}", "update.applies must be one of at_completion, delta, got 'now'"),
        ("local: {lr: -0.1}", "local.lr must be at least 0 and finite, got -0.1"),
        ("local: {momentum: 1}", "local.momentum must be in [0, 1), got 1.0"),
        ("local: {weight_decay: -1}", "local.weight_decay must be at least 0 and finite, got -1.0"),
        ("local: {nesterov: 'no'}", "local.nesterov must be true or false, got 'no'"),
        (
            "local: {nesterov: true}",
            "local.nesterov must be false where local.momentum is 0, got true and momentum 0 at every node",
        ),
        (
            "network: {nodes: 2}\nlocal: {nesterov: true, momentum: [0.5, 0]}",
            "local.nesterov must be false where local.momentum is 0, got true and momentum 0 at node 1",
        ),
        ("task: {model: {kind: mlp, hidden: [3, x]}}", "task.model.hidden[1] must be an integer, got 'x'"),
        ("task: {model: {kind: mlp, hidden: 3}}", "task.model.hidden must be a list of integers, got 3"),
        ("task: {model: {bias: 1}}", "task.model.bias must be true or false, got 1"),
        (
            "task: {model: {kind: python, target: 'a:b', args: {1: 2}}}",
            "task.model.args must have texts as keys, got 1; quote it",
        ),
        (
            "local: {epochs: 2, steps: 3}",
            "local.steps must be left out where epochs are given, got steps 3 and epochs 2; leave out one of them",
        ),
        (
            "local: {epochs: 2, sampling: replacement}",
            "local.sampling must be shuffle where epochs are given, which deal each example once, got 'replacement'",
        ),
        ("local: {epochs: 0}", "local.epochs must be at least 1, got 0"),
        (
            "task: {model: {output: sigmoids}}",
            "task.model.output must be one of identity, sigmoid, got 'sigmoids'; did you mean 'sigmoid'?",
        ),
        (
            "task: {loss: rmse}",
            "task.loss must be one of auto, cross_entropy, mse or a section of settings, got 'rmse'; "
            "did you mean 'mse'?",
        ),
        ("run: {until: .inf}", "run.until must be positive and finite [s], got inf"),
        ("run: {until: 0}", "run.until must be positive and finite [s], got 0.0"),
        ("run: {mark_every: -1}", "run.mark_every must be positive and finite [s], got -1.0"),
        (
            "run: {mark_every: 1e-6}",
            "run.mark_every must be at least until / 1,000,000 = 1e-05 [s], got 1e-06; make it larger, or run.until "
            "smaller",
        ),
        (
            "run: {window: 1e-6}",
            "run.window must be at least until / 1,000,000 = 1e-05 [s], got 1e-06; make it larger, or run.until "
            "smaller",
        ),
        ("run: {mark_at: []}", "run.mark_at must be a list of 1 to 1,000,000 times [s], got 0; null means none"),
        (
            "run: {mark_at: [1, 3, 2]}",
            "run.mark_at must be positive, finite times [s], each later than the one before, 3, got 2.0; sort them",
        ),
        (
            "run: {mark_at: [0, 3]}",
            "run.mark_at must be positive, finite times [s], each later than the one before, 0, got 0.0; sort them",
        ),
        ("run: {mark_at: [1], mark_every: 2}", "run.mark_every must be left out where mark_at is given, got 2.0"),
        ("run: {eval_nodes: 0}", "run.eval_nodes must be an integer in [1, 100000000], got 0"),
        ("run: {eval_nodes: 101}", "run.eval_nodes must be at most network.nodes = 100, got 101; null means all"),
        ("run: {eval_nodes: all}", "run.eval_nodes must be an integer or null, got 'all'"),
        ("staleness: {track: 101}", "staleness.track must be at most network.nodes = 100, got 101; use 'all'"),
        ("staleness: {track: 0}", "staleness.track must be an integer at least 1, got 0"),
        (
            "staleness: {track: al}",
            "staleness.track must be an integer or one of all, none, got 'al'; did you mean 'all'?",
        ),
        ("staleness: {track: }", "staleness.track must be an integer or one of all, none, got None"),
        ("seed: -1", "seed must be in [0, 2^63), got -1"),
        ("seed: 9223372036854775808", "seed must be in [0, 2^63), got 9223372036854775808"),
        ("seed: 1e400", "seed must be an integer, got inf"),
        ("seed: 2012-01-01", "seed must be an integer, got '2012-01-01'"),
        ("device: gpu", "device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("dtype: float16", "dtype must be one of float32, float64, bfloat16, got 'float16'; did you mean 'bfloat16'?"),
        ("executor: none", "executor must be one of batched, serial, got 'none'"),
        ("name: 12", "name must be text, got 12; quote it"),
        (
            "name: ../x",
            "name must be 1 to 100 letters, digits, spaces or . + = , - _, the first a letter or digit, got '../x'",
        ),
        (
            "seed: ${sed}",
            "seed cannot be read: Interpolation key 'sed' not found; interpolations see what the source and the "
            "overrides set, not defaults",
        ),
        ("seed: ???", "seed must be an integer, got '???'"),
    ],
)
def test_errors_in_a_file(file, text, message):
    with refused(message):
        load(file(text))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("\tseed: 1", "is not valid YAML: while scanning for the next token"),
        ("seed: 1\nseed: 2", "must give each key once, got 'seed' again at line 2"),
        ("seed: [1", "is not valid YAML: while parsing a flow sequence"),
        ("a: &a [*a]", "must name complete anchors by its aliases, got *a at line 1"),
        (
            "seed: !!python/object/apply:os.getcwd []",
            "must be plain data without tags, got '!!python/object/apply:os.getcwd' at line 1",
        ),
        ("hello", "must hold keys and values (nodes: 50), got 'hello'"),
        ("3", "must hold keys and values (nodes: 50), got 3"),
        (b"seed: \x00", "is not valid YAML: unacceptable character #x0000"),
        (b"name: caf\xe9", "must be UTF-8 text, byte 9 is not"),
        ("- 1\n- 2", "must hold keys and values (nodes: 50), got a list"),
    ],
)
def test_files_that_are_no_configs(file, content, reason):
    path = file(content)
    with pytest.raises(ValueError, match="^" + re.escape(f"config file {str(path)!r} {reason}")):
        load(path)


@pytest.mark.parametrize(
    ("text", "word"), [("on", "on"), ("off", "off"), ("true", "on"), ("auto", "auto"), ("'on'", "on")]
)
def test_on_and_off_are_words_although_yaml_reads_truth_values(text, word, file):
    config = load(file(f"local: {{compile: {text}}}"), [])
    assert config.local.compile == load({}, [f"local.compile={text}"]).local.compile == word
    assert load(file(dump(config))) == config


def test_sources_that_are_no_files(tmp_path):
    with refused("config file 'nowhere.yaml' does not exist; paths are relative to the working directory"):
        load("nowhere.yaml")
    with refused(f"config file {str(tmp_path)!r} must be a file, got a folder; write the settings to a file"):
        load(tmp_path)
    with refused("config file '\\x00' cannot be read: embedded null byte"):
        load("\0")
    with refused("seed must be an integer, got {1}"):
        load({"seed": {1}})


def test_a_mapping_that_contains_itself():
    tree = {}
    tree["network"] = tree
    with refused("a config must not contain itself, or be nested hundreds of levels deep"):
        load(tree)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("network.nodes", "overrides are key=value, as network.nodes=50, got 'network.nodes'"),
        ("=3", "overrides are key=value, as network.nodes=50, got '=3'"),
        ("a b=3", "overrides are key=value, as network.nodes=50, got 'a b=3'"),
        ("+seed=3", "overrides are key=value, as network.nodes=50, got '+seed=3'"),
        (
            "local.lr=[1",
            "overrides are key=value, value is YAML, got 'local.lr=[1', which is not valid YAML: while parsing a flow "
            "sequence at line 1, column 1 did not find expected ',' or ']' at line 2, column 1",
        ),
        (
            "name=${",
            "name cannot be read: interpolations are ${section.key}, the full key of another setting; what comes from "
            "the environment is no setting, got '${'",
        ),
        ("network.nodes=", "network.nodes must be an integer, got None"),
        ("nodes=5", "unknown key 'nodes'; did you mean 'network.nodes'?"),
        ("seed.x=2", "seed must be an integer, got {'x': 2}"),
        (
            "gossip.clock={kind: never, rate: 3}",
            "unknown key 'gossip.clock.rate'; kind never of gossip.clock has no settings; it is a setting of kind "
            "poisson",
        ),
        ("local.lr.x=2", "local.lr.x cannot be set: part of it is a list, whose keys are positions 0, 1, ..."),
        ("local.lr.2=2", "local.lr.2 cannot be set: part of it is a list, whose keys are positions 0, 1, ..."),
    ],
)
def test_errors_in_overrides(override, message):
    with refused(message):
        load({"network": {"nodes": 2}, "local": {"lr": [1, 2]}, "gossip": {"clock": {"rate": 3}}}, [override])


def test_what_an_override_gives_must_fit_the_new_kind_in_any_order():
    for overrides in (
        ["gossip.clock.kind=never", "gossip.clock.rate=3"],
        ["gossip.clock.rate=3", "gossip.clock.kind=never"],
    ):
        with pytest.raises(ValueError, match=r"^unknown key 'gossip.clock.rate'; kind never"):
            load({"gossip": {"clock": {"kind": "poisson", "rate": 2}}}, overrides)


def test_a_typo_in_the_file_is_not_dropped_with_the_old_kind():
    with pytest.raises(ValueError, match=r"^unknown key 'gossip.clock.rat'"):
        load({"gossip": {"clock": {"kind": "poisson", "rat": 2}}}, ["gossip.clock.kind=never"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Config(seed=True), "seed must be an integer, got True"),
        (lambda: Config(run=Run(until="n")), "run.until must be a number, got 'n'"),
        (lambda: Config(update=Update(applies="x")), "update.applies must be one of at_completion, delta, got 'x'"),
        (lambda: Config(network=Network(nodes="3")), "network.nodes must be an integer, got '3'"),
        (
            lambda: Config(gossip=Gossip(clock=Network())),
            "gossip.clock must be of kind poisson, at_update, never, got a Network",
        ),
        (lambda: Network(nodes=0), "nodes must be an integer in [1, 100000000], got 0"),
        (lambda: Run(until=math.nan), "until must be positive and finite [s], got nan"),
        (lambda: Staleness(track=0), "track must be an integer at least 1, got 0"),
    ],
)
def test_settings_made_in_python_are_checked_too(make, message):
    try:
        with refused(message):
            make()
    except Exception as error:
        if "jaxtyping" not in type(error).__module__:  # under pytest with type checks, these refuse wrong types first
            raise


class Odd:
    """No plain data."""


SECTIONS = [
    TOP.split(", "),
    ["nodes", "topology", "clock", "kind", "rate", "weight", "data", "partition", "model", "args"],
]
GARBAGE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=3),
        st.sampled_from([Odd(), Odd, {1}, 1j, "${seed}", "log(n)", *KINDS["network.topology"], *KINDS["distribution"]]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner),
        st.dictionaries(st.sampled_from([*SECTIONS[0], *SECTIONS[1]]), inner, max_size=4),
        st.dictionaries(
            st.one_of(st.text(max_size=4), st.integers(), st.none(), st.tuples(st.integers())), inner, max_size=2
        ),
    ),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(SECTIONS[0]), GARBAGE, max_size=4), st.lists(st.text(max_size=12), max_size=1))
def test_garbage_raises_nothing_but_valueerror(tree, overrides):
    try:
        config = load(tree, overrides)
    except ValueError:
        return
    assert load(config) == config


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from(["seed", "network.nodes", "gossip.clock.rate", "local", "task.model.hidden.0", "a.0.b"]),
    st.text(max_size=12)
    | st.sampled_from(["[1, {a: 2}]", "{kind: uniform}", "${seed}", "${network}", "${oc.env:NOWHERE_}"]),
)
def test_garbage_in_overrides_raises_nothing_but_valueerror(key, value):
    with contextlib.suppress(ValueError):
        load({"task": {"model": {"kind": "mlp", "hidden": [3]}}}, [f"{key}={value}"])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=40) | st.binary(max_size=40))
def test_garbage_in_files_raises_nothing_but_valueerror(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "garbage.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ValueError):
        load(path)


def test_words_of_other_programs_name_a_setting():
    there = {key for kind in catalogue() for key in (kind.section, *(setting.path for setting in kind.settings))}
    assert {meant.partition("=")[0] for meant in SYNONYMS.values()} <= there
    for word, meant in SYNONYMS.items():
        if "=" in meant:
            load({}, [meant.replace("...", "1")])
        near = f"({re.escape(meant)}|network.availability)"  # which is nearer by its name
        with pytest.raises(ValueError, match=rf"^unknown key '{word}'; did you mean '{near}'\?$"):
            load({word: 1})


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("learning_rate=1", "'local.lr'"),
        ("network.learning-rate=1", "'local.lr'"),
        ("local.Learning_Rate=1", "'local.lr'"),
        ("optimizer.lr=1", "'local.optimizer'"),
        ("n_clients=5", "'network.nodes'"),
        ("network.model=mlp", "'task.model'"),
        ("gossip.drop_prob=0.1", "'gossip.loss={kind: independent, probability: ...}'"),
        ("loss=mse", "'gossip.loss' or 'task.loss'"),
        ("steps=3", "'local.steps'"),
    ],
)
def test_a_wrong_key_is_understood_wherever_it_stands(override, meant):
    with pytest.raises(ValueError, match=rf"^unknown key .*; did you mean {re.escape(meant)}\?$"):
        load({}, [override])


def test_a_full_key_in_a_section_is_explained():
    with pytest.raises(ValueError, match=r"^unknown key 'gossip.clock.rate'; keys of a section stand under it, as in "):
        load({"gossip": {"clock.rate": 3}})
