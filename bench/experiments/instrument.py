"""The instrument measured by itself: can the figures of this run be trusted?

Each part of the plan provokes what a flaw would show in. A server that is stopped has to appear in
the percentiles as theory says (coordinated omission). The same cell measured twice must not be
called different (A/A). Arrivals must leave when they are due, a pool under twice its load must
still carry what it can, and the link must take as long as it is set to.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.gates import CORE_BUSY
from bench.analysis.queueing import stopped_percentile
from bench.analysis.replicates import (
    APPARATUS,
    SAME,
    evidence,
    last_attempts,
    median_of,
    paired_ratios,
)
from bench.analysis.sentences import counted
from bench.analysis.statistics import (
    Equivalence,
    differs,
    equivalence,
    false_calls,
    log_t_interval,
    quantiles,
)
from bench.analysis.steady import MSER_FEWEST, mser5
from bench.figures import audit
from bench.figures.axes import linear_axis, log_axis
from bench.figures.cells import any_invalid, cross_out, draw_line
from bench.figures.curves import draw_theory
from bench.figures.distributions import (
    ccdf_axes,
    draw_ccdf,
    draw_percentiles,
    of_histogram,
    of_times,
    percentile_axes,
)
from bench.figures.intervals import draw_intervals
from bench.figures.sheet import footnote, new_figure, panel_title
from bench.figures.style import (
    CLIENTS,
    CORRECTED,
    CROSS,
    INK,
    MUTED,
    NEUTRAL,
    UNCORRECTED,
    Style,
    marker,
    pool_style,
)
from bench.figures.units import digits, si
from bench.model import (
    Arrivals,
    Cell,
    Estimate,
    Outage,
    Outcome,
    Plan,
    Profile,
    Row,
    Verdict,
    Workload,
)
from bench.store import Store, derived

NAME = "instrument"
QUESTION = "Can the figures of this run be trusted?"
CLAIMS = {
    "I1": "Latency percentiles hold what callers wait while the server is stopped",
    "I2": "Two measurements of the same cell are not told apart",
    "I3": "Arrivals leave when they are due",
    "I4": "Under twice its load a pool carries what it can",
}

REPLICATES: dict[Profile, int] = {"smoke": 1, "standard": 5, "full": 10}
SHORT_S: dict[Profile, float] = {"smoke": 0.4, "standard": 0.5, "full": 1.0}
LONG_S: dict[Profile, float] = {"smoke": 1.0, "standard": 2.0, "full": 5.0}
CARRIERS = 500  # far more than any pool here holds, so that its line stands at the pool

# The proof: a stop of 0.14 of the window puts p90, p95 and p99 at 2/7, 9/14 and 13/14 of it.
PROOF_S: dict[Profile, float] = {"smoke": 3.0, "standard": 10.0, "full": 10.0}
STOP_AT = 0.3  # of the window: a stopped server's backlog is gone before the window ends
STOP_SHARE, PROOF_QPS, PROOF_POOL, PROOF_CARRIERS = 0.14, 250.0, 5, 20
PROOF_AT = (0.90, 0.95, 0.99)
PROOF_WITHIN = 0.10
PROOF_SERVER_BUSY = 0.20
PROOF_BACKLOG = 2.0  # × what arrives during the stop

SCHEDULE_QPS, SCHEDULE_RTT_S, SCHEDULE_POOL = 10_000.0, 0.001, 20
SERVED, LAG_P50_S, LAG_P99_S, BUSY = 0.995, 0.1e-3, 0.3e-3, 0.5
CEILING_QPS, CEILING_POOL = 30_000.0, 50
OVERLOAD_POOL, OVERLOAD_TIMES, CARRIED = 10, 2.0, 0.95
OVERLOAD_BACKLOG = 2_000
LINK_USERS, LINK_RTT_S, LINK_ONE_S = (1, 10, 50, 200), 0.001, 1.35e-3
LINK_QPS, LINK_CPU_US = 40_000.0, 20.0
CLIENT_USERS = 50
SAME_USERS, SAME_RTT_S = 100, 0.010

LOOPS = {"closed": "o", "open": "^"}  # a marker each

ARMS = ("a", "b")
COMPARED = {
    "qps": "requests per second",
    "latency_p50_s": "latency p50",
    "latency_p99_s": "latency p99",
    "server_cpu_us_per_op": "server CPU per operation",
    "client_cpu_us_per_op": "client CPU per operation",
}
FALSE_CALLS = 0.10
LATE = ("send_lag: ", "served: ", "backlog: ")  # gates on the generator's own schedule
SURELY = 0.99  # of a difference between a cell and itself: five figures are looked at
COMPARED_REPLICATES = 3  # as many as the standard profile's comparisons rest on
FEWEST_PAIRS = 5


def plan(profile: Profile, workload: Workload, workers: int) -> Plan:
    """A/A in every block, every other part once. One worker, however many the run has: each part's
    figure is that of one."""
    same = tuple(_same(arm, profile, workload) for arm in ARMS)
    return Plan(same, REPLICATES[profile], once=tuple(_parts(profile, workload)))


def _same(arm: str, profile: Profile, workload: Workload) -> Cell:
    return Cell(
        NAME, SAME_USERS, SAME_USERS, rtt_s=SAME_RTT_S, workload=workload, arm=arm,
        measure_s=SHORT_S[profile], warmup_s=0.1,
    )  # fmt: skip


def _parts(profile: Profile, workload: Workload) -> list[Cell]:
    short_s, long_s, proof_s = SHORT_S[profile], LONG_S[profile], PROOF_S[profile]

    def closed(arm: str, pool: int, users: int, rtt_s: float, **more: object) -> Cell:
        settings = {"measure_s": short_s, "warmup_s": 0.1, "workload": workload, **more}
        return Cell(NAME, pool, users, rtt_s=rtt_s, arm=arm, **settings)  # type: ignore[arg-type]

    def opened(arm: str, pool: int, qps: float, rtt_s: float, **more: object) -> Cell:
        arriving = {"arrivals": Arrivals(), "offered_qps": qps, "loop": "open"}
        return closed(arm, pool, CARRIERS, rtt_s, **{**arriving, **more})

    stop = Outage("stop", STOP_AT * proof_s, round(STOP_SHARE * proof_s, 3))
    backlog = Arrivals(backlog=OVERLOAD_BACKLOG)
    twice = OVERLOAD_TIMES * OVERLOAD_POOL / SCHEDULE_RTT_S
    parts = [
        # Evenly spaced: by chance 19 more or fewer of 350 would move p90 by a fifth. Few enough for
        # the queue to be gone soon after the stop, which theory takes for no time at all; and with
        # fewer carriers than wait, so that the backlog has a part in it.
        replace(opened("proof", PROOF_POOL, PROOF_QPS, 0.0, arrivals=Arrivals("constant"),
                       measure_s=proof_s, outage=stop),
                concurrency=PROOF_CARRIERS),
        opened("schedule", SCHEDULE_POOL, SCHEDULE_QPS, SCHEDULE_RTT_S,
               measure_s=long_s, warmup_s=0.2, keep_requests=True),
        opened("warm-up", SCHEDULE_POOL, SCHEDULE_QPS / 2, SCHEDULE_RTT_S,
               measure_s=long_s / 2, warmup_s=0.0, opening="lazy", keep_requests=True),
        opened("ceiling", CEILING_POOL, CEILING_QPS, 0.0),
        closed("capacity", OVERLOAD_POOL, 5 * OVERLOAD_POOL, SCHEDULE_RTT_S),
        opened("overload", OVERLOAD_POOL, twice, SCHEDULE_RTT_S, arrivals=backlog, warmup_s=0.3),
    ]  # fmt: skip
    parts += [closed("link", max(LINK_USERS), users, LINK_RTT_S) for users in LINK_USERS]
    parts += [
        closed("client", CLIENT_USERS, CLIENT_USERS, 0.0, client=client)
        for client in ("lean", "redis-py")
    ]
    return parts


def part(cells: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The last attempts at one part's cells."""
    return last_attempts(cells[cells["arm"] == arm])


