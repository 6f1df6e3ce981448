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
from bench.analysis.queueing import stalled_percentile
from bench.analysis.replicates import APPARATUS, SAME, last_attempts, median_of, paired_ratios
from bench.analysis.sentences import counted
from bench.analysis.statistics import (
    Equivalence,
    equivalence,
    false_calls,
    log_t_interval,
    quantiles,
)
from bench.analysis.steady import mser5
from bench.figures import audit
from bench.figures.axes import linear_axis, log_axis
from bench.figures.cells import any_invalid, cross_out, draw_line
from bench.figures.curves import draw_curve, draw_theory
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
    INK,
    MUTED,
    NEUTRAL,
    UNCORRECTED,
    Style,
    marker,
    pool_style,
)
from bench.figures.units import si
from bench.model import Arrivals, Cell, Estimate, Outcome, Plan, Profile, Row, Verdict, Workload
from bench.store import Store

NAME = "instrument"
QUESTION = "Can the figures of this run be trusted?"

REPLICATES: dict[Profile, int] = {"smoke": 1, "standard": 5, "full": 10}
SHORT_S: dict[Profile, float] = {"smoke": 0.4, "standard": 0.5, "full": 1.0}
LONG_S: dict[Profile, float] = {"smoke": 1.0, "standard": 2.0, "full": 5.0}
CARRIERS = 500  # far more than any pool here holds, so that its line stands at the pool

# The proof: a stop of 0.14 of the window puts p90, p95 and p99 at 2/7, 9/14 and 13/14 of it.
PROOF_S: dict[Profile, float] = {"smoke": 3.0, "standard": 10.0, "full": 10.0}
STOP_SHARE, PROOF_QPS, PROOF_POOL = 0.14, 1_000.0, 20
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
CLIENT_USERS = 50
SAME_USERS, SAME_RTT_S = 100, 0.010

