"""The nouns: what is varied (`Cell`), what was recorded (`Observation`), and how trouble is said.

Base units everywhere: seconds, bytes, operations per second. Pretty units belong to the edge.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

Loop = Literal["closed", "open"]
Client = Literal["lean", "redis-py", "tuned", "bare", "glide"]
Auth = Literal["none", "password", "acl"]
Tls = Literal["none", "full", "resumed"]
Via = Literal["direct", "front", "envoy", "twemproxy"]
Opening = Literal["lazy", "prefilled"]
Order = Literal["lifo", "fifo"]
TestOnBorrow = Literal["none", "passive", "ping"]
Profile = Literal["smoke", "standard", "full"]
BoundBy = Literal["users", "pool", "generator", "link", "server", "machine"]
Process = Literal["constant", "poisson", "bursty", "spike", "trace"]
Outcome = Literal["supported", "refuted", "undecided", "not run"]
# What ends an idle connection on its way: nothing (straight, or by the link), a server left at its
# defaults, its `timeout`, the link in four manners, a load balancer, or a kernel's firewall.
Trap = Literal[
    "none", "link", "redis defaults", "redis timeout", "link fin", "link reset",
    "link reset on next", "link silence", "envoy", "haproxy", "firewall",
]  # fmt: skip
SILENT_TRAPS: tuple[Trap, ...] = ("link silence", "firewall")  # the endpoints are told nothing
WHOLE_SECONDS: tuple[Trap, ...] = ("redis timeout", "firewall")  # traps that count in these
# Whose pool a lane has: ours, or one that redis-py brings.
Maker = Literal["ours", "redis-py", "redis-py blocking", "redis-py asyncio"]
ASYNCIO: Maker = "redis-py asyncio"
# What became of a request, or of the first command that it sent. "closed": the reply was the end of
# the stream; "refused": no connection came about; "no connection": the pool had none to give; "no
# thread": the service had none in time.
# The columns of a lane's requests: seconds after the cell's begin, and what became of each.
LANE_COLUMNS = (
    "intended_s", "sent_s", "acquired_s", "done_s", "idle_s", "outcome", "first", "commands",
    "other",
)  # fmt: skip
OUTCOMES = (
    "ok", "ok after retry", "broken pipe", "reset", "closed", "time-out", "refused",
    "no connection", "no thread", "other",
)  # fmt: skip

MOST_WORKERS = 64  # a run may ask for
LONG_WAIT_S = 0.5e-3  # of the objective: p99 of the wait for a connection is to be no longer


class BenchError(Exception):
    """A failure the user can act on; its text is the one line they see. Exits with `status`."""

    status = 1


class PreflightError(BenchError):
    """Wrong usage, or something missing before any load was sent: nothing was measured."""

    status = 2


class ApparatusLost(BenchError):
    """A part of the rig (server, link, worker) ended while needed; finished cells are kept."""


def within(name: str, value: float, least: float, most: float) -> None:
    """Raises PreflightError where `value` is not a number from `least` to `most`."""
    if not (math.isfinite(value) and least <= value <= most):
        raise PreflightError(f"{name} is {value}: it must lie between {least:,} and {most:,}")


MOST_DATA_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Workload:
    """The commands sent: GET and SET on `keys` keys of `value_bytes` each, `get_share` of them GET.

    With `script_loops` each is a script instead that touches no key and keeps the server busy for
    so many turns of an empty loop (EVAL). `depth`: how many commands a request sends at once before
    it waits for all their replies (a pipeline). Raises PreflightError for a value out of range.
    """

    keys: int = 1_000
    value_bytes: int = 100
    get_share: float = 1.0
    script_loops: int = 0
    depth: int = 1

    def __post_init__(self) -> None:
        within("keys", self.keys, 1, 10_000_000)
        within("value_bytes", self.value_bytes, 0, 1_000_000)
        within("get_share", self.get_share, 0, 1)
        within("script_loops", self.script_loops, 0, 10_000_000)
        within("depth", self.depth, 1, 10_000)
        if self.keys * self.value_bytes > MOST_DATA_BYTES:
            raise PreflightError(
                f"value_bytes is {self.value_bytes:,} on {self.keys:,} keys: "
                f"all together must not exceed {MOST_DATA_BYTES:,} bytes"
            )


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How the requests of an open loop arrive. Times are seconds after the load began.

    - constant: evenly spaced; poisson: independent of each other.
    - bursty: poisson, but only in the first 1/`peak_to_mean` of each `period_s`, at `peak_to_mean`
      times the offered rate, which so remains the mean.
    - spike: poisson at the offered rate, and `spike_factor` times that from `spike_at_s` on for
      `spike_s`, as callers do when a deploy empties their caches.
    - trace: at the times listed in the file `trace`; the offered rate is the file's own.

    `backlog`: how many requests may wait for a carrier; those that find it full are dropped and
    counted. `lone`: bursts and spikes come to the first worker alone, the others' arrivals are
    poisson at the same mean. Raises PreflightError for a value out of range.
    """

    process: Process = "poisson"
    peak_to_mean: float = 1.0
    period_s: float = 0.1
    spike_factor: float = 1.0
    spike_at_s: float = 0.0
    spike_s: float = 0.0
    trace: str = ""
    backlog: int = 20_000
    lone: bool = False

    def __post_init__(self) -> None:
        within("peak_to_mean", self.peak_to_mean, 1, 1_000)
        within("period_s", self.period_s, 0.001, 3_600)
        within("spike_factor", self.spike_factor, 0, 1_000)
        within("spike_at_s", self.spike_at_s, 0, 86_400)
        within("spike_s", self.spike_s, 0, 86_400)
        within("backlog", self.backlog, 0, 10_000_000)
        if (self.process == "trace") != bool(self.trace):
            raise PreflightError("a trace file goes with the process “trace”, and with no other")


