"""The house style: the same look for the same thing, units people read, and the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hdrh.histogram import HdrHistogram
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from bench.analysis.gates import LITTLE_POOL, LITTLE_USERS
from bench.figures import audit
from bench.figures.axes import linear_axis, log_axis, percentile_axis
from bench.figures.cells import small_print
from bench.figures.curves import ceiling, draw_by_pool, draw_curve, draw_theory, label_ends
from bench.figures.distributions import (
    ccdf_axes,
    draw_ccdf,
    draw_percentiles,
    of_histogram,
    of_times,
    percentile_axes,
)
from bench.figures.intervals import draw_intervals
from bench.figures.sheet import footnote, new_figure, pool_legend, save
from bench.figures.style import (
    CORRECTED,
    GROUND,
    INK,
    INVALID,
    LINE,
    NEUTRAL,
    UNCORRECTED,
    VARIANTS,
    pool_style,
)
from bench.figures.units import Unit, si
from bench.model import Estimate

SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def lightness(colour: str) -> float:
    red, green, blue = to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def one_axes() -> tuple[Figure, Axes]:
    figure, (axes,) = new_figure("A finding")
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


# sRGB seen by each kind of colour vision (Machado, Oliveira and Fernandes, 2009, severity 1).
VISIONS = {
    "usual": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def seen(colour: str, vision: str) -> Any:
    """Its place in CIELAB, where a distance of 10 is seen at a glance."""
    linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                       for c in to_rgb(colour)])  # fmt: skip
    to_xyz = [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1094, 0.8730]]
    x, y, z = np.cbrt(to_xyz @ np.clip(VISIONS[vision] @ linear, 0.01, 1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISIONS)
def test_every_kind_of_colour_vision_tells_the_colours_of_a_figure_apart(vision: str) -> None:
    for together in (
        [CORRECTED.colour, UNCORRECTED.colour, INK, INVALID],
        [style.colour for style in VARIANTS.values()],
    ):
        places = [seen(colour, vision) for colour in together]
        for i, place in enumerate(places):
            assert all(np.linalg.norm(place - other) > 10 for other in places[:i])


def test_looks_of_one_figure_differ_in_their_markers_too() -> None:
    assert CORRECTED.marker != UNCORRECTED.marker
    assert len({style.marker for style in VARIANTS.values()}) == len(VARIANTS)


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
def test_base_units_become_what_people_read(value: float, unit: Unit, text: str) -> None:
    assert si(value, unit) == text


# Axes


def test_a_log_axis_has_plain_labels_at_one_two_five() -> None:
    figure, axes = one_axes()
    draw_curve(axes, NEUTRAL, [1, 5000], [100, 40_000])
    log_axis(axes.xaxis, "count", "concurrency")
    log_axis(axes.yaxis, "/s", "achieved rate")
    assert labels_of(figure, axes.xaxis) == [
        "1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "2000", "5000"
    ]  # fmt: skip
    assert labels_of(figure, axes.yaxis)[:4] == ["100/s", "200/s", "500/s", "1 k/s"]
    assert axes.get_xscale() == axes.get_yscale() == "log"


def test_a_log_axis_over_many_decades_keeps_only_what_fits() -> None:
    figure, axes = one_axes()
    draw_curve(axes, NEUTRAL, [1, 2], [1e-6, 100.0])
    log_axis(axes.yaxis, "s", "wait")
    labels = labels_of(figure, axes.yaxis)
    assert labels == ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"]


def test_a_log_axis_over_a_small_range_still_has_labels() -> None:
    figure, axes = one_axes()
    draw_curve(axes, NEUTRAL, [1, 2], [82e-6, 108e-6])
    log_axis(axes.yaxis, "s", "latency")
    labels = labels_of(figure, axes.yaxis)
    assert len(labels) >= 3
    assert all(label.endswith(" µs") for label in labels)


def test_a_linear_axis_starts_at_zero() -> None:
    figure, axes = one_axes()
    draw_curve(axes, NEUTRAL, [1, 2], [9e-6, 14e-6])
    linear_axis(axes.yaxis, "s", "server CPU per operation")
    assert axes.get_ylim()[0] == 0
    assert labels_of(figure, axes.yaxis)[0] == "0"


# Curves


def test_hollow_and_invalid_points_look_different_and_the_line_skips_the_invalid() -> None:
    _, axes = one_axes()
    style = pool_style(20)
    draw_curve(
        axes, style, [1, 2, 3, 4], [10, 20, 7, float("nan")],
        hollow=[False, True, False, False], invalid=[False, False, True, False],
    )  # fmt: skip
    line, solid, hollow, crossed = axes.get_lines()
    assert list(line.get_xdata()) == [1, 2]
    assert (list(solid.get_xdata()), solid.get_markerfacecolor()) == ([1, 3, 4], style.colour)
    assert (list(hollow.get_xdata()), hollow.get_markerfacecolor()) == ([2], GROUND)
    assert hollow.get_color() == style.colour
    assert (list(crossed.get_xdata()), crossed.get_color()) == ([3], INVALID)


def test_spread_is_a_bar_from_low_to_high() -> None:
    _, axes = one_axes()
    draw_curve(axes, NEUTRAL, [1, 2], [10, 20], low=[9, 18], high=[12, 21])
    (bars,) = axes.collections
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[9, 12], [18, 21]]


def test_points_against_pool_size_carry_their_pools_look() -> None:
    _, axes = one_axes()
    draw_by_pool(
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
    ceiling(axes, low, high, "link")
    assert [said.get_text() for said in axes.texts] == [text]


# Labels


def test_labels_of_near_lines_do_not_overlap() -> None:
    figure, axes = one_axes()
    ends = [(100.0, 1000.0 + 2 * i, str(size), pool_style(size)) for i, size in enumerate(SIZES)]
    for x, y, _, style in ends:
        draw_curve(axes, style, [1, x], [10, y])
    log_axis(axes.xaxis, "count", "users")
    log_axis(axes.yaxis, "/s", "rate")
    label_ends(axes, [*ends, (1.0, float("nan"), "unknown", NEUTRAL)])
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
    draw_curve(axes, NEUTRAL, [1, 2], [10, 20])
    label_ends(axes, [(2.0, 20.0, "5", NEUTRAL), (1.0, 10.0, "10", NEUTRAL)])
    assert [text.get_position()[1] for text in axes.texts] == [0, 0]


def test_a_label_covers_no_other_lines_point() -> None:
    figure, axes = one_axes()
    others = [(x, 10.0) for x in (1.0, 2.0, 2.6, 3.0, 3.4, 10.0)]
    draw_curve(axes, NEUTRAL, *zip(*others, strict=True))
    axes.set_ylim(0, 20)
    label_ends(axes, [(2.0, 10.0, "generator", NEUTRAL), (2.6, 11.0, "pool", NEUTRAL)], others)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    points = axes.transData.transform(others)
    assert not [box for box in boxes if any(box.contains(*point) for point in points)]
    assert not boxes[0].overlaps(boxes[1])


def test_legends_and_small_print_stay_inside_the_figure_and_off_the_axes() -> None:
    figure, axes = one_axes()
    draw_by_pool(axes, SIZES, [float(size) for size in SIZES])
    pool_legend(figure, SIZES)
    footnote(figure, "Medians of 3 replicates. " * 8, hollow=True, invalid=True)
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
    footnote(figure, "Medians of 3 replicates.")
    assert figure.get_supxlabel() == "Medians of 3 replicates."
    assert figure.legends == []


# Files

DRAW = """
import sys
from pathlib import Path
from bench.figures.axes import log_axis
from bench.figures.curves import draw_by_pool
from bench.figures.sheet import new_figure, panel_title, pool_legend, save
figure, axes = new_figure("A finding", 1, 2)
for ax in axes:
    panel_title(ax, "closed loop")
    draw_by_pool(ax, [5, 50, 500], [1e-3, 2e-3, 4e-3], hollow=[True, False, False])
    log_axis(ax.xaxis, "count", "pool size")
    log_axis(ax.yaxis, "s", "p99 latency")