# The proof


class Stop(NamedTuple):
    """What a stopped server must give at one percentile, in seconds, and what was recorded: from
    the intended time, and (`uncorrected`) as tools record it that time a command on its wire."""

    share: float
    theory_s: float
    recorded_s: float
    uncorrected_s: float


def proof(cells: pd.DataFrame, store: Store) -> list[Stop]:
    """Theory beside record at every percentile of the proof; empty where it was not measured."""
    ran = part(cells, "proof")
    if ran.empty:
        return []
    row = ran.iloc[0]
    recorded, uncorrected = (
        quantiles(store.histogram(row["cell"], row["block"], row["attempt"], tag), PROOF_AT)
        for tag in ("latency", "command")
    )
    stop_s, window_s = float(row["fault_s"]), float(row["measured_s"])
    theory = [stopped_percentile(q, stop_s, window_s) for q in PROOF_AT]
    return [
        Stop(share, theory_s, told, timed)
        for share, theory_s, told, timed in zip(
            PROOF_AT, theory, recorded, uncorrected, strict=True
        )
        if told is not None and timed is not None
    ]


# A/A


class Comparison(NamedTuple):
    """One figure of the cell that was measured twice: the ratio over its pairs, a block each; in
    how many of the `ways` to compare with `COMPARED_REPLICATES` of them they are told apart; and
    whether all of them show it to be the same. `surely` has the wider interval of `SURELY`."""

    column: str
    ratio: Estimate
    surely: Estimate
    calls: int
    ways: int
    same: Equivalence


def comparisons(cells: pd.DataFrame) -> list[Comparison]:
    """A/A for each figure compared, over the blocks in which both arms are evidence."""
    return [_comparison(cells, column) for column in COMPARED]


def _comparison(cells: pd.DataFrame, column: str) -> Comparison:
    first, second = (evidence(part(cells, arm)) for arm in ARMS)
    ratios = paired_ratios(second, first, column)
    both = log_t_interval(ratios), log_t_interval(ratios, SURELY)
    calls = ways = 0
    if len(ratios) >= COMPARED_REPLICATES:
        _, calls, ways = false_calls(ratios, COMPARED_REPLICATES)
    return Comparison(column, *both, calls, ways, equivalence(ratios))


def _valid(cells: pd.DataFrame) -> pd.DataFrame:
    return cells[cells["valid"]]


# Claims


def claims(cells: pd.DataFrame, store: Store) -> list[Verdict]:
    """What the instrument promises, each judged by a rule that was written before the data."""
    return [
        _judge_proof(cells, store),
        _judge_same(cells),
        _judge_schedule(cells),
        _judge_overload(cells),
    ]


def _judge_proof(cells: pd.DataFrame, store: Store) -> Verdict:
    ran = part(cells, "proof")
    stops = proof(cells, store)
    estimates = {f"p{100 * s.share:g} recorded ÷ theory": _one(s.recorded_s / s.theory_s)
                 for s in stops}  # fmt: skip
    estimates |= {f"p{100 * s.share:g} uncorrected ÷ theory": _one(s.uncorrected_s / s.theory_s)
                  for s in stops}  # fmt: skip
    outcome, reason = _proof_outcome(ran, stops)
    return Verdict(
        "I1",
        CLAIMS["I1"],
        f"p90, p95 and p99 within {_percent(PROOF_WITHIN)} of D(1 − (1 − q)T/D), and none of those "
        f"timed on the wire is; server at most {_percent(PROOF_SERVER_BUSY)} busy, nothing "
        f"dropped, backlog at least {PROOF_BACKLOG:g} λD",
        outcome, reason, estimates, tuple(ran["cell"]),
    )  # fmt: skip


def _proof_outcome(ran: pd.DataFrame, stops: list[Stop]) -> tuple[Outcome, str]:
    if unfit := _unfit_for_proof(ran, stops):
        return "undecided", unfit
    said = ", ".join(
        f"p{100 * s.share:g} {si(s.recorded_s, 's')} (theory {si(s.theory_s, 's')}, on the wire "
        f"{si(s.uncorrected_s, 's')})" for s in stops
    )  # fmt: skip
    return ("refuted" if _off(stops) or _blind(stops) else "supported"), said


def _off(stops: list[Stop]) -> list[Stop]:
    """Those that were not recorded as theory says."""
    return [stop for stop in stops if not _near(stop.recorded_s, stop.theory_s)]


