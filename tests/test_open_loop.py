"""The open loop against a real server, in child processes patched for gevent, and under Locust.

Each `check_*` function runs in a child (`python test_open_loop.py URL NAME`) and is one test here.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

if __name__ == "__main__":
    import bench.load.swarm as swarm_module  # first: locust patches the process

import dataclasses
import tempfile
from time import perf_counter as clock

import numpy as np
import redis
from children import (
    NO_SERVER,
    Joined,
    answered,
    await_listener,
    ended,
    run_check,
    started,
)

from bench.load.arrivals import schedule
from bench.model import Arrivals, Cell, Settings
from bench.rig.access import Access
from bench.rig.host import free_port

URL = ""
SEED = 5
OPEN = Cell("test", 4, 12, loop="open", offered_qps=400.0, arrivals=Arrivals(), warmup_s=0.0)
INTENDED, SENT, ACQUIRED, DONE = range(4)
PATIENCE_S = 30.0
NEVER = float("inf")


def altered(cell: Cell = OPEN, *, backlog: int | None = None, **settings: Any) -> Cell:
    if backlog is not None:
        settings["arrivals"] = dataclasses.replace(cell.arrivals, backlog=backlog)
    return dataclasses.replace(cell, **settings)


def open_pool(cell: Cell, address: Any = None) -> Any:
    from bench.load import clients

    pool = clients.open_pool(cell, Access(URL), address)
    pool.prefill()
    return pool


def until(condition: Any) -> None:
    import gevent

    with gevent.Timeout(PATIENCE_S):
        while not condition():
            gevent.sleep(0.001)


class Play:
    """One job with carriers of its own on this process's hub; `end` stops it and looks back."""

    def __init__(self, cell: Cell, pool: Any, worker: int = 0) -> None:
        from bench.load.open_loop import OpenLoop

        self.cell, self.pool, self.worker = cell, pool, worker
        self.job = OpenLoop(cell, pool, cell.concurrency, SEED, worker)
        self.carriers: list[Any] = []
        self.bring(cell.concurrency)
        assert self.job.all_in.wait(PATIENCE_S)
        self.job.begin()

    def bring(self, count: int) -> list[Any]:
        import gevent

        new = [gevent.spawn(self.job.run) for _ in range(count)]
        self.carriers += new
        return new

    def on_time(self, at: float) -> Any:
        """What the schedule lists before `at`, on the clock."""
        cell = self.cell
        times = schedule(cell.arrivals, cell.offered_qps, SEED, self.worker, cell.workers)
        return times.between(0.0, at - self.job._began) + self.job._began

    def end(self) -> Played:
        import gevent

        at = clock()
        self.job.stop(at)
        gevent.joinall(self.carriers, timeout=PATIENCE_S, raise_error=True)
        assert all(each.dead for each in self.carriers)
        assert self.pool.stats().count_used == self.pool.stats().pending_requests == 0
        rows = self.job.recorder.rows(since=0.0)
        assert (np.diff(rows, axis=1) >= 0).all()  # intended ≤ sent ≤ acquired ≤ done
        recorder, dropped = self.job.recorder, np.array(self.job._dropped)
        failed = recorder.errors + recorder.timeouts
        return Played(self.on_time(at), rows, dropped, failed, at)


class Played(NamedTuple):
    scheduled: Any  # intended times
    rows: Any
    dropped: Any  # intended times
    failed: int
    at: float

    def assert_each_once(self) -> None:
        """Where nothing failed: every arrival was served or dropped, at its own time, bit for bit;
        where something did, the sum is right, and what was served is in the schedule once."""
        assert len(self.scheduled) > 10
        had = np.sort(np.concatenate([self.rows[:, INTENDED], self.dropped]))
        if not self.failed:
            assert had.tolist() == self.scheduled.tolist()
        assert len(had) + self.failed == len(self.scheduled)
        assert len(set(had)) == len(had)
        assert set(had) <= set(self.scheduled)

    def assert_first_come_first_served(self) -> None:
        assert (np.diff(self.rows[:, ACQUIRED]) >= 0).all()  # rows ascend by intended time