pool_legend(figure, [5, 50, 500])
save(figure, Path(sys.argv[1]), "waits")
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
    png, svg = save(figure, tmp_path / "figures", "empty")
    height, width, _ = imread(png).shape
    assert (width, height) == tuple(int(inches * 170) for inches in figure.get_size_inches())
    assert (png.name, svg.name) == ("empty.png", "empty.svg")


def test_the_style_leaves_the_readers_own_settings_alone(tmp_path: Path) -> None:
    with mpl.rc_context({"axes.facecolor": "pink", "svg.hashsalt": "mine"}):
        before = dict(mpl.rcParams)
        figure, axes = one_axes()
        save(figure, tmp_path, "empty")
        assert dict(mpl.rcParams) == before
    assert axes.get_facecolor() != (1.0, 0.75, 0.8, 1.0)


# Distributions


def test_the_share_that_took_as_long_or_longer() -> None:
    found = of_times([0.2, 0.1, 0.2, float("nan"), 0.4])
    assert found.times_s.tolist() == [0.1, 0.2, 0.4]
    assert found.at_or_above.tolist() == [4, 3, 1]
    _, axes = one_axes()
    draw_ccdf(axes, NEUTRAL, found)
    (line,) = axes.get_lines()
    assert line.get_xydata().tolist() == [[0.1, 1.0], [0.2, 0.75], [0.4, 0.25]]


