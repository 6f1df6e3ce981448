"""A loop as an ordinary Locust test: its own options, its figures in Locust's statistics.

REDIS_URL names the server (an option would send its password in Locust's plain messages). Which
loop it is follows from the user class in the locustfile; with several processes from that of the
master, which names it to its workers.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from itertools import count
from time import perf_counter as clock
from typing import Any, ClassVar, NoReturn

import gevent
from locust import User, events, task
from locust.exception import StopUser
from locust.runners import LocalRunner, MasterRunner, WorkerRunner
from redis.exceptions import RedisError

from bench.load.clients import SESSIONS, open_pool
from bench.load.closed_loop import ClosedLoop
from bench.load.live import Board, Meter, Reading, ServerWatch
from bench.load.live_page import serve
from bench.load.locust_stats import Totals, latency_line, log
from bench.load.open_loop import OpenLoop
from bench.load.pool import Pool
from bench.load.timer import NEVER
from bench.model import BenchError, Cell, PreflightError, Workload
from bench.rig.access import Access
from bench.rig.server import open_server

DEFAULT_URL = "redis://127.0.0.1:6379"
FEED_INTERVAL_S = 0.5
FEEDS_A_READING = 2  # of the live view, which is told once a second
# For the last replies. Workers that end with their master must be done within 0.5 s: Locust waits
# no longer for their last report.
DRAIN_S = 0.25
DRAIN_POLL_S = 0.002
RUNNER_POLL_S = 0.001
REPORT = "bench"  # a worker's totals, in its reports to the master
LIVE = "bench.live"  # a message: a worker's reading for the live view, or why it refused
DROPPED = "dropped: the backlog was full"


class StandaloneUser(User):
    """One virtual user of the test in this process, until that stops. Its class says which loop."""

    abstract = True
    option_of: ClassVar[dict[str, str]] = {
        "pool_size": "--pool-size",
        "acquire_timeout_s": "--acquire-timeout",
        "keys": "--keys",
        "value_bytes": "--value-bytes",
        "get_share": "--get-share",
    }
    """What sets these fields of the cell, for complaints."""

    @classmethod
    def load(cls, options: Any) -> dict[str, Any]:
        """Fields of the cell beside pool and workload. Raises PreflightError."""
        return {}

    @classmethod
    def doubt(cls, options: Any, users: int) -> str:
        """What may not be meant where each process has so many users; empty: nothing.

        Raises PreflightError where that cannot work.
        """
        return ""

    @task
    def serve(self) -> None:
        _tests[self.environment].take_in()
        raise StopUser


class ClosedLoopUser(StandaloneUser):
    """Sends its next request after the last reply, without think time."""


class StandaloneTest:
    """The pool and job of one Locust test in this process, fed to Locust's statistics."""

    def __init__(self, environment: Any) -> None:
        options = environment.parsed_options
        user_class = _user_class(environment)
        worker, workers = _place(environment.runner, options)
        cell = _cell(user_class, options, workers)
        self.loop = cell.loop
        self.number = getattr(options, "bench_test", 0)
        self.totals = Totals()
        self._environment = environment
        self._stopped_at = NEVER
        self._inside = 0
        self._begun = False
        self.pool: Pool = open_pool(cell, Access(_url()), None)
        if options.opening == "prefilled":
            self.pool.prefill()
        self._meter = self._new_meter(first=worker == 0) if _is_watched(environment) else None
        make: type[OpenLoop | ClosedLoop] = OpenLoop if cell.loop == "open" else ClosedLoop
        self.job = make(cell, self.pool, users=0, seed=options.seed, worker=worker)
        self._fed_at = clock()
        self._feeder = gevent.spawn(self._feed_for_ever)

    def _new_meter(self, *, first: bool) -> Meter:
        """One process asks the server; all would be told the same."""
        return Meter(self.pool, ServerWatch(_url()) if first else None)

    def take_in(self) -> None:
        """Be one virtual user until the test stops. Blocks its greenlet."""
        self._inside += 1
        try:
            self.job.run()
        finally:
            self._inside -= 1

    def begin(self) -> None:
        """All users are in, be it for the first time or after an edit in the web UI."""
        if not self._begun:
            self._begun = True
            self.job.begin()

    @property
    def ended(self) -> bool:
        """Whether the arrivals came from a trace, and all of them are done with."""
        ends_at = self.job.ends_at if isinstance(self.job, OpenLoop) else NEVER
        return self._fed_at >= ends_at and not self.totals.unfinished

    def _feed_for_ever(self) -> None:
        for number in count(1):
            gevent.sleep(FEED_INTERVAL_S)
            self._feed()
            if number % FEEDS_A_READING == 0:
                self._tell()
            if self.ended and isinstance(self._environment.runner, LocalRunner):
                _end(self._environment)

    def _feed(self) -> None:
        """Hand over what was recorded since the last time."""
        now = min(clock(), self._stopped_at)
        stats, recorder = self._environment.stats, self.job.recorder
        failures, rows = recorder.drain_errors(), recorder.drain()
        offered = dropped = 0
        failed = sum(failures.values())
        if isinstance(self.job, OpenLoop):
            offered = self.job.offered(self._fed_at, now)["scheduled"]
            dropped = self.job.drain_dropped()
            self.totals.add(rows, offered=offered, failed=failed, dropped=dropped)
        if self._meter is not None:
            self._meter.add(rows, failed=failed, dropped=dropped, offered=offered)
        log(stats, f"{self.loop} loop", rows, failures | ({DROPPED: dropped} if dropped else {}))
        self._fed_at = now

    def _tell(self, *, final: bool = False) -> None:
        if self._meter is not None:
            _tell(self._environment, self._meter.read(final=final))

    def stop(self) -> None:
        """Let no request begin any more; blocks for the last replies, or for as long as Locust's
        --stop-timeout says. What is out after that was not finished: its user is about to end."""
        self._stopped_at = clock()
        self.job.stop(self._stopped_at)
        deadline = clock() + max(DRAIN_S, self._environment.stop_timeout or 0.0)
        while self._inside and clock() < deadline:
            gevent.sleep(DRAIN_POLL_S)
        self._feeder.kill()
        self._feed()
        self._tell(final=True)

    def close(self) -> list[str]:
        """Close the pool of the stopped test; returns what is to be said of it."""
        if self._meter is not None:
            self._meter.close()
        self.pool.close()
        stats = self.pool.stats()
        pool = (
            f"pool peak {stats.peak_used} of {stats.max}, "
            f"{stats.empty} of {stats.requests} requests found it empty"
        )
        if self.loop == "closed":
            return [pool]
        late = [] if self._begun else ["no load sent: users were still being spawned; raise -r"]
        return [*late, self.totals.line(), pool]