ARMS = ("a", "b")
COMPARED = {
    "qps": "requests per second",
    "latency_p50_s": "latency p50",
    "latency_p99_s": "latency p99",
    "server_cpu_us_per_op": "server CPU per operation",
    "client_cpu_us_per_op": "client CPU per operation",
}
FALSE_CALLS = 0.10
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

    backlog = Arrivals(backlog=OVERLOAD_BACKLOG)
    twice = OVERLOAD_TIMES * OVERLOAD_POOL / SCHEDULE_RTT_S
    parts = [
        opened("proof", PROOF_POOL, PROOF_QPS, 0.0,
               measure_s=proof_s, stop_s=round(STOP_SHARE * proof_s, 3)),
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


class Stall(NamedTuple):
    """What a stopped server must give at one percentile, in seconds, and what was recorded: from
    the intended time, and (`uncorrected`) as tools record it that time a command on its wire."""

    share: float
    theory_s: float
    recorded_s: float
    uncorrected_s: float


def proof(cells: pd.DataFrame, store: Store) -> list[Stall]:
    """Theory beside record at every percentile of the proof; empty where it was not measured."""
    ran = part(cells, "proof")
    if ran.empty:
        return []
    row = ran.iloc[0]
    recorded, uncorrected = (
        quantiles(store.histogram(row["cell"], row["block"], row["attempt"], tag), PROOF_AT)
        for tag in ("latency", "command")
    )
    theory = [stalled_percentile(q, row["stop_s"], row["measured_s"]) for q in PROOF_AT]
    return [
        Stall(share, theory_s, told, timed)
        for share, theory_s, told, timed in zip(
            PROOF_AT, theory, recorded, uncorrected, strict=True
        )
        if told is not None and timed is not None
    ]


# A/A


class Comparison(NamedTuple):
    """One figure of the cell that was measured twice: the ratio over its pairs, a block each; in
    how many of the `ways` to compare with `COMPARED_REPLICATES` of them they are told apart; and
    whether all of them show it to be the same."""

    column: str
    ratio: Estimate
    calls: int
    ways: int
    same: Equivalence


def comparisons(cells: pd.DataFrame) -> list[Comparison]:
    """A/A for each figure compared, over the blocks in which both arms are valid."""
    return [_comparison(cells, column) for column in COMPARED]


def _comparison(cells: pd.DataFrame, column: str) -> Comparison:
    first, second = (_valid(part(cells, arm)) for arm in ARMS)
    ratios = paired_ratios(second, first, column)
    ratio, same = log_t_interval(ratios), equivalence(ratios)
    if len(ratios) < COMPARED_REPLICATES:
        return Comparison(column, ratio, 0, 0, same)
    called = false_calls(ratios, COMPARED_REPLICATES)
    return Comparison(column, ratio, called.calls, called.ways, same)


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
    stalls = proof(cells, store)
    estimates = {f"p{100 * s.share:g} recorded ÷ theory": _one(s.recorded_s / s.theory_s)
                 for s in stalls}  # fmt: skip
    estimates |= {f"p{100 * s.share:g} uncorrected ÷ theory": _one(s.uncorrected_s / s.theory_s)
                  for s in stalls}  # fmt: skip
    outcome, reason = _proof_outcome(ran, stalls)
    return Verdict(
        "I1",
        "Latency percentiles hold what callers wait while the server is stopped",
        f"p90, p95 and p99 within {PROOF_WITHIN:.0%} of D(1 − (1 − q)T/D), and none of those timed "
        f"on the wire is; server at most {PROOF_SERVER_BUSY:.0%} busy, nothing dropped, backlog at "
        f"least {PROOF_BACKLOG:g} λD",
        outcome, reason, estimates, tuple(ran["cell"]),
    )  # fmt: skip


def _proof_outcome(ran: pd.DataFrame, stalls: list[Stall]) -> tuple[Outcome, str]:
    if ran.empty:
        return "undecided", "not measured: it needs a server of the suite's own, to stop it"
    row = ran.iloc[0]
    if unfit := _unfit_for_proof(row):
        return "undecided", unfit
    off = [stall for stall in stalls if not _near(stall.recorded_s, stall.theory_s)]
    blind = [stall for stall in stalls if _near(stall.uncorrected_s, stall.theory_s)]
    said = ", ".join(
        f"p{100 * s.share:g} {s.recorded_s:.3f} s (theory {s.theory_s:.3f}, on the wire "
        f"{s.uncorrected_s:.4f})" for s in stalls
    )  # fmt: skip
    return ("refuted" if off or blind else "supported"), said


def _near(seconds: float, theory_s: float) -> bool:
    return bool(abs(seconds / theory_s - 1) <= PROOF_WITHIN)


def _unfit_for_proof(row: pd.Series) -> str:
    if not row["valid"]:
        return f"its cell is invalid: {row['invalid_reasons']}"
    busy = row["server_cpu_s"] / row["measured_s"]
    if busy > PROOF_SERVER_BUSY:
        return f"the server was {busy:.0%} busy"
    if row["dropped"]:
        return f"{row['dropped']:.0f} requests were dropped"
    arriving = row["offered_qps"] * row["stop_s"]
    if row["backlog"] < PROOF_BACKLOG * arriving:
        return f"the backlog of {row['backlog']:.0f} is below {PROOF_BACKLOG:g} × {arriving:.0f}"
    return ""


def _judge_same(cells: pd.DataFrame) -> Verdict:
    found = comparisons(cells)
    pairs = min(each.ratio.n for each in found)
    share, made = _called(found)
    outcome: Outcome = "supported" if share <= FALSE_CALLS else "refuted"
    reason = f"{share:.1%} of {made} comparisons over {pairs} pairs call a difference"
    if pairs < FEWEST_PAIRS:
        outcome, reason = "undecided", f"{pairs} pairs, {FEWEST_PAIRS} needed"
    return Verdict(
        "I2",
        "Two measurements of the same cell are not told apart",
        f"at most {FALSE_CALLS:.0%} of comparisons by {COMPARED_REPLICATES} pairs call a "
        "difference (95 % interval of the ratio without 1)",
        outcome, reason,
        {COMPARED[each.column]: each.ratio for each in found},
        tuple(cells[cells["arm"].isin(ARMS)]["cell"].unique()),
    )  # fmt: skip


def _called(found: list[Comparison]) -> tuple[float, int]:
    """Over all figures: the share of comparisons that call a difference, and their number."""
    ways = sum(each.ways for each in found)
    return (sum(each.calls for each in found) / ways if ways else math.nan), ways


def _judge_schedule(cells: pd.DataFrame) -> Verdict:
    return _judge_rows(
        Verdict(
            "I3",
            "Arrivals leave when they are due",
            f"at {SCHEDULE_QPS:,.0f}/s and 1 ms: at least {SERVED:.1%} served, send lag p50 at "
            f"most {LAG_P50_S * 1e3:g} ms and p99 at most {LAG_P99_S * 1e3:g} ms, the worker at "
            f"most {BUSY:.0%} of a core",
            "undecided", "", {}, (),
        ),
        part(cells, "schedule"),
        schedule_rows(cells),
    )  # fmt: skip


def _judge_overload(cells: pd.DataFrame) -> Verdict:
    return _judge_rows(
        Verdict(
            "I4",
            "Under twice its load a pool carries what it can",
            f"at least {CARRIED:.0%} of what the same pool carries in a closed loop",
            "undecided", "", {}, (),
        ),
        pd.concat([part(cells, arm) for arm in ("capacity", "overload")]),
        overload_rows(cells),
    )  # fmt: skip


def _judge_rows(open_: Verdict, ran: pd.DataFrame, rows: list[Row]) -> Verdict:
    """`open_` decided: supported where every row reaches what it should, by valid cells alone."""
    gated = [row for row in rows if row.reached is not None]
    if not gated or not ran["valid"].all():
        reason = "; ".join(filter(None, ran["invalid_reasons"])) or "not measured"
        return replace(open_, reason=reason)
    return replace(
        open_,
        outcome="supported" if all(row.reached for row in gated) else "refuted",
        reason="; ".join(f"{row.what} {row.value:.4g} {row.unit} ({row.reach})" for row in gated),
        estimates={row.what: _one(row.value or math.nan, row.unit) for row in gated},
        cells=tuple(ran["cell"].unique()),
    )


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
        *client_rows(cells),
        *same_rows(cells),
        *proof_rows(cells, store),
    ]


