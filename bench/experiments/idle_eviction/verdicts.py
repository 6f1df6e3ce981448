"""The claims, judged by rules that stand in each verdict.

What C12 says of slow requests in one burst was added after runs in which the rig had made some
slow; C11 was parted when a run showed what a told end does to the dashboard. The other rules were
written before the data.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from bench.analysis.replicates import REPLICATES_NEEDED, is_known
from bench.analysis.sentences import as_factor, counted, not_run
from bench.analysis.statistics import (
    Equivalence,
    equivalence,
    log_t_interval,
    proportion,
    same_within,
    t_interval,
)
from bench.experiments.idle_eviction.lanes import (
    BELOW_SERVER_S,
    C12B,
    FIX,
    JUST_BELOW,
    LARGE,
    LONG_GAP_S,
    NAME,
    NONE,
    PAIRS,
    RATE_QPS,
    SERVER_KEEPALIVE_S,
    SHORT_GAP,
    TRAPS,
)
from bench.experiments.idle_eviction.seen import (
    SLOW,
    bursts,
    combinations,
    measured,
    part,
)
from bench.figures.units import si
from bench.model import SILENT_TRAPS, Estimate, Outcome, Region, Trap, Verdict
from bench.store import Store

NEARLY_ALL = 0.9  # of the connections that a trap has closed, the first command fails
SLOW_BURSTS = 2
REQUESTS_NEEDED = 10_000
ALLOWED = 3e-4  # what no failure in so many shows: the rule of three
HEALTHY = 1.10  # the server's CPU is not above before: at most so much
SAME = 0.10
CORE_POINT = 0.01
REDIS_MAXCLIENTS = 10_000  # its default
TIMED = tuple(trap for trap, seconds in TRAPS.items() if seconds)
TOLD = tuple(trap for trap in TIMED if trap not in SILENT_TRAPS)
STAY = 0.5  # of the clients before: so many still connected are no sign of anything
PATHS = tuple(trap for trap in TRAPS if trap not in ("redis defaults", "redis timeout"))
ALONE = ("shrink", "idle below", "passive", "ping", "keepalive", "retries")


CLAIMS = {
    "C9": "A server with a timeout and every hop of the path close what is idle, some in silence",
    "C9b": "Redis' default TCP keepalive kills idle connections",
    "C10": "A pool that does not check hands dead connections out; retries sometimes help",
    "C11": "Meanwhile the server's dashboard looks healthy",
    "C12": "Pool size at peak concurrency, an idle timeout below the path's, and validation on "
    "borrow bring failures to zero",
    "C12b": "An idle timeout below the server's keepalive is enough",
    "C13": "That fix does not move Redis' CPU: the fault was in the client",
}


def claims(cells: pd.DataFrame, store: Store) -> list[Verdict]:
    """C9 to C13, C11 for each manner of ends."""
    known = measured(cells)
    found, each = combinations(known, store), bursts(known)
    silent = [trap for trap in TRAPS if trap in SILENT_TRAPS]
    judged = (
        _hops(found), _defaults(found), _first_commands(found),
        _dashboard("C11", "where nobody is told of an end", silent, each, known),
        _dashboard("C11b", "where an end is told", TOLD, each, known),
        _fix(found), _below_server(found), _cpu(each),
    )  # fmt: skip
    lacking = not_run(store.manifest, NAME)
    return [verdict if not lacking else _with(verdict, lacking) for verdict in judged]


def _with(verdict: Verdict, lacking: str) -> Verdict:
    return dataclasses.replace(verdict, reason=f"{verdict.reason}; {lacking}")


def _rests_on(*tables: pd.DataFrame) -> tuple[str, ...]:
    return tuple(dict.fromkeys(cell for table in tables for cell in table["cell"]))


def _share(count: float, of: float) -> float:
    return count / of if of else math.nan


# C9: who closes, when, and what the client sees


def fates(found: pd.DataFrame, trap: str, arm: str = NONE) -> dict[str, int]:
    """What became of the first commands on connections that were no fresh ones."""
    own = part(found, arm, trap)
    names = [name for name in own.columns if name.startswith("first ")] if len(own) else []
    told = {name.removeprefix("first "): int(own[name].sum()) for name in names}
    return {name: count for name, count in told.items() if count}


def closes(found: pd.DataFrame, trap: str) -> bool | None:
    """Whether it closes between the shorter gap and the longer; None where that was not seen."""
    late, early = (part(found, arm, trap) for arm in (NONE, SHORT_GAP))
    if early.empty or late.empty or not late["overdue"].sum():
        return None
    gone = _share(late["overdue_failed"].sum(), late["overdue"].sum()) >= NEARLY_ALL
    return gone and not early["failed"].sum()


def _hops(found: pd.DataFrame) -> Verdict:
    told = {trap: closes(found, trap) for trap in TRAPS}
    seen = {trap: kept for trap, kept in told.items() if kept is not None}
    server, paths = seen.get("redis timeout"), [seen[t] for t in PATHS if t in seen]
    silent = [t for t in seen if fates(found, t).get("time-out")]
    outcome: Outcome = "undecided"
    if server is not None and paths and silent:
        outcome = "supported" if server and all(paths) else "refuted"
    own = pd.concat([part(found, arm, t) for t in TRAPS for arm in (NONE, SHORT_GAP)])
    return Verdict(
        "C9",
        CLAIMS["C9"],
        f"by hop: it closes where the first command fails on {NEARLY_ALL:.0%} or more of the "
        f"connections that were idle for longer than its time, and on none that was for "
        f"{JUST_BELOW:g} of it; supported where Redis' timeout and every hop of the path do, and "
        "one of these is silent, so that the client waits for its time-out",
        outcome,
        "; ".join(_hop_said(found, trap) for trap in seen) or "no trap was measured",
        _failing_first(found, seen), _rests_on(own), _nearly_all(seen),
    )  # fmt: skip


def _failing_first(found: pd.DataFrame, traps: Iterable[str]) -> dict[str, Estimate]:
    return {_first(trap): _overdue(part(found, NONE, trap)) for trap in traps}


def _nearly_all(traps: Iterable[str]) -> dict[str, Region]:
    return {_first(trap): Region(low=NEARLY_ALL) for trap in traps}


def _first(trap: str) -> str:
    return f"first commands that fail, {trap}"


def _overdue(own: pd.DataFrame) -> Estimate:
    """The share of first commands that fail on connections that were idle for too long."""
    return proportion(int(own["overdue_failed"].sum()), int(own["overdue"].sum()))


def _hop_said(found: pd.DataFrame, trap: str) -> str:
    own = part(found, NONE, trap)
    path_s = float(own["path_s"].iloc[0])
    fate = max(fates(found, trap).items(), key=lambda each: each[1] * (each[0] != "ok"))
    share = _share(own["overdue_failed"].sum(), own["overdue"].sum())
    return f"{trap} ({si(path_s, 's')}): {share:.0%} of first commands fail, most with “{fate[0]}”"


def _defaults(found: pd.DataFrame) -> Verdict:
    own = part(found, NONE, "redis defaults")
    told = fates(found, "redis defaults")
    broken = sum(told.values()) - told.get("ok", 0)
    outcome: Outcome = "undecided"
    if sum(told.values()):
        outcome = "supported" if broken else "refuted"
    said = (
        f"{broken} of {counted(sum(told.values()), 'first command')} failed after "
        f"{si(LONG_GAP_S, 's')} of idleness, past the keepalive at {si(SERVER_KEEPALIVE_S, 's')} "
        "and past the moment at which it gives up a peer that does not answer"
    )
    return Verdict(
        "C9b",
        CLAIMS["C9b"],
        "a server left at its defaults, connections idle well past its keepalive: supported where "
        "any healthy one is closed, refuted where none is",
        outcome, said, {"first commands that fail": proportion(broken, sum(told.values()))},
        _rests_on(own),
    )  # fmt: skip


# C10: the first command, and what a retry makes of it


def _first_commands(found: pd.DataFrame) -> Verdict:
    shares = {trap: _failing(part(found, NONE, trap)) for trap in TIMED}
    seen = {trap: share for trap, share in shares.items() if not math.isnan(share)}
    retried = pd.concat([part(found, "retries", trap) for trap in TIMED])
    quick = int((retried["retried"] - retried["slow"]).clip(lower=0).sum())
    slow, failed = (int(retried[name].sum()) for name in ("slow", "failed"))
    outcome: Outcome = "undecided"
    if seen and len(retried):
        fails = min(seen.values()) >= NEARLY_ALL
        outcome = "supported" if fails and quick and slow + failed else "refuted"
    pipes = sum(fates(found, trap).get("broken pipe", 0) for trap in TIMED)
    reason = (
        f"first commands that failed on closed connections: {_shares_said(seen)}; EPIPE "
        f"(“broken pipe”) in {pipes}; with redis-py's retries {quick} requests succeeded in good "
        f"time, {slow} too late, after a time-out or a line of connections to open, and {failed} "
        "failed"
    )
    own = pd.concat([retried, *(part(found, NONE, trap) for trap in TIMED)])
    return Verdict(
        "C10",
        CLAIMS["C10"],
        f"in every trap {NEARLY_ALL:.0%} or more of the closed connections fail their first "
        f"command; with retries both are seen: success in time, and failure or more than {SLOW:g} "
        "times the healthy p99",
        outcome, reason,
        _failing_first(found, seen), _rests_on(own), _nearly_all(seen),
    )  # fmt: skip


def _failing(own: pd.DataFrame) -> float:
    return _share(own["overdue_failed"].sum(), own["overdue"].sum()) if len(own) else math.nan


def _shares_said(seen: Mapping[Any, float]) -> str:
    return ", ".join(f"{trap} {share:.1%}" for trap, share in seen.items()) or "none was seen"


# C11: what the dashboard shows meanwhile


def during_before(each: pd.DataFrame, traps: Sequence[Trap] = TIMED) -> list[float]:
    """Server CPU of an undefended lane's burst after the gap ÷ that of its fresh one, at the same
    offered rate; a ratio for each lane in these traps."""
    own = each[(each["arm"] == NONE) & each["valid"] & ~each["huge"] & each["trap"].isin(traps)]
    fresh = own[own["cycle"] == 0].set_index(["cell", "lane"])["server_cpu_s"]
    later = own[own["cycle"] == 1].set_index(["cell", "lane"])["server_cpu_s"]
    return [float(ratio) for ratio in (later / fresh).dropna()]


def remaining(each: pd.DataFrame, traps: Sequence[Trap]) -> list[float]:
    """Connected clients in an undefended lane's burst after the gap, as a share of its pool; 1 at
    most, since another lane may have the same server."""
    own = each[(each["arm"] == NONE) & each["valid"] & ~each["huge"] & each["trap"].isin(traps)]
    left = own[own["cycle"] == 1]["server_connections"] / LARGE
    return [float(share) for share in left.clip(upper=1.0).dropna()]


def _dashboard(
    claim: str, where: str, traps: Sequence[Trap], each: pd.DataFrame, known: pd.DataFrame
) -> Verdict:
    ratio = log_t_interval(during_before(each, traps) if len(each) else [], unit="×")
    rejected, usual, reason = 0, math.nan, "too few lanes"
    outcome: Outcome = "undecided"
    if is_known(ratio):
        clients = remaining(each, traps)
        usual = float(np.median(clients))
        rejected = int(each[each["trap"].isin(traps)]["server_rejected"].sum())
        stay = min(clients) >= STAY
        outcome = "supported" if ratio.high <= HEALTHY and stay and not rejected else "undecided"
        if ratio.low > HEALTHY or usual < STAY or rejected:
            outcome = "refuted"
        reason = (
            f"CPU {as_factor(ratio)}; of the pool's connections {si(min(clients), 'share')} to "
            f"{si(max(clients), 'share')} are left at the server, {si(usual, 'share')} in the "
            f"median; {counted(rejected, 'connection')} refused"
        )
    huge = known[known["huge"] & (known["arm"] == NONE)] if len(known) else known
    if len(huge) and huge["trap"].iloc[0] in traps:
        share = int(huge["server_connections_peak"].max()) / REDIS_MAXCLIENTS
        reason += (
            f"; the pool of {int(huge['pool_size'].max()):,} takes {share:.0%} of maxclients at "
            f"its default of {REDIS_MAXCLIENTS:,}"
        )
    own = known[(known["arm"] == NONE) & known["trap"].isin(traps)]
    return Verdict(
        claim,
        f"{CLAIMS['C11']}, {where}",
        "server CPU of a burst on dead connections ÷ that of the same burst on fresh ones, by "
        f"lane: supported where the 95 % interval ends below {HEALTHY:g}, {STAY:.0%} or more of "
        "the pool are still connected in every lane, and no connection was refused; refuted where "
        "it begins above, fewer are in the median, or one was (clients were added after a run)",
        outcome, reason,
        {
            "server CPU, during ÷ before": ratio,
            "clients left, median of lanes": Estimate(usual, usual, usual, "share", ratio.n),
        },
        _rests_on(own),
        {
            "server CPU, during ÷ before": Region(high=HEALTHY),
            "clients left, median of lanes": Region(low=STAY),
        },
    )  # fmt: skip


# C12 and C12b: what brings failures to zero


def _fix(found: pd.DataFrame) -> Verdict:
    own = pd.concat([part(found, FIX, trap) for trap in TRAPS])
    requests, failed = int(own["requests"].sum()), int((own["failed"] + own["slow"]).sum())
    silent = own[own["trap"].isin(SILENT_TRAPS)]
    enough = requests >= REQUESTS_NEEDED and len(silent) > 0
    outcome: Outcome = "undecided"
    if enough or failed:
        outcome = "supported" if not failed else "refuted" if _fails(own) else "undecided"
    alone = [f"{arm} {_over_traps(found, arm)}" for arm in (*ALONE, *PAIRS)]
    bursts_seen = int(own["bursts"].sum())
    return Verdict(
        "C12",
        CLAIMS["C12"],
        f"no failure (error, no connection, or more than {SLOW:g} times the healthy p99) in "
        f"{REQUESTS_NEEDED:,} or more requests after a gap, stated as at most {ALLOWED:.2%}; "
        f"refuted by an error, or by slow requests in {SLOW_BURSTS} or more bursts, since one may "
        "be the machine's doing (added after a run that had one); every part alone and together "
        "beside it",
        outcome,
        f"{failed} of {requests:,} requests in {bursts_seen} bursts and "
        f"{counted(own['trap'].nunique(), 'trap')} failed{_slowest(own)}; "
        f"{int(own['opened'].sum())} connections were opened anew, since the idle timeout had "
        f"closed what lay idle, and the check on borrow found {int(own['stale'].sum())} dead; "
        f"failing with one part, or two, over all traps: {', '.join(alone)}; undefended "
        f"{_over_traps(found, NONE)}",
        {
            "bursts with a failure": _at_most(
                int((own["failed_bursts"] + own["slow_bursts"]).sum()), bursts_seen
            ),
            "requests that failed": _at_most(failed, requests),
        },
        _rests_on(own, *(part(found, arm) for arm in (*ALONE, *PAIRS, NONE))),
    )


def _slowest(own: pd.DataFrame) -> str:
    if own.empty:
        return ""
    worst_s, limit_s = float(own["slowest_s"].max()), float(own["limit_s"].max())
    return f" (the slowest took {si(worst_s, 's')}, slow is from {si(limit_s, 's')} up)"


def _fails(own: pd.DataFrame) -> bool:
    """Whether failures are more than one burst's slowness."""
    return bool(own["failed"].sum() or own["slow_bursts"].sum() >= SLOW_BURSTS)