def play(cell: Cell, pool: Any, seconds: float) -> Played:
    import gevent

    running = Play(cell, pool)
    gevent.sleep(seconds)
    return running.end()


class Pools:
    """Pools that a link leads to the server."""

    def __enter__(self) -> Pools:
        from bench.rig.link import Link
        from bench.rig.server import open_server

        self._server = open_server(URL, max_connections=50)
        self._link = Link.open((self._server.host, self._server.port))
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()
        self._server.close()

    def open(self, cell: Cell) -> Any:
        return open_pool(cell, self._link.route(cell.rtt_s))


# ---------------------------------------------------------------------- every arrival, once


def check_every_arrival_is_served_once_at_its_own_time() -> None:
    from bench.load import open_loop

    open_loop.AHEAD_S = 0.05  # so that the schedule is made in several parts
    for client in ("lean", "redis-py"):
        for process in ("constant", "poisson", "bursty"):
            arrivals = Arrivals(process, peak_to_mean=4.0)
            cell = altered(client=client, arrivals=arrivals, measure_s=0.05)
            pool = open_pool(cell)
            before = answered(URL)
            played = play(cell, pool, 0.3)
            played.assert_each_once()
            assert len(played.rows) == len(played.scheduled) == answered(URL) - before
            assert pool.stats().requests == len(played.rows)
            pool.close()


def check_a_window_holds_what_was_scheduled_in_it() -> None:
    import gevent

    cell = altered(pool_size=2, concurrency=4, rtt_s=0.01, backlog=3)
    with Pools() as pools:
        pool = pools.open(cell)
        running = Play(cell, pool)
        gevent.sleep(0.1)
        start = clock()
        gevent.sleep(0.2)
        end = clock()
        gevent.sleep(0.1)
        played = running.end()
        window = running.job.recorder.window(start, end, "open")
        count = running.job.offered(start, end)
        inside = played.scheduled[(played.scheduled >= start) & (played.scheduled < end)]
        assert count["scheduled"] == len(inside) > 0
        assert 0 < count["dropped"] < len(played.dropped)
        assert window["requests"] + count["dropped"] == count["scheduled"]
        assert running.job.drain_dropped() == len(played.dropped)
        assert running.job.drain_dropped() == 0
        pool.close()


def check_what_was_due_before_the_stop_is_sent_and_nothing_after() -> None:
    import gevent

    cell = altered(offered_qps=5000.0)
    pool = open_pool(cell)
    running = Play(cell, pool)
    gevent.sleep(0.05)
    held_up = clock() + 0.05
    while clock() < held_up:  # nobody else can run meanwhile: much is due, nothing is sent
        pass
    played = running.end()
    assert np.count_nonzero(played.scheduled > held_up - 0.05) > 100
    assert len(played.rows) == len(played.scheduled)
    played.assert_each_once()
    assert running.carriers[0].dead
    assert running.job.drained.is_set()
    pool.close()


def check_a_job_may_be_stopped_before_it_begins() -> None:
    import gevent

    from bench.load.open_loop import OpenLoop

    pool = open_pool(OPEN)
    job = OpenLoop(OPEN, pool, 2, SEED)
    carriers = [gevent.spawn(job.run) for _ in range(2)]
    assert job.all_in.wait(PATIENCE_S)
    job.stop(clock())
    job.stop(clock())
    assert job.drained.wait(PATIENCE_S)
    gevent.joinall(carriers, raise_error=True)
    assert job.offered(0.0, clock()) == {"scheduled": 0, "dropped": 0}
    assert pool.stats().requests == 0
    pool.close()


