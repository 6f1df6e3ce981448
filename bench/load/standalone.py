"""The closed loop as an ordinary Locust test: its own options, its figures in Locust's statistics.

REDIS_URL names the server (an option would send its password in Locust's plain messages).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import gevent
import numpy as np
from locust import User, events, task
from locust.runners import LocalRunner, MasterRunner
from locust.stats import RequestStats, StatsEntry
from redis.exceptions import RedisError

from bench.load.clients import SESSIONS, open_pool
from bench.load.closed_loop import ClosedLoop
from bench.load.pool import Pool
from bench.load.recorder import DONE, INTENDED, Floats
from bench.model import Cell, PreflightError, Workload
from bench.rig.server import open_server

DEFAULT_URL = "redis://127.0.0.1:6379"
FEED_INTERVAL_S = 0.5
REPORTED = (0.5, 0.9, 0.99, 0.999)
METHOD, NAME = "redis", "closed loop"


class ClosedLoopUser(User):
    """Sends its next request after the last reply, without think time."""

    @task
    def serve(self) -> None:
        _tests[self.environment].job.run()


class StandaloneTest:
    """The pool and job of one Locust test in this process, fed to Locust's statistics."""

    def __init__(self, environment: Any) -> None:
        options, runner = environment.parsed_options, environment.runner
        self._stats: RequestStats = environment.stats
        self.pool: Pool = open_pool(_cell(options), _url(), None)
        if options.opening == "prefilled":
            self.pool.prefill()
        seed = options.seed + max(0, runner.worker_index)
        self.job = ClosedLoop(_cell(options), self.pool, users=0, seed=seed)
        self._feeder = gevent.spawn(self._feed_for_ever)

    def _feed_for_ever(self) -> None:
        while True:
            gevent.sleep(FEED_INTERVAL_S)
            self.feed()

    def feed(self) -> None:
        """Hand over what was recorded since the last call."""
        errors = self.job.recorder.drain_errors()
        _log(self._stats, self.job.recorder.drain(), sum(errors.values()))
        for kind, count in errors.items():
            for _ in range(count):
                self._stats.log_error(METHOD, NAME, kind)

    def close(self) -> str:
        """Stop, close the pool; returns one line about it."""
        self.job.stop(time.perf_counter())
        self._feeder.kill()
        self.feed()
        self.pool.close()
        stats = self.pool.stats()
        return (
            f"pool peak {stats.peak_used} of {stats.max}, "
            f"{stats.empty} of {stats.requests} requests found it empty"
        )


def _log(stats: RequestStats, rows: Floats, failures: int) -> None:
    """Add many requests at once, each in the second in which it was done: Locust's current rate
    is a mean over such seconds. Like Locust, count the failed ones too, but without a time."""
    if not rows.size and not failures:
        return
    entry: Any = StatsEntry(stats, NAME, METHOD)  # its own types say int
    entry.last_request_timestamp = time.time()
    entry.num_requests = len(rows) + failures
    entry.num_none_requests = failures
    entry.num_reqs_per_sec[int(entry.last_request_timestamp)] += failures
    if rows.size:
        _add_times(entry, rows)
    stats.get(NAME, METHOD).extend(entry)
    stats.total.extend(entry)


def _add_times(entry: Any, rows: Floats) -> None:
    """Keys keep three digits: Locust's own rounding to whole milliseconds would show most of a
    Redis as 0."""
    milliseconds = (rows[:, DONE] - rows[:, INTENDED]) * 1e3
    entry.total_response_time = float(milliseconds.sum())
    entry.min_response_time = float(milliseconds.min())
    entry.max_response_time = float(milliseconds.max())
    entry.response_times.update(_counts(_three_digits(milliseconds)))
    seconds = (rows[:, DONE] + (time.time() - time.perf_counter())).astype(np.int64)
    for second, count in _counts(seconds).items():
        entry.num_reqs_per_sec[second] += count


def _counts(values: Any) -> dict[Any, int]:
    distinct, counts = np.unique(values, return_counts=True)
    return dict(zip(distinct.tolist(), counts.tolist(), strict=True))


