"""Deploy spikes: does a big pool absorb what a deploy sends at once?

After a deploy, caches are empty and callers come several times as fast: for a moment (burst), or
from then on (step). A pool of N at hold time W passes on at most N/W; what comes faster queues in
the client. Where the server has capacity to spare ("network": the round trip sets W) a larger pool
lets it through. Where it has none ("server": a script keeps it busy) the same requests queue at the
server instead. A pool that opens on demand meets the spike by connecting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from bench.analysis.gates import CORE_BUSY
from bench.analysis.replicates import (
    REPLICATES_NEEDED,
    evidence,
    is_known,
    last_attempts,
    median_of,
    replicates_in,
)
from bench.analysis.sentences import as_factor, counted
from bench.analysis.statistics import enough, log_t_interval
from bench.figures.axes import linear_axis, log_axis
from bench.figures.curves import label_ends
from bench.figures.intervals import draw_intervals
from bench.figures.sheet import footnote, new_figure, panel_title
from bench.figures.style import GROUND, INK, MUTED, Style, pool_style
from bench.figures.units import digits, si
from bench.model import (
    Arrivals,
    Cell,
    Estimate,
    Opening,
    Outcome,
    Plan,
    Profile,
    Region,
    Verdict,
    Workload,
)
from bench.store import Store, derived

NAME = "deploy_spike"
QUESTION = "Does a big pool absorb the spike of a deploy?"
CLAIMS = {
    "C14": "A big pool absorbs the spike of a deploy",
}

Situation = Literal["network", "server"]
Shape = Literal["burst", "step"]
SITUATIONS: tuple[Situation, ...] = ("network", "server")
SHAPES: tuple[Shape, ...] = ("burst", "step")
WARM: Opening = "prefilled"
LAZY: Opening = "lazy"

# Where the network limits, pool 20 passes on 2,000/s, and 50 covers the spike's mean in flight, 30,
# and more. Twice the round trip at half the rates would be the same spike; slow is what the rig has
# to spare. Where the server limits, pool 20 passes on 2,500/s, which is more than the server does.
POOLS, BASE_QPS, SPIKE_FACTOR = (20, 50, 5000), 500.0, 6.0
RTT_S: dict[str, float] = {"network": 0.010, "server": 0.008}
MODERATION_S = 0.1e-3  # of the link, which leaves the cores time to spare
SMALL, COVERING, BIG = POOLS
SCRIPT_LOOPS = 180_000  # 0.5 to 0.8 ms of the server, by the hour: it carries 1,300 to 1,900/s
CARRIERS = 1_000  # more than are ever out, so that they never take the pool's part
REPLICATES: dict[Profile, int] = {"smoke": 1, "standard": 3, "full": 5}

WARMUP_S, BEFORE_S, BURST_S = 0.08, 0.08, 0.20
WINDOW_S: dict[Shape, float] = {"burst": 0.70, "step": 0.37}  # the burst's backlog drains within
STEP_S = 10.0  # beyond any window: a step lasts


def plan(profile: Profile, workload: Workload, workers: int) -> Plan:
    """One worker, however many the run has: the spike is met by one pod's pool."""
    chosen = product(SITUATIONS, SHAPES, POOLS, (WARM, LAZY))
    cells = (_cell(*each, workload) for each in chosen if profile == "full" or _needed(*each))
    return Plan(tuple(cells), REPLICATES[profile])


def _needed(situation: Situation, shape: Shape, pool: int, opening: Opening) -> bool:
    """All of them where the network limits; where the server does, those that a claim rests on:
    the rest is for a profile that has the time."""
    if situation == "network":
        return True
    if opening == LAZY:
        return (shape, pool) == ("burst", BIG)
    return (shape, pool) != ("step", COVERING)


def _cell(
    situation: Situation, shape: Shape, pool: int, opening: Opening, workload: Workload
) -> Cell:
    busy = replace(workload, script_loops=SCRIPT_LOOPS)
    spike = Arrivals(
        "spike",
        spike_factor=SPIKE_FACTOR,
        spike_at_s=WARMUP_S + BEFORE_S,
        spike_s=BURST_S if shape == "burst" else STEP_S,
    )
    return Cell(
        NAME, pool, CARRIERS, rtt_s=RTT_S[situation], moderation_s=MODERATION_S, loop="open",
        offered_qps=BASE_QPS, arrivals=spike, opening=opening,
        workload=workload if situation == "network" else busy,
        warmup_s=WARMUP_S, measure_s=WINDOW_S[shape], keep_requests=True,
        arm=f"{situation} {shape}",
    )  # fmt: skip


