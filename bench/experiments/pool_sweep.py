"""Pool sweep: what pools of 5 to 5000 connections do at every concurrency, closed loop.

A pool of N at round trip R carries at most N/R. It can show that limit only where N/R stays below
what generator, link and server carry together, so larger pools need longer round trips. Where the
pool holds at least as many connections as there are users it cannot bind: those cells are one
band, measured through one large pool.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.knee import fit_hinge
from bench.analysis.replicates import (
    APPARATUS,
    REPLICATES_NEEDED,
    SAME,
    evidence,
    is_known,
    last_attempts,
    median_of,
    paired_ratio,
    points,
    replicates_in,
)
from bench.analysis.sentences import as_factor, counted, why_undecided
from bench.analysis.statistics import TICK_S, samples_needed
from bench.figures import audit
from bench.figures.axes import linear_axis, log_axis
from bench.figures.cells import draw_line, draw_pool_sizes, small_print
from bench.figures.curves import ceiling, label_ends
from bench.figures.sheet import new_figure, panel_title
from bench.figures.style import MUTED, NEUTRAL, OVER_LINES, VARIANTS, Style, pool_style
from bench.figures.units import Unit, digits, si
from bench.model import Cell, Estimate, Opening, Order, Plan, Profile, Verdict, Workload
from bench.store import derived

NAME = "pool_sweep"
QUESTION = "What do pools of 5 to 5000 connections do to throughput, waiting and cost?"
CLAIMS: dict[str, str] = {}  # it shows; others decide

POOL_SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
CONCURRENCIES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
RTTS_S = (0.0, 0.001, 0.010, 0.050)
FIFO_FROM = 500
LARGEST = POOL_SIZES[-1]
# One load on every pool, for latency and cost against pool size: light enough that the pool, not
# the rig, is what differs, and heavy enough for small pools to bind.
SAME_USERS, SAME_RTT_S = 100, 0.010

# The largest pool whose limit N/RTT lies within reach of a two-core rig, per round trip.
BINDING_UP_TO = {0.001: 20, 0.010: 200, 0.050: 2000}

CARRIED_QPS = 15_000.0  # what a two-core rig carries through the link, on a slow day
SHORTEST_S: dict[Profile, float] = {"smoke": 0.4, "standard": 0.35, "full": 1.0}
REPLICATES: dict[Profile, int] = {"smoke": 1, "standard": 3, "full": 5}


def plan(profile: Profile, workload: Workload, workers: int) -> Plan:
    """The cells of `profile`, without repeats. The grid is per worker; users add up over all."""
    build = {"smoke": _smoke, "standard": _standard, "full": _full}[profile]
    cells = dict.fromkeys(
        Cell(
            experiment=NAME,
            pool_size=pool,
            concurrency=users * workers,
            rtt_s=rtt,
            opening=opening,
            order=order,
            workers=workers,
            workload=workload,
            warmup_s=round(max(0.1, 1.2 * turn_s(pool, users, rtt, workers)), 3),
            measure_s=round(max(SHORTEST_S[profile], 5.2 * turn_s(pool, users, rtt, workers)), 3),
        )
        for pool, users, rtt, opening, order in build()
    )
    return Plan(tuple(cells), REPLICATES[profile])


Point = tuple[int, int, float, Opening, Order]


def _smoke() -> Iterator[Point]:
    yield from _not_binding(0.050, (5, 20, 100, 500, 2000))
    yield from _binding(0.050, (5, 20, 100, 500), times=(1, 2))
    yield from _not_binding(0.001, (50, 200), pool=200)
    yield from _binding(0.001, (5, 20), times=(1, 2))
    yield from _not_binding(0.0, (10, 50), pool=50)
    yield from _one_load((5, 20, 100, 500, 5000), fifo=(5000,), lazy=(5000,))


def _standard() -> Iterator[Point]:
    yield from _not_binding(0.050, (10, 100, 2000, 5000))
    yield from _binding(0.050, POOL_SIZES[:8], times=(1, 2))
    yield from _not_binding(0.001, (1, 50, 200), pool=200)
    yield from _binding(0.001, (5, 10, 20), times=(1, 2))
    yield from _not_binding(0.010, (10,))
    yield from _not_binding(0.0, (1, 10, 50), pool=50)
    yield from _binding(0.0, (5,), times=(2,))
    yield from _one_load(POOL_SIZES, fifo=(500, 5000), lazy=(5000,))


def _full() -> Iterator[Point]:
    for rtt in RTTS_S:
        yield from _not_binding(rtt, CONCURRENCIES)
    for rtt, largest in BINDING_UP_TO.items():
        pools = tuple(pool for pool in POOL_SIZES if pool <= largest)
        yield from _binding(rtt, pools, times=(1, 2, 4, 10))
    yield from _binding(0.0, (5, 10, 20), times=(2, 10))
    fifo = tuple(pool for pool in POOL_SIZES if pool >= FIFO_FROM)
    yield from _one_load(POOL_SIZES, fifo, lazy=POOL_SIZES)
    for pool, users, rtt in product(POOL_SIZES, (10, 50), (0.0, 0.001)):
        yield pool, users, rtt, "lazy", "lifo"
        if pool >= FIFO_FROM:
            yield pool, users, rtt, "prefilled", "fifo"


def _one_load(
    pools: tuple[int, ...], fifo: tuple[int, ...], lazy: tuple[int, ...]
) -> Iterator[Point]:
    load = SAME_USERS, SAME_RTT_S
    yield from ((pool, *load, "prefilled", "lifo") for pool in pools)
    yield from ((pool, *load, "prefilled", "fifo") for pool in fifo)
    yield from ((pool, *load, "lazy", "lifo") for pool in lazy)


def _not_binding(rtt: float, users: tuple[int, ...], pool: int = LARGEST) -> Iterator[Point]:
    yield from ((pool, count, rtt, "prefilled", "lifo") for count in users)


def _binding(rtt: float, pools: tuple[int, ...], times: tuple[int, ...]) -> Iterator[Point]:
    for pool, factor in product(pools, times):
        yield pool, min(pool * factor, CONCURRENCIES[-1]), rtt, "prefilled", "lifo"


def turn_s(pool: int, users: int, rtt: float, workers: int) -> float:
    """How long the pool, or failing that the rig, needs to serve every user once, in seconds.

    The window holds at least five turns (rule 7), and the warm-up one.
    """
    carried = users * workers / CARRIED_QPS if rtt else 0.0
    return max(rtt, rtt * users / pool, carried)


# What a sentence may rest on

OWN_SIZE = 1.25  # a knee whose interval keeps within this factor of the pool's size is at its size


@derived
def findings(cells: pd.DataFrame, store: object) -> dict[str, str]:
    """What the data say, a sentence for each figure: its title. Nothing where there are none."""
    last = last_attempts(cells)
    if last.empty:
        return {}
    return {
        "concurrency_qps": _knee_finding(last),
        "latency_pool_size": _latency_finding(last),
        "cost_pool_size": _cost_finding(last),
        "little_audit": audit.finding(last),
    }


def _pooled(cells: pd.DataFrame) -> pd.DataFrame:
    """The sweep proper, with the connections of all workers together."""
    chosen = cells[(cells["opening"] == "prefilled") & (cells["order"] == "lifo")]
    return chosen.assign(connections=chosen["pool_size"] * chosen["workers"])


# Where each curve flattens


class Curve(NamedTuple):
    """One pool at one round trip; `knee` is in multiples of the connections, NaN where none."""

    rtt_s: float
    pool_size: int
    knee: Estimate
    verdict: Literal["own size", "elsewhere", "undecided"]
    method: str


@derived
def curves(cells: pd.DataFrame) -> list[Curve]:
    """Every pool that had more users than connections, and where its rate stops rising.

    The knee is the hinge (rule 9) through the pool's own cells and, up to its size, those of all
    pools that do not bind there. Where these are too few levels, it is where the pool's rate would
    meet the one that pools which do not bind reached with the same users.
    """
    sweep = _pooled(last_attempts(cells))
    sweep = sweep[sweep["rtt_s"] > 0]
    full = sweep[sweep["concurrency"] > sweep["connections"]]
    return [
        _curve(sweep[sweep["rtt_s"] == rtt], rtt, pool)
        for rtt, pool in sorted(set(zip(full["rtt_s"], full["pool_size"], strict=True)))
    ]


def _curve(cells: pd.DataFrame, rtt: float, pool: int) -> Curve:
    full = cells["concurrency"] > cells["connections"]
    all_own = cells[(cells["pool_size"] == pool) & full]
    own, free = evidence(all_own), evidence(cells[~full])
    if replicates_in(own) < REPLICATES_NEEDED:
        return Curve(rtt, pool, NO_KNEE, "undecided", why_undecided(all_own))
    connections = int(own["connections"].iloc[0])
    knee, method = _knee(own, free[free["concurrency"] <= connections], free)
    value, low, high = (end / connections for end in (knee.value, knee.low, knee.high))
    relative = Estimate(value, low, high, "pool sizes", knee.n, knee.warnings)
    return Curve(rtt, pool, relative, _place(relative), method)


NO_KNEE = Estimate(math.nan, math.nan, math.nan, "pool sizes", 0)
LEVELS_NEEDED = 4  # of concurrency, for a hinge


def _knee(own: pd.DataFrame, rising: pd.DataFrame, free: pd.DataFrame) -> tuple[Estimate, str]:
    line = pd.concat([rising, own])
    if line["concurrency"].nunique() >= LEVELS_NEEDED:
        return fit_hinge(line["concurrency"], line["qps"]).knee, "hinge"
    return _met(own, free), "beside pools that do not bind"


def _met(own: pd.DataFrame, free: pd.DataFrame) -> Estimate:
    """The users at which a rate that rises as the free one did would meet the pool's."""
    users = own["concurrency"].min()
    pool, others = (cells[cells["concurrency"] == users] for cells in (own, free))
    ratio = paired_ratio(pool, others, "qps")
    value, low, high = (users * part for part in (ratio.value, ratio.low, ratio.high))
    return Estimate(value, low, high, "users", ratio.n, ratio.warnings)


