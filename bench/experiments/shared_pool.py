"""Sharing: does a pool per process cost more, or less, than a pooler that the processes share?

One, two and four workers take the same arrivals in all. Each has a pool of its own, and connects
with it to the server, or to a pooler beside the workers (Envoy, twemproxy), behind which lies the
network. A pooler spares connections to the server and is one more program in every request's way.
What else sharing means is looked at too: whether all are served alike, what one worker's burst does
to its neighbour, and what a restart of the pooler does to both. A client that multiplexes all of a
process's requests over one connection (valkey-glide, in threads) is the third way.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bench.analysis.replicates import (
    evidence,
    is_known,
    last_attempts,
    median_of,
    paired_ratios,
    replicates_in,
)
from bench.analysis.sentences import as_factor, counted, not_run, why_undecided
from bench.analysis.statistics import (
    Equivalence,
    equivalence,
    log_t_interval,
    same_within,
    t_interval,
)
from bench.figures.axes import linear_axis
from bench.figures.sheet import footnote, new_figure, panel_title
from bench.figures.style import CLIENTS, GROUND, INK, MUTED, VIAS, Style, marker
from bench.figures.units import digits, si
from bench.model import (
    Arrivals,
    Cell,
    Estimate,
    Outage,
    Outcome,
    Plan,
    Profile,
    Region,
    Verdict,
    Via,
    Workload,
)
from bench.store import Store, derived

NAME = "shared_pool"
NOTEBOOK = "sharing"
QUESTION = "Does a pooler that processes share cost more than it saves?"
CLAIMS = {
    "C7": "A pool per process is right: sharing one across processes adds a layer that costs more "
    "than it saves",
}

WAYS: tuple[Via, ...] = ("direct", "envoy", "twemproxy")
POOLERS: tuple[Via, ...] = ("envoy", "twemproxy")
WORKERS = (1, 2, 4)
MANY, PAIR = WORKERS[-1], WORKERS[1]
POOL, CARRIERS = 10, 20  # of each worker
BURST_POOL = 20  # no burst is to wait for its own pool: what it does to the neighbour is looked at
RATE_QPS = 3_000.0  # of all together: what two cores carry with time to spare, poolers and all
RTT_S, MODERATION_S = 0.001, 0.1e-3
BURST = Arrivals("bursty", peak_to_mean=5.0, period_s=0.1, lone=True)
AWAY_S, AWAY_AT = 0.1, 0.3  # a pooler that is restarted: for how long, when in its window
GLIDE_THREADS = 30
REPLICATES: dict[Profile, int] = {"smoke": 1, "standard": 4, "full": 6}
WARMUP_S = 0.1
WINDOW_S: dict[Profile, float] = {"smoke": 0.15, "standard": 0.4, "full": 3.0}
RESTART_S: dict[Profile, float] = {"smoke": 0.4, "standard": 0.7, "full": 3.0}
EQUAL, BURSTING, RESTART, GLIDE = "equal", "burst", "restart", "glide"


def plan(profile: Profile, workload: Workload, workers: int) -> Plan:
    """As many workers as the question asks for, however many the run has."""
    cells = [_cell(EQUAL, via, k, profile, workload) for via, k in product(WAYS, WORKERS)]
    if profile == "smoke":
        cells = [cell for cell in cells if cell.workers == PAIR]
    cells += [_cell(BURSTING, via, PAIR, profile, workload) for via in WAYS]
    cells += [_cell(RESTART, via, PAIR, profile, workload) for via in POOLERS]
    return Plan((*cells, _glide_cell(profile, workload)), REPLICATES[profile])


def _cell(arm: str, via: Via, workers: int, profile: Profile, workload: Workload) -> Cell:
    """Poolers speak protocol 2 alone, so all do."""
    restarts, pool = arm == RESTART, BURST_POOL if arm == BURSTING else POOL
    return Cell(
        NAME, pool, CARRIERS * workers, rtt_s=RTT_S, moderation_s=MODERATION_S, loop="open",
        offered_qps=RATE_QPS, arrivals=BURST if arm == BURSTING else Arrivals(), resp=2,
        workers=workers, via=via, workload=workload, warmup_s=WARMUP_S,
        measure_s=(RESTART_S if restarts else WINDOW_S)[profile],
        outage=_restart(profile) if restarts else None,
        keep_requests=restarts, quiet=arm == EQUAL, arm=arm,
    )  # fmt: skip


def _restart(profile: Profile) -> Outage:
    return Outage("pooler restart", AWAY_AT * RESTART_S[profile], AWAY_S)


def _glide_cell(profile: Profile, workload: Workload) -> Cell:
    return Cell(
        NAME, 1, GLIDE_THREADS, rtt_s=RTT_S, moderation_s=MODERATION_S, loop="open",
        offered_qps=RATE_QPS, arrivals=Arrivals(), resp=2, client="glide", workload=workload,
        warmup_s=WARMUP_S, measure_s=WINDOW_S[profile], quiet=True, arm=GLIDE,
    )  # fmt: skip


# What was measured

PARTS = {
    "client": ("client_cpu_us_per_op", ""),
    "pooler": ("proxy_cpu_us_per_op", "xxx"),
    "server": ("server_cpu_us_per_op", "///"),
}


@derived
def measured(cells: pd.DataFrame) -> pd.DataFrame:
    """The last attempts, with the CPU of all parts per operation but for the link's, which is the
    network; how evenly the workers were served; and what the second worker, the neighbour, met."""
    last = last_attempts(cells)
    absent = last["via"] == "direct"
    proxy_us = last["proxy_cpu_us_per_op"].astype(float).mask(absent, 0.0)
    return last.assign(
        all_us=last["client_cpu_us_per_op"].astype(float)
        + last["server_cpu_us_per_op"].astype(float)
        + proxy_us,
        fairness=[fairness([pod["qps"] for pod in pods]) for pods in last["pods"]],
        neighbour_p50_s=[_of_neighbour(pods, "latency_p50_s") for pods in last["pods"]],
        neighbour_mean_s=[_of_neighbour(pods, "latency_mean_s") for pods in last["pods"]],
    )


def fairness(rates: list[float]) -> float:
    """Jain's index (Jain, Chiu and Hawe, 1984): 1 where all get the same, 1/n where one gets all;
    NaN where nobody got anything."""
    squares = sum(rate * rate for rate in rates)
    return sum(rates) ** 2 / (len(rates) * squares) if squares else math.nan


def _of_neighbour(pods: Any, name: str) -> float:
    told = [pod[name] for pod in pods if pod["worker"] == 1]
    return math.nan if not told or told[0] is None else float(told[0])


def part(known: pd.DataFrame, arm: str, via: str, workers: int) -> pd.DataFrame:
    """One cell's replicates."""
    own = (known["arm"] == arm) & (known["via"] == via)
    return known[own & (known["workers"] == workers)]


