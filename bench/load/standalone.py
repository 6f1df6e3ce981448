"""The closed loop as an ordinary Locust test: its own options, its figures in Locust's statistics.

REDIS_URL names the server (an option would send its password in Locust's plain messages).
"""

from __future__ import annotations

import os
import time
from typing import Any

import gevent
import numpy as np
from locust import User, events, task
from locust.stats import RequestStats, StatsEntry
from redis.exceptions import RedisError

from bench.load.clients import SESSIONS, open_pool
from bench.load.pool import Pool
from bench.load.recorder import Floats, add_seconds, new_histogram
from bench.load.users import Job
from bench.model import Cell, Workload

DEFAULT_URL = "redis://127.0.0.1:6379"
FEED_INTERVAL_S = 1.0
REPORTED = (50, 90, 99, 99.9)
METHOD = "redis"


class ClosedLoopUser(User):
    """Sends its next request after the last reply, without think time."""

    @task
    def serve(self) -> None:
        _tests[self.environment].job.run()


class StandaloneTest:
    """One Locust test's pool, job and histograms, fed to Locust's statistics once a second."""

    def __init__(self, environment: Any) -> None:
        options = environment.parsed_options
        self._stats: RequestStats = environment.stats
        url = os.environ.get("REDIS_URL") or DEFAULT_URL
        self.pool: Pool = open_pool(_cell(options), url, None)
        if options.opening == "prefilled":
            self.pool.prefill()
        self.job = Job(_cell(options), self.pool, users=0, seed=options.seed)
        self._histogram = new_histogram()
        self._feeder = gevent.spawn(self._feed_for_ever)

    def _feed_for_ever(self) -> None:
        while True:
            gevent.sleep(FEED_INTERVAL_S)
            self.feed()

    def feed(self) -> None:
        """Hand over what was recorded since the last call."""
        latency = (rows := self.job.recorder.drain())[:, 2] - rows[:, 0]
        add_seconds(self._histogram, latency)
        if latency.size:
            _log(self._stats, "closed loop", latency * 1e3)
        for kind, count in self.job.recorder.drain_errors().items():
            for _ in range(count):
                self._stats.log_error(METHOD, "closed loop", kind)

    def close(self) -> str:
        """Stop, close the pool; returns one line with the true percentiles."""
        self.job.stopping = True
        self._feeder.kill()
        self.feed()
        self.pool.close()
        figures = ", ".join(
            f"p{p:g} {self._histogram.get_value_at_percentile(p) / 1e3:.3f} ms" for p in REPORTED
        )
        stats = self.pool.stats()
        return (
            f"latency of {self._histogram.get_total_count()} requests: {figures}; "
            f"pool peak {stats.peak_used} of {stats.max}, {stats.empty} of {stats.requests} "
            "requests found it empty"
        )


def _log(stats: RequestStats, name: str, milliseconds: Floats) -> None:
    """Add many response times at once. Keys keep three digits: Locust's own rounding to whole
    milliseconds would show most of a Redis as 0."""
    values, counts = np.unique(_three_digits(milliseconds), return_counts=True)
    entry: Any = StatsEntry(stats, name, METHOD)  # its own types say int
    entry.num_requests = int(milliseconds.size)
    entry.total_response_time = float(milliseconds.sum())
    entry.min_response_time = float(milliseconds.min())
    entry.max_response_time = float(milliseconds.max())
    entry.response_times.update(zip(values.tolist(), counts.tolist(), strict=True))
    entry.last_request_timestamp = time.time()
    entry.num_reqs_per_sec[int(entry.last_request_timestamp)] = entry.num_requests
    stats.get(name, METHOD).extend(entry)
    stats.total.extend(entry)


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


@events.test_start.add_listener
def _start(environment: Any, **_: Any) -> None:
    if type(environment.runner).__name__ == "MasterRunner":
        return  # the workers hold the pools
    try:
        _tests[environment] = StandaloneTest(environment)
    except (RedisError, OSError, ValueError) as error:
        print(f"bench: no load sent: {error}")
        environment.process_exit_code = 2
        environment.runner.quit()


@events.test_stop.add_listener
def _stop(environment: Any, **_: Any) -> None:
    test = _tests.pop(environment, None)
    if test is not None:
        print(test.close())