def _blind(stops: list[Stop]) -> list[Stop]:
    """Those that a clock on the wire would have told too: they prove nothing."""
    return [stop for stop in stops if _near(stop.uncorrected_s, stop.theory_s)]


def _near(seconds: float, theory_s: float) -> bool:
    return bool(abs(seconds / theory_s - 1) <= PROOF_WITHIN)


def _unfit_for_proof(ran: pd.DataFrame, stops: list[Stop]) -> str:
    """Why nothing follows from the cell; empty where it decides."""
    if ran.empty:
        return "not measured: it needs a server of the suite's own, to stop it"
    row = ran.iloc[0]
    busy = row["server_cpu_s"] / row["measured_s"]
    arriving = row["offered_qps"] * row["fault_s"]
    doubts = {
        _invalid(row): not row["valid"],
        f"the server was {_percent(busy)} busy": busy > PROOF_SERVER_BUSY,
        f"requests dropped: {row['dropped']:,.0f}": row["dropped"] > 0,
        f"the backlog of {row['backlog']:,.0f} is below {PROOF_BACKLOG:g} × {arriving:,.0f}":
            row["backlog"] < PROOF_BACKLOG * arriving,
        "too few requests for its percentiles": len(stops) < len(PROOF_AT),
    }  # fmt: skip
    return next((doubt for doubt, holds in doubts.items() if holds), "")


def _invalid(row: pd.Series) -> str:
    return f"its cell is invalid ({row['invalid_reasons']})"


def _judge_same(cells: pd.DataFrame) -> Verdict:
    found = comparisons(cells)
    share, made = _called(found)
    outcome: Outcome = "supported" if share <= FALSE_CALLS else "undecided"
    reason = (
        f"{_percent(share, 1)} of {made} overlapping comparisons from "
        f"{counted(found[0].ratio.n, 'pair')} call a difference"
    )
    if apart := [COMPARED[each.column] for each in found if differs(each.surely)]:
        outcome, reason = "refuted", f"{reason}; all pairs together tell apart {', '.join(apart)}"
    if few := _too_few(found):
        outcome, reason = "undecided", few
    return Verdict(
        "I2",
        CLAIMS["I2"],
        f"at most {_percent(FALSE_CALLS)} of comparisons by {COMPARED_REPLICATES} pairs call a "
        "difference (95 % interval of the ratio without 1); chance exceeds that now and then: "
        f"refuted where the {_percent(SURELY)} interval over all pairs leaves out 1 for a figure",
        outcome, reason,
        {COMPARED[each.column]: each.ratio for each in found},
        tuple(cells[cells["arm"].isin(ARMS)]["cell"].unique()),
        needs="" if few else "another run: chance alone calls more than that now and then",
    )  # fmt: skip


def _too_few(found: list[Comparison]) -> str:
    """Which figure has too few pairs to judge by; empty where all have enough."""
    fewest = min(found, key=lambda each: each.ratio.n)
    if fewest.ratio.n >= FEWEST_PAIRS:
        return ""
    return f"{counted(fewest.ratio.n, 'pair')} of {COMPARED[fewest.column]}, {FEWEST_PAIRS} needed"


def _called(found: list[Comparison]) -> tuple[float, int]:
    """Over all figures: the share of comparisons that call a difference, and their number."""
    ways = sum(each.ways for each in found)
    return (sum(each.calls for each in found) / ways if ways else math.nan), ways


def _judge_schedule(cells: pd.DataFrame) -> Verdict:
    return _judge_rows(
        Verdict(
            "I3",
            CLAIMS["I3"],
            f"at {SCHEDULE_QPS:,.0f}/s and {si(SCHEDULE_RTT_S, 's')}: at least "
            f"{_percent(SERVED, 1)} served, send lag p50 at most {LAG_P50_S * 1e3:g} ms and p99 at "
            f"most {LAG_P99_S * 1e3:g} ms, the worker at most {_percent(BUSY)} of a core",
            "undecided", "", {}, (),
        ),
        part(cells, "schedule"),
        schedule_rows(cells),
    )  # fmt: skip


def _judge_overload(cells: pd.DataFrame) -> Verdict:
    rows = overload_rows(cells)
    verdict = _judge_rows(
        Verdict(
            "I4",
            CLAIMS["I4"],
            f"at least {_percent(CARRIED)} of what the same pool carries in a closed loop, and by "
            "more than the spread of a cell that is measured again (A/A)",
            "undecided", "", {}, (),
        ),
        pd.concat([part(cells, arm) for arm in ("capacity", "overload")]),
        rows,
    )  # fmt: skip
    spread = _spread(evidence(pd.concat([part(cells, arm) for arm in ARMS]))["qps"])
    ratio = rows[0].value
    if verdict.outcome == "undecided" or ratio is None or not abs(ratio - CARRIED) <= spread:
        return verdict
    near = f"within the spread of a cell measured again, {_percent(spread, 1)}: {verdict.reason}"
    return replace(verdict, outcome="undecided", reason=near)


def _judge_rows(open_: Verdict, ran: pd.DataFrame, rows: list[Row]) -> Verdict:
    """`open_` decided: supported where every row reaches what it should, by valid cells alone, and
    not by those that something beside the generator held back: it would be blamed for that."""
    gated = [row for row in rows if row.reach]
    held_back = ran["bound_by"][ran["bound_by"].isin(APPARATUS - {"generator"})]
    late = ran[~ran["valid"]]["invalid_reasons"].map(_only_late)
    if len(late) and late.all() and not len(held_back):
        reason = "; ".join(filter(None, ran["invalid_reasons"]))
        return replace(open_, outcome="refuted", reason=reason, cells=tuple(ran["cell"].unique()))
    if not ran["valid"].all() or len(held_back):
        reasons = [*filter(None, ran["invalid_reasons"]), *(f"bound by {b}" for b in held_back)]
        return replace(open_, reason="; ".join(reasons))
    if not gated or any(row.reached is None for row in gated):
        return replace(open_, reason="not measured")
    named = {row.what.rpartition(": ")[2]: row for row in gated}
    return replace(
        open_,
        outcome="supported" if all(row.reached for row in gated) else "refuted",
        reason="; ".join(f"{n} {row.value:.4g} {row.unit} ({row.reach})"
                         for n, row in named.items()),
        estimates={n: _one(row.value, row.unit) for n, row in named.items()
                   if row.value is not None},
        cells=tuple(ran["cell"].unique()),
    )  # fmt: skip


