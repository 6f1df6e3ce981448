"""Where an estimate lies beside what a rule claims of it, and how much more data would tell."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bench.model import Estimate, Region

MOST_REPLICATES = 10_000  # beyond it nobody waits for them
ENOUGH_REPLICATES = 5  # fewer know their own scatter to no better than a factor of three


def margin(found: Estimate, region: Region) -> float:
    """How far a value lies within the region (negative: outside of it), in half intervals of the
    region's confidence; infinite for a value without an interval, NaN for one that is not known."""
    inside = region.low <= found.value <= region.high
    away = min((_half_intervals(found, end, region) for end in _ends(region)), default=math.inf)
    return away if inside else -away


def times_to_lie(found: Estimate, region: Region, *, within: bool = True) -> float:
    """By which factor more replicates would have the whole interval lie within the region (or
    outside of it), if value and scatter stay as they are; 1 where it does, infinite where the
    value lies on the other side, or it would take more than `MOST_REPLICATES`.

    An interval is as wide as Student's t over √n.
    """
    away = margin(found, region) * (1 if within else -1)
    if math.isnan(away) or away <= 0:
        return math.inf
    if away >= 1:
        return 1.0
    widths = _widths(region.confidence)[found.n :]
    enough = np.flatnonzero(widths < away * widths[0])
    return float(1 + enough[0] / found.n) if len(enough) else math.inf


@functools.cache
def _widths(confidence: float) -> NDArray[np.float64]:
    """Of intervals, in the scatter's own size, by the number of replicates."""
    n = np.arange(MOST_REPLICATES + 1)
    return np.asarray(_t(n, confidence) / np.sqrt(np.maximum(n, 1)))


def _ends(region: Region) -> list[float]:
    return [end for end in (region.low, region.high) if math.isfinite(end)]


def _half_intervals(found: Estimate, end: float, region: Region) -> float:
    """The distance of the value from an end of the region, in half intervals on that side."""
    side = found.high if end > found.value else found.low
    if not found.low < found.high or side == found.value:
        return math.nan if math.isnan(found.value) else math.inf
    if found.log and min(end, found.value, side) > 0:
        away = abs(math.log(end / found.value) / math.log(side / found.value))
    else:
        away = abs((end - found.value) / (side - found.value))
    n = np.array([found.n])
    return float(away * _t(n, found.confidence)[0] / _t(n, region.confidence)[0])


def _t(n: NDArray[Any], confidence: float) -> NDArray[np.float64]:
    return np.asarray(special.stdtrit(np.maximum(n - 1, 1), (1 + confidence) / 2))
