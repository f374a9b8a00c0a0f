"""Gossip matrices: their laws, and mixing against sums written out."""

import dataclasses
import sys

import numpy as np
import pytest
import torch

from batchednodes.algorithms.mixing import cpu, merge_, mix_, sparse
from batchednodes.algorithms.mixing.matrix import GossipMatrix, matrices
from batchednodes.algorithms.mixing.phase import GossipPhase
from batchednodes.algorithms.versions import Layout
from batchednodes.events.clocks import Never, Poisson
from batchednodes.events.schemes import Uniform
from batchednodes.events.timeline import Timeline
from batchednodes.events.waves import schedule
from batchednodes.numerics import threads
from batchednodes.topology import Networks, stack


def phase(n: int, exchange: str, seed: int, weight: torch.Tensor) -> tuple[GossipPhase, list[tuple[int, int, str]]]:
    """Returns a phase of gossip only, and its contacts (actor, peer) in time order."""
    networks = Networks(np.array([0, n]), np.array([seed], np.uint64))
    laws = Timeline(
        networks, stack(networks, [None]), Never().gaps(n, 0, "u"), Poisson(1.0).gaps(n, 0, "g"), exchange, (Uniform(),)
    )
    events, _ = laws.window(laws.begin(), 3.0)
    plan = schedule(events, n)
    assert plan.phases.size == 2
    lines, _ = GossipPhase.of(events, plan, n, torch.device("cpu"))
    contacts = [(int(a), int(p), exchange) for a, p in zip(events.actor, events.peer, strict=True)]
    return lines.on(lines.times.device, weight), contacts


def one_network(n: int, t: int) -> Layout:
    return Layout.of([n], [t], torch.device("cpu"))


@pytest.mark.parametrize("exchange", ["push", "pull", "meet"])
def test_rows_sum_to_one_and_meetings_keep_the_mean(exchange):
    weight = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixing, _ = phase(12, exchange, 1, weight)
    for matrix in matrices(mixing, 12):
        dense = matrix.dense()
        assert (dense >= 0).all()
        assert torch.allclose(dense.sum(1), torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-15)  # one rounding
        columns = torch.allclose(dense.sum(0), torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-15)
        assert columns == (exchange == "meet")
        assert matrix.rows.unique().numel() == matrix.rows.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("exchange", ["push", "pull", "meet"])
def test_mixing_is_one_contact_at_a_time(exchange, dtype):
    x = torch.randn(15, 7, generator=torch.Generator().manual_seed(2)).to(dtype)
    weight = torch.full((15,), 0.5, dtype=dtype)
    mixing, contacts = phase(15, exchange, 3, weight)
    expected = x.clone()
    for i, j, _ in contacts:  # halves are exact, so that the sum has one rounding in any order: bit for bit
        mean = 0.5 * expected[i] + 0.5 * expected[j]
        if exchange in ("push", "meet"):
            expected[j] = mean
        if exchange in ("pull", "meet"):
            expected[i] = mean
    sparse.mix_(x, mixing)
    assert torch.equal(x, expected)


def test_weights_are_those_of_the_node_that_makes_the_contact():
    weight = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for exchange in ("push", "pull", "meet"):
        mixing, contacts = phase(9, exchange, 4, weight)
        mixed, expected = x.clone(), x.clone()
        sparse.mix_(mixed, mixing)
        for i, j, _ in contacts:
            a, b, w = expected[i].clone(), expected[j].clone(), weight[i]
            if exchange != "pull":
                expected[j] = (1 - w) * b + w * a
            if exchange != "push":
                expected[i] = (1 - w) * a + w * b
        assert torch.allclose(mixed, expected, rtol=1e-13, atol=1e-14)  # fused products round once less


def test_matrices_of_a_phase_multiply_to_its_effect():
    weight = torch.full((10,), 0.3, dtype=torch.float64)
    mixing, _ = phase(10, "meet", 6, weight)
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    product = torch.eye(10, dtype=torch.float64)
    for matrix in matrices(mixing, 10):
        product = matrix.dense() @ product
    mixed = x.clone()
    sparse.mix_(mixed, mixing)
    assert torch.allclose(mixed, product @ x, rtol=1e-12, atol=1e-13)  # another order of the same sums
    assert torch.allclose(mixed.mean(0), x.mean(0), rtol=0, atol=1e-14)