def check_a_trace_is_played_to_its_end_and_waits_for_the_stop() -> None:
    import gevent

    with tempfile.NamedTemporaryFile("w") as file:
        file.write("".join(f"{n * n / 2000}\n" for n in range(20)))
        file.flush()
        cell = altered(arrivals=Arrivals("trace", trace=file.name), measure_s=0.01)
        pool = open_pool(cell)
        running = Play(cell, pool)
        assert abs(running.job.ends_at - running.job._began - 19 * 19 / 2000) < 1e-9
        until(lambda: running.job.recorder.operations()["GET"] == 20)
        gevent.sleep(0.05)
        assert not any(each.dead for each in running.carriers)
        played = running.end()
    played.assert_each_once()
    assert len(played.rows) == 20
    pool.close()


# ---------------------------------------------------------------------- overload


def served_a_second(rows: Any, start: float, end: float) -> float:
    return float(np.count_nonzero((rows[:, DONE] >= start) & (rows[:, DONE] < end)) / (end - start))


def check_overload_leaves_the_pool_its_capacity() -> None:
    """At two to three times what the pool can carry, it carries what it does in a closed loop."""
    import gevent

    from bench.load.closed_loop import ClosedLoop

    cell = altered(pool_size=5, concurrency=15, rtt_s=0.02, offered_qps=625.0)
    with Pools() as pools:
        for client in ("lean", "redis-py"):
            pool = pools.open(altered(cell, client=client))
            closed = ClosedLoop(dataclasses.replace(CLOSED, client=client), pool, 15, SEED)
            users = [gevent.spawn(closed.run) for _ in range(15)]
            gevent.sleep(0.1)
            start = clock()
            gevent.sleep(0.5)
            end = clock()
            closed.stop(end)
            gevent.joinall(users, raise_error=True)
            capacity = served_a_second(closed.recorder.rows(since=0.0), start, end)
            assert capacity <= 1.05 * 5 / 0.02

            running = Play(altered(cell, client=client), pool)
            gevent.sleep(0.1)
            start = clock()
            gevent.sleep(0.5)
            end = clock()
            assert len(running.job._backlog) > 50
            played = running.end()
            achieved = served_a_second(played.rows, start, end)
            assert 0.9 <= achieved / capacity <= 1.1, (achieved, capacity)
            assert len(played.dropped) == 0
            played.assert_each_once()
            played.assert_first_come_first_served()
            pool.close()


CLOSED = Cell("test", 5, 15, rtt_s=0.02)


def check_one_connection_serves_in_the_order_of_arrival() -> None:
    for concurrency in (1, 3):
        cell = altered(pool_size=1, concurrency=concurrency, rtt_s=0.005, offered_qps=500.0)
        with Pools() as pools:
            pool = pools.open(cell)
            played = play(cell, pool, 0.3)
            played.assert_each_once()
            played.assert_first_come_first_served()
            assert (played.rows[1:, ACQUIRED] >= played.rows[:-1, DONE]).all()
            pool.close()


def check_a_full_backlog_drops_and_stays_bounded() -> None:
    import gevent

    for backlog in (0, 7):
        cell = altered(pool_size=2, concurrency=4, rtt_s=0.01, backlog=backlog)
        with Pools() as pools:
            pool = pools.open(cell)
            running = Play(cell, pool)
            longest = 0
            ends = clock() + 0.4
            while clock() < ends:
                longest = max(longest, len(running.job._backlog))
                gevent.sleep(0.001)
            played = running.end()
            assert longest == backlog
            assert len(played.dropped) > 10
            assert len(played.rows) > 10
            played.assert_each_once()
            played.assert_first_come_first_served()
            pool.close()


def check_giving_up_in_line_is_a_timeout_and_not_an_error() -> None:
    for timeout in (0.02, 0.0):
        cell = altered(pool_size=1, acquire_timeout_s=timeout)
        pool = open_pool(cell)
        held = pool.get_connection()
        running = Play(cell, pool)
        until(lambda running=running: running.job.recorder.timeouts > 30)
        pool.release(held)
        until(lambda running=running: running.job.recorder.operations()["GET"] > 10)
        played = running.end()
        assert running.job.recorder.errors == 0
        played.assert_each_once()
        pool.close()


