"""Stuck calls: does a timeout keep a Redis that does not answer from taking the service down?

A service has a fixed number of threads. Half of its requests call Redis; the others need a thread
for a moment and nothing else. Then Redis stops answering. Each call to it holds a thread, on a
connection or in the pool's line, and when all threads are held, the others starve: the service is
down, though Redis is not what they need. A time-out on the line lets go of the threads. It is
enough where there are more of them than calls can gather in that time, and not where there are
fewer: both sides of that tipping point are measured, beside what is predicted.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.outages import OUTAGE, burst_median, fault_of, since_fault
from bench.analysis.replicates import REPLICATES_NEEDED, last_attempts
from bench.analysis.sentences import counted, not_run
from bench.analysis.statistics import t_interval
from bench.figures.axes import linear_axis
from bench.figures.sheet import footnote, new_figure, panel_title
from bench.figures.style import DEFENCES, MUTED, Style, marker
from bench.figures.units import digits, si
from bench.model import (
    Arrivals,
    Cell,
    Estimate,
    Fault,
    Idling,
    Outage,
    Outcome,
    Plan,
    Profile,
    Region,
    Service,
    Verdict,
    Workload,
)
from bench.store import Store, derived

NAME = "stuck_call"
QUESTION = "Does an acquire timeout keep one stuck Redis from taking the service down?"
CLAIMS = {
    "C8": "An acquire timeout keeps one stuck Redis from taking the service down",
}

RATE_QPS = 2_000.0
OTHER_SHARE, OTHER_S = 0.5, 0.002
POOL = 10
ACQUIRE_S, SOCKET_S = 0.05, 0.1
MAX_WAITING = 30
PATIENCE_S = 0.1
BEFORE_S, FAULT_S, AFTER_S = 0.2, 0.7, 0.35
FEW, ENOUGH = 40, 100  # threads, on either side of the tipping point with an acquire timeout
THREADS = (20, 40, 60, 80, 100, 160)
REPLICATES: dict[Profile, int] = {"smoke": 1, "standard": 3, "full": 6}
BUCKET_S = 0.05
DOWN = 0.5  # served, in a bucket: fewer is a service that has collapsed

NONE, ACQUIRE = "no timeout", "acquire timeout"
POLICIES: dict[str, dict[str, Any]] = {
    NONE: {},
    ACQUIRE: {"acquire_timeout_s": ACQUIRE_S},
    "socket timeout": {"socket_timeout_s": SOCKET_S},
    "both timeouts": {"acquire_timeout_s": ACQUIRE_S, "socket_timeout_s": SOCKET_S},
    "max waiting": {"max_waiting": MAX_WAITING},
}
# How Redis stops answering: all of it, or some connections.
FAULTS: dict[str, tuple[Fault, float]] = {
    "SIGSTOP": ("stop", 1.0),
    "CLIENT PAUSE": ("pause", 1.0),
    "stalled link": ("stall", 1.0),
    "half stalled": ("stall", 0.5),
}


def plan(profile: Profile, workload: Workload, workers: int) -> Plan:
    """One worker, however many the run has."""
    judged = [_cell(policy, threads, "SIGSTOP", workload)
              for policy in (NONE, ACQUIRE) for threads in (FEW, ENOUGH)]  # fmt: skip
    if profile == "smoke":
        return Plan(tuple(judged), 1)
    once = [_cell(policy, threads, "SIGSTOP", workload)
            for policy in (NONE, ACQUIRE) for threads in THREADS]  # fmt: skip
    once += [_cell(policy, threads, "SIGSTOP", workload)
             for policy in POLICIES for threads in (FEW, ENOUGH)]  # fmt: skip
    once += [_cell(policy, ENOUGH, fault, workload)
             for policy in (NONE, ACQUIRE) for fault in FAULTS]  # fmt: skip
    apart = tuple(cell for cell in dict.fromkeys(once) if cell not in judged)
    return Plan(tuple(judged), REPLICATES[profile], once=apart)


def _cell(policy: str, threads: int, fault: str, workload: Workload) -> Cell:
    kind, share = FAULTS[fault]
    requests = round(RATE_QPS * (BEFORE_S + FAULT_S + AFTER_S))
    return Cell(
        NAME, POOL, requests, loop="open", client="tuned", resp=2, offered_qps=RATE_QPS,
        arrivals=Arrivals(), workload=workload, warmup_s=0.0,
        measure_s=BEFORE_S + FAULT_S + AFTER_S, keep_requests=True,
        idling=Idling(trap="link", gap_s=0.0, cycles=0, volley=0, requests=requests),
        outage=Outage(kind, BEFORE_S, FAULT_S, share),
        service=Service(threads, PATIENCE_S, OTHER_SHARE, OTHER_S),
        # The last used first would never meet the half that stalls.
        order="fifo" if share < 1 else "lifo", arm=f"{policy}, {fault}", **POLICIES[policy],
    )  # fmt: skip


# What is predicted


def held_threads(policy: str) -> float:
    """How many threads stuck calls come to hold: those on a connection, and those in line, which
    arrive at the rate of calls and leave after the pool's time-out (Little's law); as many as come
    in the whole outage where nothing lets go of them."""
    calls_qps = RATE_QPS * (1 - OTHER_SHARE)
    settings = POLICIES[policy]
    if "max_waiting" in settings:
        return POOL + float(settings["max_waiting"])
    leaving_qps = POOL / SOCKET_S if "socket_timeout_s" in settings else 0.0
    stays_s = float(settings.get("acquire_timeout_s", FAULT_S))
    return POOL + (calls_qps - leaving_qps) * stays_s


def predicted_share(policy: str, threads: float) -> float:
    """Of the requests that do not need Redis and come during the outage, those that are served.

    All, while threads exceed what stuck calls hold. Else those that come until the last thread is
    held, and those that come so late that their patience outlasts the outage. Of the rest none;
    but with a time-out A, threads in line come free every A, and let both kinds of requests pass
    as they come: (T − N)/(A·λ·q) of them.
    """
    if threads > held_threads(policy):
        return 1.0
    calls_qps, passing = RATE_QPS * (1 - OTHER_SHARE), 0.0
    settings = POLICIES[policy]
    if "acquire_timeout_s" in settings:
        passing = (threads - POOL) / (float(settings["acquire_timeout_s"]) * calls_qps)
    leaving_qps = POOL / SOCKET_S if "socket_timeout_s" in settings else 0.0
    until_s = (threads - POOL) / (calls_qps - leaving_qps)
    spared = min(1.0, (until_s + PATIENCE_S) / FAULT_S)
    return spared + (1 - spared) * min(1.0, passing)


# What was measured


class Seen(NamedTuple):
    """Of one outage: the share of the requests without Redis that were served, of those that came
    during it; how long until none was (NaN: that did not come), how long after it all were again;
    and what was lost, of each kind."""

    others_share: float
    calls_share: float
    collapse_s: float
    recovery_s: float
    others_lost: int
    calls_lost: int


@derived
def measured(cells: pd.DataFrame, store: Store) -> pd.DataFrame:
    """The last attempts, with policy, fault, and what was seen of the outage."""
    known = last_attempts(cells)
    parts = [arm.split(", ") for arm in known["arm"]]
    seen = [_seen(requests_of(row, store), fault_of(row)) for row in known.itertuples()]
    columns = {name: [getattr(each, name) for each in seen] for name in Seen._fields}
    return known.assign(
        policy=[part[0] for part in parts], how=[part[-1] for part in parts], **columns
    )


def requests_of(row: Any, store: Store) -> pd.DataFrame:
    """As `since_fault` has them."""
    return since_fault(store.requests(row.cell, row.block, row.attempt), row)


def _seen(requests: pd.DataFrame, outage: tuple[float, float]) -> Seen:
    length_s = outage[1] - outage[0]
    during = requests[(requests["at_s"] >= 0) & (requests["at_s"] < length_s)]
    others, calls = during[during["other"]], during[~during["other"]]
    lost = requests[~requests["answered"]]
    every = requests[requests["other"]]
    return Seen(
        _share(others),
        _share(calls),
        _collapse_s(every, length_s),
        _recovery_s(requests, length_s),
        int(lost["other"].sum()),
        int((~lost["other"]).sum()),
    )


def _share(requests: pd.DataFrame) -> float:
    return float(requests["answered"].mean()) if len(requests) else math.nan


def _collapse_s(others: pd.DataFrame, length_s: float) -> float:
    """When the first bucket begins in which too few are served."""
    by = shares_over_time(others)
    low = by[(by.index >= 0) & (by.index < length_s) & (by < DOWN)]
    return float(low.index[0]) if len(low) else math.nan


def _recovery_s(requests: pd.DataFrame, length_s: float) -> float:
    """From the outage's end to the first bucket from which on all are served; NaN if not seen."""
    by = shares_over_time(requests)
    after = by[by.index >= length_s]
    bad = after[after < 1.0]
    if after.empty or (len(bad) and bad.index[-1] == after.index[-1]):
        return math.nan
    return 0.0 if bad.empty else float(bad.index[-1] + BUCKET_S - length_s)