def _only_late(reasons: str) -> bool:
    """Whether a cell is invalid for the generator's schedule alone: that is what is judged here."""
    return all(reason.startswith(LATE) for reason in reasons.split("; "))


def _one(value: float, unit: str = "") -> Estimate:
    return Estimate(value, math.nan, math.nan, unit, 1, ("no interval: one measurement",))


# The certificate's rows


def certificate(cells: pd.DataFrame, store: Store) -> list[Row]:
    """Every figure of the instrument that cells can tell, medians over what is valid."""
    return [
        *schedule_rows(cells),
        *ceiling_rows(cells),
        *overload_rows(cells),
        *link_rows(cells),
        *carried_rows(cells),
        *client_rows(cells),
        *same_rows(cells),
        *proof_rows(cells, store),
    ]


def _busy(cells: pd.DataFrame) -> pd.Series:
    return cells["client_cpu_s"] / cells["measured_s"]


def _known(row: Row) -> Row:
    """A figure that no cell knows is none, and reaches nothing."""
    if row.value is None or math.isfinite(row.value):
        return row
    return replace(row, value=None, reached=None, note="not known")


def schedule_rows(cells: pd.DataFrame) -> list[Row]:
    """How well a worker keeps 10,000 arrivals a second."""
    known = _valid(part(cells, "schedule"))
    what = f"open loop, {SCHEDULE_QPS:,.0f}/s at {si(SCHEDULE_RTT_S, 's')}, pool {SCHEDULE_POOL}"
    if known.empty:
        return [Row(what, None, "", note="no valid cell")]
    served = float(_kept_share(known).median())
    p50_s, p99_s = (median_of(known, f"send_lag_p{p}_s") for p in (50, 99))
    busy = float(_busy(known).median())
    return [
        _known(row)
        for row in (
            Row.at_least(f"{what}: served", served * 100, "%", SERVED * 100),
            Row.at_most(f"{what}: send lag p50", p50_s * 1e3, "ms", LAG_P50_S * 1e3),
            Row.at_most(f"{what}: send lag p99", p99_s * 1e3, "ms", LAG_P99_S * 1e3),
            Row.at_most(f"{what}: worker busy", busy * 100, "% of a core", BUSY * 100),
        )
    ]


def _kept_share(cells: pd.DataFrame) -> pd.Series:
    """Of the arrivals due within the window, how many were done within it, or served at all: what
    only the drain served was not kept up with."""
    done = cells["qps"] * cells["measured_s"] / cells["scheduled"]
    return done.clip(upper=cells["served_share"])


def ceiling_rows(cells: pd.DataFrame) -> list[Row]:
    """Whether 30,000 arrivals a second pass the gates at RTT 0."""
    ran = part(cells, "ceiling")
    if ran.empty:
        return []
    row = ran.iloc[-1]
    busy = _percent(_busy(ran).iloc[-1])
    note = row["invalid_reasons"] or f"bound by {row['bound_by']}, {busy} busy"
    held = row["valid"] and row["bound_by"] == "users"
    # Not what arrived: of so few seconds' arrivals chance alone takes off a hundredth.
    held_qps = float(row["offered_qps"] * _kept_share(ran).iloc[-1]) if held else 0.0
    return [Row.at_least("open loop at RTT 0 with gates green", held_qps, "/s",
                         SERVED * CEILING_QPS, note)]  # fmt: skip


def overload_rows(cells: pd.DataFrame) -> list[Row]:
    """What a pool carries of twice its load, against what it carries in a closed loop."""
    carried, capacity = (_valid(part(cells, arm)) for arm in ("overload", "capacity"))
    ratios = paired_ratios(carried, capacity, "qps")
    if not ratios:
        return [Row("overload: achieved ÷ capacity", None, "×", note="no valid pair of cells")]
    dropped, failed = (median_of(carried, name) for name in ("dropped", "errors"))
    return [
        Row.at_least("overload: achieved ÷ capacity", float(pd.Series(ratios).median()), "×",
                     CARRIED, f"{dropped:,.0f} dropped, {failed:,.0f} failed"),
        Row("overload: worker's memory", median_of(carried, "client_rss_bytes") / 1e6, "MB"),
    ]  # fmt: skip


def link_rows(cells: pd.DataFrame) -> list[Row]:
    """The round trip that users measure, beside the one the link is set to."""
    linked = _valid(part(cells, "link"))
    rows = []
    for users, own in linked.groupby("concurrency"):
        what = f"round trip at {si(LINK_RTT_S, 's')}, {counted(users, 'user')}"
        p50_ms = median_of(own, "command_p50_s") * 1e3
        note = f"bound by {own['bound_by'].iloc[-1]}"
        row = Row(what, p50_ms, "ms", note=note)
        one = Row.at_most(what, p50_ms, "ms", LINK_ONE_S * 1e3, note)
        rows.append(_known(one if users == 1 else row))
    return rows


def carried_rows(cells: pd.DataFrame) -> list[Row]:
    """What the link carries with the most users it is measured with, and what that costs it."""
    linked = _valid(part(cells, "link"))
    linked = linked[linked["concurrency"] == max(LINK_USERS)]
    if linked.empty:
        return []
    what = f"link at {si(LINK_RTT_S, 's')}, {max(LINK_USERS)} users"
    cpu_us = median_of(linked, "link_cpu_us_per_op")
    return [
        _known(Row.at_least(what, median_of(linked, "qps"), "/s", LINK_QPS)),
        _known(Row.at_most(f"{what}: its CPU per request", cpu_us, "µs", LINK_CPU_US)),
    ]


def client_rows(cells: pd.DataFrame) -> list[Row]:
    """What each client carries in a closed loop without a link."""
    return [
        Row(f"closed loop, {client}, {CLIENT_USERS} users at RTT 0", median_of(own, "qps"), "/s",
            note=f"bound by {own['bound_by'].iloc[-1]}")
        for client, own in _valid(part(cells, "client")).groupby("client")
    ]  # fmt: skip