def fit(known: pd.DataFrame, arm: str, via: str, workers: int) -> pd.DataFrame:
    """Those that are evidence."""
    return evidence(part(known, arm, via, workers))


def beside_direct(known: pd.DataFrame, via: str, workers: int, column: str) -> Estimate:
    """Through the pooler ÷ direct, paired within blocks."""
    return log_t_interval(_ratios(known, via, workers, column), unit="×")


def _ratios(known: pd.DataFrame, via: str, workers: int, column: str) -> list[float]:
    shared, direct = (fit(known, EQUAL, each, workers) for each in (via, "direct"))
    return paired_ratios(shared, direct, column)


def saved(known: pd.DataFrame, via: str, workers: int) -> float:
    """Connections to the server that the pooler spares."""
    shared, direct = (
        median_of(part(known, EQUAL, each, workers), "server_connections_peak")
        for each in (via, "direct")
    )
    return direct - shared


class BreakEven(NamedTuple):
    """By how many µs per operation the pooler's way costs more with each further worker (negative:
    less), and the number of workers at which, were it to go on so, both cost the same."""

    slope: Estimate
    workers: float


def break_even(known: pd.DataFrame, via: str) -> BreakEven:
    """A line through the differences of summed CPU at each number of workers, by block. NaN where
    the difference does not shrink beyond doubt: then none is in sight."""
    differences = pd.DataFrame(
        {
            k: fit(known, EQUAL, via, k).groupby("block")["all_us"].median()
            - fit(known, EQUAL, "direct", k).groupby("block")["all_us"].median()
            for k in WORKERS
        }
    ).dropna()
    lines = [np.polyfit(WORKERS, row.to_numpy(float), 1) for _, row in differences.iterrows()]
    slope = t_interval([float(line[0]) for line in lines], "µs per worker")
    if not is_known(slope) or slope.high >= 0:
        return BreakEven(slope, math.nan)
    mean = differences.mean().to_numpy(float)
    tilt, base = np.polyfit(WORKERS, mean, 1)
    return BreakEven(slope, float(-base / tilt))


