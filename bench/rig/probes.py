"""What a window of measuring cost: CPU, descriptors, memory, sockets, and who else was busy.

Linux tells everything from /proc; elsewhere psutil tells what it can and the rest is None.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.model import ApparatusLost
from bench.rig import host
from bench.rig.link import Link
from bench.rig.server import Server, ServerSnapshot

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SHORTEST_S = 1e-9


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of processor time."""

    user_s: float = 0.0
    system_s: float = 0.0

    @property
    def total_s(self) -> float:
        return self.user_s + self.system_s

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.user_s + other.user_s, self.system_s + other.system_s)


@dataclass(frozen=True, slots=True)
class Used:
    """A process's counters: its exact total, and what the 10 ms ticks ascribed to either side."""

    total_s: float
    user_ticks_s: float
    system_ticks_s: float

    def since(self, start: Used) -> Cpu:
        """The exact time, split as the ticks were; in halves when no tick fell into it."""
        user_s = max(0.0, self.user_ticks_s - start.user_ticks_s)
        system_s = max(0.0, self.system_ticks_s - start.system_ticks_s)
        share = user_s / (user_s + system_s) if user_s + system_s > 0 else 0.5
        total_s = self.total_s - start.total_s
        return Cpu(total_s * share, total_s * (1 - share))


@dataclass(frozen=True, slots=True)
class Readings:
    """One window. Sums over all workers are called client; None is what cannot be known here.

    Shares are of the window: `machine_busy_share`, `steal_share` and `foreign_share` of all cores
    together, `core_busy_max` of the busiest core, run-queue waits of one process (the worst
    worker). `foreign_share` is what neither we nor the server did; on a remote server, what we
    did not. `proxy_…` is of what stands between clients and server; one that was restarted
    meanwhile counts until it went. `server_connections_peak` counts our control connection too.
    `server_calls` and `server_info_cpu` come from the same two answers of the server, so their
    ratio is exact.
    """

    measured_s: float
    client_cpu: Cpu
    server_cpu: Cpu
    link_cpu: Cpu
    proxy_cpu: Cpu
    client_fds_peak: int | None
    server_fds_peak: int | None
    link_fds_peak: int | None
    proxy_fds_peak: int | None
    server_connections_peak: int
    client_rss_bytes: int
    server_rss_bytes: int | None
    server_client_memory_bytes: int | None
    time_wait_peak: int | None
    sockets_peak: int | None
    machine_busy_share: float | None
    core_busy_max: float | None
    steal_share: float | None
    foreign_share: float | None
    worker_runqueue_share: float | None
    link_runqueue_share: float | None
    server_calls: dict[str, int]
    server_info_cpu: Cpu
    series: list[dict[str, Any]] = field(default_factory=list)


