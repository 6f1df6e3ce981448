"""Pipelining, and dividing a load among connections: what does one connection carry, and what do
more of them cost?

One connection whose user sends many commands at once before it waits for their replies; beside it
ten connections with a tenth of that each. And one rate of single commands, over one connection, two
or ten: with connections that stay, and with connections that are reopened all the time, whose cost
is so told per connection opened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.replicates import (
    REPLICATES_NEEDED,
    is_known,
    last_attempts,
    limit_of,
    median_of,
    paired_ratios,
    points,
    replicates_in,
)
from bench.analysis.sentences import as_factor, counted, why_undecided
from bench.analysis.statistics import Equivalence, differs, equivalence, log_t_interval, same_within
from bench.figures.axes import linear_axis, log_axis
from bench.figures.intervals import draw_intervals
from bench.figures.sheet import footnote, new_figure, panel_title
from bench.figures.style import GROUND, INK, MUTED, Style, marker, pool_style
from bench.figures.units import digits, si
from bench.model import (
    Arrivals,
    Cell,
    Client,
    Estimate,
    Outcome,
    Plan,
    Profile,
    Region,
    Verdict,
    Workload,
)
from bench.store import Store, derived

NAME = "pipelining"
NOTEBOOK = "connection_cost"
QUESTION = "What does one connection carry, and what do more of them cost?"
CLAIMS = {
    "C1": "One connection can pipeline many thousands of commands a second",
    "C2": "The same total rate over two connections costs more than over one, because each pays "
    "its set-up before its first useful byte",
}

DEPTH_ARM = "depth"
DEPTHS = (1, 3, 10, 30, 100, 300, 1000)
ONE, TEN = (1, 100), (10, 10)  # connections, depth: a hundred commands are out in either
Mode = Literal["steady", "reopened"]
STEADY: Mode = "steady"
REOPENED: Mode = "reopened"
TURNS = ("turn 1", "turn 2")  # a cell is measured twice a block, so that a slow moment halves
SPLITS = (1, 2, 10)  # connections that share the rate
RATE_QPS = 1_000.0
LIFETIME_S = 0.03  # so short, what an opening costs stands out of the noise
CLIENT: Client = "redis-py"  # what a service pays
CARRIERS = 20
REPLICATES: dict[Profile, int] = {"smoke": 1, "standard": 5, "full": 7}
DEPTH_S: dict[Profile, float] = {"smoke": 0.1, "standard": 0.15, "full": 1.0}
SPLIT_S: dict[Profile, float] = {"smoke": 0.15, "standard": 0.3, "full": 1.5}
WARMUP_S = 0.05


def plan(profile: Profile, workload: Workload, workers: int) -> Plan:
    """One worker, however many the run has: what is compared is one process's."""
    cells = (*_depth_cells(profile, workload), *_split_cells(profile, workload))
    return Plan(cells, REPLICATES[profile])


def _depth_cells(profile: Profile, workload: Workload) -> list[Cell]:
    """As fast as it goes."""
    depths = {"smoke": (DEPTHS[0], ONE[1]), "standard": DEPTHS[::2], "full": DEPTHS}[profile]
    asked = [*((1, depth) for depth in depths), TEN]
    return [
        Cell(NAME, connections, connections, workload=replace(workload, depth=depth),
             warmup_s=WARMUP_S, measure_s=DEPTH_S[profile], arm=DEPTH_ARM)
        for connections, depth in asked
    ]  # fmt: skip


def _split_cells(profile: Profile, workload: Workload) -> list[Cell]:
    """First come, first out: so the connections take turns, and each has its share of the rate."""
    turns = TURNS[:1] if profile == "smoke" else TURNS
    return [
        Cell(NAME, connections, CARRIERS, loop="open", offered_qps=RATE_QPS,
             arrivals=Arrivals("constant"), client=CLIENT, order="fifo", workload=workload,
             max_lifetime_s=LIFETIME_S if mode == REOPENED else None,
             warmup_s=WARMUP_S, measure_s=SPLIT_S[profile], arm=f"{mode} {turn}")
        for mode, connections, turn in product((STEADY, REOPENED), SPLITS, turns)
    ]  # fmt: skip


