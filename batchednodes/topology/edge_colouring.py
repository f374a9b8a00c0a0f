r"""The edges of a graph as few matchings: in a matching no two edges share a node.

Notation: d largest degree, u v ends of an edge.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Int64

from batchednodes.topology.graph import Graph


def matchings(graph: Graph) -> list[Int64[np.ndarray, "_ 2"]]:
    """Returns at most d + 1 matchings that have each edge of an undirected graph once, by colours of edges.

    Edges get colours one after the other. A fan of u is a list of its neighbours in which the colour of each edge is
    free at the neighbour before; where the colour d, free at the last of them, is free at u too, the fan's colours move
    up; else they do so once a path of two colours from u has changed them.

    Example:
        >>> from batchednodes.topology import Ring, Star
        >>> from batchednodes.topology.edge_colouring import matchings
        >>> [some.tolist() for some in matchings(Ring().graph(5, 0))]
        [[[0, 4], [1, 2]], [[3, 4]], [[0, 1], [2, 3]]]
        >>> len(matchings(Star().graph(6, 0)))
        5

    Reference:
        J. Misra, D. Gries, "A constructive proof of Vizing's theorem", Inf. Process. Lett. 41(3), 1992.
    """
    at = [dict[int, int]() for _ in range(graph.n)]  # at[u][colour]: the neighbour along the edge of that colour
    rows = np.repeat(np.arange(graph.n), graph.degrees)
    for u, v in zip(rows.tolist(), graph.indices.tolist(), strict=True):
        if u < v:
            _colour_(at, u, v)
    count = max((max(own, default=-1) for own in at), default=-1) + 1
    found: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for u, own in enumerate(at):
        for colour, v in own.items():
            if u < v:
                found[colour].append((u, v))
    return [np.array(sorted(some), np.int64) for some in found if some]


def _colour_(at: list[dict[int, int]], u: int, v: int) -> None:
    """Gives the edge u, v a colour; others may change theirs."""
    fan = _fan(at, u, v)
    c, d = _free(at[u]), _free(at[fan[-1]])
    if d in at[u]:
        _swap_(at, u, c, d)
        last = next(k for k, w in enumerate(fan) if d not in at[w] and _is_fan(at, u, fan[: k + 1]))
        fan = fan[: last + 1]
    edges = {w: colour for colour, w in at[u].items()}
    for w, following in pairwise(fan):
        colour = edges[following]
        del at[following][colour]
        at[u][colour], at[w][colour] = w, u
    at[u][d], at[fan[-1]][d] = fan[-1], u


def _fan(at: list[dict[int, int]], u: int, v: int) -> list[int]:
    """Returns a longest fan of u that begins with v, to which there is no coloured edge."""
    fan, left = [v], dict(at[u])
    while True:
        colour = next((colour for colour in left if colour not in at[fan[-1]]), None)
        if colour is None:
            return fan
        fan.append(left.pop(colour))


def _is_fan(at: list[dict[int, int]], u: int, fan: list[int]) -> bool:
    edges = {w: colour for colour, w in at[u].items()}
    return all(edges[following] not in at[w] for w, following in pairwise(fan))


def _free(own: dict[int, int]) -> int:
    """Returns the least colour that no edge of a node has."""
    colour = 0
    while colour in own:
        colour += 1
    return colour


def _swap_(at: list[dict[int, int]], u: int, c: int, d: int) -> None:
    """Swaps the colours of the path from u whose edges have the colours d, c, d, ...; c is free at u."""
    path, colours = [u], list[int]()
    colour = d
    while colour in at[path[-1]]:
        path.append(at[path[-1]][colour])
        colours.append(colour)
        colour = c if colour == d else d
    for (a, b), old in zip(pairwise(path), colours, strict=True):
        del at[a][old], at[b][old]
    for (a, b), old in zip(pairwise(path), colours, strict=True):
        new = c if old == d else d
        at[a][new], at[b][new] = b, a
