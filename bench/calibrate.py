"""What the instrument itself costs and carries, beside other tools, measured in one sitting.

Other tools' rates come from the server's own command counter, so their arithmetic need not be
trusted; ours are the workers' counts, which the operations gate holds against that counter. This
machine's speed drifts by the hour: the tools take turns, round after round, and only ratios within
a round are compared.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from time import perf_counter as clock
from typing import Any

import bench.load.swarm  # noqa: F401  # isort: skip  # patches for gevent: before all that imports ssl

import psutil
from redis.connection import BlockingConnectionPool, parse_url

from bench.load.clients import open_pool
from bench.load.measure import measure
from bench.load.recorder import Recorder
from bench.load.swarm import Swarm
from bench.model import BenchError, Cell, Observation, Settings
from bench.rig.host import end, manifest, raise_fd_limit, spawn
from bench.rig.rig import Rig

NAME = "calibrate"
REFERENCE = Path(__file__).resolve().parents[1] / "results" / "reference" / "run.json"
ROUNDS = 3
MICRO_LOOPS = 50_000
SETTLE_S = 1.0
ATTEMPTS = 4  # a machine that is shared changes its speed within a cell now and then


@dataclass(frozen=True, slots=True)
class Row:
    """One figure with its unit and, where the project set itself one, what it should reach."""

    what: str
    value: float | None
    unit: str
    reach: str = ""
    reached: bool | None = None
    note: str = ""


def at_least(what: str, value: float, unit: str, limit: float, note: str = "") -> Row:
    return Row(what, value, unit, f"≥ {limit:g}", value >= limit, note)


def at_most(what: str, value: float, unit: str, limit: float, note: str = "") -> Row:
    return Row(what, value, unit, f"≤ {limit:g}", value <= limit, note)


def calibrate(seconds: float, output: Path) -> dict[str, Any]:
    """Measure everything and store it as JSON at `output`. Blocks for about three minutes.

    Raises PreflightError, ApparatusLost as a run does.
    """
    raise_fd_limit(12_000)
    rows: list[Row] = []
    cells = [Cell(NAME, 5000, 1000, rtt_s=0.001)]
    with tempfile.TemporaryFile() as log, Rig(Settings(), cells) as rig:
        rows += borrow_rows(rig)
        rows += recording_rows()
        with Swarm(1, 1000, rig.server.url, log) as swarm:
            rows += rate_rows(rig, swarm, seconds)
            rows += link_rows(rig, swarm, seconds)
            rows += prefill_rows(rig, swarm)
    rows += run_rows()
    result = {"machine": manifest(), "seconds": seconds, "rows": [asdict(row) for row in rows]}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


# ---------------------------------------------------------------------- rates, tool beside tool


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests per second by the server's count, and client CPU per request in microseconds."""

    qps: float
    cpu_us: float


def rate_rows(rig: Rig, swarm: Swarm, seconds: float) -> list[Row]:
    """Closed-loop GET rates of every client, taking turns."""
    tools: dict[str, Callable[[], Rate]] = {
        f"{client}, {users} users": _ours(rig, swarm, client, users, seconds)
        for client in ("lean", "redis-py")
        for users in (10, 50)
    }
    tools["stock Locust + redis-py, 50 users"] = lambda: _stock(rig, seconds)
    if shutil.which("redis-benchmark"):
        tools["redis-benchmark, 50 connections"] = lambda: _redis_benchmark(rig, seconds)
    rounds = [{name: tool() for name, tool in tools.items()} for _ in range(ROUNDS)]
    rows = []
    for name in tools:
        rows.append(Row(f"GET rate, {name}", _median(r[name].qps for r in rounds), "/s"))
        rows.append(Row(f"client CPU, {name}", _median(r[name].cpu_us for r in rounds), "µs/op"))
    return rows + _ratios(rounds)


def _ratios(rounds: list[dict[str, Rate]]) -> list[Row]:
    def ratio(other: str) -> float:
        return _median(r["lean, 50 users"].qps / r[other].qps for r in rounds)

    rows = [at_least("lean ÷ stock Locust", ratio("stock Locust + redis-py, 50 users"), "×", 8)]
    benchmark = "redis-benchmark, 50 connections"
    if benchmark in rounds[0]:
        rows.append(at_least("lean ÷ redis-benchmark", ratio(benchmark), "×", 0.7, "aim 0.85"))
    else:
        rows.append(Row("lean ÷ redis-benchmark", None, "×", "≥ 0.7", None, "not on PATH"))
    return rows