def _at_most(failed: int, requests: int) -> Estimate:
    """With the upper end of Clopper and Pearson's one-sided 95 % interval, as of independent
    trials: those of one burst are not, so that of bursts is the one to go by."""
    if not requests:
        return Estimate(math.nan, math.nan, math.nan, "share", 0)
    high = 1.0
    if failed < requests:
        high = float(special.betaincinv(failed + 1, requests - failed, 0.95))
    return Estimate(failed / requests, 0.0, high, "share", requests, ("one-sided",))


def _over_traps(found: pd.DataFrame, arm: str) -> str:
    """The share that fails over all traps, and the traps in which any does."""
    own = pd.concat([part(found, arm, trap) for trap in TRAPS])
    if own.empty:
        return "not measured"
    own = own.assign(bad=own["failed"] + own["slow"])
    share = _share(own["bad"].sum(), own["requests"].sum())
    held = int((own["bad"] == 0).sum())
    return f"{share:.1%} (none in {held} of {counted(len(own), 'trap')})"


def _below_server(found: pd.DataFrame) -> Verdict:
    own = part(found, C12B)
    bad = own[(own["failed"] + own["slow"]) > 0]
    outcome: Outcome = "undecided"
    if len(own):
        outcome = "supported" if not len(bad) else "refuted" if _fails(own) else "undecided"
    worst_first = own.sort_values("share", ascending=False, kind="stable") if len(own) else own
    told = [
        f"{row.trap} ({si(row.path_s, 's')}): {row.failed + row.slow} of {row.requests}"
        for row in worst_first.itertuples()
    ]
    return Verdict(
        "C12b",
        CLAIMS["C12b"],
        f"a pool's idle timeout of {si(BELOW_SERVER_S, 's')}, scaled, on each hop: supported where "
        f"no request fails on any, refuted where one does (of slow ones, in {SLOW_BURSTS} bursts)",
        outcome,
        f"failed, by hop: {'; '.join(told) or 'none was measured'}",
        {
            f"requests that fail, {row.trap} ({si(row.path_s, 's')})": proportion(
                row.failed + row.slow, row.requests
            )
            for row in worst_first.itertuples()
        },
        _rests_on(own),
    )