def divided(monkeypatch, threads, bytes_a_row):
    """Has the kernels work in some threads on narrow blocks of columns."""
    cpu._width.cache_clear()
    monkeypatch.setattr(cpu, "_NARROWEST", bytes_a_row)
    monkeypatch.setattr(cpu, "_WIDEST", bytes_a_row)
    monkeypatch.setattr(cpu, "_WORTH", 0)
    monkeypatch.setattr(cpu, "_WORTH_MERGED", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exchange", ["push", "pull", "meet"])
def test_blocks_are_the_reference_kernel(exchange, dtype, threads, monkeypatch):
    divided(monkeypatch, threads, 320 * dtype.itemsize)
    for p in (1, 16, 333, 1001):  # less than a block, one step of a thread, blocks of several pieces and a rest
        x = torch.randn(40, p, generator=torch.Generator().manual_seed(p)).to(dtype)
        versions = torch.randint(0, 99, (40, p), generator=torch.Generator().manual_seed(p), dtype=torch.int32)
        half, _ = phase(40, exchange, p, torch.full((40,), 0.5, dtype=dtype))
        some, _ = phase(40, exchange, p, torch.rand(40, generator=torch.Generator().manual_seed(1)).to(dtype))
        for mixing, tolerance in (
            (half, 0.0),
            (some, 8 * torch.finfo(dtype).eps),
        ):  # halves are exact; else fused products
            fast, slow = x.clone(), x.clone()
            mix_(fast, mixing, "auto")
            mix_(slow, mixing, "sparse")
            assert torch.allclose(fast, slow, rtol=tolerance, atol=tolerance)
        fast, slow = versions.clone(), versions.clone()
        moments = torch.zeros(2, 40, dtype=torch.float64)
        merge_(fast.view(-1), moments[0], half, one_network(40, p), "auto")
        merge_(slow.view(-1), moments[1], half, one_network(40, p), "sparse")
        assert torch.equal(fast, slow)
        assert torch.allclose(moments[0], moments[1], rtol=1e-14, atol=0)  # the same terms in another order


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("exchange", ["push", "pull", "meet"])
def test_bfloat16_in_blocks_is_rounded_as_torch_does(exchange, threads, monkeypatch):
    divided(monkeypatch, threads, 64)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 77, generator=generator).mul(torch.logspace(-38, 37, 77)).to(torch.bfloat16)
    x[3, 5], x[7, 9], x[2, 1] = torch.inf, -torch.inf, 3e38  # sums of two opposite infinities are NaN
    x[9, 5] = -torch.inf
    mixing, _ = phase(40, exchange, 8, torch.rand(40, generator=generator).to(torch.bfloat16))
    expected = x.clone()
    mix_(x, mixing, "auto")
    mix_(expected, mixing, "sparse")
    assert expected.isnan().any()
    assert torch.equal(x.nan_to_num(nan=1.5), expected.nan_to_num(nan=1.5))  # bit for bit; no infinity becomes 1.5


def test_without_openmp_threads_of_python_share_the_task(monkeypatch):
    divided(monkeypatch, 3, 64)
    mixing, _ = phase(40, "push", 9, torch.full((40,), 0.5))
    x = torch.randn(40, 200, generator=torch.Generator().manual_seed(4))
    expected = x.clone()
    mix_(expected, mixing, "auto")
    monkeypatch.setattr(threads, "team", lambda: None)
    used = threads.pool.cache_info().hits + threads.pool.cache_info().misses
    mix_(x, mixing, "auto")
    assert torch.equal(x, expected)
    assert threads.pool.cache_info().hits + threads.pool.cache_info().misses > used


