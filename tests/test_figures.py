"""The house style: the same look for the same thing, units people read, and the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from bench import figures
from bench.figures import LINE, NEUTRAL, pool_style, si

SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def lightness(colour: str) -> float:
    red, green, blue = to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def one_axes() -> tuple[Figure, Axes]:
    figure, (axes,) = figures.new_figure("A finding")
    return figure, axes


def labels_of(figure: Figure, axis: mpl.axis.Axis) -> list[str]:
    figure.draw_without_rendering()
    low, high = sorted(axis.get_view_interval())
    ticks = axis.get_major_ticks()
    return [t.label1.get_text() for t in ticks if low <= t.get_loc() <= high]


# One look per pool size


def test_every_pool_size_has_a_colour_and_a_marker_of_its_own() -> None:
    styles = [pool_style(size) for size in SIZES]
    assert len({style.colour for style in styles}) == len(SIZES)
    assert len({style.marker for style in styles}) == len(SIZES)


def test_colours_are_ordered_by_lightness_and_none_is_lost_on_white() -> None:
    shades = [lightness(pool_style(size).colour) for size in SIZES]
    assert shades == sorted(shades)
    assert shades[-1] < 0.75


def test_other_sizes_lie_between_their_neighbours() -> None:
    between = lightness(pool_style(30).colour)
    assert lightness(pool_style(20).colour) < between < lightness(pool_style(50).colour)
    assert pool_style(1) == pool_style(5)
    assert pool_style(60_000) == pool_style(5000)


# Units


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0012, "s", "1.2 ms"),
        (0.00001, "s", "10 µs"),
        (1e-3, "s", "1 ms"),
        (0.001 - 1e-16, "s", "1 ms"),
        (2.5, "s", "2.5 s"),
        (1e-7, "s", "0.1 µs"),
        (0, "s", "0"),
        (48_000, "/s", "48 k/s"),
        (999, "/s", "999/s"),
        (1_250_000, "/s", "1.25 M/s"),
        (0, "/s", "0/s"),
        (2300, "bytes", "2.3 kB"),
        (120e6, "bytes", "120 MB"),
        (5, "count", "5"),
        (5000, "count", "5000"),
        (20_000, "count", "20,000"),
        (0.035, "share", "3.5 %"),
        (0, "share", "0 %"),
        (0.001, "share", "0.1 %"),
        (float("nan"), "s", "–"),
    ],
)
def test_base_units_become_what_people_read(value: float, unit: figures.Unit, text: str) -> None:
    assert si(value, unit) == text


# Axes


def test_a_log_axis_has_plain_labels_at_one_two_five() -> None:
    figure, axes = one_axes()
    figures.draw_curve(axes, NEUTRAL, [1, 5000], [100, 40_000])
    figures.log_axis(axes.xaxis, "count", "concurrency")
    figures.log_axis(axes.yaxis, "/s", "achieved rate")
    assert labels_of(figure, axes.xaxis) == [
        "1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "2000", "5000"
    ]  # fmt: skip
    assert labels_of(figure, axes.yaxis)[:4] == ["100/s", "200/s", "500/s", "1 k/s"]
    assert axes.get_xscale() == axes.get_yscale() == "log"


def test_a_log_axis_over_many_decades_keeps_only_what_fits() -> None:
    figure, axes = one_axes()
    figures.draw_curve(axes, NEUTRAL, [1, 2], [1e-6, 100.0])
    figures.log_axis(axes.yaxis, "s", "wait")
    labels = labels_of(figure, axes.yaxis)
    assert labels == ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"]


def test_a_log_axis_over_a_small_range_still_has_labels() -> None:
    figure, axes = one_axes()
    figures.draw_curve(axes, NEUTRAL, [1, 2], [82e-6, 108e-6])
    figures.log_axis(axes.yaxis, "s", "latency")
    labels = labels_of(figure, axes.yaxis)
    assert len(labels) >= 3
    assert all(label.endswith(" µs") for label in labels)


def test_a_linear_axis_starts_at_zero() -> None:
    figure, axes = one_axes()
    figures.draw_curve(axes, NEUTRAL, [1, 2], [9e-6, 14e-6])
    figures.linear_axis(axes.yaxis, "s", "server CPU per operation")
    assert axes.get_ylim()[0] == 0
    assert labels_of(figure, axes.yaxis)[0] == "0"


# Curves


def test_hollow_and_invalid_points_look_different_and_the_line_skips_the_invalid() -> None:
    _, axes = one_axes()
    style = pool_style(20)
    figures.draw_curve(
        axes, style, [1, 2, 3, 4], [10, 20, 7, float("nan")],
        hollow=[False, True, False, False], invalid=[False, False, True, False],
    )  # fmt: skip
    line, solid, hollow, crossed = axes.get_lines()
    assert list(line.get_xdata()) == [1, 2]
    assert (list(solid.get_xdata()), solid.get_markerfacecolor()) == ([1, 3, 4], style.colour)
    assert (list(hollow.get_xdata()), hollow.get_markerfacecolor()) == ([2], figures.GROUND)
    assert hollow.get_color() == style.colour
    assert (list(crossed.get_xdata()), crossed.get_color()) == ([3], figures.INVALID)


def test_spread_is_a_bar_from_low_to_high() -> None:
    _, axes = one_axes()
    figures.draw_curve(axes, NEUTRAL, [1, 2], [10, 20], low=[9, 18], high=[12, 21])
    (bars,) = axes.collections
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[9, 12], [18, 21]]


def test_points_against_pool_size_carry_their_pools_look() -> None:
    _, axes = one_axes()
    figures.draw_by_pool(
        axes, [5, 50], [1.0, 2.0], low=[0.9, 1.8], high=[1.1, 2.2],
        hollow=[False, True], invalid=[False, False],
    )  # fmt: skip
    looks = {(line.get_color(), line.get_marker()) for line in axes.get_lines()}
    assert {pool_style(5), pool_style(50)} <= looks
    assert (NEUTRAL.colour, NEUTRAL.marker) not in looks
    assert LINE.colour == axes.get_lines()[0].get_color()


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (40_000, 44_000, "what this rig carries: 40–44 k/s (link)"),
        (40_000, 40_000, "what this rig carries: 40 k/s (link)"),
        (900, 1_100, "what this rig carries: 900/s–1.1 k/s (link)"),
    ],
)
def test_the_ceiling_says_what_the_rig_carries(low: float, high: float, text: str) -> None:
    _, axes = one_axes()
    figures.ceiling(axes, low, high, "link")
    assert [said.get_text() for said in axes.texts] == [text]


# Labels


def test_labels_of_near_lines_do_not_overlap() -> None:
    figure, axes = one_axes()
    ends = [(100.0, 1000.0 + 2 * i, str(size), pool_style(size)) for i, size in enumerate(SIZES)]
    for x, y, _, style in ends:
        figures.draw_curve(axes, style, [1, x], [10, y])
    figures.log_axis(axes.xaxis, "count", "users")
    figures.log_axis(axes.yaxis, "/s", "rate")
    figures.label_ends(axes, [*ends, (1.0, float("nan"), "unknown", NEUTRAL)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(SIZES)
    assert not [
        (a, b)
        for i, a in enumerate(boxes)
        for b in boxes[:i]
        if a.y0 < b.y1 - 1 and b.y0 < a.y1 - 1
    ]
    heights = [box.y0 for box in boxes]
    assert heights == sorted(heights)


def test_a_lone_label_stays_beside_its_line() -> None:
    _, axes = one_axes()
    figures.draw_curve(axes, NEUTRAL, [1, 2], [10, 20])
    figures.label_ends(axes, [(2.0, 20.0, "5", NEUTRAL), (1.0, 10.0, "10", NEUTRAL)])
    assert [text.get_position()[1] for text in axes.texts] == [0, 0]


def test_legends_and_small_print_stay_inside_the_figure_and_off_the_axes() -> None:
    figure, axes = one_axes()
    figures.draw_by_pool(axes, SIZES, [float(size) for size in SIZES])
    figures.pool_legend(figure, SIZES)
    figures.footnote(figure, "Medians of 3 replicates. " * 8, hollow=True, invalid=True)
    figure.draw_without_rendering()
    inner, page = axes.get_window_extent(), figure.bbox
    assert len(figure.legends) == 2
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert not box.overlaps(inner)
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["5000", "2000", "1000", "500", "200", "100", "50", "20", "10", "5"]


def test_small_print_without_marks_is_text_alone() -> None:
    figure, _ = one_axes()
    figures.footnote(figure, "Medians of 3 replicates.")
    assert figure.get_supxlabel() == "Medians of 3 replicates."
    assert figure.legends == []


# Files

DRAW = """
import sys
from pathlib import Path
from bench import figures
figure, axes = figures.new_figure("A finding", 1, 2)
for ax in axes:
    figures.panel_title(ax, "closed loop")
    figures.draw_by_pool(ax, [5, 50, 500], [1e-3, 2e-3, 4e-3], hollow=[True, False, False])
    figures.log_axis(ax.xaxis, "count", "pool size")
    figures.log_axis(ax.yaxis, "s", "p99 latency")
