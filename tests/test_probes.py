"""Probes and the hiccup meter, on real processes that are known to do something."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from bench.model import ApparatusLost
from bench.rig import host, probes
from bench.rig.hiccup import HiccupMeter
from bench.rig.link import Link
from bench.rig.probes import Probes, Readings
from bench.rig.server import Server, open_server

BURN = """
import sys, time
held = [open('/dev/null') for _ in range(int(sys.argv[1]))]
print(flush=True)
for line in sys.stdin:
    end = time.process_time() + float(line)
    while time.process_time() < end: sum(range(10_000))
    print(flush=True)
"""


class Worker:
    """A process that burns as much CPU, and holds as many files, as it is told."""

    def __init__(self, files: int = 0) -> None:
        self.process = host.spawn(
            [sys.executable, "-c", BURN, str(files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self.process.pid
        self.wait()

    def burn(self, cpu_s: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{cpu_s}\n".encode())
        self.process.stdin.flush()

    def wait(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.readline()


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    both = [Worker(files=100), Worker()]
    yield both
    for worker in both:
        host.end(worker.process)


def pids(workers: list[Worker]) -> list[int]:
    return [worker.pid for worker in workers]


def test_cpu_of_all_workers_is_summed(redis_server: Server, workers: list[Worker]) -> None:
    watch = Probes(redis_server, None, pids(workers))
    watch.start_window()
    for worker in workers:
        worker.burn(0.2)
        worker.wait()
    seen = watch.end_window()
    assert 0.4 <= seen.client_cpu.total_s < 0.5
    assert seen.client_cpu.user_s > seen.client_cpu.system_s
    assert seen.link_cpu.total_s == 0
    assert seen.link_fds_peak == 0
    assert seen.machine_busy_share is not None
    assert seen.core_busy_max is not None
    assert 0 < seen.machine_busy_share <= seen.core_busy_max <= 1


def test_a_window_does_not_see_what_came_before(
    redis_server: Server, workers: list[Worker]
) -> None:
    watch = Probes(redis_server, None, pids(workers))
    workers[0].burn(0.2)
    workers[0].wait()
    redis.Redis.from_url(redis_server.url).get("x")
    for _ in range(2):
        watch.start_window()
        seen = watch.end_window()
        assert seen.client_cpu.total_s < 0.1
        assert "get" not in seen.server_calls


def test_peaks_are_kept_when_they_are_over(redis_server: Server, workers: list[Worker]) -> None:
    with Link.open((redis_server.host, redis_server.port)) as link:
        address = link.route(0.0)
        watch = Probes(redis_server, link, pids(workers), interval_s=0.02)
        before = redis_server.snapshot(light=True).connected_clients
        watch.start_window()
        clients = [socket.create_connection(address, timeout=10) for _ in range(40)]
        for client in clients:
            client.sendall(b"PING\r\n")
            assert client.recv(64) == b"+PONG\r\n"
        deadline = time.monotonic() + 10
        while watched_connections(watch) < before + 40 and time.monotonic() < deadline:
            time.sleep(0.02)
        for client in clients:
            client.close()
        while redis_server.snapshot(light=True).connected_clients > before:
            time.sleep(0.02)
        seen = watch.end_window()
    assert seen.server_connections_peak == before + 40
    assert seen.link_fds_peak is not None
    assert seen.link_fds_peak >= 80
    assert seen.client_fds_peak is not None
    assert 100 <= seen.client_fds_peak < 140
    assert seen.server_calls["ping"] == 40
    assert seen.link_cpu.total_s > 0
    assert seen.server_rss_bytes is not None
    assert seen.client_rss_bytes > 1 << 20
    assert seen.time_wait_peak is not None
    assert seen.sockets_peak is not None
    assert seen.sockets_peak >= 80
    assert seen.series[-1]["server_connections"] == before


def watched_connections(watch: Probes) -> int:
    return max((sample["server_connections"] for sample in watch._series), default=0)


@pytest.mark.parametrize("known", [False, True])
def test_foreign_cpu_is_what_none_of_ours_did(
    redis_server: Server, workers: list[Worker], known: bool
) -> None:
    """The same burning process, once unknown and once named as ours."""
    burning, idle = workers
    watch = Probes(redis_server, None, [idle.pid], ours=[burning.pid] if known else [])
    watch.start_window()
    burning.burn(0.4)
    burning.wait()
    seen = watch.end_window()
    assert seen.foreign_share is not None
    assert seen.machine_busy_share is not None
    burnt_share = 0.4 / seen.measured_s / (os.cpu_count() or 1)
    ours_share = seen.machine_busy_share - seen.foreign_share
    assert (ours_share > 0.8 * burnt_share) == known


def test_a_crowded_core_shows_as_waiting(redis_server: Server) -> None:
    """One of four on a core runs a quarter of the time and waits for the rest."""
    crowd = [Worker() for _ in range(4)]
    core = min(os.sched_getaffinity(0))
    for worker in crowd:
        os.sched_setaffinity(worker.pid, {core})
    watch = Probes(redis_server, None, [crowd[-1].pid])
    watch.start_window()
    for worker in crowd:
        worker.burn(0.2)
    crowd[-1].wait()
    seen = watch.end_window()
    for worker in crowd:
        host.end(worker.process)
    assert seen.worker_runqueue_share is not None
    waited_s = seen.worker_runqueue_share * seen.measured_s
    assert waited_s > 1.5 * seen.client_cpu.total_s
    assert seen.link_runqueue_share == 0


def test_the_server_on_another_machine_is_read_by_info(redis_server: Server) -> None:
    with open_server(redis_server.url, max_connections=10) as external:
        watch = Probes(external, None, [os.getpid()])
        watch.start_window()
        user = redis.Redis.from_url(redis_server.url)
        pipeline = user.pipeline(transaction=False)
        for _ in range(20_000):
            pipeline.get("x")
        pipeline.execute()
        seen = watch.end_window()
    assert seen.server_fds_peak is None
    assert seen.server_calls["get"] == 20_000
    assert 0 < seen.server_cpu.total_s < seen.measured_s


def kill(pid: int) -> None:
    """Dead but not reaped, as the runner finds it."""
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)


def test_a_worker_that_vanishes_within_a_window_counts_as_last_seen(
    redis_server: Server, workers: list[Worker]
) -> None:
    watch = Probes(redis_server, None, pids(workers), interval_s=0.02)
    watch.start_window()
    kill(workers[1].pid)
    assert watch.end_window().client_rss_bytes > 0
    with pytest.raises(ApparatusLost, match=rf"a worker \(pid {workers[1].pid}\) has ended"):
        Probes(redis_server, None, pids(workers)).start_window()


def test_a_signal_that_lands_in_the_sampler_reaches_the_runner(
    redis_server: Server, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler runs, and raises, in whatever greenlet is running: here the sampler's."""
    watch = Probes(redis_server, None, pids(workers), interval_s=0.02)
    watch.start_window()
    monkeypatch.setattr(watch, "_sample", lambda: sys.exit(130))
    assert watch._sampler is not None
    watch._sampler.join()
    for question in (watch.check, watch.end_window):
        with pytest.raises(SystemExit, match="130"):
            question()