def _busy(cells: pd.DataFrame) -> pd.Series:
    return cells["client_cpu_s"] / cells["measured_s"]


def schedule_rows(cells: pd.DataFrame) -> list[Row]:
    """How well a worker keeps 10,000 arrivals a second."""
    known = _valid(part(cells, "schedule"))
    if known.empty:
        return [Row("open loop, 10,000/s at 1 ms", None, "", note="no valid cell")]
    what = "open loop, 10,000/s at 1 ms, pool 20:"
    served, lag = median_of(known, "served_share"), [
        median_of(known, f"send_lag_p{p}_s") * 1e3 for p in (50, 99)
    ]  # fmt: skip
    return [
        Row.at_least(f"{what} served", served * 100, "%", SERVED * 100),
        Row.at_most(f"{what} send lag p50", lag[0], "ms", LAG_P50_S * 1e3),
        Row.at_most(f"{what} send lag p99", lag[1], "ms", LAG_P99_S * 1e3),
        Row.at_most(f"{what} worker busy", float(_busy(known).median()) * 100, "% of a core",
                    BUSY * 100),
    ]  # fmt: skip


def ceiling_rows(cells: pd.DataFrame) -> list[Row]:
    """Whether 30,000 arrivals a second pass the gates at RTT 0."""
    ran = part(cells, "ceiling")
    if ran.empty:
        return []
    row = ran.iloc[-1]
    note = row["invalid_reasons"] or f"bound by {row['bound_by']}, {_busy(ran).iloc[-1]:.0%} busy"
    reached = row["qps"] if row["valid"] and row["bound_by"] == "users" else 0.0
    return [Row.at_least("open loop at RTT 0 with gates green", reached, "/s",
                         SERVED * CEILING_QPS, note)]  # fmt: skip