def shares_over_time(requests: pd.DataFrame) -> pd.Series:
    """The share served, by when they came, in buckets."""
    bucket = np.floor(requests["at_s"] / BUCKET_S) * BUCKET_S
    return requests.groupby(bucket)["answered"].mean()


def part(known: pd.DataFrame, policy: str, threads: int, how: str = "SIGSTOP") -> pd.DataFrame:
    """Valid replicates of one combination."""
    own = (known["policy"] == policy) & (known["threads"] == threads) & (known["how"] == how)
    return known[own & known["valid"].astype(bool)]


# Claims

SERVED, STARVED = 0.95, 0.5


def claims(cells: pd.DataFrame, store: Store) -> list[Verdict]:
    """C8."""
    known = measured(cells, store)
    with_it, without = (
        t_interval(list(part(known, policy, ENOUGH)["others_share"]), "share")
        for policy in (ACQUIRE, NONE)
    )
    own = pd.concat([part(known, p, t) for p in (ACQUIRE, NONE) for t in (FEW, ENOUGH)])
    outcome = outcome_of(with_it, without)
    few = [
        f"{policy}: {si(float(rows['others_share'].mean()), 'share')} (predicted "
        f"{si(predicted_share(policy, FEW), 'share')})"
        for policy in (ACQUIRE, NONE)
        if len(rows := part(known, policy, FEW))
    ]
    reason = (
        f"with {ENOUGH} threads, of requests that do not need Redis: {_shares(with_it)} served "
        f"with it, {_shares(without)} without; with {FEW} threads, fewer than the "
        f"{held_threads(ACQUIRE):.0f} that stuck calls hold: {'; '.join(few) or 'not measured'}"
    )
    if min(with_it.n, without.n) < REPLICATES_NEEDED:
        reason = f"{counted(min(with_it.n, without.n), 'replicate')}, {REPLICATES_NEEDED} needed"
    lacking = not_run(store.manifest, NAME)
    return [
        Verdict(
            "C8",
            CLAIMS["C8"],
            f"where threads exceed arrivals × time-out ({ENOUGH}): {SERVED:.0%} or more of the "
            f"other requests served with it, and below {STARVED:.0%} without; refuted where the "
            "interval of either lies on the other side",
            outcome,
            f"{reason}; {lacking}" if lacking else reason,
            {"others served, with": with_it, "others served, without": without},
            tuple(own["cell"].unique()),
            {
                "others served, with": Region(low=SERVED),
                "others served, without": Region(high=STARVED),
            },
        )
    ]


