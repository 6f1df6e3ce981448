"""What the figures say: titles and paragraphs, their numbers from the cells."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.analysis.sentences import counted
from bench.analysis.statistics import log_t_interval
from bench.experiments.idle_eviction.lanes import FIX, NONE, PAIRS, PARTS, TRAPS
from bench.experiments.idle_eviction.seen import (
    AT_ONCE,
    after_gap,
    bursts,
    combinations,
    measured,
    part,
)
from bench.experiments.idle_eviction.verdicts import (
    TIMED,
    during_before,
    fates,
    fix_ratios,
)
from bench.figures.units import si
from bench.model import SILENT_TRAPS
from bench.store import Store, derived

# Hanley and Lippman-Hand (JAMA 249, 1983): none of n is at most this over n, with 95 %.
RULE_OF_THREE = 3.0


def findings(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A sentence for each figure that these cells allow: its title."""
    known = measured(cells)
    return findings_of(known, combinations(known, store), bursts(known))


@derived
def findings_of(known: pd.DataFrame, found: pd.DataFrame, each: pd.DataFrame) -> dict[str, str]:
    said = {}
    if len(found) and len(part(found, NONE)):
        said["idle_matrix"] = _matrix_finding(found)
        if known["keep_requests"].any():
            said["idle_timeline"] = _timeline_finding(each)
        said["idle_first_commands"] = _fates_finding(found)
        if len(during_before(each)):
            said["idle_server"] = _server_finding(each)
    return said


def stops_all(found: pd.DataFrame) -> list[str]:
    """The defences with which no request failed in any trap that some request fails in."""
    traps = [trap for trap in TRAPS if _bad(part(found, NONE, trap))]
    return [
        arm
        for arm in (*PARTS, *PAIRS, FIX)
        if traps and all(len(o := part(found, arm, t)) and not _bad(o) for t in traps)
    ]


def _bad(own: pd.DataFrame) -> int:
    return int((own["failed"] + own["slow"]).sum()) if len(own) else 0


def _matrix_finding(found: pd.DataFrame) -> str:
    traps = [trap for trap in TIMED if len(part(found, NONE, trap))]
    hit = [trap for trap in traps if _bad(part(found, NONE, trap))]
    held = stops_all(found)
    if not hit:
        return "No request failed in any trap, with or without a defence"
    alone = (
        f"; what stops all of them: {', '.join(held)}"
        if held
        else "; nothing that was validly measured stops all"
    )
    return f"Undefended, requests fail in {len(hit)} of {counted(len(traps), 'trap')}{alone}"


def _timeline_finding(each: pd.DataFrame) -> str:
    lanes = each[each["huge"].astype(bool)]
    told = []
    for arm, named in ((NONE, "undefended"), (FIX, "with the full fix")):
        own = after_gap(lanes[lanes["arm"] == arm])
        if len(own):
            told.append(f"{int(own['failed'].sum()):,} of {int(own['requests'].sum()):,} {named}")
    return f"The incident, requests that failed after the gap: {', '.join(told) or 'not measured'}"


def _fates_finding(found: pd.DataFrame) -> str:
    def failing(traps: Sequence[str]) -> str:
        own = pd.concat([part(found, NONE, t) for t in traps]) if traps else found.head(0)
        share = own["overdue_failed"].sum() / own["overdue"].sum() if len(own) else math.nan
        return si(float(share), "share")

    silent = [t for t in TRAPS if t in SILENT_TRAPS and len(part(found, NONE, t))]
    told = [t for t in TRAPS if TRAPS[t] and t not in SILENT_TRAPS and len(part(found, NONE, t))]
    return (
        f"On closed connections {failing(told)} of first commands fail where an end is told, most "
        f"with “{_usual_fate(found, told)}”, and {failing(silent)} where nobody is, most with "
        f"“{_usual_fate(found, silent)}”"
    )


def _usual_fate(found: pd.DataFrame, traps: Sequence[str]) -> str:
    """What became of most first commands in these traps, “ok” apart."""
    counts = sum((Counter(fates(found, trap)) for trap in traps), Counter[str]())
    counts.pop("ok", None)
    return max(counts, key=lambda name: counts[name], default="–")