def test_a_histogram_gives_the_same_distribution_as_the_times_it_was_fed() -> None:
    ticks = [5, 7, 7, 900, 1500, 60_000]
    histogram = HdrHistogram(1, 60_000_000, 3)
    for tick in ticks:
        histogram.record_value(tick)
    found, truth = of_histogram(histogram), of_times([tick * 1e-6 for tick in ticks])
    assert found.at_or_above.tolist() == truth.at_or_above.tolist()
    assert found.times_s == pytest.approx(truth.times_s, rel=1e-3)
    assert of_histogram(HdrHistogram(1, 60_000_000, 3)).times_s.size == 0


def test_a_long_tail_is_drawn_in_few_points_to_its_last_one() -> None:
    times = np.arange(1, 200_001) * 1e-6
    _, axes = one_axes()
    draw_ccdf(axes, NEUTRAL, of_times(times))
    (line,) = axes.get_lines()
    assert len(line.get_xdata()) <= 400
    assert line.get_xydata()[0].tolist() == [1e-6, 1.0]
    assert line.get_xydata()[-1] == pytest.approx([0.2, 1 / 200_000])


def test_exponential_times_lie_on_a_line_in_pretty_units() -> None:
    figure, axes = one_axes()
    times = -1e-3 * np.log(1 - (np.arange(10_000) + 0.5) / 10_000)
    draw_ccdf(axes, NEUTRAL, of_times(times))
    draw_theory(axes, [0, 8e-3], [1, np.exp(-8)])
    ccdf_axes(axes, "gap between arrivals")
    assert labels_of(figure, axes.xaxis)[:3] == ["0", "2 ms", "4 ms"]
    assert {"0.1 %", "1 %", "10 %", "100 %"} <= set(labels_of(figure, axes.yaxis))
    measured, theory = axes.get_lines()
    x, y = measured.get_xdata(), measured.get_ydata()
    assert np.abs(np.log(y[x < 5e-3]) + x[x < 5e-3] / 1e-3).max() < 0.05
    assert (theory.get_color(), theory.get_linestyle()) == (INK, "--")


def test_percentiles_are_drawn_as_far_as_there_are_requests_to_say_them() -> None:
    figure, axes = one_axes()
    times = np.arange(1, 1001) * 1e-3
    draw_percentiles(axes, CORRECTED, of_times(times))
    percentile_axes(axes, "latency")
    (line,) = axes.get_lines()
    shares, drawn = line.get_xdata(), line.get_ydata()
    assert 0.99 <= shares.max() < 0.995
    assert drawn == pytest.approx(np.ceil(shares * 1000) * 1e-3)
    assert labels_of(figure, axes.xaxis) == ["50 %", "90 %", "99 %"]


def test_each_further_nine_takes_as_much_room() -> None:
    figure, axes = one_axes()
    draw_theory(axes, [0.0, 0.9999], [0.0, 1.0])
    percentile_axis(axes.xaxis, "percentile")
    assert labels_of(figure, axes.xaxis) == ["50 %", "90 %", "99 %", "99.9 %", "99.99 %"]
    places = [axes.transData.transform((share, 0))[0] for share in (0, 0.9, 0.99, 0.999)]
    assert np.diff(places) == pytest.approx([np.diff(places)[0]] * 3)


@pytest.mark.parametrize("times", [[], [0.001], [0.001] * 20])
def test_few_requests_are_no_trouble(times: list[float]) -> None:
    figure, (above, within) = new_figure("A finding", 1, 2)
    draw_ccdf(above, NEUTRAL, of_times(times))
    ccdf_axes(above, "send lag")
    draw_percentiles(within, NEUTRAL, of_times(times))
    percentile_axes(within, "send lag")
    figure.draw_without_rendering()


# Intervals


def test_intervals_stand_in_the_order_given_around_what_theory_says() -> None:
    figure, axes = one_axes()
    known = Estimate(1.02, 0.97, 1.07, "", 5)
    alone = Estimate(0.99, float("nan"), float("nan"), "", 1)
    rows = [("first", known, NEUTRAL), ("second", alone, CORRECTED)]
    draw_intervals(axes, rows, expected=1.0, same=(0.95, 1.05))
    figure.draw_without_rendering()
    labels = axes.get_yticklabels()
    assert [label.get_text() for label in labels] == ["first", "second"]
    first, second = (label.get_window_extent().y0 for label in labels)
    assert first > second
    assert [bar.get_segments()[0][:, 0].tolist() for bar in axes.collections[:1]] == [[0.97, 1.07]]
    one, other, expected = axes.get_lines()
    assert [line.get_xdata()[0] for line in (one, other, expected)] == [1.02, 0.99, 1.0]
    assert other.get_color() == CORRECTED.colour


# The Little audit


