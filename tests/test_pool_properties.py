"""Whatever is done to a pool in whatever order, no slot is lost and its size is never exceeded.

One machine of random steps against the real server, run with threads here and with greenlets in a
monkey-patched child (`python test_pool_properties.py URL`), where waiters and borrowers are also
killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    import gevent

import contextlib
import itertools
import random
import select
import threading
import time
from concurrent.futures import Future

import pytest
import redis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bench.load.pool import AcquireTimeout, Pool, _native_poll

PATIENCE_S = 10.0
GREENLETS = __name__ == "__main__"
QUIET = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    max_examples=40,
    stateful_step_count=40,
)
_numbers = itertools.count()


def until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.0005)


def ask(connection: Any, *words: Any) -> Any:
    connection.send_command(*words)
    return connection.read_response()


def has_ended(sock: Any) -> bool:
    """Whether the peer has closed, be there unread data or not."""
    poller = _native_poll()
    poller.register(sock.fileno(), getattr(select, "POLLRDHUP", 0))
    return bool(poller.poll(0))


class Borrower:
    """A thread or greenlet that asks the pool for one connection."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._outcome: Future[Any] = Future()
        if GREENLETS:
            self._greenlet = gevent.spawn(self._run)
        else:
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._outcome.set_result(self._pool.get_connection())
        except BaseException as error:
            self._outcome.set_exception(error)

    def connection(self) -> Any:
        return self._outcome.result(PATIENCE_S)

    def done(self) -> bool:
        return self._outcome.done()

    def kill(self, now: bool) -> None:
        """At once, or in the next turn of the loop; either way before what is granted later."""
        self._greenlet.kill(block=now)


