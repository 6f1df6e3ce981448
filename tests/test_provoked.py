"""What spoils a measurement, provoked for real, is caught by a gate; unspoiled, the cell is valid.

Real server, link and Locust workers throughout. Each `check_*` function is one test here; those of
a group run one after the other in one child process (`python test_provoked.py URL GROUP`), since
locust patches it. What is provoked is many times larger than the gate's limit, so that a busy
machine changes no outcome; a cell that should be valid is tried a few times, as a run does.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

if __name__ == "__main__":
    import bench.load.swarm as swarm_module  # first: locust patches the process

import tempfile
import time
from dataclasses import replace

import redis
from children import assert_lost, run_check

from bench.analysis import gates
from bench.model import Arrivals, Cell, Gate, Observation, Outage, Plan, Settings
from bench.rig.host import LINUX, end, spawn
from bench.rig.link import Link

pytestmark = pytest.mark.slow

TRIES = 6  # at a cell that should be valid: a stall of the machine fails one now and then

# At 50 ms the send lag may come to 5, so that small stalls do not matter.
LIGHT = Cell(
    "test", 320, 500, rtt_s=0.05, loop="open", offered_qps=1_500.0, arrivals=Arrivals(),
    measure_s=0.6, warmup_s=0.1,
)  # fmt: skip
NEAR = replace(LIGHT, pool_size=20, concurrency=20, rtt_s=0.0)
STOPPED = replace(LIGHT, offered_qps=500.0, measure_s=1.2, outage=Outage("stop", 0.36, 0.4))
SERVICE = replace(LIGHT, client="redis-py", offered_qps=2_000.0)  # 10,000 to 25,000 are its most
SERVICE_NEAR = replace(NEAR, client="redis-py", offered_qps=500.0)
RUSH = replace(
    SERVICE_NEAR, pool_size=50, concurrency=50, offered_qps=80_000.0, measure_s=0.3,
    arrivals=Arrivals(backlog=1_000_000),
)  # fmt: skip
LINKED_RUSH = replace(RUSH, rtt_s=0.001, offered_qps=40_000.0)
LINKED = replace(LIGHT, pool_size=50, concurrency=50, rtt_s=0.001, measure_s=0.4)
REAL_RTT_S = {0.0011: 0.0022, 0.0012: 0.0006}  # of the routes that are set wrong
PAIR = Cell("pool_sweep", 5, 20, workers=2, measure_s=0.6, warmup_s=0.1)


class Bench:
    """A rig and a swarm for cells of one worker; some of the link's routes are set wrong."""

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        rtts = (LIGHT.rtt_s, 0.02, LINKED.rtt_s, *REAL_RTT_S)
        self._cells = [LIGHT, *(replace(LINKED, rtt_s=rtt_s) for rtt_s in rtts)]

    def __enter__(self) -> Bench:
        from bench.rig.rig import Rig

        route = Link.route

        def misled(link: Link, rtt_s: float, *target: Any) -> tuple[str, int]:
            return route(link, REAL_RTT_S.get(rtt_s, rtt_s), *target)

        with contextlib.ExitStack() as stack:
            self.log = log = stack.enter_context(tempfile.TemporaryFile())
            stack.enter_context(mock.patch.object(Link, "route", misled))
            self.rig = stack.enter_context(Rig(Settings(url=self._url), self._cells))
            users = LIGHT.concurrency
            self.swarm = stack.enter_context(swarm_module.Swarm(1, users, self.rig.access, log))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(self, cell: Cell) -> Observation:
        from bench.load.measure import measure

        return measure(self.rig, self.swarm, cell, 1, 1, 1)

    @functools.cache  # noqa: B019
    def valid(self, cell: Cell) -> Observation:
        """The first valid one of a few tries."""
        return self.first(cell, lambda seen: seen.valid)

    def first(self, cell: Cell, wanted: Callable[[Observation], bool]) -> Observation:
        """The first of a few tries that is as wanted."""
        seen = [self.measure(cell)]
        while not wanted(seen[-1]) and len(seen) < TRIES:
            seen.append(self.measure(cell))
        assert wanted(seen[-1]), [(each.invalid_reasons, each.doubts) for each in seen]
        return seen[-1]