def _server_finding(each: pd.DataFrame) -> str:
    during = during_before(each)
    fix = fix_ratios(each)
    told = f"{np.median(fix):.2f} × with the fix" if fix else "no valid cell has the fix"
    return (
        f"The server spends {np.median(during):.2f} × the CPU on the same burst while requests "
        f"fail, and {told}"
    )


def prose(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A paragraph of Markdown below each figure."""
    known = measured(cells)
    found, each = combinations(known, store), bursts(known)
    told = {
        "idle_matrix": lambda: _matrix_prose(found),
        "idle_timeline": lambda: _timeline_prose(each),
        "idle_first_commands": lambda: _fates_prose(found),
        "idle_server": lambda: _server_prose(each),
    }
    return {name: told[name]() for name in findings_of(known, found, each)}


def _matrix_prose(found: pd.DataFrame) -> str:
    limits = found["limit_s"].dropna()
    limit = f"A request is slow from {si(float(limits.max()), 's')} up. " if len(limits) else ""
    return (
        f"{limit}{_zero_said(found)}A path that only counts bytes (link, load balancers) is not "
        "refreshed by TCP's own probes, and the link's kernel answers them itself: what keepalive "
        "is worth is to be read in the firewall's column alone. In the firewall's the path is "
        "shorter than the server's own keepalive, which would refresh a longer one. Rows called "
        "“like” a client are this project's pool, set as that client comes; those of redis-py are "
        "its own pools, and what is slow there may be the client's own work as well. A little that "
        "is slow, in one field alone, may be the rig's doing: verdicts count bursts."
    )


def _zero_said(found: pd.DataFrame) -> str:
    """What no failure in a field shows: at most three in as many requests (rule of three)."""
    requests = found.loc[found["requests"] > 0, "requests"]
    if requests.empty:
        return ""
    fewest, most = int(requests.min()), int(requests.max())
    return (
        f"A field is {fewest:,} to {most:,} requests after a gap, so a zero in the smallest rules "
        f"out {si(RULE_OF_THREE / fewest, 'share')} and more. "
    )


def _timeline_prose(each: pd.DataFrame) -> str:
    lanes = after_gap(each[each["huge"].astype(bool)])
    said = [
        f"{arm}: p99 {si(float(own['latency_p99_s'].max()), 's')}, "
        f"{int(own['server_connects'].sum())} connections opened anew"
        for arm in (NONE, FIX)
        if len(own := lanes[lanes["arm"] == arm])
    ]
    return (
        "Both services get the same burst twice: on fresh connections, and after the gap. "
        f"{'; '.join(said)}. What the server's dashboard shows is below the requests: CPU of one "
        "core, and the clients that the server believes to have."
    )


def _fates_prose(found: pd.DataFrame) -> str:
    lines = []
    for trap in TRAPS:
        told = fates(found, trap)
        if told:
            total = sum(told.values())
            parts = ", ".join(
                f"{name} {si(count / total, 'share')}" for name, count in told.items()
            )
            lines.append(f"- {trap}: {parts}")
    counts = sum((Counter(fates(found, trap)) for trap in TRAPS), Counter[str]())
    quick = sum(count for name, count in counts.items() if name in AT_ONCE)
    return (
        f"{quick:,} first commands failed at once, and {counts['time-out']:,} when the socket's "
        "time-out was over, which is what a retry of these has to wait for.\n\n" + "\n".join(lines)
    )


def _server_prose(each: pd.DataFrame) -> str:
    during = log_t_interval(during_before(each))
    return (
        f"While requests fail, the server spends {during.value:.2f} × the CPU of the same burst on "
        f"fresh connections, over {counted(during.n, 'lane')}; meanwhile a new connection is "
        f"opened for {_opened(each, NONE)} of the requests, and for {_opened(each, FIX)} with the "
        "fix."
    )


def _opened(each: pd.DataFrame, arm: str) -> str:
    """Connections that the server took, as a share of the requests of bursts after a gap."""
    own = after_gap(each[(each["arm"] == arm) & ~each["huge"].astype(bool)])
    if own.empty:
        return "an unknown share"
    return si(float(own["server_connects"].sum() / own["requests"].sum()), "share")