class PoolMachine(RuleBasedStateMachine):
    """Every step is mirrored in `held` and `waiting`; the pool and the server must agree."""

    url = ""

    @initialize(
        size=st.integers(1, 5),
        test=st.sampled_from(["passive", "ping"]),
        fifo=st.booleans(),
        protocol=st.sampled_from([2, 3]),
    )
    def open(self, size: int, test: Any, fifo: bool, protocol: int) -> None:
        self.name = f"pool-property-{os.getpid()}-{next(_numbers)}"
        self.pool = Pool.from_url(
            self.url,
            max_connections=size,
            timeout=None,
            test_on_borrow=test,
            fifo=fifo,
            protocol=protocol,
            client_name=self.name,
            max_idle_time=1000,
            max_lifetime=1000,
        )
        self.admin = redis.Redis.from_url(self.url, decode_responses=True)
        self.held: list[Any] = []
        self.waiting: list[Borrower] = []

    def full(self) -> bool:
        return len(self.held) >= self.pool.max_connections

    def settle(self) -> None:
        """What is free goes to the first in line, in order; take note of it."""
        while self.waiting and not self.full():
            self.held.append(self.waiting.pop(0).connection())
        until(lambda: self.pool.stats().changing == 0)

    def pick(self, connections: list[Any], choice: int) -> Any:
        return connections[choice % len(connections)]

    @precondition(lambda self: not self.full())
    @rule()
    def borrow(self) -> None:
        self.held.append(self.pool.get_connection())

    @precondition(lambda self: self.full())
    @rule()
    def wait(self) -> None:
        pending = self.pool.stats().pending_requests
        self.waiting.append(Borrower(self.pool))
        until(lambda: self.pool.stats().pending_requests == pending + 1)

    @precondition(lambda self: self.full())
    @rule()
    def refuse(self) -> None:
        self.pool.timeout = 0
        with pytest.raises(AcquireTimeout):
            self.pool.get_connection()
        self.pool.timeout = None

    @precondition(lambda self: self.held)
    @rule(choice=st.integers(0, 99), twice=st.booleans())
    def give_back(self, choice: int, twice: bool) -> None:
        connection = self.held.pop(choice % len(self.held))
        self.pool.release(connection)
        if twice and not self.waiting:
            self.pool.release(connection)
        self.settle()

    @precondition(lambda self: self.held)
    @rule(choice=st.integers(0, 99))
    def give_back_broken(self, choice: int) -> None:
        connection = self.held.pop(choice % len(self.held))
        connection.disconnect()
        self.pool.release(connection)
        self.settle()

    @precondition(lambda self: self.held)
    @rule(choice=st.integers(0, 99))
    def leave_a_reply_unread(self, choice: int) -> None:
        connection = self.held.pop(choice % len(self.held))
        with contextlib.suppress(redis.ConnectionError):  # killed before
            connection.send_command("ECHO", "somebody else's")
            until(connection.can_read)
        self.pool.release(connection)
        self.settle()

    @precondition(lambda self: self.pool.stats().count_idle)
    @rule(choice=st.integers(0, 99), how=st.sampled_from(["killed", "idle", "lifetime"]))
    def spoil_an_idle_one(self, choice: int, how: str) -> None:
        connection = self.pick(sorted(self.pool._get_free_connections(), key=id), choice)
        if how == "killed":
            self.close_on_server(connection)
        elif how == "idle":
            connection.idle_since -= 2000
        else:
            connection.expires_at = 0.0

    @precondition(lambda self: self.held)
    @rule(choice=st.integers(0, 99), how=st.sampled_from(["killed", "lifetime", "marked"]))
    def spoil_a_lent_one(self, choice: int, how: str) -> None:
        connection = self.pick(self.held, choice)
        if how == "killed":
            self.close_on_server(connection)
        elif how == "lifetime":
            connection.expires_at = 0.0
        else:
            connection.mark_for_reconnect()

    def close_on_server(self, connection: Any) -> None:
        if connection.is_connected:
            host, port = connection._sock.getsockname()
            self.admin.client_kill_filter(addr=f"{host}:{port}")
            until(lambda: has_ended(connection._sock))

    @rule(size=st.integers(1, 5))
    def resize(self, size: int) -> None:
        self.pool.resize(size)
        self.settle()

    @rule(lent_too=st.booleans())
    def disconnect(self, lent_too: bool) -> None:
        self.pool.disconnect(inuse_connections=lent_too)

    @rule(count=st.integers(0, 5))
    def prefill(self, count: int) -> None:
        self.pool.prefill(min(count, self.pool.max_connections), parallel=2)

    @precondition(lambda self: GREENLETS and self.waiting)
    @rule(choice=st.integers(0, 99))
    def kill_a_waiter(self, choice: int) -> None:
        self.waiting.pop(choice % len(self.waiting)).kill(now=True)

    @precondition(
        lambda self: (
            GREENLETS and self.waiting and self.held and len(self.held) <= self.pool.max_connections
        )
    )
    @rule(choice=st.integers(0, 99), broken=st.booleans())
    def kill_the_first_waiter_as_it_is_served(self, choice: int, broken: bool) -> None:
        self.waiting.pop(0).kill(now=False)
        connection = self.held.pop(choice % len(self.held))
        if broken:
            connection.disconnect()
        self.pool.release(connection)
        until(lambda: self.pool.stats().count_used == len(self.held) or self.waiting)
        self.settle()

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        stats = self.pool.stats()
        assert stats.count_used == len(self.held)
        assert stats.pending_requests == len(self.waiting)
        assert stats.changing == 0
        assert stats.count_idle + stats.count_used <= max(stats.max, len(self.held))
        assert stats.created - sum(stats.closed.values()) == stats.count_idle + stats.count_used
        assert not (stats.pending_requests and stats.count_idle)
        assert not any(each.done() for each in self.waiting)
        assert len({id(each) for each in self.held}) == len(self.held)

    @invariant()
    def the_server_holds_no_more_than_the_pool_may(self) -> None:
        if hasattr(self, "pool"):
            # The server may answer before it has read the end of a connection closed just now.
            until(lambda: self.on_server() <= max(self.pool.max_connections, len(self.held)))

    def on_server(self) -> int:
        return sum(each["name"] == self.name for each in self.admin.client_list())

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        while self.held:
            self.give_back(0, twice=False)
        assert self.waiting == []
        drained = [self.pool.get_connection() for _ in range(self.pool.max_connections)]
        assert {ask(each, "PING") for each in drained} <= {b"PONG"}
        assert self.pool.stats().peak_used <= 5
        self.pool.close()
        self.admin.close()


