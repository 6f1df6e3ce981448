"""Numbers in, numbers with their doubt out: percentiles that may be said, spread, intervals."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray
from scipy import special  # scipy.stats costs a second to import

from bench.model import Estimate, Percentiles, Region

CONFIDENCE = 0.95
TICK_S = 1e-6  # histograms count whole microseconds (rule 3 of the methods)
PERCENTILES = (0.5, 0.9, 0.99, 0.999)
POWER = 0.8  # the usual one for a smallest detectable difference
EQUIVALENCE_REPLICATES = 5  # rule 5: from here up equivalence may be claimed

Array = NDArray[np.float64]
Counts = NDArray[np.int64]


class Spread(NamedTuple):
    """A median and the extremes around it: what was seen, not an interval of confidence."""

    median: float
    low: float
    high: float


class FalseCalls(NamedTuple):
    """In how many of all the ways to choose replicates a comparison called a difference."""

    share: float
    calls: int
    ways: int


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Whether a ratio is shown to lie within 1 ± `margin`, and what could have been seen at all.

    `ratio` holds the interval the two tests rest on (90 % for two at 5 %); why nothing is claimed
    stands in its warnings. `detectable` is the smallest true ratio − 1 that a comparison of as many
    replicates with the same scatter would call a difference four times in five.
    """

    ratio: Estimate
    margin: float
    equivalent: bool
    detectable: float


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


def recorded(histogram: HdrHistogram) -> tuple[Counts, Counts]:
    """The values a histogram holds, each as the highest of those it cannot tell apart, and how
    often.

    The library's own iterator visits every slot in Python, most of them empty: it was three
    quarters of judging a run and a third of drawing it.
    """
    counts = np.ctypeslib.as_array(histogram.counts)
    slots = np.flatnonzero(counts)
    # Slots come in halves of a bucket, and each bucket's are twice as wide as the one's before.
    bucket = np.maximum((slots >> histogram.sub_bucket_half_count_magnitude) - 1, 0)
    width = bucket + histogram.unit_magnitude
    place = slots - (bucket << histogram.sub_bucket_half_count_magnitude)
    return ((place + 1) << width) - 1, counts[slots].astype(np.int64)


def summarise(histogram: HdrHistogram, above_range: int = 0) -> Percentiles:
    """The four usual percentiles by `quantiles`."""
    return Percentiles(*quantiles(histogram, PERCENTILES, above_range))


def quantiles(
    histogram: HdrHistogram, shares: Sequence[float], above_range: int = 0
) -> list[float | None]:
    """Quantiles in seconds of a histogram of whole microseconds; None where samples are too few.

    `above_range` counts the values the histogram dropped as too large: they shift every rank, and
    a quantile that falls among them is None too. Raises ValueError for a share not within (0, 1).
    """
    counted = histogram.get_total_count()
    known = [p for p in shares if _known(p, counted, above_range)]
    found = dict(zip(known, values_at(histogram, known, above_range), strict=True))
    return [found.get(p) for p in shares]


def values_at(
    histogram: HdrHistogram, shares: Sequence[float], above_range: int = 0
) -> list[float]:
    """The seconds at these ranks, few samples or not: for the ends of intervals."""
    if not shares:
        return []
    counted = histogram.get_total_count()
    ranks = [100 * p * (counted + above_range) / counted for p in shares]
    ticks = histogram.get_percentile_to_value_dict(ranks)
    return [ticks[rank] * TICK_S for rank in ranks]


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
        nan = math.nan
        return Estimate(centre, nan, nan, unit, len(known), (*warnings, doubt), confidence, True)
    low, value, high = _interval_on_logs(known, confidence)
    return Estimate(value, low, high, unit, len(known), warnings, confidence, True)


def t_interval(values: Iterable[float | None], unit: str) -> Estimate:
    """The arithmetic mean of replicates with Student's t interval: for differences and slopes,
    which may be negative. Unknown values (None, NaN) are left out. With fewer than two `low` and
    `high` are NaN and a warning says why."""
    known = np.asarray(_known_values(values))
    value = float(known.mean()) if known.size else math.nan
    if known.size < 2:
        return Estimate(value, math.nan, math.nan, unit, known.size, (_too_few(known.size),))
    half = float(_half_width(known, CONFIDENCE))
    return Estimate(value, value - half, value + half, unit, known.size)


def proportion(count: int, of: int) -> Estimate:
    """A share with Clopper and Pearson's exact 95 % interval (Biometrika 26, 1934), as of
    independent trials; blank where there were none."""
    if not of:
        return Estimate(math.nan, math.nan, math.nan, "share", 0)
    tail = (1 - CONFIDENCE) / 2
    low = special.betaincinv(count, of - count + 1, tail) if count else 0.0
    high = special.betaincinv(count + 1, of - count, 1 - tail) if count < of else 1.0
    return Estimate(count / of, float(low), float(high), "share", of)


