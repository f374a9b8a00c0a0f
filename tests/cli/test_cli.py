"""The command line as a user sees it: what is printed, exit codes, no traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from batchednodes import load, train
from batchednodes.cli import app, arguments
from batchednodes.cli.console import console
from batchednodes.config import reference
from batchednodes.figures.published import EXPERIMENTS
from batchednodes.figures.published.quickstart import Quickstart
from batchednodes.results.folder.paths import OutputFolder
from batchednodes.simulation.planning.preflight import fresh
from batchednodes.simulation.training import start

TINY = "network: {nodes: 6}\nrun: {until: 3, mark_every: 1}\ntask: {data: {samples_per_node: 5, test_samples: 30}}\n"


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    """A config file in a working directory of its own, on a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    Path("tiny.yaml").write_text(TINY)


def call(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """Runs the command in this process; returns exit code, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["batchednodes", *arguments])
    try:
        app.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_train_reports_and_leaves_results(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "train", "tiny.yaml", "name=mine", "run.baseline=isolated")
    assert code == 0
    for text in (
        "n = 6 nodes at t = 3 s",
        "isolated",
        "loss, worst node",
        "consensus distance",
        "exact law",
        "events/s",
    ):
        assert text in out
    assert "results     runs/mine-1" in out
    assert "tensorboard --logdir runs/mine-1 --host localhost" in out
    assert json.loads(Path("runs/mine-1/summary.json").read_text())["status"] == "finished"
    code, out, _ = call(monkeypatch, capsys, "train", "tiny.yaml", "name=mine", "--quiet")
    assert (code, out) == (0, "")
    assert Path("runs/mine-2").is_dir()


def test_train_into_a_folder_of_choice(monkeypatch, capsys):
    assert call(monkeypatch, capsys, "train", "tiny.yaml", "--out", "deep/er", "seed=3")[0] == 0
    assert "seed: 3" in Path("deep/er/config.yaml").read_text()
    code, _, err = call(monkeypatch, capsys, "train", "tiny.yaml", "--out", "deep/er")
    assert code == 2
    assert "error: --out must not exist yet, got 'deep/er'; nothing is ever overwritten" in err


def test_a_numbered_folder_that_another_run_takes_first_is_left_to_it():
    settings, place = load("tiny.yaml"), OutputFolder.numbered("mine")
    for k in (1, 2):
        (Path("runs") / f"mine-{k}").mkdir(parents=True)
        (Path("runs") / f"mine-{k}" / "config.yaml").write_text("another's")
    assert str(start(settings, fresh(settings, None), place).folder) == "runs/mine-3" == str(place.folder)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["mine-1", "mine-2", "mine-3"]
    assert [path.name for path in Path("runs/mine-1").iterdir()] == ["config.yaml"]


def test_output_that_cannot_be_written_costs_no_results(tmp_path):
    command = [sys.executable, "-m", "batchednodes", "train", "tiny.yaml", "--out", "run"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    reason = "standard output cannot be written: No space left on device; the results are in run"
    assert (done.returncode, done.stderr) == (2, f"error: {reason}\n")
    assert json.loads(Path("run/summary.json").read_text())["status"] == "finished"


def test_compare_counts_no_run_twice_and_names_those_that_are_not_finished(monkeypatch, capsys):
    train("tiny.yaml", out="run")
    train("tiny.yaml", out="half", stop=lambda: True)
    code, out, err = call(monkeypatch, capsys, "compare", "run", "run/")
    assert (code, err) == (0, "")
    assert "time [s]" not in out
    assert next(line for line in out.splitlines() if "0." in line).split()[1] == "1"  # replica
    code, out, err = call(monkeypatch, capsys, "compare", "run", "half")
    assert code == 0
    assert "time [s]" in out
    assert "warning: half is not finished: the run halted" in err


def test_plan_runs_nothing(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "plan", "tiny.yaml", "network.nodes=50")
    assert code == 0
    for text in ("50", "updates, expected", "waves, expected", "versions", "total", "free", "fits", "yes"):
        assert text in out
    for text in (
        "connected",
        "degree",
        "49",
        "spectral gap",
        "1.02",
        "contraction per contact",
        "contraction per second",
    ):
        assert text in out
    assert [p.name for p in Path().iterdir()] == ["tiny.yaml"]


def test_plan_says_what_data_are_and_how_long_a_run_takes(monkeypatch, capsys):
    options = ["task.data={kind: digits}", "run.mark_every=0.002"]
    code, out, _ = call(monkeypatch, capsys, "plan", "tiny.yaml", *options, "--measure")
    assert code == 0
    for text in ("training rows", "classification, 10 labels", "each scores", "wall time, marks", "wall time, total"):
        assert text in out
    assert "marks take most of the time: raise run.mark_every" in out
    assert "note on marks" in out
    assert "note on marks" not in call(monkeypatch, capsys, "plan", "tiny.yaml", "local.batch_size=1000")[1]
    assert [p.name for p in Path().iterdir()] == ["tiny.yaml"]


def test_list_has_whole_keys_at_any_width_details_and_json(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = call(monkeypatch, capsys, "list")
    known = reference.catalogue()
    keys = [setting.path for kind in known for setting in kind.settings]
    assert [line.split(" = ")[0].strip() for line in out.splitlines() if line.startswith("  ")] == keys
    _, out, _ = call(monkeypatch, capsys, "list", "network.nodes")
    assert "  network.nodes = 100\n" in out
    assert "accepts an integer" in out
    assert "network.topology" not in out
    monkeypatch.setattr(reference, "catalogue", lambda: known)  # which is some seconds' work
    _, out, _ = call(monkeypatch, capsys, "list", "--json")
    told = json.loads(out)
    assert [setting["path"] for kind in told for setting in kind["settings"]] == keys
    assert len(json.loads(call(monkeypatch, capsys, "list", "metrics", "--json")[1])) > 30


def test_a_run_says_what_it_does_before_its_first_window(monkeypatch):
    said = []
    monkeypatch.setattr(app.commands.Progress, "add_task", lambda self, name, **more: said.append((name, more)) or 0)
    monkeypatch.setattr(app.commands.Progress, "update", lambda self, task, **more: None)
    monkeypatch.setattr(app.commands.Progress, "remove_task", lambda self, task: said.append(("gone", {})))
    with app.commands.bar(console()) as bar:
        watch = app.commands.Watch(bar)
        watch.begin("starting", "building the run")
        assert said == [("starting", {"total": None, "status": "building the run"})]
        train("tiny.yaml", watch=watch)
    assert [name for name, _ in said] == ["starting", "gone", "run"]


def test_the_shell_completes_keys_and_help_is_short(monkeypatch, capsys):
    assert "gossip.clock.rate=" in arguments.keys("gossip.clock.r")
    for command in ("train", "plan", "plot", "compare", "race", "list", "figure", "resume", "check"):
        code, out, _ = call(monkeypatch, capsys, command, "-h")
        assert code == 0
        assert "Example" in out
    assert "--install-completion" in call(monkeypatch, capsys, "-h")[1]


def test_list_shows_every_kind(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "list")
    assert code == 0
    for text in (
        "network.topology",
        "barabasi_albert",
        "shifted_exponential",
        "gossip.weight",
        "lognormal",
        "task.data.path",
    ):
        assert text in out
    _, some, _ = call(monkeypatch, capsys, "list", "gossip")
    assert "gossip.clock.rate" in some
    assert "network.topology" not in some
    code, _, err = call(monkeypatch, capsys, "list", "gosip")
    assert code == 2
    assert "section must be one of the settings, got 'gosip'; did you mean 'gossip'?" in err
    assert "'gossip.clok'; did you mean 'gossip.clock'?" in call(monkeypatch, capsys, "list", "gossip.clok")[2]


def test_plot_draws_runs_together(monkeypatch, capsys):
    for seed in ("1", "2"):
        call(monkeypatch, capsys, "train", "tiny.yaml", f"seed={seed}", "--out", f"run{seed}", "--quiet")
    code, out, _ = call(monkeypatch, capsys, "plot", "run1", "run2")
    assert code == 0
    assert out.split() == ["figures/run1+run2/curves.png", "figures/run1+run2/curves.pdf"]  # a folder of their own
    for path in out.split():
        assert Path(path).stat().st_size > 10_000
    code, _, err = call(monkeypatch, capsys, "plot", "run2", "run1", "-o", "figures/run1+run2")
    assert code == 2
    assert "nothing is ever overwritten" in err
    Path("figures/run1+run2/curves.png").write_text("old")
    code, out, _ = call(monkeypatch, capsys, "plot", "run1", "run2", "--force", "--format", "png")
    assert (code, out) == (0, "figures/run1+run2/curves.png\n")
    assert Path("figures/run1+run2/curves.png").stat().st_size > 10_000
    code, _, err = call(monkeypatch, capsys, "plot", "run1", "--format", "gif")
    assert (code, err) == (2, "error: --format must be one of png, pdf, svg, got 'gif'\n")
    assert call(monkeypatch, capsys, "plot", "run1", "--out", "elsewhere", "--format", "svg")[0] == 0
    assert [path.name for path in Path("elsewhere").iterdir()] == ["curves.svg"]
    code, _, err = call(monkeypatch, capsys, "plot", "elsewhere")
    assert code == 2
    assert "DIR must be the folder of a run, got 'elsewhere' without metrics.jsonl" in err


def test_heterogeneity_of_labels_is_shown_by_plan_train_and_plot(monkeypatch, capsys):
    digits = ["task.data={kind: digits}", "task.partition={kind: dirichlet}", "task.model.kind=linear"]
    _, out, _ = call(monkeypatch, capsys, "plan", "tiny.yaml", *digits, "sweep.network.nodes=[3, 60]")
    assert "label heterogeneity, by chance" in out
    _, out, _ = call(monkeypatch, capsys, "train", "tiny.yaml", *digits, "--out", "run")
    found = json.loads(Path("run/summary.json").read_text())["heterogeneity"][0]
    words = f"heterogeneity {found['distance']:.3f}", f"({found['chance']:.3f} by chance)"
    assert f"labels      {words[0]} over nodes {words[1]}" in out
    _, out, _ = call(monkeypatch, capsys, "plot", "run")
    assert out.splitlines()[:4] == [
        f"run/figures/{name}.{kind}" for name in ("curves", "split") for kind in ("png", "pdf")
    ]
    assert out.splitlines()[4:] == [f"dirichlet, alpha = 0.3; label {words[0]} {words[1]}"]


def test_figure_leaves_a_picture_and_never_overwrites_it(monkeypatch, capsys):
    sizes = []
    monkeypatch.setitem(EXPERIMENTS, "quickstart", lambda size: sizes.append(size) or Quickstart(20.0))
    code, out, err = call(monkeypatch, capsys, "figure", "quickstart", "--quick")
    assert (code, err, sizes) == (0, "", ["quick"])
    assert "staleness" in out
    kinds = ("png", "pdf", "csv", "yaml")
    assert out.split()[-4:] == [f"figures/quickstart.{kind}" for kind in kinds]
    assert call(monkeypatch, capsys, "figure", "quickstart", "--quick", "--out", "else/where")[0] == 0
    assert sorted(Path("else/where").iterdir()) == sorted(Path("else/where") / f"quickstart.{kind}" for kind in kinds)
    code, _, err = call(monkeypatch, capsys, "figure", "quickstart", "--quick")
    assert code == 2
    what = "--out must not hold quickstart.png yet, got 'figures'"
    assert err == f"error: {what}; nothing is ever overwritten: choose another folder, or move the file\n"
    Path("file").touch()
    for command in (["figure", "quickstart"], ["plot", "figures/quickstart.yaml"]):
        code, _, err = call(monkeypatch, capsys, *command, "--out", "file/deep")
        assert code == 2
        assert "error: --out must be a folder that can be made, got 'file/deep': " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "missing.yaml"], "missing.yaml"),
        (["train", "tiny.yaml", "gosip.clock.rate=3"], "gossip"),
        (["train", "tiny.yaml", "network.nodes=many"], "network.nodes must be an integer"),
        (["train", "tiny.yaml", "network.nodes=0"], "network.nodes must be"),
        (["train", "tiny.yaml", "network.topology.kind=rinng"], "ring"),
        (["train", "tiny.yaml", "gossip.clock.rate=log(m)"], "gossip.clock.rate"),
        (["train", "tiny.yaml", "nonsense"], "key=value"),
        (["train", "tiny.yaml", "device=cuda:77"], "device must be one of this machine"),
        (["train", "tiny.yaml", "local.lr=-1"], "local.lr must be"),
        (["plan", "tiny.yaml", "task.data.kind=npz", "task.data.path=no.npz"], "no.npz"),
        (
            ["train", "tiny.yaml", "run.start_from=a", "--from", "b"],
            "--from must not stand beside run.start_from=..., got",
        ),
        (["figure", "staleness"], "NAME must be one of staleness-scaling, linear-regression, nonlinear-regression, "),
        (["figure", "topologie"], "got 'topologie'; did you mean 'topologies'?"),
    ],
    ids=lambda a: " ".join(a[1:]) if isinstance(a, list) else "",
)
def test_mistakes_get_one_message_and_exit_code_2(monkeypatch, capsys, arguments, message):
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in out + err
    assert [p.name for p in Path().iterdir()] == ["tiny.yaml"]


def test_divergence_ends_with_code_2_and_keeps_the_folder(monkeypatch, capsys):
    code, _, err = call(monkeypatch, capsys, "train", "tiny.yaml", "local.lr=1e30", "run.until=40", "--out", "run")
    assert code == 2
    assert "is not finite" in err
    assert "everything until then is in run" in err
    assert json.loads(Path("run/summary.json").read_text())["status"] == "diverged"


@pytest.mark.parametrize(("mode", "done"), [("quarantine", "one node quarantined"), ("ignore", "6 nodes not finite")])
def test_a_run_that_outlives_divergence_says_so_and_ends_with_code_0(mode, done, monkeypatch, capsys):
    lr = "local.lr=[1e30, 0.1, 0.1, 0.1, 0.1, 0.1]"
    options = ["local.steps=3", "run.until=20", f"run.on_divergence={mode}"]
    code, out, err = call(monkeypatch, capsys, "train", "tiny.yaml", lr, *options, "--out", "run")
    assert (code, err) == (0, "")
    assert f"divergence  {done}; summary.json names " in out
    assert json.loads(Path("run/summary.json").read_text())["diverged"]["count"] == int(
        done[0] if mode == "ignore" else 1
    )
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["quarantined"] == (1 if mode == "quarantine" else None)
    assert (rows[-1]["loss_mean"] is None) == (mode == "ignore")


def test_a_run_without_a_node_left_ends_with_code_2(monkeypatch, capsys):
    options = ["local.lr=1e30", "local.steps=3", "run.on_divergence=quarantine", "run.until=40"]
    code, _, err = call(monkeypatch, capsys, "train", "tiny.yaml", *options, "--out", "run")
    assert code == 2
    assert "the loss or the model of 6 nodes is not finite" in err
    assert json.loads(Path("run/summary.json").read_text())["status"] == "diverged"


def test_warnings_are_one_line(monkeypatch, capsys):
    code, _, err = call(
        monkeypatch, capsys, "train", "tiny.yaml", "network.topology={kind: erdos_renyi, probability: 0}"
    )
    assert code == 0
    assert err.startswith("warning: network.topology is not connected: 6 components")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["plan", "--help"], ["list", "--help"], ["plot", "--help"], ["figure", "--help"]],
)
def test_help(monkeypatch, capsys, arguments):
    code, out, _ = call(monkeypatch, capsys, *arguments)
    assert code == 0
    assert "Usage: batchednodes" in out


def test_the_installed_command_works():
    done = subprocess.run(
        [sys.executable, "-m", "batchednodes", "train", "tiny.yaml", "network.nodes=-3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: network.nodes must be ")


def test_a_run_with_numbers_that_are_not_finite_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("{network: {nodes: 3}, run: {until: 2, mark_every: 1, on_divergence: ignore}}")
    small = ["local.lr=1e30", "task.data.samples_per_node=5", "task.data.test_samples=5"]
    for words in (["train", "c.yaml", *small, "--out", "run"], ["resume", "run"], ["resume", "run", "run.until=4"]):
        monkeypatch.setattr("sys.argv", ["batchednodes", *words])
        with pytest.raises(SystemExit, match="0"):
            app.main()
        assert "not finite" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("speed", "words"),
    [(0.04321, "0.0432"), (0.4, "0.4"), (12.34, "12.3"), (99.99, "100"), (123456.7, "123,457"), (0.0, "0")],
)
def test_slow_runs_have_a_speed_too(speed, words):
    assert app.commands._rate(speed) == words


def test_race_prints_a_ranking_and_goes_on_after_a_time_limit(monkeypatch, capsys):
    asked = ["race", "tiny.yaml", "--algorithms", "gossip_sgd, mean: d2", "--tune", "lr=0.1..0.2:2", "-o", "both"]
    code, out, err = call(monkeypatch, capsys, *asked, "--time-limit", "0.01s")
    assert (code, out.strip()) == (124, "")
    assert "to go on: batchednodes resume both" in err
    code, out, err = call(monkeypatch, capsys, "resume", "both")
    assert (code, err) == (0, "")
    for text in (
        "means over 3 seeds",
        "final loss_mean",
        "mean",
        "rounds of 1 s",
        "local.lr",
        "an end of the grid; widen",
    ):
        assert text in out
    assert "results     both" in out
    assert Path("both/race.pdf").is_file()
    assert not list(Path("both/tuning").rglob("final.safetensors"))
    assert "start a new one" in call(monkeypatch, capsys, "resume", "both", "local.lr=1")[2]