# What was measured

SIDES = {"client": "client_cpu_us_per_op", "server": "server_cpu_us_per_op", "both": "both_us"}


@derived
def measured(cells: pd.DataFrame) -> pd.DataFrame:
    """The last attempts, with commands per second, the CPU of both sides per command, and how many
    connections were opened in a second of the load."""
    last = last_attempts(cells)
    loaded_s = last["warmup_s"] + last["measured_s"]
    prefilled = last["pool_size"].where(last["opening"] == "prefilled", 0)
    return last.assign(
        commands_per_s=last["qps"] * last["depth"],
        both_us=last["client_cpu_us_per_op"].astype(float)
        + last["server_cpu_us_per_op"].astype(float),
        opened_per_s=(last["connections_opened"] - prefilled).clip(lower=0) / loaded_s,
        mode=last["arm"].str.split(" ").str[0],
    )


def deep(known: pd.DataFrame, connections: int, depth: int) -> pd.DataFrame:
    """The replicates of one pipeline's cell that are valid.

    A core that is full makes a rate a lower bound; CPU per command is as exact then as ever, by the
    kernel's count and the server's own, so such cells count for it.
    """
    own = (known["arm"] == DEPTH_ARM) & (known["pool_size"] == connections)
    return known[own & (known["depth"] == depth) & known["valid"].astype(bool)]


def split(known: pd.DataFrame, mode: Mode, connections: int) -> pd.DataFrame:
    """The valid replicates of one way to divide the rate, both turns."""
    own = (known["mode"] == mode) & (known["pool_size"] == connections)
    return known[own & known["valid"].astype(bool)]


def against_one(known: pd.DataFrame, mode: Mode, connections: int, side: str) -> list[float]:
    """CPU per command of so many connections ÷ that of one, at the same rate, paired in blocks."""
    many, one = (split(known, mode, each) for each in (connections, 1))
    return paired_ratios(many, one, SIDES[side])


def _interval(known: pd.DataFrame, mode: Mode, connections: int, side: str) -> Estimate:
    return log_t_interval(against_one(known, mode, connections, side), unit="×")


def setup_cpu_s(known: pd.DataFrame, connections: int) -> Estimate:
    """CPU of both sides for one connection opened, counted from its first SYN: what reopening adds
    in a second over how many were opened in it, by block."""
    parts = {}
    for mode in (STEADY, REOPENED):
        by_block = split(known, mode, connections).groupby("block")
        parts[mode] = by_block[["both_us", "qps", "opened_per_s"]].median()
    steady, again = parts[STEADY], parts[REOPENED]
    added = (again["both_us"] * again["qps"] - steady["both_us"] * steady["qps"]) * 1e-6
    each = (added / again["opened_per_s"]).dropna()
    return log_t_interval([float(value) for value in each if math.isfinite(value)], unit="s")


def pays_back_s(known: pd.DataFrame, connections: int) -> float:
    """The lifetime at which opening is `PAID` of a connection's own work: with N of them at a rate
    of λ in all and a CPU of c per command, s ÷ (share · c · λ/N)."""
    setup = setup_cpu_s(known, connections).value
    command_s = 1e-6 * median_of(split(known, STEADY, connections), "both_us")
    return setup / (PAID * command_s * RATE_QPS / connections)


PAID = 0.01

# Claims

MARGIN = 0.05
ENOUGH_PER_S = 10_000.0
C1_RULE = (
    f"{ENOUGH_PER_S:,.0f} commands/s or more on one connection (a rate that the rig bounds is a "
    f"lower bound, and will do), and the server's CPU per command of {ONE[0]} connection × depth "
    f"{ONE[1]} not above that of {TEN[0]} × depth {TEN[1]} by more than {MARGIN:.0%} (95 % "
    "interval of the ratio, paired within blocks; of full cores too, whose CPU per command is as "
    "exact). Refuted: the interval of either lies beyond"
)
C2_RULE = (
    f"CPU per command of client and server together at {RATE_QPS:,.0f}/s, {CLIENT}, paired within "
    f"blocks. Supported: with {SPLITS[1]} connections and with {SPLITS[2]} above that with one, by "
    f"95 % intervals; refuted: both equivalent within ±{MARGIN:.0%} (two one-sided tests)"
)
C2B_RULE = (
    f"the same with each connection reopened every {si(LIFETIME_S, 's')}; CPU counted from the "
    "first SYN"
)