def audited(loop: str, rtt_s: float, users_gap: float | None, pool_gap: float, **more: Any) -> Any:
    row = {
        "cell": f"{loop}{rtt_s}", "block": 1, "attempt": 1, "loop": loop, "rtt_s": rtt_s,
        "pool_size": 20, "concurrency": 100, "in_flight_mean": 10.0, "valid": True,
        "gate_little_users": users_gap, "gate_little_pool": pool_gap,
    }  # fmt: skip
    return row | more


CLOSED, FAST = audited("closed", 0.001, -0.004, 0.001), audited("closed", 0.0, -0.02, 0.0)
OPEN = audited("open", 0.001, None, 0.002, in_flight_mean=12.0)


def panels_of(rows: list[Any]) -> dict[str, Axes]:
    cells = pd.DataFrame(rows)
    figure = audit.draw(cells, audit.finding(cells))
    return {axes.get_title(loc="left").partition(":")[0]: axes for axes in figure.axes}


def points_of(axes: Axes) -> list[list[float]]:
    return [point for line in axes.get_lines() for point in line.get_xydata().tolist()]


def test_open_and_closed_loop_stand_in_panels_of_their_own() -> None:
    panels = panels_of([CLOSED, FAST, OPEN])
    assert {name: points_of(axes) for name, axes in panels.items()} == {
        "users, RTT ≥ 1 ms": [[100, -0.004]],
        "users, RTT 0": [[100, -0.02]],
        "pool, closed loop": [[10, 0.001], [10, 0.0]],
        "pool, open loop": [[12, 0.002]],
    }
    assert panels["users, RTT 0"].get_xlabel() == "users"
    assert panels["pool, open loop"].get_xlabel() == "mean in flight"


def test_a_check_that_no_cell_allows_has_no_panel() -> None:
    assert list(panels_of([OPEN])) == ["pool, open loop"]
    assert list(panels_of([CLOSED])) == ["users, RTT ≥ 1 ms", "pool, closed loop"]


def test_cells_of_every_loop_count_and_the_last_attempt_alone() -> None:
    wrong = audited("open", 0.01, None, -2 * LITTLE_POOL)
    found = audit.finding(pd.DataFrame([CLOSED, FAST, OPEN, wrong]))
    assert found.startswith("Little's law does not hold everywhere: ")
    said = "users within 3 % in 1 of 1 cells, pool within 1 % in 3 of 4 cells"
    assert found.partition(": ")[2].partition(";")[0] == said
    again = audited("open", 0.01, None, 0.0, attempt=2)
    found = audit.finding(pd.DataFrame([CLOSED, FAST, OPEN, wrong, again]))
    assert found.startswith("Little's law holds throughout: ")
    alone = audit.finding(pd.DataFrame([OPEN]))
    assert alone == "Little's law holds throughout: pool within 1 % in 1 of 1 cells"
    spoiled = pd.DataFrame([CLOSED, OPEN]).assign(valid=[True, False])
    assert audit.finding(spoiled).endswith("; 1 of the 2 cells failed some gate")


def test_the_generators_share_is_not_gated_and_told_where_there_is_one() -> None:
    assert FAST["gate_little_users"] > -LITTLE_USERS
    far = audited("closed", 0.0, -0.2, 0.0)
    assert "throughout: pool within" in audit.finding(pd.DataFrame([far]))
    assert "the generator's own time, 20 % in the median" in audit.prose(pd.DataFrame([far]))
    assert "generator" not in audit.prose(pd.DataFrame([CLOSED]))
    assert "closed loop" not in audit.prose(pd.DataFrame([OPEN]))


def test_an_invalid_cell_is_crossed_out_in_the_audit() -> None:
    bad = audited("open", 0.001, None, -0.3, valid=False)
    (axes,) = panels_of([bad]).values()
    crosses = [line for line in axes.get_lines() if line.get_color() == INVALID]
    assert [line.get_xydata().tolist() for line in crosses] == [[[10.0, -0.3]]]
    assert "1 of 1 cells failed a gate" in audit.prose(pd.DataFrame([bad]))


# Stored cells


def test_small_print_says_what_a_point_is_and_explains_only_the_marks_there_are() -> None:
    cells = pd.DataFrame({"cell": ["a", "a"], "block": [1, 2], "qps": [1.0, 2.0],
                          "valid": [True, True], "bound_by": ["link", "link"]})  # fmt: skip
    figure, _ = one_axes()
    small_print(figure, cells, "RTT 1 ms.")
    (legend,) = figure.legends
    said = "Median of 2 replicates, bars from lowest to highest. RTT 1 ms."
    assert legend.get_title().get_text() == said
    assert [text.get_text().partition(":")[0] for text in legend.get_texts()] == ["hollow"]
    figure, _ = one_axes()
    small_print(figure, cells.head(1).assign(bound_by="pool"), "RTT 1 ms.")
    assert figure.get_supxlabel() == "One replicate. RTT 1 ms."