def same_rows(cells: pd.DataFrame) -> list[Row]:
    """How far the same cell's measurements lie apart, and how often they are told apart."""
    both = _valid(pd.concat([part(cells, arm) for arm in ARMS]))
    found = comparisons(cells)
    share, made = _called(found)
    rows = [
        _known(Row(f"A/A: spread of {COMPARED[each.column]}", 100 * _spread(both[each.column]), "%",
                   note=f"of {both[each.column].notna().sum()}; {_resolution(each.same)}"))
        for each in found
    ]  # fmt: skip
    what = "A/A: comparisons that call a difference"
    if few := _too_few(found):
        return [*rows, Row(what, None, "%", note=few)]
    return [*rows, Row.at_most(what, 100 * share, "%", 100 * FALSE_CALLS, f"of {made}")]


def _resolution(same: Equivalence) -> str:
    pairs = counted(same.ratio.n, "pair")
    if math.isnan(same.detectable):
        return f"{pairs}: no resolution"
    verb = "shown" if same.equivalent else "not shown"
    return (
        f"{pairs} would find {_percent(same.detectable, 1)}; "
        f"the same within {_percent(same.margin)}: {verb}"
    )


def _spread(values: pd.Series) -> float:
    """The coefficient of variation."""
    return float(values.std(ddof=1) / values.mean())


def proof_rows(cells: pd.DataFrame, store: Store) -> list[Row]:
    """The stopped server's percentiles against theory, where its cell decides."""
    stops = proof(cells, store)
    if unfit := _unfit_for_proof(part(cells, "proof"), stops):
        return [Row("server stopped: recorded ÷ theory", None, "×", note=unfit)]
    return [
        Row(f"server stopped: p{100 * stop.share:g} recorded ÷ theory",
            stop.recorded_s / stop.theory_s, "×", f"1 ± {PROOF_WITHIN:g}",
            _near(stop.recorded_s, stop.theory_s),
            f"timed on the wire: {si(stop.uncorrected_s, 's')}")
        for stop in stops
    ]  # fmt: skip


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


# Tables


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """Each part of the instrument's plan; medians over replicates."""
    last = last_attempts(cells)
    shown = last.assign(busy=_busy(last))
    grouped = shown.groupby(["arm", "loop", "client", "pool_size", "concurrency", "rtt_s"])
    return pd.DataFrame(
        {
            "part": arm,
            "loop": loop,
            "client": client,
            "pool": pool,
            "users": users,
            "RTT ms": round(rtt_s * 1e3),
            "QPS": round(own["qps"].median()),
            "p50 ms": _milliseconds(own["latency_p50_s"]),
            "p99 ms": _milliseconds(own["latency_p99_s"]),
            "lag p99 ms": _milliseconds(own["send_lag_p99_s"]),
            "worker %": round(100 * own["busy"].median()),
            "bound by": own["bound_by"].mode()[0],
            "valid": f"{int(own['valid'].sum())} of {len(own)}",
        }
        for (arm, loop, client, pool, users, rtt_s), own in grouped
    )


def _milliseconds(seconds: pd.Series) -> float:
    return digits(1e3 * seconds.astype(float).median())


# The warm-up


class WarmUp(NamedTuple):
    """A cold start: when each request was due and how long it took, in seconds, and where MSER-5
    cuts it (None: it never settled by that rule)."""

    due_s: np.ndarray
    latency_s: np.ndarray
    cut_s: float | None


def warm_up(cells: pd.DataFrame, store: Store) -> WarmUp | None:
    """The cell that starts with an empty pool and no warm-up; None where it was not measured."""
    for row in part(cells, "warm-up").itertuples():
        requests = store.requests(row.cell, row.block, row.attempt)
        # From the first, which was due some milliseconds before the window could open.
        inside = requests[requests["intended_s"] <= row.measured_s]
        due_s = inside["intended_s"].to_numpy() - inside["intended_s"].min()
        latency_s = (inside["done_s"] - inside["intended_s"]).to_numpy()
        cut = mser5(latency_s) if len(latency_s) >= MSER_FEWEST else None
        return WarmUp(due_s, latency_s, float(due_s[cut]) if cut else cut)
    return None


# What the figures say