# What callers felt

BUCKET_S = 0.020  # recovery is told no finer than this
SLOW = 2.0  # × the median before the spike
IN_A_ROW = 2  # buckets: one alone is a stall of the machine, no queue
STARTS_LATE_S = 0.1  # at most: the window opens some milliseconds after its warm-up
# Requests due this near to the window's end may be out while the generator stops and collects its
# garbage: they tell of that, and do not count.
STOPPING_S = 0.020
Floats = NDArray[np.float64]


class Felt(NamedTuple):
    """One measurement's spike, in seconds after the window's begin, and what it did to requests.

    `spike_p99_s`: latency p99 of all that were due from the spike's begin to the end (that of the
    window, less `STOPPING_S`). `recovery_s`: how long they stayed slow, NaN where to the end. Of
    those due in the spike itself, means: `late_s` to be sent, `wait_s` for a connection, `beyond_s`
    on one, beyond the round trip. `shift`: by how many places they came back out of the order in
    which they got their connections, on average.
    """

    spike_begins_s: float
    ends_s: float
    usual_s: float
    spike_p99_s: float
    recovery_s: float
    late_s: float
    wait_s: float
    beyond_s: float
    shift: float


def felt(requests: pd.DataFrame, row: Any) -> Felt:
    """`requests` as the store gives them, of the cell measured as `row`."""
    inside, until_s = _told(requests, row), row.measured_s - STOPPING_S
    due_s = inside["intended_s"].to_numpy()
    latency_s = (inside["done_s"] - inside["intended_s"]).to_numpy()
    spike_begins_s = spike_begin_s(due_s, row)
    ends_s = min(spike_begins_s + row.spike_s, until_s)
    before, since = latency_s[due_s < spike_begins_s], latency_s[due_s >= spike_begins_s]
    usual_s = float(np.median(before)) if before.size else math.nan
    since_s = ends_s if ends_s < until_s else spike_begins_s
    spike = inside[inside["intended_s"].between(spike_begins_s, ends_s)]
    return Felt(
        spike_begins_s,
        ends_s,
        usual_s,
        _p99(since),
        recovery_s(due_s, latency_s, usual_s, spike_begins_s, since_s, until_s),
        late_s=float((spike["sent_s"] - spike["intended_s"]).mean()),
        wait_s=float((spike["acquired_s"] - spike["sent_s"]).mean()),
        beyond_s=float((spike["done_s"] - spike["acquired_s"]).mean() - row.rtt_s),
        shift=_shift(spike),
    )


def _told(requests: pd.DataFrame, row: Any) -> pd.DataFrame:
    return requests[requests["intended_s"].between(0, row.measured_s - STOPPING_S)]


def _shift(requests: pd.DataFrame) -> float:
    order = requests.sort_values("acquired_s", kind="stable")["done_s"].to_numpy()
    places = np.argsort(np.argsort(order, kind="stable"))
    return float(np.abs(places - np.arange(order.size)).mean()) if order.size else math.nan


def _p99(times_s: Floats) -> float:
    return float(np.quantile(times_s, 0.99)) if enough(0.99, times_s.size) else math.nan


def spike_begin_s(due_s: Floats, row: Any) -> float:
    """When the arrivals' rate rises, by likelihood: where in the load's time a window begins is
    known to some milliseconds, and when requests were due exactly."""
    planned_s = row.spike_at_s - row.warmup_s
    tried = due_s[(due_s >= planned_s - STARTS_LATE_S) & (due_s <= planned_s)]
    if not tried.size:
        return float(planned_s)
    ends = np.minimum(tried + row.spike_s, row.measured_s - STOPPING_S)
    within = np.searchsorted(due_s, ends) - np.searchsorted(due_s, tried)
    expected = row.offered_qps * (row.spike_factor - 1) * (ends - tried)
    return float(tried[np.argmax(within * math.log(row.spike_factor) - expected)])


def recovery_s(
    due_s: Floats,
    latency_s: Floats,
    usual_s: float,
    spike_begins_s: float,
    since_s: float,
    until_s: float,
) -> float:
    """How long after `since_s` requests were still slow: 0 where none was, NaN where they were to
    the end, at `until_s`.

    Slow: the median of those due in one bucket is above `SLOW` × `usual_s`, in `IN_A_ROW` buckets
    at least, from the spike's begin on. A last bucket cut short counts to the one before.
    """
    count = max(1, int((until_s - spike_begins_s) / BUCKET_S + 1e-9))
    bucket = np.minimum(((due_s - spike_begins_s) / BUCKET_S).astype(int), count - 1)
    own = [latency_s[(due_s >= spike_begins_s) & (bucket == number)] for number in range(count)]
    slow = np.array([bool(part.size) and np.median(part) > SLOW * usual_s for part in own])
    rows = np.convolve(slow, np.ones(IN_A_ROW), "valid") == IN_A_ROW if count >= IN_A_ROW else slow
    if not rows.any():
        return 0.0
    last = int(np.flatnonzero(rows)[-1]) + IN_A_ROW
    if last >= count:
        return math.nan
    return max(0.0, spike_begins_s + last * BUCKET_S - since_s)


