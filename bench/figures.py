"""The house style of plots: one colour and marker per pool size, units that people read, hollow
markers where the apparatus set the limit, a cross where a gate failed.

Figures are made without pyplot: drawing leaves no state behind and needs no display. Values come in
base units; the axes show pretty ones.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullFormatter, NullLocator

Unit = Literal["s", "/s", "bytes", "count", "share"]

DPI = 170
INK, MUTED, FAINT = "#1f2328", "#6e7781", "#d8dee4"
INVALID = "#b3261e"
GROUND = "#fbfcfd"
# Text that lines run behind and markers in front of.
OVER_LINES: Any = {"zorder": 2.5, "bbox": {"facecolor": GROUND, "edgecolor": "none", "pad": 0.5}}
ROUND_STEPS = [1, 2, 2.5, 5, 10]

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": GROUND,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "path.simplify": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "redis-pool-bench",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}


class Style(NamedTuple):
    """How one line of the plot looks, on every plot of the project."""

    colour: str
    marker: str


NEUTRAL = Style(MUTED, "o")  # what is no single pool: the 'pool not binding' band, a reference
LINE = Style(MUTED, "")  # a line without points
_SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_MARKERS = ("o", "s", "^", "D", "v", "p", "<", "h", ">", "8")
# Dark blue to orange: ordered, in lightness as well as in hue, for every kind of colour vision. The
# map's pale end, which vanishes on a light ground, is left out.
_MAP, _MAP_END = mpl.colormaps["plasma"], 0.84


def pool_style(size: int) -> Style:
    """The colour and marker of a pool size; sizes not in the sweep lie between their neighbours."""
    place = math.log(max(size, 1) / _SIZES[0]) / math.log(_SIZES[-1] / _SIZES[0])
    place = min(max(place, 0.0), 1.0)
    return Style(to_hex(_MAP(_MAP_END * place)), _MARKERS[round(place * (len(_SIZES) - 1))])


# The figure


def new_figure(
    finding: str, rows: int = 1, columns: int = 1, size: tuple[float, float] = (9.0, 5.2)
) -> tuple[Figure, list[Axes]]:
    """A figure whose title states the finding, and its axes row by row; `size` is in inches."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        unbroken = re.sub(r"(?<=\d) (?=%|[kMGmµ]?[sB]\b|[kM]/s|×)", "\N{NO-BREAK SPACE}", finding)
        title = textwrap.fill(unbroken, int(8.8 * size[0]))
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    return figure, axes


def panel_title(axes: Axes, text: str) -> None:
    """What this panel shows and under which settings, in one line above it."""
    axes.set_title(text, loc="left", fontsize=9.5, color=MUTED)


SMALL_PRINT = 8.5
CHARACTERS_PER_INCH = 13.5  # of small print


def footnote(
    figure: Figure, text: str = "", *, hollow: bool = False, invalid: bool = False
) -> None:
    """Small print below the figure: where the data come from, and what the marks it has mean."""
    lines = textwrap.fill(text, int(CHARACTERS_PER_INCH * figure.get_size_inches()[0]))
    marks = [*[_HOLLOW_MARK] * hollow, *[_INVALID_MARK] * invalid]
    if not marks:
        figure.supxlabel(lines, x=0.01, ha="left", fontsize=SMALL_PRINT, color=MUTED)
        return
    figure.legend(
        handles=marks,
        title=lines,
        title_fontproperties={"size": SMALL_PRINT},
        loc="outside lower left",
        alignment="left",
        ncols=2,
        fontsize=SMALL_PRINT,
        labelcolor=INK,
        frameon=False,
    ).get_title().set_color(MUTED)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write name.png and name.svg; the same figure gives the same bytes. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with mpl.rc_context(STYLE):
        figure.savefig(png, dpi=DPI, metadata={"Software": None})
        engine = figure.get_layout_engine()
        figure.set_layout_engine("none")  # it is laid out already, and that costs half the time
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
        figure.set_layout_engine(engine)
    return [png, svg]


# Curves


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
    axes.plot(*_columns(line), color=style.colour, linestyle="--" if dashed else "-", zorder=2)
    if low is not None and high is not None:
        axes.vlines(x, low, high, color=style.colour, linewidth=3, alpha=0.35, zorder=2)
    for kind in (False, True):
        chosen = [(a, b) for a, b, h in zip(x, y, hollows, strict=True) if h is kind]
        axes.plot(*_columns(chosen), linestyle="", **_marker(style, hollow=kind), zorder=3)
    crossed = [(a, b) for a, b, bad in zip(x, y, invalids, strict=True) if bad]
    axes.plot(*_columns(crossed), linestyle="", **_CROSS, zorder=4)


_CROSS: dict[str, Any] = {"marker": "x", "markersize": 10, "color": INVALID, "markeredgewidth": 1.8}


def _marker(style: Style, *, hollow: bool) -> dict[str, Any]:
    return {
        "marker": style.marker,
        "color": style.colour,
        "markerfacecolor": GROUND if hollow else style.colour,
        "markeredgewidth": 1.4,
    }


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


