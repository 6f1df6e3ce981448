"""Other load tools on the same server, each with its own idea of a latency.

Their rates come from the server's own command counter, so their arithmetic need not be trusted.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter as clock
from typing import IO, Any

import psutil
from redis.connection import parse_url

from bench.load.measure import measure
from bench.load.swarm import Swarm
from bench.model import Arrivals, BenchError, Cell, Observation, Row, Workload
from bench.rig.host import end, exit_text, last_lines, spawn
from bench.rig.rig import Rig
from bench.rig.server import KEY_PREFIX

NAME = "calibrate"
REDIS_BENCHMARK, MEMTIER = "redis-benchmark", "memtier_benchmark"
RTT_S = 0.001
CONNECTIONS = 10
EACH_QPS = 100  # of each of memtier's connections
CARRIERS = 50  # ours, so that nothing but the pool holds a request back
MEMTIER_LEAST_S = 0.9  # it looks once a second whether it is done
SAMPLE_S = 0.025  # asking costs server and asker a little too
FEWEST_SAMPLES = 3
PATIENCE_S = 10.0  # beyond what a tool's requests should take
ATTEMPTS = 2


class NotMeasured(BenchError):
    """What a step could not measure, and left nothing of behind: the others may go on."""


# ---------------------------------------------------------------------- at full speed


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests per second by the server's count, and client CPU per request in microseconds."""

    qps: float
    cpu_us: float


def stock(rig: Rig, seconds: float) -> Rate:
    from bench.load import stock

    command = [
        sys.executable, "-m", "locust", "-f", stock.__file__, "--headless", "--only-summary",
        "-u", "50", "-r", "50", "--loglevel", "ERROR",
    ]  # fmt: skip
    return _foreign_tool(rig, command, seconds, settle_s=3.0)


