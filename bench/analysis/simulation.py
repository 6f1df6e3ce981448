"""A pool simulated: the same requests through so and so many connections.

Where formulas need arrivals and hold times of a certain kind, a simulation takes them as measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapreplace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def waits(sent_s: ArrayLike, hold_s: ArrayLike, connections: int) -> Array:
    """How long each request waits for a connection, in seconds: G/G/c, first come first served.

    `sent_s`, ascending, is when each asks for one, `hold_s` how long it keeps it. By the recursion
    of Kiefer and Wolfowitz (1955): a request takes the connection that is free first. A request
    waits if and only if it finds the pool empty. Exact; the pool starts with all connections free.
    Some 3 million requests a second. Raises ValueError for a pool without connections.
    """
    if connections < 1:
        raise ValueError(f"a pool of {connections} connections")
    free = [-np.inf] * connections  # when each connection is free; a heap
    sent = np.asarray(sent_s, dtype=float).tolist()
    starts: list[float] = []
    keep = starts.append
    for asked, hold in zip(sent, np.asarray(hold_s, dtype=float).tolist(), strict=True):
        begins = free[0]
        if begins < asked:
            begins = asked
        heapreplace(free, begins + hold)
        keep(begins)
    return np.asarray(np.array(starts) - sent)


def smallest_pool(meets: Callable[[int], bool], first: int, most: int) -> int | None:
    """The fewest connections, from 1 to `most`, that meet what they must; None where `most` does
    not. `meets` must hold for every pool larger than one for which it does. It is asked less often
    the nearer `first`, a guess, is: in steps that double from there, then by halves."""
    high, step = max(1, min(first, most)), 1
    if meets(high):
        low = high - step
        while low > 0 and meets(low):
            high, step = low, 2 * step
            low = max(0, high - step)
    else:
        low, high = high, min(high + step, most)
        while low < high and not meets(high):
            low, step = high, 2 * step
            high = min(low + step, most)
        if low == high:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def poisson(rate: float, seconds: float, seed: int | Sequence[int]) -> Array:
    """Arrivals of a Poisson process of `rate` per second over `seconds`, ascending from 0."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.random(rng.poisson(rate * seconds))) * seconds
