"""A run computes the same under whatever modes its caller has, and leaves the caller's as they were."""

import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from batchednodes import resume, train
from batchednodes.numerics import threads, torch_modes

SMALL = {
    "network": {"nodes": 6},
    "run": {"until": 3, "mark_every": 1},
    "task": {
        "data": {"samples_per_node": 5, "test_samples": 30},
        "model": {"kind": "python", "target": "example_models:Tiny"},
    },
    "local": {"lr": 1e-40},
}
"""Numbers that are too small to be normal, beside some that depend on the default type."""


class Larger(TorchFunctionMode):
    """Adds one to all numbers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return found + 1 if isinstance(found, torch.Tensor) and found.is_floating_point() else found


class Nothing(TorchDispatchMode):
    """Refuses all operations."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} is not to be called")


@contextmanager
def switched(set_, now, after):
    """Sets a mode, and afterwards sets it back."""
    set_(now)
    try:
        yield
    finally:
        set_(after)


@contextmanager
def precisions():
    with switched(torch.set_float32_matmul_precision, "medium", "highest"):
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
        torch.backends.fp32_precision = "tf32"
        try:
            yield
        finally:
            torch.backends.fp32_precision = torch.backends.mkldnn.conv.fp32_precision = "none"


@contextmanager
def cast(inner):
    with torch.autocast("cpu", torch.float16), inner:
        yield


AROUND = {
    "device": lambda: torch.device("meta"),
    "default_device": lambda: switched(torch.set_default_device, "meta", None),
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast_type": lambda: cast(torch.autocast("cpu", enabled=False)),
    "dtype": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "not_deterministic": lambda: switched(torch.use_deterministic_algorithms, False, True),
    "deterministic": lambda: switched(torch.use_deterministic_algorithms, True, True),
    "flush": lambda: switched(torch.set_flush_denormal, True, False),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "forward_gradients": torch.autograd.forward_ad.dual_level,
    "numpy": lambda: np.errstate(all="raise"),
    "hooks": lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: 2 * t, lambda t: t),
    "mutation": torch.autograd.graph.allow_mutation_on_saved_tensors,
    "functions": Larger,
    "without_functions": torch._C.DisableTorchFunction,
    "operations": Nothing,
    "fake": FakeTensorMode,
    "profiler": lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
    "precision": precisions,
    "onednn": lambda: switched(torch._C._set_mkldnn_enabled, False, True),
    "cudnn": lambda: torch.backends.cudnn.flags(enabled=False, benchmark=True, deterministic=True, allow_tf32=False),
    "attention": lambda: torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION),
    "sparse": torch.sparse.check_sparse_tensor_invariants,
    "parametrizations": parametrize.cached,
    "swapped": lambda: switched(torch.__future__.set_swap_module_params_on_conversion, True, False),
    "overwritten": lambda: switched(torch.__future__.set_overwrite_module_params_on_conversion, True, False),
    "stance": lambda: torch.compiler.set_stance("force_eager"),
}
"""Modes that are entered."""

THROUGH = {
    "vmap": lambda f: torch.func.vmap(f, randomness="error")(torch.zeros(2)),
    "grad": lambda f: torch.func.grad(f)(torch.tensor(0.0)),
    "jvp": lambda f: torch.func.jvp(f, (torch.tensor(0.0),), (torch.tensor(1.0),)),
    "make_fx": lambda f: make_fx(f)(torch.zeros(2)),
    "trace": lambda f: torch.jit.trace(f, torch.zeros(2), check_trace=False),
    "compile": lambda f: torch.compile(f, backend="eager")(torch.zeros(2)),
}
"""What calls a function in modes of its own."""

KILLERS = ("device", "default_device")
"""Modes that ended the process once."""


def call(mode, work):
    """Returns what some work gives under a mode, and checks that the mode is afterwards as it was."""
    done = []

    def inner():
        before = state()
        done.append(work())
        assert state() == before

    if mode in AROUND:
        with AROUND[mode]():
            inner()
    else:
        THROUGH[mode](lambda x: (inner(), 2 * x)[1])
    return done[0]


