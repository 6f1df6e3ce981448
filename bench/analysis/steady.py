"""Steady state within one cell: where the warm-up ends, and percentiles of autocorrelated times.

Waits follow each other closely, so ten thousand of them tell as much as a few hundred independent
ones. The window is therefore cut into few long batches, each nearly independent of its neighbours,
and it is the scatter between batches that says how sure a percentile is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import ArrayLike, NDArray
from scipy import special  # scipy.stats costs a second to import

from bench.analysis.statistics import CONFIDENCE, TICK_S, enough, samples_needed, values_at
from bench.model import Estimate

MSER_BATCH = 5
MSER_FEWEST = 50  # values; with fewer every twelfth settled series seems unsettled
FEWEST_BATCHES = 8  # as many intervals as the shortest window has
MOST_BATCHES = 10  # more are shorter and correlate; fewer than ten cost t more than they gain
CORRELATED = 0.99  # one-sided: at most one cell in a hundred is told its batches are, wrongly

Array = NDArray[np.float64]


def mser5(values: ArrayLike) -> int | None:
    """How many values to cut off the front as warm-up: MSER-5 (White, 1997; White, Cobb, Spratt,
    2000), a multiple of 5.

    Of the means of five values each it drops the d that make Σ(y − ȳ)²/(k − d)² of the rest least,
    d at most half of their number k. None where the least lies at that end: by this rule the series
    never settled. Raises ValueError for fewer than 50 values.
    """
    series = np.asarray(values, dtype=float)
    if series.size < MSER_FEWEST:
        raise ValueError(f"MSER-5 needs {MSER_FEWEST} values, not {series.size}")
    k = series.size // MSER_BATCH
    means = series[: k * MSER_BATCH].reshape(k, MSER_BATCH).mean(axis=1)
    means -= means.mean()  # sums of squares then lose no digits
    left = np.arange(k, 0, -1)
    sums, squares = (np.cumsum(terms[::-1])[::-1] for terms in (means, means**2))
    # Data without any noise would make every rounding error a minimum.
    spread = np.maximum(squares - sums**2 / left, 1e-12 * squares[0])
    last = k // 2
    least = int(np.argmin((spread / left**2)[: last + 1]))
    return None if least == last else least * MSER_BATCH


def batches(counts: Sequence[int], p: float) -> list[range]:
    """Which neighbouring intervals to join so that each batch can state its own p-quantile.

    `counts` are the samples of each interval, in order of time. Between 8 and 10 batches, as many
    as leave each `samples_needed(p)`, nearly equal in samples; empty where there are too few.
    """
    most = min(MOST_BATCHES, len(counts), sum(counts) // samples_needed(p))
    for wanted in range(most, FEWEST_BATCHES - 1, -1):
        middles = np.cumsum(counts) - np.asarray(counts) / 2
        ends = np.searchsorted(middles, sum(counts) * np.arange(wanted + 1) / wanted).tolist()
        joined = [range(start, end) for start, end in itertools.pairwise(ends)]
        if all(enough(p, sum(counts[i] for i in batch)) for batch in joined):
            return joined
    return []


def histogram_interval(
    parts: Sequence[HdrHistogram], p: float, confidence: float = CONFIDENCE, unit: str = "s"
) -> Estimate:
    """The p-quantile over neighbouring intervals' histograms of whole microseconds, in seconds,
    with an interval that allows for autocorrelation: see `_interval`, which says what it lacks.

    The histograms must be of one layout. Raises ValueError where there is none.
    """
    if not parts:
        raise ValueError("a percentile of no histogram at all")
    first = parts[0]
    total = HdrHistogram(
        first.lowest_trackable_value, first.highest_trackable_value, first.significant_figures
    )
    for part in parts:
        total.add(part)

    def value_at(share: float) -> float:
        return values_at(total, [share])[0]

    def count_to(value: float) -> list[int]:
        index = total.get_counts_array_index(round(value / TICK_S))
        return [int(np.asarray(part.counts)[: index + 1].sum()) for part in parts]

    counts = [part.get_total_count() for part in parts]
    return _interval(counts, value_at, count_to, p, confidence, unit)


def percentile_interval(
    values: ArrayLike, p: float, confidence: float = CONFIDENCE, unit: str = "s"
) -> Estimate:
    """The p-quantile of values in order of time, with an interval that allows for autocorrelation:
    see `_interval`, which says what it lacks."""
    series = np.asarray(values, dtype=float)
    scratch = series.copy()
    most = min(MOST_BATCHES, series.size // samples_needed(p))
    parts = np.array_split(series, max(1, most))

    def value_at(share: float) -> float:
        rank = max(int(share * series.size + 0.5), 1) - 1  # rounded as HdrHistogram does
        scratch.partition(rank)  # what is already in order makes the next rank quick
        return float(scratch[rank])

    def count_to(value: float) -> list[int]:
        return [int(np.count_nonzero(part <= value)) for part in parts]

    return _interval([part.size for part in parts], value_at, count_to, p, confidence, unit)


def _interval(
    counts: Sequence[int],
    value_at: Callable[[float], float],
    count_to: Callable[[float], list[int]],
    p: float,
    confidence: float,
    unit: str,
) -> Estimate:
    """The quantile and Student's t interval over batches, made on shares and not on times.

    In each batch the share of samples at or below the quantile is counted; their scatter says how
    uncertain p itself is as a rank, and the quantiles at both ends of p ± t · s.e. are the interval
    (Woodruff, 1952; the standard error is that of a ratio of sums, Cochran, 1977). Simulated waits
    gave this better coverage than the scatter of the batches' own quantiles, which are biased where
    a batch holds few independent samples: 93 against 89 % for the p99 of 20,000 in M/M/1 70 % busy.

    `n` is the number of batches. NaN without enough samples (rule 4), for the value or for eight
    batches, and infinite where a rank leaves (0, 1): the warnings say so, and where the batches
    still correlate (von Neumann's ratio, 1941). Where times correlate over hundreds of samples no
    interval is safe: 89 % for the p99 of 20,000 in M/D/10, 90 % busy, most of them open.
    """
    needed, samples = samples_needed(p), sum(counts)
    if not enough(p, samples):
        return _blank(math.nan, unit, f"no p{100 * p:g}: {samples} samples, {needed} needed")
    value, joined = value_at(p), batches(counts, p)
    if not joined:
        lacking = f"{samples} samples in {len(counts)} parts do not make"
        return _blank(value, unit, f"no interval: {lacking} {FEWEST_BATCHES} batches of {needed}")
    below, sizes = (_sums(column, joined) for column in (count_to(value), counts))
    off = below - sizes * below.sum() / samples
    half = _half_width(off, confidence) / samples
    low = value_at(p - half) if p > half else -math.inf
    high = value_at(p + half) if p + half < 1 else math.inf
    return Estimate(value, low, high, unit, len(joined), _doubts(off, low, high))


def _blank(value: float, unit: str, doubt: str) -> Estimate:
    return Estimate(value, math.nan, math.nan, unit, 0, (doubt,))


def _sums(column: Sequence[int], joined: Sequence[range]) -> Array:
    return np.array([sum(column[i] for i in batch) for batch in joined], dtype=float)


def _half_width(off: Array, confidence: float) -> float:
    """Half of the t interval of a sum, from the batches' departures from their mean."""
    b = len(off)
    t = special.stdtrit(b - 1, (1 + confidence) / 2)
    return float(t * math.sqrt(b / (b - 1) * np.sum(off**2)))


def _doubts(off: Array, low: float, high: float) -> tuple[str, ...]:
    doubts = []
    if math.isinf(low) or math.isinf(high):
        doubts.append("open interval: the samples vary together too much to bound it")
    if _correlated(off):
        doubts.append("neighbouring batches are alike: the interval is too narrow")
    return tuple(doubts)


def _correlated(off: Array) -> bool:
    """1 − Σ(Δ)²/2Σ(off²) is near 0 for independent batches; its variance is (b − 2)/(b² − 1)."""
    b, squares = len(off), float(np.sum(off**2))
    if not squares:
        return False
    likeness = 1 - float(np.sum(np.diff(off) ** 2)) / (2 * squares)
    return likeness > float(special.ndtri(CORRELATED)) * math.sqrt((b - 2) / (b * b - 1))