def overload_rows(cells: pd.DataFrame) -> list[Row]:
    """What a pool carries of twice its load, against what it carries in a closed loop."""
    carried, capacity = (_valid(part(cells, arm)) for arm in ("overload", "capacity"))
    ratios = paired_ratios(carried, capacity, "qps")
    if not ratios:
        return [Row("overload: achieved ÷ capacity", None, "×", note="no valid pair of cells")]
    return [
        Row.at_least("overload: achieved ÷ capacity", float(pd.Series(ratios).median()), "×",
                     CARRIED, f"{median_of(carried, 'dropped'):,.0f} dropped, none lost"),
        Row("overload: worker's memory", median_of(carried, "client_rss_bytes") / 1e6, "MB"),
    ]  # fmt: skip


def link_rows(cells: pd.DataFrame) -> list[Row]:
    """The round trip that users measure, beside the one the link is set to."""
    linked = _valid(part(cells, "link"))
    rows = []
    for users, own in linked.groupby("concurrency"):
        what = f"round trip at 1 ms, {users} user{'s' * (users > 1)}"
        p50_ms = median_of(own, "command_p50_s") * 1e3
        note = f"bound by {own['bound_by'].iloc[-1]}"
        row = Row(what, p50_ms, "ms", note=note)
        rows.append(Row.at_most(what, p50_ms, "ms", LINK_ONE_S * 1e3) if users == 1 else row)
    return rows


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
        Row(f"A/A: spread of {COMPARED[each.column]}", 100 * _spread(both[each.column]), "%",
            note=f"of {both[each.column].notna().sum()} measurements; {_resolution(each.same)}")
        for each in found
    ]  # fmt: skip
    if not made:
        return rows
    limit = 100 * FALSE_CALLS
    return [*rows, Row.at_most("A/A: comparisons that call a difference", 100 * share, "%", limit,
                               f"of {made}")]  # fmt: skip


def _resolution(same: Equivalence) -> str:
    if math.isnan(same.detectable):
        return "one pair shows no resolution"
    verb = "shown" if same.equivalent else "not shown"
    return (
        f"{same.ratio.n} pairs find {same.detectable:.1%} four times in five, "
        f"the same within {same.margin:.0%}: {verb}"
    )


def _spread(values: pd.Series) -> float:
    """The coefficient of variation."""
    return float(values.std(ddof=1) / values.mean())


def proof_rows(cells: pd.DataFrame, store: Store) -> list[Row]:
    """The stopped server's percentiles against theory."""
    return [
        Row(f"server stopped: p{100 * stall.share:g} recorded ÷ theory",
            float(stall.recorded_s / stall.theory_s), "×", f"1 ± {PROOF_WITHIN:g}",
            _near(stall.recorded_s, stall.theory_s),
            f"timed on the wire: {stall.uncorrected_s / stall.theory_s:.3g} ×")
        for stall in proof(cells, store)
    ]  # fmt: skip


# Tables


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """Each part of the instrument's plan; medians over replicates."""
    last = last_attempts(cells)
    shown = last.assign(busy=_busy(last), lost=last["dropped"])
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
    """Three digits are what the histograms hold."""
    return float(f"{seconds.astype(float).median() * 1e3:.3g}")


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
        inside = requests[requests["intended_s"].between(0, row.measured_s)]
        due_s = inside["intended_s"].to_numpy()
        latency_s = (inside["done_s"] - inside["intended_s"]).to_numpy()
        cut = mser5(latency_s)
        return WarmUp(due_s, latency_s, None if cut is None else float(due_s[cut]))
    return None


# What the figures say


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
    stalls = proof(cells, store)
    if not stalls:
        return ""
    off = [s for s in stalls if not _near(s.recorded_s, s.theory_s)]
    widest = max(abs(s.recorded_s / s.theory_s - 1) for s in stalls)
    least = min(s.uncorrected_s / s.theory_s for s in stalls)
    named = f"p{100 * stalls[0].share:g}–p{100 * stalls[-1].share:g}"
    if off:
        return f"A stopped server is not recorded as callers feel it: {named} off by {widest:.0%}"
    return (
        f"A stopped server shows as callers feel it: {named} within {widest:.1%} of theory; timed "
        f"on the wire, down to {least:.1%} of it would be recorded"
    )


