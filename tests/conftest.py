"""What holds in every test: deterministic algorithms, fixed examples, and CUDA, pretended where there is none."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the network; read when datasets is imported

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many processes as cores; read when torch is imported

import importlib.util
import random

import hypothesis
import jaxtyping
import pytest
import torch
from checked import sparing
from pretended_backend import register

jaxtyping.jaxtyped = sparing(jaxtyping.jaxtyped)  # before the package is imported

if importlib.util.find_spec("beartype") is not None:  # machines that are lent may lack it
    for module in ("beartype._check.code.codemain", "beartype._util.kind.integer.utilintget"):
        # Checked signatures draw which item of a list they look at: not from the generator of what they check.
        vars(importlib.import_module(module))["getrandbits"] = random.Random(0).getrandbits

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined: before the package is imported


def pytest_configure() -> None:
    """Makes runs repeatable: operations without a deterministic form are refused, and examples are always the same."""
    if not torch.cuda.is_available():
        register()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    torch.use_deterministic_algorithms(True)
    hypothesis.settings.register_profile("project", derandomize=True, deadline=None)
    hypothesis.settings.load_profile("project")


@pytest.hookimpl(trylast=True)  # after those that are slow were left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps one case of each test where signatures are checked: most of them keep or break what these promise alike."""
    if config.getoption("jaxtyping_packages", None):
        first = {item.nodeid.split("[")[0]: item for item in reversed(items)}
        items[:] = [*first.values()][::-1]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists how many classes of torch.nn, and other uses, train, and which are refused and why."""
    reports = terminalreporter.stats.get("passed", ())
    for kind in ("torch.nn", "other uses"):
        said = sorted(value for r in reports for key, value in r.user_properties if key == kind)
        refused = [line for line in said if " refused: " in line]
        if said:
            terminalreporter.write_line(f"{kind}: {len(said) - len(refused)} train, {len(refused)} are refused")
        for line in refused:
            terminalreporter.write_line(f"  {line}")


@pytest.fixture(autouse=True)
def machine(request):
    """Gives tests marked `cuda` pretended devices where there are none, and what is noted of them; None elsewhere."""
    if not request.node.get_closest_marker("cuda") or torch.cuda.is_available():
        yield None
        return
    from pretended import pretended  # it imports the package: after what a test is collected with

    with pretended() as noted:
        yield noted
        assert not noted.races, f"pinned memory is written again before it is sent: {set(noted.races)}"


@pytest.fixture
def file(tmp_path):
    """Returns a function that writes a config file."""

    def write(content):
        path = tmp_path / "c.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write
