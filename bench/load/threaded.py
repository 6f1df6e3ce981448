"""The threaded client's own process: `python -m bench.load.threaded`, asked as a `Companion`.

valkey-glide blocks the thread that calls it, and with it a gevent hub, so its users are threads.
All of a process share one client, which has one connection and multiplexes: nobody waits for a
connection, and requests are acquired the moment they are sent. Times and figures are those of the
Locust workers, by the same recorder.

The interpreter's switch interval stays as services have it, 5 ms. Of eight runs each in a closed
loop of 50 threads, the median was 21,400/s at 69 µs of CPU a request with it, and with 0.5 ms
16,600/s at 86 µs; in the open loops below it made no difference.
"""

from __future__ import annotations

import gc
import itertools
import resource
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter as clock
from typing import Any

import numpy as np

from bench.load.arrivals import schedule
from bench.load.commands import COMMANDS, draw
from bench.load.recorder import DONE, IN_FLIGHT, SENT, Recorder
from bench.load.telling import serve
from bench.model import BenchError, Cell
from bench.rig.relay import sharpen_timers

REQUEST_TIMEOUT_MS = 2_000  # its own 250 would fail what the other clients wait for
CONNECT_TIMEOUT_MS = 5_000
DRAIN_S, DRAIN_TIMEOUT_S = 10.0, 15.0  # as the Locust workers have it
PAUSE_AFTER_FAILURE_S = 0.01
AHEAD_S = 1.0
LONGEST_NAP_S = 0.05  # of a carrier, until it looks whether the cell is over
NEVER = float("inf")

Call = Callable[[tuple[Any, ...]], Any]


class Crowd:
    """The threads of one cell, and what they record."""

    def __init__(self, cell: Cell, call: Call, users: int, seed: int, worker: int) -> None:
        assert cell.workload.depth == 1, "pipelines are the lean client's"
        self.recorder = Recorder(COMMANDS)
        self._cell = cell
        self._call = call
        sinks = {name: self.recorder.sink(name) for name in COMMANDS}
        requests = [(each[0], sinks[name]) for name, each in draw(cell.workload, seed + worker)]
        self._requests = itertools.cycle(requests)
        # A place for each thread, which alone writes there: sums need no lock.
        self._used_s = array("d", bytes(8 * users))
        self._since = array("d", bytes(8 * users))
        self._failed = array("d")  # when sent and when given up, in turn
        self._stops_at = NEVER
        self._abandoned = False
        self._turn = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True)
            for number in range(users)
        ]

    def begin(self) -> None:
        """Let the users in. Returns when all are going."""
        for thread in self._threads:
            thread.start()

    def stop(self, at: float) -> None:
        """Begin nothing that is due from `at` on, a perf_counter second that has just passed;
        blocks until the last reply. Raises BenchError when that takes longer than
        `DRAIN_TIMEOUT_S`."""
        self._stops_at = at
        began = clock()
        self._join(began + DRAIN_S)
        self._abandoned = True  # a backlog may take minutes: what is left of it is not served
        self._join(began + DRAIN_TIMEOUT_S)
        if any(thread.is_alive() for thread in self._threads):
            raise BenchError(f"requests were still out {DRAIN_TIMEOUT_S:g} s after the window")

    def _join(self, deadline: float) -> None:
        for thread in self._threads:
            thread.join(max(0.0, deadline - clock()))

    def used_seconds(self) -> tuple[float, float]:
        """The time integral of the number of requests that are out, and when that was so."""
        # Nobody else can run between these copies: the interpreter switches at calls alone.
        used, since = self._used_s[:], self._since[:]
        now = clock()
        return sum(used) + sum(now - each for each in since if each), now

    def peak(self, start: float, end: float) -> int:
        """The most requests that were out at once within the window, the failed ones too."""
        rows = self.recorder.rows(since=0.0)[:, [SENT, DONE]]
        begun, ended = np.concatenate([rows, np.frombuffer(self._failed).reshape(-1, 2)]).T
        inside = (ended >= start) & (begun < end)
        times = np.concatenate([ended[inside], begun[inside]])
        steps = np.repeat([-1, 1], np.count_nonzero(inside))
        return int(np.cumsum(steps[np.argsort(times, kind="stable")]).max(initial=0))

    def offered(self, start: float, end: float) -> dict[str, int]:
        """How many requests were scheduled in [start, end), and how many of these were dropped."""
        raise NotImplementedError

    # In a thread

    def _work(self, number: int) -> None:
        """Be one user until the crowd stops."""
        raise NotImplementedError

    def _serve(self, number: int, intended: float | None = None) -> bool:
        """Whether there was a reply. Without `intended`, that is when it is sent."""
        words, record = next(self._requests)
        sent = self._since[number] = clock()
        try:
            self._call(words)
        except Exception as error:  # each release of the client has kinds of its own
            done = self._over(number, sent)
            with self._turn:
                self._failed.extend((sent, done))
                self.recorder.fail(error, timed_out=False)
            return False
        done = self._over(number, sent)
        record((sent if intended is None else intended, sent, sent, done))
        return True

    def _over(self, number: int, sent: float) -> float:
        done = clock()
        self._since[number] = 0.0
        self._used_s[number] += done - sent
        return done


