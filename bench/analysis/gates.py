"""Validity checks on a cell, and the name of what bounds it.

Every limit is a constant below; "rule 7" is the rule of that number in the methods. A gate that
does not apply is still reported, with `passed` None and the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy import special  # scipy.stats costs a second to import

from bench.model import BoundBy, Gate

LITTLE_USERS = 0.03  # rule 7, Little (a): |λ · mean(done − sent) / concurrency − 1|
LITTLE_RTT_S = 1e-3  # rule 7, Little (a): gated from this round trip up
LITTLE_POOL = 0.01  # rule 7, Little (b): the pool's own count in use against λW
STAMPS_S = 1e-6  # ours: so near to `done` does the pool read its own clock at the return
LITTLE_POOL_FULL = 0.03  # rule 7, Little (b): against the pool size, where the pool is the limit
STEAL = 0.01  # rule 7, bound by: share of the machine's time
FOREIGN_CPU = 0.03  # rule 7, bound by: share of the machine's time
CORE_BUSY = 0.85  # rule 7, bound by: share of one core
RUNQUEUE = 0.05  # rule 7, bound by: share of the window spent runnable but waiting for a core
# Ours: by what share of the unloaded round trip the hold time may exceed it before such waits have
# shown; of short ones by more, since the quickest of a few PINGs scatters by a tenth at 1 ms.
STRETCHED, STRETCHED_SHORT, STRETCHED_S = 0.10, 0.20, 0.2e-3
QUIET_CORE = 0.60  # rule 7, bound by: where N* or a sharing cost is decided
SERVED = 0.999  # rule 7, open loop: of the arrivals due within the window
BACKLOG = 0.05  # ours: of the arrivals, by which the line may have grown when the window ends
SEND_LAG_SHARE, SEND_LAG_S = 0.10, 0.5e-3  # rule 7, open loop: of the unloaded round trip; at least
BURST_LAG_S = 0.015  # ours: half of what makes a request of a burst count as slow, or so
NULL_POOL, NULL_EMPTY = 4, 0.001  # rule 7, null control: × the mean in flight; share found empty
LINK_EARLY = 0.01  # ours: the relay's clock and the worker's are read at different moments
LINK_RTT, LINK_OWN_S = 0.05, 0.4e-3  # ours: share of the round trip; what relaying adds itself
CLOCK_STEP_S = 0.05  # ours: slewing moves a clock by 0.5 ms in a second at most
HICCUP_S = 1e-3  # rule 7, hiccups
FOREIGN_OPERATIONS = 0.01  # rule 7, operations: above it a shared server bars CPU verdicts
POOL_FULL = 1 - LITTLE_POOL_FULL  # a pool this full on average is the limit
REPORTED = ("hiccups", "steal", "foreign_cpu", "foreign_operations")  # for lack of a quiet machine
DRIFT = 0.10  # rule 6 asks for a stationarity check without a figure; this one is ours
DRIFT_CONFIDENCE = 0.9995  # ours: at most one settled cell in a thousand is called unsettled
DRIFT_INTERVALS = 8  # fewer tell no drift from noise


def little_users(
    outstanding_mean: float, concurrency: int, rtt_s: float, *, closes: bool = False
) -> Gate:
    """Little's law (a), for a closed loop without think time: every user always has a request out.

    `outstanding_mean` is λ · mean(done − sent) by areas: the seconds that all requests were out
    within the window, over its length (see `little_pool`). The figure is signed: −0.02 means that
    2 % of the users' time went to the generator itself, or was never recorded. With `closes` each
    user closes its connection after each reply, with no request out.
    """
    figure = outstanding_mean / concurrency - 1
    if closes:
        reason = "the rest is the closing of each request's connection: reported, not gated"
        return Gate("little_users", figure, LITTLE_USERS, None, reason)
    if rtt_s < LITTLE_RTT_S:
        reason = "below 1 ms of round trip the gap is the generator's share: reported, not gated"
        return Gate("little_users", figure, LITTLE_USERS, None, reason)
    return _within("little_users", figure, LITTLE_USERS, "of the users' time is unaccounted for")


def little_pool(in_use_mean: float, held_mean: float, qps: float) -> Gate:
    """Little's law (b): the pool's own time-integrated count in use against the requests' λW.

    `held_mean` is λW by areas: the seconds of all requests' holds (done − acquired) that fell into
    the window, over its length. That is λ times the mean hold without the error of requests cut
    off at its edges, which is up to one turn in a short window. The figure is relative and signed,
    and leaves out up to `STAMPS_S` for each of the `qps` requests a second: the pool reads its own
    clock at the return, shortly after `done`, which is 1 % of a request that takes 25 µs.
    """
    if held_mean <= 0:
        return Gate("little_pool", None, LITTLE_POOL, False, "nothing was served")
    gap = in_use_mean - held_mean
    unexplained = math.copysign(max(0.0, abs(gap) - qps * STAMPS_S), gap)
    figure = unexplained / held_mean
    return _within("little_pool", figure, LITTLE_POOL, "between the pool's count in use and λW")


def little_pool_full(in_use_mean: float, pool_size: int, workers: int, bound: BoundBy) -> Gate:
    """Little (b) where the pool is the limit: mean in use against pool size × workers."""
    figure = in_use_mean / (pool_size * workers) - 1
    if bound != "pool":
        reason = f"bound by {bound}, not by the pool: reported, not gated"
        return Gate("little_pool_full", figure, LITTLE_POOL_FULL, None, reason)
    return _within("little_pool_full", figure, LITTLE_POOL_FULL, "between in use and the pool size")


def operations(
    successes: Mapping[str, int], sends: Mapping[str, int], server: Mapping[str, int] | None
) -> Gate:
    """Operations against the `INFO commandstats` delta, for each command named in `sends`.

    Exact where nothing failed; with failures successes ≤ delta ≤ sends. The figure is the largest
    number of calls out of these bounds. For an owned server reached directly, all counts taken
    with nothing in flight, warm-up and drain included; name a command with 0 sends to assert that
    nobody else sent it. `server` None: its counts are unknown.
    """
    if server is None:
        return Gate("operations", None, 0.0, None, "the server's command counts are unknown")
    outside = {
        command: max(sent_ok - calls, calls - sends[command], 0)
        for command in sends
        for sent_ok, calls in [(successes.get(command, 0), server.get(command, 0))]
    }
    wrong = [
        f"{name}: {successes.get(name, 0)}–{sends[name]} sent, server counts {server.get(name, 0)}"
        for name, calls in outside.items()
        if calls
    ]
    figure = float(max(outside.values(), default=0))
    return Gate("operations", figure, 0.0, not wrong, "; ".join(wrong))


def foreign_operations(own: int, server: int | None) -> Gate:
    """The share of a shared server's operations that were not ours: reported, never gated."""
    if server is None:
        reason = "the server's command counts are unknown"
        return Gate("foreign_operations", None, FOREIGN_OPERATIONS, None, reason)
    figure = max(server - own, 0) / server if server else 0.0
    what = "foreign operations: no verdict on server CPU"
    return _reported("foreign_operations", figure, FOREIGN_OPERATIONS, what)