def _schedule_finding(cells: pd.DataFrame) -> str:
    known = part(cells, "schedule")
    if known.empty:
        return ""
    p50, p99 = (si(median_of(known, f"send_lag_p{p}_s"), "s") for p in (50, 99))
    return (
        f"Of {si(SCHEDULE_QPS, '/s')} arrivals, half leave within {p50} of when they are due and "
        f"99 % within {p99}, at {_busy(known).median():.0%} of a core"
    )


def _warm_up_finding(cells: pd.DataFrame, store: Store) -> str:
    found = warm_up(cells, store)
    if found is None:
        return ""
    if found.cut_s is None:
        return "A cold start never settled within its window, by MSER-5"
    before, after = (
        float(np.median(found.latency_s[chosen]))
        for chosen in (found.due_s < found.cut_s, found.due_s >= found.cut_s)
    )
    if not found.cut_s:
        return "A cold start needs no cut, by MSER-5"
    return (
        f"MSER-5 cuts {si(found.cut_s, 's')} off a cold start: before it a median of "
        f"{si(before, 's')}, after it {si(after, 's')}"
    )


def _same_finding(cells: pd.DataFrame) -> str:
    found = comparisons(cells)
    share, made = _called(found)
    if not made:
        return f"A/A is undecided: {counted(found[0].ratio.n, 'pair')}"
    verb = "are told apart in" if share > FALSE_CALLS else "pass for the same but in"
    return f"Two measurements of one cell {verb} {share:.1%} of {made} comparisons"


def _link_finding(cells: pd.DataFrame) -> str:
    linked = _valid(part(cells, "link"))
    if linked.empty:
        return ""
    by_users = linked.groupby("concurrency")["command_p50_s"].median()
    return (
        f"Set to {si(LINK_RTT_S, 's')}, the link takes {si(by_users.iloc[0], 's')} with "
        f"{counted(int(by_users.index[0]), 'user')} and {si(by_users.iloc[-1], 's')} with "
        f"{by_users.index[-1]}"
    )


