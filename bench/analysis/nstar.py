"""N*: the smallest pool that meets the wait objective, from what pools of several sizes showed.

There are two objectives, each a share of requests that may be exceeded: those that find the pool
empty, and those that wait for a connection for longer than `LONG_WAIT_S` (p99 ≤ 0.5 ms).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # scipy.stats costs a second to import

from bench.analysis.statistics import CONFIDENCE
from bench.model import Estimate

MOST_SHARE = 0.01  # of the requests, by either objective
SERVED = 0.999  # of the offered rate, for a pool to count as enough

Array = NDArray[np.float64]


class Crossing(NamedTuple):
    """Where a falling share meets the limit, in connections, between the sizes measured; NaN where
    all are on one side of it, and then `beyond` says on which: "below" or "above" them."""

    connections: float
    beyond: str = ""


def crossing(
    sizes: Sequence[int], shares: Sequence[float], requests: Sequence[int], limit: float
) -> Crossing:
    """The first size at which the isotonic fit of `shares` falls to `limit`.

    The fit never rises with size and weighs each share by its `requests` (pool adjacent violators:
    Ayer et al., 1955). Between two sizes it is read off in proportion to the logarithm of the
    share, as tails of queues fall; a share of none counts as half a request. `sizes` ascend.
    """
    fit = falling(shares, requests)
    floor = 0.5 / np.asarray(requests, dtype=float)
    logs = np.log(np.maximum(fit, floor))
    wanted = math.log(limit)
    if logs[0] <= wanted:
        return Crossing(math.nan, "below")
    if logs[-1] > wanted:
        return Crossing(math.nan, "above")
    upper = int(np.argmax(logs <= wanted))
    lower = upper - 1
    part = (logs[lower] - wanted) / (logs[lower] - logs[upper])
    return Crossing(float(sizes[lower] + part * (sizes[upper] - sizes[lower])))


def falling(values: ArrayLike, weights: ArrayLike) -> Array:
    """The least-squares fit that never rises."""
    groups: list[list[float]] = []  # [mean, weight, members]
    for value, weight in zip(np.asarray(values, float), np.asarray(weights, float), strict=True):
        groups.append([float(value), float(weight), 1])
        while len(groups) > 1 and groups[-2][0] < groups[-1][0]:
            mean, heavy, members = groups.pop()
            below, weighs, others = groups[-1]
            whole = heavy + weighs
            groups[-1] = [(mean * heavy + below * weighs) / whole, whole, members + others]
    return np.array([mean for mean, _, members in groups for _ in range(int(members))])


class Law(NamedTuple):
    """N* ∝ L^`in_flight` · rate^`rate`: the exponents, of L at the geometric mean of all L."""

    in_flight: Estimate
    rate: Estimate


def law(
    sizes: ArrayLike, in_flight: ArrayLike, rate: ArrayLike, blocks: Sequence[int],
    confidence: float = CONFIDENCE,
) -> Law:  # fmt: skip
    """The law over all loads and replicates: log N* = b·l + d·l² + c·log rate + a level per block,
    l = log L less its mean.

    What chance needs above the mean grows as √L, so N* is no pure power of L; without d, that
    departure would count as scatter and drown the rate's exponent. Least squares; Student's t on
    the residuals. Raises ValueError where the loads do not tell the exponents apart.
    """
    logs, load, offered = (np.log(np.asarray(each, float)) for each in (sizes, in_flight, rate))
    middle = load - load.mean() if len(load) else load
    levels = np.equal.outer(np.asarray(blocks), np.unique(blocks)).astype(float)
    design = np.column_stack([middle, offered, middle**2, levels])
    freedom = len(logs) - design.shape[1]
    if freedom < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(f"{len(logs)} values of N* do not tell L and rate apart")
    found, _, _, _ = np.linalg.lstsq(design, logs, rcond=None)
    spread = np.sum((logs - design @ found) ** 2) / freedom * np.linalg.inv(design.T @ design)
    t = float(special.stdtrit(freedom, (1 + confidence) / 2))
    halves = t * np.sqrt(np.diag(spread))
    b, c = (
        Estimate(float(value), float(value - half), float(value + half), "", len(logs))
        for value, half in zip(found[:2], halves, strict=False)
    )
    return Law(b, c)


def left_out_errors(sizes: ArrayLike, factor: ArrayLike) -> Array:
    """For each N* its predicted ÷ true value by the rule N = c · factor, c from all the others.

    c is the geometric mean of size ÷ factor, which is best on logarithms. Raises ValueError for
    fewer than two.
    """
    ratios = np.log(np.asarray(sizes, dtype=float) / np.asarray(factor, dtype=float))
    if ratios.size < 2:
        raise ValueError("a rule is judged by two values of N* or more")
    others = (ratios.sum() - ratios) / (ratios.size - 1)
    return np.asarray(np.exp(others - ratios))
