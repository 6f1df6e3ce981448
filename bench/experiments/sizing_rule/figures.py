"""The plots, their findings as titles."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import special

from bench.analysis.nstar import MOST_SHARE
from bench.analysis.queueing import erlang_c, servers_needed
from bench.analysis.replicates import evidence, points
from bench.analysis.sentences import counted
from bench.experiments.sizing_rule.loads import (
    SAME_IN_FLIGHT,
    SERVER_CONTROL,
    SERVER_QPS,
    Load,
)
from bench.experiments.sizing_rule.needs import (
    CLOSE,
    CLOSE_SHARE,
    LOAD,
    PER_QPS,
    Answer,
    held_of,
    pods,
    server_controls,
    sound_pods,
)
from bench.experiments.sizing_rule.words import Story, bursts, findings_of, story
from bench.figures import audit
from bench.figures.axes import linear_axis, log_axis
from bench.figures.cells import any_invalid, draw_line
from bench.figures.curves import draw_curve, draw_theory, label_ends
from bench.figures.sheet import footnote, new_figure, panel_title
from bench.figures.style import INK, LINE, MUTED, NEUTRAL, marker, pool_style, rate_style
from bench.figures.units import si
from bench.model import MOST_QPS, Estimate
from bench.store import Store

MOST_IN_FLIGHT = 10_000


def figures(cells: pd.DataFrame, store: Store) -> dict[str, Figure]:
    """Every plot by name, its finding as its title."""
    of = story(cells, store)
    draw = {
        "sizing_rule": _draw_rule,
        "predicted_measured": _draw_prediction,
        "pool_steps": _draw_steps,
        "burstiness": _draw_bursts,
        "in_flight": _draw_in_flight,
        "server_work": _draw_server,
        "little_audit_rule": _draw_audit,
    }
    return {name: draw[name](of, title) for name, title in findings_of(of).items()}


def _draw_audit(of: Story, title: str) -> Figure:
    return audit.draw(of.cells, title)


def _draw_rule(of: Story, title: str) -> Figure:
    steady = [each for each in of.told if each.load.peak_to_mean == 1]
    figure, (by_load, by_rate) = new_figure(title, 1, 2, size=(12.0, 6.0))
    panel_title(by_load, "against concurrency: L = rate × hold time, whatever the rate")
    panel_title(by_rate, "the same pools against the rate; labels: how long a call takes")
    for each in steady:
        _point(by_load, each.empty, each.load, each.in_flight)
        _point(by_rate, each.empty, each.load, each.load.qps)
    _draw_laws(by_load)
    _needs_axes([by_load, by_rate], steady)
    by_load.legend(handles=_rate_marks(steady), loc="upper left", title="rate offered to a pod",
                   alignment="left", frameon=False)  # fmt: skip
    log_axis(by_load.xaxis, "count", "calls in flight on average (L)")
    _rate_axis(by_rate, steady)
    footnote(
        figure,
        f"N*: where the share of requests that find no free connection falls to {MOST_SHARE:.0%}; "
        f"{_replicates(steady)}, bars: 95 % interval. Open loop, Poisson, prefilled. "
        "Grey band: the loads with the same L.",
    )
    return figure


def _draw_laws(axes: Axes) -> None:
    ladder = np.geomspace(1, 100, 400)
    draw_theory(axes, ladder, [servers_needed(load, MOST_SHARE) for load in ladder])
    axes.plot(ladder, 2 * ladder, color=MUTED, linewidth=0.9, linestyle=":", zorder=1)
    for name, load, pool, right in (
        ("2 × L", 28, 2 * 28, False), ("Erlang C", 28, servers_needed(28, MOST_SHARE), True),
    ):  # fmt: skip
        axes.annotate(name, (load, pool), (6 if right else -6, -6 if right else 6), color=MUTED,
                      textcoords="offset points", ha="left" if right else "right", va="center",
                      fontsize=8.5)  # fmt: skip


def _rate_axis(axes: Axes, told: list[Answer]) -> None:
    """Only the rates measured have a tick; the band holds those loads that share one L."""
    rates = sorted({each.load.qps for each in told})
    log_axis(axes.xaxis, "/s", "requests per second")
    axes.set_xticks(rates)
    axes.set_xlim(rates[0] / 1.5, rates[-1] * 2)
    if same := [each.empty.value for each in told if each.load in SAME_IN_FLIGHT]:
        axes.axhspan(min(same) / 1.06, max(same) * 1.06, color=MUTED, alpha=0.14, lw=0, zorder=0)
        shared = np.mean([each.in_flight for each in told if each.load in SAME_IN_FLIGHT])
        axes.annotate(f"the same L: {shared:.0f} in flight", (rates[0] / 1.5, max(same) * 1.06),
                      (5, 6), textcoords="offset points", fontsize=8.5, color=MUTED)  # fmt: skip
    label_ends(axes, [(each.load.qps, each.empty.value, si(each.hold_s, "s"),
                       rate_style(each.load.qps)) for each in told])  # fmt: skip


def _point(axes: Axes, need: Estimate, load: Load, x: float) -> None:
    """The markers of lower rates are larger, and drawn first: where several coincide, all show."""
    style = rate_style(load.qps)
    axes.vlines([x], need.low, need.high, color=style.colour, linewidth=3, alpha=0.35, zorder=2)
    axes.plot([x], [need.value], linestyle="", **marker(style), zorder=3 + load.qps / MOST_QPS,
              markersize=min(11.0, 7 * (1_000 / load.qps) ** 0.5))  # fmt: skip


def _needs_axes(panels: list[Axes], told: list[Answer]) -> None:
    """One scale of pool sizes for all panels."""
    sizes = [each.empty.value for each in told]
    for axes in panels:
        axes.set_ylim(min(sizes) / 1.5, max(sizes) * 1.8)
        log_axis(axes.yaxis, "count", "")
    panels[0].set_xlim(1, 100)
    panels[0].set_ylabel("connections needed (N*)")


def _rate_marks(told: list[Answer]) -> list[Line2D]:
    return [
        Line2D([], [], linestyle="", label=si(qps, "/s"), **marker(rate_style(qps)))
        for qps in sorted({each.load.qps for each in told})
    ]


def _replicates(told: list[Answer]) -> str:
    fewest = min(each.empty.n for each in told)
    return f"geometric mean of {counted(fewest, 'replicate')} or more" if fewest else "no replicate"


def _draw_prediction(of: Story, title: str) -> Figure:
    figure, (points_, off) = new_figure(title, 1, 2, size=(12.0, 5.4))
    panel_title(points_, "measured against predicted from λW₀")
    panel_title(off, "rules of thumb: predicted ÷ measured, a point per load")
    predicted = [each.predicted for each in of.told]
    ladder = np.geomspace(min(predicted) / 1.4, max(predicted) * 1.4, 100)
    allowed = np.maximum(CLOSE, CLOSE_SHARE * ladder)
    points_.fill_between(ladder, ladder - allowed, ladder + allowed, color=MUTED, alpha=0.16, lw=0)
    draw_theory(points_, ladder, ladder)
    for each in of.told:
        _point(points_, each.whole, each.load, each.predicted)
    log_axis(points_.xaxis, "count", "predicted pool size")
    log_axis(points_.yaxis, "count", "measured N*, whole connections")
    points_.legend(handles=_rate_marks(of.told), loc="upper left", frameon=False)
    _draw_rivals(off, of)
    footnote(
        figure,
        f"Grey: within ±{CLOSE} connection or {CLOSE_SHARE:.0%}. Predicted by Erlang C, for bursts "
        f"by simulation. {PER_QPS}: its constant is fitted to all other loads (left one out).",
    )
    return figure


def _draw_rivals(axes: Axes, of: Story) -> None:
    steady = [each for each in of.told if each.load.peak_to_mean == 1]
    for place, rule in enumerate(of.rivals):
        for each, ratio in zip(steady, rule.ratios, strict=True):
            axes.plot([ratio], [place], linestyle="", alpha=0.8,
                      **marker(rate_style(each.load.qps)))  # fmt: skip
    axes.axvline(1, color=INK, linestyle="--", linewidth=1.2, zorder=1)
    axes.set_yticks(range(len(of.rivals)), [rule.name for rule in of.rivals])
    axes.set_ylim(len(of.rivals) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    log_axis(axes.xaxis, "count", "predicted ÷ measured")


def _draw_steps(of: Story, title: str) -> Figure:
    figure, (axes,) = new_figure(title, size=(11.0, 6.0))
    known = sound_pods(pods(of.cells))
    steps = known[~known["control"]]
    ends = []
    for load, own in steps.groupby(LOAD):
        found = Load(*load)
        style = rate_style(found.qps)
        shares = own.groupby("pool_size")["pool_empty_share"].mean()
        shares = shares[shares > 0]
        bursts = found.peak_to_mean > 1
        draw_curve(axes, style, shares.index.tolist(), shares.tolist(), dashed=bursts)
        if len(shares):
            calls = f"{si(found.rtt_s, 's')}{' in bursts' if bursts else ''}"
            ends.append((float(shares.index[-1]), float(shares.iloc[-1]), calls, style))
    axes.axhline(MOST_SHARE, color=INK, linestyle="--", linewidth=1.2, zorder=1)
    log_axis(axes.xaxis, "count", "pool size")
    log_axis(axes.yaxis, "share", "requests that found no free connection")
    label_ends(axes, ends)
    axes.legend(handles=_rate_marks(of.told), loc="lower left", title="rate offered to a pod",
                alignment="left", frameon=False)  # fmt: skip
    footnote(figure, f"Mean of the replicates; shares of none are left out. Labels: round trip. "
                     f"Dashed: the {MOST_SHARE:.0%} of the objective; bursts as dashed lines.",
             invalid=False)  # fmt: skip
    return figure


def _draw_bursts(of: Story, title: str) -> Figure:
    pairs = bursts(of.told)
    figure, (axes,) = new_figure(title, size=(8.0, 5.0))
    ladder = np.linspace(1, 1.25 * max(burst.load.peak_to_mean for _, burst in pairs), 60)
    for steady in {id(steady): steady for steady, _ in pairs}.values():
        style = rate_style(steady.load.qps)
        mine = [steady, *(burst for one, burst in pairs if one is steady)]
        for each in mine:
            draw_curve(axes, style, [each.load.peak_to_mean], [each.empty.value / each.in_flight],
                       low=[each.empty.low / each.in_flight],
                       high=[each.empty.high / each.in_flight])  # fmt: skip
        load = steady.in_flight
        draw_theory(axes, ladder, [servers_needed(load * peak, MOST_SHARE) / load
                                   for peak in ladder])  # fmt: skip
    linear_axis(axes.xaxis, "count", "peak rate ÷ mean rate")
    axes.set_xlim(0.9, ladder[-1])
    linear_axis(axes.yaxis, "count", "connections needed per call in flight (N* ÷ L)")
    footnote(figure, "Bursts of ten hold times and more. Dashed: Erlang C for the rate within a "
                     "burst. Bars: 95 % interval.")  # fmt: skip
    return figure


def _draw_in_flight(of: Story, title: str) -> Figure:
    figure, (axes,) = new_figure(title, size=(9.0, 5.4))
    for load, found in of.held.items():
        levels = np.arange(len(found.share))
        above = [found.at_least(int(level)) for level in levels]
        axes.plot(levels, above, color=rate_style(load.qps).colour, drawstyle="steps-mid",
                  label=f"{si(load.qps, '/s')} × {si(load.rtt_s, 's')}")  # fmt: skip
    mean = float(np.mean([found.mean for found in of.held.values()]))
    levels = np.arange(max(len(found.share) for found in of.held.values()) + 2)
    draw_theory(axes, levels, special.pdtrc(levels - 1.0, mean))
    axes.plot([], [], color=INK, linestyle="--", linewidth=1.2, label=f"Poisson, mean {mean:.3g}")
    axes.axhline(MOST_SHARE, color=MUTED, linestyle=":", linewidth=0.9, zorder=1)
    linear_axis(axes.xaxis, "count", "calls in flight")
    log_axis(axes.yaxis, "share", "of the time, so many or more")
    axes.set_ylim(1e-4, 1.3)
    axes.legend(loc="upper right", frameon=False)
    footnote(figure, f"Connections held in pools of more than 4 L, which are never the limit. "
                     f"Dotted: {MOST_SHARE:.0%}.")  # fmt: skip
    return figure


def _draw_server(of: Story, title: str) -> Figure:
    known = server_controls(of.cells)
    figure, (hold, load) = new_figure(title, 1, 2, size=(11.0, 4.8))
    panel_title(hold, "how long a call keeps its connection (W₀)")
    panel_title(load, f"requests that find the pool empty at {si(SERVER_QPS[-1], '/s')}")
    draw_line(hold, NEUTRAL, known, "offered_qps", "command_mean_s")
    linear_axis(hold.xaxis, "/s", "requests per second")
    linear_axis(hold.yaxis, "s", "")
    steps = evidence(of.cells[(of.cells["arm"] == "server")
                              & (of.cells["pool_size"] != SERVER_CONTROL)])  # fmt: skip
    line = points(steps[steps["pool_empty_share"] > 0], ["pool_size"], "pool_empty_share")
    draw_curve(load, LINE, line["pool_size"].tolist(), line["median"].tolist())
    for row in line.itertuples():
        draw_curve(load, pool_style(int(row.pool_size)), [row.pool_size], [row.median])
    _draw_unbounded(load, known, of.store)
    load.axhline(MOST_SHARE, color=MUTED, linestyle=":", linewidth=0.9, zorder=1)
    linear_axis(load.xaxis, "count", "pool size")
    log_axis(load.yaxis, "share", "")
    footnote(
        figure,
        "No link: each command is a script that keeps the single-threaded server busy, so calls "
        "queue for it. Dashed: how often so many were in flight in a pool without limit, at the "
        f"same rate. Dotted: the {MOST_SHARE:.0%} of the objective. One worker; "
        f"{counted(int(known['block'].nunique()), 'replicate')}.",
        invalid=any_invalid(of.cells[of.cells["arm"] == "server"]),
    )
    return figure


def _draw_unbounded(axes: Axes, known: pd.DataFrame, store: Store) -> None:
    """The share of time with so many in flight where the pool is no limit: what arrives then finds
    a pool of that size empty."""
    highest = known[known["offered_qps"] == SERVER_QPS[-1]]
    if highest.empty:
        return
    found = held_of(store, highest)
    levels = np.arange(1, len(found.share))
    draw_theory(axes, levels, [found.at_least(int(level)) for level in levels])


def own_curve(qps: float, hold_s: float) -> Figure:
    """For a reader's own numbers: the share of requests that find the pool empty against pool size,
    by Erlang C. `qps` is the peak rate of one pod, `hold_s` how long a call keeps its connection.

    Raises ValueError where one is not positive, or more than `MOST_IN_FLIGHT` would be in flight.
    """
    load = qps * hold_s
    if not 0 < load <= MOST_IN_FLIGHT:
        raise ValueError(f"{qps:g}/s × {hold_s:g} s are {load:g} in flight: more than 0 and at "
                         f"most {MOST_IN_FLIGHT:,} can be drawn")  # fmt: skip
    needed = servers_needed(load, MOST_SHARE)
    title = (
        f"{si(qps, '/s')} × {si(hold_s, 's')} keep {si(load, 'count')} in flight and need a pool "
        f"of {needed}"
    )
    figure, (axes,) = new_figure(title, size=(8.5, 4.8))
    sizes = np.unique(
        np.linspace(max(1, math.floor(load) + 1), needed + (needed - load), 80).round()
    )
    shares = np.array([erlang_c(int(size), load) for size in sizes])
    axes.plot(sizes, shares, color=INK)
    draw_curve(axes, pool_style(needed), [needed], [erlang_c(needed, load)])
    axes.axhline(MOST_SHARE, color=MUTED, linestyle=":", linewidth=0.9, zorder=1)
    linear_axis(axes.xaxis, "count", "pool size")
    axes.set_xlim(left=0.98 * load)
    log_axis(axes.yaxis, "share", "requests that find no free connection")
    label_ends(axes, [(needed, erlang_c(needed, load), f"{needed}", pool_style(needed))])
    footnote(figure, f"Erlang C: Poisson arrivals, exponential hold times. Dotted: "
                     f"{MOST_SHARE:.0%}.")  # fmt: skip
    return figure
