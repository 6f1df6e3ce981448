# ruff: noqa: PT017  the checks run without pytest
"""The threaded client: its processes against a real server, by `measure` as the runner uses it.

Each `check_*` function runs in a child (`python test_crew.py URL NAME`) and is one test.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

if __name__ == "__main__":
    import bench.load.swarm  # noqa: F401  first: locust patches the process

import dataclasses
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from children import run_check

from bench.load import threaded
from bench.load.telling import answering, as_told
from bench.load.threaded import ClosedCrowd, OpenCrowd
from bench.model import (
    ApparatusLost,
    Arrivals,
    BenchError,
    Cell,
    Observation,
    Outage,
    Settings,
    Workload,
)
from bench.rig.access import Access
from bench.rig.host import answer
from bench.rig.lacking import no_glide

CLOSED = Cell(
    "x", 1, 10, client="glide", measure_s=0.3, warmup_s=0.1, workload=Workload(get_share=0.5)
)
OPEN = Cell(
    "x", 1, 20, client="glide", resp=2, loop="open", offered_qps=500.0, arrivals=Arrivals(),
    rtt_s=0.002, measure_s=0.5, warmup_s=0.1,
)  # fmt: skip


@contextmanager
def opened(*cells: Cell, processes: int = 1, access: Access | None = None) -> Iterator[Any]:
    from bench.load.crew import Crew
    from bench.rig.rig import Rig

    with (
        tempfile.TemporaryFile() as log,
        Rig(Settings(), list(cells)) as rig,
        Crew(processes, max(c.concurrency for c in cells), access or rig.access, log) as crew,
    ):
        yield rig, crew


def measured(rig: Any, crew: Any, cell: Cell) -> Observation:
    from bench.load.measure import measure

    return measure(rig, crew, cell)


def failed_gates(seen: Observation) -> list[Any]:
    """All but those that a busy machine can fail with good reason."""
    excused = ("settled", "send_lag")
    return [g for g in seen.gates if g.passed is False and g.name not in excused]


def gate(seen: Observation, name: str) -> Any:
    return next(g for g in seen.gates if g.name == name)


def assert_whole(seen: Observation) -> None:
    assert not failed_gates(seen)
    assert gate(seen, "operations").figure == 0
    assert seen.operations == (seen.server_operations or 0) > 0
    assert seen.foreign_operations == 0
    assert seen.errors == seen.timeouts == 0
    assert seen.connections_opened == 1
    assert seen.connect_mean_s
    assert seen.pool_empty_share == 0
    assert seen.acquire_mean_s == 0
    assert seen.client_cpu_us_per_op


# ---------------------------------------------------------------------- in a child each


def check_both_loops_pass_their_gates_over_one_connection() -> None:
    kept = dataclasses.replace(OPEN, keep_requests=True)
    with opened(CLOSED, kept) as (rig, crew):
        closed, open_ = measured(rig, crew, CLOSED), measured(rig, crew, kept)
        again = measured(rig, crew, CLOSED)
    for seen in (closed, open_, again):
        assert_whole(seen)
    alone = open_.server_connections_peak - 1  # what the rig itself has open
    assert closed.server_connections_peak == again.server_connections_peak == alone + 1
    assert 9 < closed.in_flight_mean <= 10 == closed.in_flight_peak
    assert closed.scheduled is None
    assert open_.scheduled
    assert open_.in_flight_mean < 10
    assert open_.latency_mean_s > 0.002
    assert sum(row["requests"] for row in open_.series if row["source"] == "workers") > 100
    (rows,) = (np.frombuffer(part).reshape(-1, 4) for part in open_.requests)
    assert (np.diff(rows, axis=1) >= 0).all()
    assert (rows[:, 1] == rows[:, 2]).all()
    assert "in_flight" in open_.histograms


def check_processes_share_the_load_and_rest_where_a_cell_needs_fewer() -> None:
    two = dataclasses.replace(CLOSED, workers=2, concurrency=11)
    with opened(two, processes=2) as (rig, crew):
        seen, one = measured(rig, crew, two), measured(rig, crew, CLOSED)
        assert len(crew.pids) == 2
    assert not failed_gates(seen)
    assert [pod.in_flight_peak for pod in seen.pods] == [6, 5]
    assert seen.operations == seen.server_operations
    assert seen.connections_opened == 2
    assert one.server_connections_peak == seen.server_connections_peak - 1


def check_a_process_lost_while_it_measures_is_missed_and_the_rest_kept() -> None:
    two = dataclasses.replace(CLOSED, workers=2, measure_s=1.0)
    with opened(two, processes=2) as (rig, crew):
        crew.prepare(two, None, seed=1)
        crew.enter(two)
        running = crew.start(two)
        time.sleep(0.2)
        os.kill(crew.pids[1], signal.SIGKILL)
        (share,) = crew.collect(running)
        assert share["worker"] == 0
        assert "threaded client 2" in str(crew.loss(1))
        assert "was killed by signal 9" in str(crew.loss(1))
        for work in (crew.check, lambda: measured(rig, crew, two)):
            try:
                work()
            except ApparatusLost as loss:
                assert "threaded client 2" in str(loss)
            else:
                raise AssertionError("a dead process went unnoticed")


def check_the_last_process_lost_is_said() -> None:
    with opened(CLOSED) as (_, crew):
        crew.prepare(CLOSED, None, seed=1)
        crew.enter(CLOSED)
        running = crew.start(CLOSED)
        os.kill(crew.pids[0], signal.SIGKILL)
        try:
            crew.collect(running)
        except ApparatusLost as loss:
            assert "threaded client 1" in str(loss)
        else:
            raise AssertionError("a dead process went unnoticed")


def check_a_process_that_hangs_is_given_up() -> None:
    from bench.load import crew as module

    patience: Any = module
    patience.PREPARE_TIMEOUT_S = 0.3
    with opened(CLOSED) as (_, crew):
        os.kill(crew.pids[0], signal.SIGSTOP)
        try:
            crew.prepare(CLOSED, None, seed=1)
        except ApparatusLost as loss:
            assert "1 of 1 threaded clients did not answer in time" in str(loss)
        else:
            raise AssertionError("a process that hangs was waited for")
        finally:
            os.kill(crew.pids[0], signal.SIGCONT)


def check_a_server_that_is_stopped_a_while_fails_requests_and_hangs_nobody() -> None:
    stopped = dataclasses.replace(
        OPEN, rtt_s=0.0, measure_s=6.0, outage=Outage("stop", 1.8, 2.7), concurrency=5
    )
    with opened(stopped) as (rig, crew):
        seen = measured(rig, crew, stopped)
        after = measured(rig, crew, CLOSED)
    assert seen.errors >= 5  # who was out then; glide gives up after 2 s
    assert "TimeoutError" in seen.pods[0].failures
    assert seen.in_flight_peak == 5
    assert gate(seen, "operations").passed
    assert_whole(after)


def check_a_server_that_dies_fails_requests_and_hangs_nobody() -> None:
    with opened(CLOSED) as (rig, crew):
        crew.prepare(CLOSED, None, seed=1)
        crew.enter(CLOSED)
        running = crew.start(CLOSED)
        time.sleep(0.1)
        os.kill(rig.server.pid, signal.SIGKILL)
        (share,) = crew.collect(running)
        assert share["errors"] > 0
        assert sum(share["failures"].values()) == share["errors"]
        try:
            crew.close_pools()
            crew.prepare(CLOSED, None, seed=1)
        except BenchError as failure:
            assert not isinstance(failure, ApparatusLost)  # the process is well
            assert "threaded client 1 failed: " in str(failure)
            assert "Traceback" not in str(failure)
        else:
            raise AssertionError("there was no server to connect to")
        crew.check()


def check_passwords_and_tls_are_the_cells() -> None:
    """The ACL user of the suite may not send INFO, which glide connects with."""
    brief = dataclasses.replace(CLOSED, measure_s=0.1)
    cells = [
        dataclasses.replace(brief, auth="password"),
        brief,
        dataclasses.replace(brief, auth="password", tls="full"),
    ]
    with opened(*cells) as (rig, crew):
        for cell in cells:
            seen = measured(rig, crew, cell)
            assert not failed_gates(seen)
            assert seen.operations == (seen.server_operations or 0) > 0
        refused = dataclasses.replace(brief, auth="acl")
        try:
            measured(rig, crew, refused)
        except BenchError as failure:
            assert "threaded client 1 failed: ClosingError" in str(failure)
        else:
            raise AssertionError("it connected as the wrong user")


def check_nothing_is_left_behind() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with opened(CLOSED) as (rig, crew):
            measured(rig, crew, CLOSED)
            (pid,) = crew.pids
            threads = len(os.listdir(f"/proc/{pid}/task")) if Path("/proc").exists() else 0
            assert threads < 10  # the cell's ten have ended
            crew.close_pools()
            crew.close()
            crew.close()
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                pass
            else:
                raise AssertionError("the process outlives its crew")
        assert os.listdir(folder) == []
        os.chdir("/")


CHECKS = sorted(name for name in dict(globals()) if name.startswith("check_"))


@pytest.mark.parametrize("name", CHECKS)
def test_crew(name: str, redis_server: Any) -> None:
    if why := no_glide():
        pytest.skip(why)
    run_check(__file__, redis_server.url, name)


# ---------------------------------------------------------------------- without a server


def test_the_process_brings_neither_gevent_nor_locust() -> None:
    said = "import sys, bench.load.threaded; print({'gevent', 'locust'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def crowd(cell: Cell, call: Any, users: int, seconds: float) -> Any:
    made = (ClosedCrowd if cell.loop == "closed" else OpenCrowd)(cell, call, users, 1, 0)
    made.begin()
    time.sleep(seconds)
    made.stop(time.perf_counter())
    return made


def open_cell(**arrivals: Any) -> Cell:
    return dataclasses.replace(OPEN, rtt_s=0.0, arrivals=Arrivals(**arrivals))


def test_the_count_in_use_is_that_of_the_record() -> None:
    cell = dataclasses.replace(CLOSED, workload=Workload())
    made = ClosedCrowd(cell, lambda _: time.sleep(0.005), 4, 1, 0)
    made.begin()
    time.sleep(0.05)
    before, began = made.used_seconds()
    time.sleep(0.3)
    after, ended = made.used_seconds()
    made.stop(time.perf_counter())
    figures = made.recorder.window(began, ended, "closed")
    assert after - before == pytest.approx(figures["held_s"], rel=0.01)
    assert made.peak(began, ended) == 4


def test_failures_are_counted_by_kind_and_are_in_use_as_well() -> None:
    def refuse(_: Any) -> None:
        time.sleep(0.01)
        raise ConnectionError("no way")

    made = crowd(CLOSED, refuse, users=3, seconds=0.2)
    assert made.recorder.error_samples == {"ConnectionError: no way": made.recorder.errors}
    assert made.recorder.errors >= 3
    assert sum(made.recorder.operations().values()) == 0
    assert made.peak(0.0, time.perf_counter()) == 3
    assert made.used_seconds()[0] >= 0.01 * made.recorder.errors


def test_every_arrival_is_served_once_and_none_before_its_time() -> None:
    made = crowd(open_cell(), lambda _: None, users=5, seconds=0.4)
    rows = made.recorder.rows(since=made._began)
    assert len(rows) == made.offered(made._began, made._stops_at)["scheduled"] > 100
    assert (rows[:, 1] >= rows[:, 0]).all()
    assert np.unique(rows[:, 0]).size == len(rows)


def test_a_trace_ends_and_its_carriers_with_it(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("0\n0.01\n0.02\n")
    made = crowd(open_cell(process="trace", trace=str(trace)), lambda _: None, users=2, seconds=0.2)
    assert len(made.recorder.rows(0.0)) == 3


def test_a_carrier_that_sleeps_for_a_late_arrival_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threaded, "DRAIN_TIMEOUT_S", 2.0)
    seldom = dataclasses.replace(open_cell(process="constant"), offered_qps=0.01)
    made = crowd(seldom, lambda _: None, users=3, seconds=0.1)  # else it raises
    assert not any(thread.is_alive() for thread in made._threads)


def test_a_backlog_is_abandoned_and_a_request_that_hangs_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threaded, "DRAIN_S", 0.1)
    monkeypatch.setattr(threaded, "DRAIN_TIMEOUT_S", 0.5)
    made = crowd(open_cell(), lambda _: time.sleep(0.05), users=1, seconds=0.5)
    assert len(made.recorder.rows(0.0)) < made.offered(made._began, made._stops_at)["scheduled"]
    free = threading.Event()
    with pytest.raises(BenchError, match="still out"):
        crowd(open_cell(), lambda _: free.wait(5), users=1, seconds=0.1)
    free.set()


def test_bytes_pass_the_channel_and_failures_are_told_in_words() -> None:
    def fail() -> dict[str, Any]:
        raise BenchError("no, thanks")

    def stumble() -> dict[str, Any]:
        raise ZeroDivisionError

    sent = {"rows": b"\x00\xff", "series": [{"histograms": {"latency": b"HIST"}}], "n": 1}
    works = {"give": answering(lambda: sent), "fail": answering(fail), "err": answering(stumble)}

    def ask(name: str) -> Any:
        import json

        return as_told(json.loads(answer(json.dumps({"command": name}).encode(), works)))

    assert ask("give") == sent
    assert ask("fail") == {"failure": "no, thanks"}
    assert "ZeroDivisionError" in ask("err")["failure"]


if __name__ == "__main__":
    globals()[sys.argv[2]]()
