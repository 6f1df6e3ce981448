"""Reconnect storms: what happens when every connection breaks at once, and all want to be back?

Two workers are served through pools of 20 to 2,500 connections each, when the server is killed and
started again, or the path is cut (reset, then refused) and heals. Requests that fail are tried
again, at once or after a pause that grows and has jitter. Looked at: how long until requests are as
quick as before, how many connections a second the server has to take, its CPU meanwhile, and what
is lost.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.outages import OUTAGE, burst_median, fault_of, since_fault
from bench.analysis.replicates import last_attempts, median_of
from bench.analysis.sentences import not_run
from bench.figures.axes import linear_axis, log_axis
from bench.figures.sheet import footnote, new_figure, panel_title
from bench.figures.style import MUTED, marker, pool_style
from bench.figures.units import digits, si
from bench.model import Arrivals, Cell, Fault, Idling, Outage, Plan, Profile, Verdict, Workload
from bench.store import Store, derived

NAME = "reconnect_storm"
QUESTION = "What does a pool's size, and a pause between attempts, make of a reconnect storm?"
CLAIMS: dict[str, str] = {}  # it shows; others decide

WORKERS = 2
POOLS = (20, 500, 2_500)  # of each worker
RATE_QPS = 2_000.0
BEFORE_S, FAULT_S, AFTER_S = 0.3, 0.25, 0.75
RETRIES = 10  # redis-py's, through Redis()
AT_ONCE, JITTER = "at once", "after a pause with jitter"
PAUSES = {AT_ONCE: 0.0, JITTER: 1.0}  # the longest, in seconds: redis-py's own
FAULTS: dict[str, Fault] = {"server restarts": "restart", "path is cut": "cut"}
REPLICATES: dict[Profile, int] = {"smoke": 1, "standard": 1, "full": 5}
BUCKET_S = 0.05
SLOW = 3.0  # times the p99 before the fault: then a request is not as before
AS_BEFORE = 0.99  # of the requests of a bucket
STEADY = 3  # buckets in a row: a single late one afterwards is none of the storm's


def plan(profile: Profile, workload: Workload, workers: int) -> Plan:
    """As many workers as the question asks for, however many the run has."""
    pools, faults = (POOLS, FAULTS) if profile != "smoke" else (POOLS[:1], ["path is cut"])
    cells = [
        _cell(pool, fault, pause, workload) for pool, fault, pause in product(pools, faults, PAUSES)
    ]
    return Plan(tuple(cells), REPLICATES[profile])


def _cell(pool: int, fault: str, pause: str, workload: Workload) -> Cell:
    requests = round(RATE_QPS * (BEFORE_S + FAULT_S + AFTER_S))
    return Cell(
        NAME, pool, requests, workers=WORKERS, loop="open", client="tuned", resp=2,
        offered_qps=RATE_QPS, arrivals=Arrivals(), workload=workload, warmup_s=0.0,
        measure_s=BEFORE_S + FAULT_S + AFTER_S, keep_requests=True, retries=RETRIES,
        backoff_s=PAUSES[pause], arm=f"{fault}, {pause}",
        idling=Idling(trap="link", gap_s=0.0, cycles=0, volley=0, requests=requests),
        outage=Outage(FAULTS[fault], BEFORE_S, FAULT_S),
    )  # fmt: skip


# What was measured


class Seen(NamedTuple):
    """Of one storm: until requests were as before, from the fault's end (NaN: not seen); the most
    connections a second and the highest CPU of the server in a tenth of a second after it; failed
    requests, and their share of those that came during the fault."""

    recovery_s: float
    connects_qps: float
    server_busy: float
    failed: int
    failed_share: float


@derived
def measured(cells: pd.DataFrame, store: Store) -> pd.DataFrame:
    """The last attempts, with what was seen of the storm."""
    known = last_attempts(cells)
    series = store.series()
    series = series[series["cell"].isin(known["cell"])]  # then each row picks its own from few
    seen = [_seen(row, store, _series_of(row, series)) for row in known.itertuples()]
    columns = {name: [getattr(each, name) for each in seen] for name in Seen._fields}
    parts = [arm.split(", ") for arm in known["arm"]]
    return known.assign(
        how=[part[0] for part in parts], pause=[part[-1] for part in parts], **columns
    )


def _series_of(row: Any, series: pd.DataFrame) -> pd.DataFrame:
    own = (series["cell"] == row.cell) & (series["block"] == row.block)
    begun, _ = fault_of(row)
    told = series[own & (series["attempt"] == row.attempt)].sort_values("at_s")
    return told.assign(at_s=told["at_s"] - begun)


def requests_of(row: Any, store: Store) -> pd.DataFrame:
    """As `since_fault` has them."""
    return since_fault(store.requests(row.cell, row.block, row.attempt), row)


def _seen(row: Any, store: Store, series: pd.DataFrame) -> Seen:
    requests = requests_of(row, store)
    begun, ended = fault_of(row)
    during = requests[(requests["at_s"] >= 0) & (requests["at_s"] < ended - begun)]
    failed = int((~requests["answered"]).sum())
    rates = rates_of(series, FAULT_S)
    after = rates[rates["at_s"] >= ended - begun]
    return Seen(
        recovery_s(requests, ended - begun),
        float(after["connects_qps"].max()) if len(after) else math.nan,
        float(after["busy"].max()) if len(after) else math.nan,
        failed,
        failed / len(during) if len(during) else math.nan,
    )


def rates_of(series: pd.DataFrame, started_s: float) -> pd.DataFrame:
    """Connections a second and CPU of the server between one sample and the next; a server that
    was started anew counts from nothing, and from its start on."""
    told = series[["at_s", "server_connects", "server_cpu_s"]].astype(float)
    steps = told.diff()
    anew = steps["server_connects"] < 0
    grown = steps.where(~anew, told)
    took_s = steps["at_s"].where(~anew, told["at_s"] - started_s)
    return pd.DataFrame(
        {
            "at_s": told["at_s"],
            "connects_qps": grown["server_connects"] / took_s,
            "busy": grown["server_cpu_s"] / took_s,
        }
    ).iloc[1:]


def recovery_s(requests: pd.DataFrame, fault_s: float) -> float:
    """From the fault's end to the first of some buckets in a row in which nearly all that come are
    answered as quickly as those that were done before it."""
    before = requests[requests["at_s"] + requests["latency_s"] < 0]["latency_s"]
    limit_s = SLOW * float(before.quantile(0.99))
    good = requests["answered"] & (requests["latency_s"] <= limit_s)
    bucket = np.floor((requests["at_s"] - fault_s) / BUCKET_S)
    by = good.groupby(bucket).mean()
    steady = (by[by.index >= 0] >= AS_BEFORE).rolling(STEADY).min()
    ends = steady.index[steady == 1]
    return float((ends[0] - STEADY + 1) * BUCKET_S) if len(ends) else math.nan


def part(known: pd.DataFrame, pool: int, how: str, pause: str) -> pd.DataFrame:
    """Valid replicates of one combination."""
    own = (known["pool_size"] == pool) & (known["how"] == how) & (known["pause"] == pause)
    return known[own & known["valid"].astype(bool)]


def claims(cells: pd.DataFrame, store: Store) -> list[Verdict]:
    """None: no claim of the design is about it."""
    return []


# Tables


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """Each combination, by what its one burst told; medians over replicates."""
    known = last_attempts(cells)
    rows = []
    for (arm, pool), own in known.groupby(["arm", "pool_size"], sort=True):
        rows.append(
            {
                "what happens": arm.split(", ")[0],
                "attempts": arm.split(", ")[-1],
                "pool": int(pool),
                "requests": int(burst_median(own, "requests")),
                "served %": digits(100 * float(own["served_share"].median())),
                "p99 ms": digits(1e3 * burst_median(own, "latency_p99_s")),
                "connections opened": round(burst_median(own, "server_connects")),
                "server µs": digits(median_of(own, "server_cpu_us_per_op")),
                "bound by": ", ".join(sorted(set(own["bound_by"]))),
                "valid": f"{int(own['valid'].sum())} of {len(own)}",
            }
        )
    return pd.DataFrame(rows)


# What the figures say


def findings(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A sentence for each figure that these cells allow: its title."""
    return _findings(measured(cells, store))


