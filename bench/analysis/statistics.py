"""Numbers in, numbers with their doubt out: percentiles that may be said, spread, intervals."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from hdrh.histogram import HdrHistogram
from scipy import special  # scipy.stats costs a second to import

from bench.model import Estimate, Percentiles

CONFIDENCE = 0.95
TICK_S = 1e-6  # histograms count whole microseconds (rule 3 of the methods)
PERCENTILES = (0.5, 0.9, 0.99, 0.999)


class Spread(NamedTuple):
    """A median and the extremes around it: what was seen, not an interval of confidence."""

    median: float
    low: float
    high: float


@functools.cache
def samples_needed(p: float, confidence: float = CONFIDENCE) -> int:
    """The fewest independent samples whose p-quantile has a distribution-free interval.

    The interval runs between the order statistics ⌊np − z√(np(1−p))⌋ and ⌈np + z√(np(1−p))⌉ + 1
    (Le Boudec, Performance Evaluation of Computer and Communication Systems, 2010, theorem 2.1).
    The outer one exists, however the rounding falls, once n(1−p) − z√(np(1−p)) ≥ 2; below the
    median the same holds with p and 1−p exchanged. At 95 %: p50 11, p90 69, p99 726, p99.9 7,289.
    """
    if not 0 < p < 1:
        raise ValueError(f"a percentile lies strictly between 0 and 1, not at {p}")
    tail = min(p, 1 - p)
    z = float(special.ndtri((1 + confidence) / 2)) * math.sqrt(1 - tail)
    root = (z + math.sqrt(z * z + 8)) / 2  # of x² − zx − 2 = 0, x² = n · tail
    return math.ceil(root * root / tail)


def enough(p: float, n: int) -> bool:
    """Whether n samples suffice to state the p-quantile (p as a share: 0.99)."""
    return n >= samples_needed(p)


def summarise(histogram: HdrHistogram, above_range: int = 0) -> Percentiles:
    """Percentiles in seconds of a histogram of whole microseconds; None where samples are too few.

    `above_range` counts the values the histogram dropped as too large: they shift every rank, and
    a percentile that falls among them is None too.
    """
    counted = histogram.get_total_count()
    stated = [p for p in PERCENTILES if _known(p, counted, above_range)]
    rank = {p: 100 * p * (counted + above_range) / counted for p in stated}
    ticks = histogram.get_percentile_to_value_dict(list(rank.values()))
    return Percentiles(*(ticks[rank[p]] * TICK_S if p in rank else None for p in PERCENTILES))


def _known(p: float, counted: int, above_range: int) -> bool:
    total = counted + above_range
    return enough(p, total) and p * total <= counted


def median_spread(values: Iterable[float | None]) -> Spread:
    """Median, smallest and largest of the values that are known; all NaN when none is."""
    known = _known_values(values)
    if not known:
        return Spread(math.nan, math.nan, math.nan)
    return Spread(float(np.median(known)), min(known), max(known))


def log_t_interval(
    values: Iterable[float | None], confidence: float = CONFIDENCE, unit: str = ""
) -> Estimate:
    """The geometric mean of replicates with Student's t interval on their logarithms.

    Unknown values (None, NaN) are left out and said. With fewer than two values, or one that has
    no logarithm, there is no interval: `low` and `high` are NaN and a warning says why.
    """
    listed = list(values)
    known = _known_values(listed)
    left_out = len(listed) - len(known)
    warnings = (f"{left_out} of {len(listed)} replicates hold no value",) if left_out else ()
    doubt = _no_interval_because(known)
    if doubt:
        centre = float(np.median(known)) if known else math.nan
        return Estimate(centre, math.nan, math.nan, unit, len(known), (*warnings, doubt))
    low, value, high = _interval_on_logs(known, confidence)
    return Estimate(value, low, high, unit, len(known), warnings)


def _no_interval_because(known: Sequence[float]) -> str:
    if len(known) < 2:
        return f"no interval: {len(known)} replicate{'' if len(known) == 1 else 's'}, 2 needed"
    if min(known) <= 0:
        return "no interval: a replicate is zero or below and has no logarithm; the median is shown"
    return ""


def _interval_on_logs(known: Sequence[float], confidence: float) -> tuple[float, float, float]:
    logs = np.log(known)
    standard_error = logs.std(ddof=1) / math.sqrt(len(known))
    half = special.stdtrit(len(known) - 1, (1 + confidence) / 2) * standard_error
    low, value, high = np.exp(logs.mean() + half * np.array([-1.0, 0.0, 1.0]))
    return float(low), float(value), float(high)


def _known_values(values: Iterable[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None and not math.isnan(value)]