@derived
def measured(cells: pd.DataFrame, store: Store) -> pd.DataFrame:
    """The last attempts with what callers felt, and whether it is evidence (`counts`)."""
    last = last_attempts(cells)
    told = [_felt_of(row, store) for row in last.itertuples()]
    columns = pd.DataFrame(told, index=last.index, columns=list(Felt._fields), dtype=float)
    parts = last["arm"].str.split(" ", expand=True).reindex(columns=[0, 1])
    known = last.join(columns).assign(situation=parts[0], shape=parts[1])
    told_of = known["spike_begins_s"].notna()
    return known.assign(counts=known.index.isin(usable(known[told_of]).index))


def _felt_of(row: Any, store: Store) -> tuple[float, ...]:
    """NaN where no request was kept: a worker was lost, or none was served."""
    if row.workers_lost or not row.operations:
        return (math.nan,) * len(Felt._fields)
    return felt(store.requests(row.cell, row.block, row.attempt), row)


# What is evidence


def usable(cells: pd.DataFrame) -> pd.DataFrame:
    """Rule 7's evidence, and beside it the server as the limit, where it is meant to be.

    What makes a command slow there is the server's queue: so “machine” for waits beside a slow
    command says nothing as long as cores had time to spare.
    """
    spare = cells["machine_busy_share"].astype(float).fillna(0.0) < CORE_BUSY
    limit = (cells["bound_by"] == "server") | ((cells["bound_by"] == "machine") & spare)
    meant = cells["arm"].str.startswith("server") & limit & cells["valid"]
    return pd.concat([evidence(cells), cells[meant]])


def part(known: pd.DataFrame, situation: str, shape: str, pool: int, opening: str) -> pd.DataFrame:
    """One cell's replicates."""
    return known[
        (known["situation"] == situation)
        & (known["shape"] == shape)
        & (known["pool_size"] == pool)
        & (known["opening"] == opening)
    ]


# Comparisons


class Versus(NamedTuple):
    """Two pools under the same spikes: each a size and how it is opened."""

    situation: Situation
    big: tuple[int, Opening]
    small: tuple[int, Opening]

    @property
    def name(self) -> str:
        return f"{_pool(*self.big)} ÷ {_pool(*self.small)}"


def _pool(size: int, opening: str) -> str:
    return f"{size:,}" if opening == "prefilled" else f"{size:,} lazy"


COMPARED = (
    Versus("network", (BIG, WARM), (SMALL, WARM)),
    Versus("network", (BIG, WARM), (COVERING, WARM)),
    Versus("network", (BIG, LAZY), (COVERING, WARM)),
    Versus("server", (BIG, WARM), (SMALL, WARM)),
    Versus("server", (BIG, WARM), (COVERING, WARM)),
    Versus("server", (BIG, LAZY), (SMALL, WARM)),
)
FIGURES: dict[str, tuple[Shape, str]] = {
    "p99 of the burst": ("burst", "spike_p99_s"),
    "recovery from the burst": ("burst", "recovery_s"),
    "p99 of the step": ("step", "spike_p99_s"),
}


def ratios(known: pd.DataFrame, pair: Versus) -> dict[str, Estimate]:
    """big ÷ small of each figure, paired within blocks, over what is evidence."""
    counted_ = known[known["counts"].astype(bool)]
    return {
        name: _ratio(part(counted_, pair.situation, shape, *pair.big),
                     part(counted_, pair.situation, shape, *pair.small), column)
        for name, (shape, column) in FIGURES.items()
    }  # fmt: skip


def _ratio(big: pd.DataFrame, small: pd.DataFrame, column: str) -> Estimate:
    """Recoveries count as one bucket at least, the finest that is told; where both are over within
    one, or one was not seen to end, there is no ratio."""
    top, bottom = (cells.set_index("block")[column].astype(float) for cells in (big, small))
    least = BUCKET_S if column == "recovery_s" else 0.0
    told = (top > least) | (bottom > least)
    found = (top.clip(lower=least) / bottom.clip(lower=least)).where(told)
    found = found.reindex(top.index.intersection(bottom.index))
    return log_t_interval(found.tolist(), unit="×")