@derived
def _findings(known: pd.DataFrame) -> dict[str, str]:
    if not known["valid"].any():
        return {}
    return {"storm_latency": _latency_finding(known), "storm_server": _server_finding(known)}


def _latency_finding(known: pd.DataFrame) -> str:
    def lost(pause: str) -> str:
        own = known[(known["pause"] == pause) & known["valid"].astype(bool)]
        if own.empty:
            return "an unknown share is lost"
        low, high = float(own["failed_share"].min()), float(own["failed_share"].max())
        if low == high:
            return f"{si(high, 'share')} are lost"
        return f"{si(low, 'share')} to {si(high, 'share')} are lost"

    return (
        f"Of the requests that come while all is broken, {lost(AT_ONCE)} where each is "
        f"tried again {AT_ONCE}, and {lost(JITTER)} {JITTER}"
    )


def _server_finding(known: pd.DataFrame) -> str:
    said = [
        f"{si(float(own['connects_qps'].max()), '/s')} with pools of {pool:,}"
        for pool in (POOLS[0], POOLS[-1])
        if len(own := known[(known["pool_size"] == pool) & known["valid"].astype(bool)])
    ]
    return f"New connections at the server: up to {', '.join(said) or 'an unknown rate'}"


# Figures


def figures(cells: pd.DataFrame, store: Store) -> dict[str, Figure]:
    """By name: those that these cells allow."""
    known = measured(cells, store)
    drawn = {"storm_latency": _draw_latency, "storm_server": _draw_server}
    return {name: drawn[name](known, store, title) for name, title in _findings(known).items()}