class Probes:
    """Watches server, link and workers; `ours` names further processes that are not foreign.

    One window at a time. `start_window` and `end_window` each ask the server once and block for
    its answer; in between a thread samples every `interval_s`. Costs under 1 % of a core.
    """

    def __init__(
        self,
        server: Server,
        link: Link | None,
        worker_pids: Sequence[int],
        interval_s: float = 0.25,
        *,
        proxy_pid: int | None = None,
        ours: Sequence[int] = (),
    ) -> None:
        self._server = server
        self._interval_s = interval_s
        self._workers = [Process(pid, "a worker", may_end=True) for pid in worker_pids]
        self._link = Process(link.pid, "the link") if link else None
        self._proxy = Process(proxy_pid, "the proxy", may_end=True) if proxy_pid else None
        self._owned = Process(server.pid, "the server") if server.pid else None
        self._others = [Process(pid, "a helper") for pid in (os.getpid(), *ours)]
        self._series: list[dict[str, Any]] = []
        self._trouble: BaseException | None = None
        self._ended = threading.Event()
        self._sampler: threading.Thread | None = None

    def start_window(self) -> None:
        """Raises ApparatusLost when a process it is to watch is gone."""
        self._series = []
        self._trouble = None
        self._ended = threading.Event()
        self._before = self._server.snapshot()
        self._start = self._reading()
        self._sampler = threading.Thread(target=self._sample_until_ended, daemon=True)
        self._sampler.start()

    def check(self) -> None:
        """Raises whatever ended the sampling since the window began: ApparatusLost when something
        vanished, SystemExit when a signal came."""
        if self._trouble is not None:
            raise self._trouble

    def end_window(self) -> Readings:
        """Raises as `check` does."""
        self._stop_sampling()
        self.check()
        stop = self._reading()
        self._series.append(self._sample())
        return self._readings(stop, self._server.snapshot())

    def close(self) -> None:
        """Ends a window nobody ended. May be repeated."""
        self._stop_sampling()

    def _stop_sampling(self) -> None:
        self._ended.set()
        if self._sampler is not None:
            self._sampler.join()
            self._sampler = None

    def _sample_until_ended(self) -> None:
        try:
            while True:
                self._series.append(self._sample())
                if self._ended.wait(self._interval_s):
                    return
        except BaseException as trouble:
            # Whatever ends the sampling has to reach the run: a thread lets it pass in silence.
            self._trouble = trouble

    def _sample(self) -> dict[str, Any]:
        """What may peak between the two ends of a window."""
        sockets = read_sockets()
        workers = [process.sample() for process in self._workers]
        told = self._server.snapshot(light=True)
        return {
            "at_s": time.perf_counter() - self._start.at_s,
            "client_fds": total([each.fds for each in workers]),
            "client_rss_bytes": sum(each.rss_bytes for each in workers),
            "client_cpu_s": sum(each.used.total_s for each in workers),
            "server_fds": told.fds,
            "server_rss_bytes": told.rss_bytes,
            "server_connections": told.connected_clients,
            "server_client_memory_bytes": told.client_memory_bytes,
            "server_cpu_s": told.cpu_user_s + told.cpu_system_s,
            **self._sample_link(),
            "proxy_fds": self._proxy.sample().fds if self._proxy else 0,
            "time_wait": sockets.time_wait if sockets else None,
            "sockets": sockets.in_use if sockets else None,
        }

    def _sample_link(self) -> dict[str, Any]:
        if self._link is None:
            return {"link_fds": 0, "link_cpu_s": 0.0}
        link = self._link.sample()
        return {"link_fds": link.fds, "link_cpu_s": link.used.total_s}

    def _reading(self) -> Reading:
        """What is counted as the difference between the two ends of a window."""
        return Reading(
            at_s=time.perf_counter(),
            used={each: each.sample().used for each in self._processes()},
            waits={each: each.runqueue_wait_s() for each in self._processes()},
            cores=read_cores(),
        )

    def _processes(self) -> list[Process]:
        known = [*self._workers, self._link, self._proxy, self._owned, *self._others]
        return [each for each in known if each is not None]

    def _readings(self, stop: Reading, after: ServerSnapshot) -> Readings:
        span = stop.since(self._start)
        server = self._server_cpu(span, after)
        clients = sum((span.cpu[each] for each in self._workers), Cpu())
        machine = span.machine(sum(cpu.total_s for cpu in span.cpu.values()))
        return Readings(
            measured_s=span.duration_s,
            client_cpu=clients,
            server_cpu=server,
            link_cpu=span.cpu[self._link] if self._link else Cpu(),
            proxy_cpu=span.cpu[self._proxy] if self._proxy else Cpu(),
            client_fds_peak=self._peak("client_fds"),
            server_fds_peak=self._peak("server_fds"),
            link_fds_peak=self._peak("link_fds"),
            proxy_fds_peak=self._peak("proxy_fds"),
            server_connections_peak=self._peak("server_connections") or 0,
            client_rss_bytes=self._peak("client_rss_bytes") or 0,
            server_rss_bytes=self._peak("server_rss_bytes"),
            server_client_memory_bytes=self._peak("server_client_memory_bytes"),
            time_wait_peak=self._peak("time_wait"),
            sockets_peak=self._peak("sockets"),
            machine_busy_share=machine.busy,
            core_busy_max=machine.busiest_core,
            steal_share=machine.steal,
            foreign_share=machine.foreign,
            worker_runqueue_share=span.worst_wait_share(self._workers),
            link_runqueue_share=span.worst_wait_share([self._link] if self._link else []),
            server_calls=calls_between(self._before, after),
            server_info_cpu=info_cpu_between(self._before, after),
            series=self._series,
        )

    def _server_cpu(self, span: Span, after: ServerSnapshot) -> Cpu:
        """By the kernel where the process is ours, at the very ends of the window; else by INFO,
        whose answers come late under load, brought to the window's length."""
        if self._owned is not None:
            return span.cpu[self._owned]
        told = info_cpu_between(self._before, after)
        scale = span.duration_s / max(SHORTEST_S, after.at_s - self._before.at_s)
        return Cpu(told.user_s * scale, told.system_s * scale)

    def _peak(self, name: str) -> int | None:
        values = [sample[name] for sample in self._series]
        return None if None in values else max(values)


