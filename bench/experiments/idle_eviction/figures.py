"""The pictures: which defence stops which trap, the incident as the on-call sees it, what the first
command meets, and what the server felt of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from bench.analysis.sentences import not_run
from bench.experiments.idle_eviction.lanes import FIX, NAME, NONE, TRAPS
from bench.experiments.idle_eviction.seen import (
    MATRIX,
    SLOW,
    bursts,
    combinations,
    measured,
    part,
)
from bench.experiments.idle_eviction.verdicts import (
    REDIS_MAXCLIENTS,
    during_before,
    fates,
    fix_ratios,
)
from bench.experiments.idle_eviction.words import findings_of
from bench.figures.axes import linear_axis
from bench.figures.sheet import footnote, new_figure, panel_title
from bench.figures.style import GROUND, INK, MUTED, OUTCOME_LOOKS, OVER_LINES
from bench.figures.units import si
from bench.store import Store

SHADES = LinearSegmentedColormap.from_list("failing", ["#eef3f7", "#f2c9a1", "#c4473a"])
BUCKET_S = 0.1  # of the timeline
LETTERS = {
    "closed": "C", "reset": "R", "broken pipe": "P", "time-out": "T", "slow": "S",
    "no connection": "N", "refused": "F", "other": "O",
}  # fmt: skip


def figures(cells: pd.DataFrame, store: Store) -> dict[str, Figure]:
    """By name: those that these cells allow."""
    known = measured(cells)
    found, each = combinations(known, store), bursts(known)
    drawn = {
        "idle_matrix": _draw_matrix,
        "idle_timeline": _draw_timeline,
        "idle_first_commands": _draw_fates,
        "idle_server": _draw_server,
    }
    return {
        name: drawn[name](known, found, each, store, title)
        for name, title in findings_of(known, found, each).items()
    }


# The matrix


def _draw_matrix(
    known: pd.DataFrame, found: pd.DataFrame, each: pd.DataFrame, store: Store, title: str
) -> Figure:
    rows = [arm for arm in MATRIX if (found["arm"] == arm).any()]
    traps = [trap for trap in TRAPS if (found["trap"] == trap).any()]
    figure, (axes,) = new_figure(title, size=(12.0, 1.6 + 0.36 * len(rows)))
    for (y, arm), (x, trap) in product(enumerate(rows), enumerate(traps)):
        tried = (found["arm"] == arm) & (found["trap"] == trap)
        _draw_square(axes, x, y, part(found, arm, trap), "invalid" if tried.any() else "–")
    axes.set_xlim(-0.5, len(traps) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(traps)), [_trap_label(trap) for trap in traps])
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    scale = float(known["scale"].max()) if len(known) else math.nan
    letters = ", ".join(f"{letter} {name}" for name, letter in LETTERS.items())
    footnote(
        figure,
        "Share of requests after a gap that failed: with an error, without a connection, or slow "
        f"(more than {SLOW:g} × the healthy p99); and what most failures were: {letters}. – not "
        f"measured. Times are those of the world, run {scale:g} × shorter. "
        f"{not_run(store.manifest, NAME)}",
    )
    return figure


def _trap_label(trap: str) -> str:
    words = trap.split(" ", 1)
    time = f"\n{si(TRAPS[trap], 's')}" if TRAPS[trap] else ""  # type: ignore[index]
    return "\n".join(words) + time


def _draw_square(axes: Axes, x: int, y: int, own: pd.DataFrame, lacking: str) -> None:
    if own.empty:
        axes.text(x, y, lacking, ha="center", va="center", color=MUTED, fontsize=8.5)
        return
    share = float((own["failed"] + own["slow"]).sum() / own["requests"].sum())
    face = SHADES(min(1.0, share) ** 0.5) if share else GROUND
    axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=face, edgecolor="none"))
    worst = str(own.sort_values("share")["worst"].iloc[-1])
    text = f"{si(share, 'share')} {LETTERS[worst]}" if share else "0"
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5,
              color="white" if share > 0.5 else INK,
              fontweight="normal" if share else "bold")  # fmt: skip


# The timeline


def _draw_timeline(
    known: pd.DataFrame, found: pd.DataFrame, each: pd.DataFrame, store: Store, title: str
) -> Figure:
    figure, panels = new_figure(title, 3, 2, size=(13.0, 7.6))
    lanes = [(arm, known[known["keep_requests"] & (known["arm"] == arm)]) for arm in (NONE, FIX)]
    seen: set[str] = set()
    for column, (arm, own) in enumerate(lanes):
        top, middle, low = panels[column], panels[2 + column], panels[4 + column]
        panel_title(top, _lane_title(arm, own))
        if own.empty:
            continue
        row = own.iloc[0]
        start, kinds = _draw_requests(top, row, store)
        seen |= kinds
        _draw_dashboard(middle, low, row, store, start)
    for axes in panels[:4]:
        axes.set_xticklabels([])
    _share_axes(panels)
    handles: list[Artist] = [
        Patch(facecolor=colour, hatch=hatch, edgecolor=GROUND, label=name)
        for name, (colour, hatch) in OUTCOME_LOOKS.items()
        if name in seen
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    scale = float(known["scale"].max()) if len(known) else math.nan
    footnote(
        figure,
        f"A server of its own for each; {si(BUCKET_S, 's')} a bar. Time runs {scale:g} × as fast "
        "as in the world: the gap stands for "
        f"{si(scale * float(known[known['keep_requests']]['gap_s'].max()), 's')}. CPU is of one "
        "core.",
    )
    return figure


def _lane_title(arm: str, own: pd.DataFrame) -> str:
    if own.empty:
        return f"{arm}: not measured"
    return f"{arm}: a pool of {int(own['pool_size'].iloc[0]):,}, {own['trap'].iloc[0]}"


def _draw_requests(axes: Axes, row: Any, store: Store) -> tuple[float, set[str]]:
    """Requests by when they ended and how; returns the lane's begin, and the outcomes seen."""
    requests = store.requests(row["cell"], row["block"], row["attempt"])
    start = float(requests["intended_s"].min()) - 1.0
    at = requests["done_s"] - start
    edges = np.arange(0.0, float(at.max()) + 2 * BUCKET_S, BUCKET_S)
    base = np.zeros(len(edges) - 1)
    for name, (colour, hatch) in OUTCOME_LOOKS.items():
        counts, _ = np.histogram(at[requests["outcome"] == name], edges)
        some = counts > 0
        if some.any():
            axes.bar(edges[:-1][some], counts[some], BUCKET_S, bottom=base[some], align="edge",
                     color=colour, hatch=hatch, edgecolor=GROUND, lw=0)  # fmt: skip
            base += counts
    axes.set_ylabel(f"requests\nper {si(BUCKET_S, 's')}")
    return start, set(requests["outcome"])