def steal(share: float | None) -> Gate:
    """Time the hypervisor took, as a share of the machine's: reported, not gated."""
    return _reported("steal", share, STEAL, "of the machine was stolen")


def foreign_cpu(share: float | None) -> Gate:
    """CPU of processes that are not part of the rig, as a share of the machine's: reported."""
    return _reported("foreign_cpu", share, FOREIGN_CPU, "of the machine went elsewhere")


def cores(busiest: float | None) -> Gate:
    """Whether every core had time to spare, by the busiest one's share: where they have not, what
    waits for a core is taken for what waits for the pool."""
    if busiest is None:
        return Gate("cores", None, QUIET_CORE, None, "not known on this system")
    passed = busiest <= QUIET_CORE
    reason = "" if passed else f"a core was {busiest:.0%} busy, {QUIET_CORE:.0%} allowed"
    return Gate("cores", busiest, QUIET_CORE, passed, reason)


def served(scheduled: int, done: int, bound: BoundBy) -> Gate:
    """The share of an open loop's arrivals that got their reply, however late.

    `scheduled` counts the arrivals intended within the window, `done` those of them that were
    served, up to the end of the drain after it.
    """
    figure = done / scheduled if scheduled else math.nan
    if not scheduled:
        return Gate("served", None, SERVED, None, "no arrival was due within the window")
    if bound == "pool":
        reason = "the pool is the limit: reported, not gated"
        return Gate("served", figure, SERVED, None, reason)
    passed = figure >= SERVED
    return Gate("served", figure, SERVED, passed, "" if passed else f"only {figure:.2%} of offered")


def backlog(grown: int, room: float, scheduled: int, bound: BoundBy) -> Gate:
    """Whether an open loop was kept up with: by what share of the arrivals its line grew.

    A line that only grows is served in the drain, so `served` does not see it: at twice what can be
    carried, all would have been served. `grown`: how many more requests were out at the window's
    end than at its begin; `room`: how many more may be out by chance, or in a burst.
    """
    if not scheduled:
        return Gate("backlog", None, BACKLOG, None, "no arrival was due within the window")
    figure = max(0.0, grown - room) / scheduled
    if bound == "pool":
        reason = "the pool is the limit: reported, not gated"
        return Gate("backlog", figure, BACKLOG, None, reason)
    passed = figure <= BACKLOG
    reason = "" if passed else f"{figure:.1%} of the arrivals piled up within the window"
    return Gate("backlog", figure, BACKLOG, passed, reason)