def redis_benchmark(rig: Rig, seconds: float, *, connections: int = 50, depth: int = 1) -> Rate:
    command = [
        REDIS_BENCHMARK, "-h", rig.server.host, "-p", str(rig.server.port),
        "-c", str(connections), "-P", str(depth), "-n", "100000000", "-q", "GET", f"{KEY_PREFIX}1",
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
    if not operations:
        raise NotMeasured(f"{command[0]} sent nothing: it {exit_text(tool.returncode)}")
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


# ---------------------------------------------------------------------- at the same load as ours


class ToolFailed(Exception):
    """Why there is nothing to compare with, in one line."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a tool says of its own run; None where it does not."""

    median_s: float | None = None
    mean_s: float | None = None
    qps: float | None = None


@dataclass(frozen=True, slots=True)
class Beside:
    """A tool's run and ours before and after it: `qps` and `counted` (GETs) are the server's."""

    what: str
    ours: tuple[Observation, ...]
    asked: int
    counted: int
    qps: float
    told: Told

    def rate(self, bias: str) -> Row:
        ours = [seen.qps for seen in self.ours]
        said = f"{self.qps:,.0f}/s by the server's count, ours {_both(f'{x:,.0f}' for x in ours)}"
        if self.counted != self.asked:
            said += f"; of {self.asked} GETs the server counted {self.counted}"
        return self._row("rate ÷ ours", self.qps / statistics.mean(ours), "×", said, bias)

    def median(self, bias: str) -> Row:
        ours = [seen.latency.p50 for seen in self.ours if seen.latency.p50 is not None]
        theirs = self.told.median_s
        if theirs is None or not ours:
            missing = "ours has no median: too few requests" if theirs else "it prints no median"
            return self._row("median ÷ ours", None, "×", missing, bias)
        said = f"{theirs * 1e3:.3f} ms, ours {_both(f'{x * 1e3:.3f}' for x in ours)}"
        return self._row("median ÷ ours", theirs / statistics.mean(ours), "×", said, bias)

    def little(self, bias: str) -> Row:
        """λW over the connections of a closed loop: 1 where a latency leaves nothing out."""
        ours = [seen.qps * seen.latency_mean_s / CONNECTIONS for seen in self.ours]
        said = f"ours {_both(f'{x:.3f}' for x in ours)}"
        mean_s = self.told.mean_s
        if mean_s is None:
            return self._row("λW ÷ connections", None, "", f"it prints no mean; {said}", bias)
        return self._row("λW ÷ connections", self.qps * mean_s / CONNECTIONS, "", said, bias)

    def _row(self, figure: str, value: float | None, unit: str, said: str, bias: str) -> Row:
        unfit = {seen.invalid_reasons for seen in self.ours if not seen.valid}
        invalid = [f"ours is invalid: {reasons}" for reasons in sorted(unfit)]
        return Row(f"{self.what}: {figure}", value, unit, note="; ".join([said, *invalid, bias]))


def cross_check(rig: Rig, swarm: Swarm, seconds: float, workload: Workload) -> list[Row]:
    """Our generator beside each tool on PATH at the same load and by the same way: ours, the tool,
    ours again, so that a drift of the machine does not decide.

    Blocks for about two times `seconds` a tool, memtier_benchmark a second at least. The rig must
    have been opened with a cell of `RTT_S`; the swarm holds `CARRIERS` users or more. A tool that
    is absent or fails is a row without a value that says why. Raises what `measure` does.
    """
    reading = replace(workload, get_share=1.0)
    rows: list[Row] = []
    for tool, measured in TOOLS.items():
        try:
            _require(rig, tool)
            rows += measured(rig, swarm, seconds, reading)
        except ToolFailed as failure:
            rows.append(Row(f"{tool} beside ours", None, "×", note=str(failure)))
    return rows


def _require(rig: Rig, tool: str) -> None:
    if shutil.which(tool) is None:
        raise ToolFailed("not on PATH")
    if rig.server.url.startswith("rediss:"):
        raise ToolFailed("not run: the server wants TLS, by certificates that are not the link's")
    if {"username", "password"} & parse_url(rig.server.url).keys():
        raise ToolFailed("not run: it takes the server's password on its command line alone")


def _beside_redis_benchmark(
    rig: Rig, swarm: Swarm, seconds: float, workload: Workload
) -> list[Row]:
    """Closed loop: it cannot be given a rate, so the link sets it."""
    cell = Cell(
        NAME, CONNECTIONS, CONNECTIONS, rtt_s=RTT_S, workload=workload, warmup_s=0.1,
        measure_s=seconds / 2,
    )  # fmt: skip
    before = _ours(rig, swarm, cell)
    asked = max(CONNECTIONS, round(before.qps * seconds))
    host, port, database = _target(rig)
    command = [
        REDIS_BENCHMARK, "-h", host, "-p", port, *(["--dbnum", database] if database else []),
        "-c", str(CONNECTIONS), "-n", str(asked), "--csv", "GET", f"{KEY_PREFIX}0",
    ]  # fmt: skip
    counted, qps, printed = _run(rig, command, seconds)
    told = read_csv(printed)
    ours = (before, _ours(rig, swarm, cell))
    load = f"{REDIS_BENCHMARK}, {CONNECTIONS} connections at {RTT_S * 1e3:g} ms"
    beside = Beside(load, ours, asked, counted, qps, told)
    return [
        beside.rate("closed loop: the link sets the rate"),
        beside.median("known bias: it leaves out what its own process takes between requests"),
        beside.little("known bias: 0.6 at RTT 0, its own time being the rest"),
    ]


def _beside_memtier(rig: Rig, swarm: Swarm, seconds: float, workload: Workload) -> list[Row]:
    """Constant arrivals of ours beside its limited rate, beneath which it is a closed loop."""
    offered = CONNECTIONS * EACH_QPS
    cell = Cell(
        NAME, CONNECTIONS, CARRIERS, rtt_s=RTT_S, workload=workload, warmup_s=0.1,
        measure_s=seconds / 2, loop="open", arrivals=Arrivals("constant"),
        offered_qps=float(offered),
    )  # fmt: skip
    before = _ours(rig, swarm, cell)
    for_s = max(seconds, MEMTIER_LEAST_S)
    each = round(EACH_QPS * for_s)
    host, port, database = _target(rig)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "told.json")
        command = [
            MEMTIER, "--server", host, "--port", port,
            *(["--select-db", database] if database else []),
            "--threads", "1", "--clients", str(CONNECTIONS), "--requests", str(each),
            "--rate-limiting", str(EACH_QPS), "--ratio", "0:1", "--key-prefix", KEY_PREFIX,
            "--key-minimum", "1", "--key-maximum", str(max(1, workload.keys - 1)),
            "--hide-histogram", "--json-out-file", str(output),
        ]  # fmt: skip
        counted, qps, _ = _run(rig, command, for_s)
        told = read_json(output.read_text(errors="replace") if output.exists() else "")
    ours = (before, _ours(rig, swarm, cell))
    load = f"{MEMTIER}, {CONNECTIONS} × {EACH_QPS}/s at {RTT_S * 1e3:g} ms"
    beside = Beside(load, ours, each * CONNECTIONS, counted, qps, told)
    own = "none" if told.qps is None else f"{told.qps:,.0f}/s"
    return [
        beside.rate(f"known bias: its own Ops/sec ({own} here) is off by whole seconds at times"),
        beside.median(
            "known bias: coordinated omission, it holds back while the server stalls; it sends in "
            "bursts, on all connections at once"
        ),
    ]


TOOLS: dict[str, Callable[[Rig, Swarm, float, Workload], list[Row]]] = {
    REDIS_BENCHMARK: _beside_redis_benchmark,
    MEMTIER: _beside_memtier,
}