def _ours(rig: Rig, swarm: Swarm, client: Any, users: int, seconds: float) -> Callable[[], Rate]:
    cell = Cell(NAME, users, users, client=client, measure_s=seconds)

    def run() -> Rate:
        seen = _settled(rig, swarm, cell)
        return Rate(seen.qps, seen.client_cpu_us_per_op or 0.0)

    return run


def _stock(rig: Rig, seconds: float) -> Rate:
    from bench.load import stock

    command = [
        sys.executable, "-m", "locust", "-f", stock.__file__, "--headless", "--only-summary",
        "-u", "50", "-r", "50", "--loglevel", "ERROR",
    ]  # fmt: skip
    return _foreign_tool(rig, command, seconds, settle_s=3.0)


def _redis_benchmark(rig: Rig, seconds: float) -> Rate:
    command = [
        "redis-benchmark", "-h", rig.server.host, "-p", str(rig.server.port),
        "-c", "50", "-n", "100000000", "-q", "GET", "bench:1",
    ]  # fmt: skip
    return _foreign_tool(rig, command, seconds, settle_s=0.3)


def _foreign_tool(rig: Rig, command: list[str], seconds: float, settle_s: float) -> Rate:
    environment = {**os.environ, "REDIS_URL": rig.server.url}
    tool = spawn(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await_load(rig)
        time.sleep(settle_s)
        process = psutil.Process(tool.pid)
        before, cpu_before = rig.server.snapshot(), _cpu_s(process)
        time.sleep(seconds)
        after, cpu_after = rig.server.snapshot(), _cpu_s(process)
    finally:
        end(tool)
    operations = after.calls.get("get", 0) - before.calls.get("get", 0)
    cpu_us = (cpu_after - cpu_before) / operations * 1e6
    return Rate(operations / (after.at_s - before.at_s), cpu_us)


def _await_load(rig: Rig) -> None:
    idle = rig.server.snapshot().calls.get("get", 0)
    deadline = clock() + 20
    while rig.server.snapshot().calls.get("get", 0) == idle and clock() < deadline:
        time.sleep(0.05)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


# ---------------------------------------------------------------------- single costs


def recording_rows() -> list[Row]:
    """What the clocks, the record and its share of the histograms cost a request."""

    def clocks_and_record(recorder: Recorder) -> None:
        record = recorder.sink("GET")
        for _ in range(MICRO_LOOPS):
            sent = clock()
            acquired = clock()
            done = clock()
            record((sent, acquired, done))

    recorder = Recorder(("GET",))
    began = clock()
    with _no_gc():
        clocks_and_record(recorder)
    written = clock() - began
    digesting = clock()
    recorder.window(began, digesting)
    digested = clock() - digesting
    cost_us = (written + digested) / MICRO_LOOPS * 1e6
    return [at_most("recording a request, all clocks and histograms", cost_us, "µs", 2)]


def borrow_rows(rig: Rig) -> list[Row]:
    """Borrow and return of a ready connection under gevent, beside redis-py's stock pool."""
    ours = {test: _pool(rig, test) for test in ("none", "passive")}
    stock = BlockingConnectionPool(max_connections=10, **_options(rig))
    rounds = [
        {**{test: _borrow_us(pool) for test, pool in ours.items()}, "stock": _borrow_us(stock)}
        for _ in range(ROUNDS)
    ]
    for pool in (*ours.values(), stock):
        pool.disconnect()
    costs = {name: _median(r[name] for r in rounds) for name in rounds[0]}
    return [
        at_most("borrow and return, test_on_borrow none", costs["none"], "µs", 4),
        at_most("borrow and return, test_on_borrow passive", costs["passive"], "µs", 8),
        Row("borrow and return, redis-py's BlockingConnectionPool", costs["stock"], "µs"),
    ]


def _pool(rig: Rig, test_on_borrow: Any) -> Any:
    return open_pool(Cell(NAME, 10, 1, test_on_borrow=test_on_borrow), rig.server.url, None)


def _options(rig: Rig) -> dict[str, Any]:
    options = dict(parse_url(rig.server.url))
    options.pop("connection_class", None)
    return options


def _borrow_us(pool: Any) -> float:
    pool.release(pool.get_connection())
    loops = MICRO_LOOPS // 5
    with _no_gc():
        began = clock()
        for _ in range(loops):
            pool.release(pool.get_connection())
        return (clock() - began) / loops * 1e6


@contextmanager
def _no_gc() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# ---------------------------------------------------------------------- link, prefill, memory


def link_rows(rig: Rig, swarm: Swarm, seconds: float) -> list[Row]:
    """The link at a round trip of 1 ms: what it carries, costs, and adds."""
    many = [_cell_seen(rig, swarm, 200, 200, 0.001, seconds) for _ in range(ROUNDS)]
    one = [_cell_seen(rig, swarm, 1, 1, 0.001, seconds) for _ in range(ROUNDS)]
    return [
        at_least("link at 1 ms, 200 users", _median(o.qps for o in many), "/s", 40_000,
                 f"bound by {many[-1].bound_by}"),
        at_most("link CPU per request", _median(o.link_cpu_us_per_op or 0 for o in many), "µs", 20),
        at_most("round trip at 1 ms, 1 user", _median((o.latency.p50 or 0) * 1e3 for o in one),
                "ms", 1.35),
    ]  # fmt: skip


def _cell_seen(
    rig: Rig, swarm: Swarm, pool: int, users: int, rtt_s: float, seconds: float
) -> Observation:
    return _settled(rig, swarm, Cell(NAME, pool, users, rtt_s=rtt_s, measure_s=seconds))


def _settled(rig: Rig, swarm: Swarm, cell: Cell) -> Observation:
    """The first valid of at most `ATTEMPTS` measurements; raises BenchError if none is."""
    for attempt in range(1, ATTEMPTS + 1):
        seen = measure(rig, swarm, cell, 0, 0, attempt)
        if seen.valid:
            return seen
    raise BenchError(f"a cell stayed invalid {ATTEMPTS} times: {seen.invalid_reasons}; try later")


def prefill_rows(rig: Rig, swarm: Swarm) -> list[Row]:
    """Time to open large pools, a worker's memory with one, and a cell's time outside measuring."""
    rows = []
    for pool, rtt_s, limit in ((1000, 0.0, 1.0), (5000, 0.0, 4.5), (5000, 0.001, 6.0)):
        seconds = _median(_prefill_s(rig, swarm, pool, rtt_s) for _ in range(ROUNDS))
        rows.append(at_most(f"prefill {pool} at {rtt_s * 1e3:g} ms", seconds, "s", limit))
    seen = _cell_seen(rig, swarm, 5000, 1000, 0.0, 1.0)
    megabytes = seen.client_rss_bytes / 1e6
    rows.append(at_most("worker with 5,000 connections, 1,000 users", megabytes, "MB", 400))
    apart = []
    for pool in (5, 50, 500, 10, 100, 200):
        apart.append(_cell_seen(rig, swarm, pool, pool, 0.001, 0.5).outside_s)
    rows.append(at_most("a cell's time outside measuring, pool ≤ 500", max(apart), "s", 0.8))
    return rows


def run_rows() -> list[Row]:
    """How long whole runs take: a smoke run now, the committed standard run by its own clock."""
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "bench", "run", "--profile", "smoke", "--results", results]
        began = clock()
        status = subprocess.run(command, capture_output=True).returncode
        seconds = clock() - began
    note = "" if status == 0 else f"exit status {status}"
    smoke = at_most("bench run --profile smoke, report included", seconds, "s", 90, note)
    rows = [replace(smoke, reached=bool(smoke.reached) and status == 0)]
    if REFERENCE.exists():
        told = json.loads(REFERENCE.read_bytes())
        started, ended = (datetime.fromisoformat(told[name]) for name in ("started", "ended"))
        profile, took_s = told["settings"]["profile"], (ended - started).total_seconds()
        if profile == "standard":
            rows.append(at_most("standard sweep, of results/reference", took_s, "s", 150))
    return rows


def _prefill_s(rig: Rig, swarm: Swarm, pool: int, rtt_s: float) -> float:
    swarm.close_pools()
    time.sleep(SETTLE_S)
    cell = Cell(NAME, pool, 1, rtt_s=rtt_s)
    return float(swarm.prepare(cell, rig.address(rtt_s), seed=0)[0]["seconds"])


def _median(values: Any) -> float:
    return float(statistics.median(values))