def check_waiting_in_the_backlog_counts_towards_the_timeout() -> None:
    """With one carrier the pool's own line is empty: all wait in the backlog."""
    import gevent

    cell = altered(pool_size=1, concurrency=1, acquire_timeout_s=0.05)
    pool = open_pool(cell)
    running = Play(cell, pool)
    redis.Redis.from_url(URL).client_pause(300)
    gevent.sleep(0.4)
    until(lambda: running.job.recorder.operations()["GET"] > 10)
    played = running.end()
    assert running.job.recorder.timeouts > 20
    assert running.job.recorder.errors == 0
    played.assert_each_once()
    waits = played.rows[:, ACQUIRED] - played.rows[:, SENT]
    served_late = waits[waits > cell.acquire_timeout_s + 0.02]
    assert not len(served_late)
    pool.close()


def check_an_abandoned_backlog_is_not_served() -> None:
    import gevent

    cell = altered(pool_size=1, concurrency=2, offered_qps=2_000.0)
    pool = open_pool(cell)
    running = Play(cell, pool)
    redis.Redis.from_url(URL).client_pause(200)
    gevent.sleep(0.1)
    at = clock()
    running.job.stop(at)
    until(lambda: running.job._stopping)
    waiting = len(running.job._backlog)
    running.job.abandon()
    assert running.job.drained.wait(PATIENCE_S)
    assert waiting > 20
    served = running.job.recorder.operations()["GET"]
    assert served == len(running.on_time(at)) - waiting
    pool.close()


def check_carriers_come_back_when_the_server_is_gone() -> None:
    import gevent

    from bench.load import clients
    from bench.rig.server import open_server

    for client in ("lean", "redis-py"):
        with open_server(None, max_connections=50) as server:
            cell = altered(client=client)
            pool = clients.open_pool(cell, Access(server.url), None)
            running = Play(cell, pool)
            gevent.sleep(0.1)
            os.kill(server.pid, signal.SIGKILL)
            until(lambda running=running: running.job.recorder.errors > 20)
            played = running.end()
            assert running.job.drained.is_set()
            assert running.job.recorder.timeouts == 0
            assert len(played.rows) > 0
            played.assert_each_once()
            pool.close()


# ---------------------------------------------------------------------- carriers come and go


def check_a_carrier_that_is_killed_while_it_waits_is_given_nothing() -> None:
    import gevent

    pool = open_pool(OPEN)
    running = Play(OPEN, pool)
    until(lambda: len(running.job._free) == 12)
    gevent.killall(running.carriers[:10])
    assert len(running.job._free) <= 2
    gevent.sleep(0.2)
    played = running.end()
    assert played.failed == 0
    assert len(played.rows) > 50
    played.assert_each_once()
    pool.close()


def check_a_carrier_that_is_killed_with_a_request_out_counts_it_as_failed() -> None:
    import gevent

    for client in ("lean", "redis-py"):
        cell = altered(client=client, pool_size=2, concurrency=6)
        pool = open_pool(cell)
        running = Play(cell, pool)
        gevent.sleep(0.1)
        server = redis.Redis.from_url(URL).info()["process_id"]
        os.kill(server, signal.SIGSTOP)
        try:
            until(lambda running=running: len(running.job._backlog) > 10)
            gevent.killall(running.carriers[:5])  # some hold a connection, the others wait for one
        finally:
            os.kill(server, signal.SIGCONT)
        assert running.job.recorder.errors == 5
        gevent.sleep(0.2)
        played = running.end()
        assert played.failed == 5
        (kind,) = running.job.recorder.error_samples
        assert "killed with the request out" in kind
        played.assert_each_once()
        played.assert_first_come_first_served()
        pool.close()