class ClosedCrowd(Crowd):
    """Each thread sends its next request after the last reply."""

    def offered(self, start: float, end: float) -> dict[str, int]:
        """Nothing is scheduled here."""
        return {}

    def _work(self, number: int) -> None:
        # Evenly over one round trip, or they would march in step for good.
        time.sleep(max(self._cell.rtt_s, 0.001) * number / len(self._threads))
        while clock() < self._stops_at:
            if not self._serve(number):
                time.sleep(PAUSE_AFTER_FAILURE_S)  # a refused request must not spin


class OpenCrowd(Crowd):
    """Worker `worker`'s share of the cell's arrivals: a thread takes the next one, sleeps until it
    is due, and sends it. Where all are out, what is due waits to be sent, and that is send lag.

    A scheduler that wakes a free thread for each arrival was tried: from 500 to 5,000/s its send
    lag was 40 to 70 µs at the median against 20 to 30, at p99 0.3 to 1 ms against 0.2 to 0.4, and
    its CPU the same or a tenth more (medians of four runs each).
    """

    def __init__(self, cell: Cell, call: Call, users: int, seed: int, worker: int) -> None:
        super().__init__(cell, call, users, seed, worker)
        assert cell.arrivals is not None, "an open loop has arrivals"
        assert cell.offered_qps is not None, "an open loop has a rate"
        self._schedule = schedule(cell.arrivals, cell.offered_qps, seed, worker, cell.workers)

    def begin(self) -> None:
        planned_s = self._cell.warmup_s + self._cell.measure_s + AHEAD_S
        first = self._schedule.between(0.0, planned_s)
        self._began = clock()
        self._times = self._due(first, planned_s)
        super().begin()

    def _due(self, first: Any, until_s: float) -> Iterator[float]:
        """Intended times on the clock; they end where a trace does."""
        yield from array("d", (first + self._began).tobytes())
        while until_s < self._schedule.end_s:
            part = self._schedule.between(until_s, until_s + AHEAD_S)
            yield from array("d", (part + self._began).tobytes())
            until_s += AHEAD_S

    def offered(self, start: float, end: float) -> dict[str, int]:
        scheduled = self._schedule.count(start - self._began, end - self._began)
        return {"scheduled": scheduled, "dropped": 0}

    def _work(self, number: int) -> None:
        sharpen_timers()  # it is a setting of the thread
        while not self._abandoned and self._comes(intended := self._next()):
            self._serve(number, intended)

    def _next(self) -> float:
        with self._turn:
            return next(self._times, NEVER)

    def _comes(self, intended: float) -> bool:
        """Sleep until then; whether it is to be served."""
        while intended < self._stops_at:
            early = intended - clock()
            if early <= 0:
                return True
            time.sleep(min(early, LONGEST_NAP_S))
        return False


