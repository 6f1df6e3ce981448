"""Lines and points, and the names beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from bench.figures.style import (
    CROSS,
    INK,
    LINE,
    MUTED,
    OVER_LINES,
    Style,
    darker,
    marker,
    pool_style,
)
from bench.figures.units import si


def draw_curve(
    axes: Axes,
    style: Style,
    x: Sequence[float],
    y: Sequence[float],
    *,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    hollow: Sequence[bool] | None = None,
    invalid: Sequence[bool] | None = None,
    dashed: bool = False,
) -> None:
    """A line through the valid points, with the replicates' spread as bars from `low` to `high`.

    Hollow points are lower bounds; invalid ones stand alone, crossed out. NaN is left blank.
    """
    hollows = hollow or [False] * len(x)
    invalids = invalid or [False] * len(x)
    kept = [math.nan if bad else value for value, bad in zip(y, invalids, strict=True)]
    line = [(a, b) for a, b in zip(x, kept, strict=True) if not math.isnan(b)]
    if len(line) > 1:
        axes.plot(*_columns(line), color=style.colour, linestyle="--" if dashed else "-", zorder=2)
    if low is not None and high is not None:
        axes.vlines(x, low, high, color=style.colour, linewidth=3, alpha=0.35, zorder=2)
    for kind in (False, True):
        chosen = [(a, b) for a, b, h in zip(x, y, hollows, strict=True) if h is kind]
        if chosen:
            axes.plot(*_columns(chosen), linestyle="", **marker(style, hollow=kind), zorder=3)
    crossed = [(a, b) for a, b, bad in zip(x, y, invalids, strict=True) if bad]
    if crossed:
        axes.plot(*_columns(crossed), linestyle="", **CROSS, zorder=4)


def draw_theory(axes: Axes, x: ArrayLike, y: ArrayLike) -> None:
    """What theory says: dashed ink, in front of measured lines and behind points and labels."""
    axes.plot(x, y, color=INK, linestyle="--", linewidth=1.2, zorder=2.2)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def ceiling(axes: Axes, low: float, high: float, limit: str, *, right: bool = False) -> None:
    """The band of rates this rig was measured to carry at most, and what ends it there: said at
    the left end, or at the right one where points are in its way."""
    axes.axhspan(low, high, facecolor=MUTED, edgecolor="none", alpha=0.16, zorder=0)
    axes.axhline(low, color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
    span = _range(si(low, "/s"), si(high, "/s"))
    axes.annotate(
        f"what this rig carries: {span} ({limit})",
        xy=(float(right), high),
        xycoords=("axes fraction", "data"),
        xytext=(-5 if right else 5, 6),
        textcoords="offset points",
        fontsize=8,
        color=MUTED,
        ha="right" if right else "left",
        va="bottom",
        **OVER_LINES,
    )


def _range(low: str, high: str) -> str:
    """'40–44 k/s': the unit once where both share it."""
    if low == high:
        return low
    same_unit = low.split(" ")[1:] == high.split(" ")[1:]
    return f"{low.split(' ')[0] if same_unit else low}–{high}"


def draw_by_pool(
    axes: Axes,
    sizes: Sequence[int],
    y: Sequence[float],
    *,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    hollow: Sequence[bool] | None = None,
    invalid: Sequence[bool] | None = None,
    dashed: bool = False,
) -> None:
    """A figure against pool size: a grey line whose points carry each its pool's colour."""
    draw_curve(axes, LINE, sizes, y, invalid=invalid, dashed=dashed)
    for i, size in enumerate(sizes):
        draw_curve(
            axes,
            pool_style(size),
            [size],
            [y[i]],
            low=None if low is None else [low[i]],
            high=None if high is None else [high[i]],
            hollow=None if hollow is None else [hollow[i]],
            invalid=None if invalid is None else [invalid[i]],
        )


# Labels beside the lines


