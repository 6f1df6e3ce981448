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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from time import perf_counter as clock
from typing import Any

import bench.load.swarm  # noqa: F401  # isort: skip  # patches for gevent: before all that imports ssl

import psutil
from redis.connection import BlockingConnectionPool, parse_url

from bench.analysis.statistics import log_t_interval
from bench.load.clients import open_pool
from bench.load.measure import measure
from bench.load.recorder import Recorder
from bench.load.swarm import Swarm
from bench.model import BenchError, Cell, Observation, Settings
from bench.report.display import Display
from bench.rig.host import end, manifest, raise_fd_limit, spawn
from bench.rig.rig import Rig

NAME = "calibrate"
LEAN = "lean, 50 users"
BORROW, RECORD = "borrow and return", "recording a request"
STOCK, BENCHMARK = "stock Locust + redis-py, 50 users", "redis-benchmark, 50 connections"
LINK_MANY, LINK_ONE = "link at 1 ms, 200 users", "round trip at 1 ms, 1 user"
WORKER = "worker with 5,000 connections, 1,000 users"
OUTSIDE = "a cell's time outside measuring, pool ≤ 500"
SMOKE = "bench run --profile smoke, report included"
PREFILLS = ((1000, 0.0, 1.0), (5000, 0.0, 4.5), (5000, 0.001, 6.0))  # pool, RTT, seconds at most
REFERENCE = Path(__file__).resolve().parents[1] / "results" / "reference" / "run.json"
ROUNDS = 3
MORE_PAIRS = 6  # of lean and redis-benchmark, whose ratio within one minute runs from 0.5 to 0.9
MICRO_LOOPS = 50_000
SETTLE_S = 1.0
AROUND_S = 0.8  # what a cell takes beside its measurement
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


@dataclass(frozen=True, slots=True)
class Step:
    """Something to measure, named as progress shows it, and how long it is expected to take."""

    what: str
    seconds: float
    measure: Callable[[], Any]


Found = dict[str, list[Any]]  # what each step found, once per round


def calibrate(seconds: float, output: Path, display: Display) -> dict[str, Any]:
    """Measure everything and store it as JSON at `output`. Blocks for about three minutes.

    Raises PreflightError, ApparatusLost as a run does.
    """
    raise_fd_limit(12_000)
    cells = [Cell(NAME, 5000, 1000, rtt_s=0.001)]
    alone = [Step(SMOKE, 60, _smoke_run)]  # a run needs the machine for itself
    with (
        tempfile.TemporaryFile() as log,
        Rig(Settings(), cells) as rig,
        Swarm(1, 1000, rig.server.url, log) as swarm,
    ):
        steps = [
            Step(BORROW, 2, lambda: borrow_rows(rig)),
            Step(RECORD, 1, recording_rows),
            *rate_steps(rig, swarm, seconds),
            *link_steps(rig, swarm, seconds),
            *prefill_steps(rig, swarm),
            *worker_steps(rig, swarm),
        ]
        all_steps = [*steps, *alone]
        display.starts(len(all_steps), sum(step.seconds for step in all_steps), "steps")
        found = take(steps, display)
    found |= take(alone, display)
    result = {"machine": manifest(), "seconds": seconds, "rows": [asdict(r) for r in _rows(found)]}
    output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def take(steps: Iterable[Step], display: Display) -> Found:
    """Measure step by step, in this order, and say so. Blocks for all of them."""
    found: Found = {}
    for step in steps:
        display.does(step.what)
        found.setdefault(step.what, []).append(step.measure())
        display.did(step.what, step.seconds)
    return found


def _rows(found: Found) -> list[Row]:
    return [
        *found[BORROW][0],
        *found[RECORD][0],
        *rate_rows(found),
        *link_rows(found),
        *prefill_rows(found),
        *worker_rows(found),
        *run_rows(found),
    ]


# ---------------------------------------------------------------------- rates, tool beside tool


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests per second by the server's count, and client CPU per request in microseconds."""

    qps: float
    cpu_us: float


def rate_steps(rig: Rig, swarm: Swarm, seconds: float) -> list[Step]:
    """Closed-loop GET rates of every client, taking turns."""

    def ours(client: Any, users: int) -> Step:
        took_s = seconds + AROUND_S
        return Step(f"{client}, {users} users", took_s, _ours(rig, swarm, client, users, seconds))

    pair = [ours("lean", 50)]
    if shutil.which("redis-benchmark"):
        pair.append(Step(BENCHMARK, seconds + 0.5, lambda: _redis_benchmark(rig, seconds)))
    stock = Step(STOCK, seconds + 5, lambda: _stock(rig, seconds))
    others = [stock, ours("lean", 10), ours("redis-py", 10), ours("redis-py", 50)]
    return [*pair, *others] * ROUNDS + pair * MORE_PAIRS


