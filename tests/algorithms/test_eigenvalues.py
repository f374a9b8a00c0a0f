"""D2 asks that no eigenvalue of W is below -1/3; a W that does not change is looked at before a run begins."""

import pytest

from batchednodes import load
from batchednodes.simulation.planning import preflight
from batchednodes.topology.graph import eigenvalue_below

BASE = {"timing": {"kind": "synchronous"}, "algorithm": {"kind": "d2"}, "network": {"topology": {"kind": "ring"}}}


def constant(value, n):
    """Returns settings of a ring in which neighbours have some weight: 1 - 4 weights is the least eigenvalue of W."""
    return f"network.nodes={n}", f"network.weights={{kind: constant, value: {value}}}"


REFUSED = {
    "-0.6": constant(0.4, 8),
    "-0.600": constant(0.4, 1001),
    "-0.5": ("network.nodes=16", "network.topology.kind=hypercube", "network.weights={kind: constant, value: 0.1875}"),
}


@pytest.mark.parametrize("least", REFUSED)
def test_d2_is_refused_where_it_would_diverge(least):
    rule = (
        rf"weights\.kind must give W no eigenvalue below -0\.333333 with .*kind=d2, .* got {float(least):g}; use kind"
    )
    with pytest.raises(ValueError, match=rule):
        preflight.timeline([load(BASE, [*REFUSED[least]])], 1)
    preflight.timeline([load(BASE, [*REFUSED[least], "algorithm.kind=exact_diffusion"])], 1)


@pytest.mark.parametrize(
    "settings",
    [
        constant(1 / 3, 8),  # -1/3 itself: the public trajectories of D2 have it
        constant(0.3, 1000),
        ("network.topology.kind=complete",),
        ("network.nodes=16", "network.topology.kind=one_peer_exponential", "gossip.exchange=pull"),
    ],
)
def test_d2_is_not_refused_elsewhere(settings):
    preflight.timeline([load(BASE, [*settings])], 1)


@pytest.mark.parametrize("n", [100, 600])  # by a dense matrix, and by products with W
def test_the_least_eigenvalue_of_a_ring_is_found(n):
    config = load(BASE, ["algorithm.kind=d_psgd", *constant(0.45, n)])
    w = preflight.timeline([config], 1).weights[0].matrix(0)
    assert eigenvalue_below(w, -0.9) is None
    assert eigenvalue_below(w, -0.7) == pytest.approx(-0.8, abs=1e-3)
