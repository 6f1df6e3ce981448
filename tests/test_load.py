# ruff: noqa: PT017  the checks run without pytest
"""Clients, users and Locust's swarm against a real server, in child processes patched for gevent.

Each `check_*` function runs in a child (`python test_load.py URL NAME`) and is one test here.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

if __name__ == "__main__":
    import bench.load.swarm as swarm_module  # first: locust patches the process

import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import redis
from children import (
    NO_SERVER,
    Joined,
    answered,
    assert_lost,
    await_listener,
    ended,
    free_port,
    run_check,
    started,
)
from hdrh.histogram import HdrHistogram

from bench.load import worker as worker_module
from bench.model import Arrivals, BenchError, Cell, PreflightError, Settings, Workload
from bench.rig.access import Access

URL = ""
CELL = Cell("test", 10, 20, measure_s=0.3, warmup_s=0.1)


def open_pool(**settings: Any) -> Any:
    from bench.load import clients

    return clients.open_pool(dataclasses.replace(CELL, **settings), Access(URL), None)


def exchange(pool: Any, *command: Any) -> Any:
    import gevent
    import hiredis

    connection = pool.get_connection()
    try:
        return connection.exchange(hiredis.pack_command(command), gevent.getcurrent().switch)
    finally:
        pool.release(connection)


# ---------------------------------------------------------------------- the lean connection


def check_lean_speaks_both_protocols() -> None:
    for resp in (2, 3):
        pool = open_pool(resp=resp)
        assert exchange(pool, "SET", f"lean:{resp}", b"value") in (b"OK", "OK")
        assert exchange(pool, "GET", f"lean:{resp}") == b"value"
        assert exchange(pool, "GET", "lean:absent") is None
        assert pool.get_connection().protocol == resp
        pool.close()


def check_lean_carries_values_beyond_every_buffer() -> None:
    value = os.urandom(3_000_000)
    pool = open_pool()
    assert exchange(pool, "SET", "lean:big", value) in (b"OK", "OK")
    assert exchange(pool, "GET", "lean:big") == value
    redis.Redis.from_url(URL).delete("lean:big")
    pool.close()


def check_lean_returns_error_replies_and_the_session_raises_them() -> None:
    import hiredis

    from bench.load.clients import LeanSession

    pool = open_pool()
    assert isinstance(exchange(pool, "NOSUCH"), hiredis.ReplyError)
    try:
        LeanSession(pool).call(hiredis.pack_command(("NOSUCH",)))
    except redis.ResponseError as error:
        assert "unknown command" in str(error)
    else:
        raise AssertionError("an error reply was taken for a success")
    assert pool.stats().count_used == 0
    pool.close()


def check_a_connection_cut_by_the_server_fails_one_request_and_heals() -> None:
    pool = open_pool(pool_size=1)
    me = exchange(pool, "CLIENT", "ID")
    redis.Redis.from_url(URL).client_kill_filter(_id=me)
    try:
        exchange(pool, "GET", "lean:1")
    except redis.ConnectionError:
        pass
    else:
        raise AssertionError("a dead connection answered")
    assert exchange(pool, "GET", "lean:absent") is None
    assert pool.stats().count_used == 0
    pool.close()


def check_a_user_killed_between_write_and_read_does_not_leave_its_reply() -> None:
    import gevent

    admin = redis.Redis.from_url(URL)
    admin.set("lean:a", "A")
    pool = open_pool(pool_size=1)
    exchange(pool, "GET", "lean:a")
    admin.client_pause(200)
    user = gevent.spawn(exchange, pool, "GET", "lean:a")
    gevent.sleep(0.05)
    user.kill()
    assert exchange(pool, "GET", "lean:absent") is None  # and not the killed user's b"A"
    assert pool.stats().count_used == 0
    pool.close()


def check_both_clients_report_clocks_in_order() -> None:
    import hiredis

    from bench.load.clients import SESSIONS

    commands = {"lean": hiredis.pack_command(("GET", "x")), "redis-py": ("GET", "x")}
    for client, command in commands.items():
        pool = open_pool(client=client)
        before = time.perf_counter()
        acquired, done = SESSIONS[client](pool).call(command)
        assert before <= acquired <= done <= time.perf_counter()
        pool.close()


# ---------------------------------------------------------------------- the closed loop


def job_of(cell: Cell, pool: Any, users: int, seconds: float) -> Any:
    import gevent

    from bench.load.closed_loop import ClosedLoop

    job = ClosedLoop(cell, pool, users, seed=1)
    greenlets = [gevent.spawn(job.run) for _ in range(users)]
    gevent.sleep(seconds)
    job.stop(time.perf_counter())
    assert job.drained.wait(10)
    gevent.joinall(greenlets, raise_error=True)
    return job


def calls(name: str) -> int:
    stats = redis.Redis.from_url(URL).info("commandstats")
    return int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"])


def check_the_loop_counts_what_the_server_counts() -> None:
    for client in ("lean", "redis-py"):
        cell = dataclasses.replace(CELL, client=client, workload=Workload(keys=50, get_share=0.7))
        pool = open_pool(client=client, pool_size=3)
        before = calls("get"), calls("set")
        job = job_of(cell, pool, users=10, seconds=0.4)
        done = job.recorder.operations()
        assert (calls("get") - before[0], calls("set") - before[1]) == (done["GET"], done["SET"])
        assert 0.6 < done["GET"] / sum(done.values()) < 0.8
        stats = pool.stats()
        assert stats.requests == sum(done.values())
        assert stats.peak_used == 3
        assert job.recorder.errors == job.recorder.timeouts == 0
        pool.close()
    for key in range(50):
        redis.Redis.from_url(URL).delete(f"bench:{key}")


def check_giving_up_in_line_is_a_timeout_and_not_an_error() -> None:
    cell = dataclasses.replace(CELL, pool_size=1, acquire_timeout_s=0.02)
    pool = open_pool(pool_size=1, acquire_timeout_s=0.02)
    held = pool.get_connection()
    job = job_of(cell, pool, users=3, seconds=0.2)
    pool.release(held)
    assert job.recorder.timeouts >= 3
    assert job.recorder.errors == 0
    pool.close()


# ---------------------------------------------------------------------- the swarm


def measured(workers: int, cells: list[Cell]) -> list[Any]:
    from bench.load.measure import measure
    from bench.rig.rig import Rig

    users = max(cell.concurrency for cell in cells)
    with (
        tempfile.TemporaryFile() as log,
        Rig(Settings(), cells) as rig,
        swarm_module.Swarm(workers, users, rig.access, log) as swarm,
    ):
        return [measure(rig, swarm, cell, 1, 1, 1) for cell in cells]


def failed_gates(observation: Any) -> list[Any]:
    """All but the one that a stall of the machine can fail with good reason."""
    return [g for g in observation.gates if g.passed is False and g.name != "settled"]


def check_cells_pass_their_gates_and_name_their_limit() -> None:
    pool, wide, lazy, paired, fifo = (
        dataclasses.replace(CELL, rtt_s=0.02),
        dataclasses.replace(CELL, pool_size=50, rtt_s=0.02),
        dataclasses.replace(CELL, pool_size=200, opening="lazy", rtt_s=0.0),
        dataclasses.replace(CELL, client="redis-py", resp=2, rtt_s=0.02),
        dataclasses.replace(CELL, pool_size=50, order="fifo", rtt_s=0.02),
    )
    seen = measured(1, [pool, wide, lazy, paired, fifo])
    for observation in seen:
        assert not failed_gates(observation)
        assert observation.operations == observation.server_operations > 0
        assert observation.errors == observation.timeouts == 0
        assert observation.client_cpu_s > 0
        assert observation.server_cpu_us_per_op > 0
        assert observation.server_client_memory_bytes > 0
    bound, free, opened, slow, _ = seen
    assert abs(bound.in_flight_mean / 10 - 1) < 0.03
    assert bound.pool_empty_share > 0.9
    assert bound.qps <= 1.01 * 10 / 0.02
    assert free.pool_empty_share == 0
    assert free.in_flight_mean > 15  # of 20 users, where the other pool lets 10 through
    assert bound.acquire_mean_s > 0.01 > free.acquire_mean_s
    assert opened.server_connections_peak < 30  # lazy: no more than there are users
    assert free.server_connections_peak >= 50
    assert free.link_fds_peak >= 100
    assert abs(slow.in_flight_mean / 10 - 1) < 0.03


def check_two_workers_add_up() -> None:
    cell = dataclasses.replace(CELL, workers=2, concurrency=21, pool_size=5, rtt_s=0.02)
    (seen,) = measured(2, [cell])
    assert not failed_gates(seen)
    assert abs(seen.in_flight_mean / 10 - 1) < 0.03  # five connections in each
    assert seen.operations == seen.server_operations
    assert seen.server_connections_peak >= 10


STAIRCASE = dataclasses.replace(
    CELL, pool_size=30, staircase=(2, 4), workers=3, concurrency=3 * 45, loop="open",
    offered_qps=600.0, arrivals=Arrivals(), rtt_s=0.01, keep_requests=True, quiet=True,
    measure_s=1.0,
)  # fmt: skip


def check_a_staircase_measures_pools_of_several_sizes_in_the_same_moments() -> None:
    (seen,) = measured(3, [STAIRCASE])
    assert [pod.pool_size for pod in seen.pods] == [2, 4, 30]
    tight, middle, control = seen.pods
    assert tight.pool_empty_share > middle.pool_empty_share > control.pool_empty_share == 0
    assert tight.pool_empty_share >= tight.long_wait_share > 0.2
    assert tight.in_flight_mean < 2.01 < control.in_flight_mean * 1.5
    assert abs(sum(pod.in_flight_mean for pod in seen.pods) / seen.in_flight_mean - 1) < 0.01
    assert sum(pod.requests for pod in seen.pods) == round(seen.served_share * seen.scheduled)
    assert seen.server_connections_peak >= 2 + 4 + 30
    assert {gate.name for gate in seen.gates} >= {"cores", "null_control"}


def check_a_staircase_tells_of_the_control_alone_what_was_held_and_when() -> None:
    (seen,) = measured(3, [STAIRCASE])
    held = HdrHistogram.decode(seen.histograms["in_flight"])
    control = seen.pods[-1]
    assert held.get_total_count() == pytest.approx(seen.measured_s * 1e6, rel=0.01)
    assert held.get_mean_value() == pytest.approx(control.in_flight_mean, rel=0.05)
    assert held.get_max_value() <= control.in_flight_peak
    (rows,) = seen.requests  # the control's
    times = np.frombuffer(rows).reshape(-1, 4)
    assert (
        np.count_nonzero((times[:, 0] >= 0) & (times[:, 0] < seen.measured_s)) == control.requests
    )


def check_a_cell_lets_workers_rest_that_it_does_not_need() -> None:
    alone = dataclasses.replace(CELL, pool_size=6, rtt_s=0.01)
    _, rested = measured(3, [STAIRCASE, alone])
    assert not failed_gates(rested)
    assert [(pod.worker, pod.pool_size) for pod in rested.pods] == [(0, 6)]
    assert rested.workers_lost == 0
    assert rested.server_connections_peak < 6 + 30  # the others' 4 and 30 are closed


def check_the_requests_that_find_the_pool_empty_are_placed_in_time() -> None:
    tight = dataclasses.replace(CELL, pool_size=2, rtt_s=0.005)
    (seen,) = measured(1, [tight])
    rows = [row for row in seen.series if row["source"] == "workers"]
    assert all(row["empty"] > 0 for row in rows)
    found, borrows = (sum(row[name] for row in rows) for name in ("empty", "borrows"))
    assert found / borrows == pytest.approx(seen.pool_empty_share, rel=0.01)


def check_connections_settle_once_and_not_in_every_cell() -> None:
    """The server tells how old the pool's connections are when the load comes."""
    from bench.rig.rig import Rig

    settled = [dataclasses.replace(CELL, settle_s=2.0, arm=arm) for arm in "ab"]
    with (
        tempfile.TemporaryFile() as log,
        Rig(Settings(), settled) as rig,
        swarm_module.Swarm(1, 20, rig.access, log) as swarm,
    ):
        ages = []
        for cell in settled:
            swarm.prepare(cell, None, seed=1)
            with redis.Redis.from_url(rig.server.url) as asking:
                known = asking.client_list()
            ages.append({each["id"]: int(each["age"]) for each in known})
    settled_ids = {name for name, age in ages[0].items() if age >= 2}
    assert len(settled_ids) >= CELL.pool_size
    assert settled_ids <= set(ages[1])  # the same ones are still there,
    assert max(ages[1][name] - ages[0][name] for name in settled_ids) < 2  # not waited for again


