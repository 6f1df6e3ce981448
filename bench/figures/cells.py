"""Stored cells drawn: medians of replicates as a line, their spread as bars, hollow where the rig
bounds them, and every invalid cell crossed out where it is.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.replicates import points, replicates_in
from bench.figures.curves import draw_by_pool, draw_curve
from bench.figures.sheet import footnote
from bench.figures.style import NEUTRAL, Style


def draw_line(axes: Axes, style: Style, cells: pd.DataFrame, x: str, y: str) -> None:
    """Column `y` against column `x`."""
    line = points(cells, [x], y)
    draw_curve(
        axes,
        style,
        line[x].tolist(),
        line["median"].tolist(),
        low=line["low"].tolist(),
        high=line["high"].tolist(),
        hollow=line["hollow"].tolist(),
    )
    cross_out(axes, style, cells, x, y)


def draw_pool_sizes(axes: Axes, cells: pd.DataFrame, y: str, *, dashed: bool = False) -> None:
    """Column `y` against pool size, each pool in its colour."""
    line = points(cells, ["pool_size"], y)
    draw_by_pool(
        axes,
        line["pool_size"].tolist(),
        line["median"].tolist(),
        low=line["low"].tolist(),
        high=line["high"].tolist(),
        hollow=line["hollow"].tolist(),
        dashed=dashed,
    )
    cross_out(axes, NEUTRAL, cells, "pool_size", y)


def cross_out(axes: Axes, style: Style, cells: pd.DataFrame, x: str, y: str) -> None:
    """The invalid cells alone, each at its own value."""
    bad = cells[~cells["valid"]].dropna(subset=[y])
    if bad.empty:
        return
    draw_curve(axes, style, bad[x].tolist(), bad[y].tolist(), invalid=[True] * len(bad))


def small_print(figure: Figure, cells: pd.DataFrame, text: str) -> None:
    """What a point of these cells stands for, `text`, and a key for the marks they bring in."""
    hollow = bool(points(cells, ["cell"], "qps")["hollow"].any())
    replicates = replicates_in(cells)
    spread = f"Median of {replicates} replicates, bars from lowest to highest."
    spread = "One replicate." if replicates == 1 else spread
    footnote(figure, f"{spread} {text}", hollow=hollow, invalid=any_invalid(cells))


def any_invalid(cells: pd.DataFrame) -> bool:
    """Whether a cross is drawn for one of these."""
    return bool((~cells["valid"]).any())