def _ours(rig: Rig, swarm: Swarm, cell: Cell) -> Observation:
    """The first valid of at most `ATTEMPTS` measurements, else the last."""
    for attempt in range(1, ATTEMPTS + 1):
        seen = measure(rig, swarm, cell, attempt=attempt)
        if seen.valid:
            break
    return seen


def _target(rig: Rig) -> tuple[str, str, str]:
    """Host and port that lead by the link, and the database where it is not the first."""
    host, port = rig.address(Cell(NAME, 1, 1, rtt_s=RTT_S)) or (rig.server.host, rig.server.port)
    return host, str(port), str(parse_url(rig.server.url).get("db") or "")


def _both(figures: Any) -> str:
    return " and ".join(figures)


def _run(rig: Rig, command: list[str], expected_s: float) -> tuple[int, float, str]:
    """Run a tool to its end: the GETs the server counted meanwhile, their rate while it was
    steady, and what the tool printed. Ends it itself, when it takes `PATIENCE_S` longer than
    expected. Raises ToolFailed, and ApparatusLost when the server goes."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        samples = [_gets(rig)]
        try:
            tool = spawn(command, stdout=out, stderr=log)
        except OSError as failure:
            raise ToolFailed(f"could not be started: {failure.strerror or failure}") from None
        try:
            deadline = clock() + expected_s + PATIENCE_S
            while tool.poll() is None and clock() < deadline:
                time.sleep(SAMPLE_S)
                samples.append(_gets(rig))
            status = tool.poll()
        finally:
            end(tool)
        if status is None:
            raise ToolFailed(f"did not end within {expected_s + PATIENCE_S:.3g} s")
        if status:
            raise ToolFailed(f"{exit_text(status)}: {_last_said(log, out)}")
        out.seek(0)
        printed = out.read().decode(errors="replace")
    return samples[-1][1] - samples[0][1], steady_qps(samples), printed


def _gets(rig: Rig) -> tuple[float, int]:
    seen = rig.server.snapshot()
    return seen.at_s, seen.calls.get("get", 0)


def _last_said(*logs: IO[bytes]) -> str:
    said = [last_lines(log, count=1) for log in logs]
    return next((line[:200] for line in said if line), "it said nothing")


def steady_qps(samples: Sequence[tuple[float, int]]) -> float:
    """The slope of a counter, sampled as (seconds, count), while it moved; its first and its last
    move are left out, for they began and ended between samples. Raises ToolFailed."""
    moves = [i for i, (a, b) in enumerate(itertools.pairwise(samples)) if b[1] > a[1]]
    inside = samples[moves[0] + 1 : moves[-1] + 1] if moves else []
    if len(inside) < FEWEST_SAMPLES:
        raise ToolFailed("sent too few GETs to tell a rate" if moves else "sent no GET")
    times, counts = zip(*inside, strict=True)
    return float(statistics.linear_regression(times, counts).slope)


def read_csv(printed: str) -> Told:
    """What redis-benchmark prints with --csv: from 6.2 on a heading and a line with latencies in
    milliseconds, before that the test's name and its rate alone. Raises ToolFailed."""
    try:
        lines = [line for line in csv.reader(printed.splitlines()) if len(line) > 1]
    except csv.Error:
        lines = []
    heading = next((line for line in lines if line[0] == "test"), ["test", "rps"])
    for line in lines:
        if line != heading and line[0].startswith("GET"):
            told = dict(zip(heading, line, strict=False))
            return Told(
                _seconds(told.get("p50_latency_ms")),
                _seconds(told.get("avg_latency_ms")),
                _number(told.get("rps")),
            )
    raise ToolFailed("its output is not understood: no line of GET in its CSV")


def read_json(printed: str) -> Told:
    """What memtier_benchmark writes to --json-out-file. Of its times none is used: it averages the
    start and end of its connections with seconds truncated, so its duration may lack or gain some.
    Raises ToolFailed."""
    numbers = re.sub(r":\s*-?(nan|inf)\b", ": null", printed)  # not JSON, printed before 2.1.2
    try:
        told = json.loads(numbers)["ALL STATS"]["Gets"]
        percentiles = told.get("Percentile Latencies", {})
        return Told(
            _seconds(percentiles.get("p50.00")),
            _seconds(told.get("Latency")),
            _number(told.get("Ops/sec")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as failure:
        why = f"no {failure}" if isinstance(failure, KeyError) else "it is not the JSON expected"
        raise ToolFailed(f"its output is not understood: {why}") from None


def _number(told: Any) -> float | None:
    try:
        value = float(told)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _seconds(milliseconds: Any) -> float | None:
    """None for zero as well: a tool that saw nothing prints that."""
    value = _number(milliseconds)
    return value / 1e3 if value else None
