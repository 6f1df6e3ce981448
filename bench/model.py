"""The nouns: what is varied (`Cell`), what was recorded (`Observation`), and how trouble is said.

Base units everywhere: seconds, bytes, operations per second. Pretty units belong to the edge.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

Loop = Literal["closed", "open"]
Client = Literal["lean", "redis-py"]
Opening = Literal["lazy", "prefilled"]
Order = Literal["lifo", "fifo"]
TestOnBorrow = Literal["none", "passive", "ping"]
Profile = Literal["smoke", "standard", "full"]
BoundBy = Literal["users", "pool", "generator", "link", "server", "machine"]


MOST_WORKERS = 64  # a run may ask for


class BenchError(Exception):
    """A failure the user can act on; its text is the one line they see. Exits with `status`."""

    status = 1


class PreflightError(BenchError):
    """Wrong usage, or something missing before any load was sent: nothing was measured."""

    status = 2


class ApparatusLost(BenchError):
    """A part of the rig (server, link, worker) ended while needed; finished cells are kept."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The commands sent: GET and SET on `keys` keys of `value_bytes` each."""

    keys: int = 1_000
    value_bytes: int = 100
    get_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of settings, measured once per replicate. Its identity is every field.

    `concurrency` counts users over all workers; `pool_size` is per worker.
    """

    experiment: str
    pool_size: int
    concurrency: int
    rtt_s: float = 0.0
    loop: Loop = "closed"
    client: Client = "lean"
    resp: int = 3
    workers: int = 1
    opening: Opening = "prefilled"
    order: Order = "lifo"
    test_on_borrow: TestOnBorrow = "none"
    acquire_timeout_s: float = 20.0
    offered_qps: float | None = None
    workload: Workload = Workload()
    warmup_s: float = 0.2
    measure_s: float = 0.6

    @property
    def id(self) -> str:
        """Twelve hex digits over every setting; equal settings, equal id, on any machine."""
        canonical = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Cell:
        """The cell that `dataclasses.asdict` took apart."""
        return cls(**{**fields, "workload": Workload(**fields["workload"])})

    @property
    def label(self) -> str:
        """A short line for people; never an identity."""
        rtt = f"{self.rtt_s * 1e3:g} ms"
        return (
            f"pool {self.pool_size} × {self.concurrency} users, RTT {rtt}, "
            f"{self.opening}, {self.order}, {self.client}"
        )


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
    """A value with its confidence interval [low, high], unit, n, and warnings of its own."""

    value: float
    low: float
    high: float
    unit: str
    n: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds; None where there were too few samples to say (rule 4 of the methods)."""

    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None


@dataclass(slots=True)
class Observation:
    """What one cell's measurement recorded. Units are in the names; written once, never edited."""

    cell: Cell
    block: int
    replicate: int
    attempt: int
    started_unix_s: float
    qps: float
    in_flight_mean: float
    in_flight_peak: int
    latency: Percentiles
    acquire: Percentiles
    command: Percentiles
    latency_mean_s: float
    acquire_mean_s: float
    command_mean_s: float
    unloaded_s: float
    send_lag_p99_s: float | None
    pool_empty_share: float
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
    server_client_memory_bytes: int | None
    server_rss_bytes: int | None
    idle_connection_age_s: float
    idle_connection_memory_bytes: float | None
    client_rss_bytes: int
    machine_busy_share: float | None
    core_busy_max: float | None
    steal_share: float | None
    foreign_cpu_share: float | None
    worker_runqueue_share: float | None
    link_runqueue_share: float | None
    measured_s: float
    outside_s: float
    bound_by: BoundBy
    valid: bool
    invalid_reasons: str
    gates: tuple[Gate, ...] = ()
    series: list[dict[str, Any]] = field(default_factory=list)
    histograms: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an experiment wants measured: its cells, each once in each of `replicates` blocks."""

    cells: tuple[Cell, ...]
    replicates: int


@dataclass(frozen=True, slots=True)
class Settings:
    """One run's configuration, checked once at the edge and handed down whole.

    `url` may hold a password and is never stored; `resume` names an existing run folder.
    """

    profile: Profile = "standard"
    only: tuple[str, ...] = ()
    workers: int = 1
    seed: int = 1
    workload: Workload = Workload()
    url: str | None = None
    server_port: int = 0
    results: str = "results"
    resume: str | None = None

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed: everything that changes what is measured."""
        kept = dataclasses.asdict(self)
        for name in ("url", "results", "resume", "server_port"):
            del kept[name]
        return {**kept, "only": list(self.only), "owned_server": self.url is None}