def check_sides_have_servers_of_their_own_or_take_turns_on_one() -> None:
    from bench import runner
    from bench.store import Store

    class Nobody:
        def starts(self, cells: int, seconds: float) -> None: ...
        def measures(self, cell: Cell) -> None: ...
        def has(self, observation: Any, seconds: float) -> None: ...

    small = dataclasses.replace(CELL, pool_size=3, concurrency=3, rtt_s=0.005)
    large = dataclasses.replace(small, pool_size=150, side=1)
    cells = tuple(
        dataclasses.replace(cell, arm=arm) for arm in ("one", "two") for cell in (small, large)
    )
    block = runner.Block(1, 1, cells)
    for url in (None, URL):
        with tempfile.TemporaryDirectory() as folder:
            store = Store.create(Path(folder) / "run", {"settings": {"profile": "smoke"}})
            runner._run_block(Settings(url=url), block, list(cells), store, Nobody())
            store.finish("complete")
            seen = Store.open(Path(folder) / "run").cells()
        assert len(seen) == 4
        # "measured once more" doubles none: all are valid, and no operation is another side's.
        assert seen["valid"].all(), seen["invalid_reasons"].tolist()
        peaks = seen.groupby("pool_size")["server_connections_peak"].agg(["min", "max"])
        assert peaks.loc[3, "max"] < 50
        assert peaks.loc[150, "min"] >= 150