def rate_rows(found: Found) -> list[Row]:
    """Medians over the rounds, then ratios within them."""
    rows = []
    rates = {what: seen for what, seen in found.items() if isinstance(seen[0], Rate)}
    for name, seen in rates.items():
        rows.append(Row(f"GET rate, {name}", _median(rate.qps for rate in seen), "/s"))
        rows.append(Row(f"client CPU, {name}", _median(rate.cpu_us for rate in seen), "µs/op"))
    return rows + _ratios(rates)


def _ratios(rates: dict[str, list[Rate]]) -> list[Row]:
    def ratio(name: str, other: str, least: float, note: str = "") -> Row:
        turns = zip(rates[LEAN], rates[other], strict=False)  # lean has more, after all the others'
        pairs = [ours.qps / theirs.qps for ours, theirs in turns]
        known = log_t_interval(pairs)
        doubt = f"95 % of {len(pairs)} pairs: {known.low:.2f}–{known.high:.2f}{note}"
        return at_least(f"lean ÷ {name}", _median(pairs), "×", least, doubt)

    rows = [ratio("stock Locust", STOCK, 8)]
    if BENCHMARK in rates:
        rows.append(ratio("redis-benchmark", BENCHMARK, 0.7, "; aim 0.85"))
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
            record((sent, sent, acquired, done))

    recorder = Recorder(("GET",))
    began = clock()
    with _no_gc():
        clocks_and_record(recorder)
    written = clock() - began
    digesting = clock()
    recorder.window(began, digesting, "closed")
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


def link_steps(rig: Rig, swarm: Swarm, seconds: float) -> list[Step]:
    """The link at a round trip of 1 ms."""

    def of(what: str, users: int) -> Step:
        return Step(what, seconds + AROUND_S,
                    lambda: _cell_seen(rig, swarm, users, users, 0.001, seconds))  # fmt: skip

    return [of(LINK_MANY, 200)] * ROUNDS + [of(LINK_ONE, 1)] * ROUNDS


def link_rows(found: Found) -> list[Row]:
    """What the link carries, costs, and adds."""
    many, one = found[LINK_MANY], found[LINK_ONE]
    return [
        at_least(LINK_MANY, _median(o.qps for o in many), "/s", 40_000,
                 f"bound by {many[-1].bound_by}"),
        at_most("link CPU per request", _median(o.link_cpu_us_per_op or 0 for o in many), "µs", 20),
        at_most(LINK_ONE, _median((o.latency.p50 or 0) * 1e3 for o in one), "ms", 1.35),
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


def prefill_steps(rig: Rig, swarm: Swarm) -> list[Step]:
    """Time to open large pools."""

    def of(pool: int, rtt_s: float, limit_s: float) -> Step:
        return Step(_prefill(pool, rtt_s), SETTLE_S + limit_s,
                    lambda: _prefill_s(rig, swarm, pool, rtt_s))  # fmt: skip

    return [step for each in PREFILLS for step in [of(*each)] * ROUNDS]


def prefill_rows(found: Found) -> list[Row]:
    return [
        at_most(what, _median(found[what]), "s", limit_s)
        for pool, rtt_s, limit_s in PREFILLS
        for what in [_prefill(pool, rtt_s)]
    ]


def _prefill(pool: int, rtt_s: float) -> str:
    return f"prefill {pool} at {rtt_s * 1e3:g} ms"


def worker_steps(rig: Rig, swarm: Swarm) -> list[Step]:
    """A worker's memory with a large pool, and what small cells take outside measuring."""

    def outside(pool: int) -> Step:
        return Step(OUTSIDE, 0.5 + AROUND_S,
                    lambda: _cell_seen(rig, swarm, pool, pool, 0.001, 0.5).outside_s)  # fmt: skip

    large = Step(WORKER, 4, lambda: _cell_seen(rig, swarm, 5000, 1000, 0.0, 1.0).client_rss_bytes)
    return [large, *map(outside, (5, 50, 500, 10, 100, 200))]


def worker_rows(found: Found) -> list[Row]:
    return [
        at_most(WORKER, found[WORKER][0] / 1e6, "MB", 400),
        at_most(OUTSIDE, max(found[OUTSIDE]), "s", 0.8),
    ]


def _smoke_run() -> tuple[float, int]:
    """Seconds and exit status of a whole run."""
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "bench", "run", "--profile", "smoke", "--results", results]
        began = clock()
        running = spawn(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            status = running.wait()
        finally:
            end(running)
        return clock() - began, status


def run_rows(found: Found) -> list[Row]:
    """How long whole runs take: a smoke run now, the committed standard run by its own clock."""
    seconds, status = found[SMOKE][0]
    note = "" if status == 0 else f"exit status {status}"
    smoke = at_most(SMOKE, seconds, "s", 90, note)
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