def calls_between(before: ServerSnapshot, after: ServerSnapshot) -> dict[str, int]:
    """How often the server ran each command that it ran at all."""
    grown = {name: count - before.calls.get(name, 0) for name, count in after.calls.items()}
    return {name: count for name, count in grown.items() if count}


def info_cpu_between(before: ServerSnapshot, after: ServerSnapshot) -> Cpu:
    """What the server says it used from one answer to the next."""
    return Cpu(after.cpu_user_s - before.cpu_user_s, after.cpu_system_s - before.cpu_system_s)


def total(counts: Sequence[int | None]) -> int | None:
    """The sum, or None where one of them is not known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


# Both ends of a window, and what lies between


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at one moment."""

    at_s: float
    used: dict[Process, Used]
    waits: dict[Process, float | None]
    cores: list[Core] | None

    def since(self, start: Reading) -> Span:
        return Span(
            duration_s=max(SHORTEST_S, self.at_s - start.at_s),
            cpu={each: used.since(start.used[each]) for each, used in self.used.items()},
            waits={
                each: None if wait is None else wait - (start.waits[each] or 0.0)
                for each, wait in self.waits.items()
            },
            cores=None
            if self.cores is None or start.cores is None
            else [now.since(then) for now, then in zip(self.cores, start.cores, strict=False)],
        )


@dataclass(frozen=True, slots=True)
class Span:
    """Counters over a window."""

    duration_s: float
    cpu: dict[Process, Cpu]
    waits: dict[Process, float | None]
    cores: list[Core] | None

    def worst_wait_share(self, processes: Sequence[Process]) -> float | None:
        waits = [wait for each in processes if (wait := self.waits[each]) is not None]
        if len(waits) < len(processes):
            return None
        return max(waits, default=0.0) / self.duration_s

    def machine(self, ours_s: float) -> Machine:
        if not self.cores:
            return Machine(None, None, None, None)
        every_s = max(TICK_S, sum(core.total_s for core in self.cores))
        busy_s = sum(core.busy_s for core in self.cores)
        # Time of one's own is exact and the cores' is counted in ticks: below nothing is nothing.
        foreign_s = max(0.0, busy_s - ours_s)
        return Machine(
            busy=busy_s / every_s,
            busiest_core=max(core.busy_s / max(TICK_S, core.total_s) for core in self.cores),
            steal=sum(core.steal_s for core in self.cores) / every_s,
            foreign=foreign_s / every_s,
        )


@dataclass(frozen=True, slots=True)
class Machine:
    """Shares of a window; None where the system does not tell."""

    busy: float | None
    busiest_core: float | None
    steal: float | None
    foreign: float | None


# One process


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at one moment. `fds` is None where another user's process hides them."""

    used: Used
    rss_bytes: int
    fds: int | None


