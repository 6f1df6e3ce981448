"""What the live view costs the process it looks into: watched, not watched, and not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter as clock

import psutil

from bench.analysis.statistics import t_interval
from bench.calibrate.tools import NotMeasured
from bench.model import Row
from bench.rig.host import end, exit_text, free_port, spawn
from bench.rig.rig import Rig

ROOT = Path(__file__).resolve().parents[2]
RATE_QPS, CARRIERS = 2_000, 20
ROUNDS = 5
OPENING_S = 20.0
MOST_SHARE = 2.0  # % of a core
LOAD = (
    "-f", "locustfiles/open_loop.py", "--rate", str(RATE_QPS), "-u", str(CARRIERS), "-r", "100",
    "--loglevel", "ERROR", "--only-summary",
)  # fmt: skip


def live_rows(rig: Rig, seconds: float) -> list[Row]:
    """CPU of a Locust that carries an open loop, in % of a core: how much more it takes where
    somebody watches the tab, by turns in one process; and than one without a web UI at all, in two
    processes side by side, of which each gets the same load. Blocks for `seconds` × 20 and more."""
    with _locust(rig) as (with_tab, port), _locust(rig, headless=True) as (without, _):
        turns = [
            (_busy(with_tab, without, seconds, None), _busy(with_tab, without, seconds, port))
            for _ in range(ROUNDS)
        ]
    watching = t_interval([seen[0] - unseen[0] for unseen, seen in turns], "% of a core")
    in_all = t_interval([seen[0] - seen[1] for _, seen in turns], "% of a core")
    at = f"open loop at {RATE_QPS:,}/s, watched once a second"
    return [
        Row.at_most(f"live view, {at}: more than unwatched", watching.value, "% of a core",
                    MOST_SHARE, f"{watching.low:.2f} to {watching.high:.2f}"),
        Row.at_most(f"live view, {at}: more than without a web UI", in_all.value, "% of a core",
                    MOST_SHARE, f"{in_all.low:.2f} to {in_all.high:.2f}"),
    ]  # fmt: skip


@contextmanager
def _locust(rig: Rig, *, headless: bool = False) -> Iterator[tuple[psutil.Process, int]]:
    """A Locust under load, and the port of its web UI."""
    port = free_port()
    ui = ("--headless",) if headless else ("--autostart", "--web-host", "127.0.0.1",
                                           "--web-port", str(port))  # fmt: skip
    command = [sys.executable, "-m", "locust", *LOAD, *ui]
    environment = {**os.environ, "REDIS_URL": rig.server.url}
    nowhere = subprocess.DEVNULL
    running = spawn(command, env=environment, cwd=ROOT, stdout=nowhere, stderr=nowhere)
    try:
        _await_load(rig, running)
        yield psutil.Process(running.pid), port
    finally:
        end(running)


def _await_load(rig: Rig, running: subprocess.Popen[bytes]) -> None:
    before, deadline = _answered(rig), clock() + OPENING_S
    while _answered(rig) - before < RATE_QPS:
        if running.poll() is not None or clock() > deadline:
            raise NotMeasured(f"Locust sent nothing: it {exit_text(running.returncode)}")
        time.sleep(0.2)


def _answered(rig: Rig) -> int:
    return int(rig.server.snapshot().calls.get("get", 0))


def _busy(
    with_tab: psutil.Process, without: psutil.Process, seconds: float, watched: int | None
) -> tuple[float, float]:
    """% of a core that each took meanwhile; the tab at port `watched` is asked as its page does."""
    processes = (with_tab, without)
    before, began, serial = list(map(_cpu_s, processes)), clock(), 0
    while clock() - began < seconds:
        if watched is not None:
            serial = _ask(watched, serial)
        time.sleep(1.0)
    took = clock() - began
    first, second = (
        100 * (_cpu_s(each) - at) / took for each, at in zip(processes, before, strict=True)
    )
    return first, second


def _ask(port: int, since: int) -> int:
    """The page's own question; the serial number of the last second it was told of."""
    address = f"http://127.0.0.1:{port}/pool/figures?since={since}"
    with urllib.request.urlopen(address, timeout=5) as answer:
        rows = json.load(answer)["rows"]
    return int(rows[-1]["serial"]) if rows else since


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
