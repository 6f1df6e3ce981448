"""Axes in units that people read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axis import Axis, XAxis
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullFormatter, NullLocator

from bench.figures.units import Unit, si

ROUND_STEPS = [1, 2, 2.5, 5, 10]


def log_axis(axis: Axis, unit: Unit, label: str) -> None:
    """A logarithmic axis in plain numbers: at 1, 2, 5 … where they fit."""
    _set_scale(axis, "log")
    axis.set_major_locator(_PlainLog(axis))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    _name(axis, unit, label)


def linear_axis(axis: Axis, unit: Unit, label: str) -> None:
    """A linear axis from zero: rates, bytes and shares are compared by length."""
    _set_scale(axis, "linear")
    axis.set_major_locator(MaxNLocator(nbins=_most_ticks(axis), steps=ROUND_STEPS))
    low, high = axis.get_view_interval()
    _set_limits(axis, min(low, 0.0), high)
    _name(axis, unit, label)


TICK_INCHES = 0.6  # as wide as '1.25 ms' and its neighbour's distance


def _most_ticks(axis: Axis) -> int:
    """Seven, or as many as stand beside each other on a narrow panel."""
    if not isinstance(axis, XAxis):
        return 7
    return max(3, min(7, int(axis.axes.bbox.width / axis.axes.figure.dpi / TICK_INCHES)))


def deviation_axis(axis: Axis, limit: float, label: str) -> None:
    """A signed share around zero: linear within twice the limit, logarithmic beyond, so that a
    failure of 60 % and a deviation of 0.1 % are both seen."""
    _set_scale(axis, "symlog", linthresh=2 * limit, linscale=2)
    reach = max(2 * limit, *(1.3 * abs(end) for end in axis.get_data_interval()))
    outside = [share for share in (0.03, 0.1, 0.3, 1.0) if 2 * limit < share <= reach]
    above = [limit / 2, limit, *outside]
    axis.set_ticks([*(-share for share in above), 0.0, *above])
    axis.set_minor_locator(NullLocator())
    _set_limits(axis, -reach, reach)
    _name(axis, "share", label)


def percentile_axis(axis: Axis, label: str) -> None:
    """Shares of the requests from the fastest up, spaced as in HdrHistogram's plots: each further
    nine takes as much room. Call it after drawing; a share of 1 has no place."""
    _set_scale(axis, "function", functions=(_nines, _share))
    last = max(axis.get_data_interval()[1], PERCENTILES[0])
    axis.set_ticks([share for share in PERCENTILES if share <= last])
    axis.set_minor_locator(NullLocator())
    _set_limits(axis, 0.0, _share(_nines(last) + 0.1))
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.6g} %"))
    axis.set_label_text(label)


PERCENTILES = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
BEYOND = 1e-9  # nearer to 1 is drawn here


def _nines(share: Any) -> Any:
    return -np.log10(np.maximum(1 - np.asarray(share), BEYOND))


def _share(nines: Any) -> Any:
    return 1 - 10.0 ** -np.asarray(nines)


def _name(axis: Axis, unit: Unit, label: str) -> None:
    axis.set_remove_overlapping_locs(False)  # looked for at every step, and there are no minor ones
    axis.set_major_formatter(FuncFormatter(lambda value, _: si(value, unit)))
    axis.set_label_text(label)


def _set_scale(axis: Axis, scale: str, **options: Any) -> None:
    (axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale)(scale, **options)


def _set_limits(axis: Axis, low: float, high: float) -> None:
    (axis.axes.set_xlim if isinstance(axis, XAxis) else axis.axes.set_ylim)(low, high)


class _PlainLog(Locator):
    """1, 2, 5 per decade; denser where the axis spans little, sparser where labels would touch."""

    USUAL = (1, 2, 5)
    OTHERS = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), USUAL, (1,))
    ENOUGH = 4
    X_INCHES, Y_INCHES = 0.4, 0.24  # what a label needs

    def __init__(self, axis: Axis) -> None:
        self._axis = axis

    def __call__(self) -> list[float]:
        return self.tick_values(*self._axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        low, high = sorted((vmin, vmax))
        room = self._room()
        usual = _ticks(self.USUAL, low, high)
        if self.ENOUGH <= len(usual) <= room:
            return usual
        fitting = [t for each in self.OTHERS if len(t := _ticks(each, low, high)) <= room]
        most = max(fitting, key=len, default=_ticks((1,), low, high)[::2])
        return most if len(most) >= 3 else self._linear(low, high, room)

    def _linear(self, low: float, high: float, room: float) -> list[float]:
        ticks = MaxNLocator(max(2, min(6, int(room))), steps=ROUND_STEPS).tick_values(low, high)
        return [float(tick) for tick in ticks if low <= tick <= high]

    def _room(self) -> float:
        axes = self._axis.axes
        if isinstance(self._axis, XAxis):
            return float(axes.bbox.width / axes.figure.dpi / self.X_INCHES)
        return float(axes.bbox.height / axes.figure.dpi / self.Y_INCHES)


def _ticks(multiples: Sequence[float], low: float, high: float) -> list[float]:
    if not 0 < low < high:
        return []
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    all_ticks = [float(f"{multiple}e{decade}") for decade in decades for multiple in multiples]
    slack = 1 + 1e-9
    return [tick for tick in all_ticks if low / slack <= tick <= high * slack]