class Process:
    """A process by its id; every question raises ApparatusLost, naming it, when it has ended.

    One that `may_end` in mid-window is as it was last seen: whoever started it tells of its loss.
    """

    def __init__(self, pid: int, name: str, *, may_end: bool = False) -> None:
        self._pid = pid
        self._name = f"{name} (pid {pid})"
        self._may_end = may_end
        self._seen: Sample | None = None

    def sample(self) -> Sample:
        try:
            sample = self._sample_proc() if host.LINUX else self._sample_psutil()
        except OSError:  # no such file, no such process, no such clock
            sample = None
        if self._may_end:
            sample = self._seen = sample or self._seen
        if sample is None:
            raise ApparatusLost(f"{self._name} has ended")
        return sample

    def runqueue_wait_s(self) -> float | None:
        """How long its threads were ready to run without a core to run on; None if untold."""
        waited_ns = 0
        try:
            for task in os.scandir(f"/proc/{self._pid}/task"):
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # a thread ended
                    waited_ns += int(_read(f"{task.path}/schedstat").split()[1])
        except OSError:
            return None
        return waited_ns * 1e-9

    def _sample_proc(self) -> Sample | None:
        text = _read(f"/proc/{self._pid}/stat")
        fields = text.rpartition(b")")[2].split()  # the name before may hold anything
        if fields[0] in (b"Z", b"X"):
            return None
        return Sample(
            used=Used(
                process_clock_s(self._pid), int(fields[11]) * TICK_S, int(fields[12]) * TICK_S
            ),
            rss_bytes=int(fields[21]) * PAGE_BYTES,
            fds=host.open_fds(self._pid),
        )

    def _sample_psutil(self) -> Sample | None:
        import psutil

        try:
            process = psutil.Process(self._pid)
            with process.oneshot():
                if process.status() == psutil.STATUS_ZOMBIE:
                    return None
                times = process.cpu_times()
                rss_bytes = int(process.memory_info().rss)
        except psutil.NoSuchProcess:
            return None
        used = Used(times.user + times.system, times.user, times.system)
        return Sample(used, rss_bytes, host.open_fds(self._pid))


def process_clock_s(pid: int) -> float:
    """Processor time of all its threads, ended ones too, to the nanosecond (Linux)."""
    clock = (~pid << 3) | 2  # what clock_getcpuclockid(3) makes of a pid
    return time.clock_gettime(clock)


def _read(path: str) -> bytes:
    """A file of /proc in a third of the time that Path takes; they are read all the time."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)


# The machine


@dataclass(frozen=True, slots=True)
class Core:
    """Seconds one core spent, counted in ticks; steal is neither busy nor idle."""

    busy_s: float
    idle_s: float
    steal_s: float

    @property
    def total_s(self) -> float:
        return self.busy_s + self.idle_s + self.steal_s

    def since(self, start: Core) -> Core:
        return Core(
            max(0.0, self.busy_s - start.busy_s),
            max(0.0, self.idle_s - start.idle_s),
            max(0.0, self.steal_s - start.steal_s),
        )


def read_cores() -> list[Core] | None:
    """Every core's counters since boot; None elsewhere than on Linux."""
    if not host.LINUX:
        return None
    lines = _read("/proc/stat").splitlines()
    return [_core(line) for line in lines if line[:3] == b"cpu" and line[3:4] != b" "]


def _core(line: bytes) -> Core:
    user, nice, system, idle, iowait, irq, softirq, steal = (
        int(ticks) * TICK_S for ticks in line.split()[1:9]
    )
    return Core(user + nice + system + irq + softirq, idle + iowait, steal)


@dataclass(frozen=True, slots=True)
class Sockets:
    """TCP sockets of this network namespace."""

    in_use: int
    time_wait: int


def read_sockets() -> Sockets | None:
    """None elsewhere than on Linux."""
    if not host.LINUX:
        return None
    for line in _read("/proc/net/sockstat").splitlines():
        name, *words = line.split()
        if name == b"TCP:":
            counts = dict(zip(words[::2], map(int, words[1::2]), strict=True))
            return Sockets(counts[b"inuse"], counts[b"tw"])
    return None
