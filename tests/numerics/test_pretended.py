"""The pretended CUDA device refuses and notes what a real one would refuse, or the host would wait for."""

import pretended
import pytest
import torch
from pretended import CaptureError, MixedError

from batchednodes.numerics import devices, memory
from batchednodes.numerics.cuda_graphs import capture


@pytest.fixture
def noted():
    with pretended.pretended() as noted:
        yield noted


@pytest.fixture
def there(noted):
    return devices.named("cuda")


def test_tensors_of_host_and_device_do_not_mix(there):
    x = torch.ones(3, device=there)
    assert torch.equal((2 * x + torch.tensor(1.0)).cpu(), torch.full((3,), 3.0))  # a number is no tensor of the host
    for mixed in (lambda: x + torch.ones(3), lambda: torch.cat([torch.zeros(0), x]), lambda: x + x.to("pretended:1")):
        with pytest.raises(MixedError):
            mixed()
    with pytest.raises(TypeError):
        x.numpy()


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x.copy_(torch.zeros(3)),
        lambda x: x.to(torch.int64).bincount(),
    ],
)
def test_waits_are_noted_and_refused_in_graphs(wait, noted, there):
    x = torch.ones(3, device=there)
    noted.waits.clear()
    wait(x)
    assert noted.waits.total() == 1
    with pytest.raises(CaptureError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        wait(x)


def test_a_wait_has_the_line_of_the_package_that_asked(noted, there):
    devices.synchronize(there)
    ((_, what, line),) = noted.waits
    assert what == "synchronize"
    assert line.startswith("numerics/devices.py:")


def test_pinned_memory_that_is_written_too_early_is_found(noted, there):
    source = memory.sendable((3,), torch.float32, there)
    for early in (False, True):
        sent = source.fill_(1.0).to(there, non_blocking=True)
        if not early:
            devices.synchronize(there)
        source.fill_(2.0)
        devices.synchronize(there)
        assert bool(noted.races) == early
    assert sent.device == there


def test_what_comes_from_the_device_is_garbage_until_the_host_waits(there):
    target = memory.sendable((3,), torch.float32, there)
    target.copy_(torch.ones(3, device=there), non_blocking=True)
    assert target.isnan().all()
    devices.synchronize(there)
    assert torch.equal(target, torch.ones(3))


def test_graphs_run_again_on_the_memory_they_were_recorded_with(there):
    x, y = torch.ones(2, 3, device=there), torch.zeros(2, device=there)
    replay, result = capture()(lambda x, y: y.add_(x.sum(1)) * 2, [x, y])
    y.zero_()
    for k in range(1, 4):
        replay()
        assert torch.equal(result.cpu(), torch.full((2,), 6.0 * k))
    x.fill_(2.0)
    replay()
    assert torch.equal(y.cpu(), torch.full((2,), 15.0))


def test_a_graph_holds_what_runs_on_its_device_only(there):
    other = torch.ones(2, device=devices.named("cuda:1"))
    with pytest.raises(CaptureError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        other.add_(1)


def test_devices_are_gone_afterwards():
    with pretended.pretended():
        assert devices.count() == 2
    assert devices.count() == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert devices.CUDA == "cuda"
