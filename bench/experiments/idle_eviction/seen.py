"""What was seen of each defence in each trap: a row per burst, and a row per combination.

A request has failed when it ended in an error, when the pool had no connection for it, or when it
took more than `SLOW` times the p99 of healthy bursts: those of undefended pools while their
connections were fresh.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.replicates import last_attempts
from bench.analysis.statistics import recorded
from bench.experiments.idle_eviction.lanes import (
    C12B,
    CLIENTS,
    FIX,
    NONE,
    PAIRS,
    PARTS,
    TRAPS,
)
from bench.model import OUTCOMES
from bench.store import Store, derived

SLOW = 10.0
TICKS_PER_S = 1e6  # histograms count whole microseconds
OK, RETRIED = OUTCOMES.index("ok"), OUTCOMES.index("ok after retry")
# In the order in which they are shown.
MATRIX = (*PARTS, *PAIRS, FIX, C12B, *CLIENTS)
AT_ONCE = ("closed", "reset", "broken pipe", "refused")


@derived
def measured(cells: pd.DataFrame) -> pd.DataFrame:
    """The last attempts, with the world's time of each trap, `path_s`; `huge`: the incident's own
    two, before the fix and after it, which are shown and not judged."""
    known = last_attempts(cells)
    path_s = (known["trap_s"].astype(float) * known["scale"].astype(float)).round(-1)
    return known.assign(path_s=path_s, huge=known["keep_requests"])


@derived
def bursts(known: pd.DataFrame) -> pd.DataFrame:
    """A row per burst of these cells, with what became of its requests as columns: `ok`, `retried`,
    `failed`, and `first …`, of the first commands on connections that were no fresh ones."""
    rows = [_burst_row(cell, burst) for cell in known.itertuples() for burst in cell.bursts]
    return pd.DataFrame(rows, columns=None if rows else [*_NAMED, *_BURST])


_NAMED = ("cell", "trap", "path_s", "arm", "huge", "valid")
_BURST = ("cycle", "lane", "failed", "requests", "server_cpu_s")  # where there is none
_COMBINED = (
    "bursts", "requests", "failed", "slow", "slow_bursts", "failed_bursts", "slowest_s", "share",
    "retried", "limit_s", "overdue", "overdue_failed", "opened", "stale", "pings", "worst",
)  # fmt: skip


def _burst_row(cell: Any, burst: dict[str, Any]) -> dict[str, Any]:
    outcomes, first = (np.asarray(burst[name]) for name in ("outcomes", "first"))
    return {
        "cell": cell.cell,
        "trap": cell.trap,
        "path_s": cell.path_s,
        "arm": cell.arm,
        "huge": cell.huge,
        "valid": bool(cell.valid),
        "ok": int(outcomes[OK]),
        "retried": int(outcomes[RETRIED]),
        "failed": _failed(burst),
        **{name: int(count) for name, count in zip(OUTCOMES, outcomes, strict=True)},
        **{f"first {name}": int(count) for name, count in zip(OUTCOMES, first, strict=True)},
        **{name: value for name, value in burst.items() if name not in ("outcomes", "first")},
    }


def after_gap(each: pd.DataFrame) -> pd.DataFrame:
    """The bursts that came after a gap."""
    return each[each["cycle"] > 0] if len(each) else each


def healthy_p99_s(known: pd.DataFrame) -> float:
    """The median, over undefended lanes, of the p99 of the burst on fresh connections; NaN where
    none was seen. Over lanes, since a stall of the machine in one of them is no one's health."""
    own = known[(known["arm"] == NONE) & ~known["huge"]]
    fresh = [b["latency_p99_s"] for each in own["bursts"] for b in each if b["cycle"] == 0]
    return float(np.median(fresh)) if fresh else math.nan


def slow_count(row: Any, store: Store, limit_s: float) -> int:
    """How many answered requests of a cell's bursts after a gap took longer."""
    answered = store.histogram(row.cell, row.block, row.attempt, "answered")
    ticks, counts = recorded(answered)
    return int(counts[ticks > limit_s * TICKS_PER_S].sum())