def gate(observation: Observation, name: str) -> Gate:
    (found,) = [each for each in observation.gates if each.name == name]
    return found


def calm(observation: Observation) -> bool:
    """Whether the machine went on meanwhile, by its meter."""
    return observation.hiccup_max_s < 0.1


def failed(observation: Observation) -> set[str]:
    return {each.name for each in observation.gates if each.passed is False}


@contextlib.contextmanager
def within_the_window(deed: Callable[[Any], None]) -> Iterator[None]:
    """Do `deed` to the swarm, 0.15 s after each window's begin."""
    import gevent

    start = swarm_module.Swarm.start

    def start_and_do(swarm: Any, cell: Cell) -> Any:
        running = start(swarm, cell)
        gevent.spawn_later(0.15, deed, swarm)
        return running

    with mock.patch.object(swarm_module.Swarm, "start", start_and_do):
        yield


def halt(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)


def freeze(swarm: Any) -> None:
    os.kill(swarm.pids[0], signal.SIGSTOP)


# ---------------------------------------------------------------------- the generator


def check_a_generator_that_cannot_keep_the_rate(bench: Bench) -> None:
    small = replace(RUSH, arrivals=Arrivals(backlog=500))
    control = bench.valid(SERVICE_NEAR)
    queueing, dropping = bench.measure(RUSH), bench.measure(small)
    assert control.served_share == 1
    for spoiled in (queueing, dropping):
        assert not spoiled.valid
        assert spoiled.bound_by in ("generator", "machine")
        assert spoiled.qps < 0.7 * RUSH.offered_qps
    assert queueing.served_share == 1  # in the end: only the growth of the line tells
    assert gate(queueing, "backlog").passed is False
    assert "of the arrivals piled up" in queueing.invalid_reasons
    assert gate(dropping, "served").passed is False
    assert "served: only" in dropping.invalid_reasons
    assert dropping.dropped > 0


def check_a_generator_that_cannot_keep_its_schedule(bench: Bench) -> None:
    bench.valid(SERVICE)
    spoiled = bench.measure(LINKED_RUSH)
    assert {"send_lag", "backlog"} <= failed(spoiled)
    assert spoiled.bound_by in ("generator", "machine", "link")  # by what else the cores do


def check_a_generator_that_is_halted(bench: Bench) -> None:
    assert failed(bench.valid(LIGHT)) == set()
    with within_the_window(lambda swarm: halt(swarm.pids[0], 0.3)):
        spoiled = bench.first(replace(LIGHT, rtt_s=0.02), calm)
    assert gate(spoiled, "send_lag").passed is False
    assert gate(spoiled, "send_lag").figure > 0.1  # of 0.3 s
    assert gate(spoiled, "null_control").passed is False  # all that was due came at once
    assert "ms behind schedule" in spoiled.invalid_reasons
    assert spoiled.bound_by in ("generator", "machine")
    assert spoiled.served_share == 1  # late, and all of them


def check_a_stall_of_the_machine_is_told_beside_the_figures(bench: Bench) -> None:
    """What the meter shows when it is kept from running is what it shows of a stalled machine."""
    with within_the_window(lambda _: halt(bench.rig.hiccups.pid, 0.05)):
        seen = bench.measure(LIGHT)
    found = gate(seen, "hiccups")
    assert found.passed is None
    assert found.figure > 0.03
    assert seen.hiccup_max_s == found.figure
    assert seen.calm_share < 1
    assert f"a stall of {found.figure * 1e3:.1f} ms; {seen.calm_share:.0%}" in found.reason
    assert found.reason in seen.doubts