class Crowd:
    """Many borrowers at once, some of them rude; `wrong` tells what went wrong."""

    def __init__(self, pool: Pool, rng: random.Random, rounds: int) -> None:
        self.pool, self.rng, self.rounds = pool, rng, rounds
        self.wrong: list[str] = []
        self.holding = 0
        self.guard = threading.Lock()

    def change(self, by: int) -> None:
        with self.guard:
            self.holding += by
            if self.holding > self.pool.max_connections:
                self.wrong.append(f"{self.holding} connections lent at once")

    def use(self, number: int, rng: random.Random) -> None:
        for turn in range(self.rounds):
            try:
                connection = self.pool.get_connection()
            except AcquireTimeout:
                continue
            self.change(+1)
            try:
                self.talk(connection, f"{number}.{turn}", rng)
            except redis.ConnectionError:
                pass  # it killed itself
            finally:
                self.change(-1)
                self.pool.release(connection)

    def talk(self, connection: Any, word: str, rng: random.Random) -> None:
        answer = ask(connection, "ECHO", word)
        if answer != word.encode():
            self.wrong.append(f"{word} got {answer!r}")
        whim = rng.random()
        if whim < 0.1:
            connection.disconnect()
        elif whim < 0.2:
            connection.expires_at = 0.0
        elif whim < 0.25:
            ask(connection, "CLIENT", "KILL", "ID", ask(connection, "CLIENT", "ID"))

    def run(self, users: int = 12) -> list[str]:
        tasks = [(number, random.Random(self.rng.random())) for number in range(users)]
        if GREENLETS:
            self.run_greenlets(tasks)
        else:
            threads = [threading.Thread(target=self.use, args=task) for task in tasks]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE_S)
        return self.wrong

    def run_greenlets(self, tasks: list[tuple[int, random.Random]]) -> None:
        running = [gevent.spawn(self.use, *task) for task in tasks]
        for victim in self.rng.sample(running, 4):
            gevent.sleep(self.rng.random() * 0.005)
            victim.kill()
        gevent.joinall(running, raise_error=True)


def check_a_crowd(url: str) -> None:
    @seed(20)
    @settings(QUIET, max_examples=12)
    @given(
        seed_=st.integers(0, 2**32),
        size=st.integers(1, 6),
        timeout=st.sampled_from([None, 5, 0.001, 0]),
        test=st.sampled_from(["passive", "ping"]),
    )
    def crowd(seed_: int, size: int, timeout: float | None, test: Any) -> None:
        with Pool.from_url(
            url,
            max_connections=size,
            timeout=timeout,
            test_on_borrow=test,
            max_lifetime=0.05,
            max_idle_time=0.05,
            min_idle=1,
        ) as pool:
            assert Crowd(pool, random.Random(seed_), rounds=15).run() == []
            until(lambda: pool.stats().changing == 0)
            stats = pool.stats()
            assert (stats.count_used, stats.pending_requests) == (0, 0)
            assert stats.peak_used <= size
            pool.timeout = PATIENCE_S
            drained = [pool.get_connection() for _ in range(size)]
            assert {ask(each, "PING") for each in drained} == {b"PONG"}

    crowd()


def check_the_machine(url: str) -> None:
    PoolMachine.url = url
    run_state_machine_as_test(PoolMachine, settings=QUIET)


def test_random_steps_with_threads(redis_server: Any) -> None:
    check_the_machine(redis_server.url)


def test_a_crowd_of_threads(redis_server: Any) -> None:
    check_a_crowd(redis_server.url)


def test_random_steps_and_a_crowd_with_greenlets(redis_server: Any) -> None:
    done = subprocess.run(
        [sys.executable, __file__, redis_server.url],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr


if __name__ == "__main__":
    check_the_machine(sys.argv[1])
    check_a_crowd(sys.argv[1])