def check_a_new_carrier_takes_from_the_backlog_first() -> None:
    import gevent

    cell = altered(pool_size=1, concurrency=2)
    pool = open_pool(cell)
    running = Play(cell, pool)
    until(lambda: len(running.job._free) == 2)
    gevent.killall(running.carriers)
    gevent.sleep(0.1)
    assert len(running.job._backlog) > 10
    running.bring(4)
    gevent.sleep(0.1)
    played = running.end()
    assert played.failed == 0
    played.assert_each_once()
    played.assert_first_come_first_served()
    pool.close()


# ---------------------------------------------------------------------- several workers


def check_workers_burst_together_and_yet_differ() -> None:
    """Each worker's record is its own part of one schedule, to the rounding of a difference."""
    from bench.load.measure import measure
    from bench.rig.rig import Rig

    arrivals = Arrivals("bursty", peak_to_mean=4.0)
    cell = altered(arrivals=arrivals, workers=2, keep_requests=True, measure_s=0.5)
    with (
        tempfile.TemporaryFile() as log,
        Rig(Settings(), [cell]) as rig,
        swarm_module.Swarm(2, cell.concurrency, rig.access, log) as swarm,
    ):
        seen = measure(rig, swarm, cell, 1, 1, 1)
        seed = rig.seed(1)
    assert seen.operations == seen.server_operations > 100
    parts = []
    for worker, packed in enumerate(seen.requests):
        intended = np.frombuffer(packed).reshape(-1, 4)[:, INTENDED]
        times = schedule(arrivals, cell.offered_qps, seed, worker, 2).between(0.0, 60.0)
        first = np.argmin(np.abs(np.diff(times)[: -len(intended)] - np.diff(intended)[0]))
        part = times[first : first + len(intended)]
        assert np.allclose(np.diff(part), np.diff(intended), atol=1e-6)
        parts.append(part)
    assert not set(parts[0]) & set(parts[1])
    phases = np.sort(np.concatenate(parts) % arrivals.period_s)
    gaps = np.diff([*phases, phases[0] + arrivals.period_s])
    assert gaps.max() >= 0.7 * arrivals.period_s  # both are silent for three quarters


# ---------------------------------------------------------------------- the timers


def timers() -> list[Any]:
    from bench.load import timer

    linux = [timer.DescriptorTimer] if sys.platform == "linux" else []
    return [*linux, timer.LoopTimer]


class Bell:
    """A timer and the times at which it called; `upcoming` is what it arms itself with then."""

    def __init__(self, make: Any, upcoming: list[float]) -> None:
        self.calls: list[float] = []
        self._upcoming = upcoming
        self.timer = make(self._ring)

    def _ring(self) -> None:
        self.calls.append(clock())
        self.timer.arm(self._upcoming.pop(0) if self._upcoming else NEVER)

    def await_call(self, number: int) -> float:
        until(lambda: len(self.calls) >= number)
        return self.calls[number - 1]


def check_a_timer_calls_back_at_its_time_and_not_before() -> None:
    for make in timers():
        due = [clock() + 0.003 * n for n in range(1, 20)]
        bell = Bell(make, due[1:])
        bell.timer.arm(due[0])
        bell.await_call(len(due))
        assert all(called >= at for called, at in zip(bell.calls, due, strict=True))
        bell.timer.close()


def check_a_timer_may_be_armed_anew_and_disarmed() -> None:
    import gevent

    for make in timers():
        bell = Bell(make, [])
        bell.timer.arm(clock() + 2 * PATIENCE_S)
        bell.timer.arm(clock() + 0.01)  # earlier than armed
        bell.await_call(1)
        bell.timer.arm(clock() + 0.01)
        later = clock() + 0.1
        bell.timer.arm(later)  # later than armed
        assert bell.await_call(2) >= later
        bell.timer.arm(clock() - 1)  # past
        bell.await_call(3)
        bell.timer.arm(clock() + 0.01)
        bell.timer.arm(NEVER)
        gevent.sleep(0.05)
        bell.timer.arm(clock() + 0.01)
        bell.timer.close()
        bell.timer.close()
        gevent.sleep(0.05)
        assert len(bell.calls) == 3