def gap_s(requests: pd.DataFrame, worker: int, until_s: float) -> float:
    """The longest time in which no request of this worker was answered, from the first answer to
    the window's end, `until_s`: a pooler may not be back by then."""
    done_s = np.sort(requests.loc[requests["worker"] == worker, "done_s"].to_numpy(float))
    within = done_s[done_s < until_s]
    return float(np.diff(np.append(within, until_s)).max()) if within.size else math.nan


class Away(NamedTuple):
    """What a restart of the pooler did to each worker: requests that failed, of those scheduled,
    and the longest time without an answer."""

    errors: tuple[int, ...]
    scheduled: tuple[int, ...]
    gaps_s: tuple[float, ...]


def outages(known: pd.DataFrame, store: Store, via: str) -> list[Away]:
    """By replicate."""
    own = part(known, RESTART, via, PAIR)[_ASKED]  # a row of all columns takes ten times as long
    return [_outage(row, store) for row in own.itertuples() if not row.workers_lost]


_ASKED = ["cell", "block", "attempt", "pods", "measured_s", "workers_lost"]


def _outage(row: Any, store: Store) -> Away:
    requests = store.requests(row.cell, row.block, row.attempt)
    return Away(
        tuple(int(pod["errors"]) for pod in row.pods),
        tuple(int(pod["scheduled"] or 0) for pod in row.pods),
        tuple(gap_s(requests, int(pod["worker"]), row.measured_s) for pod in row.pods),
    )


# Claims

MARGIN = 0.05
RULE = (
    f"at {RATE_QPS:,.0f}/s in all, Poisson, every core at most 60 % busy, RTT {si(RTT_S, 's')}, "
    f"pooler beside the workers, {MANY} workers: through the pooler ÷ direct, paired within "
    "blocks. Supported: the 95 % interval lies above 1; refuted: below 1, or equivalent within "
    f"±{MARGIN:.0%} (two one-sided tests)"
)
JUDGED = {"CPU of client, pooler and server per operation": "all_us", "p99": "latency_p99_s"}


def claims(cells: pd.DataFrame, store: Store) -> list[Verdict]:
    """C7 in its parts: for each pooler what it costs in CPU, and in latency."""
    known = measured(cells)
    parts = product(POOLERS, JUDGED)
    names = ("C7", "C7b", "C7c", "C7d")
    return [
        _judge(known, store, claim, via, what)
        for claim, (via, what) in zip(names, parts, strict=True)
    ]


def _judge(known: pd.DataFrame, store: Store, claim: str, via: Via, what: str) -> Verdict:
    ratios = _ratios(known, via, MANY, JUDGED[what])
    found, same = log_t_interval(ratios, unit="×"), equivalence(ratios, MARGIN)
    own = pd.concat([part(known, EQUAL, each, k) for each in (via, "direct") for k in WORKERS])
    said = (
        f"{as_factor(found)}; {saved(known, via, MANY):.0f} connections to the server saved; "
        f"{_break_even_said(known, via)}"
    )
    return Verdict(
        claim,
        f"Sharing a pooler ({via}) among {MANY} processes costs more than a pool for each: {what}",
        RULE,
        outcome_of(found, same),
        said if is_known(found) else _why(known, store, via),
        {"shared ÷ direct": found, "CPU difference per worker": break_even(known, via).slope},
        tuple(own["cell"].unique()),
        {"shared ÷ direct": Region(low=1.0)},
        {"shared ÷ direct": Region(high=1.0) if found.value < 1 - MARGIN else same_within(MARGIN)},
    )


def outcome_of(found: Estimate, same: Equivalence) -> Outcome:
    """By the rule above."""
    if not is_known(found):
        return "undecided"
    if found.low > 1:
        return "supported"
    return "refuted" if found.high < 1 or same.equivalent else "undecided"


def _why(known: pd.DataFrame, store: Store, via: str) -> str:
    ways = {via: part(known, EQUAL, via, MANY), "direct": part(known, EQUAL, "direct", MANY)}
    short = [f"{name}: {why_undecided(cells)}" for name, cells in ways.items()]
    return "; ".join(filter(None, [*short, not_run(store.manifest, NAME)]))


def _break_even_said(known: pd.DataFrame, via: str) -> str:
    found = break_even(known, via)
    if not is_known(found.slope):
        return "no line through the numbers of workers"
    tilt = f"{found.slope.value:+.2g} µs ({found.slope.low:+.2g} to {found.slope.high:+.2g})"
    if math.isnan(found.workers):
        return f"no break-even in sight: the difference changes by {tilt} a worker"
    return (
        f"the difference shrinks by {tilt} a worker: the same at about {found.workers:.0f} "
        f"workers, if it goes on so beyond the {MANY} measured"
    )