def test_a_server_that_dies_within_a_window_is_named(workers: list[Worker]) -> None:
    with open_server(None, max_connections=10) as doomed:
        watch = Probes(doomed, None, pids(workers), interval_s=0.02)
        watch.start_window()
        assert doomed.pid is not None
        os.kill(doomed.pid, signal.SIGKILL)
        with pytest.raises(ApparatusLost, match="the server"):
            watch.end_window()
        watch.close()


def test_a_link_that_dies_within_a_window_is_named(
    redis_server: Server, workers: list[Worker]
) -> None:
    with Link.open((redis_server.host, redis_server.port)) as link:
        watch = Probes(redis_server, link, pids(workers))
        watch.start_window()
        kill(link.pid)
        with pytest.raises(ApparatusLost, match=rf"the link \(pid {link.pid}\)"):
            watch.end_window()


def test_probes_work_in_a_patched_process() -> None:
    code = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import os, time\n"
        "from bench.rig.probes import Probes\n"
        "from bench.rig.server import open_server\n"
        "with open_server(None, max_connections=10) as server:\n"
        "    watch = Probes(server, None, [os.getpid()], 0.02)\n"
        "    watch.start_window(); time.sleep(0.3)\n"
        "    seen = watch.end_window(); print(len(seen.series), seen.server_connections_peak)"
    )
    root = Path(__file__).parents[1]
    told = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    samples, connections = map(int, told.stdout.split())
    assert samples >= 3
    assert connections == 1


def test_the_rest_of_the_world_gets_what_psutil_knows(
    redis_server: Server, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "LINUX", False)
    seen = window_of_burning(redis_server, workers)
    assert 0.1 <= seen.client_cpu.total_s < 0.3
    assert seen.client_fds_peak is not None
    assert seen.client_fds_peak >= 100
    assert seen.client_rss_bytes > 1 << 20
    assert seen.machine_busy_share is None
    assert seen.foreign_share is None
    assert seen.time_wait_peak is None
    kill(workers[0].pid)
    with pytest.raises(ApparatusLost, match="a worker"):
        Probes(redis_server, None, pids(workers)).start_window()


def window_of_burning(server: Server, workers: list[Worker]) -> Readings:
    watch = Probes(server, None, pids(workers))
    watch.start_window()
    workers[0].burn(0.15)
    workers[0].wait()
    return watch.end_window()


def test_the_process_clock_agrees_with_the_process_itself() -> None:
    before = time.process_time()
    seen = probes.process_clock_s(os.getpid())
    assert before <= seen <= time.process_time()


def test_the_hiccup_meter_sees_a_halt_and_forgets_it_at_the_mark() -> None:
    with HiccupMeter() as meter:
        meter.mark()
        halted = time.perf_counter()
        os.kill(meter.pid, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(meter.pid, signal.SIGCONT)
        time.sleep(0.05)
        stalls = meter.read()
        due, woke = max(stalls, key=lambda stall: stall[1] - stall[0])
        late = woke - due
        assert late > 0.15
        assert halted < woke < time.perf_counter()  # on one machine, one clock
        assert meter.max_s == pytest.approx(late)
        assert stalls == sorted(stalls)
        meter.mark()
        assert meter.read() == [] or meter.max_s < late