def claims(cells: pd.DataFrame, store: Store) -> list[Verdict]:
    """C1, and C2 in its two parts."""
    known = measured(cells)
    return [_c1(known), _c2(known, STEADY), _c2(known, REOPENED)]


def _c1(known: pd.DataFrame) -> Verdict:
    one, ten = (deep(known, *each) for each in (ONE, TEN))
    rate = log_t_interval(one["commands_per_s"].tolist(), unit="/s")
    ratio = log_t_interval(paired_ratios(one, ten, SIDES["server"]), unit="×")
    reason = (
        f"{_rate_said(rate)} at depth {ONE[1]} (bound by {limit_of(one)}); server CPU per command "
        f"{as_factor(ratio)} that of {TEN[0]} × {TEN[1]}"
        if is_known(rate) and is_known(ratio)
        else why_undecided(known[(known["arm"] == DEPTH_ARM)])
    )
    return Verdict(
        "C1",
        "One connection can pipeline many thousands of commands a second, at no more server CPU "
        "than many connections",
        C1_RULE,
        c1_outcome(rate, ratio),
        reason,
        {"commands per second": rate, "server CPU, one ÷ ten": ratio},
        tuple(pd.concat([one, ten])["cell"].unique()),
        {
            "commands per second": Region(low=ENOUGH_PER_S),
            "server CPU, one ÷ ten": Region(high=1 + MARGIN),
        },
    )


def c1_outcome(rate: Estimate, ratio: Estimate) -> Outcome:
    """By the rule above."""
    if not (is_known(rate) and is_known(ratio)):
        return "undecided"
    if rate.low >= ENOUGH_PER_S and ratio.high <= 1 + MARGIN:
        return "supported"
    beyond = rate.high < ENOUGH_PER_S or ratio.low > 1 + MARGIN
    return "refuted" if beyond else "undecided"


def _rate_said(rate: Estimate) -> str:
    return f"{si(rate.value, '/s')} ({si(rate.low, '/s')}–{si(rate.high, '/s')})"


def _c2(known: pd.DataFrame, mode: Mode) -> Verdict:
    found = {n: equivalence(against_one(known, mode, n, "both"), MARGIN) for n in SPLITS[1:]}
    intervals = {f"{n} ÷ 1": _interval(known, mode, n, "both") for n in SPLITS[1:]}
    used = pd.concat([split(known, mode, n) for n in SPLITS])
    estimates: dict[str, Estimate] = dict(intervals)
    reason = _ratios_said(intervals, found)
    if mode == REOPENED:
        setups = {n: setup_cpu_s(known, n) for n in SPLITS}
        estimates |= {f"CPU per connection opened, {n}": each for n, each in setups.items()}
        reason += _setup_said(known, setups)
    if not all(map(is_known, intervals.values())):
        reason = why_undecided(used)
    return Verdict(
        "C2" if mode == STEADY else "C2b",
        f"{RATE_QPS:,.0f}/s over {SPLITS[1]} or {SPLITS[2]} connections cost more CPU than over "
        f"one: {'connections that stay' if mode == STEADY else 'connections that are reopened'}",
        C2_RULE if mode == STEADY else f"{C2_RULE}; {C2B_RULE}",
        c2_outcome(list(intervals.values()), list(found.values())),
        reason,
        estimates,
        tuple(used["cell"].unique()),
        dict.fromkeys(intervals, Region(low=1.0)),
        dict.fromkeys(intervals, same_within(MARGIN)),
        opposed_by_all=True,
    )


def c2_outcome(intervals: Sequence[Estimate], found: Sequence[Equivalence]) -> Outcome:
    """By the rule above."""
    if not all(map(is_known, intervals)):
        return "undecided"
    if all(each.low > 1 for each in intervals):
        return "supported"
    return "refuted" if all(each.equivalent for each in found) else "undecided"