def check_a_script_keeps_the_server_busy_and_is_counted() -> None:
    idle = dataclasses.replace(CELL, concurrency=5)
    busy = dataclasses.replace(idle, workload=Workload(script_loops=50_000))
    for client in ("lean", "redis-py"):
        plain, scripted = measured(1, [dataclasses.replace(cell, client=client)
                                       for cell in (idle, busy)])  # fmt: skip
        assert scripted.operations == scripted.server_operations > 0
        assert not failed_gates(scripted)
        assert scripted.server_cpu_us_per_op > 3 * plain.server_cpu_us_per_op


def check_a_dead_worker_is_noticed_and_named() -> None:
    from bench.rig.rig import Rig

    cell = dataclasses.replace(CELL, measure_s=30.0)
    with (
        tempfile.TemporaryFile() as log,
        Rig(Settings(), [cell]) as rig,
        swarm_module.Swarm(1, 20, rig.access, log) as swarm,
    ):
        swarm.prepare(cell, None, seed=1)
        swarm.enter(cell)
        running = swarm.start(cell)
        time.sleep(0.3)
        os.kill(swarm.pids[0], signal.SIGKILL)
        assert_lost(lambda: swarm.collect(running), "worker 1 of 1 ended", "signal 9")


def check_a_workers_failure_reaches_the_master() -> None:
    with (
        tempfile.TemporaryFile() as log,
        swarm_module.Swarm(1, 5, Access("redis://127.0.0.1:1"), log) as swarm,
    ):
        try:
            swarm.prepare(CELL, None, seed=1)
        except BenchError as error:
            assert "5 users were spawned, the cell needs 20" in str(error)
        else:
            raise AssertionError("too few users went unnoticed")
        try:
            swarm.prepare(dataclasses.replace(CELL, concurrency=5), None, seed=1)
        except BenchError as error:
            assert "refused" in str(error)
        else:
            raise AssertionError("a server that is not there went unnoticed")