def _too_few(n: int) -> str:
    return f"no interval: {n} replicate{'' if n == 1 else 's'}, 2 needed"


def _no_interval_because(known: Sequence[float]) -> str:
    if len(known) < 2:
        return _too_few(len(known))
    if min(known) <= 0:
        return "no interval: a replicate is zero or below and has no logarithm; the median is shown"
    return ""


def _interval_on_logs(known: Sequence[float], confidence: float) -> tuple[float, float, float]:
    logs = np.log(known)
    half = _half_width(logs, confidence)
    low, value, high = np.exp(logs.mean() + half * np.array([-1.0, 0.0, 1.0]))
    return float(low), float(value), float(high)


def _half_width(values: Array, confidence: float) -> Array:
    """Half of Student's t interval around the means over the last axis."""
    n = values.shape[-1]
    t = special.stdtrit(n - 1, (1 + confidence) / 2)
    return np.asarray(t * values.std(axis=-1, ddof=1) / math.sqrt(n))


def differs(ratio: Estimate) -> bool:
    """Whether a comparison calls a difference: the interval of the ratio leaves out 1."""
    return ratio.low > 1 or ratio.high < 1


def equivalence(ratios: Iterable[float | None], margin: float = 0.05) -> Equivalence:
    """Two one-sided t tests at 5 % on the logarithms of paired ratios (Schuirmann, 1987).

    Equivalent where the 90 % interval lies within the bounds 1 − margin and 1 + margin, which are
    log(1 − margin) and log(1 + margin) on logarithms. With fewer than five replicates it is never
    claimed, and the ratio's warnings say so. Raises ValueError for a margin not within (0, 1).
    """
    if not 0 < margin < 1:
        raise ValueError(f"a margin of equivalence lies strictly between 0 and 1, not at {margin}")
    listed = list(ratios)
    ratio = log_t_interval(listed, confidence=1 - 2 * (1 - CONFIDENCE))
    enough_replicates = ratio.n >= EQUIVALENCE_REPLICATES
    if not enough_replicates:
        doubt = f"no equivalence from {ratio.n} replicates: {EQUIVALENCE_REPLICATES} needed"
        ratio = dataclasses.replace(ratio, warnings=(*ratio.warnings, doubt))
    inside = 1 - margin < ratio.low and ratio.high < 1 + margin
    detectable = math.nan if math.isnan(ratio.low) else _detectable(_known_values(listed))
    return Equivalence(ratio, margin, enough_replicates and inside, detectable)


def same_within(margin: float) -> Region:
    """Where a ratio lies that is shown to be 1 within `margin`: its 90 % interval does, which is
    two one-sided tests at 5 %."""
    return Region(1 - margin, 1 + margin, confidence=1 - 2 * (1 - CONFIDENCE))


def _detectable(known: Sequence[float]) -> float:
    """exp(d) − 1 with d = (t(0.975) + t(0.8)) · s/√n, n − 1 degrees of freedom (Cohen, 1988;
    Julious, 2004). The exact power at d is 77 % for 3 replicates, 79 % for 5, 80 % from 10 up."""
    n = len(known)
    t = special.stdtrit(n - 1, np.array([(1 + CONFIDENCE) / 2, POWER])).sum()
    return float(np.expm1(t * np.log(known).std(ddof=1) / math.sqrt(n)))


def false_calls(ratios: Iterable[float | None], replicates: int = 3) -> FalseCalls:
    """How often a comparison would have called a difference, had only `replicates` been measured.

    `ratios` are the paired ratios of an A/A test, unknown ones left out: every way to choose
    `replicates` of them counts once, and calls a difference where its 95 % interval leaves out 1.
    Raises ValueError for fewer ratios than replicates, fewer than 2 replicates, or a ratio ≤ 0.
    """
    known = _known_values(ratios)
    if not 2 <= replicates <= len(known):
        raise ValueError(f"{replicates} of {len(known)} paired ratios cannot be chosen; 2 or more")
    if min(known) <= 0:
        raise ValueError("a ratio of zero or below has no logarithm")
    chosen = np.log(list(itertools.combinations(known, replicates)))
    called = np.abs(chosen.mean(axis=-1)) > _half_width(chosen, CONFIDENCE)
    calls = int(np.count_nonzero(called))
    return FalseCalls(calls / len(chosen), calls, len(chosen))


def _known_values(values: Iterable[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None and not math.isnan(value)]