def _place(knee: Estimate) -> Literal["own size", "elsewhere", "undecided"]:
    if knee.low > OWN_SIZE or knee.high < 1 / OWN_SIZE:
        return "elsewhere"
    if knee.low >= 1 / OWN_SIZE and knee.high <= OWN_SIZE:
        return "own size"
    return "undecided"


def _knee_finding(cells: pd.DataFrame) -> str:
    found = curves(cells)
    own = [curve for curve in found if curve.verdict == "own size"]
    other = [curve for curve in found if curve.verdict == "elsewhere"]
    decided, left = len(own) + len(other), len(found) - len(own) - len(other)
    rest = f"; {left} of {len(found)} curves undecided" if left else ""
    if not decided:
        sweep = _pooled(cells)
        return f"Where pools flatten is undecided: {why_undecided(sweep[sweep['rtt_s'] > 0])}"
    if not own:
        return f"Pool size does not set the plateau: none of {decided} curves flattens there{rest}"
    if not other:
        named = _named(own, found)
        return f"Pools flatten at their own size, {named}: {_knees(own)}{rest}"
    return (
        f"{len(own)} of {decided} curves flatten at their pool's size: {_knees(own)}; "
        f"not so pool {_named(other, found)}{rest}"
    )


def _named(chosen: list[Curve], among: list[Curve]) -> str:
    """'5–20 at 10 ms, 5 and 50 at 50 ms': a range only where it leaves nobody out."""
    return ", ".join(
        f"{_listed(_sizes(chosen, rtt), _sizes(among, rtt))} at {si(rtt, 's')}"
        for rtt in sorted({curve.rtt_s for curve in chosen})
    )