def _generator_finding(cells: pd.DataFrame) -> str:
    last = last_attempts(cells)
    bound = int((last["bound_by"] == "generator").sum())
    free = last[last["bound_by"] != "generator"]
    busiest = f"; in all others a worker took at most {_worker_share(free).max():.0%} of a core"
    return (
        f"The generator was the limit in {bound} of {counted(len(last), 'cell')}"
        f"{busiest if len(free) else ''}"
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
    draw_theory(shares, ladder, [stalled_percentile(q, row["stop_s"], row["measured_s"])
                                 for q in ladder])  # fmt: skip
    shares.plot([], [], color=INK, linestyle="--", label="theory")
    percentile_axes(shares, "")
    shares.legend(loc="upper left", frameon=False)
    _draw_stop(time, row, store)
    footnote(
        figure,
        f"{si(row['offered_qps'], '/s')} Poisson for {row['measured_s']:.3g} s; server stopped "
        f"(SIGSTOP) for {row['stop_s']:.3g} s of it. Theory: D − (1 − q)·T. On the wire: from the "
        f"connection in hand to the reply, as tools measure that send when they may. {_flaw(row)}",
    )
    return figure


def _flaw(row: pd.Series) -> str:
    """That the one cell a figure shows is no evidence, and why; empty where it is."""
    if not row["valid"]:
        return f"INVALID, {row['invalid_reasons']}."
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
    ccdf_axes(lag, "", log_times=True)
    _draw_gaps(between, style, store.requests(*key), row["offered_qps"])
    footnote(
        figure,
        f"{si(row['offered_qps'], '/s')} Poisson through the link at {si(row['rtt_s'], 's')}, pool "
        f"{row['pool_size']}. Marks: half within {si(LAG_P50_S, 's')}, 99 % within "
        f"{si(LAG_P99_S, 's')}. Theory: gaps are exponential. {_flaw(row)}",
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
    ccdf_axes(axes, "")
    axes.legend(loc="upper right", frameon=False)


def _draw_warm_up(cells: pd.DataFrame, store: Store, title: str) -> Figure:
    found = warm_up(cells, store)
    assert found is not None, "there is a finding only where it was measured"
    row = part(cells, "warm-up").iloc[0]
    style = pool_style(int(row["pool_size"]))
    figure, (axes,) = new_figure(title, size=(11.0, 4.6))
    axes.plot(found.due_s, found.latency_s, ".", color=style.colour, markersize=2, alpha=0.5)
    if found.cut_s is not None:
        axes.axvspan(0, found.cut_s, color=MUTED, alpha=0.15, lw=0)
    linear_axis(axes.xaxis, "s", "due after the first")
    log_axis(axes.yaxis, "s", "latency")
    footnote(
        figure,
        f"Every request of {si(row['offered_qps'], '/s')} Poisson to a lazy pool of "
        f"{row['pool_size']} at {si(row['rtt_s'], 's')}, from the first on. Grey: what MSER-5 "
        f"would cut. {_flaw(row)}",
    )
    return figure


def _draw_same(cells: pd.DataFrame, title: str) -> Figure:
    found = comparisons(cells)
    figure, (ratios, spread) = new_figure(title, 1, 2, size=(11.0, 4.8))
    panel_title(ratios, "second ÷ first, paired, 95 % interval")
    draw_intervals(
        ratios,
        [(COMPARED[each.column], each.ratio, NEUTRAL) for each in found],
        expected=1.0,
        same=(1 / SAME, SAME),
    )
    linear_limits = [end for each in found for end in (each.ratio.low, each.ratio.high, 1.1, 0.9)]
    known = [end for end in linear_limits if math.isfinite(end)]
    ratios.set_xlim(min(known) - 0.02, max(known) + 0.02)
    panel_title(spread, "each measurement ÷ the median of all")
    _draw_spread(spread, cells)
    footnote(
        figure,
        f"{SAME_USERS} users at {si(SAME_RTT_S, 's')}, pool {SAME_USERS}, measured twice in each "
        f"block. Grey: ±10 %, within which the sweep claims no difference.",
        invalid=any_invalid(pd.concat([part(cells, arm) for arm in ARMS])),
    )
    return figure


def _draw_spread(axes: Axes, cells: pd.DataFrame) -> None:
    both = _valid(pd.concat([part(cells, arm) for arm in ARMS]))
    for place, column in enumerate(COMPARED):
        values = both[column].dropna()
        axes.plot(values / values.median(), [place] * len(values), **marker(NEUTRAL),
                  linestyle="", alpha=0.5)  # fmt: skip
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
    figure, (axes,) = new_figure(title, size=(9.0, 5.2))
    handles = []
    for client, style in CLIENTS.items():
        own = last[last["client"] == client]
        for loop, shape in (("closed", "o"), ("open", "^")):
            look = Style(style.colour, shape)
            _dots(axes, look, own[own["loop"] == loop])
            handles.append(Line2D([], [], linestyle="", label=f"{client}, {loop} loop",
                                  **marker(look)))  # fmt: skip
    axes.axhline(CORE_BUSY, color=INK, linestyle="--", linewidth=1.2, zorder=1)
    log_axis(axes.xaxis, "/s", "requests per second and worker")
    linear_axis(axes.yaxis, "share", "a worker's share of one core")
    axes.legend(handles=handles, loc="upper left", frameon=False)
    footnote(figure, f"Every cell of the run. Dashed: {CORE_BUSY:.0%}, from which the generator "
                     "counts as the limit.", hollow=bool(last["bound_by"].isin(APPARATUS).any()),
             invalid=any_invalid(last))  # fmt: skip
    return figure


def _dots(axes: Axes, style: Style, cells: pd.DataFrame) -> None:
    valid = cells[cells["valid"]]
    for _, row in valid.iterrows():
        draw_curve(axes, style, [row["per_worker"]], [row["busy"]],
                   hollow=[row["bound_by"] in APPARATUS])  # fmt: skip
    cross_out(axes, style, cells, "per_worker", "busy")


# Prose: what a reviewer should see, its numbers from the cells


def prose(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A paragraph of Markdown below each figure."""
    known = {
        "stopped_server": _proof_prose(cells, store),
        "schedule": _schedule_prose(cells),
        "warm_up": _warm_up_prose(store.cells()),
        "same_cell": _same_prose(cells),
        "link_accuracy": _link_prose(cells),
        "generator_busy": _generator_prose(store.cells()),
        "little_all_cells": audit.prose(store.cells()),
    }
    return {name: known[name] for name in findings(cells, store)}


def _proof_prose(cells: pd.DataFrame, store: Store) -> str:
    row = part(cells, "proof").iloc[0]
    stalls = proof(cells, store)
    table = "; ".join(
        f"p{100 * s.share:g} {si(s.recorded_s, 's')} against {si(s.theory_s, 's')}, on the wire "
        f"{si(s.uncorrected_s, 's')}" for s in stalls
    )  # fmt: skip
    busy = row["server_cpu_s"] / row["measured_s"]
    return (
        "Callers that arrive while the server stands still wait for the rest of its stop, so "
        "theory gives every percentile without a free parameter. A tool that waits for the reply "
        "before it sends the next request, or starts its clock when the command is sent, asks few "
        f"of them how long they waited (coordinated omission). Recorded: {table}. The server was "
        f"{busy:.0%} busy, {row['dropped']:.0f} of {row['scheduled']:.0f} requests were dropped, and "
        f"{row['served_share']:.2%} were served. The green steps on the right are a queue that "
        "drains: who arrived first waited longest."
    )


def _schedule_prose(cells: pd.DataFrame) -> str:
    known = part(cells, "schedule")
    row = known.iloc[0]
    return (
        "An open loop is only as good as its clock: a request that leaves late has waited already, "
        "and arrivals that leave in bunches make queues that callers would not. Left, how late "
        "requests left; right, whether they came as a Poisson process does, planned and in fact. "
        f"{row['served_share']:.2%} of {row['scheduled']:,.0f} arrivals were served, "
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
        f"{si(given['warmup_s'].max(), 's')}, with their connections open beforehand, and are then "
        f"tested: of {int(settled.sum())} windows long enough to tell, {unsettled} ran at another "
        "rate in their second half and are invalid for it."
    )


def _same_prose(cells: pd.DataFrame) -> str:
    found = comparisons(cells)
    said = "; ".join(f"{COMPARED[each.column]}: {_resolution(each.same)}" for each in found)
    return (
        "The same cell twice in each block, in random order: whatever differs is noise. A method "
        "that finds a difference here would find one anywhere. Every choice of "
        f"{COMPARED_REPLICATES} pairs stands for a comparison of the standard profile. What "
        f"cannot be told apart is bounded too, by two one-sided tests: {said}."
    )


def _link_prose(cells: pd.DataFrame) -> str:
    rows = "; ".join(f"{row.what.partition(', ')[2]} {row.value:.3g} {row.unit} ({row.note})"
                     for row in link_rows(cells) if row.unit == "ms")  # fmt: skip
    return (
        "The link is set to the same round trip in all four. With one user it adds its own work "
        "and the server's; with more they queue for the two cores that link, server and worker "
        f"share, and the cell says what bounds it. Measured: {rows}."
    )


def _generator_prose(cells: pd.DataFrame) -> str:
    last = last_attempts(cells)
    bounds = last["bound_by"].value_counts()
    named = ", ".join(f"{part_} {count}" for part_, count in bounds.items())
    return (
        "A load generator that is itself the bottleneck measures itself. Each point is a cell; "
        f"what bounds it is decided for each, in this run: {named}. Those bound by the rig are "
        "hollow, and no sentence about a pool rests on them."
    )
