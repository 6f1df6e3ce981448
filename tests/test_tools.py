# ruff: noqa: PT017  the checks run without pytest
"""Other load tools beside ours, real ones where they are on PATH, in child processes patched for
gevent.

Each `check_*` function runs in a child (`python test_tools.py URL NAME`) and is one test here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

if __name__ == "__main__":
    import bench.load.swarm as swarm_module  # first: locust patches the process
    from bench.calibrate import tools

import tempfile

import psutil

from bench.model import ApparatusLost, Cell, Row, Settings, Workload
from bench.rig.rig import Rig
from bench.rig.server import open_server

URL = ""
pytestmark = pytest.mark.slow

SECONDS = 0.4
RTT_S = 0.001
SILENT = "echo $$ > {folder}/pid; exec /bin/sleep 60"

# What they print, shortened; the figures are made up.
CSV = """WARNING: Could not fetch server CONFIG
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms"
"GET bench:0","7692.31","1.250","1.104","1.207","1.495","1.903"
"""
CSV_BEFORE_6_2 = '"GET bench:0","7692.31"\n'
JSON = """{
	"configuration":{ "server": "127.0.0.1" ,"out_file": null ,"key_minimum":           1 }
	,"ALL STATS":{
		"Runtime":{ "Total duration": 4 ,"Time unit": "MILLISECONDS" ,"Interrupted": "false" }
		,"Sets":{ "Count": 0 ,"Ops/sec": 0.00 ,"Latency": -nan }
		,"Gets":{
			"Count": 900 ,"Ops/sec": 223748.34 ,"Latency": 1.360 ,"Average Latency": 1.360
			,"Time-Serie":{ "0":{ "Count": 900 ,"Average Latency": 1.360 ,"p50.00": 1.199 } }
			,"Percentile Latencies":{ "p50.00": 1.215 ,"p99.00": 2.927 ,"p99.90": 5.791 }
			}
		,"Totals":{ "Count": 900 ,"Ops/sec": 223748.34 ,"Latency": 1.000 }
		}
	}
