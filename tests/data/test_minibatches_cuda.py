"""Minibatches that a device draws are those of the host, whatever was drawn before."""

import numpy as np
import pytest
import torch
from test_minibatches import SAMPLINGS, sampler

from batchednodes.data import minibatches_cuda
from batchednodes.data.minibatches_cuda import DeviceSampler
from batchednodes.numerics import devices

pytest.importorskip("triton", reason="Triton has no build for this platform")


@pytest.mark.cuda
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_draws_are_those_of_the_host(sampling, monkeypatch):
    monkeypatch.setattr(minibatches_cuda, "NODES", 4)
    seeds = 8 * [7, 7, 2**63 + 1, 9, 2**64 - 1]
    host = sampler(sampling, sizes=8 * (5, 1, 12, 3, 30), batch_size=3, seeds=seeds)
    there, draw = DeviceSampler.of(host, devices.named("cuda")), np.random.default_rng(0)
    assert there is not None
    for k in (2, 3, 4, 4, 1, 0, 7, 8):  # as they come, twice, back, and from the middle of an epoch
        nodes = draw.permutation(40)[:36]  # more than a program has lanes
        counts = k + nodes % 2
        found = there.draw(*(torch.from_numpy(a).to(there.order.device) for a in (nodes, counts)))
        assert np.array_equal(found.cpu().numpy(), host.draw(nodes, counts))


@pytest.mark.cuda
def test_the_host_draws_what_a_device_does_not(monkeypatch):
    there = devices.named("cuda")
    assert DeviceSampler.of(sampler(), there) is None  # few nodes
    monkeypatch.setattr(minibatches_cuda, "NODES", 4)
    assert DeviceSampler.of(sampler(epochs=1), there) is None
    assert DeviceSampler.of(sampler(), torch.device("cpu")) is None
    assert DeviceSampler.of(sampler(), there) is not None