def _draw_latency(known: pd.DataFrame, store: Store, title: str) -> Figure:
    faults = [how for how in FAULTS if (known["how"] == how).any()]
    figure, panels = new_figure(
        title, len(faults), len(PAUSES), size=(13.0, 1.0 + 3.1 * len(faults))
    )
    for axes, (how, pause) in zip(panels, product(faults, PAUSES), strict=True):
        panel_title(axes, f"{how}; tried again {pause}")
        axes.axvspan(0, FAULT_S, color=MUTED, alpha=0.12, lw=0)
        for pool in POOLS:
            for row in part(known, pool, how, pause)[OUTAGE].itertuples():
                _draw_worst(axes, requests_of(row, store), pool)
                begun, ended = fault_of(row)
                axes.axvline(ended - begun, color=pool_style(pool).colour, lw=1, ls=":")
        axes.set_xlim(-BEFORE_S, FAULT_S + AFTER_S)
        linear_axis(axes.xaxis, "s", "came after the fault began")
        axes.set_xlim(left=-BEFORE_S)
        log_axis(axes.yaxis, "s", "latency, p95 in a bucket")
    low, high = (
        f(end) for f, end in zip((min, max), zip(*(a.get_ylim() for a in panels), strict=True),
                                 strict=True)
    )  # fmt: skip
    for axes in panels:
        axes.set_ylim(low, high)
    _legend(figure, known)
    footnote(
        figure,
        f"{WORKERS} workers, {si(RATE_QPS, '/s')} in all, {RETRIES} retries. Solid: answered, "
        f"hollow markers: buckets of {si(BUCKET_S, 's')} in which requests were lost. Grey: the "
        "fault as asked for, dotted: when it was over for that pool. "
        f"{not_run(store.manifest, NAME)}",
    )
    return figure


def _draw_worst(axes: Axes, requests: pd.DataFrame, pool: int) -> None:
    bucket = np.floor(requests["at_s"] / BUCKET_S) * BUCKET_S + BUCKET_S / 2
    by = requests.groupby(bucket)
    worst = by["latency_s"].quantile(0.95)
    lost = by["answered"].mean() < 1
    style = pool_style(pool)
    axes.plot(worst.index, worst, color=style.colour, lw=1.4)
    axes.plot(worst.index[lost], worst[lost], linestyle="", **marker(style, hollow=True))