# Tables


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """Each cell; medians over the last attempts in each block."""
    known = measured(cells)
    grouped = known.groupby(["arm", "client", "via", "workers"], sort=True)
    return pd.DataFrame(
        {
            "part": arm,
            "way": client if client == GLIDE else via,
            "workers": workers,
            "client µs": digits(median_of(own, "client_cpu_us_per_op")),
            "pooler µs": digits(median_of(own, "proxy_cpu_us_per_op")),
            "server µs": digits(median_of(own, "server_cpu_us_per_op")),
            "all µs": digits(own["all_us"].median()),
            "p50 ms": digits(1e3 * median_of(own, "latency_p50_s")),
            "p99 ms": digits(1e3 * median_of(own, "latency_p99_s")),
            "server connections": round(own["server_connections_peak"].median()),
            "fairness": round(own["fairness"].median(), 4),
            "errors": round(own["errors"].median()),
            "busiest core %": digits(100 * median_of(own, "core_busy_max")),
            "bound by": own["bound_by"].mode()[0],
            "valid": f"{int(own['valid'].sum())} of {len(own)}",
        }
        for (arm, client, via, workers), own in grouped
    )


# What the figures say


def findings(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A sentence for each figure that these cells allow: its title."""
    return _findings(measured(cells), store)


@derived
def _findings(known: pd.DataFrame, store: Store) -> dict[str, str]:
    said = {}
    if known["arm"].isin([EQUAL, GLIDE]).any():
        said["sharing_cost"] = _cost_finding(known)
    if known["arm"].isin([BURSTING, RESTART]).any():
        said["sharing_neighbours"] = _neighbours_finding(known, store)
    return said


def _cost_finding(known: pd.DataFrame) -> str:
    said = []
    for via in POOLERS:
        cpu, p99 = (beside_direct(known, via, MANY, name) for name in ("all_us", "latency_p99_s"))
        if is_known(cpu) and is_known(p99):
            said.append(f"{via} {as_factor(cpu)} the CPU, p99 {as_factor(p99)}")
        else:
            said.append(f"{via} undecided")
    return f"{MANY} workers share a pooler, against a pool each: {'; '.join(said)}"


def _neighbours_finding(known: pd.DataFrame, store: Store) -> str:
    bursts = [
        f"{via} {as_factor(ratio)}" for via in WAYS if is_known(ratio := _burst_ratio(known, via))
    ]
    down = [
        f"{via} {si(median, 's')}"
        for via in POOLERS
        if not math.isnan(median := _gap_median(known, store, via))
    ]
    return (
        f"A neighbour's mean latency while one worker bursts: {', '.join(bursts) or 'undecided'}; "
        f"without an answer when the pooler restarts: {', '.join(down) or 'not measured'}"
    )


def _burst_ratio(known: pd.DataFrame, via: str) -> Estimate:
    """The neighbour's mean latency with the burst beside it ÷ without."""
    burst, calm = (part(known, arm, via, PAIR).query("valid") for arm in (BURSTING, EQUAL))
    return log_t_interval(paired_ratios(burst, calm, "neighbour_mean_s"), unit="×")


def _gap_median(known: pd.DataFrame, store: Store, via: str) -> float:
    gaps = [gap for each in outages(known, store, via) for gap in each.gaps_s]
    return float(np.median(gaps)) if gaps else math.nan


# Figures


def figures(cells: pd.DataFrame, store: Store) -> dict[str, Figure]:
    """Each finding with its picture."""
    known = measured(cells)
    draw = {"sharing_cost": _draw_cost, "sharing_neighbours": _draw_neighbours}
    return {name: draw[name](known, store, title)
            for name, title in _findings(known, store).items()}  # fmt: skip


class Row(NamedTuple):
    """One bar: its name, its look and its cell's replicates."""

    name: str
    style: Style
    own: pd.DataFrame


def _rows(known: pd.DataFrame) -> list[Row]:
    made = [
        Row(f"{via}, {counted(k, 'worker')}", VIAS[via], part(known, EQUAL, via, k))
        for k in WORKERS
        for via in WAYS
    ]
    made.append(Row("glide, 1 process", CLIENTS["glide"], part(known, GLIDE, "direct", 1)))
    return [row for row in made if len(row.own)]


def _draw_cost(known: pd.DataFrame, store: Store, title: str) -> Figure:
    figure, (costs, waits, connections) = new_figure(title, 1, 3, size=(14.0, 5.4))
    rows = _rows(known)
    panel_title(costs, "CPU per operation, the link's left out")
    panel_title(waits, "latency p50 and p99")
    panel_title(connections, "connections that the server holds")
    for place, row in enumerate(rows):
        _draw_parts(costs, place, row)
        _draw_latency(waits, place, row)
    for axes in (costs, waits):
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
    waits.set_yticklabels([])
    linear_axis(costs.xaxis, "s", "CPU per operation")
    linear_axis(waits.xaxis, "s", "latency")
    _draw_connections(connections, known)
    handles: list[Artist] = [
        Patch(facecolor=MUTED, edgecolor=GROUND, hatch=hatch, label=name)
        for name, (_, hatch) in PARTS.items()
    ]
    handles += [
        Line2D([], [], linestyle="", label="p50", **marker(Style(MUTED, "o"), hollow=True)),
        Line2D([], [], linestyle="", label="p99", **marker(Style(MUTED, "o"))),
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    invalid = int((~known["valid"].astype(bool)).sum())
    left = f" Invalid, and left out: {invalid} of {len(known)} measurements." if invalid else ""
    footnote(
        figure,
        f"{si(RATE_QPS, '/s')} in all, Poisson, RTT {si(RTT_S, 's')}, a pool of {POOL} for each "
        f"worker. Medians over replicates, dots: each one's sum.{left} "
        f"{not_run(store.manifest, NAME)}",
    )
    return figure


def _draw_parts(axes: Axes, place: int, row: Row) -> None:
    own = row.own[row.own["valid"].astype(bool)]
    if own.empty:
        axes.annotate("no evidence", (0, place), (4, 0), textcoords="offset points", va="center",
                      fontsize=8.5, color=MUTED)  # fmt: skip
        return
    left = 0.0
    for column, hatch in PARTS.values():
        width = 1e-6 * median_of(own, column)
        if not math.isnan(width):
            axes.barh(place, width, 0.6, left=left, color=row.style.colour, hatch=hatch,
                      edgecolor=GROUND, lw=0)  # fmt: skip
            left += width
    axes.plot(1e-6 * own["all_us"], [place] * len(own), ".", color=INK, markersize=4)


def _draw_latency(axes: Axes, place: int, row: Row) -> None:
    own = row.own[row.own["valid"].astype(bool)]
    for column, hollow in (("latency_p50_s", True), ("latency_p99_s", False)):
        values = own[column].astype(float).dropna()
        if len(values):
            axes.hlines(place, values.min(), values.max(), color=row.style.colour, zorder=2)
            axes.plot([values.median()], [place], linestyle="", zorder=3,
                      **marker(row.style, hollow=hollow))  # fmt: skip


def _draw_connections(axes: Axes, known: pd.DataFrame) -> None:
    for via in WAYS:
        told = {k: median_of(part(known, EQUAL, via, k), "server_connections_peak")
                for k in WORKERS}  # fmt: skip
        axes.plot(list(told), list(told.values()), color=VIAS[via].colour, label=via,
                  marker=VIAS[via].marker)  # fmt: skip
    axes.set_xticks(WORKERS, [str(k) for k in WORKERS])
    axes.set_xlabel("workers")
    linear_axis(axes.yaxis, "count", "connections, the suite's own included")
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
    axes.legend(loc="upper left", frameon=False)


def _draw_neighbours(known: pd.DataFrame, store: Store, title: str) -> Figure:
    figure, (bursts, gaps, errors) = new_figure(title, 1, 3, size=(13.0, 4.4))
    panel_title(bursts, "the neighbour's mean latency")
    panel_title(gaps, f"the pooler is away for {si(AWAY_S, 's')} and starts")
    panel_title(errors, "requests that failed meanwhile")
    for place, (via, arm) in enumerate(product(WAYS, (EQUAL, BURSTING))):
        values = part(known, arm, via, PAIR).query("valid")["neighbour_mean_s"].dropna()
        bursts.plot(values, [place] * len(values), linestyle="",
                    **marker(VIAS[via], hollow=arm == EQUAL))  # fmt: skip
    names = [f"{via}, {'calm' if arm == EQUAL else 'burst'}"
             for via, arm in product(WAYS, (EQUAL, BURSTING))]  # fmt: skip
    bursts.set_yticks(range(len(names)), names)
    bursts.set_ylim(len(names) - 0.4, -0.6)
    linear_axis(bursts.xaxis, "s", "mean latency of the worker that does not burst")
    bursts.set_xlim(right=1.06 * bursts.get_xlim()[1])
    for place, (via, worker) in enumerate(product(POOLERS, range(PAIR))):
        told = outages(known, store, via)
        look: dict[str, Any] = {"linestyle": "", **marker(VIAS[via])}
        gaps.plot([each.gaps_s[worker] for each in told], [place] * len(told), **look)
        shares = [each.errors[worker] / max(1, each.scheduled[worker]) for each in told]
        errors.plot(shares, [place] * len(told), **look)
    labels = [f"{via}, worker {worker + 1}" for via, worker in product(POOLERS, range(PAIR))]
    for axes in (gaps, errors):
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
    errors.set_yticklabels([])
    for axes in (gaps, errors):
        axes.margins(x=0.1)
    linear_axis(gaps.xaxis, "s", "longest time without an answer")
    linear_axis(errors.xaxis, "share", "share of the window's requests")
    footnote(
        figure,
        f"{counted(PAIR, 'worker')}, dots: replicates. In a burst the first worker's requests come "
        f"{BURST.peak_to_mean:g} times as fast for a part of each {si(BURST.period_s, 's')}, at "
        "the same mean; the second's as ever. Direct, there is nothing to restart but the server. "
        f"{not_run(store.manifest, NAME)}",
    )
    return figure


# Prose


def prose(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A paragraph of Markdown below each figure."""
    known = measured(cells)
    told = {"sharing_cost": _cost_prose, "sharing_neighbours": _neighbours_prose}
    return {name: told[name](known, store) for name in _findings(known, store)}


def _cost_prose(known: pd.DataFrame, store: Store) -> str:
    lines = [
        f"{via}: {saved(known, via, MANY):.0f} connections saved with {MANY} workers, "
        f"{_break_even_said(known, via)}"
        for via in POOLERS
        if len(part(known, EQUAL, via, MANY))
    ]
    return (
        "Neither pooler lends connections: both multiplex, and send all workers' commands over few "
        "connections of their own (Envoy's redis_proxy: one for each of its threads). What needs a "
        "connection of its own, as a blocking command does, is not for them. "
        f"{'; '.join(lines) or 'No pooler was measured'}. {_fair_said(known)}{_glide_said(known)}"
    )


def _fair_said(known: pd.DataFrame) -> str:
    said = [
        f"{via} {index:.4f}"
        for via in WAYS
        if not math.isnan(index := median_of(part(known, EQUAL, via, MANY), "fairness"))
    ]
    return f"Jain's index of what {MANY} workers got: {', '.join(said)}. " if said else ""


def _glide_said(known: pd.DataFrame) -> str:
    glide, direct = part(known, GLIDE, "direct", 1), part(known, EQUAL, "direct", 1)
    ratio = log_t_interval(paired_ratios(evidence(glide), evidence(direct), "all_us"))
    if not is_known(ratio):
        return ""
    return (
        f"valkey-glide, with one connection for all threads of a process, takes "
        f"{as_factor(ratio)} the CPU of the lean client's pool, at a p99 of "
        f"{si(median_of(glide, 'latency_p99_s'), 's')} against "
        f"{si(median_of(direct, 'latency_p99_s'), 's')}: another client in another kind of "
        "process, so what it shows is that the way works, not what multiplexing costs by itself. "
    )


def _neighbours_prose(known: pd.DataFrame, store: Store) -> str:
    failed = [
        f"{via}: {_failed_said(outages(known, store, via))}"
        for via in POOLERS
        if outages(known, store, via)
    ]
    return (
        "A burst of one worker reaches its neighbour through what both share: the server, the "
        "network and this machine's cores, and the pooler where there is one. "
        f"{'; '.join(failed) or 'No restart was measured'}. "
        f"Replicates: {replicates_in(known)}."
    )


def _failed_said(told: list[Away]) -> str:
    shares = [
        float(np.median([each.errors[worker] / max(1, each.scheduled[worker]) for each in told]))
        for worker in range(PAIR)
    ]
    gaps = [gap for each in told for gap in each.gaps_s]
    return (
        f"a restart failed {' and '.join(si(share, 'share') for share in shares)} of the "
        f"workers' requests in the window (medians of each), and the longest silence was "
        f"{si(max(gaps), 's')}"
    )