def check_a_clock_that_steps(bench: Bench) -> None:
    told = time.time
    with within_the_window(lambda _: setattr(time, "time", lambda: told() + 1)):
        try:
            seen = bench.measure(NEAR)
        finally:
            time.time = told
    assert gate(seen, "clock").passed is False
    assert "stepped by +1." in seen.invalid_reasons
    assert gate(bench.valid(NEAR), "clock").passed


def check_a_stopped_server_is_seen_and_the_machine_not_blamed(bench: Bench) -> None:
    control = bench.valid(LIGHT)
    with mock.patch.object(gates, "bound_by", wraps=gates.bound_by) as bound_by:
        seen = bench.first(STOPPED, lambda seen: seen.valid and calm(seen))
    assert bound_by.call_args.kwargs["hold_s"] < 0.5 * seen.command_mean_s + 0.5 * LIGHT.rtt_s
    assert seen.latency.p90 > 0.15 > control.latency.p50
    assert seen.dropped == seen.errors == seen.timeouts == 0
    assert seen.served_share == 1
    assert gate(seen, "operations").figure == 0
    assert (seen.bound_by == "machine") <= (seen.machine_busy_share >= 0.85)
    for name in ("null_control", "backlog", "settled"):
        assert gate(control, name).passed
    assert not {"null_control", "backlog"} & {each.name for each in seen.gates}
    assert (gate(seen, "settled").figure, gate(seen, "settled").passed) == (None, None)


# ---------------------------------------------------------------------- link and server


def check_a_link_that_is_not_set_as_the_cell_says(bench: Bench) -> None:
    control = bench.first(LINKED, lambda seen: gate(seen, "link_rtt").passed is True)
    figures = {}
    for rtt_s in REAL_RTT_S:
        spoiled = bench.measure(replace(LINKED, rtt_s=rtt_s))
        found = gate(spoiled, "link_rtt")
        figures[rtt_s] = found.figure
        assert found.passed is spoiled.valid is False, (found, spoiled.invalid_reasons)
        assert "the quickest request took" in found.reason
        assert found.reason in spoiled.invalid_reasons
    assert figures[0.0012] < 0 <= gate(control, "link_rtt").figure < 1 <= figures[0.0011]


@contextlib.contextmanager
def foreign_load(url: str, *words: str) -> Iterator[None]:
    """Somebody else's client, which sends that command for as long as this lasts."""
    code = """
import socket, sys
host, port, command = sys.argv[1], int(sys.argv[2]), " ".join(sys.argv[3:]).encode() + b"\\r\\n"
server = socket.create_connection((host, port))
while True:
    server.sendall(command * 50)
    server.recv(65536)
"""
    control = redis.Redis.from_url(url)
    address = (control.connection_pool.connection_kwargs[name] for name in ("host", "port"))
    counter = f"cmdstat_{words[0].lower()}"

    def sent() -> int:
        return int(control.info("commandstats").get(counter, {"calls": 0})["calls"])

    before = sent()
    process = spawn([sys.executable, "-c", code, *map(str, address), *words])
    try:
        while sent() < before + 1_000:
            assert process.poll() is None
            time.sleep(0.01)
        yield
    finally:
        end(process)
        control.close()


def check_others_on_a_server_of_our_own(bench: Bench) -> None:
    control = bench.valid(NEAR)
    assert gate(control, "operations").figure == control.foreign_operations == 0
    assert control.server_cpu_us_per_op > 0
    for words in (("GET", "bench:1"), ("INCR", "somebody:else")):
        with foreign_load(bench.rig.server.url, *words):
            spoiled = bench.measure(NEAR)
        assert not spoiled.valid
        assert gate(spoiled, "operations").passed is False
        assert gate(spoiled, "operations").figure > 500
        assert f"operations: {words[0].lower()}: " in spoiled.invalid_reasons
        assert spoiled.server_cpu_us_per_op is None