def _draw_dashboard(cpu: Axes, clients: Axes, row: Any, store: Store, start: float) -> None:
    series = store.series()
    own = series[(series["cell"] == row["cell"]) & (series["block"] == row["block"])]
    own = own[own["attempt"] == row["attempt"]].sort_values("at_s")
    at = own["at_s"].to_numpy(float) - start
    used = own["server_cpu_s"].to_numpy(float)
    cpu.step(at[1:], np.diff(used) / np.diff(at), where="pre", color=INK)
    clients.step(at, own["server_connections"], where="post", color=INK)
    linear_axis(cpu.yaxis, "share", "server CPU")
    clients.set_ylabel("connected clients")
    clients.set_xlabel("time, s")
    peak = float(own["server_connections"].max())
    clients.annotate(
        f"at most {peak:,.0f}: {si(peak / REDIS_MAXCLIENTS, 'share')} of maxclients",
        (0.98, 0.5), xycoords="axes fraction", ha="right", fontsize=8.5, color=MUTED,
        **OVER_LINES,
    )  # fmt: skip


def _share_axes(panels: list[Axes]) -> None:
    """The same span everywhere, and the same scale in each row."""
    right = max(axes.get_xlim()[1] for axes in panels)
    for axes in panels:
        axes.set_xlim(0, right)
    for row in range(3):
        pair = panels[2 * row : 2 * row + 2]
        top = max(axes.get_ylim()[1] for axes in pair)
        for axes in pair:
            axes.set_ylim(0, top)
    for axes in panels[2:4]:
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))