# C13: what the fix costs the server


def cpu_us(each: pd.DataFrame, arm: str, fresh: bool) -> pd.Series:
    """Server CPU per application request, by trap."""
    own = each[(each["arm"] == arm) & each["valid"] & ~each["huge"]]
    own = own[(own["cycle"] == 0) == fresh].groupby("trap")[["server_cpu_s", "requests"]].sum()
    return 1e6 * own["server_cpu_s"] / own["requests"]


def fix_ratios(each: pd.DataFrame, arm: str = FIX) -> list[float]:
    """With the fix after a gap ÷ undefended and fresh, by trap."""
    return [float(r) for r in (cpu_us(each, arm, False) / cpu_us(each, NONE, True)).dropna()]


def _cpu(each: pd.DataFrame) -> Verdict:
    ratios = fix_ratios(each) if len(each) else []
    same = equivalence(ratios, SAME)
    points = _points(each)
    outcome = _cpu_outcome(same, points)
    said = (
        f"{as_factor(same.ratio)} (90 % interval), detectable from {same.detectable:.1%} up; at "
        f"{si(RATE_QPS, '/s')} that is {100 * points.value:+.2f} points of a core "
        f"({100 * points.low:+.2f} to {100 * points.high:+.2f})"
    )
    own = each[each["arm"].isin([NONE, FIX])] if len(each) else each
    later = own[(own["arm"] == FIX) & (own["cycle"] > 0)] if len(own) else own
    if len(later):
        opened = 1e3 * later["server_connects"].sum() / later["requests"].sum()
        said += f"; in it {opened:.0f} connections opened anew for a thousand requests"
    return Verdict(
        "C13",
        CLAIMS["C13"],
        "server CPU per application request, with the fix after a gap ÷ undefended on fresh "
        f"connections, by trap: two one-sided tests within ±{SAME:.0%}, and within "
        f"±{CORE_POINT:.0%} of a core",
        outcome,
        said if same.ratio.n >= REPLICATES_NEEDED else "too few traps were measured",
        {"server CPU, fix ÷ healthy": same.ratio, "difference, of a core": points},
        _rests_on(own),
        {
            "server CPU, fix ÷ healthy": same_within(SAME),
            "difference, of a core": Region(-CORE_POINT, CORE_POINT),
        },
        needs=(
            f"more lanes in each trap: a value is one trap's, and {same.ratio.n} is all there are; "
            "or a quieter machine"
        ),
    )


def _points(each: pd.DataFrame) -> Estimate:
    if not len(each):
        return t_interval([], "cores")
    difference = cpu_us(each, FIX, False) - cpu_us(each, NONE, True)
    return t_interval([1e-6 * RATE_QPS * us for us in difference.dropna()], "cores")


def _cpu_outcome(same: Equivalence, points: Estimate) -> Outcome:
    if same.equivalent and max(abs(points.low), abs(points.high)) <= CORE_POINT:
        return "supported"
    outside = same.ratio.low > 1 + SAME or same.ratio.high < 1 - SAME
    return "refuted" if outside and same.ratio.n >= REPLICATES_NEEDED else "undecided"
