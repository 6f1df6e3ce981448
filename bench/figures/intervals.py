"""Estimates beside each other, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from bench.figures.style import INK, MUTED, Style, marker
from bench.model import Estimate


def draw_intervals(
    axes: Axes,
    rows: Sequence[tuple[str, Estimate, Style]],
    *,
    expected: float,
    same: tuple[float, float] | None = None,
) -> None:
    """A row for each estimate, the first on top: its name, its interval as a bar, its value.

    Dashed: the value `expected` by theory. Grey: the range `same` within which no difference is
    claimed. An estimate without an interval is a point alone. The caller sets the x axis.
    """
    for place, (_, estimate, style) in enumerate(rows):
        axes.hlines(place, estimate.low, estimate.high, color=style.colour, linewidth=2, zorder=2)
        axes.plot([estimate.value], [place], linestyle="", **marker(style), zorder=3)
    if same is not None:
        axes.axvspan(*same, color=MUTED, alpha=0.12, lw=0, zorder=0)
    axes.axvline(expected, color=INK, linestyle="--", linewidth=1.2, zorder=1)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