class Agent:
    """Keeps the client and the crowd of the current cell."""

    def __init__(self) -> None:
        self._client: Any = None
        self._identity: dict[str, Any] = {}
        self._connect_s = 0.0
        self._crowd: Crowd | None = None

    def prepare(
        self, cell: dict[str, Any], way: dict[str, Any], share: int, seed: int, worker: int
    ) -> dict[str, Any]:
        """Connect by this `way`, unless the last cell's client did. Blocks for that."""
        began = clock()
        self._cell, self._worker = Cell.from_dict(cell), worker
        identity = {**way, "resp": self._cell.resp}
        if identity != self._identity:
            self.close()
            self._client = _connect(**identity)
            self._identity, self._connect_s = identity, clock() - began
        if not gc.get_freeze_count():
            gc.freeze()
        kind = ClosedCrowd if self._cell.loop == "closed" else OpenCrowd
        self._crowd = kind(self._cell, _caller(self._client), share, seed, worker)
        return {"seconds": clock() - began}

    def enter(self) -> dict[str, Any]:
        """Let the users begin, and warm up. Blocks until that is over."""
        gc.collect()
        gc.disable()
        self._prepared().begin()
        time.sleep(self._cell.warmup_s)
        return {}

    def measure(self) -> dict[str, Any]:
        """Measure the users that are going, and stop them. Blocks for the window and the drain."""
        crowd = self._prepared()
        try:
            opening = _readings(crowd)
            time.sleep(self._cell.measure_s)
            closing = _readings(crowd)
        finally:
            crowd.stop(clock())
            gc.enable()
        return self._share(crowd, opening, closing)

    def close(self) -> dict[str, Any]:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
        self._client, self._identity = None, {}
        return {}

    def _prepared(self) -> Crowd:
        assert self._crowd is not None, "`prepare` comes first"
        return self._crowd

    def _share(
        self, crowd: Crowd, opening: dict[str, float], closing: dict[str, float]
    ) -> dict[str, Any]:
        """As `bench.load.agent.Agent.measure` answers it."""
        start, end = opening["at"], closing["at"]
        recorder, cell = crowd.recorder, self._cell
        figures = recorder.window(start, end, cell.loop)
        for row in figures["series"]:
            row["borrows"], row["empty"] = float(row["requests"]), 0.0
        delta = {name: closing[name] - opening[name] for name in opening}
        return {
            **figures,
            **crowd.offered(start, end),
            **self._details(recorder, start, end),
            "worker": self._worker,
            "pool_size": cell.pool_size,
            "start": start,
            "window_s": delta["at"],
            "user_s": delta["user_s"],
            "system_s": delta["system_s"],
            "in_use_mean": delta["used_seconds"] / delta["used_at"],
            "in_use_peak": crowd.peak(start, end),
            "borrows": figures["done"],
            "empty": 0,
            "created": 1,
            "create_time_s": self._connect_s,
            "operations": recorder.operations(),
            "errors": recorder.errors,
            "timeouts": recorder.timeouts,
            "failures": recorder.error_samples,
            "phases": {},
        }

    def _details(self, recorder: Recorder, start: float, end: float) -> dict[str, Any]:
        kept = {"rows": recorder.rows(since=start).tobytes()} if self._cell.keep_requests else {}
        if self._cell.loop == "closed":
            return kept
        return {**kept, IN_FLIGHT: recorder.in_flight(start, end)}


def _readings(crowd: Crowd) -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)  # of all threads, the client's own too
    used_seconds, used_at = crowd.used_seconds()
    return {
        "at": clock(),
        "user_s": usage.ru_utime,
        "system_s": usage.ru_stime,
        "used_seconds": used_seconds,
        "used_at": used_at,
    }


def _connect(
    host: str,
    port: int,
    username: str | None,
    password: str | None,
    database: int,
    tls: bool,
    ca_file: str | None,
    resp: int,
) -> Any:
    """A client with its one connection open."""
    import glide_sync as glide

    glide.Logger.init(glide.LogLevel.OFF)  # or it fills a folder or the terminal
    trusted = Path(ca_file).read_bytes() if ca_file else None
    return glide.GlideClient.create(
        glide.GlideClientConfiguration(
            [glide.NodeAddress(host, port)],
            use_tls=tls,
            credentials=glide.ServerCredentials(password, username) if password else None,
            database_id=database,
            request_timeout=REQUEST_TIMEOUT_MS,
            protocol=glide.ProtocolVersion.RESP2 if resp == 2 else glide.ProtocolVersion.RESP3,
            inflight_requests_limit=100_000,
            advanced_config=glide.AdvancedGlideClientConfiguration(
                connection_timeout=CONNECT_TIMEOUT_MS,
                tls_config=glide.TlsAdvancedConfiguration(root_pem_cacerts=trusted),
            ),
        )
    )


def _caller(client: Any) -> Call:
    get, set_, custom = client.get, client.set, client.custom_command

    def call(words: tuple[Any, ...]) -> Any:
        if words[0] == "GET":
            return get(words[1])
        if words[0] == "SET":
            return set_(words[1], words[2])
        return custom(list(words))

    return call


def main() -> None:
    agent = Agent()
    works = (agent.prepare, agent.enter, agent.measure, agent.close)
    serve({work.__name__: work for work in works})
    agent.close()


if __name__ == "__main__":
    main()
