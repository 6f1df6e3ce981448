"""The reference case: 10,000 requests a second at 1 ms, through pools of 5 to 5,000 connections.

"1 ms" is W₀, how long a request holds its connection where none lacks one, so that about 10 are in
flight (Little). Pools below that are the limit themselves. The open loop decides what waits; since
its rate is the same for every pool by construction, what a pool of 5,000 costs is also asked of a
closed loop of as many users as are in flight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from hdrh.histogram import HdrHistogram
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import special  # scipy.stats costs a second to import

from bench.analysis.gates import NULL_EMPTY, NULL_POOL, QUIET_CORE
from bench.analysis.knee import Hinge, fit_hinge
from bench.analysis.nstar import MOST_SHARE, SERVED
from bench.analysis.queueing import erlang_c, in_flight_peak, in_flight_quantile
from bench.analysis.replicates import (
    APPARATUS,
    REPLICATES_NEEDED,
    evidence,
    is_known,
    last_attempts,
    limit_of,
    median_of,
    points,
    replicates_in,
)
from bench.analysis.sentences import as_factor, counted, why_undecided
from bench.analysis.statistics import (
    TICK_S,
    Equivalence,
    equivalence,
    log_t_interval,
    recorded,
    same_within,
)
from bench.figures.axes import linear_axis, log_axis
from bench.figures.cells import draw_line, draw_pool_sizes, small_print
from bench.figures.curves import draw_theory, label_ends
from bench.figures.intervals import draw_intervals
from bench.figures.sheet import footnote, new_figure, panel_title
from bench.figures.style import INK, MUTED, NEUTRAL, OVER_LINES, VARIANTS, Style, marker, pool_style
from bench.figures.units import Unit, digits, si
from bench.model import (
    LONG_WAIT_S,
    Arrivals,
    Cell,
    Estimate,
    Opening,
    Order,
    Outcome,
    Plan,
    Profile,
    Region,
    Verdict,
    Workload,
)
from bench.store import Store, derived

NAME = "reference_case"
QUESTION = "What do 10,000 requests a second at 1 ms need, and what does a pool of 5,000 add?"
CLAIMS = {
    "C5": "10,000 requests a second at 1 ms keep about 10 calls in flight, and a pool of 20 covers "
    "that with headroom",
    "C6": "At that load a pool of 5,000 adds nothing but idle descriptors on client, server and "
    "all between",
}

QPS, HOLD_S = 10_000.0, 1e-3
IN_FLIGHT = QPS * HOLD_S
# Link, server and client together add a third of a millisecond on two cores, two thirds of it the
# link's moderation, which leaves the cores time to spare: a link set to 1 ms would make W₀ 1.3 ms,
# and 13 in flight. What W₀ came out as is said beside every figure.
LINK_RTT_S, MODERATION_S = 0.68e-3, 0.1e-3
HOLD_WITHIN = 0.10  # of HOLD_S, for W₀ to be the claim's

POOLS = (5, 8, 10, 12, 15, 20, 50, 500, 5_000)
COVERS, CONTROL, LARGE = 20, 50, 5_000
Variant = tuple[Opening, Order]
LIFO: Variant = ("prefilled", "lifo")
FIFO: Variant = ("prefilled", "fifo")
LAZY: Variant = ("lazy", "lifo")
NAMES = {LIFO: "LIFO, prefilled", FIFO: "FIFO, prefilled", LAZY: "lazy"}
CARRIERS = 500  # more than are ever out where the pool is not the limit
BACKLOG = 2_000  # of a pool that is: its line only grows
# Bursts that the rig can still send on time: 1.5 × the rate for two thirds of the time.
BURSTY = Arrivals("bursty", peak_to_mean=1.5, period_s=0.1)
USERS = round(IN_FLIGHT)  # of the closed loop: as many as are in flight
KNEE_USERS: dict[Profile, tuple[int, ...]] = {
    "smoke": (5, 10, 20, 50), "standard": (5, 10, 20, 50, 200),
    "full": (1, 2, 5, 10, 20, 50, 100, 200, 500),
}  # fmt: skip

REPLICATES: dict[Profile, int] = {"smoke": 1, "standard": 5, "full": 8}
# A machine's pace drifts by a tenth within seconds. So what is to be told apart by a twentieth is
# open side by side and measured turn by turn; the large pool's connections once the server has
# given back what it had set aside for new ones (after 3 s, in a round of a second). Without
# moderation, which has a closed loop's users move in clumps: CPU per operation then scatters twice
# as much.
TURN_BLOCKS: dict[Profile, int] = {"smoke": 1, "standard": 5, "full": 8}
TURNS: dict[Profile, int] = {"smoke": 1, "standard": 8, "full": 20}
SETTLE_S: dict[Profile, float] = {"smoke": 0.0, "standard": 4.0, "full": 4.0}
TURN_S, TURN_RTT_S = 0.5, 0.8e-3
OPEN_S: dict[Profile, float] = {"smoke": 0.4, "standard": 0.6, "full": 1.0}
COVERS_S: dict[Profile, float] = {"smoke": 0.4, "standard": 4.0, "full": 6.0}
BRIEF_S: dict[Profile, float] = {"smoke": 0.4, "standard": 0.3, "full": 0.6}
CLOSED_S: dict[Profile, float] = {"smoke": 0.3, "standard": 0.6, "full": 0.8}
CLOSED_WARMUP_S = 0.1
# A lazy pool begins with a storm of connections, whose line must be gone before the window.
OPEN_WARMUP_S: dict[Opening, float] = {"prefilled": 0.15, "lazy": 0.4}

ABOUT = 0.20  # "about 10", of the mean and of the peak
ABOUT_DESCRIPTORS = 0.05  # "about 4,980"
SAME = 0.05  # equivalence, either way


def plan(profile: Profile, workload: Workload, workers: int) -> Plan:
    """What verdicts rest on in every block, the rest once, or in every block too where the profile
    is full. One worker, however many the run has: the case is that of one pool."""
    every = dict.fromkeys(_decisive(profile, workload))
    once = dict.fromkeys(cell for cell in _beside(profile, workload) if cell not in every)
    turns = tuple(_turns(profile, workload))
    if profile == "full":
        return Plan((*every, *once), REPLICATES[profile], (), turns, TURN_BLOCKS[profile])
    return Plan(tuple(every), REPLICATES[profile], tuple(once), turns, TURN_BLOCKS[profile])


def _decisive(profile: Profile, workload: Workload) -> Iterator[Cell]:
    yield _open(COVERS, *LIFO, workload, COVERS_S[profile])
    yield _closed(COVERS, *LIFO, USERS, workload, CLOSED_S[profile])
    for variant in (FIFO, LAZY):
        yield _open(LARGE, *variant, workload, OPEN_S[profile])
        yield _closed(LARGE, *variant, USERS, workload, CLOSED_S[profile])
    yield _open(CONTROL, *LIFO, workload, OPEN_S[profile])
    yield _open(COVERS, *LIFO, workload, OPEN_S[profile], BURSTY)


def _turns(profile: Profile, workload: Workload) -> Iterator[Cell]:
    """The pool that covers the load and the large one, LIFO both, turn by turn."""
    covers, large = (
        replace(_closed(size, *LIFO, USERS, workload, TURN_S), rtt_s=TURN_RTT_S, moderation_s=0.0)
        for size in (COVERS, LARGE)
    )
    for turn in range(1, TURNS[profile] + 1):
        arm = f"{TURN} {turn:02}"
        yield replace(covers, arm=arm)
        yield replace(large, arm=arm, side=1, settle_s=SETTLE_S[profile])


TURN = "turn"


def _beside(profile: Profile, workload: Workload) -> Iterator[Cell]:
    shown = {"smoke": (5, 10, 500), "standard": POOLS, "full": POOLS}[profile]
    variants = {"smoke": (), "standard": (500,), "full": POOLS}[profile]
    known = {(COVERS, LIFO), (CONTROL, LIFO), (LARGE, FIFO), (LARGE, LAZY)}
    wanted = [(size, LIFO) for size in shown]
    wanted += [(size, variant) for size in variants for variant in (FIFO, LAZY)]
    for size, variant in wanted:
        if (size, variant) not in known:
            yield _open(size, *variant, workload, BRIEF_S[profile])
    for users in KNEE_USERS[profile]:
        yield replace(_closed(LARGE, *LIFO, users, workload, CLOSED_S[profile]), arm=KNEE)


KNEE = "knee"


def _open(
    size: int,
    opening: Opening,
    order: Order,
    workload: Workload,
    measure_s: float,
    arrivals: Arrivals | None = None,
) -> Cell:
    usual = Arrivals(backlog=BACKLOG) if size <= IN_FLIGHT else Arrivals()
    return Cell(
        NAME, size, CARRIERS, rtt_s=LINK_RTT_S, moderation_s=MODERATION_S, loop="open",
        opening=opening, order=order,
        offered_qps=QPS, arrivals=arrivals or usual, workload=workload,
        warmup_s=OPEN_WARMUP_S[opening], measure_s=measure_s,
    )  # fmt: skip


def _closed(
    size: int, opening: Opening, order: Order, users: int, workload: Workload, measure_s: float
) -> Cell:
    return Cell(
        NAME, size, users, rtt_s=LINK_RTT_S, moderation_s=MODERATION_S,
        opening=opening, order=order, workload=workload,
        warmup_s=CLOSED_WARMUP_S, measure_s=measure_s,
    )  # fmt: skip


# What was measured, picked out


def poisson(cells: pd.DataFrame, size: int, variant: Variant = LIFO) -> pd.DataFrame:
    """The last attempts at the open loop through pools of `size`."""
    return _of(cells[cells["arrivals"] == "poisson"], size, variant)


def bursty(cells: pd.DataFrame) -> pd.DataFrame:
    """Those with bursts, through the pool that is said to cover them."""
    return _of(cells[cells["arrivals"] == "bursty"], COVERS, LIFO)


def closed(cells: pd.DataFrame, size: int, variant: Variant = LIFO) -> pd.DataFrame:
    """The last attempts at the closed loop of as many users as are in flight."""
    loops = (cells["loop"] == "closed") & (cells["arm"] != KNEE)
    return _of(cells[loops], size, variant)


def _of(cells: pd.DataFrame, size: int, variant: Variant) -> pd.DataFrame:
    opening, order = variant
    own = (cells["opening"] == opening) & (cells["order"] == order) & (cells["pool_size"] == size)
    return last_attempts(cells[own])


class Load(NamedTuple):
    """What the case was in fact: W₀ in seconds, and the connections in flight, by the control."""

    hold: Estimate
    in_flight: Estimate


@derived
def load(cells: pd.DataFrame) -> Load:
    """By the pool that is at least NULL_POOL times what is in flight."""
    known = evidence(poisson(cells, CONTROL))
    return Load(
        log_t_interval(known["command_mean_s"], unit="s"),
        log_t_interval(known["in_flight_mean"], unit="connections"),
    )


def _unfit(cells: pd.DataFrame) -> str:
    """Why the load is not the claim's, or not known; empty where it is."""
    control = poisson(cells, CONTROL)
    if replicates_in(evidence(control)) < REPLICATES_NEEDED:
        return f"in a pool of {CONTROL} at {AT}: {why_undecided(control)}"
    hold_s = load(cells).hold.value
    if abs(hold_s / HOLD_S - 1) > HOLD_WITHIN:
        return (
            f"W₀ is {si(hold_s, 's')}, not within {_percent(HOLD_WITHIN)} of {si(HOLD_S, 's')}: "
            "the case was not met"
        )
    return ""