# ---------------------------------------------------------------------- under plain Locust


def check_the_current_rate_is_that_of_the_seconds_in_which_requests_were_done() -> None:
    import numpy as np
    from locust.stats import RequestStats

    from bench.load.locust_stats import latency_line, log

    stats = RequestStats()
    stats.total.start_time -= 30
    done = time.perf_counter() - np.arange(0, 20, 0.1)
    rows = np.stack([done - 0.00025, done - 0.0002, done - 0.0001, done], axis=1)
    log(stats, "some loop", rows, {})
    assert abs(stats.total.current_rps - 10) < 0.5
    for _ in range(2):
        log(stats, "some loop", rows[:0], {"this": 20, "that": 5})
    assert stats.total.num_requests == 250
    assert stats.total.num_none_requests == stats.total.num_failures == 50
    assert sum(stats.total.num_fail_per_sec.values()) == 50
    errors = {error.error: error.occurrences for error in stats.errors.values()}
    assert errors == {"this": 40, "that": 10}
    assert stats.total.fail_ratio == 0.2
    told = latency_line(stats)
    assert "of 200 requests: p50 0.250 ms, p90 0.250 ms, p99 unknown (too few), " in told


CHECKS = [name for name in dict(globals()) if name.startswith("check_")]


@pytest.mark.parametrize("name", CHECKS)
def test_load(name: str, redis_server: Any) -> None:
    run_check(__file__, redis_server.url, name)