def check_others_on_a_server_given_by_its_url(bench: Bench) -> None:
    server = bench.rig.server
    assert not server.owned
    control = bench.valid(NEAR)
    assert all(each.name != "operations" for each in control.gates)
    assert gate(control, "foreign_operations").figure < 0.01
    assert control.server_cpu_us_per_op > 0
    for words in (("GET", "bench:1"), ("INCR", "somebody:else"), ("PING",)):
        with foreign_load(server.url, *words):
            shared = bench.measure(NEAR)
        found = gate(shared, "foreign_operations")
        assert found.passed is None  # such a server is the user's to share,
        assert found.figure > 0.1 > found.limit
        assert "no verdict on server CPU" in found.reason
        assert found.reason in shared.doubts
        assert shared.foreign_operations > 500
        assert shared.server_cpu_us_per_op is None  # but nothing can rest on this
    redis.Redis.from_url(server.url).delete("somebody:else")


def check_a_test_on_borrow_is_not_foreign(bench: Bench) -> None:
    seen = bench.measure(replace(NEAR, test_on_borrow="ping"))
    assert gate(seen, "foreign_operations").figure < 0.01
    assert seen.server_cpu_us_per_op > 0


# ---------------------------------------------------------------------- workers


def check_a_generator_whose_core_others_use(bench: Bench) -> None:
    """The worker shares its core with eight sessions that never rest, and comes last."""
    bench.valid(SERVICE)
    (worker,) = bench.swarm.pids
    core = min(os.sched_getaffinity(0))
    burn = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    os.sched_setaffinity(worker, {core})
    os.setpriority(os.PRIO_PROCESS, worker, 19)

    def crowd(_: Any) -> None:
        with contextlib.ExitStack() as burners:
            for _ in range(8):
                burners.callback(end, spawn([sys.executable, "-S", "-c", burn]))
            time.sleep(0.4)

    with within_the_window(crowd):
        spoiled = bench.measure(SERVICE)
    assert gate(spoiled, "send_lag").passed is False
    assert spoiled.bound_by in ("generator", "machine")


def check_the_only_worker_frozen_is_a_loss_within_the_time_out(bench: Bench) -> None:
    with within_the_window(freeze), mock.patch.object(swarm_module, "DRAIN_TIMEOUT_S", 0.3):
        told = "1 of 1 workers did not answer in time"
        bench.log.write(b"what the worker said last\n")
        bench.log.flush()
        assert_lost(lambda: bench.measure(NEAR), told, "said last")


def check_a_link_that_dies_is_named_before_the_workers_that_lose_it(bench: Bench) -> None:
    """Its connections are cut, and a worker complains of that, before its end can be seen; how
    late that is the kernel decides, so the delay is made here."""
    import gevent

    assert bench.rig.link
    check, looks = Link.check, iter(range(1_000))
    gevent.spawn_later(0.05, os.kill, bench.rig.link.pid, signal.SIGKILL)
    with mock.patch.object(Link, "check", lambda link: next(looks) < 3 or check(link)):
        assert_lost(lambda: bench.measure(LIGHT), "the link", "killed by signal 9")


def bench_run(results: str, *arguments: str) -> int:
    """`bench run` of the one cell PAIR; its exit status."""
    from bench import cli

    argv = ["bench", "run", "--profile", "smoke", "--workers", "2", "--no-report"]
    plans = mock.patch("bench.runner.plans", return_value=[Plan((PAIR,), 1)])
    with plans, mock.patch.object(sys, "argv", [*argv, "--results", results, *arguments]):
        return cli.main()