# Claims

LESS = 0.8  # a ratio whose interval lies above has not improved by a fifth


def claims(cells: pd.DataFrame, store: Store) -> list[Verdict]:
    """C14 in its parts: what the big pool does depends on what limits, and what it is beside."""
    known = measured(cells, store)
    network, server = "Where the network sets the hold time", "Where the server is the limit"
    said = (
        ("C14", COMPARED[0], f"{network}, a pool of {BIG:,} absorbs spikes that one of {SMALL} "
                             "does not"),
        ("C14b", COMPARED[3], f"{server}, a pool of {BIG:,} absorbs spikes that one of {SMALL} "
                              "does not"),
        ("C14c", COMPARED[1], f"{network}, a pool of {BIG:,} absorbs spikes better than one of "
                              f"{COVERING}, which covers their concurrency"),
        ("C14d", COMPARED[2], f"{network}, a pool of {BIG:,} that opens on demand absorbs spikes "
                              f"better than a prefilled one of {COVERING}"),
    )  # fmt: skip
    return [_judge(known, claim, pair, statement) for claim, pair, statement in said]


def _judge(known: pd.DataFrame, claim: str, pair: Versus, statement: str) -> Verdict:
    found = ratios(known, pair)
    outcome = outcome_of(list(found.values()))
    of = _cells_of(known, pair)
    reason = "; ".join(f"{name} {as_factor(ratio)}" for name, ratio in found.items()
                       if is_known(ratio))  # fmt: skip
    unknown = [name for name, ratio in found.items() if not is_known(ratio)]
    if unknown:
        why = _why_unknown(of)
        reason = "; ".join(filter(None, [reason, f"{', '.join(unknown)}: {why}"]))
    return Verdict(
        claim, statement, RULE, outcome, f"{pair.name}: {reason}", found,
        tuple(of["cell"].unique()), dict.fromkeys(found, Region(high=1.0)),
        dict.fromkeys(found, Region(low=LESS)),
    )  # fmt: skip


RULE = (
    f"ratios with 95 % intervals, paired within blocks, of latency p99 (due from the spike's begin "
    f"to the window's end) under burst and step, and of the time to recover from the burst: until "
    f"the median of {si(BUCKET_S, 's')} is back within {SLOW:g} × that before the spike, told no "
    f"finer than that. Supported: all of them below 1; refuted: one or more not below 1 and "
    f"above {LESS:g}, so that an improvement by a fifth is ruled out. Recoveries both over within "
    "what is told give no ratio (added after a review). The server may be the limit where it is "
    "meant to be"
)


def outcome_of(found: Sequence[Estimate]) -> Outcome:
    """By the rule above."""
    known = [ratio for ratio in found if is_known(ratio)]
    if any(ratio.low > LESS and ratio.high >= 1 for ratio in known):
        return "refuted"
    better = [ratio for ratio in known if ratio.high < 1]
    return "supported" if len(better) == len(found) else "undecided"


def _cells_of(known: pd.DataFrame, pair: Versus) -> pd.DataFrame:
    return pd.concat([part(known, pair.situation, shape, *pool)
                      for shape in SHAPES for pool in (pair.big, pair.small)])  # fmt: skip


def _why_unknown(of: pd.DataFrame) -> str:
    """How much of these cells is evidence, and how often a recovery was not seen to end."""
    if of.empty:
        return "not measured"
    fit = of[of["counts"].astype(bool)]
    unending = int(fit.loc[fit["shape"] == "burst", "recovery_s"].isna().sum())
    said = f"evidence in {len(fit)} of {counted(len(of), 'measurement')}"
    return f"{said}, {unending} without an end of their recovery" if unending else said


# Tables


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """Each cell of the plan; medians over the last attempts in each block."""
    last = last_attempts(cells)
    grouped = last.groupby(["arm", "opening", "pool_size"], sort=True)
    return pd.DataFrame(
        {
            "spike": arm,
            "opening": opening,
            "pool": pool,
            "opened": round(own["connections_opened"].median()),
            "in flight peak": round(own["in_flight_peak"].median()),
            "found empty %": round(100 * own["pool_empty_share"].median(), 1),
            "p50 ms": _milliseconds(own["latency_p50_s"]),
            "p99 ms": _milliseconds(own["latency_p99_s"]),
            "lag p99 ms": _milliseconds(own["send_lag_p99_s"]),
            "server %": round(100 * (own["server_cpu_s"] / own["measured_s"]).median()),
            "bound by": own["bound_by"].mode()[0],
            "valid": f"{int(own['valid'].sum())} of {len(own)}",
        }
        for (arm, opening, pool), own in grouped
    )


