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
LONG_WAIT_S = 0.5e-3
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


def exponents(
    sizes: ArrayLike, factors: Sequence[ArrayLike], blocks: Sequence[int],
    confidence: float = CONFIDENCE,
) -> list[Estimate]:  # fmt: skip
    """b, c, … of N* = a · F₁^b · F₂^c …, with intervals, a level of its own for each block.

    Least squares on logarithms; Student's t on the residuals, which hold both the replicates'
    scatter and what a power law misses. Raises ValueError where there are no degrees of freedom.
    """
    logs = np.log(np.asarray(sizes, dtype=float))
    levels = np.equal.outer(np.asarray(blocks), np.unique(blocks)).astype(float)
    wanted = [np.log(np.asarray(each, dtype=float)) for each in factors]
    design = np.column_stack([*wanted, levels])
    freedom = len(logs) - design.shape[1]
    if freedom < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(f"{len(logs)} values of N* do not tell {len(factors)} exponents apart")
    found, _, _, _ = np.linalg.lstsq(design, logs, rcond=None)
    spread = np.sum((logs - design @ found) ** 2) / freedom * np.linalg.inv(design.T @ design)
    t = float(special.stdtrit(freedom, (1 + confidence) / 2))
    halves = t * np.sqrt(np.diag(spread))
    return [
        Estimate(float(b), float(b - half), float(b + half), "", len(logs))
        for b, half in zip(found[: len(factors)], halves, strict=False)
    ]


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