figures.pool_legend(figure, [5, 50, 500])
figures.save(figure, Path(sys.argv[1]), "waits")
print("matplotlib.pyplot" in sys.modules)
"""


def test_the_same_figure_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    drawing = [
        subprocess.Popen(
            [sys.executable, "-c", DRAW, str(tmp_path / name)], cwd=root, stdout=subprocess.PIPE
        )
        for name in ("a", "b")
    ]
    assert [process.communicate()[0].strip() for process in drawing] == [b"False", b"False"]
    for suffix in ("png", "svg"):
        first, second = ((tmp_path / name / f"waits.{suffix}").read_bytes() for name in ("a", "b"))
        assert first == second
    assert b"<dc:date>" not in (tmp_path / "a" / "waits.svg").read_bytes()


def test_a_png_is_fine_enough_for_a_review(tmp_path: Path) -> None:
    from matplotlib.image import imread

    figure, _ = one_axes()
    png, svg = figures.save(figure, tmp_path / "figures", "empty")
    height, width, _ = imread(png).shape
    assert (width, height) == tuple(int(inches * 170) for inches in figure.get_size_inches())
    assert (png.name, svg.name) == ("empty.png", "empty.svg")


def test_the_style_leaves_the_readers_own_settings_alone(tmp_path: Path) -> None:
    with mpl.rc_context({"axes.facecolor": "pink", "svg.hashsalt": "mine"}):
        before = dict(mpl.rcParams)
        figure, axes = one_axes()
        figures.save(figure, tmp_path, "empty")
        assert dict(mpl.rcParams) == before
    assert axes.get_facecolor() != (1.0, 0.75, 0.8, 1.0)