@derived
def combinations(known: pd.DataFrame, store: Store) -> pd.DataFrame:
    """A row per defence, trap and time of the path: requests after a gap, those that `failed` with
    an error or without a connection, those that were `slow`, and the share of both."""
    limit_s = SLOW * healthy_p99_s(known)
    rows = [_combination(cell, store, limit_s) for cell in known.itertuples()]
    return pd.DataFrame(rows, columns=None if rows else [*_NAMED, *_COMBINED])


def _combination(cell: Any, store: Store, limit_s: float) -> dict[str, Any]:
    later = [b for b in cell.bursts if b["cycle"] > 0]
    outcomes, fates = (
        np.sum([np.asarray(b[name]) for b in later], axis=0) for name in ("outcomes", "first")
    )
    requests = int(outcomes.sum())
    failed_in = [_failed(burst) for burst in later]
    failed = sum(failed_in)
    slowest_s = max((burst["latency_max_s"] for burst in later), default=math.nan)
    late = sum(burst["latency_max_s"] > limit_s for burst in later)
    slow = slow_count(cell, store, limit_s) if late else 0
    return {
        "cell": cell.cell,
        "trap": cell.trap,
        "path_s": cell.path_s,
        "arm": cell.arm,
        "huge": cell.huge,
        "valid": bool(cell.valid),
        "bursts": len(later),
        "requests": requests,
        "failed": failed,
        "slow": slow,
        "slow_bursts": late,
        "failed_bursts": sum(count > 0 for count in failed_in),
        "slowest_s": slowest_s,
        "share": (failed + slow) / requests,
        "retried": int(outcomes[RETRIED]),
        "limit_s": limit_s,
        "overdue": sum(b["overdue"] for b in cell.bursts),
        "overdue_failed": sum(b["overdue_failed"] for b in cell.bursts),
        "opened": sum(b["server_connects"] for b in later),
        "stale": sum(b["closed_stale"] for b in later),
        "pings": sum(b["server_pings"] for b in later),
        "worst": _worst(outcomes, slow),
        **{f"first {name}": int(n) for name, n in zip(OUTCOMES, fates, strict=True)},
    }


def _failed(burst: dict[str, Any]) -> int:
    outcomes = burst["outcomes"]
    return int(sum(outcomes) - outcomes[OK] - outcomes[RETRIED])


def _worst(outcomes: Any, slow: int) -> str:
    """What most of the failures were; empty where there was none."""
    kinds = {name: int(n) for name, n in zip(OUTCOMES, outcomes, strict=True)}
    del kinds["ok"], kinds["ok after retry"]
    kinds["slow"] = slow
    name = max(kinds, key=lambda kind: kinds[kind])
    return name if kinds[name] else ""


def part(found: pd.DataFrame, arm: str, trap: str | None = None) -> pd.DataFrame:
    """Valid ones of one defence, of the usual size and the trap's usual time."""
    parts = _parts(found)
    if trap is None:
        return parts.get((arm, ""), found.head(0))
    own = parts.get((arm, trap), found.head(0))
    return own[own["path_s"] == usual_s(own, trap)] if arm == C12B else own


@derived
def _parts(found: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """By defence and trap, and by defence and "" over all traps: claims, figures and words ask for
    some eight hundred, and picking each from the whole took a third of their time."""
    own = found[~found["huge"].astype(bool) & found["valid"].astype(bool)]
    return {
        **{(arm, ""): rows for arm, rows in own.groupby("arm", sort=False)},
        **dict(iter(own.groupby(["arm", "trap"], sort=False))),
    }


def usual_s(own: pd.DataFrame, trap: str) -> float:
    """The time of that trap in the matrix, as it was measured: rounding may have lengthened it."""
    times = own["path_s"].unique()
    return min(times, key=lambda s: abs(s - TRAPS[trap]), default=math.nan)  # type: ignore[index]