def outcome_of(with_it: Estimate, without: Estimate) -> Outcome:
    """By the rule above."""
    if min(with_it.n, without.n) < REPLICATES_NEEDED:
        return "undecided"
    if with_it.low >= SERVED and without.high < STARVED:
        return "supported"
    return "refuted" if with_it.high < SERVED or without.low >= STARVED else "undecided"


def _shares(estimate: Estimate) -> str:
    if not math.isfinite(estimate.low):
        return si(estimate.value, "share")
    low, high = max(0.0, estimate.low), min(1.0, estimate.high)
    return f"{si(estimate.value, 'share')} ({si(low, 'share')} to {si(high, 'share')})"


# Tables


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """Each combination, by what its one burst told; medians over replicates."""
    known = last_attempts(cells)
    rows = []
    for (arm, threads), own in known.groupby(["arm", "threads"], sort=True):
        rows.append(
            {
                "timeouts": arm.split(", ")[0],
                "fault": arm.split(", ")[-1],
                "threads": int(threads),
                "requests": int(burst_median(own, "requests")),
                "served %": digits(100 * float(own["served_share"].median())),
                "p99 ms": digits(1e3 * burst_median(own, "latency_p99_s")),
                "connections opened": round(burst_median(own, "server_connects")),
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
    return {"stuck_timeline": _timeline_finding(known), "stuck_tipping": _tipping_finding(known)}


def _timeline_finding(known: pd.DataFrame) -> str:
    said = [
        f"{si(float(own['others_share'].median()), 'share')} with {policy}"
        for policy in (NONE, ACQUIRE)
        if len(own := part(known, policy, ENOUGH))
    ]
    return (
        f"Redis stops for {si(FAULT_S, 's')}; of the requests that do not need it, "
        f"{ENOUGH} threads serve {', '.join(said) or 'an unknown share'}"
    )


def _tipping_finding(known: pd.DataFrame) -> str:
    gaps = [
        abs(float(own["others_share"].median()) - predicted_share(policy, threads))
        for policy in (NONE, ACQUIRE)
        for threads in THREADS
        if len(own := part(known, policy, threads))
    ]
    off = f"{100 * max(gaps):.1f} points off at most" if gaps else "not checked"
    return (
        f"With an acquire timeout of {si(ACQUIRE_S, 's')} a service survives on more than "
        f"{held_threads(ACQUIRE):.0f} threads, without on more than {held_threads(NONE):.0f}; the "
        f"predicted shares are {off}"
    )


# Figures


def figures(cells: pd.DataFrame, store: Store) -> dict[str, Figure]:
    """By name: those that these cells allow."""
    known = measured(cells, store)
    drawn = {"stuck_timeline": _draw_timeline, "stuck_tipping": _draw_tipping}
    return {name: drawn[name](known, store, title) for name, title in _findings(known).items()}


def _draw_timeline(known: pd.DataFrame, store: Store, title: str) -> Figure:
    figure, panels = new_figure(title, 1, 2, size=(12.5, 4.6))
    for axes, threads in zip(panels, (FEW, ENOUGH), strict=True):
        panel_title(axes, f"{threads} threads, a pool of {POOL}, SIGSTOP")
        axes.axvspan(0, FAULT_S, color=MUTED, alpha=0.12, lw=0)
        for policy, style in DEFENCES.items():
            _draw_line(axes, part(known, policy, threads), store, style)
        linear_axis(axes.xaxis, "s", "came after Redis stopped")
        axes.set_xlim(-BEFORE_S, FAULT_S + AFTER_S)
        linear_axis(axes.yaxis, "share", "requests without Redis, served")
        axes.set_ylim(-0.03, 1.05)
    _legend(figure, [policy for policy in DEFENCES if (known["policy"] == policy).any()])
    footnote(
        figure,
        f"{si(RATE_QPS, '/s')}, {si(OTHER_SHARE, 'share')} of them without Redis; callers wait "
        f"{si(PATIENCE_S, 's')} for a thread. Grey: Redis stopped. Medians over replicates, "
        f"{si(BUCKET_S, 's')} a step. {not_run(store.manifest, NAME)}",
    )
    return figure


def _draw_line(axes: Axes, own: pd.DataFrame, store: Store, style: Style) -> None:
    parts = []
    for row in own[OUTAGE].itertuples():
        requests = requests_of(row, store)
        parts.append(shares_over_time(requests[requests["other"]]))
    if parts:
        middle = pd.concat(parts, axis=1).median(axis=1)
        middle = middle[middle.index < FAULT_S + AFTER_S - BUCKET_S]
        axes.plot(middle.index + BUCKET_S / 2, middle, color=style.colour, marker=style.marker,
                  markersize=4)  # fmt: skip


def _draw_tipping(known: pd.DataFrame, store: Store, title: str) -> Figure:
    figure, (tipping, faults) = new_figure(title, 1, 2, size=(12.5, 4.8))
    panel_title(tipping, "SIGSTOP: by the number of threads")
    at = np.linspace(POOL + 1, 1.05 * max(THREADS), 200)
    for policy in (NONE, ACQUIRE):
        style = DEFENCES[policy]
        tipping.plot(at, [predicted_share(policy, t) for t in at], "--", color=style.colour)
        for threads in THREADS:
            own = part(known, policy, threads)["others_share"]
            tipping.plot([threads] * len(own), own, linestyle="", **marker(style))
    linear_axis(tipping.xaxis, "count", "threads of the service")
    linear_axis(tipping.yaxis, "share", "requests without Redis, served")
    tipping.set_ylim(0, 1.05)
    panel_title(faults, f"{ENOUGH} threads: by how Redis stops answering")
    shown = [how for how in FAULTS if (known["how"] == how).any()]
    for place, how in enumerate(shown):
        for policy, aside in ((NONE, -0.12), (ACQUIRE, 0.12)):
            own = part(known, policy, ENOUGH, how)["others_share"]
            faults.plot(own, [place + aside] * len(own), linestyle="", **marker(DEFENCES[policy]))
    faults.set_yticks(range(len(shown)), shown)
    faults.set_ylim(len(shown) - 0.5, -0.5)
    linear_axis(faults.xaxis, "share", "requests without Redis, served")
    faults.set_xlim(0, 1.05)
    _legend(figure, [NONE, ACQUIRE], predicted=True)
    footnote(
        figure,
        "Of the requests that came during the outage. Dashed: predicted from rate, time-out and "
        f"sizes alone. The pool has {POOL} connections. {not_run(store.manifest, NAME)}",
    )
    return figure


def _legend(figure: Figure, policies: list[str], *, predicted: bool = False) -> None:
    line: Any = "" if predicted else "-"
    handles = [
        Line2D([], [], linestyle=line, label=policy, **marker(DEFENCES[policy]))
        for policy in policies
    ]
    if predicted:
        handles.append(Line2D([], [], linestyle="--", color=MUTED, label="predicted"))
    figure.legend(handles=handles, loc="outside right center", frameon=False)


# Prose


def prose(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A paragraph of Markdown below each figure."""
    known = measured(cells, store)
    told = {"stuck_timeline": _timeline_prose, "stuck_tipping": _tipping_prose}
    return {name: told[name](known) for name in _findings(known)}


def _timeline_prose(known: pd.DataFrame) -> str:
    lines = []
    for threads in (FEW, ENOUGH):
        for policy in POLICIES:
            own = part(known, policy, threads)
            if len(own):
                lines.append(f"- {threads} threads, {policy}: {_told(own)}")
    return (
        f"A call holds its thread from the line of the pool until its end; a request that waits "
        f"{si(PATIENCE_S, 's')} for a thread is given up. Collapsed: of the others, which need no "
        f"Redis, fewer than {si(DOWN, 'share')} were served in a step of {si(BUCKET_S, 's')}. "
        f"“{NONE}” leaves the pool's own of {si(float(known['acquire_timeout_s'].max()), 's')}. "
        "What came of it, by medians over replicates:\n\n" + "\n".join(lines)
    )


def _told(own: pd.DataFrame) -> str:
    collapse, recovery = (float(own[name].median()) for name in ("collapse_s", "recovery_s"))
    down = "did not collapse" if math.isnan(collapse) else f"collapsed {si(collapse, 's')} in"
    back = "was not seen to recover" if math.isnan(recovery) else (
        "was back at once" if recovery <= 0 else f"was back {si(recovery, 's')} after Redis was"
    )  # fmt: skip
    return (
        f"served {si(float(own['others_share'].median()), 'share')} of the others and "
        f"{si(float(own['calls_share'].median()), 'share')} of the calls that came meanwhile, "
        f"{down}, {back}; lost {own['others_lost'].median():.0f} others and "
        f"{own['calls_lost'].median():.0f} calls"
    )


def _tipping_prose(known: pd.DataFrame) -> str:
    lines = [
        f"- {policy}, {threads} threads: predicted {si(predicted_share(policy, threads), 'share')}"
        f", measured {si(float(own['others_share'].median()), 'share')}"
        for policy in (NONE, ACQUIRE)
        for threads in THREADS
        if len(own := part(known, policy, threads))
    ]
    return (
        "The prediction is that stuck calls come to hold as many threads as there are "
        "connections, and as many more as arrive while one waits in line: rate × time-out "
        "(Little's law); and that all other requests are served while there are more threads than "
        "that. Beside what was measured:\n\n" + "\n".join(lines)
    )