# First commands


def _draw_fates(
    known: pd.DataFrame, found: pd.DataFrame, each: pd.DataFrame, store: Store, title: str
) -> Figure:
    traps = [trap for trap in TRAPS if len(part(found, NONE, trap))]
    figure, (first, retried) = new_figure(title, 1, 2, size=(13.0, 1.8 + 0.34 * len(traps)))
    panel_title(first, "no retry: the first command on a connection that was idle")
    panel_title(retried, "redis-py's retries: what became of the request")
    for place, trap in enumerate(traps):
        _draw_bar(first, place, fates(found, trap))
        _draw_bar(retried, place, _ends(part(found, "retries", trap)))
    for axes in (first, retried):
        axes.set_yticks(range(len(traps)), list(traps))
        axes.set_ylim(len(traps) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1)
    retried.set_yticklabels([])
    linear_axis(first.xaxis, "share", "share of first commands")
    linear_axis(retried.xaxis, "share", "share of requests")
    shown = {*_kinds(found, traps)}
    handles: list[Artist] = [
        Patch(facecolor=colour, hatch=hatch, edgecolor=GROUND, label=name)
        for name, (colour, hatch) in OUTCOME_LOOKS.items()
        if name in shown
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    footnote(
        figure,
        "“closed”: the reply was the end of the stream (FIN); “reset”: ECONNRESET; “broken pipe”: "
        "EPIPE; “time-out”: silence until the socket's time-out. Slow: answered, but later than "
        f"{SLOW:g} × the healthy p99. {not_run(store.manifest, NAME)}",
    )
    return figure


def _kinds(found: pd.DataFrame, traps: Sequence[str]) -> list[str]:
    told = [fates(found, trap) for trap in traps]
    told += [_ends(part(found, "retries", trap)) for trap in traps]
    return [name for each in told for name, count in each.items() if count]


def _ends(own: pd.DataFrame) -> dict[str, int]:
    """What became of the requests: of the answered ones, the slow apart."""
    if own.empty:
        return {}
    failed, slow = int(own["failed"].sum()), int(own["slow"].sum())
    retried = max(0, int(own["retried"].sum()) - slow)
    told = {
        "ok": int(own["requests"].sum()) - failed - slow - retried,
        "ok after retry": retried,
        "slow": slow,
    }
    return told | ({str(own["worst"].iloc[0]): failed} if failed else {})


def _draw_bar(axes: Axes, place: int, told: dict[str, int]) -> None:
    total, left = sum(told.values()), 0.0
    for name, (colour, hatch) in OUTCOME_LOOKS.items():
        if told.get(name):
            width = told[name] / total
            axes.barh(place, width, 0.62, left=left, color=colour, hatch=hatch, edgecolor=GROUND,
                      lw=0)  # fmt: skip
            left += width


# The server


def _draw_server(
    known: pd.DataFrame, found: pd.DataFrame, each: pd.DataFrame, store: Store, title: str
) -> Figure:
    figure, (axes,) = new_figure(title, size=(11.0, 3.6))
    rows = {
        "a burst on dead connections ÷ on fresh ones": during_before(each),
        "with the full fix ÷ healthy": fix_ratios(each),
        "with a PING on each borrow ÷ healthy": fix_ratios(each, "ping"),
    }
    for place, (_, ratios) in enumerate(rows.items()):
        axes.plot(ratios, [place] * len(ratios), "o", color=MUTED, alpha=0.6, markersize=5)
        if ratios:
            axes.plot([float(np.median(ratios))], [place], "D", color=INK, markersize=7)
    axes.axvline(1.0, color=MUTED, lw=1)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    linear_axis(axes.xaxis, "count", "server CPU per request offered, ratio")
    axes.set_xlim(0, max(2.0, axes.get_xlim()[1]))
    footnote(
        figure,
        "Dots: one lane (first row) or one trap (others); diamonds: their median. At the same "
        "offered rate. Openings of connections and PINGs are in it.",
    )
    return figure