class StandaloneMaster:
    """Shares a test out to the workers, and sums up what they report of an open loop."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._reports: dict[str, dict[str, Any]] = {}  # by worker
        environment.parsed_options.bench_test = 0

    def share_out(self, **_: Any) -> None:
        """At the test's start. Locust hands the master's options to its workers."""
        options, runner = self._environment.parsed_options, self._environment.runner
        workers = [*runner.clients.ready, *runner.clients.running, *runner.clients.spawning]
        options.bench_test += 1
        options.bench_user = _user_class(self._environment).__name__
        options.bench_workers = [worker.id for worker in workers]
        options.bench_watched = self._environment in _boards
        self._reports = {}
        _show_test(self._environment, len(workers))
        _doubt(self._environment, len(workers))

    def take_reading(self, msg: Any, **_: Any) -> None:
        """For the live view."""
        board = _boards.get(self._environment)
        if board is None:
            return
        if refused := msg.data.get("refused"):
            board.trouble = f"{msg.node_id}: {refused}"
        elif msg.data["test"] == self._environment.parsed_options.bench_test:
            board.take(msg.node_id, msg.data)

    def take_report(self, client_id: str, data: dict[str, Any]) -> None:
        """Reports count from the test's start, so the last one of each worker stands."""
        report = data.get(REPORT)
        options, runner = self._environment.parsed_options, self._environment.runner
        if report is None or report["test"] != options.bench_test:
            return
        self._reports[client_id] = report
        there = [self._reports.get(worker.id) for worker in runner.clients.running]
        if there and all(report is not None and report["ended"] for report in there):
            _end(self._environment)

    def say(self, **_: Any) -> None:
        """At the very end: by test_stop the workers' last reports are not in yet."""
        _say(latency_line(self._environment.stats))
        if self._reports:
            totals = Totals()
            for report in self._reports.values():
                totals.add_packed(report)
            _say(totals.line())