def check_a_closed_timer_gives_its_descriptor_back() -> None:
    import gevent

    if sys.platform != "linux":
        return
    gevent.sleep(0.01)
    before = len(os.listdir("/proc/self/fd"))
    for make in 50 * timers():
        timer = make(lambda: None)
        timer.arm(clock() + 1)
        timer.close()
    gevent.sleep(0.01)  # gevent closes descriptors when the loop has let go of them
    assert len(os.listdir("/proc/self/fd")) == before


# ---------------------------------------------------------------------- under plain Locust


GOOD = ("--headless", "-u", "8", "-r", "100", "--pool-size", "3", "--stop-timeout", "10")


def check_bad_values_are_refused_by_the_name_of_their_option() -> None:
    from locust.argument_parser import get_parser

    from bench.load.standalone import _cell
    from bench.load.standalone_open import OpenLoopUser
    from bench.model import PreflightError

    def refusal(*arguments: str) -> str:
        options = get_parser().parse_args(arguments)
        try:
            _cell(OpenLoopUser, options)
        except PreflightError as error:
            return str(error)
        raise AssertionError(f"{arguments} went through")

    bad = {
        "--rate": ("0", "-1", "nan", "inf", "1e9"),
        "--pool-size": ("0", "-3"),
        "--acquire-timeout": ("-1", "nan"),
        "--keys": ("0",),
        "--get-share": ("7",),
        "--peak-to-mean": ("0.9", "nan", "-5"),
        "--period": ("0", "-1", "nan"),
        "--spike-factor": ("-1", "nan"),
        "--spike-at": ("-1", "inf"),
        "--spike-for": ("-1", "nan"),
        "--backlog": ("-1",),
        "--seed": ("-1",),
    }
    for option, values in bad.items():
        for value in values:
            assert refusal(f"{option}={value}").startswith(f"{option} is "), (option, value)
    assert "--trace FILE goes with --arrivals trace" in refusal("--trace", "some")
    assert "--trace FILE goes with --arrivals trace" in refusal("--arrivals", "trace")
    with tempfile.NamedTemporaryFile("w") as file:
        trace = ("--arrivals", "trace", "--trace", file.name)
        assert "is empty" in refusal(*trace)
        file.write("1\n1\n")
        file.flush()
        assert "has no rate" in refusal(*trace)
        file.write("0.5\n")
        file.flush()
        assert "line 3: 0.5 s is earlier" in refusal(*trace)


def check_both_files_name_their_options() -> None:
    from locust.argument_parser import get_parser

    import bench.load.standalone_open as opened  # and with it those of the closed loop

    groups = {
        group.title: {name for each in group._group_actions for name in each.option_strings}
        for group in get_parser(default_config_files=[])._action_groups
    }
    pool = groups["Pool and workload (per worker)"]
    for name, expected in (("closed", pool), ("open", pool | groups[opened.GROUP])):
        listed = Path(f"locustfiles/{name}_loop.py").read_text().partition("there are those")[2]
        assert set(re.findall(r"(--[a-z-]+)", listed.partition("They are fields")[0])) == expected


CHECKS = [name for name in dict(globals()) if name.startswith("check_")]


@pytest.mark.parametrize("name", CHECKS)
def test_open_loop(name: str, redis_server: Any) -> None:
    run_check(__file__, redis_server.url, name)


def locust(*arguments: str, url: str) -> Any:
    return started("locust", "-f", "locustfiles/open_loop.py", *arguments, url=url)


def await_line(process: subprocess.Popen[str], pattern: str) -> None:
    """Reads what it says up to the line that has `pattern`."""
    assert any(re.search(pattern, line) for line in process.stderr or ()), pattern


def totals(text: str) -> dict[str, int]:
    """The figures of the one totals line in `text`."""
    (line,) = re.findall(r"^offered .*; send lag p50 .*, p99 .*$", text, re.MULTILINE)
    return {name: int(count) for name, count in re.findall(r"(\w+) (\d+)[,;]", line)}