def send_lag(p99_s: float | None, unloaded_s: float, rtt_s: float) -> Gate:
    """Whether the generator kept its schedule: p99 of sent − intended, in seconds."""
    limit = max(SEND_LAG_SHARE * unloaded_s, SEND_LAG_S)
    if p99_s is None:
        return Gate("send_lag", None, limit, None, "too few requests for a p99")
    if not rtt_s:
        return Gate("send_lag", p99_s, limit, None, "at RTT 0 reported, not gated")
    passed = p99_s <= limit
    reason = f"p99 {p99_s * 1e3:.2f} ms behind schedule, {limit * 1e3:.2f} ms allowed"
    return Gate("send_lag", p99_s, limit, passed, "" if passed else reason)


def burst_lag(p99_s: float) -> Gate:
    """Whether the generator kept the schedule of each burst: the highest p99 of sent − intended, in
    seconds. A burst that opens connections is some milliseconds late by that alone."""
    passed = p99_s <= BURST_LAG_S
    reason = (
        f"p99 {p99_s * 1e3:.1f} ms behind a burst's schedule, {BURST_LAG_S * 1e3:.0f} ms allowed"
    )
    return Gate("burst_lag", p99_s, BURST_LAG_S, passed, "" if passed else reason)


def null_control(
    pool_empty_share: float, connections: int, concurrency: int, in_flight_mean: float, rtt_s: float
) -> Gate:
    """A pool of four times what is in flight must not be found empty: where it is, stalls bunch the
    arrivals, and no wait at a smaller pool is that pool's doing. For prefilled pools, and more
    users than connections: fewer could not find them all taken."""
    if not rtt_s:
        reason = "at RTT 0 reported: a few arrivals at once are more than is in flight"
        return Gate("null_control", pool_empty_share, NULL_EMPTY, None, reason)
    if connections < NULL_POOL * in_flight_mean:
        reason = f"no control: below {NULL_POOL} × the mean in flight"
        return Gate("null_control", None, NULL_EMPTY, None, reason)
    if concurrency <= connections:
        reason = "no control: no more users than connections, which so are never all taken"
        return Gate("null_control", None, NULL_EMPTY, None, reason)
    passed = pool_empty_share <= NULL_EMPTY
    reason = f"{pool_empty_share:.2%} of requests found it empty"
    return Gate("null_control", pool_empty_share, NULL_EMPTY, passed, "" if passed else reason)


def link_rtt(quickest_s: float, rtt_s: float) -> Gate:
    """Whether the link is set as the cell says, by the quickest request it let through: relative,
    signed. Nothing can be quicker than the round trip, and the quickest is hardly slower."""
    if not rtt_s:
        return Gate("link_rtt", None, LINK_RTT, None, "no link on the path")
    limit = LINK_RTT + LINK_OWN_S / rtt_s
    figure = quickest_s / rtt_s - 1
    passed = -LINK_EARLY <= figure <= limit
    reason = f"the quickest request took {quickest_s * 1e3:.3g} ms at RTT {rtt_s * 1e3:g} ms"
    return Gate("link_rtt", figure, limit, passed, "" if passed else reason)


def workers(lost: int, asked: int) -> Gate:
    """None of the cell's workers may be lost: its share of the requests is not in the figures."""
    reason = f"{lost} of {asked} lost" if lost else ""
    return Gate("workers", float(lost), 0.0, not lost, reason)


def clock(step_s: float, backwards: int) -> Gate:
    """Whether time ran evenly: the wall clock's advance over the window less the monotonic one's,
    and how many requests have times that run backwards."""
    if backwards:
        return Gate("clock", step_s, CLOCK_STEP_S, False, f"{backwards} requests run backwards")
    passed = abs(step_s) <= CLOCK_STEP_S
    reason = "" if passed else f"the wall clock stepped by {step_s:+.3f} s within the window"
    return Gate("clock", step_s, CLOCK_STEP_S, passed, reason)


def gap(longest_s: float, asked_s: float, late_s: float) -> Gate:
    """The longest time a lane slept, beyond what was asked: timers that are to outlast its sleep
    are set at least `late_s` above it."""
    late = longest_s - asked_s
    reason = f"a burst came {late:.1f} s late, when timers may have run out that were not to"
    return Gate("gap", late, late_s, late <= late_s, "" if late <= late_s else reason)