def _ratios_said(intervals: dict[str, Estimate], found: dict[int, Equivalence]) -> str:
    """Each ratio; where neither a difference nor equivalence shows, how large one might be."""
    said = []
    for (name, ratio), each in zip(intervals.items(), found.values(), strict=True):
        bound = max(abs(ratio.low - 1), abs(ratio.high - 1))
        open_ = not (each.equivalent or ratio.low > 1 or ratio.high < 1)
        more = f", so a difference of up to {bound:.0%} is possible" if open_ else ""
        said.append(f"{name}: {as_factor(ratio)}{more}")
    return "; ".join(said)


def _setup_said(known: pd.DataFrame, setups: dict[int, Estimate]) -> str:
    said = [
        f"{counted(n, 'connection')} {si(each.value, 's')}, paid back at a lifetime of "
        f"{si(pays_back_s(known, n), 's')}"
        for n, each in setups.items()
        if is_known(each)
    ]
    return f"; CPU of one opening: {'; '.join(said)} ({PAID:.0%} of its own work)" if said else ""


# Tables


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """Each cell; medians over the last attempts in each block, both turns."""
    known = measured(cells)
    keys = ["mode", "pool_size", "depth"]
    return pd.DataFrame(
        {
            "part": mode,
            "connections": pool,
            "depth": depth,
            "commands /s": digits(own["commands_per_s"].median()),
            "client µs per command": digits(median_of(own, SIDES["client"])),
            "server µs per command": digits(median_of(own, SIDES["server"])),
            "opened /s": digits(own["opened_per_s"].median()),
            "p50 ms": digits(1e3 * median_of(own, "latency_p50_s")),
            "bound by": own["bound_by"].mode()[0],
            "valid": f"{int(own['valid'].sum())} of {len(own)}",
        }
        for (mode, pool, depth), own in known.groupby(keys, sort=False)
    )


# What the figures say


