"""The sheet a plot stands on: the finding as title, panel titles, legend, small print, files."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from bench.figures.style import CROSS, INK, MUTED, NEUTRAL, STYLE, marker, pool_style
from bench.figures.units import si

DPI = 170
COLOURS = 256  # of a picture; with 64 greys turn purple


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
    # Lines around a panel lie within what its ticks take: asking each costs a tenth of the layout.
    for spine in itertools.chain.from_iterable(each.spines.values() for each in axes):
        spine.set_in_layout(False)
    return figure, axes


def panel_title(axes: Axes, text: str) -> None:
    """What this panel shows and under which settings, in one line above it."""
    axes.set_title(text, loc="left", fontsize=9.5, color=MUTED)


_HOLLOW = Line2D(
    [],
    [],
    linestyle="",
    label="hollow: bound by the rig, no evidence about a pool (a rate is a lower bound)",
    **marker(NEUTRAL, hollow=True),
)
_INVALID = Line2D([], [], linestyle="", label="crossed out: invalid, a gate failed", **CROSS)
SMALL_PRINT = 8.5
CHARACTERS_PER_INCH = 13.5  # of small print


def footnote(
    figure: Figure, text: str = "", *, hollow: bool = False, invalid: bool = False
) -> None:
    """Small print below the figure: where the data come from, and what the marks it has mean."""
    lines = textwrap.fill(text, int(CHARACTERS_PER_INCH * figure.get_size_inches()[0]))
    marks = [*[_HOLLOW] * hollow, *[_INVALID] * invalid]
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


def pool_legend(figure: Figure, sizes: Iterable[int], *, title: str = "pool size") -> None:
    """A legend right of the figure, the largest pool on top."""
    marks = {size: marker(pool_style(size)) for size in sorted(set(sizes))}
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


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write name.png and name.svg; the same figure gives the same bytes. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    drawn(figure, DPI).save(png, dpi=(DPI, DPI))
    engine = figure.get_layout_engine()
    figure.set_layout_engine("none")  # it is laid out, and that takes as long as drawing
    with mpl.rc_context(STYLE):
        FigureCanvasSVG(figure).print_svg(  # type: ignore[no-untyped-call]
            svg, metadata={"Date": None, "Creator": None}
        )
    figure.set_layout_engine(engine)
    return [png, svg]


def drawn(figure: Figure, dpi: float) -> Image.Image:
    """The figure as a picture, with a palette: two fifths of the bytes, and it looks the same."""
    given = figure.get_dpi()
    # Straight to the canvas: `savefig` draws and lays out everything twice.
    with mpl.rc_context(STYLE):
        figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        figure.set_dpi(given)
    return _with_palette(pixels.view("<u4")[..., 0] & 0xFFFFFF)


def _with_palette(pixels: NDArray[np.integer[Any]]) -> Image.Image:
    """The picture of these colours, 0xBBGGRR each, with the `COLOURS` that stand for them best.

    By maximum coverage: a median cut takes longer, and its worst pixel is four times as far off;
    octrees are quicker, and turn the white ground greenish. A plot has some thousand colours among
    a million pixels: choosing for each colour once takes two fifths of the time.
    """
    seen = np.zeros(1 << 24, dtype=bool)
    seen[pixels] = True
    colours = np.flatnonzero(seen).astype("<u4")
    strip = Image.fromarray(colours.view(np.uint8).reshape(1, -1, 4)[..., :3])
    few = strip.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    standing_for = np.empty(1 << 24, dtype=np.uint8)
    standing_for[colours] = np.asarray(few)[0]
    picture = Image.fromarray(standing_for[pixels])
    picture.putpalette(few.getpalette() or ())
    return picture