@dataclass(frozen=True, slots=True)
class Idling:
    """A service that sleeps between bursts, while something on the path ends idle connections.

    `lanes` pools of the cell's kind live through it one after the other, each on its own. Its
    connections are opened, a first burst finds them fresh (where `fresh`); then, `cycles` times,
    nothing is sent for `gap_s` before the next burst. Lanes sleep side by side; no two bursts meet.

    A burst is a `volley` of requests at once and then, up to `requests` in all, poisson arrivals at
    the cell's offered rate. `trap` ends what was idle for `trap_s`. `scale`: by which factor all
    times are shorter than those that they stand for, the server's `server_keepalive_s` (its
    `tcp-keepalive`) included. `apart`: the lanes have a server and a path of their own. Raises
    PreflightError for a value out of range, or where the trap cannot count so finely.
    """

    trap: Trap = "none"
    trap_s: float = 0.0
    gap_s: float = 1.0
    cycles: int = 1
    lanes: int = 1
    fresh: bool = True
    volley: int = 50
    requests: int = 1_000
    scale: float = 1.0
    server_keepalive_s: int = 300
    apart: bool = False

    def __post_init__(self) -> None:
        within("gap_s", self.gap_s, 0, 86_400)
        within("cycles", self.cycles, 0 if self.fresh else 1, 1_000)
        within("lanes", self.lanes, 1, 1_000)
        within("volley", self.volley, 0, self.requests)
        within("requests", self.requests, 1, 1_000_000)
        within("scale", self.scale, 1, 1_000)
        within("server_keepalive_s", self.server_keepalive_s, 1, 86_400)
        within("trap_s", self.trap_s, 0 if self.trap in UNTIMED else 0.05, 86_400)
        if self.trap in WHOLE_SECONDS and self.trap_s != int(self.trap_s):
            raise PreflightError(
                f"trap_s is {self.trap_s:g}: {self.trap} counts whole seconds; choose a time scale "
                "that gives some"
            )

    @property
    def limit_s(self) -> float:
        """How long a connection may be idle; for ever, where there is no trap."""
        return math.inf if self.trap in UNTIMED else self.trap_s


UNTIMED: tuple[Trap, ...] = ("none", "link", "redis defaults")
# What goes wrong: the server halts (SIGSTOP), is paused by CLIENT PAUSE, or is killed and started
# again, as the shared pooler may be; the link stalls, refuses, or loses all without a word.
Fault = Literal["stop", "pause", "restart", "pooler restart", "stall", "cut", "sever"]
IN_A_WINDOW: tuple[Fault, ...] = ("stop", "pooler restart")