def _draw_server(known: pd.DataFrame, store: Store, title: str) -> Figure:
    figure, panels = new_figure(title, 1, 3, size=(13.5, 4.6))
    columns = {
        "recovery_s": ("until requests are as before", "s"),
        "connects_qps": ("most connections a second", "/s"),
        "server_busy": ("the server's highest CPU", "share"),
    }
    rows = [each for each in product(FAULTS, PAUSES) if (known["how"] == each[0]).any()]
    for axes, (column, (name, unit)) in zip(panels, columns.items(), strict=True):
        panel_title(axes, name)
        for (place, (how, pause)), pool in product(enumerate(rows), POOLS):
            values = part(known, pool, how, pause)[column].astype(float).dropna()
            at = place + 0.22 * (POOLS.index(pool) - 1)
            axes.plot(values, [at] * len(values), linestyle="", **marker(pool_style(pool)))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [f"{how},\n{pause}" for how, pause in rows])
        axes.margins(x=0.12)
        linear_axis(axes.xaxis, unit, name)  # type: ignore[arg-type]
    for axes in panels[1:]:
        axes.set_yticklabels([])
    _legend(figure, known)
    footnote(
        figure,
        "From the fault's end on, in steps of a tenth of a second; of a server that was started "
        "anew, the first step is from its start on. A recovery that was not seen "
        f"has no point. CPU is of one core. {not_run(store.manifest, NAME)}",
    )
    return figure


def _legend(figure: Figure, known: pd.DataFrame) -> None:
    handles = [
        Line2D([], [], linestyle="", label=f"{pool:,}", **marker(pool_style(pool)))
        for pool in POOLS
        if (known["pool_size"] == pool).any()
    ]
    figure.legend(
        handles=handles, title="pool of\neach worker", loc="outside right center", frameon=False
    )


# Prose


def prose(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A paragraph of Markdown below each figure."""
    known = measured(cells, store)
    told = {"storm_latency": _latency_prose, "storm_server": _server_prose}
    return {name: told[name](known) for name in _findings(known)}


def _latency_prose(known: pd.DataFrame) -> str:
    lines = [
        f"- {how}, {pause}, pools of {pool:,}: {_told(own)}"
        for how, pause, pool in product(FAULTS, PAUSES, POOLS)
        if len(own := part(known, pool, how, pause))
    ]
    return (
        f"A command has {RETRIES} retries. “{AT_ONCE}”: each follows the failure; “{JITTER}”: "
        f"after a pause that doubles, up to {si(PAUSES[JITTER], 's')}, and is drawn at random "
        f"up to that. As before: {si(AS_BEFORE, 'share')} of requests are answered within "
        f"{SLOW:g} × the p99 from before the fault. Bound by the generator: a worker had so much "
        "to open again that it sent late, so that its own CPU is in the time. Medians over "
        "replicates:\n\n" + "\n".join(lines)
    )


def _told(own: pd.DataFrame) -> str:
    recovery = float(own["recovery_s"].median())
    back = (
        "not as before within the window"
        if math.isnan(recovery)
        else f"as before {si(recovery, 's')} after its end"
    )
    lasted_s = float(
        np.median([np.subtract(*fault_of(row)[::-1]) for row in own[OUTAGE].itertuples()])
    )
    return (
        f"{own['failed'].median():.0f} requests lost, {back}; the fault lasted "
        f"{si(lasted_s, 's')}, bound by {', '.join(sorted(set(own['bound_by'])))}"
    )


def _server_prose(known: pd.DataFrame) -> str:
    lines = [
        f"- {how}, pools of {pool:,}: up to {si(float(own['connects_qps'].max()), '/s')} of "
        f"connections, {si(float(own['server_busy'].max()), 'share')} of a core; "
        f"{_opened(own)} opened in the whole burst"
        for how, pool in product(FAULTS, POOLS)
        if len(own := known[(known["how"] == how) & (known["pool_size"] == pool)])
    ]
    return (
        f"Of {WORKERS} pools together, in the step after the fault in which it was most:\n\n"
        + "\n".join(lines)
    )


def _opened(own: pd.DataFrame) -> str:
    """From the least to the most connections that the server took in one burst."""
    counts = [int(burst["server_connects"]) for bursts in own["bursts"] for burst in bursts]
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