def test_alone_its_statistics_are_true_below_a_millisecond(redis_server: Any) -> None:
    before = answered(redis_server.url)
    with locust(*GOOD, "-t", "1s", "--rate", "500", "--json", url=redis_server.url) as process:
        out, err = ended(process)
    assert process.returncode == 0, err
    (entry,) = json.loads(out)
    count = entry["num_requests"]
    looked_first = 1  # whether the server lets us
    assert answered(redis_server.url) - before == looked_first + count
    assert sum(entry["num_reqs_per_sec"].values()) == count > 100
    assert any(0 < float(milliseconds) < 1 for milliseconds in entry["response_times"])
    told = totals(err)
    assert told == {"offered": count, "served": count, "failed": 0, "dropped": 0, "unfinished": 0}
    assert f"latency of {count} requests: p50 " in err
    assert re.search(rf"pool peak \d of 3, \d+ of {count} requests found it empty", err)


def test_what_was_dropped_is_a_failure_in_locusts_statistics(redis_server: Any) -> None:
    rush = ("-t", "1s", "--rate", "200000", "--backlog", "20", "--json")
    with locust(*GOOD, *rush, url=redis_server.url) as process:
        out, err = ended(process)
    assert process.returncode == 1  # Locust's own, where something failed
    (entry,) = json.loads(out)
    told = totals(err)
    assert told["dropped"] == entry["num_failures"] == entry["num_none_requests"] > 0
    assert told["served"] + told["dropped"] == told["offered"] == entry["num_requests"]
    assert sum(entry["response_times"].values()) == told["served"] > 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("--rate", "nan"), ("--trace", "{folder}/absent"), ("--trace", "{folder}")],
)
def test_bad_values_end_it_in_one_line(
    option: str, value: str, redis_server: Any, tmp_path: Path
) -> None:
    arguments = [option, value.format(folder=tmp_path)]
    if option == "--trace":
        arguments += ["--arrivals", "trace"]
    with locust(*GOOD, *arguments, url=redis_server.url) as process:
        out, err = ended(process)
    assert (process.returncode, out) == (2, "")
    (line,) = [line for line in err.splitlines() if "INFO" not in line]
    assert line.startswith("bench: ")