@dataclass(frozen=True, slots=True)
class Outage:
    """What goes wrong in a window, or in a lane's burst: a `fault`, from `begins_s` on for
    `fault_s`; a stall takes the `fault_share` of connections that are the oldest. Raises
    PreflightError for a value out of range."""

    fault: Fault
    begins_s: float
    fault_s: float
    fault_share: float = 1.0

    def __post_init__(self) -> None:
        within("begins_s", self.begins_s, 0, 3_600)
        within("fault_s", self.fault_s, 0.001, 3_600)
        within("fault_share", self.fault_share, 0, 1)


@dataclass(frozen=True, slots=True)
class Service:
    """Who sends a lane's requests: it has `threads` (None: one for each request), and its callers
    give up after `patience_s`. `other_share` of its requests do not need Redis: they take `other_s`
    of a thread. Raises PreflightError for a value out of range."""

    threads: int | None = None
    patience_s: float = 60.0
    other_share: float = 0.0
    other_s: float = 0.0

    def __post_init__(self) -> None:
        within("other_s", self.other_s, 0, 60)
        within("other_share", self.other_share, 0, 1)
        within("patience_s", self.patience_s, 0.001, 3_600)
        if self.threads is not None:
            within("threads", self.threads, 1, 100_000)


LEAST_QPS, MOST_QPS = 0.001, 1_000_000


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of settings, measured once per replicate. Its identity is every field.

    `concurrency` counts users over all workers; in an open loop, where they carry the requests
    that arrive, it is how many can be out at once. `pool_size` is per worker.

    `staircase`: pool sizes of the first workers, where those differ; the others have `pool_size`,
    which none exceeds. So pools of several sizes are measured in the same moments. `quiet`: the
    cell is valid only where every core had time to spare (rule 7: where N* is decided).

    `moderation_s`: for so long the link rests after it has read something, as a network card
    moderates its interrupts. It costs the rig a third less and adds to a round trip up to four
    times as much, twice on average. Cells of one block agree in it.

    `side`: which of its block's rigs the cell is measured on. Each has server, link and workers of
    its own: so two pools can stay open, be loaded turn by turn, and neither burden the other's
    server. The turns of such a block are its cells of equal `arm`.

    `settle_s`: a prefilled pool's connections are at least so old when the load comes, since a
    server works off what it set aside for a new connection only after some seconds.

    `max_uses`: a connection is closed after so many requests (1: a connection per request, then
    `opening` is lazy); `max_lifetime_s`: and when it is so old; a prefilled pool opens another in
    its place. `time_phases`: what opening a connection takes is told phase by phase; one user a
    worker. `local_ports`: its connections may use so many local ports (0: as many as the system
    grants).

    `auth`: how connections prove who they are, on a server of our own: not at all, with the default
    user's password, or as an ACL user. `database`: the one they select, where it is not the first
    (keys are in the first alone). `tls`: whether they are encrypted, and whether a session is
    taken up again. `via`: what stands between client and server: nothing; the TLS front without
    TLS, where TLS does not end in the server itself; a shared pooler, which is near the clients,
    so that the link lies behind it.

    `idling`: the cell is lanes that sleep between bursts, in the place of one window. Then, and in
    it alone: `maker`, whose pool it is; `max_idle_s`, after which a pool closes an idle connection
    (None: never); `keepalive_s`, after which the client's kernel probes one (None: it does not);
    `socket_timeout_s` (None: redis-py's own); `retries` of a command on its connection, with
    redis-py's exponential backoff up to `backoff_s`; `borrows`: how many connections
    a request may try, one after the other; `max_waiting`: how many may stand in line for one;
    `service`: who sends the requests.

    `arm` is the part of its experiment that the cell belongs to; it also tells cells of equal
    settings apart (A/A). `outage`: what goes wrong meanwhile. `keep_requests`: whether every
    request's times are stored (of the workers with `pool_size`). Raises PreflightError for a value
    out of range.
    """

    experiment: str
    pool_size: int
    concurrency: int
    rtt_s: float = 0.0
    moderation_s: float = 0.0
    loop: Loop = "closed"
    client: Client = "lean"
    resp: int = 3
    workers: int = 1
    opening: Opening = "prefilled"
    order: Order = "lifo"
    test_on_borrow: TestOnBorrow = "none"
    acquire_timeout_s: float = 20.0
    offered_qps: float | None = None
    arrivals: Arrivals | None = None
    workload: Workload = Workload()
    warmup_s: float = 0.2
    measure_s: float = 0.6
    settle_s: float = 0.0
    side: int = 0
    max_uses: int | None = None
    max_lifetime_s: float | None = None
    time_phases: bool = False
    local_ports: int = 0
    auth: Auth = "none"
    database: int = 0
    tls: Tls = "none"
    via: Via = "direct"
    keep_requests: bool = False
    staircase: tuple[int, ...] = ()
    quiet: bool = False
    idling: Idling | None = None
    outage: Outage | None = None
    service: Service | None = None
    max_waiting: int | None = None
    maker: Maker = "ours"
    max_idle_s: float | None = None
    keepalive_s: int | None = None
    socket_timeout_s: float | None = None
    retries: int = 0
    borrows: int = 1
    backoff_s: float = 0.0
    arm: str = ""

    def __post_init__(self) -> None:
        self._check_load()
        self._check_connections()

    def _check_load(self) -> None:
        within("acquire_timeout_s", self.acquire_timeout_s, 0, 86_400)
        within("measure_s", self.measure_s, 0.01, 86_400)
        within("warmup_s", self.warmup_s, 0, 86_400)
        within("moderation_s", self.moderation_s, 0, 0.01)
        within("settle_s", self.settle_s, 0, 30)
        within("side", self.side, 0, 1)
        if (self.loop == "open") != (self.arrivals is not None and self.offered_qps is not None):
            raise PreflightError("offered_qps and arrivals go with an open loop, and with no other")
        if self.offered_qps is not None:
            within("offered_qps", self.offered_qps, LEAST_QPS, MOST_QPS)
        if self.time_phases and self.concurrency != self.workers:
            raise PreflightError("time_phases goes with one user a worker, and with no other")
        self._check_outage()

    def _check_outage(self) -> None:
        if self.fault == "pooler restart" and self.via not in ("envoy", "twemproxy"):
            raise PreflightError("a pooler restart goes with a pooler, and with nothing else")
        if self.outage is None or self.idling is not None:
            return
        if self.fault not in IN_A_WINDOW:
            raise PreflightError(f"the fault “{self.fault}” goes with lanes, and with nothing else")
        within("fault_s", self.outage.fault_s, 0.001, self.measure_s / 2)
        within("begins_s", self.outage.begins_s, 0, self.measure_s / 2)

    def _check_connections(self) -> None:
        within("pool_size", self.pool_size, 1, 1_000_000)
        within("local_ports", self.local_ports, 0, 60_000)
        within("database", self.database, 0, 15)
        if self.max_uses is not None:
            within("max_uses", self.max_uses, 1, 1_000_000)
        if self.max_lifetime_s is not None:
            within("max_lifetime_s", self.max_lifetime_s, 0.01, 86_400)
        within("retries", self.retries, 0, 100)
        within("backoff_s", self.backoff_s, 0, 60)
        within("borrows", self.borrows, 1, 100)
        if self.max_waiting is not None:
            within("max_waiting", self.max_waiting, 0, 1_000_000)
        self._check_service()

    def _check_service(self) -> None:
        """A service whose threads are fewer than its pool's connections has no use for the rest;
        what is worse, its pool can never be what holds its calls back."""
        threads = self.service.threads if self.service is not None else None
        if threads is not None and threads < self.pool_size:
            raise PreflightError(
                f"threads is {threads}, fewer than the pool's {self.pool_size} connections: the "
                "pool is never the limit; take more threads or a smaller pool"
            )
        for name in ("max_idle_s", "keepalive_s", "socket_timeout_s"):
            if (value := getattr(self, name)) is not None:
                within(name, value, 1 if name == "keepalive_s" else 0.001, 86_400)
        for size in self.staircase:
            within("staircase", size, 1, self.pool_size)
        within("steps of the staircase", len(self.staircase), 0, self.workers - 1)

    @property
    def id(self) -> str:
        """Twelve hex digits over every setting; equal settings, equal id, on any machine."""
        canonical = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Cell:
        """The cell that `dataclasses.asdict` took apart."""
        nested = {
            "workload": Workload(**told["workload"]),
            "arrivals": told["arrivals"] and Arrivals(**told["arrivals"]),
            "idling": told["idling"] and Idling(**told["idling"]),
            "outage": told["outage"] and Outage(**told["outage"]),
            "service": told["service"] and Service(**told["service"]),
            "staircase": tuple(told["staircase"]),
        }
        return cls(**{**told, **nested})

    def pool_size_of(self, worker: int) -> int:
        """The pool size of one worker, from 0."""
        return self.staircase[worker] if worker < len(self.staircase) else self.pool_size

    @property
    def steady(self) -> bool:
        """Whether load and server are meant to stay as they are throughout the window."""
        changing = self.arrivals is not None and self.arrivals.process in ("spike", "trace")
        return not (self.outage or self.local_ports or changing)

    @property
    def fault(self) -> Fault | None:
        """Of its outage, if one is to come."""
        return self.outage.fault if self.outage is not None else None

    @property
    def fresh(self) -> bool:
        """Whether each request opens a connection of its own."""
        return self.max_uses == 1

    @property
    def ways(self) -> str:
        """What there is between client and server besides the network, for people; never an
        identity."""
        parts = (
            "" if self.tls == "none" else f"TLS {self.tls}",
            "" if self.auth == "none" else f"AUTH {self.auth}",
            f"SELECT {self.database}" if self.database else "",
            "" if self.via == "direct" else f"via {self.via}",
            "a connection per request" if self.fresh else "",
        )
        return ", ".join(filter(None, parts))

    @property
    def label(self) -> str:
        """A short line for people; never an identity."""
        if self.idling is not None:
            return f"{self.arm}, pool {self.pool_size}, {self.idling.trap}"
        load = f"{self.concurrency} users"
        if self.arrivals is not None:
            load = f"{self.offered_qps:,.0f}/s {self.arrivals.process}"
        depth = f" × {self.workload.depth} commands" if self.workload.depth > 1 else ""
        said = (
            f"pool {self.pool_size} × {load}{depth}, RTT {self.rtt_s * 1e3:g} ms, "
            f"{self.opening}, {self.order}, {self.client}"
        )
        return f"{said}, {self.ways}" if self.ways else said


@dataclass(frozen=True, slots=True)
class Gate:
    """A validity check on a cell: figure, limit, whether it held (None: only reported)."""

    name: str
    figure: float | None
    limit: float | None
    passed: bool | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its confidence interval [low, high], unit, n, and warnings of its own; `log`:
    the interval is one of logarithms."""

    value: float
    low: float
    high: float
    unit: str
    n: int
    warnings: tuple[str, ...] = ()
    confidence: float = 0.95
    log: bool = False


@dataclass(frozen=True, slots=True)
class Region:
    """Where an estimate lies if it speaks for something: from `low` to `high`, with its interval of
    this confidence (0.9 where sameness is tested, by two one-sided tests at 5 %)."""

    low: float = -math.inf
    high: float = math.inf
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim's outcome by its rule; `cells` are the ids it rests on.

    `claimed`: by the name of an estimate, where all of these lie if the claim is supported; refuted
    is what one shows that lies wholly outside, or else what `opposed` has: one that lies wholly
    there, or all (`opposed_by_all`). `needs`: of what is undecided, what would decide it.
    `experiment`: who judges.
    """

    claim: str
    statement: str
    rule: str
    outcome: Outcome
    reason: str
    estimates: dict[str, Estimate]
    cells: tuple[str, ...]
    claimed: dict[str, Region] = field(default_factory=dict)
    opposed: dict[str, Region] = field(default_factory=dict)
    opposed_by_all: bool = False
    needs: str = ""
    experiment: str = ""

    @classmethod
    def of(cls, told: dict[str, Any]) -> Verdict:
        """The one of which `dataclasses.asdict` made this, also by way of JSON."""
        estimates = {
            name: Estimate(**{**each, "warnings": tuple(each["warnings"])})
            for name, each in told["estimates"].items()
        }
        regions = {
            side: {name: Region(**each) for name, each in told[side].items()}
            for side in ("claimed", "opposed")
        }
        return cls(**{**told, **regions, "estimates": estimates, "cells": tuple(told["cells"])})


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the instrument's certificate, with its unit and, where the project set itself
    one, what it should reach. `value` None: not measured; `note` says why."""

    what: str
    value: float | None
    unit: str
    reach: str = ""
    reached: bool | None = None
    note: str = ""

    @classmethod
    def at_least(
        cls, what: str, value: float | None, unit: str, limit: float, note: str = ""
    ) -> Row:
        reached = None if value is None else value >= limit
        return cls(what, value, unit, f"≥ {limit:g}", reached, note)

    @classmethod
    def at_most(
        cls, what: str, value: float | None, unit: str, limit: float, note: str = ""
    ) -> Row:
        reached = None if value is None else value <= limit
        return cls(what, value, unit, f"≤ {limit:g}", reached, note)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds; None where there were too few samples to say (rule 4 of the methods)."""

    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None


@dataclass(frozen=True, slots=True)
class Pod:
    """One worker's own figures of a cell: it is a pod with a pool of its own.

    `pool_empty_share`: of its requests, those that found no free connection; `long_wait_share`:
    those that waited for one for longer than `LONG_WAIT_S`.
    `latency_p99_s` is None where there were too few requests to say. `failures`: requests that
    failed, by what they said.
    """

    worker: int
    pool_size: int
    scheduled: int | None
    requests: int
    qps: float
    in_flight_mean: float
    in_flight_peak: int
    command_mean_s: float
    pool_empty_share: float
    long_wait_share: float
    latency_mean_s: float = 0.0
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    errors: int = 0
    failures: str = ""


@dataclass(frozen=True, slots=True)
class Burst:
    """One burst of a lane: `cycle` 0 is the first one, on fresh connections.

    `began_s` after the cell's begin; it took `length_s` to the last reply, after `gap_s` without a
    request. `outcomes`: requests by what became of them, as `OUTCOMES` has them; `first`: those
    whose connection was no fresh one, by what became of the first command on it. `overdue`: of
    these, those whose connection had been idle for longer than the trap allows; `overdue_failed`:
    and whose first command failed. `opened`, `closed_…`: connections, during the burst, by why. Of
    the server: CPU, calls and refused connections during the burst, and the most that it had.
    `fault_…_s`: after the cell's begin, where something went wrong in it.
    """

    lane: int
    cycle: int
    began_s: float
    length_s: float
    gap_s: float
    requests: int
    outcomes: tuple[int, ...]
    first: tuple[int, ...]
    overdue: int
    overdue_failed: int
    opened: int
    closed_idle: int
    closed_stale: int
    closed_error: int
    latency_p50_s: float
    latency_p99_s: float
    latency_max_s: float
    send_lag_p99_s: float
    server_cpu_s: float
    server_operations: int
    server_pings: int
    server_connects: int
    server_connections: int
    server_rejected: int = 0
    fault_began_s: float | None = None
    fault_ended_s: float | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of opening a connection: how often it was seen within the window, and how long it
    took. `p50_s` is None where it was seen too seldom to say."""

    name: str
    count: int
    mean_s: float
    p50_s: float | None


@dataclass(slots=True)
class Observation:
    """What one cell's measurement recorded. Units are in the names; written once, never edited.

    `requests`: of each worker, rows (intended, sent, acquired, done) of float64 seconds after the
    window's begin, where the cell keeps them; of lanes, rows as `LANE_COLUMNS` names them.
    """

    cell: Cell
    block: int
    replicate: int
    attempt: int
    started_unix_s: float
    qps: float
    in_flight_mean: float
    in_flight_peak: int
    latency: Percentiles
    latency_p99_low_s: float | None
    latency_p99_high_s: float | None
    acquire: Percentiles
    acquire_p99_low_s: float | None
    acquire_p99_high_s: float | None
    acquire_calm: Percentiles
    calm_share: float
    command: Percentiles
    send_lag: Percentiles
    latency_mean_s: float
    acquire_mean_s: float
    command_mean_s: float
    unloaded_s: float
    quickest_s: float | None
    scheduled: int | None
    dropped: int | None
    served_share: float | None
    pool_empty_share: float
    pool_empty_calm_share: float | None
    hiccup_max_s: float
    operations: int
    server_operations: int | None
    foreign_operations: int | None
    errors: int
    timeouts: int
    connections_opened: int
    connect_mean_s: float | None
    client_fds_peak: int | None
    server_connections_peak: int
    server_fds_peak: int | None
    link_fds_peak: int
    time_wait_peak: int | None
    client_cpu_s: float
    client_cpu_user_s: float
    client_cpu_system_s: float
    server_cpu_s: float
    server_cpu_user_s: float
    server_cpu_system_s: float
    link_cpu_s: float
    link_cpu_user_s: float
    link_cpu_system_s: float
    server_cpu_us_per_op: float | None
    client_cpu_us_per_op: float | None
    link_cpu_us_per_op: float | None
    proxy_cpu_s: float
    proxy_cpu_us_per_op: float | None
    proxy_fds_peak: int
    server_client_memory_bytes: int | None
    server_rss_bytes: int | None
    clock_step_s: float
    workers_lost: int
    idle_connection_age_s: float
    idle_connection_memory_bytes: float | None
    client_rss_bytes: int
    machine_busy_share: float | None
    core_busy_max: float | None
    steal_share: float | None
    foreign_cpu_share: float | None
    worker_runqueue_share: float | None
    link_runqueue_share: float | None
    proxy_busy_share: float
    tls_ends_at: str
    measured_s: float
    outside_s: float
    bound_by: BoundBy
    valid: bool
    invalid_reasons: str
    doubts: str
    pods: tuple[Pod, ...] = ()
    phases: tuple[Phase, ...] = ()
    bursts: tuple[Burst, ...] = ()
    gates: tuple[Gate, ...] = ()
    series: list[dict[str, Any]] = field(default_factory=list)
    histograms: dict[str, bytes] = field(default_factory=dict)
    requests: list[bytes] = field(default_factory=list)

    @classmethod
    def partly(cls, cell: Cell, **known: Any) -> Observation:
        """Of a cell whose kind does not measure all of it: the rest is blank."""
        optional = {
            each.name
            for each in fields(cls)
            if each.default is not MISSING or each.default_factory is not MISSING
        }
        blank = {each.name: None for each in fields(cls) if each.name not in optional}
        percentiles = Percentiles(None, None, None, None)
        times = ("latency", "acquire", "acquire_calm", "command", "send_lag")
        made: dict[str, Any] = {**blank, **dict.fromkeys(times, percentiles), "tls_ends_at": ""}
        return cls(**{**made, **known, "cell": cell})


@dataclass(frozen=True, slots=True)
class Plan:
    """What an experiment wants measured: `cells` once in each of `replicates` blocks, those of
    `once` in the first alone, and those of `apart` in blocks of their own, `apart_replicates` more.

    Apart is what must be near in time to be compared."""

    cells: tuple[Cell, ...]
    replicates: int
    once: tuple[Cell, ...] = ()
    apart: tuple[Cell, ...] = ()
    apart_replicates: int = 0

    @property
    def blocks(self) -> list[tuple[Cell, ...]]:
        """The cells of each block, one after the other."""
        first, *others = [self.cells] * self.replicates
        return [first + self.once, *others, *[self.apart] * self.apart_replicates]

    @property
    def measurements(self) -> int:
        return sum(map(len, self.blocks))


@dataclass(frozen=True, slots=True)
class Settings:
    """One run's configuration, checked once at the edge and handed down whole.

    `url` may hold a password and is never stored.
    """

    profile: Profile = "standard"
    only: tuple[str, ...] = ()
    workers: int = 1
    seed: int = 1
    workload: Workload = Workload()
    url: str | None = None
    server_port: int = 0
    time_scale: float = 30.0

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed: everything that changes what is measured."""
        kept = dataclasses.asdict(self)
        for name in ("url", "server_port"):
            del kept[name]
        return {**kept, "only": list(self.only), "owned_server": self.url is None}