"""


@contextmanager
def ready(url: str | None = None) -> Iterator[tuple[Rig, Any]]:
    cells = [Cell("test", tools.CONNECTIONS, tools.CARRIERS, rtt_s=RTT_S)]
    with (
        tempfile.TemporaryFile() as log,
        Rig(Settings(url=url), cells) as rig,
        swarm_module.Swarm(1, tools.CARRIERS, rig.access, log) as swarm,
    ):
        yield rig, swarm


@contextmanager
def path_of(**scripts: str) -> Iterator[Path]:
    """A PATH that holds these tools and nothing else."""
    known = os.environ["PATH"]
    with tempfile.TemporaryDirectory() as folder:
        for name, script in scripts.items():
            tool = Path(folder, "redis-benchmark" if name == "redis_benchmark" else name)
            tool.write_text(f"#!/bin/sh\n{script.format(folder=folder)}\n")
            tool.chmod(0o755)
        os.environ["PATH"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ["PATH"] = known


def only(tool: str) -> None:
    tools.TOOLS = {tool: tools.TOOLS[tool]}


def value_of(rows: list[Row], figure: str) -> float | None:
    (value,) = [row.value for row in rows if row.what.endswith(figure)]
    return value


def failed(rows: list[Row], why: str) -> None:
    (row,) = rows
    assert row.value is None
    assert why in row.note, row.note
    assert "\n" not in row.note


def refused(read: Any, printed: str, why: str) -> None:
    try:
        read(printed)
    except tools.ToolFailed as failure:
        assert why in str(failure), failure
    else:
        raise AssertionError(f"understood {printed!r}")


# ---------------------------------------------------------------------- the real ones


def check_redis_benchmark_carries_its_requests() -> None:
    only(tools.REDIS_BENCHMARK)
    with ready() as (rig, swarm):
        rows = tools.cross_check(rig, swarm, SECONDS, Workload())
        rig.check()
    assert value_of(rows, ": rate ÷ ours") > 0
    for figure in (": median ÷ ours", ": λW ÷ connections"):
        if (value := value_of(rows, figure)) is None:
            assert "it prints no" in " ".join(row.note for row in rows)  # before 6.2
        else:
            assert value > 0
    assert all("the server counted" not in row.note for row in rows)  # as many as it was asked for


def check_memtier_benchmark_carries_its_requests() -> None:
    only(tools.MEMTIER)
    with ready() as (rig, swarm):
        rows = tools.cross_check(rig, swarm, SECONDS, Workload())
        rig.check()
    assert value_of(rows, ": rate ÷ ours") > 0
    assert value_of(rows, ": median ÷ ours") > 0
    assert all("the server counted" not in row.note for row in rows)


# ---------------------------------------------------------------------- what they print


def check_what_they_print_is_read_or_refused() -> None:
    csv_is_read_with_and_without_latencies()
    json_is_read_even_where_it_is_none()
    a_rate_is_that_of_the_steady_part()


def csv_is_read_with_and_without_latencies() -> None:
    assert tools.read_csv(CSV) == tools.Told(1.207 / 1e3, 1.25 / 1e3, 7692.31)
    assert tools.read_csv(CSV_BEFORE_6_2) == tools.Told(None, None, 7692.31)
    assert tools.read_csv('"GET bench:0","-nan"\n') == tools.Told()
    assert tools.read_csv(CSV.replace("1.207", "0.000")).median_s is None
    endless = '"' + "x" * 10**6
    for odd in ("", "\0", '"test","rps"\n', "GET: 7692.31 requests per second\n", endless):
        refused(tools.read_csv, odd, "not understood")


def json_is_read_even_where_it_is_none() -> None:
    assert tools.read_json(JSON) == tools.Told(1.215 / 1e3, 1.36 / 1e3, 223748.34)
    before_percentiles = '{"ALL STATS": {"Gets": {"Ops/sec": 9.0, "Latency": inf}}}'
    assert tools.read_json(before_percentiles) == tools.Told(None, None, 9.0)
    refused(tools.read_json, "", "not the JSON expected")
    refused(tools.read_json, JSON[:-30], "not the JSON expected")
    refused(tools.read_json, '{"ALL STATS": {}}', "no 'Gets'")
    for odd in ([], {"ALL STATS": []}, {"ALL STATS": {"Gets": 1}}):
        refused(tools.read_json, json.dumps(odd), "not the JSON expected")


def a_rate_is_that_of_the_steady_part() -> None:
    idle = [(t / 10, 5) for t in range(5)]
    going = [(0.5 + t / 10, 9 + 100 * t) for t in range(6)]
    after = [(1.1 + t / 10, 540) for t in range(5)]
    assert abs(tools.steady_qps([*idle, *going, *after]) - 1_000) < 1e-6
    refused(tools.steady_qps, idle, "sent no GET")
    refused(tools.steady_qps, [*idle, *going[:2]], "too few GETs")


# ---------------------------------------------------------------------- those that do not do


def check_what_is_absent_or_fails_is_a_row_that_says_why() -> None:
    real = shutil.which(tools.REDIS_BENCHMARK)
    with ready() as (rig, swarm):

        def crossed(**scripts: str) -> list[Row]:
            with path_of(**scripts) as folder:
                rows = tools.cross_check(rig, swarm, SECONDS, Workload())
                pid = folder / "pid"
                assert not pid.exists() or not psutil.pid_exists(int(pid.read_text()))
                return rows

        rows = crossed()
        assert [(row.value, row.note) for row in rows] == [(None, "not on PATH")] * 2
        assert [row.what.partition(" ")[0] for row in rows] == list(tools.TOOLS)
        memtier = crossed(memtier_benchmark="echo unknown option >&2; exit 2")[1:]
        failed(memtier, "exited with status 2: unknown option")
        failed(crossed(memtier_benchmark="exit 0")[1:], "sent no GET")
        only(tools.REDIS_BENCHMARK)
        failed(crossed(redis_benchmark="exit 3"), "exited with status 3: it said nothing")
        failed(crossed(redis_benchmark="kill -9 $$"), "was killed by signal 9")
        failed(crossed(redis_benchmark=f"printf '%s' '{CSV}'"), "sent no GET")
        if real:
            changed = f'{real} "$@" > /dev/null; echo done'
            failed(crossed(redis_benchmark=changed), "not understood: no line of GET")
        tools.PATIENCE_S = 0.2
        failed(crossed(redis_benchmark=SILENT), "did not end within 0.6 s")
        rig.check()


def check_a_tool_is_ended_when_the_server_goes() -> None:
    only(tools.REDIS_BENCHMARK)
    with ready() as (rig, swarm), path_of(redis_benchmark="kill -9 $SERVER; " + SILENT) as folder:
        os.environ["SERVER"] = str(rig.server.pid)
        try:
            tools.cross_check(rig, swarm, SECONDS, Workload())
        except ApparatusLost as lost:
            assert "signal 9" in str(lost)
        else:
            raise AssertionError("the server's end went unnoticed")
        pid = folder / "pid"
        assert not pid.exists() or not psutil.pid_exists(int(pid.read_text()))


def check_no_password_is_put_on_a_command_line() -> None:
    secret = {"requirepass": "not-for-the-process-list"}
    told = "touch {folder}/ran"
    with (
        open_server(None, max_connections=200, options=secret) as server,
        ready(server.url) as (rig, swarm),
        path_of(redis_benchmark=told, memtier_benchmark=told) as folder,
    ):
        rows = tools.cross_check(rig, swarm, SECONDS, Workload())
        assert not (folder / "ran").exists()
    for row in rows:
        failed([row], "not run: it takes the server's password on its command line")
        assert secret["requirepass"] not in row.note
    assert len(rows) == 2


CHECKS = [name for name in dict(globals()) if name.startswith("check_")]
NEEDS = {
    "check_redis_benchmark_carries_its_requests": "redis-benchmark",
    "check_memtier_benchmark_carries_its_requests": "memtier_benchmark",
}


@pytest.mark.parametrize("name", CHECKS)
def test_tools(name: str, redis_server: Any) -> None:
    tool = NEEDS.get(name)
    if tool and shutil.which(tool) is None:
        pytest.skip(f"{tool} is not on PATH")
    done = subprocess.run(
        [sys.executable, __file__, redis_server.url, name],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]


if __name__ == "__main__":
    URL = sys.argv[1]
    globals()[sys.argv[2]]()