@derived
def findings(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A sentence for each figure that these cells allow: its title."""
    known = {
        "stopped_server": _proof_finding(cells, store),
        "schedule": _schedule_finding(cells),
        "warm_up": _warm_up_finding(cells, store),
        "same_cell": _same_finding(cells),
        "link_accuracy": _link_finding(cells),
        "generator_busy": _generator_finding(store.cells()),
        "little_all_cells": audit.finding(store.cells()),
    }
    return {name: said for name, said in known.items() if said}


def _proof_finding(cells: pd.DataFrame, store: Store) -> str:
    ran, stops = part(cells, "proof"), proof(cells, store)
    if ran.empty:
        return ""
    if unfit := _unfit_for_proof(ran, stops):
        return f"Whether a stopped server is recorded as callers feel it is undecided: {unfit}"
    widest = max(abs(s.recorded_s / s.theory_s - 1) for s in stops)
    wire_s = max(s.uncorrected_s for s in stops)
    named = f"p{100 * stops[0].share:g}–p{100 * stops[-1].share:g}"
    if _off(stops):
        off = _percent(widest)
        return f"A stopped server is not recorded as callers feel it: {named} off by up to {off}"
    if _blind(stops):
        return f"This stop proves nothing: timed on the wire, it shows too, {si(wire_s, 's')} long"
    return (
        f"A stopped server shows as callers feel it: {named} within {_percent(widest, 1)} of "
        f"theory; timed on the wire, they read {si(wire_s, 's')} at most"
    )


def _schedule_finding(cells: pd.DataFrame) -> str:
    ran = part(cells, "schedule")
    if ran.empty:
        return ""
    row = ran.iloc[0]
    if not row["valid"]:
        return f"Whether arrivals leave when they are due is undecided: {_invalid(row)}"
    p50, p99 = (si(row[f"send_lag_p{p}_s"], "s") for p in (50, 99))
    return (
        f"Of {si(row['offered_qps'], '/s')}, half leave within {p50} of when they are due and "
        f"99 % within {p99}, at {_percent(_busy(ran).iloc[0])} of a core"
    )


def _warm_up_finding(cells: pd.DataFrame, store: Store) -> str:
    found = warm_up(cells, store)
    if found is None:
        return ""
    row = part(cells, "warm-up").iloc[0]
    if not row["valid"]:
        return f"Where a cold start settles is undecided: {_invalid(row)}"
    if found.cut_s is None:
        return "A cold start never settled within its window, by MSER-5"
    if not found.cut_s:
        return "A cold start needs no cut, by MSER-5"
    before, after = (
        float(np.median(found.latency_s[chosen]))
        for chosen in (found.due_s < found.cut_s, found.due_s >= found.cut_s)
    )
    return (
        f"MSER-5 cuts {si(found.cut_s, 's')} off a cold start: before it a median of "
        f"{si(before, 's')}, after it {si(after, 's')}"
    )


def _same_finding(cells: pd.DataFrame) -> str:
    found = comparisons(cells)
    if not cells["arm"].isin(ARMS).any():
        return ""
    if few := _too_few(found):
        return f"Whether a cell is told from itself is undecided: {few}"
    share, made = _called(found)
    allowed = "beyond" if share > FALSE_CALLS else "within"
    return (
        f"A cell is told apart from itself in {round(share * made)} of {made} comparisons, "
        f"{allowed} the {_percent(FALSE_CALLS)} allowed"
    )


def _link_finding(cells: pd.DataFrame) -> str:
    ran = part(cells, "link")
    if ran.empty:
        return ""
    known = _valid(ran).sort_values("concurrency")
    if known.empty:
        return f"What the link adds is undecided: none of {counted(len(ran), 'cell')} is valid"
    said = " and ".join(
        f"{si(row['command_p50_s'], 's')} with {counted(row['concurrency'], 'user')} "
        f"(bound by {row['bound_by']})"
        for _, row in known.iloc[[0, -1]].drop_duplicates("concurrency").iterrows()
    )
    return f"Through a link set to {si(known['rtt_s'].iloc[0], 's')} a command takes {said}"


def _generator_finding(cells: pd.DataFrame) -> str:
    last = last_attempts(cells)
    bound = int((last["bound_by"] == "generator").sum())
    free = last[last["bound_by"] != "generator"]
    busiest = (
        f"; in all others a worker took at most {_percent(_worker_share(free).max())} of a core"
    )
    invalid = int((~last["valid"]).sum())
    return (
        f"The generator was the limit in {bound} of {counted(len(last), 'cell')}"
        f"{busiest if len(free) else ''}{f'; {invalid} of all are invalid' if invalid else ''}"
    )


def _worker_share(cells: pd.DataFrame) -> pd.Series:
    return _busy(cells) / cells["workers"]


# Figures


def figures(cells: pd.DataFrame, store: Store) -> dict[str, Figure]:
    """Every plot that these cells allow by name, its finding as its title."""
    draw = {
        "stopped_server": lambda title: _draw_proof(cells, store, title),
        "schedule": lambda title: _draw_schedule(cells, store, title),
        "warm_up": lambda title: _draw_warm_up(cells, store, title),
        "same_cell": lambda title: _draw_same(cells, title),
        "link_accuracy": lambda title: _draw_link(cells, title),
        "generator_busy": lambda title: _draw_generator(store.cells(), title),
        "little_all_cells": lambda title: audit.draw(store.cells(), title),
    }
    return {name: draw[name](title) for name, title in findings(cells, store).items()}


def _draw_proof(cells: pd.DataFrame, store: Store, title: str) -> Figure:
    row = part(cells, "proof").iloc[0]
    figure, (shares, time) = new_figure(title, 1, 2, size=(11.0, 5.2))
    panel_title(shares, "percentiles of the window")
    for tag, style, name in (
        ("latency", CORRECTED, "from when it was due"),
        ("command", UNCORRECTED, "timed on the wire"),
    ):
        histogram = store.histogram(row["cell"], row["block"], row["attempt"], tag)
        draw_percentiles(shares, style, of_histogram(histogram))
        shares.plot([], [], color=style.colour, label=name)
    ladder = 1 - np.logspace(0, -3, 200)[1:]
    draw_theory(shares, ladder, [stopped_percentile(q, row["fault_s"], row["measured_s"])
                                 for q in ladder])  # fmt: skip
    shares.plot([], [], color=INK, linestyle="--", label="theory")
    percentile_axes(shares, "latency")
    shares.legend(loc="upper left", frameon=False)
    _draw_stop(time, row, store)
    footnote(
        figure,
        f"{si(row['offered_qps'], '/s')}, {row['arrivals']}, for {row['measured_s']:.3g} s; server "
        f"stopped (SIGSTOP) for {row['fault_s']:.3g} s of it. Theory: D − (1 − q)·T. On the wire: "
        "from the connection in hand to the reply, as tools measure that send when they may. "
        f"{_limit(row)}",
    )
    return figure


def _limit(row: pd.Series) -> str:
    """What of the apparatus bounds the one cell a figure shows; that it is invalid is its title."""
    return f"Bound by the {row['bound_by']}." if row["bound_by"] in APPARATUS else ""


def _draw_stop(axes: Axes, row: pd.Series, store: Store) -> None:
    panel_title(axes, "longest latency in each interval, by when requests were due")
    series = store.series()
    mine = (series["cell"] == row["cell"]) & (series["block"] == row["block"])
    mine &= (series["attempt"] == row["attempt"]) & (series["source"] == "workers")
    seen = series[mine].dropna(subset=["latency_max_s"])
    axes.step(seen["at_s"], seen["latency_max_s"], where="post", color=CORRECTED.colour)
    linear_axis(axes.xaxis, "s", "in the window")
    linear_axis(axes.yaxis, "s", "")


def _draw_schedule(cells: pd.DataFrame, store: Store, title: str) -> Figure:
    row = part(cells, "schedule").iloc[0]
    style = pool_style(int(row["pool_size"]))
    key = row["cell"], row["block"], row["attempt"]
    figure, (lag, between) = new_figure(title, 1, 2, size=(11.0, 5.2))
    panel_title(lag, "send lag: sent − due")
    draw_ccdf(lag, style, of_histogram(store.histogram(*key, "send_lag")))
    for limit_s, share in ((LAG_P50_S, 0.5), (LAG_P99_S, 0.01)):
        lag.plot([limit_s], [share], linestyle="", marker=7, color=INK, markersize=8)
    ccdf_axes(lag, "send lag", log_times=True)
    lag.set_ylabel("requests as late or later")
    _draw_gaps(between, style, store.requests(*key), row["offered_qps"])
    footnote(
        figure,
        f"{si(row['offered_qps'], '/s')} Poisson through the link at {si(row['rtt_s'], 's')}, pool "
        f"{row['pool_size']}. Marks: half within {si(LAG_P50_S, 's')}, 99 % within "
        f"{si(LAG_P99_S, 's')}. Theory: gaps are exponential. {_limit(row)}",
    )
    return figure


def _draw_gaps(axes: Axes, style: Style, requests: pd.DataFrame, qps: float) -> None:
    panel_title(axes, "gaps between requests, due and sent, beside theory")
    for column, dashed in (("intended_s", False), ("sent_s", True)):
        gaps = np.diff(np.sort(requests[column]))
        draw_ccdf(axes, style, of_times(gaps), dashed=dashed)
    axes.plot([], [], color=style.colour, label="due")
    axes.plot([], [], color=style.colour, linestyle="--", label="sent")
    reach = np.linspace(0, math.log(len(requests)) / qps, 50)
    draw_theory(axes, reach, np.exp(-qps * reach))
    axes.plot([], [], color=INK, linestyle="--", linewidth=1.2, label="theory")
    ccdf_axes(axes, "gap")
    axes.set_ylabel("gaps as long or longer")
    axes.legend(loc="upper right", frameon=False)


def _draw_warm_up(cells: pd.DataFrame, store: Store, title: str) -> Figure:
    found = warm_up(cells, store)
    assert found is not None, "there is a finding only where it was measured"
    row = part(cells, "warm-up").iloc[0]
    style = pool_style(int(row["pool_size"]))
    figure, (axes,) = new_figure(title, size=(11.0, 4.6))
    axes.plot(found.due_s, found.latency_s, ".", color=style.colour, markersize=2, alpha=0.5,
              rasterized=True)  # fmt: skip
    if found.cut_s is not None:
        axes.axvspan(0, found.cut_s, color=MUTED, alpha=0.15, lw=0)
    linear_axis(axes.xaxis, "s", "due after the first")
    log_axis(axes.yaxis, "s", "latency")
    footnote(
        figure,
        f"Every request of {si(row['offered_qps'], '/s')} Poisson to a lazy pool of "
        f"{row['pool_size']} at {si(row['rtt_s'], 's')}, from the first on. Grey: what MSER-5 "
        f"would cut. {_limit(row)}",
    )
    return figure


def _draw_same(cells: pd.DataFrame, title: str) -> Figure:
    found = comparisons(cells)
    figure, (ratios, spread) = new_figure(title, 1, 2, size=(11.0, 4.8))
    panel_title(ratios, "b ÷ a, paired, 95 % interval")
    draw_intervals(
        ratios,
        [(COMPARED[each.column], each.ratio, NEUTRAL) for each in found],
        expected=1.0,
        same=(1 / SAME, SAME),
    )
    panel_title(spread, "each measurement ÷ the median of all")
    _draw_spread(spread, cells)
    low, high = zip(*(axes.dataLim.intervalx for axes in (ratios, spread)), strict=True)
    for axes in (ratios, spread):  # one scale, that tells what is wide from what is narrow
        axes.set_xlim(min(low) - 0.02, max(high) + 0.02)
    footnote(
        figure,
        f"{SAME_USERS} users at {si(SAME_RTT_S, 's')}, pool {SAME_USERS}, measured twice in each "
        f"block. Grey: ±{_percent(SAME - 1)}, within which the sweep claims no difference.",
        invalid=any_invalid(pd.concat([part(cells, arm) for arm in ARMS])),
    )
    return figure


def _draw_spread(axes: Axes, cells: pd.DataFrame) -> None:
    both = pd.concat([part(cells, arm) for arm in ARMS])
    known, bad = _valid(both), both[~both["valid"]]
    for place, column in enumerate(COMPARED):
        middle = (known if len(known) else both)[column].median()
        axes.plot(known[column] / middle, [place] * len(known), **marker(NEUTRAL),
                  linestyle="", alpha=0.5)  # fmt: skip
        axes.plot(bad[column] / middle, [place] * len(bad), linestyle="", **CROSS)
    axes.axvspan(1 / SAME, SAME, color=MUTED, alpha=0.12, lw=0, zorder=0)
    axes.set_yticks(range(len(COMPARED)), [""] * len(COMPARED))
    axes.set_ylim(len(COMPARED) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def _draw_link(cells: pd.DataFrame, title: str) -> Figure:
    linked = part(cells, "link")
    figure, (axes,) = new_figure(title, size=(8.0, 4.8))
    draw_line(axes, pool_style(max(LINK_USERS)), linked, "concurrency", "command_p50_s")
    axes.axhline(LINK_RTT_S, color=INK, linestyle="--", linewidth=1.2, zorder=1)
    log_axis(axes.xaxis, "count", "users")
    linear_axis(axes.yaxis, "s", "median time of a command")
    hollow = bool(linked["bound_by"].isin(APPARATUS).any())
    footnote(figure, "Dashed: what the link is set to. What is above it is the link's own work, "
                     "the server's and the client's.", hollow=hollow,
             invalid=any_invalid(linked))  # fmt: skip
    return figure


def _draw_generator(cells: pd.DataFrame, title: str) -> Figure:
    last = last_attempts(cells)
    last = last.assign(busy=_worker_share(last), per_worker=last["qps"] / last["workers"])
    figure, (axes,) = new_figure(title, size=(10.5, 5.2))
    handles = []
    for (client, loop), own in last.groupby(["client", "loop"]):
        look = Style(CLIENTS[client].colour, LOOPS[loop])
        _dots(axes, look, own)
        handles.append(Line2D([], [], linestyle="", label=f"{client}, {loop} loop", **marker(look)))
    axes.axhline(CORE_BUSY, color=INK, linestyle="--", linewidth=1.2, zorder=1)
    log_axis(axes.xaxis, "/s", "requests per second and worker")
    linear_axis(axes.yaxis, "share", "a worker's share of one core")
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    footnote(
        figure,
        f"Every cell of the run. Dashed: {_percent(CORE_BUSY)}, from which the generator counts as "
        "the limit.",
        hollow=bool(last["bound_by"].isin(APPARATUS).any()),
        invalid=any_invalid(last),
    )
    return figure


def _dots(axes: Axes, style: Style, cells: pd.DataFrame) -> None:
    bound = cells["bound_by"].isin(APPARATUS)
    for hollow, own in _valid(cells).groupby(bound):
        axes.plot(own["per_worker"], own["busy"], linestyle="",
                  **marker(style, hollow=bool(hollow)))  # fmt: skip
    cross_out(axes, style, cells, "per_worker", "busy")


# Prose: what a reviewer should see, its numbers from the cells


def prose(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A paragraph of Markdown below each figure."""
    told = {
        "stopped_server": lambda: _proof_prose(cells, store),
        "schedule": lambda: _schedule_prose(cells),
        "warm_up": lambda: _warm_up_prose(store.cells()),
        "same_cell": lambda: _same_prose(cells),
        "link_accuracy": lambda: _link_prose(cells),
        "generator_busy": lambda: _generator_prose(store.cells()),
        "little_all_cells": lambda: audit.prose(store.cells()),
    }
    return {name: told[name]() for name in findings(cells, store)}


def _proof_prose(cells: pd.DataFrame, store: Store) -> str:
    row = part(cells, "proof").iloc[0]
    stops = proof(cells, store)
    table = "; ".join(
        f"p{100 * s.share:g} {si(s.recorded_s, 's')} against {si(s.theory_s, 's')}, on the wire "
        f"{si(s.uncorrected_s, 's')}" for s in stops
    )  # fmt: skip
    busy, served = row["server_cpu_s"] / row["measured_s"], row["served_share"]
    return (
        "Callers that arrive while the server stands still wait for the rest of its stop, so "
        "theory gives every percentile without a free parameter. A tool that waits for the reply "
        "before it sends the next request, or starts its clock when the command is sent, asks few "
        f"of them how long they waited (coordinated omission). Recorded: {table}. The server was "
        f"{_percent(busy)} busy, {row['dropped']:,.0f} of {row['scheduled']:,.0f} requests were "
        f"dropped, and {_percent(served, 2)} were served. The green steps on the right are a queue "
        "that drains: who arrived first waited longest."
    )


def _schedule_prose(cells: pd.DataFrame) -> str:
    known = part(cells, "schedule")
    row = known.iloc[0]
    return (
        "An open loop is only as good as its clock: a request that leaves late has waited already, "
        "and arrivals that leave in bunches make queues that callers would not. Left, how late "
        "requests left; right, whether they came as a Poisson process does, planned and in fact. "
        f"{_percent(row['served_share'], 2)} of {row['scheduled']:,.0f} arrivals were served, "
        f"{si(row['pool_empty_share'], 'share')} found the pool of {row['pool_size']} empty with "
        f"{row['in_flight_mean']:.1f} in flight on average and {row['in_flight_peak']} at most. "
        f"The machine's longest stall in this window was {si(row['hiccup_max_s'], 's')}; "
        f"{si(row['calm_share'], 'share')} of it was calm, and there the p99 of the wait for a "
        f"connection was {_wait(row, 'acquire_calm')} instead of {_wait(row, 'acquire')}."
    )


def _wait(row: pd.Series, kind: str) -> str:
    seconds = row[f"{kind}_p99_s"]
    return "not known" if pd.isna(seconds) else si(seconds, "s")


def _warm_up_prose(cells: pd.DataFrame) -> str:
    given = cells[cells["warmup_s"] > 0]
    settled = cells["gate_settled"].notna() if "gate_settled" in cells else cells["valid"]
    unsettled = int(cells["invalid_reasons"].str.contains("settled: ").sum())
    return (
        "This cell starts with no connection open and nothing cut, to show what a warm-up is for. "
        "MSER-5 drops from the front what makes the mean of the rest most certain. All other cells "
        f"of the run are cut by a fixed warm-up, of {si(given['warmup_s'].min(), 's')} to "
        f"{si(given['warmup_s'].max(), 's')}, and are then tested: of {int(settled.sum())} windows "
        f"long enough to tell, {unsettled} ran at another rate in their second half and are "
        "invalid for it."
    )


def _same_prose(cells: pd.DataFrame) -> str:
    found = comparisons(cells)
    bounds = [f"{COMPARED[each.column]} {_percent(each.same.detectable, 1)}"
              for each in found if math.isfinite(each.same.detectable)]  # fmt: skip
    same = [COMPARED[each.column] for each in found if each.same.equivalent]
    return (
        "The same cell twice in each block, in random order: whatever differs is noise. A method "
        "that finds a difference here would find one anywhere. Every choice of "
        f"{COMPARED_REPLICATES} pairs stands for a comparison of the standard profile. The "
        "smallest true difference that all pairs together would have found four times in five: "
        f"{', '.join(bounds) or 'not known'}. Shown to be the same within "
        f"{_percent(found[0].same.margin)}, by two one-sided tests: {', '.join(same) or 'none'}."
    )


def _link_prose(cells: pd.DataFrame) -> str:
    rows = "; ".join(f"{row.what.partition(', ')[2]} {row.value:.3g} {row.unit} ({row.note})"
                     for row in link_rows(cells) if row.value is not None)  # fmt: skip
    return (
        "The link is set to the same round trip throughout. With a single user it adds its own "
        "work and the server's; with more they queue for the cores that link, server and worker "
        f"share, and the cell says what bounds it. Measured: {rows or 'no valid cell'}."
    )


def _generator_prose(cells: pd.DataFrame) -> str:
    last = last_attempts(cells)
    bounds = last["bound_by"].value_counts()
    named = ", ".join(f"{part_} {count}" for part_, count in bounds.items())
    return (
        "A load generator that is itself the bottleneck measures itself. Each point is a cell; "
        f"what bounds it is decided for each, in this run: {named or 'none'}. Those bound by the "
        "rig are hollow, and no sentence about a pool rests on them."
    )