def latency_line(stats: RequestStats) -> str:
    """The percentiles in Locust's statistics, to the microsecond: its table shows whole ms."""
    total = stats.total
    figures = ", ".join(
        f"p{100 * share:g} {total.get_response_time_percentile(share):.3f} ms" for share in REPORTED
    )
    return f"latency of {total.num_requests - total.num_none_requests} requests: {figures}"


def _three_digits(values: Floats) -> Floats:
    scale = 10.0 ** (2 - np.floor(np.log10(np.maximum(values, 1e-3))))
    return np.round(values * scale) / scale


def _cell(options: Any) -> Cell:
    return Cell(
        experiment="standalone",
        pool_size=options.pool_size,
        concurrency=1,
        client=options.client,
        resp=options.resp,
        opening=options.opening,
        order=options.order,
        test_on_borrow=options.test_on_borrow,
        acquire_timeout_s=options.acquire_timeout,
        workload=Workload(options.keys, options.value_bytes, options.get_share),
    )


def _url() -> str:
    return os.environ.get("REDIS_URL") or DEFAULT_URL


def _say(text: str) -> None:
    """Beside Locust's tables, and out of the way of `--json`."""
    print(text, file=sys.stderr, flush=True)


_tests: dict[Any, StandaloneTest] = {}


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    group = parser.add_argument_group("Pool and workload (per worker)")
    group.add_argument("--pool-size", type=int, default=20, help="connections")
    group.add_argument("--order", choices=("lifo", "fifo"), default="lifo")
    group.add_argument("--opening", choices=("prefilled", "lazy"), default="prefilled")
    group.add_argument("--test-on-borrow", choices=("none", "passive", "ping"), default="none")
    group.add_argument("--acquire-timeout", type=float, default=20.0, help="seconds")
    group.add_argument("--client", choices=tuple(SESSIONS), default="lean")
    group.add_argument("--resp", type=int, choices=(2, 3), default=3)
    group.add_argument("--keys", type=int, default=1000)
    group.add_argument("--value-bytes", type=int, default=100)
    group.add_argument("--get-share", type=float, default=1.0, help="the rest is SET")
    group.add_argument("--seed", type=int, default=1)


@events.init.add_listener
def _init(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner):
        # By test_stop the workers' last reports are not in yet.
        events.quit.add_listener(lambda **_: _say(latency_line(environment.stats)))
        return
    if isinstance(environment.runner, LocalRunner):
        _require_server()
    # Python raises it in whatever runs, here mostly a user, whose end Locust shows as a failure.
    gevent.signal_handler(signal.SIGINT, gevent.kill, gevent.getcurrent(), KeyboardInterrupt)


def _require_server() -> None:
    """Ends the process, before there is a web UI, when no Redis answers."""
    try:
        open_server(_url(), max_connections=1).close()
    except PreflightError as error:
        _say(f"bench: {error}")
        sys.exit(error.status)


@events.test_start.add_listener
def _start(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner):
        return  # the workers hold the pools
    try:
        _tests[environment] = StandaloneTest(environment)
    except (RedisError, OSError, ValueError) as error:
        _refuse(environment, f"no load sent: {error}")


def _refuse(environment: Any, reason: str) -> None:
    """No users: a web UI lives on and can be asked again, any other process ends."""
    _say(f"bench: {reason}")
    runner = environment.runner
    if environment.web_ui is not None:
        gevent.spawn(runner.stop)
    else:
        environment.process_exit_code = PreflightError.status
        gevent.spawn(runner.quit)
    # The one way out of a listener that Locust neither logs nor passes over.
    raise gevent.GreenletExit


@events.test_stop.add_listener
def _stop(environment: Any, **_: Any) -> None:
    test = _tests.pop(environment, None)
    if test is None:
        return
    pool_line = test.close()
    if isinstance(environment.runner, LocalRunner):
        _say(latency_line(environment.stats))
    _say(pool_line)