def check_a_lost_worker_is_in_the_record_and_ends_the_run() -> None:
    from bench.store import Store

    def kill(swarm: Any) -> None:
        os.kill(swarm.pids[0], signal.SIGKILL)

    with tempfile.TemporaryDirectory() as results:
        # At the last attempt nothing else would keep the run from being called complete.
        with within_the_window(kill), mock.patch("bench.runner.ATTEMPTS", 1):
            assert bench_run(results) == 1
        (folder,) = Path(results).iterdir()
        (row,) = Store.open(folder).cells().to_dict("records")
        assert not row["valid"]
        assert row["workers_lost"] == row["gate_workers"] == 1
        assert "workers: 1 of 2 lost" in row["invalid_reasons"]
        assert Store.open(folder).manifest["status"] == "stopped"

        assert bench_run(results, "--resume", str(folder)) == 0
        resumed = Store.open(folder)
        kept = resumed.cells().sort_values("attempt")
        assert kept["attempt"].tolist() == [1, 2]
        assert kept["workers_lost"].tolist() == [1, 0]
        assert kept["qps"].iloc[0] == row["qps"]
        assert "lost" not in kept["invalid_reasons"].iloc[1]
        assert resumed.manifest["status"] == "complete"


def check_a_frozen_worker_is_lost_within_the_time_out() -> None:
    from bench.runner import run
    from bench.store import Store

    with (
        tempfile.TemporaryDirectory() as folder,
        within_the_window(freeze),
        mock.patch("bench.runner.plans", return_value=[Plan((PAIR,), 1)]),
        mock.patch.object(swarm_module, "DRAIN_TIMEOUT_S", 0.3),
        mock.patch.object(swarm_module, "PREPARE_TIMEOUT_S", 10.0),
        contextlib.closing(Store.create(Path(folder) / "run", {})) as store,
    ):
        told = "1 of 2 workers did not answer in time"
        assert_lost(lambda: run(Settings(), store, mock.Mock()), told)
        (row,) = store.cells().to_dict("records")
        assert "workers: 1 of 2 lost" in row["invalid_reasons"]
        # What the lost worker sent is not somebody else's.
        assert "foreign operations" not in row["doubts"]


# ---------------------------------------------------------------------- one test each


GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "own": (
        check_a_generator_that_cannot_keep_the_rate,
        check_a_generator_that_cannot_keep_its_schedule,
        check_a_generator_that_is_halted,
        check_a_stall_of_the_machine_is_told_beside_the_figures,
        check_a_clock_that_steps,
        check_a_stopped_server_is_seen_and_the_machine_not_blamed,
        check_a_link_that_is_not_set_as_the_cell_says,
        check_others_on_a_server_of_our_own,
        check_a_generator_whose_core_others_use,
        check_the_only_worker_frozen_is_a_loss_within_the_time_out,
    ),
    "url": (
        check_others_on_a_server_given_by_its_url,
        check_a_test_on_borrow_is_not_foreign,
    ),
    "cut": (check_a_link_that_dies_is_named_before_the_workers_that_lose_it,),
    "pair": (
        check_a_lost_worker_is_in_the_record_and_ends_the_run,
        check_a_frozen_worker_is_lost_within_the_time_out,
    ),
}
PLACES = [(group, check.__name__) for group, checks in GROUPS.items() for check in checks]
LINUX_ONLY = ("check_a_generator_whose_core_others_use",)


def run_group(url: str, group: str) -> None:
    """Print what went wrong with each check, "" for nothing."""
    told = {}
    with contextlib.ExitStack() as stack:
        arguments = []
        if group != "pair":
            arguments = [stack.enter_context(Bench(url if group == "url" else None))]
        for check in GROUPS[group]:
            told[check.__name__] = ""
            try:
                if LINUX or check.__name__ not in LINUX_ONLY:
                    check(*arguments)
            except Exception:
                told[check.__name__] = traceback.format_exc()
    print(json.dumps(told))


@functools.cache
def outcomes(url: str, group: str) -> dict[str, str]:
    printed = run_check(__file__, url, group, timeout_s=150)
    told: dict[str, str] = json.loads(printed.splitlines()[-1])
    return told


@pytest.mark.parametrize(("group", "name"), PLACES, ids=[name for _, name in PLACES])
def test_provoked(group: str, name: str, redis_server: Any) -> None:
    if name in LINUX_ONLY and not LINUX:
        pytest.skip("pins processes to a core")
    told = outcomes(redis_server.url, group)[name]
    assert not told, told


if __name__ == "__main__":
    run_group(*sys.argv[1:])