def locust(*arguments: str, url: str) -> Any:
    return started("locust", "-f", "locustfiles/closed_loop.py", *arguments, url=url)


@pytest.fixture
def joined(redis_server: Any) -> Iterator[Any]:
    """Starts a master of the closed loop with four users, and a worker."""
    with Joined(redis_server.url) as cluster:

        def start(*options: str) -> list[subprocess.Popen[str]]:
            master = cluster.master("closed_loop", *options, workers=1, users=4)
            return [master, cluster.worker()]

        yield start


def test_alone_its_statistics_are_true_below_a_millisecond(redis_server: Any) -> None:
    before = answered(redis_server.url)
    load = ("--headless", "-u", "4", "-r", "4", "-t", "1s", "--pool-size", "3", "--json")
    with locust(*load, "--stop-timeout", "10", url=redis_server.url) as process:
        out, err = ended(process)
    assert process.returncode == 0, err
    (entry,) = json.loads(out)
    looked_first = 1  # whether the server lets us
    assert answered(redis_server.url) - before == looked_first + entry["num_requests"]
    assert sum(entry["num_reqs_per_sec"].values()) == entry["num_requests"] > 0
    assert any(0 < float(milliseconds) < 1 for milliseconds in entry["response_times"])
    assert f"latency of {entry['num_requests']} requests: p50 " in err
    assert "pool peak 3 of 3" in err


def test_a_worker_takes_its_masters_options_and_hands_it_its_statistics(joined: Any) -> None:
    master, worker = joined("-t", "1s", "--pool-size", "3", "--json")
    out, err = ended(master)
    _, said = ended(worker)
    assert (master.returncode, worker.returncode) == (0, 0), err + said
    (entry,) = json.loads(out)
    line = re.search(r"pool peak 3 of 3, \d+ of (\d+) requests found it empty", said)
    assert line, said
    assert int(line[1]) == entry["num_requests"]
    assert any(0 < float(milliseconds) < 1 for milliseconds in entry["response_times"])
    assert f"latency of {entry['num_requests']} requests: p50 " in err


