"""Distributions of times: how many requests took longer, and the percentiles."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hdrh.histogram import HdrHistogram
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from bench.analysis.statistics import TICK_S, enough, recorded
from bench.figures.axes import linear_axis, log_axis, percentile_axis
from bench.figures.style import Style

Floats = NDArray[np.float64]
POINTS = 400  # of a line at most, spread evenly over the decades of its tail


class Distribution(NamedTuple):
    """Times in seconds, ascending, and for each the number of requests that took it or longer."""

    times_s: Floats
    at_or_above: NDArray[np.int64]


def of_times(times_s: ArrayLike) -> Distribution:
    """The distribution of single times; NaN is left out."""
    times = np.asarray(times_s, dtype=float)
    return _counted(*np.unique(times[~np.isnan(times)], return_counts=True))


def of_histogram(histogram: HdrHistogram) -> Distribution:
    """The distribution that a stored histogram of whole microseconds holds."""
    ticks, counts = recorded(histogram)
    return _counted(np.asarray(ticks * TICK_S, dtype=np.float64), counts)


def _counted(times_s: Floats, counts: NDArray[Any]) -> Distribution:
    return Distribution(times_s, np.cumsum(counts[::-1])[::-1])


def draw_ccdf(
    axes: Axes, style: Style, distribution: Distribution, *, dashed: bool = False
) -> None:
    """For each time the share of requests that took it or longer. See `ccdf_axes`."""
    times, above = distribution
    if not len(times):
        return
    kept = _spread(above)
    axes.plot(times[kept], above[kept] / above[0], color=style.colour,
              linestyle="--" if dashed else "-", drawstyle="steps-pre", zorder=2)  # fmt: skip


def ccdf_axes(axes: Axes, label: str, *, log_times: bool = False) -> None:
    """Times across, from zero or in decades, and shares of requests in decades upwards: there an
    exponential distribution is a straight line. Call it after drawing."""
    (log_axis if log_times else linear_axis)(axes.xaxis, "s", label)
    log_axis(axes.yaxis, "share", "requests that took as long or longer")
    axes.set_ylim(top=1.3)


def draw_percentiles(
    axes: Axes, style: Style, distribution: Distribution, *, dashed: bool = False
) -> None:
    """The time that each share of the requests stayed within, as far as they are enough to say it
    (rule 4 of the methods). See `percentile_axes`."""
    times, above = distribution
    shares = _stated(int(above[0]) if len(above) else 0)
    below = 1 - np.append(above[1:], 0) / above[0] if len(above) else above
    axes.plot(shares, times[np.searchsorted(below, shares)], color=style.colour,
              linestyle="--" if dashed else "-", zorder=2)  # fmt: skip


def percentile_axes(axes: Axes, label: str, *, log_times: bool = False) -> None:
    """Percentiles across, each further nine as wide, and times upwards. Call it after drawing."""
    percentile_axis(axes.xaxis, "percentile")
    (log_axis if log_times else linear_axis)(axes.yaxis, "s", label)


def _spread(above: NDArray[np.int64]) -> NDArray[np.intp]:
    """Which points to draw: the first at or below each of evenly spaced powers, and the last."""
    wanted = np.geomspace(above[0], above[-1], POINTS)
    return np.unique(np.searchsorted(-above, -wanted))


def _stated(requests: int) -> Floats:
    shares = 1 - np.logspace(0, -6, POINTS)[1:]
    return shares[[enough(float(share), requests) for share in shares]]
