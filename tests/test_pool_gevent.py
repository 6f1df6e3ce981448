"""The pool under gevent, in a child process that is monkey-patched; this one stays as it is.

Each `check_*` function runs in the child (`python test_pool_gevent.py URL`) and is one test here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from typing import Any

import pytest

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    import gevent
    import gevent.socket

import gc
import weakref

import redis
from redis.connection import Connection

from bench.load import pool as pool_module
from bench.load.pool import CLOSED_AT_ONCE, AcquireTimeout, Pool

PATIENCE_S = 20.0
URL = ""


@pytest.fixture(scope="module")
def outcomes(redis_server: Any) -> dict[str, str | None]:
    done = subprocess.run(
        [sys.executable, __file__, redis_server.url],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr  # nothing died unheard in the hub
    return json.loads(done.stdout.splitlines()[-1])


def make(*args: Any, **settings: Any) -> Pool:
    return Pool.from_url(URL, max_connections=args[0], **settings)


def until(condition: Any) -> None:
    with gevent.Timeout(PATIENCE_S):
        while not condition():
            gevent.sleep(0.002)


def ask(connection: Any, *words: Any) -> Any:
    connection.send_command(*words)
    return connection.read_response()


def line_up(pool: Pool, count: int) -> list[Any]:
    waiting = []
    for number in range(1, count + 1):
        waiting.append(gevent.spawn(pool.get_connection))
        until(lambda number=number: pool.stats().pending_requests == number)
    return waiting


def assert_whole(pool: Pool) -> None:
    """Nothing is lent or lost: every slot can be had and answers."""
    stats = pool.stats()
    assert (stats.count_used, stats.changing, stats.pending_requests) == (0, 0, 0), stats
    assert stats.created - sum(stats.closed.values()) == stats.count_idle, stats
    connections = [pool.get_connection() for _ in range(pool.max_connections)]
    assert {ask(each, "PING") for each in connections} == {b"PONG"}
    for each in connections:
        pool.release(each)


# ---------------------------------------------------------------- run in the child


def check_the_waiter_is_a_greenlet_and_the_lock_native() -> None:
    pool = make(1)
    assert pool._waiter_class is pool_module._GreenletWaiter
    assert "gevent" not in type(pool._lock).__module__


def check_borrow_and_return_never_switch() -> None:
    pool = make(2, test_on_borrow="passive")
    pool.release(pool.get_connection())
    turns = []
    gevent.spawn(turns.append, 1)
    for _ in range(200):
        pool.release(pool.get_connection())
    assert turns == []


def check_waiters_are_served_first_come_first_served() -> None:
    pool = make(2)
    held = [pool.get_connection(), pool.get_connection()]
    served: list[int] = []

    def use(number: int) -> None:
        connection = pool.get_connection()
        served.append(number)
        gevent.sleep(0)
        pool.release(connection)

    users = []
    for number in range(50):
        users.append(gevent.spawn(use, number))
        gevent.sleep(0)
    assert pool.stats().pending_requests == 50
    for each in held:
        pool.release(each)
    gevent.joinall(users, raise_error=True)
    assert served == list(range(50))
    assert pool.stats().created == 2
    assert_whole(pool)


def check_a_newcomer_never_overtakes() -> None:
    pool = make(1)
    connection = pool.get_connection()
    (waiting,) = line_up(pool, 1)
    pool.release(connection)
    (newcomer,) = line_up(pool, 1)
    assert waiting.get(timeout=PATIENCE_S) is connection
    assert not newcomer.ready()
    pool.release(connection)
    pool.release(newcomer.get(timeout=PATIENCE_S))
    assert_whole(pool)


def check_a_waiter_times_out() -> None:
    pool = make(1, timeout=0.02)
    connection = pool.get_connection()
    try:
        pool.get_connection()
    except AcquireTimeout:
        pool.release(connection)
    assert pool.stats().timeouts == 1
    assert_whole(pool)


def check_a_killed_waiter_leaves_the_line() -> None:
    pool = make(1)
    connection = pool.get_connection()
    first, second = line_up(pool, 2)
    first.kill()
    assert pool.stats().pending_requests == 1
    pool.release(connection)
    assert second.get(timeout=PATIENCE_S) is connection
    pool.release(connection)
    assert_whole(pool)


def check_a_kill_that_races_with_the_hand_over_passes_the_connection_on() -> None:
    pool = make(1)
    connection = pool.get_connection()
    first, second = line_up(pool, 2)
    first.kill(block=False)  # runs in the next turn of the loop, before the hand-over
    pool.release(connection)
    assert pool.stats().pending_requests == 1
    assert second.get(timeout=PATIENCE_S) is connection
    assert first.ready()
    pool.release(connection)
    assert_whole(pool)


def check_a_kill_that_races_with_room_passes_the_room_on() -> None:
    pool = make(1)
    connection = pool.get_connection()
    first, second = line_up(pool, 2)
    first.kill(block=False)
    connection.disconnect()
    pool.release(connection)
    assert second.get(timeout=PATIENCE_S).is_connected
    pool.release(second.get())
    assert_whole(pool)


def check_a_time_out_that_races_with_the_hand_over_takes_what_was_granted() -> None:
    pool = make(1, timeout=0.01)
    connection = pool.get_connection()
    waiting = gevent.spawn(pool.get_connection)
    gevent.sleep(0)
    assert pool.stats().pending_requests == 1
    monkey.get_original("time", "sleep")(0.02)  # the hub cannot run: the time-out falls due
    pool.release(connection)
    assert waiting.get(timeout=PATIENCE_S) is connection
    pool.release(connection)
    assert_whole(pool)


def check_gevent_timeouts_are_like_kills() -> None:
    pool = make(1)
    connection = pool.get_connection()
    with gevent.Timeout(0.01, False):
        pool.get_connection()
        raise AssertionError("got a connection that was not free")
    pool.release(connection)
    assert_whole(pool)


def deaf_listener() -> Any:
    listener = gevent.socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def check_a_borrower_killed_while_connecting_frees_its_place() -> None:
    pool = make(1)
    listener, port = deaf_listener(), pool.connection_kwargs["port"]
    pool.connection_kwargs["port"] = listener.getsockname()[1]
    borrower = gevent.spawn(pool.get_connection)
    peer, _ = listener.accept()
    assert peer.recv(10)  # in the middle of the handshake
    (waiting,) = line_up(pool, 1)
    pool.connection_kwargs["port"] = port
    borrower.kill()
    pool.release(waiting.get(timeout=PATIENCE_S))
    while peer.recv(1000):
        pass  # end of file: the killed one's socket is closed
    listener.close()
    assert_whole(pool)


def check_a_borrower_killed_during_its_ping_gives_up_the_connection() -> None:
    pool = make(1, test_on_borrow="ping")
    connection = pool.get_connection()
    pool.release(connection)
    listener = deaf_listener()
    connection._sock = connection._parser._sock = gevent.socket.create_connection(
        listener.getsockname()
    )
    borrower = gevent.spawn(pool.get_connection)
    peer, _ = listener.accept()
    assert peer.recv(100)
    borrower.kill()
    assert pool.stats().closed == {"error": 1}
    listener.close()
    assert_whole(pool)


def check_the_housekeeper_holds_nobody_up_while_it_closes_many() -> None:
    """Between two turns of somebody else it closes a few, not all that are old."""
    events: list[str] = []

    class Told(Connection):
        def disconnect(self, *args: Any) -> None:
            events.append("closed")
            super().disconnect(*args)

    pool = make(60, connection_class=Told, max_idle_time=0.1)
    pool.prefill()
    while events.count("closed") < 60:
        events.append("turn")
        gevent.sleep(0)
    in_a_row = [each.count("closed") for each in " ".join(events).split("turn")]
    assert max(in_a_row) <= CLOSED_AT_ONCE, events
    assert pool.stats().closed == {"idle": 60}


def check_prefill_opens_side_by_side() -> None:
    now, peak = 0, 0

    class Counted(Connection):
        def connect(self) -> None:
            nonlocal now, peak
            now += 1
            peak = max(peak, now)
            gevent.sleep(0.001)
            super().connect()
            now -= 1

    pool = make(40, connection_class=Counted)
    pool.prefill(parallel=8)
    assert pool.stats().count_idle == 40
    assert peak == 8
    assert_whole(pool)


def check_a_killed_prefill_leaks_nothing() -> None:
    pool = make(20)
    filling = gevent.spawn(pool.prefill, None, 2)
    until(lambda: pool.stats().count_idle >= 3)
    filling.kill()
    until(lambda: pool.stats().changing == 0)
    assert pool.stats().count_idle < 20
    assert_whole(pool)


def check_the_housekeeper_is_a_greenlet_that_ends_with_the_pool() -> None:
    def use_and_forget() -> tuple[Any, Any]:
        pool = make(3, min_idle=2, max_idle_time=0.1)
        pool.release(pool.get_connection())
        until(lambda: pool.stats().closed.get("idle", 0) >= 3)
        until(lambda: pool.stats().count_idle == 2)
        return weakref.ref(pool), weakref.ref(pool._housekeeper)

    pool, keeper = use_and_forget()
    until(lambda: gc.collect() >= 0 and pool() is None and keeper() is None)


def check_real_threads_share_the_pool_with_greenlets() -> None:
    pool = make(2)
    threads = gevent.get_hub().threadpool
    threads.maxsize = 4

    def use(rounds: int) -> None:
        for _ in range(rounds):
            connection = pool.get_connection()
            assert ask(connection, "PING") == b"PONG"
            pool.release(connection)

    def hold_and_return(connection: Any) -> None:
        pool.release(connection)

    # A real thread's return wakes a greenlet of this thread.
    held = [pool.get_connection(), pool.get_connection()]
    (waiting,) = line_up(pool, 1)
    threads.spawn(hold_and_return, held[0]).get()
    pool.release(waiting.get(timeout=PATIENCE_S))
    pool.release(held[1])
    pool.disconnect()
    # gevent sockets belong to the hub that made them: the threads only book, over bare sockets.
    greenlets = [gevent.spawn(use, 20) for _ in range(10)]
    gevent.joinall(greenlets, raise_error=True)
    assert_whole(pool)


def check_real_threads_and_greenlets_wait_in_one_line() -> None:
    class Bookless(Connection):
        """Connected by name only: what is tested here is the line."""

        connected = False

        @property
        def is_connected(self) -> bool:
            return self.connected

        def connect(self) -> None:
            self.connected = True

        def disconnect(self, *args: Any, **kwargs: Any) -> None:
            self.connected = False

    pool = make(2, connection_class=Bookless, test_on_borrow="none")
    hub_threads = gevent.get_hub().threadpool
    hub_threads.maxsize = 6

    def use() -> None:
        for _ in range(200):
            pool.release(pool.get_connection())

    def use_with_pauses() -> None:
        for _ in range(200):
            connection = pool.get_connection()
            gevent.sleep(0)
            pool.release(connection)

    jobs = [hub_threads.spawn(use) for _ in range(5)]
    jobs += [hub_threads.spawn(use_with_pauses)]
    greenlets = [gevent.spawn(use_with_pauses) for _ in range(20)]
    gevent.joinall(greenlets, raise_error=True)
    for job in jobs:
        job.get()
    stats = pool.stats()
    assert stats.peak_used <= 2
    assert (stats.count_used, stats.count_idle, stats.pending_requests) == (0, 2, 0)


def check_a_forked_child_starts_afresh() -> None:
    pool = make(1, min_idle=1, max_idle_time=30)
    connection = pool.get_connection()
    mine = ask(connection, "CLIENT", "ID")
    (waiting,) = line_up(pool, 1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            own = pool.get_connection()
            assert ask(own, "CLIENT", "ID") != mine
            pool.release(connection)
            pool.release(own)
            until(lambda: pool.stats().count_idle == 1)
            assert_whole(pool)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert ask(connection, "CLIENT", "ID") == mine
    pool.release(connection)
    pool.release(waiting.get(timeout=PATIENCE_S))
    assert_whole(pool)


def check_a_client_survives_kills_at_random_moments() -> None:
    pool = make(3, timeout=None)
    client = redis.Redis(connection_pool=pool)
    wrong = []

    def use(number: int) -> None:
        while True:
            if client.echo(str(number)) != str(number).encode():
                wrong.append(number)

    users = [gevent.spawn(use, number) for number in range(12)]
    for pause in range(60):
        gevent.sleep(0.0003 * (pause % 7))
        victim = users.pop(0)
        victim.kill()
        users.append(gevent.spawn(use, 100 + pause))
    gevent.killall(users)
    assert wrong == []
    assert_whole(pool)


CHECKS = [name for name in dict(globals()) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS)
def test_under_gevent(outcomes: dict[str, str | None], check: str) -> None:
    assert outcomes[check] is None, outcomes[check]


def run_checks() -> dict[str, str | None]:
    outcomes: dict[str, str | None] = {}
    for name in CHECKS:
        try:
            with gevent.Timeout(PATIENCE_S):
                globals()[name]()
            outcomes[name] = None
        except BaseException:
            outcomes[name] = traceback.format_exc()
    return outcomes


if __name__ == "__main__":
    URL = sys.argv[1]
    print(json.dumps(run_checks()))