def label_ends(
    axes: Axes,
    ends: Sequence[tuple[float, float, str, Style]],
    others: Iterable[tuple[float, float]] = (),
) -> None:
    """Name lines right of their last points: x and y of each, its text, its style.

    Call it after the axes are set: labels that would overlap are moved apart, past the ends of
    lines beside them, and down from points of `others`.
    """
    known = [_End(*_place(axes, x, y), LETTER_PT * len(text) / _width_pt(axes), x, y, text, style)
             for x, y, text, style in ends if math.isfinite(y)]  # fmt: skip
    taken = [_place(axes, x, y) for x, y in others if math.isfinite(y)]
    gap = LABEL_PT / _height_pt(axes)
    for group in _near(sorted(known, key=lambda end: end.left), LABEL_WIDTH):
        group.sort(key=lambda end: end.up)
        heights = _apart([end.up for end in group], gap)
        while _any_covered(taken, group, heights, gap):
            heights = [height - gap / 4 for height in heights]
        for end, height in zip(group, heights, strict=True):
            at = _beside(group, end, height, gap).x, end.y
            _label(axes, at, end.text, end.style, (height - end.up) * _height_pt(axes))


class _End(NamedTuple):
    """Where a line ends, in shares of the axes and in data, and its name, as wide as `width`."""

    left: float
    up: float
    width: float
    x: float
    y: float
    text: str
    style: Style


def _beside(group: list[_End], own: _End, height: float, gap: float) -> _End:
    """The end that a label at this height stands right of: its own, or one that it would cover."""
    near = [
        end for end in group if abs(end.up - height) < gap and 0 <= end.left - own.left < own.width
    ]
    return max([own, *near], key=lambda end: end.left)


def _any_covered(taken: list[Any], group: list[_End], heights: list[float], gap: float) -> bool:
    """Whether one of these points lies under a label."""
    return any(
        0 < x - _beside(group, end, height, gap).left < end.width and abs(y - height) < gap
        for end, height in zip(group, heights, strict=True)
        for x, y in taken
    )


LABEL_PT = 11.0  # the height of a line of label text
LETTER_PT = 6.0  # the width of one letter, generously
LABEL_WIDTH = 0.25  # of the axes: ends this near each other share one column of labels


def _label(axes: Axes, at: tuple[float, float], text: str, style: Style, up_pt: float) -> None:
    axes.annotate(
        text,
        xy=at,
        xytext=(8, up_pt),
        textcoords="offset points",
        color=darker(style.colour),
        fontsize=8.5,
        va="center",
        annotation_clip=False,
        **OVER_LINES,
    )


def _near(ends: Sequence[_End], distance: float) -> list[list[_End]]:
    groups: list[list[_End]] = []
    for end in ends:
        if groups and end.left - groups[-1][-1].left < distance:
            groups[-1].append(end)
        else:
            groups.append([end])
    return groups


def _place(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """In shares of the axes."""
    across, up = (axes.transScale + axes.transLimits).transform((x, y))
    return float(across), float(up)


def _width_pt(axes: Axes) -> float:
    return float(axes.bbox.width / axes.figure.dpi * 72)


def _height_pt(axes: Axes) -> float:
    return float(axes.bbox.height / axes.figure.dpi * 72)


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """The places nearest to the wanted ones, ascending, that keep `gap` between neighbours."""
    groups: list[list[float]] = []  # [centre, members]: labels that touch share the shift
    for place in wanted:
        groups.append([place, 1])
        while len(groups) > 1 and _touch(groups[-2], groups[-1], gap):
            centre, members = groups.pop()
            below, others = groups[-1]
            groups[-1] = [
                (below * others + centre * members) / (others + members),
                others + members,
            ]
    return [
        centre + gap * (i - (members - 1) / 2)
        for centre, members in groups
        for i in range(int(members))
    ]


def _touch(below: Sequence[float], above: Sequence[float], gap: float) -> bool:
    return above[0] - below[0] < gap * (below[1] + above[1]) / 2