AT = f"{si(QPS, '/s')} Poisson"


# C5: how many are in flight, and what covers them


class InFlight(NamedTuple):
    """How many connections were held, over time: its p99 with the interval over replicates, the
    largest number seen in `over_s` seconds altogether, and what theory says of each (M/G/∞)."""

    p99: Estimate
    largest: int
    over_s: float
    p99_theory: int
    largest_theory: int


P99 = 0.99


@derived
def in_flight(cells: pd.DataFrame, store: Store) -> InFlight | None:
    """None where no cell of the control is evidence."""
    known = evidence(poisson(cells, CONTROL))
    if known.empty:
        return None
    held = _held(known, store)
    mean, hold_s = load(cells).in_flight.value, load(cells).hold.value
    over_s = float(known["measured_s"].sum())
    return InFlight(
        log_t_interval([each.get_value_at_percentile(100 * P99) for each in held],
                       unit="connections"),
        max(each.get_max_value() for each in held),
        over_s,
        in_flight_quantile(mean, P99),
        in_flight_peak(mean, hold_s, over_s),
    )  # fmt: skip


def _held(cells: pd.DataFrame, store: Store) -> list[HdrHistogram]:
    """Of each cell, the microseconds for which so and so many connections were held."""
    return [
        store.histogram(row.cell, row.block, row.attempt, "in_flight") for row in cells.itertuples()
    ]


@derived
def bunching(cells: pd.DataFrame, store: Store) -> float:
    """For how much longer than a Poisson process would have it, as a factor, the control held as
    many connections as the pool that is said to cover the load, or more; NaN where not known."""
    known = evidence(poisson(cells, CONTROL))
    if known.empty:
        return math.nan
    share = float(_time_at(_held(known, store))[COVERS:].sum())
    return share / float(special.pdtrc(COVERS - 1, load(cells).in_flight.value))


class Headroom(NamedTuple):
    """How far a pool meets the objective, over `cells`: the share of requests that found it empty
    and the p99 of their wait in seconds, and both in the parts without a stall of the rig."""

    empty: Estimate
    wait: Estimate
    calm_empty: Estimate
    calm_wait: Estimate
    calm_share: float
    served: float
    cells: pd.DataFrame


def headroom(cells: pd.DataFrame) -> Headroom:
    """By cells of one pool."""
    least = 0.5 / cells["scheduled"].astype(float)
    empty, calm_empty = (
        cells[f"pool_empty_{of}share"].astype(float).clip(lower=least) for of in ("", "calm_")
    )
    wait, calm_wait = (
        cells[f"{kind}_p99_s"].clip(lower=TICK_S) for kind in ("acquire", "acquire_calm")
    )
    return Headroom(
        log_t_interval(empty, unit="share"),
        log_t_interval(wait, unit="s"),
        log_t_interval(calm_empty.dropna(), unit="share"),
        log_t_interval(calm_wait.dropna(), unit="s"),
        float(cells["calm_share"].median()),
        float(cells["served_share"].min()),
        cells,
    )