def _user_class(environment: Any) -> type[StandaloneUser]:
    """The one whose loop this test is. Raises PreflightError."""
    if isinstance(environment.runner, WorkerRunner):
        name = getattr(environment.parsed_options, "bench_user", "")
        if name not in environment.user_classes_by_name:
            raise PreflightError(
                f"this worker does not have its master's {name or 'users'}: start `bench worker`, "
                "and the master with a file of locustfiles/"
            )
        found: type[StandaloneUser] = environment.user_classes_by_name[name]
        return found
    try:
        (found,) = environment.user_classes
    except ValueError:
        raise PreflightError("a test is one loop: name one file of locustfiles/") from None
    return found


def _doubt(environment: Any, workers: int) -> None:
    users = environment.runner.target_user_count // workers
    try:
        doubt = _user_class(environment).doubt(environment.parsed_options, users)
    except PreflightError as error:
        _refuse(environment, f"no load sent: {error}")
    if doubt:
        _say(f"bench: {doubt}")
        _trouble(environment, doubt)


def _place(runner: Any, options: Any) -> tuple[int, int]:
    """This process's number from 0, and among how many the load is shared out.

    Raises PreflightError for a worker that the shares were not made for.
    """
    if isinstance(runner, LocalRunner):
        return 0, 1
    sharing = options.bench_workers
    if runner.client_id in sharing:
        return sharing.index(runner.client_id), len(sharing)
    if options.bench_user == ClosedLoopUser.__name__:
        return runner.worker_index, len(sharing)
    raise PreflightError("this worker joined after the rate was shared out: start it before")


def _cell(user_class: type[StandaloneUser], options: Any, workers: int = 1) -> Cell:
    """Raises PreflightError."""
    try:
        return Cell(
            experiment="standalone",
            pool_size=options.pool_size,
            concurrency=1,
            client=options.client,
            resp=options.resp,
            workers=workers,
            opening=options.opening,
            order=options.order,
            test_on_borrow=options.test_on_borrow,
            acquire_timeout_s=options.acquire_timeout,
            workload=Workload(options.keys, options.value_bytes, options.get_share),
            **user_class.load(options),
        )
    except PreflightError as error:
        name, _, rest = str(error).partition(" ")
        raise PreflightError(f"{user_class.option_of.get(name, name)} {rest}") from error


def _url() -> str:
    return os.environ.get("REDIS_URL") or DEFAULT_URL


def _say(text: str) -> None:
    """Beside Locust's tables, and out of the way of `--json`."""
    print(text, file=sys.stderr, flush=True)


_tests: dict[Any, StandaloneTest] = {}
_boards: dict[Any, Board] = {}  # where there is a web UI
THIS_PROCESS = "this process"


def _is_watched(environment: Any) -> bool:
    """Whether the test has a live view, here or at the master."""
    return environment in _boards or getattr(environment.parsed_options, "bench_watched", False)


def _tell(environment: Any, reading: Reading) -> None:
    if environment in _boards:
        _boards[environment].take(THIS_PROCESS, reading)
    else:
        number = environment.parsed_options.bench_test
        environment.runner.send_message(LIVE, {**reading, "test": number})


def _trouble(environment: Any, what: str) -> None:
    """For whoever looks at the live view, which may be another process's."""
    if environment in _boards:
        _boards[environment].trouble = what
    elif _is_watched(environment):
        environment.runner.send_message(LIVE, {"refused": what})


def _show_test(environment: Any, workers: int) -> None:
    if environment in _boards:
        cell = _cell(_user_class(environment), environment.parsed_options, workers)
        _boards[environment].begin(cell)


def form_fields(group: Any) -> Any:
    """`add_argument` of a group whose options are fields of the web UI's form too: by itself Locust
    shows only those outside of groups."""

    def add(*names: str, **settings: Any) -> None:
        group.add_argument(*names, **settings).include_in_web_ui = True

    return add


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    add = form_fields(parser.add_argument_group("Pool and workload (per worker)"))
    add("--pool-size", type=int, default=20, help="connections")
    add(
        "--acquire-timeout",
        type=float,
        default=20.0,
        help="seconds a request waits for a connection",
    )
    add(
        "--test-on-borrow",
        choices=("none", "passive", "ping"),
        default="none",
        help="how a connection is validated before it is lent",
    )
    add(
        "--client",
        choices=tuple(SESSIONS),
        default="lean",
        help="how a request is made: docs/glossary.md has them",
    )
    add("--order", choices=("lifo", "fifo"), default="lifo", help="which idle connection is lent")
    add(
        "--opening",
        choices=("prefilled", "lazy"),
        default="prefilled",
        help="connections at the start, or on demand",
    )
    add("--resp", type=int, choices=(2, 3), default=3, help="protocol")
    add("--keys", type=int, default=1000, help="how many there are")
    add("--value-bytes", type=int, default=100, help="of each key")
    add("--get-share", type=float, default=1.0, help="the rest is SET")
    add("--seed", type=int, default=1, help="of keys and arrivals")