def _sizes(curves_: list[Curve], rtt: float) -> list[int]:
    return [curve.pool_size for curve in curves_ if curve.rtt_s == rtt]


def _listed(sizes: list[int], among: list[int]) -> str:
    between = [size for size in among if min(sizes) <= size <= max(sizes)]
    if len(sizes) > 2 and sizes == between:
        return f"{sizes[0]}–{sizes[-1]}"
    *first, last = map(str, sizes)
    return f"{', '.join(first)} and {last}" if first else last


def _knees(own: list[Curve]) -> str:
    values = _span([curve.knee.value for curve in own], ".2f")
    doubt = _span([end for curve in own for end in (curve.knee.low, curve.knee.high)], ".2f")
    return f"{counted(len(own), 'knee')} at {values} × pool size (95 % intervals within {doubt})"


def _span(values: Sequence[float], digits: str) -> str:
    low, high = (format(end, digits) for end in (min(values), max(values)))
    return low if low == high else f"{low}–{high}"


# Latency against pool size, one load on every pool


AT_SAME_LOAD = f"{SAME_USERS} users, RTT {si(SAME_RTT_S, 's')}"


def _same_load(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of the one load that every pool serves, however opened and handed out."""
    users = SAME_USERS * cells["workers"]
    return cells[(cells["rtt_s"] == SAME_RTT_S) & (cells["concurrency"] == users)]


def _sized(cells: pd.DataFrame, size: int) -> pd.DataFrame:
    return cells[cells["pool_size"] == size]


class Ends(NamedTuple):
    """The smallest pool, the smallest that holds a connection for each user, and the largest."""

    small: int
    enough: int
    large: int


def _ends(cells: pd.DataFrame, users: int) -> Ends | None:
    sizes = sorted(cells["pool_size"].unique())
    enough = sorted(cells[cells["connections"] >= users]["pool_size"].unique())
    return Ends(int(sizes[0]), int(enough[0]), int(sizes[-1])) if enough else None


def _latency_finding(cells: pd.DataFrame) -> str:
    load = _same_load(_pooled(cells))
    at = AT_SAME_LOAD
    ends = _ends(load[load["valid"]], SAME_USERS)
    if ends is None:
        return f"Latency against pool size is undecided ({at}): {why_undecided(load)}"
    known = evidence(load)
    enough = _sized(known, ends.enough)
    short = paired_ratio(_sized(known, ends.small), enough, "latency_p50_s")
    large = paired_ratio(_sized(known, ends.large), enough, "latency_p50_s")
    if not is_known(short) and not is_known(large):
        return f"Latency against pool size is undecided ({at}): {why_undecided(load)}"
    return f"{_short_pool(short, ends)}; {_large_pool(large, ends)} ({at})"


def _short_pool(ratio: Estimate, ends: Ends) -> str:
    if not is_known(ratio):
        return f"What a pool of {ends.small} costs is undecided"
    if ratio.low > SAME:
        return (
            f"p50 latency with a pool of {ends.small} is {as_factor(ratio)} that with {ends.enough}"
        )
    verb = "is no slower" if ratio.high < SAME else "is not shown to be slower"
    return f"A pool of {ends.small} {verb} than one of {ends.enough}: p50 {as_factor(ratio)}"


def _large_pool(ratio: Estimate, ends: Ends) -> str:
    if not is_known(ratio):
        return f"beyond {ends.enough} undecided"
    if ratio.high < 1 / SAME:
        return f"{ends.large} lowers it to {as_factor(ratio)}"
    if ratio.low > SAME:
        return f"{ends.large} raises it to {as_factor(ratio)}"
    even = ratio.low >= 1 / SAME and ratio.high <= SAME
    return (
        f"{ends.large} {'changes nothing' if even else 'shows no difference'}: {as_factor(ratio)}"
    )


# Cost against pool size, the same load


def _cost_finding(cells: pd.DataFrame) -> str:
    lifo = _same_load(_pooled(cells))
    ends = _ends(lifo[lifo["valid"]], SAME_USERS)
    if ends is None:
        return f"The cost of large pools is undecided: {why_undecided(lifo)}"
    valid = lifo[lifo["valid"]]
    large, enough = (_sized(valid, size) for size in (ends.large, ends.enough))
    seen = (
        "" if replicates_in(valid) >= REPLICATES_NEEDED else "Too few replicates for a conclusion. "
    )
    return f"{seen}{_held_said(large, enough, ends)}. {_cpu_said(lifo, ends)}"


def _held_said(large: pd.DataFrame, enough: pd.DataFrame, ends: Ends) -> str:
    held = [
        (median_of(pool, "client_fds_peak"), median_of(pool, "server_client_memory_bytes"))
        for pool in (large, enough)
    ]
    verb = "holds" if held[0][0] > SAME * held[1][0] else "holds no more than it needs:"
    (fds, memory), (few, little) = held
    return (
        f"For {SAME_USERS} users a pool of {ends.large} {verb} {si(fds, 'count')} client "
        f"descriptors and, just filled, {si(memory, 'bytes')} of server memory; one of "
        f"{ends.enough} holds {si(few, 'count')} and {si(little, 'bytes')}"
    )


def _cpu_said(lifo: pd.DataFrame, ends: Ends) -> str:
    known = evidence(lifo)
    ratio = paired_ratio(
        _sized(known, ends.large), _sized(known, ends.enough), "server_cpu_us_per_op"
    )
    return f"Server CPU per operation: {as_factor(ratio) if is_known(ratio) else 'undecided'}"


# Figures


def figures(cells: pd.DataFrame, store: object) -> dict[str, Figure]:
    """Every plot by name, its finding as its title. `cells` may hold several attempts at a cell;
    they say all: what else the run has in `store` is not needed.
    """
    last = last_attempts(cells)
    titles = findings(last, store)
    draw = {
        "concurrency_qps": _draw_concurrency,
        "latency_pool_size": _draw_latency,
        "cost_pool_size": _draw_cost,
        "little_audit": audit.draw,
    }
    return {name: draw[name](last, titles[name]) for name in titles}


def _draw_concurrency(cells: pd.DataFrame, title: str) -> Figure:
    sweep = _pooled(cells)
    rtts = sorted(sweep["rtt_s"].unique())
    figure, panels = new_figure(title, 1, max(len(rtts), 1), size=(4.5 * max(len(rtts), 2), 6.0))
    for axes, rtt in zip(panels, rtts, strict=False):
        _draw_round_trip(axes, sweep[sweep["rtt_s"] == rtt], float(rtt))
    _same_scales(panels, sweep)
    for axes, rtt in zip(panels, rtts, strict=False):
        _name_limits(axes, sweep[sweep["rtt_s"] == rtt])
    small_print(
        figure,
        sweep,
        "Labels: pool size per worker, then what limits the rightmost point. Dashed: pool ÷ round "
        "trip. Grey band: all pools with at least as many connections as users.",
    )
    return figure


LABELS = 0.78  # of a panel's width is for the data, the rest for what names them


def _draw_round_trip(axes: Axes, cells: pd.DataFrame, rtt: float) -> None:
    panel_title(axes, f"RTT {si(rtt, 's')}")
    low, high = cells["concurrency"].min() / 1.4, cells["concurrency"].max() * 1.2
    axes.set_xlim(low, low * (high / low) ** (1 / LABELS))
    _draw_band(axes, cells[cells["concurrency"] <= cells["connections"]])
    for pool in _full_pools(cells):
        own = cells[(cells["pool_size"] == pool) & (cells["concurrency"] >= cells["connections"])]
        if rtt:
            _draw_allowed(axes, pool_style(pool), own, rtt)
        draw_line(axes, pool_style(pool), own, "concurrency", "qps")
    _draw_ceiling(axes, cells)


def _draw_allowed(axes: Axes, style: Style, own: pd.DataFrame, rtt: float) -> None:
    """What theory allows the pool, pool size ÷ round trip."""
    connections, users = int(own["connections"].iloc[0]), own["concurrency"].max()
    axes.hlines(connections / rtt, connections, 3 * users, linestyle="--", color=style.colour,
                linewidth=0.7, zorder=1)  # fmt: skip


def _full_pools(cells: pd.DataFrame) -> list[int]:
    """Pools that had more users than connections."""
    return sorted(cells[cells["concurrency"] > cells["connections"]]["pool_size"].unique())


def _draw_band(axes: Axes, free: pd.DataFrame) -> None:
    band = points(free, ["concurrency"], "qps")
    axes.fill_between(band["concurrency"], band["low"], band["high"], color=MUTED, alpha=0.2, lw=0)
    draw_line(axes, NEUTRAL, free, "concurrency", "qps")


def _ceiling_of(cells: pd.DataFrame) -> Ceiling | None:
    """What the rig carries: known where it, and not a pool, ended the highest rate, and where that
    is clearly less than the most users without a binding pool would bring an unloaded rig."""
    top = points(cells, ["pool_size", "concurrency"], "qps").nlargest(1, "median")
    if not top["hollow"].any():
        return None
    best = top.iloc[0]
    most = cells[cells["concurrency"] <= cells["connections"]]["concurrency"].max()
    if not best["median"] <= NO_LONGER_RISING * most / median_of(cells, "unloaded_s"):
        return None
    bound = cells[cells["valid"] & cells["bound_by"].isin(APPARATUS)]
    return Ceiling(best["median"], bound["qps"].max(), best["bound_by"], best["concurrency"])


NO_LONGER_RISING = 0.75


class Ceiling(NamedTuple):
    """From the best cell's median to the highest single rate; what limits it; its users."""

    low: float
    high: float
    limit: str
    users: int


def _draw_ceiling(axes: Axes, cells: pd.DataFrame) -> None:
    if found := _ceiling_of(cells):
        middle = math.sqrt(cells["concurrency"].min() * cells["concurrency"].max())
        in_the_way = found.users < max(middle, SAME_USERS)
        ceiling(axes, found.low, found.high, f"limit: {found.limit}", right=in_the_way)


def _same_scales(panels: list[Axes], cells: pd.DataFrame) -> None:
    """One scale of rates for all round trips: their plateaus are there to be compared."""
    rates = cells["qps"]
    for axes in panels:
        if len(cells):
            axes.set_ylim(rates.min() / 1.5, rates.max() * 1.6)
        log_axis(axes.xaxis, "count", "users")
        log_axis(axes.yaxis, "/s", "")
    panels[0].set_ylabel("requests per second")


def _name_limits(axes: Axes, cells: pd.DataFrame) -> None:
    free = cells[cells["concurrency"] <= cells["connections"]]
    lines = [(f"{pool}: ", pool_style(pool), cells[cells["pool_size"] == pool])
             for pool in _full_pools(cells)]  # fmt: skip
    if not _ceiling_of(cells):  # else that names the band's limit
        lines.append(("", NEUTRAL, free))
    ends = [_end(name, style, own) for name, style, own in lines]
    band = points(free, ["concurrency"], "qps")
    label_ends(
        axes, [end for end in ends if end], zip(band["concurrency"], band["median"], strict=True)
    )
    _name_band(axes, band, _ceiling_of(cells))


def _name_band(axes: Axes, band: pd.DataFrame, top: Ceiling | None) -> None:
    """Right of its first point, below the line, where no pool has one: none is left where even that
    is near the ceiling, whose name stands there."""
    clear = band if top is None else band[band["high"] < top.low / 2]
    if clear.empty:
        return
    at = clear.iloc[0]
    axes.annotate("pool not binding", (at["concurrency"], at["low"]), (8, -7),
                  textcoords="offset points", fontsize=8.5, color=MUTED, **OVER_LINES)  # fmt: skip


def _end(name: str, style: Style, cells: pd.DataFrame) -> tuple[float, float, str, Style] | None:
    line = points(cells, ["concurrency"], "qps")
    if line.empty:
        return None
    last = line.iloc[-1]
    return float(last["concurrency"]), float(last["median"]), f"{name}{last['bound_by']}", style


def _draw_latency(cells: pd.DataFrame, title: str) -> Figure:
    load = _same_load(_pooled(cells))
    figure, (latency, wait) = new_figure(title, 1, 2, size=(11.0, 5.4))
    panel_title(latency, f"latency, {AT_SAME_LOAD}")
    panel_title(wait, "of that, the wait for a connection (below 1 µs drawn at 1 µs)")
    waits = {
        column: load[column].clip(lower=TICK_S) for column in ("acquire_p50_s", "acquire_p99_s")
    }
    _draw_p50_p99(latency, load, "latency")
    _draw_p50_p99(wait, load.assign(**waits), "acquire")
    small_print(
        figure,
        load,
        f"{'Title: ratios paired within blocks, with 95 % intervals. ' if '×' in title else ''}"
        f"Dotted: as many connections as users ({SAME_USERS}). A p99 of fewer than "
        f"{samples_needed(0.99)} requests is left blank.",
    )
    return figure


def _draw_p50_p99(axes: Axes, cells: pd.DataFrame, kind: str) -> None:
    draw_pool_sizes(axes, cells, f"{kind}_p50_s")
    draw_pool_sizes(axes, cells, f"{kind}_p99_s", dashed=True)
    log_axis(axes.xaxis, "count", "pool size")
    log_axis(axes.yaxis, "s", "")
    axes.axvline(SAME_USERS, color=MUTED, linewidth=0.8, linestyle=":")
    names = {f"{kind}_p50_s": "p50", f"{kind}_p99_s": "p99"}
    label_ends(axes, _ends_of(cells, names))


def _ends_of(cells: pd.DataFrame, names: dict[str, str]) -> list[tuple[float, float, str, Style]]:
    """Where the lines of these columns end, against pool size."""
    lines = [(points(cells, ["pool_size"], column), name) for column, name in names.items()]
    return [
        (float(line["pool_size"].iloc[-1]), float(line["median"].iloc[-1]), name, NEUTRAL)
        for line, name in lines
        if len(line)
    ]


COSTS: tuple[tuple[str, str, Unit], ...] = (
    ("client_fds_peak", "descriptors of the client", "count"),
    ("link_fds_peak", "descriptors of the link", "count"),
    ("server_fds_peak", "descriptors of the server", "count"),
    ("server_client_memory_bytes", "server's memory for clients", "bytes"),
    ("server_cpu_s_per_op", "server CPU per operation", "s"),
    ("client_cpu_s_per_op", "client CPU per operation", "s"),
)
PER_OPERATION = ("server_cpu_s_per_op", "client_cpu_s_per_op")


def _draw_cost(cells: pd.DataFrame, title: str) -> Figure:
    load = _in_seconds(_same_load(cells))
    figure, panels = new_figure(title, 2, 4, size=(13.5, 7.2))
    for axes, (column, what, unit) in zip(panels, COSTS, strict=False):
        _draw_variants(axes, load, column)
        axes.axvline(SAME_USERS, color=MUTED, linewidth=0.8, linestyle=":")
        log_axis(axes.xaxis, "count", "pool size")
        axes.margins(y=0.1)
        (linear_axis if column in PER_OPERATION else log_axis)(axes.yaxis, unit, "")
        panel_title(axes, what)
    _draw_idle_memory(panels[-2], cells)
    _variant_legend(panels[-1])
    small_print(
        figure,
        load,
        f"{AT_SAME_LOAD} on every pool; dotted: as many connections as users. Smaller pools serve "
        "fewer requests. Last panel: connections that do nothing at all, from a block's begin.",
    )
    return figure


YOUNG_S, SETTLED_S = 2.0, 15.0  # rule 8: the server takes back a new connection's buffers by then


def _draw_idle_memory(axes: Axes, cells: pd.DataFrame) -> None:
    known = cells.dropna(subset=["idle_connection_memory_bytes"])
    axes.plot(known["idle_connection_age_s"], known["idle_connection_memory_bytes"],
              NEUTRAL.marker, color=NEUTRAL.colour, alpha=0.5)  # fmt: skip
    panel_title(axes, "server's memory for an idle connection")
    linear_axis(axes.xaxis, "s", "idle for")
    log_axis(axes.yaxis, "bytes", "")


def _in_seconds(cells: pd.DataFrame) -> pd.DataFrame:
    parts = ("server", "client")
    return cells.assign(**{f"{p}_cpu_s_per_op": cells[f"{p}_cpu_us_per_op"] * 1e-6 for p in parts})


def _draw_variants(axes: Axes, cells: pd.DataFrame, column: str) -> None:
    for (opening, order), style in VARIANTS.items():
        chosen = cells[(cells["opening"] == opening) & (cells["order"] == order)]
        draw_line(axes, style, chosen, "pool_size", column)


def _variant_legend(axes: Axes) -> None:
    axes.set_axis_off()
    handles = [
        Line2D([], [], color=style.colour, marker=style.marker, label=f"{opening}, {order.upper()}")
        for (opening, order), style in VARIANTS.items()
    ]
    axes.legend(
        handles=handles, loc="center", title="connections opened, handed out", frameon=False
    )


# Prose: what a reader should see, its numbers from the cells


def prose(cells: pd.DataFrame, store: object) -> dict[str, str]:
    """A paragraph of Markdown below each figure."""
    last = last_attempts(cells)
    if last.empty:
        return {}
    return {
        "concurrency_qps": _concurrency_prose(last),
        "latency_pool_size": _latency_prose(last),
        "cost_pool_size": _cost_prose(last),
        "little_audit": audit.prose(last),
    }


def _concurrency_prose(cells: pd.DataFrame) -> str:
    found = curves(cells)
    counts = {verdict: sum(curve.verdict == verdict for curve in found)
              for verdict in ("own size", "elsewhere", "undecided")}  # fmt: skip
    sweep = _pooled(cells)
    known = len(evidence(sweep[sweep["rtt_s"] > 0]))
    said = [_carried(at_rtt, float(rtt)) for rtt, at_rtt in sweep.groupby("rtt_s") if rtt > 0]
    return (
        "The grey line holds every cell with at least as many connections as users: there a pool "
        "cannot bind. Each coloured line is a pool with more users than connections; dashed is "
        "what theory allows it, pool size ÷ round trip. "
        f"Of {counted(len(found), 'curve')}: flat at the pool's own size (an interval within a "
        f"factor of {OWN_SIZE}) {counts['own size']}, elsewhere {counts['elsewhere']}, undecided "
        f"{counts['undecided']}. Neither invalid nor bound by the rig are {known} of "
        f"{counted(int((sweep['rtt_s'] > 0).sum()), 'cell')}; only those decide. "
        f"{' '.join(said)} {_spread_said(cells)}The table gives each knee with its interval."
    )


def _spread_said(cells: pd.DataFrame) -> str:
    """How far replicates of the same cell lie apart: the machine's own unrest."""
    rates = cells[cells["valid"]].groupby("cell")["qps"]
    apart = (rates.max() / rates.min())[rates.count() > 1]
    if apart.empty:
        return ""
    return (
        f"Replicates of a cell differ by a factor of {apart.median():.2f} in the median and "
        f"{apart.max():.2f} at most. "
    )


def _carried(cells: pd.DataFrame, rtt: float) -> str:
    at = f"At {si(rtt, 's')}"
    if found := _ceiling_of(cells):
        return f"{at} this rig carries {si(found.low, '/s')}, limited by: {found.limit}."
    return f"{at} the rig's own ceiling was not reached."


def _latency_prose(cells: pd.DataFrame) -> str:
    load = _same_load(_pooled(cells))
    valid = load[load["valid"]]
    ends = _ends(valid, SAME_USERS)
    if ends is None:
        return f"Nothing to read here: {why_undecided(load)}."
    small, enough, large = (_sized(valid, size) for size in ends)
    return (
        f"Every pool serves the same {SAME_USERS} users at {si(SAME_RTT_S, 's')}; right of the "
        f"dotted line it holds a connection for each. The median latency is {_p50(small)} with "
        f"{ends.small} connections, {_p50(enough)} with {ends.enough} and {_p50(large)} with "
        f"{ends.large}. Of that, the right panel shows the wait for a connection: "
        f"{_p50(small, 'acquire')} at {ends.small}, {_p50(enough, 'acquire')} at {ends.enough}, "
        f"where {_empty(enough)} of the requests found none free (at {ends.small}: "
        f"{_empty(small)}). A closed loop slows down with its server: callers that arrive "
        "whatever happens would wait longer."
    )


def _empty(cells: pd.DataFrame) -> str:
    return si(median_of(cells, "pool_empty_share"), "share")


def _p50(cells: pd.DataFrame, kind: str = "latency") -> str:
    value = median_of(cells, f"{kind}_p50_s")
    return "less than 1 µs" if value < TICK_S else si(value, "s")


def _cost_prose(cells: pd.DataFrame) -> str:
    load = _same_load(cells)
    valid = load[load["valid"]]
    if valid.empty:
        return f"Nothing to read here: {why_undecided(load)}."
    largest = _sized(_pooled(valid), valid["pool_size"].max())
    bound = int(valid["bound_by"].isin(APPARATUS).sum())
    link = si(median_of(largest, "link_fds_peak"), "count")
    return (
        f"{SAME_USERS} users use at most {SAME_USERS} connections at once; whatever else a "
        "prefilled pool holds is idle but open, on every hop. The link, as any middlebox that "
        f"ends connections, holds two descriptors for each: {link} at the largest pool."
        f"{_lazy_said(valid)}{_fifo_said(valid)}{_idle_said(cells)} CPU per operation is drawn as "
        f"measured; {bound} of these {counted(len(valid), 'cell')} are bound by the rig, and those "
        "decide nothing about a pool."
    )


def _lazy_said(valid: pd.DataFrame) -> str:
    lazy = valid[valid["opening"] == "lazy"]
    if lazy.empty:
        return ""
    size = int(lazy["pool_size"].max())
    held = si(median_of(_sized(lazy, size), "client_fds_peak"), "count")
    return f" A lazy pool of {size} held {held} in the client."


def _fifo_said(valid: pd.DataFrame) -> str:
    """What handing out in turn costs beside the last one first, at the largest pool."""
    chosen = _sized(valid[valid["opening"] == "prefilled"], LARGEST)
    fifo, lifo = (chosen[chosen["order"] == order] for order in ("fifo", "lifo"))
    memory = paired_ratio(fifo, lifo, "server_client_memory_bytes")
    if not is_known(memory):
        return ""
    even = ", no difference shown" if memory.low <= 1 <= memory.high else ""
    known = evidence(chosen)
    fifo, lifo = (known[known["order"] == order] for order in ("fifo", "lifo"))
    cpu = paired_ratio(fifo, lifo, "client_cpu_us_per_op")
    spent = f" and {as_factor(cpu)} the client CPU per operation" if is_known(cpu) else ""
    return (
        f" Handed out in turn (FIFO), {LARGEST} connections take {as_factor(memory)} the server "
        f"memory of as many handed out last in, first out{even}{spent}."
    )


def _idle_said(cells: pd.DataFrame) -> str:
    """What an idle connection holds when young and when settled (rule 8 of the methods)."""
    known = cells.dropna(subset=["idle_connection_memory_bytes"])
    young = known[known["idle_connection_age_s"] < YOUNG_S]
    settled = known[known["idle_connection_age_s"] >= SETTLED_S]
    if young.empty or settled.empty:
        return ""
    first, last = (median_of(ages, "idle_connection_memory_bytes") for ages in (young, settled))
    so = ": a pool measured right after it was filled looks dearer than it stays"
    return (
        f" A connection that has just been opened holds {si(first, 'bytes')} in the server, one "
        f"that has been idle for {SETTLED_S:g} s or more {si(last, 'bytes')}"
        f"{so if first > SAME * last else ''}."
    )


def claims(cells: pd.DataFrame, store: object) -> list[Verdict]:
    """None: the sweep shows curves; experiments that hold the rate decide what they mean."""
    return []


# Tables


KEY = ["rtt_s", "pool_size", "opening", "order", "concurrency"]


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """What each pool carried at best, per round trip; medians over replicates."""
    last = last_attempts(cells)
    medians = (
        last[last["valid"]]
        .groupby(KEY, as_index=False)
        .agg(
            qps=("qps", "median"),
            p50=("latency_p50_s", "median"),
            p99=("latency_p99_s", "median"),
            wait_p99=("acquire_p99_s", "median"),
            bound_by=("bound_by", lambda names: names.mode()[0]),
        )
    )
    ranked = medians.sort_values("qps", ascending=False).drop_duplicates(KEY[:-1])
    best = ranked.sort_values(KEY[:-1])
    return pd.DataFrame(
        {
            "RTT ms": (best["rtt_s"] * 1e3).astype(int),
            "pool": best["pool_size"],
            "opening": best["opening"],
            "order": best["order"],
            "users": best["concurrency"],
            "QPS": best["qps"].round().astype(int),
            "p50 ms": best["p50"].map(_milliseconds),
            "p99 ms": best["p99"].map(_milliseconds),
            "wait p99 ms": best["wait_p99"].map(_milliseconds),
            "bound by": best["bound_by"],
        }
    )


def _milliseconds(seconds: float) -> float:
    return digits(1e3 * seconds)


def knee_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Each curve's knee in multiples of the pool size, its 95 % interval, and what it says."""
    return pd.DataFrame(
        {
            "RTT ms": curve.rtt_s * 1e3,
            "pool": curve.pool_size,
            "knee ÷ size": round(curve.knee.value, 3),
            "from": round(curve.knee.low, 3),
            "to": round(curve.knee.high, 3),
            "flattens at": curve.verdict,
            "how, or why not": curve.method,
        }
        for curve in curves(cells)
    )