def findings(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A sentence for each figure that these cells allow: its title."""
    return _findings(measured(cells))


@derived
def _findings(known: pd.DataFrame) -> dict[str, str]:
    said = {}
    if (known["arm"] == DEPTH_ARM).any():
        said["pipeline_depth"] = _depth_finding(known)
    if (known["arm"] != DEPTH_ARM).any():
        said["pipeline_split"] = _split_finding(known)
    return said


def _depth_finding(known: pd.DataFrame) -> str:
    rates = {depth: median_of(deep(known, 1, depth), "commands_per_s") for depth in DEPTHS}
    told = {depth: rate for depth, rate in rates.items() if not math.isnan(rate)}
    if not told:
        return "Commands over one connection: no valid cell"
    said = "; ".join(f"{si(told[d], '/s')} at depth {d}" for d in (min(told), ONE[1]) if d in told)
    return f"One connection carries {said}{_cpu_compared(known)}"


def _cpu_compared(known: pd.DataFrame) -> str:
    ratio = log_t_interval(paired_ratios(deep(known, *ONE), deep(known, *TEN), SIDES["server"]))
    if not is_known(ratio):
        return ""
    return f", at {as_factor(ratio)} the server CPU per command of {TEN[0]} × depth {TEN[1]}"


def _split_finding(known: pd.DataFrame) -> str:
    said = [
        f"{mode} {as_factor(ratio)}"
        for mode in (STEADY, REOPENED)
        if is_known(ratio := _interval(known, mode, SPLITS[-1], "both"))
    ]
    told = "; ".join(said) or "undecided"
    return f"CPU per command over {SPLITS[-1]} connections ÷ over one, {si(RATE_QPS, '/s')}: {told}"


# Figures

FILLED = {"client": False, "server": True}


def figures(cells: pd.DataFrame, store: Store) -> dict[str, Figure]:
    """Each finding with its picture."""
    known = measured(cells)
    draw = {"pipeline_depth": _draw_depth, "pipeline_split": _draw_split}
    return {name: draw[name](known, title) for name, title in _findings(known).items()}


def _draw_depth(known: pd.DataFrame, title: str) -> Figure:
    figure, (rates, costs) = new_figure(title, 1, 2, size=(12.0, 4.8))
    own = known[known["arm"] == DEPTH_ARM]
    panel_title(rates, "as fast as it goes, RTT 0, lean client")
    panel_title(costs, "CPU per command")
    hollow = False
    for connections in (ONE[0], TEN[0]):
        cells = own[own["pool_size"] == connections]
        told = points(cells, ["depth"], "commands_per_s")
        hollow |= bool(told["hollow"].any())
        _draw_rates(rates, told, connections)
        for side in FILLED:
            _draw_costs(costs, points(cells, ["depth"], SIDES[side]), side, connections)
    for axes in (rates, costs):
        log_axis(axes.xaxis, "count", "commands sent at once (depth)")
    log_axis(rates.yaxis, "/s", "commands per second")
    log_axis(costs.yaxis, "count", "µs of CPU per command")
    _depth_legend(figure)
    footnote(figure, f"Medians over replicates, bars from least to most. {_bounds_said(own)}",
             hollow=hollow)  # fmt: skip
    return figure


def _draw_rates(axes: Axes, told: pd.DataFrame, connections: int) -> None:
    style = pool_style(connections)
    axes.plot(told["depth"], told["median"], color=style.colour, zorder=2)
    axes.vlines(told["depth"], told["low"], told["high"], color=style.colour, zorder=2)
    for point in told.itertuples():
        look = marker(style, hollow=bool(point.hollow))
        axes.plot([point.depth], [point.median], linestyle="", **look, zorder=3)


def _draw_costs(axes: Axes, told: pd.DataFrame, side: str, connections: int) -> None:
    style = pool_style(connections)
    dashes = "-" if FILLED[side] else "--"
    axes.plot(told["depth"], told["median"], dashes, color=style.colour, zorder=2)
    axes.vlines(told["depth"], told["low"], told["high"], color=style.colour, zorder=2)
    axes.plot(told["depth"], told["median"], linestyle="", **marker(style), zorder=3)


def _depth_legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], label=counted(n, "connection"), **marker(pool_style(n)))
        for n in (ONE[0], TEN[0])
    ]
    handles += [
        Line2D([], [], color=MUTED, linestyle="-" if filled else "--", label=f"CPU of the {side}")
        for side, filled in FILLED.items()
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False)


def _bounds_said(own: pd.DataFrame) -> str:
    bound = own[own["valid"].astype(bool)]["bound_by"].value_counts()
    said = ", ".join(f"{part} {count}" for part, count in bound.items())
    return f"Bound by: {said}." if said else ""


def _draw_split(known: pd.DataFrame, title: str) -> Figure:
    figure, (costs, ratios) = new_figure(title, 1, 2, size=(12.5, 4.8))
    panel_title(costs, f"{si(RATE_QPS, '/s')} in all, {CLIENT}")
    rows = [(mode, n) for mode in (STEADY, REOPENED) for n in SPLITS]
    for place, (mode, n) in enumerate(rows):
        _draw_bar(costs, place, split(known, mode, n), pool_style(n))
    costs.set_yticks(range(len(rows)), [f"{n}, {mode}" for mode, n in rows])
    costs.set_ylim(len(rows) - 0.4, -0.6)
    costs.set_ylabel("connections")
    costs.grid(axis="y", visible=False)
    linear_axis(costs.xaxis, "count", "µs of CPU per command: client, and hatched the server")
    panel_title(ratios, "CPU per command ÷ that over one connection")
    compared = [
        (f"{n}, {mode}: {side}", _interval(known, mode, n, side), pool_style(n))
        for mode in (STEADY, REOPENED)
        for n in SPLITS[1:]
        for side in SIDES
    ]
    draw_intervals(ratios, compared, expected=1.0, same=(1 - MARGIN, 1 + MARGIN))
    ends = [end for _, one, _ in compared for end in (one.low, one.high) if end > 0]
    seen = [end for end in ends if math.isfinite(end)]
    ratios.set_xlim(min([*seen, 0.9]) / 1.05, max([*seen, 1.1]) * 1.05)
    log_axis(ratios.xaxis, "count", "ratio")
    footnote(
        figure,
        f"Reopened: every {si(LIFETIME_S, 's')}. Bars: medians over replicates, dots: each. "
        f"Ratios paired within blocks, 95 % intervals; grey: ±{MARGIN:.0%}.",
    )
    return figure


def _draw_bar(axes: Axes, place: int, own: pd.DataFrame, style: Style) -> None:
    if own.empty:
        axes.annotate("no evidence", (0, place), (4, 0), textcoords="offset points", va="center",
                      fontsize=8.5, color=MUTED)  # fmt: skip
        return
    client, server = (median_of(own, SIDES[side]) for side in ("client", "server"))
    axes.barh(place, client, 0.6, color=style.colour, lw=0)
    axes.barh(place, server, 0.6, left=client, color=style.colour, hatch="///",
              edgecolor="white", lw=0)  # fmt: skip
    axes.plot(own["both_us"], [place] * len(own), "o", color=INK, markersize=4,
              markeredgecolor=GROUND, markeredgewidth=0.7)  # fmt: skip


# Prose


def prose(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A paragraph of Markdown below each figure."""
    known = measured(cells)
    told = {"pipeline_depth": _depth_prose, "pipeline_split": _split_prose}
    return {name: told[name](known) for name in _findings(known)}


def _depth_prose(known: pd.DataFrame) -> str:
    single, many = (deep(known, 1, depth) for depth in (DEPTHS[0], ONE[1]))
    saved = log_t_interval(paired_ratios(single, many, SIDES["server"]))
    spared = (
        f"A command sent alone costs the server {as_factor(saved)} as much as one among {ONE[1]}: "
        "a system call and a wake-up serve them all. "
        if is_known(saved)
        else ""
    )
    return (
        f"The replies come back in order, so nothing is coordinated. {spared}What a deeper "
        "pipeline pays is latency: the first command's reply waits for the last one's. "
        f"{_depth_latency(known)}"
    )


def _depth_latency(known: pd.DataFrame) -> str:
    said = [
        f"{si(p50, 's')} at depth {depth}"
        for depth in (DEPTHS[0], ONE[1], DEPTHS[-1])
        if not math.isnan(p50 := median_of(deep(known, 1, depth), "latency_p50_s"))
    ]
    return f"Median time of a request: {', '.join(said)}." if said else ""


def _split_prose(known: pd.DataFrame) -> str:
    setups = {n: setup_cpu_s(known, n) for n in SPLITS}
    opened = [
        f"{median_of(split(known, REOPENED, n), 'opened_per_s'):.3g}/s with {n}"
        for n in SPLITS
        if len(split(known, REOPENED, n))
    ]
    return (
        "The same commands at the same rate; connections take turns, so that each has its share. "
        f"Reopened, they were opened {', '.join(opened) or 'not at all'}. "
        f"{_ratios_told(known)}{_openings_told(known, setups)}"
        f"Fewer than {REPLICATES_NEEDED} replicates say nothing; there are "
        f"{replicates_in(known[known['valid'].astype(bool)])}."
    )


def _openings_told(known: pd.DataFrame, setups: dict[int, Estimate]) -> str:
    said = _setup_said(known, setups).removeprefix("; ")
    return f"{said}. " if said else ""


def _ratios_told(known: pd.DataFrame) -> str:
    said = [
        f"{n} {mode}: {_likeness(each, _interval(known, mode, n, 'both'))}"
        for mode, n in product((STEADY, REOPENED), SPLITS[1:])
        if is_known((each := equivalence(against_one(known, mode, n, "both"), MARGIN)).ratio)
    ]
    return f"Against one connection, {'; '.join(said)}. " if said else ""


def _likeness(each: Equivalence, ratio: Estimate) -> str:
    if differs(ratio):
        return f"{'more' if ratio.low > 1 else 'less'} beyond doubt"
    same = "the same within the margin" if each.equivalent else "neither more nor the same is shown"
    return f"{same}, {each.detectable:.0%} would have been seen"