def test_an_interrupted_worker_leaves_its_master_and_the_server(
    joined: Any, redis_server: Any
) -> None:
    control = redis.Redis.from_url(redis_server.url)
    before = len(control.client_list())
    master, worker = joined("-t", "60s", "--pool-size", "30")
    for line in master.stderr:
        if "All users spawned" in line:
            break
    assert len(control.client_list()) == before + 30
    worker.send_signal(signal.SIGINT)
    ended(worker)
    _, err = ended(master)
    assert "The last worker quit" in err
    assert len(control.client_list()) == before


def test_a_worker_that_cannot_open_its_pool_says_so_and_leaves(joined: Any) -> None:
    master, worker = joined("-t", "60s", "--pool-size", "5000")
    _, said = ended(worker)
    assert worker.returncode == 2
    assert "bench: no load sent: " in said
    assert "The last worker quit" in ended(master)[1]


def test_a_worker_without_a_master(redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with started("bench", "worker", "--port", str(free_port()), url=redis_server.url) as process:
        _, err = ended(process)
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert err.startswith("bench: no Locust master at ")
    monkeypatch.setattr(worker_module, "MASTER_TIMEOUT_S", 0.2)
    with pytest.raises(PreflightError, match="no Locust master"):  # listens, and says nothing
        worker_module.require_master("127.0.0.1", redis_server.port)


def test_a_worker_without_its_server() -> None:
    with started("bench", "worker", url=NO_SERVER) as process:
        _, err = ended(process)
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert "nothing listens there" in err


def test_a_web_ui_without_its_server_does_not_open() -> None:
    with locust(
        "--web-host", "127.0.0.1", "--web-port", str(free_port()), url=NO_SERVER
    ) as process:
        _, err = ended(process)
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith(f"bench: server {NO_SERVER}: nothing listens there")


def test_a_web_ui_outlives_a_test_that_is_refused(redis_server: Any) -> None:
    port = free_port()

    def swarm(pool_size: int) -> Any:
        form = {"user_count": 4, "spawn_rate": 4, "host": "", "pool_size": pool_size}
        address = f"http://127.0.0.1:{port}/swarm"
        with urllib.request.urlopen(address, urllib.parse.urlencode(form).encode()) as answer:
            return json.load(answer)

    with locust(
        "--web-host", "127.0.0.1", "--web-port", str(port), url=redis_server.url
    ) as process:
        await_listener(port)
        refused = swarm(pool_size=0)
        assert not refused["success"]
        assert refused["message"].startswith("--pool-size is 0: it must lie between")
        assert swarm(pool_size=3)["success"]
        assert any("All users spawned" in line for line in process.stderr or ())
        process.terminate()
        _, err = ended(process)
    assert process.returncode == 0
    assert "pool peak 3 of 3" in err


def test_a_name_is_looked_up_once_for_an_address_that_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a name's two addresses only the second, of IPv6, answers."""
    from bench.load import clients

    stream = (socket.SOCK_STREAM, 0, "")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        found = [
            (socket.AF_INET, *stream, ("127.0.0.1", port)),
            (socket.AF_INET6, *stream, ("::1", port, 0, 0)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
        pool = clients.open_pool(CELL, Access(f"redis://some-name:{port}"), None)
        assert pool.connection_kwargs["host"] == "::1"
        connection = pool.make_connection()._connect()
        assert connection.getpeername()[:2] == ("::1", port)
        connection.close()


def test_users_are_shared_out_evenly() -> None:
    script = "from bench.load.swarm import shares; print(shares(10, 4), shares(3, 4))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert said.stdout.strip() == "[3, 3, 2, 2] [1, 1, 1, 0]"


if __name__ == "__main__":
    URL = sys.argv[1]
    globals()[sys.argv[2]]()