@torch.compiler.disable  # it is no part of what is compiled
def state():
    """Returns the modes of this thread and of the process, and what else a caller has."""
    stack = torch._C._functorch.peek_interpreter_stack()
    return {
        "of torch": (
            torch.get_default_dtype(), getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None),
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch._C._is_fwd_grad_enabled(),
            torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled(), torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory, torch.get_float32_matmul_precision(),
        ),
        "of autocast": (
            *(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")), torch.is_autocast_cache_enabled(),
            *(torch.get_autocast_dtype(kind) for kind in ("cpu", "cuda")),
        ),
        "of kernels": (
            *(torch._C._get_fp32_precision_getter(*place) for place in torch_modes._PRECISIONS),
            *(switch.read() for switch in torch_modes._of_kernels()),
        ),
        "of modules": (
            parametrize._cache_enabled, torch.__future__.get_swap_module_params_on_conversion(),
            torch.__future__.get_overwrite_module_params_on_conversion(),
            torch.sparse.check_sparse_tensor_invariants.is_enabled(), torch.backends.mha.get_fastpath_enabled(),
        ),
        "overrides": (
            list(map(id, _get_current_function_mode_stack())), torch._C._is_torch_function_enabled(),
            list(map(id, _get_current_dispatch_mode_stack())),
            torch._C._autograd._top_saved_tensors_default_hooks(True), stack and (stack.key(), stack.level()),
        ),
        "of numbers": (np.geterr(), torch_modes._flushes()),
        "generators": (torch.initial_seed(), repr(np.random.get_state())),  # noqa: NPY002
        "of Python": (
            [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
            os.getcwd(), dict(os.environ), list(sys.path), multiprocessing.get_start_method(allow_none=True),
            list(warnings.filters), sys.getrecursionlimit(),
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Returns a folder, and in it a whole run, one that was halted, and final models of `executor=serial`."""
    folder = tmp_path_factory.mktemp("modes")
    calls = iter(range(1000))
    train(SMALL, out=folder / "whole")
    train(SMALL, out=folder / "halted", stop=lambda: next(calls) > 3)
    assert json.loads((folder / "halted" / "summary.json").read_text())["status"] == "interrupted"
    torch.save(train(SMALL, "executor=serial").x, folder / "serial.pt")
    return folder


def run_under(mode, plain, place):
    """Checks that runs under a mode give the bits of those without."""
    whole, serial = plain / "whole", torch.load(plain / "serial.pt")
    call(mode, lambda: train(SMALL, out=place / "run"))
    assert torch.equal(call(mode, lambda: train(SMALL, "executor=serial")).x, serial)
    shutil.copytree(plain / "halted", place / "resumed")
    again = call(mode, lambda: resume(place / "resumed"))
    for run in (place / "run", place / "resumed"):
        assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
        left, wanted = load_file(run / "final.safetensors"), load_file(whole / "final.safetensors")
        assert all(torch.equal(left.pop(name), tensor) for name, tensor in wanted.items())
        assert not left
    module = call(mode, lambda: again.model(2))
    assert all(not w.is_meta and not w.is_inference() for w in module.parameters())
    assert torch.equal(torch.cat([w.detach().flatten() for w in module.parameters()]), again.x[2])
    assert again.x.count_nonzero(1).min() == again.x.shape[1]


@pytest.mark.parametrize("mode", [mode for mode in (*AROUND, *THROUGH) if mode not in KILLERS])
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_run_computes_the_same_under_a_mode_and_leaves_it(mode, plain, tmp_path):
    run_under(mode, plain, tmp_path)


def test_modes_that_ended_the_process_do_not(plain, tmp_path):
    code = (
        "import pathlib, sys, test_torch_modes as t\n"
        "t.train(t.SMALL)\n"  # to import packages adds to the filters of warnings
        "for mode in t.KILLERS:\n"
        "    place = pathlib.Path(sys.argv[2]) / mode\n"
        "    place.mkdir()\n"
        "    t.run_under(mode, pathlib.Path(sys.argv[1]), place)\n"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    command = [sys.executable, "-c", code, str(plain), str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True)
    assert (done.returncode, done.stderr.decode()[-2000:]) == (0, "")


def test_callbacks_have_the_modes_of_the_run_and_what_they_change_ends_with_it(plain):
    seen, before = [], state()

    def watch(*_):
        seen.append((torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype()))
        torch.set_default_dtype(torch.float64)

    with torch.no_grad():
        train(SMALL, watch=watch)
    assert seen[0] == (True, True, torch.float32)
    assert state() == before


def test_an_error_leaves_the_modes_as_they_were():
    def watch(*_):
        raise KeyboardInterrupt

    with Larger(), torch.inference_mode():
        before = state()
        with pytest.raises(KeyboardInterrupt):
            train(SMALL, watch=watch)
        with pytest.raises(ValueError, match=r"network\.nodes"):
            train(SMALL, "network.nodes=0")
        assert state() == before


def test_what_a_users_module_changes_as_it_is_imported_or_called_changes_no_run(plain, tmp_path, monkeypatch):
    text = "import torch\nfrom example_models import Tiny\ntorch.set_default_dtype(torch.float64)\n"
    more = "def make():\n    torch.set_grad_enabled(False)\n    torch.set_default_dtype(torch.float16)\n"
    (tmp_path / "changes_modes.py").write_text(text + more + "    return Tiny()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "changes_modes", raising=False)
    importlib.invalidate_caches()
    before = state()
    first, second = (train(SMALL, "task.model.target=changes_modes:Tiny") for _ in range(2))
    assert torch.equal(first.x, load_file(plain / "whole" / "final.safetensors")["x"])
    assert torch.equal(first.x, second.x)
    assert train(SMALL, "task.model.target=changes_modes:make", "executor=serial").x.dtype == torch.float32
    assert state() == before


def test_runs_of_several_threads_at_once_have_their_modes_and_leave_the_callers(plain):
    begun, models = threading.Barrier(2), {}

    def work(k):
        with torch.no_grad():
            begun.wait()
            options = ["run.baseline=none", "executor=serial"] if k else []  # one ends while the other runs
            models[k] = train(SMALL, *options, watch=lambda *_: dtypes.add(torch.get_default_dtype())).x

    dtypes, wanted = set(), load_file(plain / "whole" / "final.safetensors")["x"]
    with switched(torch.set_default_dtype, torch.float64, torch.float32):
        before = state()
        both = [threading.Thread(target=work, args=(k,)) for k in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert state() == before
    assert dtypes == {torch.float32}
    assert torch.equal(models[0], wanted)
    assert torch.equal(models[1], torch.load(plain / "serial.pt"))


def test_all_threads_of_the_team_compute_with_small_numbers(plain):
    tiny, count = torch.full((1 << 20,), 1e-40), torch.get_num_threads()  # enough for several threads
    torch.set_num_threads(2)
    try:
        with switched(torch.set_flush_denormal, True, False):
            threads.each(lambda _: torch.set_flush_denormal(True))
            with torch_modes.own():
                inside = (tiny * 2).count_nonzero()
            outside = (tiny * 2).count_nonzero()
        threads.each(lambda _: torch.set_flush_denormal(False))
    finally:
        torch.set_num_threads(count)
    assert (inside, outside) == (tiny.numel(), 0)


def test_a_run_is_deterministic_where_plain_kernels_are_not():
    place = torch.randint(0, 1000, (1_000_000,), generator=torch.Generator().manual_seed(0))
    numbers, count = torch.randn(1_000_000, generator=torch.Generator().manual_seed(1)), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with AROUND["not_deterministic"](), torch_modes.own():
            sums = [torch.zeros(1000).index_put_((place,), numbers, accumulate=True) for _ in range(5)]
    finally:
        torch.set_num_threads(count)
    assert all(torch.equal(sums[0], other) for other in sums)


def test_the_seed_of_torchs_generator_is_left():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        wanted = torch.rand(3)
        torch.manual_seed(7)
        train(SMALL, "task.model.init=independent")
        assert torch.equal(torch.rand(3), wanted)


def test_models_that_several_threads_make_at_once_draw_from_a_seed_each(tmp_path, monkeypatch):
    text = "import time\nfrom example_models import Tiny\ndef make():\n    time.sleep(0.3)\n    return Tiny()\n"
    (tmp_path / "made_in_threads.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "made_in_threads", raising=False)
    importlib.invalidate_caches()
    models = {}

    def work(seed):
        options = ["task.model.target=made_in_threads:make", "run.until=0.01", "run.baseline=none", f"seed={seed}"]
        models.setdefault(seed, []).append(train(SMALL, *options).x)

    work(0), work(1)
    both = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert all(torch.equal(*models[seed]) for seed in (0, 1))