def hiccups(longest_s: float, calm_share: float) -> Gate:
    """The machine's longest stall within the window: reported, beside waits without such parts."""
    reason = ""
    if longest_s > HICCUP_S:
        reason = f"a stall of {longest_s * 1e3:.1f} ms; {calm_share:.0%} of the window is calm"
    return Gate("hiccups", longest_s, HICCUP_S, None, reason)


def settled(rates: Sequence[float]) -> Gate:
    """Stationarity over the window's equal intervals: does the second half run at another rate?

    The figure is mean(second half)/mean(first half) − 1. It fails the cell where it exceeds both
    the limit and what the intervals' own scatter explains (Student's t). Scatter is the lesser of
    that within the halves, where a slope would count as scatter too, and that between neighbours
    (von Neumann, 1941), where a step would.
    """
    half = len(rates) // 2
    if len(rates) < DRIFT_INTERVALS or not sum(rates[:half]) > 0:
        return Gate("settled", None, DRIFT, None, "too few intervals to tell drift from noise")
    first, second = np.asarray(rates[:half]), np.asarray(rates[-half:])
    figure = float(second.mean() / first.mean() - 1)
    within, between = first.var(ddof=1) + second.var(ddof=1), np.mean(np.diff(rates) ** 2)
    noise = np.sqrt(min(within, between) / half) / first.mean()
    explained = float(special.stdtrit(2 * half - 2, (1 + DRIFT_CONFIDENCE) / 2) * noise)
    drifting = abs(figure) > max(DRIFT, explained)
    reason = f"never settled: the rate drifted by {figure:+.1%} within the window"
    return Gate("settled", figure, DRIFT, not drifting, reason if drifting else "")


def bound_by(
    *,
    worker_busy: Sequence[float],
    link_busy: float,
    server_busy: float,
    machine_busy: float,
    runqueue_share: float,
    hold_s: float,
    unloaded_s: float,
    in_use_mean: float,
    pool_size: int,
    workers: int,
    concurrency: int,
    behind: bool = False,
) -> BoundBy:
    """The one part that limits the cell.

    `…_busy` are CPU seconds per second of window, of each worker, the link, the server (0 where
    unknown); `machine_busy` the share of all cores together; `runqueue_share` the larger of
    worker's and link's waits for a core. Each waking of an idle core counts as such a wait, so it
    is held against a cell only where its hold time W, `hold_s`, is stretched beyond what one round
    trip takes with nothing else on the rig, `unloaded_s`. An apparatus at its limit comes before
    pool and users. `behind`: an open loop's generator did not keep its schedule, though it may not
    have been busy. "users" is the load itself: nothing else held it back.
    """
    parts: dict[BoundBy, float] = {
        "generator": max(worker_busy, default=0.0),
        "link": link_busy,
        "server": server_busy,
    }
    busiest = max(parts, key=lambda part: parts[part])
    if parts[busiest] >= CORE_BUSY:
        return busiest
    waits_show = runqueue_share > RUNQUEUE and hold_s - unloaded_s > _allowed_s(unloaded_s)
    if waits_show or machine_busy >= CORE_BUSY:
        return "machine"
    connections = pool_size * workers
    if in_use_mean >= POOL_FULL * connections and concurrency > connections:
        return "pool"
    return "generator" if behind else "users"


def _allowed_s(unloaded_s: float) -> float:
    return max(STRETCHED * unloaded_s, min(STRETCHED_SHORT * unloaded_s, STRETCHED_S))


def invalid_reasons(gates: Iterable[Gate]) -> str:
    """One text over all failed gates; empty for a valid cell."""
    return "; ".join(f"{gate.name}: {gate.reason}" for gate in gates if gate.passed is False)


def doubts(gates: Iterable[Gate]) -> str:
    """One text over what a valid cell's figures should be read with: reported gates beyond their
    limit."""
    return "; ".join(
        f"{gate.name}: {gate.reason}"
        for gate in gates
        if gate.name in REPORTED and gate.reason and _beyond(gate)
    )


def _beyond(gate: Gate) -> bool:
    return gate.figure is not None and gate.limit is not None and gate.figure > gate.limit


def _within(name: str, figure: float, limit: float, what: str) -> Gate:
    passed = abs(figure) <= limit
    return Gate(name, figure, limit, passed, "" if passed else f"{figure:+.1%} {what}")


def _reported(name: str, share: float | None, limit: float, what: str) -> Gate:
    """A figure that is shown, not gated; None where the system does not tell."""
    if share is None:
        return Gate(name, None, limit, None, "not known on this system")
    return Gate(name, share, limit, None, f"{share:.1%} {what}" if share > limit else "")