def test_fewer_threads_than_asked_for_leave_nothing(monkeypatch):
    found = threads.team()
    if found is None:
        pytest.skip("torch lends no threads here")
    begin, number = found
    divided(monkeypatch, 3, 64)
    mixing, _ = phase(40, "push", 9, torch.full((40,), 0.5))
    x = torch.randn(40, 200, generator=torch.Generator().manual_seed(4))
    expected = x.clone()
    mix_(expected, mixing, "auto")
    monkeypatch.setattr(threads, "team", lambda: (lambda *call: begin(*call[:2], 1, call[3]), number))
    mix_(x, mixing, "auto")
    assert torch.equal(x, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch may have an OpenMP that does not know it")
def test_torch_lends_its_threads():
    assert threads.team() is not None


def test_blocks_take_what_they_can_compute():
    assert cpu.takes(torch.zeros(2, 2))
    assert cpu.takes(torch.zeros(4, dtype=torch.int16))
    assert cpu.takes(torch.zeros(2, 2, dtype=torch.bfloat16))
    assert not cpu.takes(torch.zeros(2, 2, dtype=torch.float16))
    assert not cpu.takes(torch.zeros(2, 4)[:, ::2])


def test_versions_take_the_elementwise_maximum():
    mixing, contacts = phase(8, "push", 7, torch.full((8,), 0.5))
    versions = torch.randint(0, 100, (8, 5), generator=torch.Generator().manual_seed(3), dtype=torch.int32)
    expected, gained = versions.clone(), torch.zeros(8)
    for i, j, _ in contacts:
        before = expected[j].sum()
        expected[j] = torch.maximum(expected[j], expected[i])
        gained[j] += expected[j].sum() - before
    moment = torch.zeros(8, dtype=torch.float64)
    mixing = dataclasses.replace(mixing, times=torch.full_like(mixing.times, 2.0))
    sparse.merge_(versions.view(-1), moment, mixing, one_network(8, 5))
    assert torch.equal(versions, expected)
    assert torch.equal(moment, 2.0 * gained.double())


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
@pytest.mark.parametrize("exchange", ["push", "pull", "meet"])
@pytest.mark.parametrize("kernel", ["auto", "sparse"])
def test_networks_of_many_widths_merge_as_each_alone(kernel, exchange, dtype, threads, monkeypatch):
    divided(monkeypatch, threads, 16 * dtype.itemsize)
    sizes, widths = [12, 5, 9, 12, 7], [40, 5, 0, 1, 40]
    networks = Networks(np.cumsum([0, *sizes]), np.arange(5, dtype=np.uint64))
    never, capacity = Never().gaps(45, 0, "u"), Poisson(2.0).gaps(45, 0, "g")
    laws = Timeline(networks, stack(networks, [None] * 5), never, capacity, exchange, (Uniform(),) * 5)
    events, _ = laws.window(laws.begin(), 3.0)
    layout = Layout.of(sizes, widths, torch.device("cpu"))
    versions = torch.randint(0, 30_000, (layout.numbers,), generator=torch.Generator().manual_seed(1), dtype=dtype)
    expected, moments = versions.clone(), torch.zeros(2, 45, dtype=torch.float64)
    network = networks.network_of()
    for i, j, time in zip(events.actor.tolist(), events.peer.tolist(), events.time.tolist(), strict=True):
        g, first = int(network[i]), networks.offsets[network[i]]
        table = layout.block(expected, g)
        both = torch.maximum(table[i - first], table[j - first])
        for node in {"push": [j], "pull": [i], "meet": [i, j]}[exchange]:
            moments[0, node] += time * int((both - table[node - first]).sum())
            table[node - first] = both
    plan = schedule(events, 45)
    halves, here = torch.full((45,), 0.5), torch.device("cpu")
    mixing, whole_phase = (GossipPhase.of(events, plan, 45, here)[0].on(here, halves) for _ in range(2))
    if kernel == "sparse":
        mixing = mixing.by_table(layout.table, layout.kinds.size, plan.updates)
    merge_(versions, moments[1], mixing, layout, kernel)
    assert torch.equal(versions, expected)
    assert torch.allclose(moments[0], moments[1], rtol=1e-13, atol=0)  # the same terms in another order
    x = torch.randn(45, 3, generator=torch.Generator().manual_seed(2))
    cut, whole = x.clone(), x.clone()
    mix_(cut, mixing, "sparse")  # the order of networks within a wave does not matter to the models
    mix_(whole, whole_phase, "sparse")
    assert torch.equal(cut, whole)


def test_meetings_contract_consensus_by_theory():
    # Boyd et al. 2006: a uniformly random meeting contracts the squared distance by 1 - 1/(n-1) in expectation.
    n, runs, contacts_done = 6, 300, []
    ratios = []
    for seed in range(runs):
        mixing, contacts = phase(n, "meet", seed, torch.full((n,), 0.5, dtype=torch.float64))
        x = torch.randn(n, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        before = (x - x.mean(0)).square().sum()
        sparse.mix_(x, mixing)
        after = (x - x.mean(0)).square().sum()
        ratios.append(float(after / before) / (1 - 1 / (n - 1)) ** len(contacts))
        contacts_done.append(len(contacts))
    assert min(contacts_done) > 2
    mean, error = np.mean(ratios), np.std(ratios, ddof=1) / np.sqrt(runs)
    assert abs(mean - 1) < 4 * error  # 4 standard errors; the seeds are fixed


def test_a_matrix_from_python():
    matrix = GossipMatrix.of(torch.tensor([2]), torch.tensor([0]), torch.tensor([0.25]), 3)
    x = torch.tensor([[4.0], [5.0], [8.0]])
    matrix.apply_(x)
    assert x.flatten().tolist() == [4.0, 5.0, 7.0]
    assert matrix.dense().tolist() == [[1, 0, 0], [0, 1, 0], [0.25, 0, 0.75]]


def test_pulls_read_the_peer():
    mixing, contacts = phase(5, "pull", 1, torch.full((5,), 0.5))
    assert sorted(zip(mixing.receivers.tolist(), mixing.senders.tolist(), strict=True)) == sorted(
        (i, j) for i, j, _ in contacts
    )