def _milliseconds(seconds: pd.Series) -> float:
    return digits(1e3 * seconds.astype(float).median())


# What the figures say


def findings(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A sentence for each figure that these cells allow: its title."""
    return _findings(measured(cells, store))


@derived
def _findings(known: pd.DataFrame) -> dict[str, str]:
    if known.empty:
        return {}
    return {
        "spike_latency": _latency_finding(known),
        "spike_queues": _queues_finding(known),
        "spike_recover": _ratios_finding(known),
    }


UNDER = {"network": "where the network limits", "server": "where the server limits"}


def _fit(known: pd.DataFrame, situation: str, pool: int, opening: str = WARM) -> pd.DataFrame:
    """A burst's replicates that count."""
    own = part(known, situation, "burst", pool, opening)
    return own[own["counts"].astype(bool)]


def _doubt(known: pd.DataFrame, situation: str, pools: Sequence[int]) -> str:
    """Why nothing is said of these pools' bursts; empty where enough replicates count."""
    short = [pool for pool in pools
             if replicates_in(_fit(known, situation, pool)) < REPLICATES_NEEDED]  # fmt: skip
    if not short:
        return ""
    return _why_unknown(part(known, situation, "burst", short[0], WARM))


def _seconds(cells: pd.DataFrame, *columns: str) -> str:
    return si(sum(median_of(cells, column) for column in columns), "s")


def _latency_finding(known: pd.DataFrame) -> str:
    said = "; ".join(_latencies(known, situation) for situation in SITUATIONS)
    return f"p99 in a burst of {SPIKE_FACTOR:g} times the rate: {said}"


def _latencies(known: pd.DataFrame, situation: str) -> str:
    if doubt := _doubt(known, situation, (SMALL, BIG)):
        return f"undecided {UNDER[situation]} ({doubt})"
    small, big = (_seconds(_fit(known, situation, pool), "spike_p99_s") for pool in (SMALL, BIG))
    return f"{small} with a pool of {SMALL}, {big} with {BIG:,} {UNDER[situation]}"


def _queues_finding(known: pd.DataFrame) -> str:
    said = "; ".join(_queues(known, situation) for situation in SITUATIONS)
    return f"Mean wait in a burst, for a connection + at the server: {said}"


def _queues(known: pd.DataFrame, situation: str) -> str:
    if doubt := _doubt(known, situation, (SMALL, BIG)):
        return f"undecided {UNDER[situation]} ({doubt})"
    (small, big) = (_both(_fit(known, situation, pool)) for pool in (SMALL, BIG))
    return f"{small} with {SMALL}, {big} with {BIG:,} {UNDER[situation]}"


def _both(cells: pd.DataFrame) -> str:
    return f"{_seconds(cells, 'wait_s')} + {_seconds(cells, 'beyond_s')}"


def _ratios_finding(known: pd.DataFrame) -> str:
    said = "; ".join(_ratio_said(known, COMPARED[place]) for place in (0, 1, 3))
    return f"p99 of the burst, {BIG:,} prefilled: {said}"


def _ratio_said(known: pd.DataFrame, pair: Versus) -> str:
    ratio = next(iter(ratios(known, pair).values()))
    beside = f"{pair.small[0]} {UNDER[pair.situation]}"
    return f"{as_factor(ratio)} that of {beside}" if is_known(ratio) else f"undecided for {beside}"


# Figures


def figures(cells: pd.DataFrame, store: Store) -> dict[str, Figure]:
    """Each finding with its picture."""
    known = measured(cells, store)
    draw = {
        "spike_latency": lambda title: _draw_latency(known, store, title),
        "spike_queues": lambda title: _draw_queues(known, title),
        "spike_recover": lambda title: _draw_ratios(known, title),
    }
    return {name: draw[name](title) for name, title in _findings(known).items()}


PANELS = {
    "network": f"the network limits: RTT {si(RTT_S['network'], 's')}, the server has time to spare",
    "server": f"the server limits: a script keeps it busy, RTT {si(RTT_S['server'], 's')}",
}


def _draw_latency(known: pd.DataFrame, store: Store, title: str) -> Figure:
    figure, panels = new_figure(title, len(SHAPES), len(SITUATIONS), size=(12.0, 8.4))
    drawn = [
        (axes, _timelines(known, store, situation, shape))
        for axes, (shape, situation) in zip(panels, product(SHAPES, SITUATIONS), strict=True)
    ]
    for axes, (shape, situation) in zip(panels, product(SHAPES, SITUATIONS), strict=True):
        panel_title(axes, f"{shape}: {PANELS[situation]}")
    top = max((line.high for _, lines in drawn for line in lines), default=1.0)
    for (axes, lines), (_, situation) in zip(drawn, product(SHAPES, SITUATIONS), strict=True):
        axes.set_ylim(min(RTT_S.values()) / 1.3, max(2 * max(RTT_S.values()), 1.3 * top))
        axes.axhline(RTT_S[situation], color=INK, linestyle=":", linewidth=1.0, zorder=1)
        _draw_lines(axes, lines)
    _spans(panels)
    footnote(
        figure,
        f"Median and, faint, p95 of the requests due in each {si(BUCKET_S, 's')}, all replicates "
        f"that count together. {si(BASE_QPS, '/s')} Poisson, {SPIKE_FACTOR:g} times as many within "
        f"the grey span. Dotted: the round trip. Lazy pools are dashed. {_left_out(known)}",
    )
    return figure


class Line(NamedTuple):
    """One pool's latency against the time since its spike began, in seconds; `high` its top."""

    pool: int
    opening: str
    at_s: Floats
    middle_s: Floats
    upper_s: Floats
    fit: bool

    @property
    def high(self) -> float:
        return float(np.nanmax(self.upper_s))


def _timelines(known: pd.DataFrame, store: Store, situation: Situation, shape: Shape) -> list[Line]:
    lines = [
        _timeline(part(known, situation, shape, pool, opening), store)
        for pool, opening in product(POOLS, (WARM, LAZY))
        if opening == WARM or pool == BIG
    ]
    return [line for line in lines if line is not None]


def _timeline(own: pd.DataFrame, store: Store) -> Line | None:
    """Over the replicates that count; where none does, over all, and it is drawn as such."""
    told = own.dropna(subset=["spike_begins_s"])
    fit = told[told["counts"].astype(bool)]
    chosen = fit if len(fit) else told
    if chosen.empty:
        return None
    parts = [_since(row, store) for row in chosen.itertuples()]
    every = pd.concat(parts)
    by_bucket = every.groupby("bucket")["latency_s"]
    middle, upper = by_bucket.median(), by_bucket.quantile(0.95)
    at_s = (middle.index.to_numpy() + 0.5) * BUCKET_S
    pool, opening = int(own["pool_size"].iloc[0]), str(own["opening"].iloc[0])
    return Line(pool, opening, at_s, middle.to_numpy(), upper.to_numpy(), bool(len(fit)))


def _since(row: Any, store: Store) -> pd.DataFrame:
    """Latency by the bucket, counted from the spike's begin, in which a request was due."""
    requests = store.requests(row.cell, row.block, row.attempt)
    inside = _told(requests, row)
    bucket = ((inside["intended_s"] - row.spike_begins_s) // BUCKET_S).astype(int)
    whole = bucket < int(
        (row.measured_s - STOPPING_S - row.spike_begins_s) / BUCKET_S
    )  # the last is cut short
    latency_s = inside["done_s"] - inside["intended_s"]
    return pd.DataFrame({"bucket": bucket, "latency_s": latency_s})[whole]


def _draw_lines(axes: Axes, lines: list[Line]) -> None:
    for line in lines:
        style = pool_style(line.pool)
        dashes = ":" if not line.fit else "--" if line.opening == LAZY else "-"
        axes.plot(line.at_s, line.middle_s, dashes, color=style.colour, marker=style.marker,
                  markersize=4, markevery=4)  # fmt: skip
        axes.fill_between(line.at_s, line.middle_s, line.upper_s, color=style.colour, alpha=0.12,
                          lw=0)  # fmt: skip
    linear_axis(axes.xaxis, "s", "due after the spike began")
    axes.set_xlim(left=min((line.at_s[0] for line in lines), default=0.0))
    log_axis(axes.yaxis, "s", "latency")
    label_ends(axes, [_end(line) for line in lines])


def _end(line: Line) -> tuple[float, float, str, Style]:
    unfit = "" if line.fit else ", no evidence"
    return (float(line.at_s[-1]), float(line.middle_s[-1]),
            f"{_pool(line.pool, line.opening)}{unfit}", pool_style(line.pool))  # fmt: skip


def _spans(panels: list[Axes]) -> None:
    for axes, (shape, _) in zip(panels, product(SHAPES, SITUATIONS), strict=True):
        ends_s = BURST_S if shape == "burst" else axes.get_xlim()[1]
        axes.axvspan(0, ends_s, color=MUTED, alpha=0.12, lw=0, zorder=0)


def _left_out(known: pd.DataFrame) -> str:
    out = int((~known["counts"].astype(bool)).sum())
    if not out:
        return ""
    return f"Invalid or held back by the rig, and left out: {out} of {len(known)} measurements."


# Where a request's time went: not the colours of any pool.
PARTS = {
    "late_s": ("sent late (client)", "#bbbbbb", ""),
    "wait_s": ("waits for a connection (client)", "#aa4499", ""),
    "beyond_s": ("on one, beyond the\nround trip (server)", "#44aa99", "///"),
}


def _draw_queues(known: pd.DataFrame, title: str) -> Figure:
    figure, panels = new_figure(title, 1, len(SITUATIONS), size=(12.0, 4.8))
    for axes, situation in zip(panels, SITUATIONS, strict=True):
        panel_title(axes, PANELS[situation])
        _draw_parts(axes, known[(known["situation"] == situation) & (known["shape"] == "burst")])
    reach = max(axes.get_xlim()[1] for axes in panels)
    for axes in panels:
        axes.set_xlim(0, reach)
    handles = [Patch(facecolor=colour, edgecolor=GROUND, hatch=hatch, label=name)
               for name, colour, hatch in PARTS.values()]  # fmt: skip
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    footnote(
        figure,
        "Means over the requests due within the burst, medians over replicates; dots: each "
        f"replicate's sum. {_left_out(known)}",
    )
    return figure


def _draw_parts(axes: Axes, cells: pd.DataFrame) -> None:
    fit = cells[cells["counts"].astype(bool)]
    measured_ = set(zip(cells["pool_size"], cells["opening"], strict=True))
    rows = [(pool, opening) for opening, pool in product((WARM, LAZY), POOLS)
            if (pool, opening) in measured_]  # fmt: skip
    for place, (pool, opening) in enumerate(rows):
        own = fit[(fit["pool_size"] == pool) & (fit["opening"] == opening)]
        _draw_bar(axes, place, own)
    axes.set_yticks(range(len(rows)), [_pool(*row) for row in rows])
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    linear_axis(axes.xaxis, "s", "mean time beyond the round trip")
    axes.set_ylabel("pool size")


def _draw_bar(axes: Axes, place: int, own: pd.DataFrame) -> None:
    if own.empty:
        axes.annotate("no evidence", (0, place), (4, 0), textcoords="offset points", va="center",
                      fontsize=8.5, color=MUTED)  # fmt: skip
        return
    left = 0.0
    for column, (_, colour, hatch) in PARTS.items():
        width = max(0.0, median_of(own, column))
        axes.barh(place, width, 0.6, left=left, color=colour, hatch=hatch, edgecolor=GROUND, lw=0)
        left += width
    sums = own[list(PARTS)].clip(lower=0).sum(axis=1)
    axes.plot(sums, [place] * len(sums), ".", color=INK, markersize=4)


def _draw_ratios(known: pd.DataFrame, title: str) -> Figure:
    figure, panels = new_figure(title, 1, len(FIGURES), size=(12.5, 5.0))
    found = [(pair, ratios(known, pair)) for pair in COMPARED]
    for axes, name in zip(panels, FIGURES, strict=True):
        panel_title(axes, name)
        rows = [(f"{pair.situation}: {pair.name}", own[name], _look(pair)) for pair, own in found]
        draw_intervals(axes, rows, expected=1.0, same=(LESS, 1.0))
        _log_ratio(axes, [own[name] for _, own in found])
    for axes in panels[1:]:
        axes.set_yticklabels([])
    footnote(
        figure,
        f"Ratios paired within blocks, 95 % intervals; below 1 the pool named first is better. "
        f"Grey: better by less than a fifth. A recovery counts as {si(BUCKET_S, 's')} at least, so "
        f"two that are at once are 1. {_thin(found)} {_left_out(known)}",
    )
    return figure


def _look(pair: Versus) -> Style:
    return Style(pool_style(pair.small[0]).colour, "o" if pair.big[1] == WARM else "s")


def _log_ratio(axes: Axes, estimates: list[Estimate]) -> None:
    ends = [end for one in estimates for end in (one.value, one.low, one.high)]
    seen = [end for end in ends if math.isfinite(end) and end > 0]
    axes.set_xlim(min([*seen, 0.5]) / 1.2, max([*seen, 2.0]) * 1.2)
    log_axis(axes.xaxis, "count", "ratio")


def _thin(found: list[tuple[Versus, dict[str, Estimate]]]) -> str:
    every = [one for _, own in found for one in own.values()]
    thin = sum(not is_known(one) for one in every)
    few = f"{thin} of {counted(len(every), 'ratio')} have fewer than {REPLICATES_NEEDED} pairs."
    return few if thin else ""


# Prose: what a reviewer should see, its numbers from the cells


def prose(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A paragraph of Markdown below each figure."""
    known = measured(cells, store)
    told = {"spike_latency": _latency_prose, "spike_queues": _queues_prose,
            "spike_recover": _ratios_prose}  # fmt: skip
    return {name: told[name](known) for name in _findings(known)}


def _latency_prose(known: pd.DataFrame) -> str:
    base, peak = si(BASE_QPS, "/s"), si(SPIKE_FACTOR * BASE_QPS, "/s")
    return (
        f"Requests come at {base} and, within the grey span, at {peak}. Where the network limits, "
        f"a pool of {SMALL} passes on at most {_passes('network')}, so a line forms at its door "
        "and drains when the burst is over; a step beyond that never drains. "
        f"{COVERING} connections are more than the {SPIKE_FACTOR * BASE_QPS * RTT_S['network']:g} "
        f"that the spike keeps in flight. {_server_said(known)}{_recoveries(known)}"
    )


def _passes(situation: Situation) -> str:
    """The highest rate that the small pool lets through, were the round trip all of the hold."""
    return si(SMALL / RTT_S[situation], "/s")


def _server_said(known: pd.DataFrame) -> str:
    """What holds the spike up where the server is meant to: the lesser of the two rates."""
    each_s = 1e-6 * median_of(known[known["situation"] == "server"], "server_cpu_us_per_op")
    if math.isnan(each_s):
        return ""
    return (
        f"Where a script keeps the server busy, a pool of {SMALL} would pass on "
        f"{_passes('server')}, and the server, by its CPU per request, can do "
        f"{si(1 / each_s, '/s')}. "
    )


def _recoveries(known: pd.DataFrame) -> str:
    said = [
        f"{_pool(pool, opening)}: {_recovered(_fit(known, situation, pool, opening))} "
        f"{UNDER[situation]}"
        for situation in SITUATIONS
        for pool, opening in ((SMALL, WARM), (COVERING, WARM), (BIG, WARM), (BIG, LAZY))
        if len(_fit(known, situation, pool, opening))
    ]
    return f"Time to recover from the burst, pool of {'; '.join(said) or 'no evidence'}."


def _recovered(own: pd.DataFrame) -> str:
    seen = own["recovery_s"].dropna()
    if seen.empty:
        return "was not seen to"
    value = float(seen.median())
    return "at once" if value < BUCKET_S else si(value, "s")


def _queues_prose(known: pd.DataFrame) -> str:
    return (
        "The same requests, the same moments: what a larger pool lets through waits where the "
        "next limit is. The purple part is the line at the client's own pool (with lazy pools: "
        "connecting, too), the hatched part what the server added to the round trip. "
        f"{' '.join(_opened(known, situation) for situation in SITUATIONS)}"
    )


def _opened(known: pd.DataFrame, situation: str) -> str:
    own = _fit(known, situation, BIG, LAZY)
    if own.empty:
        return ""
    opened, peak = (median_of(own, name) for name in ("connections_opened", "in_flight_peak"))
    return (
        f"The lazy pool of {BIG:,} opened {opened:,.0f} connections for at most {peak:,.0f} in "
        f"use {UNDER[situation]}."
    )


def _order(known: pd.DataFrame) -> str:
    """How far the queue that each pool makes is from first come, first served."""
    own = [(pool, _fit(known, "server", pool)) for pool in (SMALL, BIG)]
    if any(cells.empty for _, cells in own):
        return ""
    small, big = (f"{median_of(cells, 'shift'):.2g} places with {pool:,}" for pool, cells in own)
    return (
        "First come is first served in a pool's line, and need not be at the server's sockets: "
        f"{UNDER['server']}, requests of the burst came back out of turn by {small} connections "
        f"and {big}, which the p99 holds and a median does not. "
    )


def _ratios_prose(known: pd.DataFrame) -> str:
    said = "; ".join(
        f"{pair.situation}, {pair.name}: {name} {as_factor(one)}"
        for pair in COMPARED
        for name, one in ratios(known, pair).items()
        if is_known(one)
    )
    return (
        "Each row sets pools beside each other that met the same arrivals in the same block. "
        f"{said or 'No ratio has an interval'}. {_order(known)}{RULE[0].upper()}{RULE[1:]}."
    )