@events.init.add_listener
def _init(environment: Any, **_: Any) -> None:
    runner = environment.runner
    if not isinstance(runner, WorkerRunner):
        _preflight(environment)
    if isinstance(runner, MasterRunner):
        master = StandaloneMaster(environment)
        events.test_start.add_listener(master.share_out)
        events.worker_report.add_listener(master.take_report)
        runner.register_message(LIVE, master.take_reading)
        events.quit.add_listener(master.say)
    if environment.web_ui is not None:
        board = _boards[environment] = Board()
        serve(environment, board, functools.partial(_check, environment))
    # Python raises it in whatever runs: in a user, whose end Locust shows as a failure, or in its
    # own sockets.
    gevent.signal_handler(signal.SIGINT, gevent.kill, gevent.getcurrent(), KeyboardInterrupt)


def _check(environment: Any, options: Any, users: int) -> None:
    """Raises PreflightError where no test of so many users could be run with these options."""
    _check_host(environment.host, options.host)
    user_class, workers = _user_class(environment), max(1, environment.runner.worker_count)
    _cell(user_class, options, workers)
    user_class.doubt(options, users // workers)
    if isinstance(environment.runner, LocalRunner):
        open_server(_url(), max_connections=options.pool_size).close()


def _check_host(known: str | None, asked: str | None) -> None:
    """Raises PreflightError where the form is to lead to another server."""
    if asked and asked != known:
        raise PreflightError(
            f"the server is not set by Host: leave that as it is, and start again with REDIS_URL "
            f"in the environment{' of each worker' if known is None else ''}"
        )


def _preflight(environment: Any) -> None:
    """Ends the process, before there is a web UI, when no test could be run."""
    try:
        _cell(_user_class(environment), environment.parsed_options)
        if isinstance(environment.runner, LocalRunner):
            with open_server(_url(), max_connections=1) as server:
                environment.host = server.shown_url
    except PreflightError as error:
        _say(f"bench: {error}")
        sys.exit(error.status)


def _refuse(environment: Any, reason: str) -> NoReturn:
    """No users: a web UI lives on and can be asked again, any other process ends."""
    _say(f"bench: {reason}")
    _trouble(environment, reason)
    if environment.web_ui is None:
        environment.process_exit_code = PreflightError.status
    _end(environment)
    # The one way out of a listener that Locust neither logs nor passes over.
    raise gevent.GreenletExit


def _end(environment: Any) -> None:
    """Does not block: who asks may be among what ends."""
    gevent.spawn(environment.runner.quit if environment.web_ui is None else environment.runner.stop)


# These listen from the import on: a worker that comes to a test that runs is told to start before
# it has its `init`, or even its runner.


@events.test_start.add_listener
def _start(environment: Any, **_: Any) -> None:
    while environment.runner is None:
        gevent.sleep(RUNNER_POLL_S)
    if isinstance(environment.runner, MasterRunner):
        return  # the workers hold the pools
    _tests.pop(environment, None)
    try:
        if isinstance(environment.runner, LocalRunner):
            _show_test(environment, 1)
            _doubt(environment, 1)
        _tests[environment] = StandaloneTest(environment)
    except (BenchError, RedisError, OSError, ValueError) as error:
        _refuse(environment, f"no load sent: {error}")


@events.spawning_complete.add_listener
def _begin(**_: Any) -> None:
    for test in _tests.values():  # one at most, in a process of Locust's own
        test.begin()


@events.test_stopping.add_listener
def _stop(environment: Any, **_: Any) -> None:
    if environment in _tests:
        _tests[environment].stop()


@events.test_stop.add_listener
def _close(environment: Any, **_: Any) -> None:
    if environment not in _tests:
        return
    if isinstance(environment.runner, LocalRunner):
        _say(latency_line(environment.stats))
    for line in _tests[environment].close():
        _say(line)


@events.report_to_master.add_listener
def _report(data: dict[str, Any], **_: Any) -> None:
    for test in _tests.values():
        if test.loop == "open":
            data[REPORT] = {**test.totals.packed(), "test": test.number, "ended": test.ended}