_HOLLOW_MARK = Line2D(
    [],
    [],
    linestyle="",
    label="hollow: bound by the rig, no evidence about a pool (a rate is a lower bound)",
    **_marker(NEUTRAL, hollow=True),
)
_INVALID_MARK = Line2D([], [], linestyle="", label="crossed out: invalid, a gate failed", **_CROSS)


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


# Labels beside the lines, legends outside the plot


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, Style]]) -> None:
    """Name lines right of their last points: x and y of each, its text, its style.

    Call it after the axes are set: labels that would overlap are moved apart.
    """
    place = axes.transScale + axes.transLimits
    known = [(*place.transform(end[:2]), *end) for end in ends if math.isfinite(end[1])]
    for group in _near(sorted(known, key=lambda end: end[0]), LABEL_WIDTH):
        group.sort(key=lambda end: end[1])
        apart = _apart([end[1] for end in group], LABEL_PT / _height_pt(axes))
        for shifted, (_, wanted, x, y, text, style) in zip(apart, group, strict=True):
            _label(axes, (x, y), text, style, (shifted - wanted) * _height_pt(axes))


LABEL_PT = 11.0  # the height of a line of label text
LABEL_WIDTH = 0.25  # of the axes: ends this near each other share one column of labels


def _label(axes: Axes, at: tuple[float, float], text: str, style: Style, up_pt: float) -> None:
    axes.annotate(
        text,
        xy=at,
        xytext=(8, up_pt),
        textcoords="offset points",
        color=_darker(style.colour),
        fontsize=8.5,
        va="center",
        annotation_clip=False,
        **OVER_LINES,
    )


def _near(ends: Sequence[Any], distance: float) -> list[list[Any]]:
    groups: list[list[Any]] = []
    for end in ends:
        if groups and end[0] - groups[-1][-1][0] < distance:
            groups[-1].append(end)
        else:
            groups.append([end])
    return groups


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


def _darker(colour: str) -> str:
    """The same hue, dark enough for small text."""
    red, green, blue = to_rgb(colour)
    return to_hex((0.75 * red, 0.75 * green, 0.75 * blue))


def pool_legend(figure: Figure, sizes: Iterable[int], *, title: str = "pool size") -> None:
    """A legend right of the figure, the largest pool on top."""
    marks = {size: _marker(pool_style(size), hollow=False) for size in sorted(set(sizes))}
    handles = [
        Line2D([], [], linestyle="", label=si(size, "count"), **mark)
        for size, mark in reversed(marks.items())
    ]
    figure.legend(
        handles=handles,
        title=title,
        loc="outside right center",
        alignment="left",
        labelcolor=INK,
        frameon=False,
    )


# Axes and units


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
    axis.set_major_locator(MaxNLocator(nbins=7, steps=ROUND_STEPS))
    low, high = axis.get_view_interval()
    _set_limits(axis, min(low, 0.0), high)
    _name(axis, unit, label)


def deviation_axis(axis: Axis, limit: float, label: str) -> None:
    """A signed share around zero: linear within twice the limit, logarithmic beyond, so that a
    failure of 60 % and a deviation of 0.1 % are both seen."""
    set_scale = axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale
    set_scale("symlog", linthresh=2 * limit, linscale=2)
    reach = max(2 * limit, *(1.3 * abs(end) for end in axis.get_data_interval()))
    outside = [share for share in (0.03, 0.1, 0.3, 1.0) if 2 * limit < share <= reach]
    above = [limit / 2, limit, *outside]
    axis.set_ticks([*(-share for share in above), 0.0, *above])
    axis.set_minor_locator(NullLocator())
    _set_limits(axis, -reach, reach)
    _name(axis, "share", label)


def _name(axis: Axis, unit: Unit, label: str) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: si(value, unit)))
    axis.set_label_text(label)


def _set_scale(axis: Axis, scale: str) -> None:
    (axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale)(scale)


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


_SCALES: dict[Unit, tuple[tuple[float, str], ...]] = {
    "s": ((1.0, " s"), (1e-3, " ms"), (1e-6, " µs")),
    "/s": ((1e6, " M/s"), (1e3, " k/s"), (1.0, "/s")),
    "bytes": ((1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1.0, " B")),
    "share": ((0.01, " %"),),
    "count": ((1.0, ""),),
}


def si(value: float, unit: Unit) -> str:
    """A value in base units as people read it: 0.0012 s is '1.2 ms', 48,000 /s is '48 k/s'."""
    if not math.isfinite(value):
        return "–"
    fitting = [scale for scale in _SCALES[unit] if abs(value) >= scale[0] * (1 - 1e-9)]
    if value == 0 and unit not in ("share", "/s"):
        return "0"
    factor, suffix = (fitting or _SCALES[unit][-1:])[0]
    return f"{_three_digits(value / factor)}{suffix}"


def _three_digits(value: float) -> str:
    if abs(value) < 999.5:
        return f"{value:.3g}"
    return f"{value:.0f}" if abs(value) < 9_999.5 else f"{value:,.0f}"
