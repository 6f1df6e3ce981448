"""Where a curve of rate against concurrency stops rising: the hinge of min(a·N, X).

The hinge is fitted in log–log, so that a point at 5 users weighs as much as one at 5,000 (rule 9 of
the methods). With θ = log knee the model is log q = log a + min(log N, θ): for a given θ the best
log a is a mean, so the fit is a search in θ alone, and the interval of the knee is every θ whose
sum of squares an F test cannot tell from the best one. A knee is only claimed where that interval
keeps clear of both ends of the data: towards the upper end the model becomes a line that rises all
the way, towards the lower end one that is flat all the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats costs a second to import

from bench.analysis.statistics import CONFIDENCE
from bench.model import Estimate

GRID = 200  # starting points in θ: fine enough that each valley between two data points holds some
POOR_FIT = 0.10  # a typical departure of a tenth: replicates differ by less on any rig worth using

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Hinge:
    """min(slope · N, plateau). Where no knee is shown `knee.value` is NaN and its warnings say why.

    The slope or the plateau is NaN where the data hold no rising or no flat part.
    """

    knee: Estimate
    slope_qps_per_user: float
    plateau_qps: float

    @property
    def shown(self) -> bool:
        """Whether the data hold a knee."""
        return not math.isnan(self.knee.value)


@dataclass(frozen=True, slots=True)
class _Curve:
    """Points in log–log."""

    n: Array
    q: Array

    def squares(self, theta: Array | float) -> Array:
        """The sum of squared residuals of the best line for each θ."""
        rest = self.q - np.minimum(self.n, np.reshape(theta, (-1, 1)))
        return np.asarray(np.sum((rest - rest.mean(axis=1, keepdims=True)) ** 2, axis=1))

    def at(self, theta: float) -> float:
        return float(self.squares(theta)[0])

    def level(self, theta: float) -> float:
        """log a of the best line with this hinge."""
        return float(np.mean(self.q - np.minimum(self.n, theta)))

    def power_law_squares(self) -> float:
        slope, start = np.polyfit(self.n, self.q, 1)
        return float(np.sum((self.q - start - slope * self.n) ** 2))


def fit_hinge(
    concurrency: Sequence[float], qps: Sequence[float], confidence: float = CONFIDENCE
) -> Hinge:
    """Fit the hinge to one curve; replicates are simply further points at the same concurrency.

    Raises ValueError for values that are not positive or lists of unequal length.
    """
    users, rate = _checked(concurrency, qps)
    levels = len(np.unique(users))
    if levels < 4:
        return _no_knee(f"no knee: {levels} levels of concurrency, 4 needed", len(users))
    curve = _Curve(np.log(users), np.log(rate))
    theta = _best(curve)
    low, high = _interval(curve, theta, confidence)
    return _judge(curve, theta, low, high)


def _checked(concurrency: Sequence[float], qps: Sequence[float]) -> tuple[Array, Array]:
    users, rate = np.asarray(concurrency, dtype=float), np.asarray(qps, dtype=float)
    if users.shape != rate.shape:
        raise ValueError(f"{users.size} values of concurrency but {rate.size} of qps")
    if not (np.all(users > 0) and np.all(rate > 0)):
        raise ValueError("a hinge is fitted to positive concurrency and qps only")
    return users, rate


def _best(curve: _Curve) -> float:
    from scipy import optimize  # 0.6 s to import, which who fits no knee need not wait for

    grid = np.linspace(curve.n.min(), curve.n.max(), GRID)
    at = int(np.argmin(curve.squares(grid)))
    around = (float(grid[max(at - 1, 0)]), float(grid[min(at + 1, GRID - 1)]))
    found = optimize.minimize_scalar(
        curve.at, bounds=around, method="bounded", options={"xatol": 1e-9}
    )
    return min((float(found.x), float(grid[at])), key=curve.at)


def _interval(curve: _Curve, theta: float, confidence: float) -> tuple[float, float]:
    """The range of θ an F test cannot tell from the best; ±inf where it reaches an end."""
    freedom = len(curve.n) - 2
    allowed = 1 + special.fdtri(1, freedom, confidence) / freedom
    # Data without any noise would make every rounding error a difference.
    limit = max(curve.at(theta), 1e-18 * len(curve.n)) * allowed
    low = _crossing(curve, limit, theta, float(curve.n.min()))
    high = _crossing(curve, limit, theta, float(curve.n.max()))
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def _crossing(curve: _Curve, limit: float, best: float, end: float) -> float | None:
    """The outermost θ between `best` and `end` within the limit; None where `end` itself is."""
    from scipy import optimize

    grid = np.linspace(end, best, GRID)
    inside = int(np.argmax(curve.squares(grid) <= limit))
    if inside == 0:
        return None if curve.at(end) <= limit else best
    return float(optimize.brentq(lambda at: curve.at(at) - limit, grid[inside], grid[inside - 1]))


def _judge(curve: _Curve, theta: float, low: float, high: float) -> Hinge:
    points, top = len(curve.n), math.exp(curve.n.max())
    slope, plateau = math.exp(curve.level(theta)), math.exp(curve.level(theta) + theta)
    if low == -math.inf and high == math.inf:
        return _no_knee("no knee shown: the points scatter too much to tell", points)
    if high == math.inf:
        text = f"no knee: the rate rises up to {top:g} users, the most measured"
        return _no_knee(text, points, low=math.exp(low), slope=math.exp(curve.level(math.inf)))
    if low == -math.inf:
        text = f"no knee: the rate is flat from {math.exp(curve.n.min()):g} users, the fewest"
        return _no_knee(text, points, high=math.exp(high), plateau=math.exp(curve.q.mean()))
    if curve.power_law_squares() < curve.at(theta):
        return _no_knee("no knee: a steady power of concurrency fits better than a hinge", points)
    knee = Estimate(
        math.exp(theta), math.exp(low), math.exp(high), "users", points, _doubts(curve, theta)
    )
    return Hinge(knee, slope, plateau)


def _doubts(curve: _Curve, theta: float) -> tuple[str, ...]:
    typical = math.sqrt(curve.at(theta) / (len(curve.n) - 2))
    if typical <= POOR_FIT:
        return ()
    return (f"poor fit: points lie {math.expm1(typical):.0%} off the hinge, typically",)


def _no_knee(
    warning: str,
    points: int,
    low: float = 0.0,
    high: float = math.inf,
    slope: float = math.nan,
    plateau: float = math.nan,
) -> Hinge:
    return Hinge(Estimate(math.nan, low, high, "users", points, (warning,)), slope, plateau)