def controlled(cells: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Of `own` the evidence, from blocks in which the null control held."""
    control = _valid(poisson(cells, CONTROL))
    held = control["pool_empty_share"] <= NULL_EMPTY
    held &= control["pool_size"] >= NULL_POOL * control["in_flight_mean"]
    known = evidence(own)
    return known[known["block"].isin(control["block"][held])]


def quiet(cells: pd.DataFrame) -> pd.DataFrame:
    """Those in which every core had time to spare."""
    return cells[cells["core_busy_max"] <= QUIET_CORE]


# C6: what a pool of 5,000 adds


# What must not differ, in the closed loop: its users hold as many connections as the open loop's
# requests, and a stall of the machine meets that many requests, not all that come meanwhile. So its
# p99 is that of the pool and the server.
COMPARED = {
    "qps": "requests per second",
    "server_cpu_us_per_op": "server CPU per operation",
    "client_cpu_us_per_op": "client CPU per operation",
    "latency_p99_s": "latency p99",
}


class Added(NamedTuple):
    """One figure of the large pool ÷ that of the one that covers the load, one ratio a block: with
    the 95 % interval over blocks, and whether they are shown to be the same."""

    name: str
    ratio: Estimate
    same: Equivalence

    @property
    def apart(self) -> bool:
        """Shown to differ by more than equivalence allows."""
        beyond = self.ratio.low > 1 + SAME or self.ratio.high < 1 - SAME
        return is_known(self.ratio) and beyond


def added(cells: pd.DataFrame, variant: Variant) -> list[Added]:
    """Every figure, over the blocks in which both pools are evidence."""
    large, covers = evidence(closed(cells, LARGE, variant)), evidence(closed(cells, COVERS))
    pairs = {name: _paired(large, covers, column) for column, name in COMPARED.items()}
    return [
        Added(name, log_t_interval(ratios), equivalence(ratios, SAME))
        for name, ratios in pairs.items()
    ]


def _paired(large: pd.DataFrame, covers: pd.DataFrame, column: str) -> list[float]:
    """large/covers of each block: the median over its turns, where it has any."""
    above, below = (cells.groupby(["block", "arm"])[column].median() for cells in (large, covers))
    return [float(ratio) for ratio in (above / below).dropna().groupby("block").median()]


HOPS = {"client": ("client_fds_peak", 1), "link": ("link_fds_peak", 2),
        "server": ("server_fds_peak", 1)}  # fmt: skip
MIDDLEBOXES = {"Envoy": "envoy_fds_peak", "conntrack": "conntrack_entries_peak"}


class More(NamedTuple):
    """How many descriptors more a hop holds for the large pool: the median over `blocks` blocks,
    NaN where none holds both pools, and the number claimed."""

    hop: str
    descriptors: float
    blocks: int
    claimed: int

    @property
    def name(self) -> str:
        return f"descriptors added, {self.hop}"

    @property
    def estimate(self) -> Estimate:
        """Counted, not estimated: without an interval."""
        return Estimate(self.descriptors, self.descriptors, self.descriptors, "", self.blocks)

    @property
    def about(self) -> Region:
        """What is about the number claimed."""
        away = ABOUT_DESCRIPTORS * self.claimed
        return Region(self.claimed - away, self.claimed + away)

    @property
    def off(self) -> bool:
        """Shown to be another number than about what is claimed."""
        away = abs(self.descriptors / self.claimed - 1)
        return self.blocks >= REPLICATES_NEEDED and away > ABOUT_DESCRIPTORS


def descriptors(cells: pd.DataFrame, variant: Variant) -> list[More]:
    """Of each hop, where both pools are valid; the link holds two for each. A lazy pool opens what
    the open loop's chance needs at once; a prefilled one holds the same in either loop."""
    of = poisson if variant == LAZY else closed
    large, covers = _valid(of(cells, LARGE, variant)), _valid(of(cells, COVERS))
    return [
        _more(hop, _differences(large, covers, column), each)
        for hop, (column, each) in HOPS.items()
    ]


def _more(hop: str, differences: pd.Series, each: int) -> More:
    return More(hop, float(differences.median()), len(differences), each * (LARGE - COVERS))


def _differences(above: pd.DataFrame, below: pd.DataFrame, column: str) -> pd.Series:
    top, bottom = (cells.groupby("block")[column].median() for cells in (above, below))
    return (top - bottom).dropna().astype(float)


def _valid(cells: pd.DataFrame) -> pd.DataFrame:
    return cells[cells["valid"]]


# Claims


def claims(cells: pd.DataFrame, store: Store) -> list[Verdict]:
    """Each claim judged by its rule, written before the data unless it says so."""
    return [
        _judge_mean(cells),
        _judge_peak(cells, store),
        _judge_headroom(cells, store, "C5c", steady_arrivals(cells)),
        _judge_headroom(cells, store, "C5d", bursty_arrivals(cells)),
        *(_judge_added(cells, claim, variant) for claim, variant in C6.items()),
    ]


C6 = {"C6a": LIFO, "C6b": FIFO, "C6c": LAZY}
CASE = f"{QPS:,.0f} requests/s at {si(HOLD_S, 's')}"
AROUND_IT = Region(IN_FLIGHT * (1 - ABOUT), IN_FLIGHT * (1 + ABOUT))
AROUND = f"{IN_FLIGHT:g} ± {100 * ABOUT:.0f} %"
WHEN = (
    f"W₀ within {100 * HOLD_WITHIN:.0f} % of {si(HOLD_S, 's')} in a prefilled pool of {CONTROL}, "
    f"{REPLICATES_NEEDED} replicates or more"
)


def _judge_mean(cells: pd.DataFrame) -> Verdict:
    found = load(cells)
    unfit = _unfit(cells)
    said = f"L {_spread(found.in_flight)}, W₀ {_spread(found.hold)}"
    return Verdict(
        "C5a",
        f"{CASE} keep about {IN_FLIGHT:g} calls in flight on average",
        f"the mean in flight is {AROUND}: its 95 % interval lies within; {WHEN}",
        "undecided" if unfit else _about(found.in_flight),
        unfit or said,
        {"mean in flight": found.in_flight, "W₀": found.hold},
        _ids(poisson(cells, CONTROL)),
        {"mean in flight": AROUND_IT},
    )


def _judge_peak(cells: pd.DataFrame, store: Store) -> Verdict:
    found = in_flight(cells, store)
    unfit = _unfit(cells) or ("" if found else "not measured")
    return Verdict(
        "C5b",
        f"{CASE} keep about {IN_FLIGHT:g} calls in flight at peak",
        f"the p99 over time of the number in flight is {AROUND}: its 95 % interval lies within; "
        f"{WHEN}",
        "undecided" if unfit or found is None else _about(found.p99),
        unfit or _peak_said(found),
        {} if found is None else {"p99 in flight": found.p99},
        _ids(poisson(cells, CONTROL)),
        {"p99 in flight": AROUND_IT},
    )


def _peak_said(found: InFlight | None) -> str:
    if found is None:
        return ""
    return (
        f"p99 {_spread(found.p99)} (Poisson: {found.p99_theory}); the largest of "
        f"{si(found.over_s, 's')} {_largest_said(found)} (theory: {found.largest_theory} in the "
        "median)"
    )


def _largest_said(found: InFlight) -> str:
    """No more can be held than the pool has."""
    return f"{found.largest}{', all the pool has' if found.largest >= CONTROL else ''}"


def _about(estimate: Estimate) -> Outcome:
    low, high = AROUND_IT.low, AROUND_IT.high
    if estimate.low > high or estimate.high < low:
        return "refuted"
    return "supported" if low <= estimate.low and estimate.high <= high else "undecided"


OBJECTIVE = (
    f"at most {si(MOST_SHARE, 'share')} of requests find the pool empty, p99 of the wait at most "
    f"{si(LONG_WAIT_S, 's')}, {si(SERVED, 'share')} served"
)
BUNCHED = 2.0  # × what Poisson gives: then it is the rig's doing, and no longer the pool's
ALLOWED = (
    "by the parts of the windows in which neither machine nor link stalled (until a trial, by "
    "whole windows), the intervals of both lie below, in blocks whose null control (pool "
    f"{CONTROL}) is found empty by at most {si(NULL_EMPTY, 'share')}; whole windows are told "
    "beside. What disturbs a rig only lengthens waits, so refuted (the interval of one lies above) "
    f"only by cells in which every core is at most {si(QUIET_CORE, 'share')} busy, and where "
    f"either theory misses too or the control holds {COVERS} or more for at most {BUNCHED:g} × the "
    f"time that Poisson arrivals would; {WHEN}"
)


class Arriving(NamedTuple):
    """A process of arrivals at the pool that is said to cover them: its name, the cells of it, and
    how many are in flight on average (within a burst)."""

    name: str
    own: pd.DataFrame
    mean: float

    @property
    def theory(self) -> float:
        """The share that finds the pool empty by Erlang C; NaN where the mean is not known."""
        return erlang_c(COVERS, self.mean) if self.mean > 0 else math.nan


def steady_arrivals(cells: pd.DataFrame) -> Arriving:
    """The Poisson process."""
    return Arriving("Poisson arrivals", poisson(cells, COVERS), load(cells).in_flight.value)


def bursty_arrivals(cells: pd.DataFrame) -> Arriving:
    """The bursts."""
    name = f"bursts of {_bursts_said()}"
    return Arriving(name, bursty(cells), BURSTY.peak_to_mean * load(cells).in_flight.value)


def _judge_headroom(cells: pd.DataFrame, store: Store, claim: str, arriving: Arriving) -> Verdict:
    found = headroom(controlled(cells, arriving.own))
    outcome, reason = _headroom_outcome(cells, store, arriving)
    told = {
        "found empty, calm": found.calm_empty,
        "wait p99, calm": found.calm_wait,
        "found empty": found.empty,
        "wait p99": found.wait,
    }
    return Verdict(
        claim,
        f"A pool of {COVERS} covers {CASE} with headroom, outside the rig's stalls: "
        f"{arriving.name}",
        f"{OBJECTIVE}: {ALLOWED}",
        outcome,
        reason,
        told if len(found.cells) else {},
        _ids(arriving.own),
        {"found empty, calm": Region(high=MOST_SHARE), "wait p99, calm": Region(high=LONG_WAIT_S)},
        needs=_headroom_needs(cells, store, arriving),
    )


def _headroom_needs(cells: pd.DataFrame, store: Store, arriving: Arriving) -> str:
    """What would decide it where more of the same would not: another machine."""
    still = quiet(controlled(cells, arriving.own))
    if replicates_in(still) < REPLICATES_NEEDED:
        return (
            f"a machine whose cores stay below {si(QUIET_CORE, 'share')} busy at {CASE}: more cores"
        )
    if not bunching(cells, store) <= BUNCHED:
        return "a machine that does not bunch the arrivals: more cores, nobody else on them"
    return ""


def _headroom_outcome(cells: pd.DataFrame, store: Store, arriving: Arriving) -> tuple[Outcome, str]:
    known = controlled(cells, arriving.own)
    if unfit := _unfit(cells) or _uncontrolled(arriving.own, known):
        return "undecided", unfit
    found = headroom(known)
    said = f"{_headroom_said(found)}; {_theory_said(arriving)}"
    if _meets(found):
        return "supported", said
    still = quiet(known)
    if replicates_in(still) < REPLICATES_NEEDED:
        return "undecided", f"{said}; {_busy_said(known, still)}"
    missed, longer = _misses(headroom(still)), bunching(cells, store)
    if missed and arriving.theory <= MOST_SHARE and not longer <= BUNCHED:
        return "undecided", f"{said}; {_bunched_said(longer)}"
    return ("refuted", f"{said}; missed: {missed}") if missed else ("undecided", said)


def _bunched_said(longer: float) -> str:
    return (
        f"not shown to be the pool's doing: in the control, where nobody waits, {COVERS} or more "
        f"are in flight for {longer:.2g} × as long as Poisson arrivals have it, so this rig bunches"
    )


def _theory_said(arriving: Arriving) -> str:
    return f"Erlang C at L {arriving.mean:.1f}: {si(arriving.theory, 'share')} find it empty"


def _uncontrolled(own: pd.DataFrame, known: pd.DataFrame) -> str:
    if replicates_in(evidence(own)) < REPLICATES_NEEDED:
        return f"pool {COVERS}: {why_undecided(own)}"
    if replicates_in(known) < REPLICATES_NEEDED:
        held = f"the null control held in {replicates_in(known)} of {replicates_in(own)} blocks"
        return f"{held}, {REPLICATES_NEEDED} needed"
    return ""


def _busy_said(known: pd.DataFrame, still: pd.DataFrame) -> str:
    return (
        f"in {len(still)} of {len(known)} cells every core was at most "
        f"{si(QUIET_CORE, 'share')} busy, {REPLICATES_NEEDED} needed to refute"
    )


def _meets(found: Headroom) -> bool:
    if not (is_known(found.calm_empty) and is_known(found.calm_wait)):
        return False
    empty, wait = found.calm_empty.high, found.calm_wait.high
    return bool(empty <= MOST_SHARE and wait <= LONG_WAIT_S and found.served >= SERVED)


def _misses(found: Headroom) -> str:
    """Which part of the objective is shown to be missed."""
    if is_known(found.calm_empty) and found.calm_empty.low > MOST_SHARE:
        return "found empty too often"
    long = is_known(found.calm_wait) and found.calm_wait.low > LONG_WAIT_S
    return "waits too long" if long else ""


def _headroom_said(found: Headroom) -> str:
    return (
        f"outside the rig's stalls ({si(found.calm_share, 'share')} of the time) "
        f"{_spread(found.calm_empty)} found it empty, wait p99 {_spread(found.calm_wait)}; in all "
        f"{_spread(found.empty)} and {_spread(found.wait)}, by which the objective is "
        f"{_whole_said(found)}"
    )


def _whole_said(found: Headroom) -> str:
    """What the whole windows, stalls and all, say of the objective."""
    if max(found.empty.high / MOST_SHARE, found.wait.high / LONG_WAIT_S) <= 1:
        return "met"
    missed = found.empty.low > MOST_SHARE or found.wait.low > LONG_WAIT_S
    return "missed" if missed else "neither met nor missed"


def _judge_added(cells: pd.DataFrame, claim: str, variant: Variant) -> Verdict:
    found, more = added(cells, variant), descriptors(cells, variant)
    outcome, reason = _added_outcome(found, more)
    of = (poisson, closed) if variant == LAZY else (closed,)
    large = pd.concat([each(cells, LARGE, variant) for each in of])
    covers = pd.concat([each(cells, COVERS) for each in of])
    return Verdict(
        claim,
        f"At that load a pool of {LARGE:,} ({NAMES[variant]}) adds nothing but about "
        f"{LARGE - COVERS:,} idle descriptors on client and server",
        f"{LARGE:,} ÷ {COVERS} is equivalent within {_percent(SAME)} (two one-sided tests, paired) "
        f"for rate, CPU per operation and p99 of a closed loop with {USERS} users, and about "
        f"{LARGE - COVERS:,} descriptors more on client and server, twice that on the link "
        f"(± {_percent(ABOUT_DESCRIPTORS)}); refuted where the 95 % interval of a figure lies "
        "wholly outside, or the descriptors do",
        outcome, reason,
        {each.name: each.ratio for each in found} | {each.name: each.estimate for each in more},
        _ids(pd.concat([large, covers[covers["block"].isin(large["block"])]])),
        dict.fromkeys([each.name for each in found], same_within(SAME))
        | {each.name: each.about for each in more},
        # Of a figure that differs its usual interval lies wholly outside; and a count may be off.
        {each.name: beyond for each in found if (beyond := _beyond(each.ratio))}
        | {each.name: beyond for each in more if (beyond := _off(each))},
    )  # fmt: skip


def _beyond(ratio: Estimate) -> Region | None:
    """Where it would be shown to differ, on the side on which it is."""
    if not is_known(ratio):
        return None
    return Region(low=1 + SAME) if ratio.value > 1 else Region(high=1 - SAME)


def _off(more: More) -> Region | None:
    """Where it is shown to be another number than about what is claimed."""
    about = more.about
    return Region(low=about.high) if more.descriptors > about.high else Region(high=about.low)


def _added_outcome(found: list[Added], more: list[More]) -> tuple[Outcome, str]:
    said = f"{_descriptors_said(more)}; {_ratios_said(found)}"
    if apart := [each.name for each in found if each.apart]:
        return "refuted", f"differs: {', '.join(apart)}; {said}"
    if any(each.off for each in more):
        return "refuted", f"other descriptors than claimed: {said}"
    lacking = [each.name for each in found if not each.same.equivalent]
    if any(each.blocks < REPLICATES_NEEDED for each in more):
        lacking.append("descriptors")
    if lacking:
        return "undecided", f"not shown: {', '.join(lacking)}; {said}"
    return "supported", said


def _ratios_said(found: list[Added]) -> str:
    return ", ".join(
        f"{each.name} {as_factor(each.ratio)} of {counted(each.ratio.n, 'pair')}, could "
        f"tell {si(each.same.detectable, 'share')}"
        if is_known(each.ratio)
        else f"{each.name}: {counted(each.ratio.n, 'pair')}"
        for each in found
    )


def _descriptors_said(more: list[More]) -> str:
    told = ", ".join(
        f"{each.hop} {'not known' if math.isnan(each.descriptors) else f'{each.descriptors:,.0f}'}"
        for each in more
    )
    return f"descriptors more: {told}"


def _ids(cells: pd.DataFrame) -> tuple[str, ...]:
    return tuple(cells["cell"].unique())


def _spread(estimate: Estimate) -> str:
    """'10.2 (9.9–10.5)', in the unit people read."""
    value, low, high = (_read(part, estimate.unit)
                        for part in (estimate.value, estimate.low, estimate.high))  # fmt: skip
    return f"{value} ({low}–{high})" if not math.isnan(estimate.low) else value


def _read(value: float, unit: str) -> str:
    known: dict[str, Unit] = {"s": "s", "share": "share", "bytes": "bytes"}
    return si(value, known.get(unit, "count"))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


# What the figures say


@derived
def findings(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A sentence for each figure that these cells allow: its title."""
    known = {
        "reference_wait": _wait_finding(cells, store),
        "reference_in_flight": _in_flight_finding(cells, store),
        "reference_cost": _cost_finding(cells),
        "reference_knee": _knee_finding(cells),
    }
    return {name: said for name, said in known.items() if said}


def _wait_finding(cells: pd.DataFrame, store: Store) -> str:
    own = poisson(cells, COVERS)
    if own.empty:
        return ""
    known = controlled(cells, own)
    if unfit := _unfit(cells) or _uncontrolled(own, known):
        return f"Whether a pool of {COVERS} covers {CASE} is undecided: {unfit}"
    found, mean = headroom(known), load(cells).in_flight.value
    outcome, _ = _headroom_outcome(cells, store, steady_arrivals(cells))
    head = {
        "supported": f"A pool of {COVERS} covers {CASE}",
        "refuted": f"A pool of {COVERS} does not cover {CASE}",
        "undecided": f"Whether a pool of {COVERS} covers {CASE} is undecided",
    }[outcome]
    return (
        f"{head}: outside the rig's stalls {_spread(found.calm_empty)} of requests find it empty, "
        f"with them {si(found.empty.value, 'share')} (theory {si(erlang_c(COVERS, mean), 'share')} "
        f"at L {mean:.1f}); p99 of the wait {_spread(found.calm_wait)}"
    )


def _in_flight_finding(cells: pd.DataFrame, store: Store) -> str:
    control = poisson(cells, CONTROL)
    if control.empty:
        return ""
    found = in_flight(cells, store)
    if (unfit := _unfit(cells)) or found is None:
        return f"How many are in flight at {CASE} is undecided: {unfit}"
    return (
        f"{CASE} keep {load(cells).in_flight.value:.1f} in flight on average, "
        f"{found.p99.value:.3g} at p99 (Poisson: {found.p99_theory}) and at most "
        f"{_largest_said(found)}, in {si(found.over_s, 's')} (theory: {found.largest_theory})"
    )


def _cost_finding(cells: pd.DataFrame) -> str:
    told = [_variant_finding(cells, variant) for variant in NAMES]
    known = [each for each in told if each]
    return f"{LARGE:,} connections instead of {COVERS}. {'. '.join(known)}" if known else ""


def _variant_finding(cells: pd.DataFrame, variant: Variant) -> str:
    if closed(cells, LARGE, variant).empty:
        return ""
    found, more = added(cells, variant), descriptors(cells, variant)
    client = more[0].descriptors
    held = "descriptors not known" if math.isnan(client) else f"{client:+,.0f} descriptors"
    return f"{NAMES[variant]}: {held}, {_ratio_finding(found)}"


def _ratio_finding(found: list[Added]) -> str:
    if apart := [f"{each.name} {as_factor(each.ratio)}" for each in found if each.apart]:
        return ", ".join(apart)
    same = [each for each in found if each.same.equivalent]
    if not same:
        return "costs undecided"
    of = "all" if len(same) == len(found) else f"{len(same)} of {len(found)}"
    return f"{of} figures the same within {_percent(SAME)}"


def curve(cells: pd.DataFrame) -> pd.DataFrame:
    """The closed loop through the largest pool, which never is its limit; of the blocks that
    measured most levels, since a machine's pace differs from block to block."""
    own = _of(cells[cells["arm"] == KNEE], LARGE, LIFO)
    levels = own.groupby("block")["concurrency"].transform("nunique")
    return own[levels == levels.max()]


def knee(cells: pd.DataFrame) -> Hinge:
    """Where that curve flattens, whatever the reason."""
    known = _valid(curve(cells))
    return fit_hinge(known["concurrency"].tolist(), known["qps"].tolist())


def _knee_finding(cells: pd.DataFrame) -> str:
    own = curve(cells)
    if own.empty:
        return ""
    found = knee(cells)
    if not found.shown:
        return f"Where a closed loop flattens is undecided: {_no_knee(found)}"
    limit = limit_of(_flat(cells, found))
    rig = limit in APPARATUS
    return (
        f"A closed loop flattens at {_spread(found.knee)} users and "
        f"{si(found.plateau_qps, '/s')}, where the limit is: {limit}. "
        f"{'That is the rig’s plateau, no pool’s knee' if rig else 'That is no limit of the rig'}"
    )


def _no_knee(found: Hinge) -> str:
    """Why the hinge shows none."""
    return found.knee.warnings[0].removeprefix("no knee: ").removeprefix("no knee shown: ")


def _flat(cells: pd.DataFrame, found: Hinge) -> pd.DataFrame:
    known = _valid(curve(cells))
    return known[known["concurrency"] >= found.knee.value]


# Figures


def figures(cells: pd.DataFrame, store: Store) -> dict[str, Figure]:
    """Every plot by name that the cells allow, its finding as its title."""
    draw = {
        "reference_wait": lambda title: _draw_wait(cells, title),
        "reference_in_flight": lambda title: _draw_in_flight(cells, store, title),
        "reference_cost": lambda title: _draw_cost(cells, title),
        "reference_knee": lambda title: _draw_knee(cells, title),
    }
    return {name: draw[name](title) for name, title in findings(cells, store).items()}


def _pools(cells: pd.DataFrame, variant: Variant = LIFO) -> pd.DataFrame:
    """The open loop through every pool of a variant; a share of none counts as half a request."""
    opening, order = variant
    own = last_attempts(cells[cells["arrivals"] == "poisson"])
    return _floored(own[(own["opening"] == opening) & (own["order"] == order)])


def _floored(cells: pd.DataFrame) -> pd.DataFrame:
    waits = {name: cells[name].astype(float).clip(lower=TICK_S) for name in WAITS}
    least = 0.5 / cells["scheduled"].astype(float)
    shares = {name: cells[name].astype(float).clip(lower=least) for name in SHARES}
    return cells.assign(**waits, **shares)


SHARES = ("pool_empty_share", "pool_empty_calm_share")
WAITS = ("acquire_p50_s", "acquire_p99_s", "acquire_calm_p99_s")


def _draw_wait(cells: pd.DataFrame, title: str) -> Figure:
    own, bursts = _pools(cells), _floored(bursty(cells))
    figure, (empty, wait) = new_figure(title, 1, 2, size=(11.5, 5.6))
    panel_title(empty, "requests that find the pool empty")
    panel_title(wait, "their wait for a connection")
    draw_pool_sizes(empty, own, "pool_empty_share")
    _draw_erlang(empty, load(cells).in_flight.value)
    _draw_bursts(empty, bursts, "pool_empty_share")
    _limit_line(empty, MOST_SHARE)
    draw_pool_sizes(wait, own, "acquire_p50_s")
    draw_pool_sizes(wait, own, "acquire_p99_s", dashed=True)
    spare = own[own["pool_size"] > IN_FLIGHT]  # the line of the others outlasts any stall
    for axes, column in ((empty, "pool_empty_calm_share"), (wait, "acquire_calm_p99_s")):
        calm = points(spare, ["pool_size"], column)
        axes.plot(calm["pool_size"], calm["median"], ":", color=INK, linewidth=1.2)
    _draw_bursts(wait, bursts, "acquire_p99_s")
    _limit_line(wait, LONG_WAIT_S)
    _name_waits(empty, wait, own)
    wait.legend(handles=_wait_marks(), loc="upper right", fontsize=8.5, frameon=False)
    shown = pd.concat([own, bursts])
    small_print(figure, shown, _wait_print(cells))
    return figure


def _name_waits(empty: Axes, wait: Axes, own: pd.DataFrame) -> None:
    for axes in (empty, wait):
        log_axis(axes.xaxis, "count", "pool size")
    log_axis(empty.yaxis, "share", "")
    log_axis(wait.yaxis, "s", "")
    names = {"acquire_p50_s": "p50", "acquire_p99_s": "p99", "acquire_calm_p99_s": "p99, calm"}
    lines = [(points(own, ["pool_size"], column), name) for column, name in names.items()]
    label_ends(wait, [
        (float(line["pool_size"].iloc[-1]), float(line["median"].iloc[-1]), name, NEUTRAL)
        for line, name in lines if len(line)
    ])  # fmt: skip


ONE = "Points without a bar: one replicate."


def _wait_print(cells: pd.DataFrame) -> str:
    found = load(cells)
    return (
        f"{AT}, prefilled, LIFO; W₀ {_spread(found.hold)}, L {_spread(found.in_flight)} in a pool "
        f"of {CONTROL}. {ONE} A share too small for a window to show and a wait below "
        f"{si(TICK_S, 's')} are drawn at that limit."
    )


def _bursts_said() -> str:
    peak, period_s = BURSTY.peak_to_mean, BURSTY.period_s
    return f"{peak:g} × the rate for {si(period_s / peak, 's')} of {si(period_s, 's')}"


def _wait_marks() -> list[Line2D]:
    bursts = f"bursts: {_bursts_said()}"
    return [
        Line2D([], [], color=INK, linestyle="--", label="theory: Erlang C at L"),
        Line2D([], [], linestyle="", label=bursts, **marker(_BURSTS)),
        Line2D([], [], color=INK, linestyle=":", label="calm: outside the rig's stalls"),
        Line2D([], [], color=MUTED, linestyle=":", label="the objective"),
    ]


_BURSTS = Style(pool_style(COVERS).colour, "*")


def _draw_erlang(axes: Axes, mean: float) -> None:
    if not mean > 0:
        return
    sizes = range(POOLS[0], CONTROL + 1)
    shares = [erlang_c(size, mean) for size in sizes]
    seen = [(size, share) for size, share in zip(sizes, shares, strict=True)
            if share >= LEAST_DRAWN]  # fmt: skip
    draw_theory(axes, [size for size, _ in seen], [share for _, share in seen])


LEAST_DRAWN = 1e-5  # a share far below what a window can show


def _draw_bursts(axes: Axes, bursts: pd.DataFrame, column: str) -> None:
    draw_line(axes, _BURSTS, bursts, "pool_size", column)


def _limit_line(axes: Axes, limit: float) -> None:
    axes.axhline(limit, color=MUTED, linewidth=0.9, linestyle=":", zorder=1)


def _draw_in_flight(cells: pd.DataFrame, store: Store, title: str) -> Figure:
    shown = _best(poisson(cells, CONTROL))
    held = _time_at(_held(shown, store))
    mean = float(shown["in_flight_mean"].median())
    figure, (axes,) = new_figure(title, size=(9.5, 5.2))
    style = pool_style(CONTROL)
    at = np.flatnonzero(held)
    axes.bar(at, held[at], width=0.9, color=style.colour, alpha=0.55, zorder=2)
    levels = np.arange(max(len(held), round(3 * mean)))
    theory = np.exp(levels * math.log(mean) - mean - special.gammaln(levels + 1))
    likely = theory >= held[at].min() / 3
    draw_theory(axes, levels[likely], theory[likely])
    log_axis(axes.yaxis, "share", "share of the time")
    linear_axis(axes.xaxis, "count", "connections held at once")
    _mark_peak(axes, held, in_flight(cells, store))
    footnote(
        figure,
        f"{AT} through a prefilled pool of {CONTROL}, {counted(len(shown), 'window')} together. "
        f"Dashed: Poisson at L {mean:.1f}, what theory gives where nobody waits. Lines: what was "
        "held at most for 99 % of the time, and at all.",
    )
    return figure


def _best(cells: pd.DataFrame) -> pd.DataFrame:
    """The evidence; without any what is valid, and failing that all."""
    known = evidence(cells)
    return known if len(known) else _valid(cells) if cells["valid"].any() else cells


def _time_at(held: list[HdrHistogram]) -> np.ndarray:
    """The share of the time for which each number of connections was held."""
    total = np.zeros(1 + max(each.get_max_value() for each in held))
    for each in held:
        numbers, lasted = recorded(each)
        total[numbers] += lasted
    return np.asarray(total / total.sum())


def _mark_peak(axes: Axes, held: np.ndarray, found: InFlight | None) -> None:
    """What is evidence; where nothing is, what these windows held together."""
    pooled = float(np.searchsorted(np.cumsum(held), P99))
    p99 = pooled if found is None else found.p99.value
    for at, name, left in ((p99, "p99", True), (len(held) - 1, "largest", False)):
        axes.axvline(at, color=INK, linewidth=1.2, zorder=2.1)
        axes.annotate(f"{name} {at:.3g}", (at, 0.97), (-5 if left else 5, 0), va="top",
                      xycoords=("data", "axes fraction"), textcoords="offset points",
                      ha="right" if left else "left", fontsize=9, **OVER_LINES)  # fmt: skip
    axes.set_xlim(-0.5, 1.15 * len(held))


def _draw_cost(cells: pd.DataFrame, title: str) -> Figure:
    figure, (ratios, *hops) = new_figure(title, 1, 4, size=(15.0, 6.0))
    panel_title(ratios, f"{LARGE:,} ÷ {COVERS}, paired, 95 % interval")
    rows = [
        (f"{each.name}, {NAMES[variant].split(',')[0]}", each.ratio, VARIANTS[variant])
        for figures in zip(*(added(cells, variant) for variant in NAMES), strict=True)
        for variant, each in zip(NAMES, figures, strict=True)
    ]
    draw_intervals(ratios, rows, expected=1.0, same=(1 - SAME, 1 + SAME))
    _ratio_axis(ratios, rows)
    for axes, (hop, (column, _)) in zip(hops, HOPS.items(), strict=True):
        panel_title(axes, f"descriptors of the {hop}")
        for variant in NAMES:
            draw_line(axes, VARIANTS[variant], _holders(cells, variant), "pool_size", column)
        log_axis(axes.xaxis, "count", "pool size")
        log_axis(axes.yaxis, "count", "")
    hops[0].legend(handles=_variant_marks(), loc="upper left", frameon=False)
    shown = pd.concat([_pools(cells, variant) for variant in NAMES])
    small_print(figure, shown, _cost_print())
    return figure


def _holders(cells: pd.DataFrame, variant: Variant) -> pd.DataFrame:
    """The open loop through every pool, and of the large one that descriptors are told by."""
    own = _pools(cells, variant)
    return own if variant == LAZY else pd.concat([own, closed(cells, LARGE, variant)])


def _ratio_axis(axes: Axes, rows: list[tuple[str, Estimate, Style]]) -> None:
    """From the equivalence up: an interval beyond WIDEST, of which nothing is known, runs off."""
    values = [ratio.value for _, ratio, _ in rows if math.isfinite(ratio.value)]
    ends = [end for _, ratio, _ in rows for end in (ratio.low, ratio.high) if math.isfinite(end)]
    within = [min(max(end, 1 / WIDEST), WIDEST) for end in ends]
    axes.set_xlim(min([1 - 2 * SAME, *values, *within]) - 0.02,
                  max([1 + 2 * SAME, *values, *within]) + 0.02)  # fmt: skip


WIDEST = 2.0


def _variant_marks() -> list[Line2D]:
    return [
        Line2D([], [], color=style.colour, marker=style.marker, label=NAMES[variant])
        for variant in NAMES
        for style in [VARIANTS[variant]]
    ]


def _cost_print() -> str:
    return (
        f"Ratios: of a closed loop with {USERS} users; grey: "
        f"±{_percent(SAME)}. {ONE} Lines that hide each other are equal. Descriptors: "
        f"open loop, {AT}, of the large prefilled pools both loops; {_middlebox_said()}."
    )


def _middlebox_said() -> str:
    return f"{' and '.join(MIDDLEBOXES)} are not on this path"


def _draw_knee(cells: pd.DataFrame, title: str) -> Figure:
    own, found = curve(cells), knee(cells)
    figure, (axes,) = new_figure(title, size=(9.5, 5.2))
    draw_line(axes, pool_style(LARGE), own, "concurrency", "qps")
    if found.shown:
        users = np.geomspace(own["concurrency"].min(), own["concurrency"].max(), 100)
        draw_theory(axes, users, np.minimum(found.slope_qps_per_user * users, found.plateau_qps))
        axes.axvspan(found.knee.low, found.knee.high, color=MUTED, alpha=0.15, lw=0)
    log_axis(axes.xaxis, "count", "users")
    axes.margins(x=0.1, y=0.15)
    log_axis(axes.yaxis, "/s", "requests per second")
    _name_bounds(axes, own)
    small_print(
        figure, own,
        f"Closed loop, pool {LARGE:,}, prefilled, LIFO, the same link. Dashed: the hinge; grey: "
        "its 95 % interval. Named: what limits the point.",
    )  # fmt: skip
    return figure


def _name_bounds(axes: Axes, own: pd.DataFrame) -> None:
    for point in points(own, ["concurrency"], "qps").itertuples():
        axes.annotate(str(point.bound_by), (float(point.concurrency), float(point.median)),
                      (6, -12), textcoords="offset points", fontsize=8.5, color=MUTED,
                      **OVER_LINES)  # fmt: skip


# Prose: what a reader should see, its numbers from the cells


def prose(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A paragraph of Markdown below each figure."""
    told = {
        "reference_wait": lambda: _wait_prose(cells, store),
        "reference_in_flight": lambda: _in_flight_prose(cells, store),
        "reference_cost": lambda: _cost_prose(cells),
        "reference_knee": lambda: _knee_prose(cells),
    }
    return {name: told[name]() for name in findings(cells, store)}


def _bunching_said(longer: float) -> str:
    least = "A rig that bunches arrivals makes waits longer, never shorter"
    if math.isnan(longer):
        return f"{least}."
    return (
        f"{least}: in the control, where nobody waits, {COVERS} or more were in flight for "
        f"{longer:.2g} × as long as Poisson arrivals have it."
    )


def _wait_prose(cells: pd.DataFrame, store: Store) -> str:
    own, bursts = poisson(cells, COVERS), bursty(cells)
    control = poisson(cells, CONTROL)
    rested = controlled(cells, own)
    return (
        f"{CASE} need {IN_FLIGHT:g} connections on average, by Little's law; pools of that size or "
        "less are the limit themselves, and their line grows for as long as the load lasts. What "
        "more is for is chance, for arrivals are random. "
        f"The median pool of {COVERS} was found empty by "
        f"{_median(own, 'pool_empty_share', 'share')} of Poisson arrivals "
        f"({_median(own, 'pool_empty_calm_share', 'share')} outside stalls of machine and link, on "
        "which titles and verdicts rest, as geometric means of what is evidence), and by "
        f"{_median(bursts, 'pool_empty_share', 'share')} in bursts of {_bursts_said()}; "
        f"the null control of {CONTROL} by "
        f"{_median(control, 'pool_empty_share', 'share')}. The objective: {OBJECTIVE}. "
        f"{len(rested)} of {counted(len(own), 'measurement')} of the pool of {COVERS} are "
        f"evidence beside a control that held; in {len(quiet(rested))} of these no core was above "
        f"{_percent(QUIET_CORE)}. {_bunching_said(bunching(cells, store))}"
    )


def _median(cells: pd.DataFrame, column: str, unit: Unit) -> str:
    """Over what is valid."""
    value = median_of(_valid(cells), column)
    return "not known" if math.isnan(value) else _read(value, unit)


def _in_flight_prose(cells: pd.DataFrame, store: Store) -> str:
    found = in_flight(cells, store)
    if (unfit := _unfit(cells)) or found is None:
        return f"Nothing to read here: {unfit}."
    known = load(cells)
    return (
        "Where nobody waits the number in flight is Poisson distributed whatever the times of "
        f"service (Palm), so its mean alone gives its peaks. Measured: W₀ {_spread(known.hold)}, "
        f"mean {_spread(known.in_flight)}, p99 {_spread(found.p99)} against {found.p99_theory}, "
        f"and at most {_largest_said(found)}, in {si(found.over_s, 's')} against "
        f"{found.largest_theory}. "
        "What lies right of theory are "
        "stalls of the machine, after which all that came meanwhile is in flight at once."
    )


def _cost_prose(cells: pd.DataFrame) -> str:
    told = ". ".join(filter(None, (_variant_prose(cells, variant) for variant in NAMES)))
    return (
        f"The same load through {LARGE:,} connections and through {COVERS}. "
        f"{told or 'Nothing of it was measured'}. A lazy pool never opens what it may hold: only "
        "what was out at once, most of it in the storm of the first requests (here at most "
        f"{CARRIERS} can be out). {_middlebox_said()}: each would hold as many entries as the link."
    )


def _variant_prose(cells: pd.DataFrame, variant: Variant) -> str:
    large = closed(cells, LARGE, variant)
    if large.empty:
        return ""
    found, more = added(cells, variant), descriptors(cells, variant)
    server = _median(large, "server_client_memory_bytes", "bytes")
    held = _descriptors_said(more)
    return (
        f"**{NAMES[variant]}**: {held}; {_ratios_said(found)}. The server's clients take {server}"
    )


def _knee_prose(cells: pd.DataFrame) -> str:
    found = knee(cells)
    if not found.shown:
        return f"No knee is claimed: {_no_knee(found)}."
    flat = _flat(cells, found)
    bound = int(flat["bound_by"].isin(APPARATUS).sum())
    return (
        f"The hinge of min(a·N, X) lies at {_spread(found.knee)} users and "
        f"{si(found.plateau_qps, '/s')}. Of {counted(len(flat), 'cell')} beyond it {bound} are "
        f"bound by the rig, most often: {limit_of(flat)}. A pool of {LARGE:,} has a connection for "
        f"each user, so this plateau says nothing of a pool's size. {CASE} are "
        f"{si(QPS / found.plateau_qps, 'share')} of it."
    )


# Tables


KEY = ["loop", "arrivals", "opening", "order", "pool_size", "concurrency"]


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """Each pool under each load; medians over valid replicates."""
    last = last_attempts(cells)
    shown = last.assign(arrivals=last["arrivals"].fillna(""))
    return pd.DataFrame(_row(key, own) for key, own in shown.groupby(KEY))


def _row(key: tuple[object, ...], own: pd.DataFrame) -> dict[str, object]:
    known = _valid(own)
    told = {name: _counted_whole(median_of(known, column) * factor)
            for name, (column, factor) in COLUMNS.items()}  # fmt: skip
    boxes = {f"{name} entries": _entries(known, column) for name, column in MIDDLEBOXES.items()}
    return {
        **dict(zip(NAMED, key, strict=True)),
        **told,
        **boxes,
        "bound by": limit_of(own),
        "valid": f"{len(known)} of {len(own)}",
    }


NAMED = ("loop", "arrivals", "opening", "order", "pool", "users")
COLUMNS = {
    "QPS": ("qps", 1.0),
    "W ms": ("command_mean_s", 1e3),
    "in flight": ("in_flight_mean", 1.0),
    "empty %": ("pool_empty_share", 100.0),
    "calm empty %": ("pool_empty_calm_share", 100.0),
    "wait p50 ms": ("acquire_p50_s", 1e3),
    "wait p99 ms": ("acquire_p99_s", 1e3),
    "calm wait p99 ms": ("acquire_calm_p99_s", 1e3),
    "p50 ms": ("latency_p50_s", 1e3),
    "p99 ms": ("latency_p99_s", 1e3),
    "client FDs": ("client_fds_peak", 1.0),
    "link FDs": ("link_fds_peak", 1.0),
    "server FDs": ("server_fds_peak", 1.0),
    "server clients MB": ("server_client_memory_bytes", 1e-6),
    "worker MB": ("client_rss_bytes", 1e-6),
    "client CPU µs": ("client_cpu_us_per_op", 1.0),
    "server CPU µs": ("server_cpu_us_per_op", 1.0),
    "busiest core %": ("core_busy_max", 100.0),
}


def _entries(cells: pd.DataFrame, column: str) -> float | None:
    """Of a middlebox; None where none was on the path."""
    if column not in cells or not cells[column].notna().any():
        return None
    return _counted_whole(median_of(cells, column))


def _counted_whole(value: float) -> float:
    """All digits of what is counted in thousands: descriptors, connections."""
    return float(round(value)) if abs(value) >= 1_000 else digits(value)