def test_a_trace_ends_the_test(redis_server: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("".join(f"{n / 100}\n" for n in range(50)))
    options = ("--arrivals", "trace", "--trace", str(trace))
    with locust(*GOOD, *options, url=redis_server.url) as process:
        _, err = ended(process)
    assert process.returncode == 0, err
    assert totals(err) == {"offered": 50, "served": 50, "failed": 0, "dropped": 0, "unfinished": 0}

    with Joined(redis_server.url) as cluster:
        master = cluster.master("open_loop", *options, workers=2, users=6)
        workers = [cluster.worker() for _ in range(2)]
        _, err = ended(master)
        said = [ended(worker)[1] for worker in workers]
    assert master.returncode == 0, err
    assert totals(err)["served"] == 50
    assert [totals(text)["served"] for text in said] == [25, 25]


def test_workers_share_the_rate_and_the_master_sums_up(redis_server: Any) -> None:
    load = ("-t", "2s", "--arrivals", "constant", "--rate", "400", "--pool-size", "3", "--json")
    before = answered(redis_server.url)
    with Joined(redis_server.url) as cluster:
        master = cluster.master("open_loop", *load, workers=2, users=8)
        workers = [cluster.worker() for _ in range(2)]
        out, err = ended(master)
        said = [ended(worker)[1] for worker in workers]
    assert [master.returncode, *(each.returncode for each in workers)] == [0, 0, 0], (err, said)
    (entry,) = json.loads(out)
    told, parts = totals(err), [totals(text) for text in said]
    assert told == {name: sum(part[name] for part in parts) for name in told}
    assert told["served"] == told["offered"] == entry["num_requests"]
    looked_first = 2
    assert answered(redis_server.url) - before == looked_first + told["served"]
    assert all(part["offered"] > 50 for part in parts)
    # Half the rate each: the whole rate each would be twice that. They end within 0.5 s.
    assert told["offered"] <= 1.3 * 400 * 2
    assert all("pool peak" in text for text in said)


def test_a_worker_that_comes_late_leaves_again(redis_server: Any) -> None:
    with Joined(redis_server.url) as cluster:
        master = cluster.master("open_loop", "-t", "60s", workers=1, users=8)
        first = cluster.worker()
        await_line(master, "All users spawned")
        late = cluster.worker()
        _, said = ended(late)
        assert late.returncode == 2
        assert "bench: no load sent: this worker joined after the rate was shared out" in said
        assert first.poll() is None
        await_line(master, r"\(index 1\) quit")  # and its users are with the first again
        master.send_signal(signal.SIGINT)
        _, err = ended(master)
        ended(first)
    assert totals(err)["served"] > 0


def test_fewer_users_than_workers_are_refused(redis_server: Any) -> None:
    with Joined(redis_server.url) as cluster:
        master = cluster.master("open_loop", "-t", "60s", workers=2, users=1)
        workers = [cluster.worker() for _ in range(2)]
        _, err = ended(master)
        for worker in workers:
            ended(worker)
    assert master.returncode == 2
    assert "bench: no load sent: users carry the requests, and some process has none" in err


def test_users_may_come_and_go(redis_server: Any) -> None:
    """By the web UI, in mid-test: no arrival is lost, whoever was to carry it."""
    port = free_port()

    def swarm(users: int) -> None:
        form = {"user_count": users, "spawn_rate": 100, "host": "", "rate": 500}
        address = f"http://127.0.0.1:{port}/swarm"
        with urllib.request.urlopen(address, urllib.parse.urlencode(form).encode()) as answer:
            assert json.load(answer)["success"]

    web = ("--web-host", "127.0.0.1", "--web-port", str(port))
    with locust(*web, "--pool-size", "3", url=redis_server.url) as process:
        await_listener(port)
        for users in (12, 2, 0, 5):
            swarm(users)
            await_line(process, rf"\({users} total users\)")
        process.terminate()
        _, err = ended(process)
    told = totals(err)
    assert told["dropped"] == 0
    assert told["unfinished"] <= 5  # carriers at the end, should the machine stall just then
    assert told["failed"] <= 12  # carriers killed, each with one request out at most
    assert told["served"] > 0


def test_a_test_that_ends_before_its_users_are_in_says_why_it_sent_nothing(
    redis_server: Any,
) -> None:
    slow = ("--headless", "-u", "50", "-r", "1", "-t", "1s", "--pool-size", "3")
    with locust(*slow, url=redis_server.url) as process:
        _, err = ended(process)
    assert process.returncode == 0
    assert "no load sent: users were still being spawned; raise -r" in err
    assert set(totals(err).values()) == {0}


def test_two_loops_in_one_test_are_refused(redis_server: Any) -> None:
    both = ("locust", "-f", "locustfiles/open_loop.py,locustfiles/closed_loop.py")
    with started(*both, *GOOD, url=redis_server.url) as process:
        _, err = ended(process)
    assert process.returncode == 2
    assert "bench: a test is one loop: name one file of locustfiles/" in err


def test_the_closed_loop_knows_no_rate() -> None:
    closed = ("locust", "-f", "locustfiles/closed_loop.py", "--headless", "--rate", "5")
    with started(*closed, url=NO_SERVER) as process:
        _, err = ended(process)
    assert process.returncode == 2
    assert "unrecognized arguments: --rate" in err


@pytest.fixture(autouse=True)
def _nothing_left(redis_server: Any) -> Iterator[None]:
    """Whatever the test did, its connections are closed when it is over."""
    control = redis.Redis.from_url(redis_server.url)
    before = len(control.client_list())
    yield
    assert len(control.client_list()) <= before


if __name__ == "__main__":
    URL = sys.argv[1]
    globals()[sys.argv[2]]()
