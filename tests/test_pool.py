"""The pool with threads: redis-py's public pool behaviour, and what this pool adds to it."""

from __future__ import annotations

import gc
import itertools
import os
import re
import signal
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection, Connection, SSLConnection
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from bench.load.pool import AcquireTimeout, Pool, TooManyWaiting
from bench.rig.server import Server

PATIENCE_S = 20.0
_numbers = itertools.count()


@pytest.fixture
def pool_of(redis_server: Server) -> Iterator[Callable[..., Pool]]:
    """Makes pools on the real server, each with a client name of its own, and closes them."""
    pools: list[Pool] = []

    def make(*args: Any, **settings: Any) -> Pool:
        settings.setdefault("host", redis_server.host)
        settings.setdefault("port", redis_server.port)
        settings.setdefault("client_name", f"pool-test-{os.getpid()}-{next(_numbers)}")
        settings.setdefault("name", settings["client_name"])
        pools.append(Pool(*args, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def admin(redis_server: Server) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def deaf() -> Iterator[socket.socket]:
    """A listener that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def until(condition: Callable[[], Any]) -> None:
    """Wait for what must come; fail loudly when it does not."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def ask(connection: Any, *words: Any) -> Any:
    connection.send_command(*words)
    return connection.read_response()


def in_thread(call: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def line_up(pool: Pool, count: int = 1) -> list[Future[Any]]:
    """So many borrowers in line, one behind the other."""
    waiting = []
    for number in range(1, count + 1):
        waiting.append(in_thread(pool.get_connection))
        until(lambda number=number: pool.stats().pending_requests == number)
    return waiting


def on_server(admin: redis.Redis, pool: Pool) -> list[dict[str, Any]]:
    name = pool.connection_kwargs["client_name"]
    return [each for each in admin.client_list() if each["name"] == name]


def kill(admin: redis.Redis, connection: Any) -> None:
    """Close it on the server's side, and wait until the news is here."""
    client_id = ask(connection, "CLIENT", "ID")
    admin.client_kill_filter(_id=client_id)
    until(lambda: _hung_up(connection))


def _hung_up(connection: Any) -> bool:
    try:
        return bool(connection._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
    except BlockingIOError:
        return False
    except OSError:
        return True


def drained(pool: Pool) -> bool:
    """Every slot can still be had, and every connection answers."""
    connections = [pool.get_connection() for _ in range(pool.max_connections)]
    answers = [ask(each, "PING") for each in connections]
    for each in connections:
        pool.release(each)
    return len(set(map(id, connections))) == pool.max_connections and set(answers) == {b"PONG"}


# ---------------------------------------------------------------- redis-py's public behaviours


class Bare(Connection):
    """Remembers its settings."""

    def __init__(self, foo: str = "", **settings: Any) -> None:
        super().__init__(**settings)
        self.foo = foo


def test_connection_class_and_settings_reach_the_connection(pool_of):
    connection = pool_of(connection_class=Bare, foo="bar").get_connection()
    assert isinstance(connection, Bare)
    assert connection.foo == "bar"
    assert connection.is_connected


def test_two_borrowers_get_two_connections(pool_of):
    pool = pool_of()
    assert pool.get_connection() is not pool.get_connection()


def test_a_returned_connection_is_lent_again(pool_of):
    pool = pool_of()
    first = pool.get_connection("GET", "key")  # arguments are taken and ignored
    pool.release(first)
    assert pool.get_connection() is first


def test_blocks_until_a_connection_is_returned(pool_of):
    pool = pool_of(1)
    only = pool.get_connection()
    (waiting,) = line_up(pool)
    assert not waiting.done()
    pool.release(only)
    assert waiting.result(PATIENCE_S) is only


def test_raises_redis_connection_error_after_the_timeout(pool_of):
    pool = pool_of(1, 0.02)
    pool.get_connection()
    with pytest.raises(redis.ConnectionError, match=r"all 1 connections are in use.*0\.02 s"):
        pool.get_connection()


def test_context_manager_closes_everything(pool_of, admin):
    with pool_of() as pool:
        lent, idle = pool.get_connection(), pool.get_connection()
        pool.release(idle)
        assert len(on_server(admin, pool)) == 2
    assert not lent.is_connected
    assert not idle.is_connected
    until(lambda: on_server(admin, pool) == [])


def test_a_closed_pool_opens_again_on_the_next_borrow(pool_of):
    pool = pool_of(2)
    pool.release(pool.get_connection())
    pool.close()
    assert drained(pool)


def test_disconnect_spares_lent_connections_when_told(pool_of):
    pool = pool_of()
    lent, idle = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    pool.disconnect(inuse_connections=False)
    assert lent.is_connected
    assert not idle.is_connected
    pool.disconnect()
    assert not lent.is_connected
    pool.release(lent)
    assert pool.stats().closed == {"close": 1, "error": 1}
    assert drained(pool)


def test_repr_names_the_server_and_hides_secrets(pool_of):
    shown = repr(pool_of(host="db.example", db=1, password="hunter2", username="joe"))
    assert "host=db.example" in shown
    assert "db=1" in shown
    assert "hunter2" not in shown
    assert "joe" not in shown
    assert re.search(r"Pool\(<redis\.connection\.Connection", shown)


def test_from_url():
    pool = Pool.from_url(
        "redis://localhost/2?socket_timeout=20&max_connections=7&timeout=42", min_idle=3
    )
    assert type(pool) is Pool
    assert (pool.max_connections, pool.timeout, pool.min_idle) == (7, 42.0, 3)
    assert pool.connection_kwargs["db"] == 2
    assert pool.connection_kwargs["socket_timeout"] == 20.0
    assert Pool.from_url("rediss://localhost").connection_class is SSLConnection
    assert Pool.from_url("unix:///socket").connection_class is redis.UnixDomainSocketConnection
    with pytest.raises(ValueError, match="schemes"):
        Pool.from_url("localhost")


def test_maintenance_notifications_as_in_redis_py():
    assert Pool().maint_notifications_enabled()
    assert not Pool(protocol=2).maint_notifications_enabled()
    with pytest.raises(redis.RedisError, match="not supported"):
        Pool(
            connection_class=redis.UnixDomainSocketConnection,
            maint_notifications_config=MaintNotificationsConfig(enabled=True),
        )


def test_maintenance_replaces_lent_and_idle_connections(pool_of, redis_server):
    pool = pool_of(2)
    lent, idle = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    pool.update_active_connections_for_reconnect(redis_server.host)
    pool.disconnect_free_connections(redis_server.host)
    assert not idle.is_connected
    pool.release(lent)
    assert not lent.is_connected
    assert pool.stats().closed == {"marked": 1}
    assert drained(pool)


def test_client_side_cache_wraps_connections():
    assert isinstance(
        Pool(protocol=3, cache_config=CacheConfig()).make_connection(), CacheProxyConnection
    )


def test_set_retry_reaches_present_and_future_connections(pool_of):
    pool = pool_of()
    lent, idle = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    assert lent.retry.get_retries() == 0  # as in redis-py's pools when built by hand
    retry = Retry(NoBackoff(), 3)
    redis.Redis(connection_pool=pool).set_retry(retry)
    future = pool.make_connection()
    assert [each.retry.get_retries() for each in (lent, idle, future)] == [3, 3, 3]


def test_new_credentials_reach_idle_connections_now_and_lent_ones_on_return(pool_of, admin):
    class Token:
        def try_get(self, _: str) -> str:
            return "pool-test"

        def get_value(self) -> str:
            return "secret"

    pool = pool_of(2)
    lent, idle = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    admin.acl_setuser("pool-test", enabled=True, passwords=["+secret"], commands=["+@all"])
    try:
        pool.re_auth_callback(Token())
        assert {each["user"] for each in on_server(admin, pool)} == {"pool-test", "default"}
        pool.release(lent)
        assert {each["user"] for each in on_server(admin, pool)} == {"pool-test"}
        assert pool.stats().count_idle == 2
    finally:
        pool.close()
        admin.acl_deluser("pool-test")


def test_connections_refused_new_credentials_are_closed(pool_of):
    class Token:
        def try_get(self, _: str) -> str:
            return "nobody"

        get_value = try_get

    def value(self: Any) -> str:
        return "wrong"

    Token.get_value = value
    pool = pool_of(2)
    pool.release(pool.get_connection())
    pool.re_auth_callback(Token())
    assert pool.stats().closed == {"error": 1}
    assert drained(pool)


def test_connection_count_as_opentelemetry_asks_for_it(pool_of):
    pool = pool_of()
    pool.get_connection()
    pool.release(pool.get_connection())
    counts = {str(kind): count for count, kind in pool.get_connection_count()}
    assert sorted(counts.values()) == [1, 1]
    assert {("idle" in kind, "used" in kind) for kind in counts} == {(True, False), (False, True)}


def test_serves_a_redis_client_in_every_way_it_borrows(pool_of):
    pool = pool_of(3)
    client = redis.Redis(connection_pool=pool, decode_responses=True)
    key = f"pool-test:{next(_numbers)}"
    assert client.set(key, "1")
    with client.pipeline() as pipe:
        assert pipe.incr(key).delete(key).execute() == [2, 1]
    with client.pubsub() as subscriber:
        subscriber.subscribe(key)
        assert subscriber.get_message(timeout=PATIENCE_S)["type"] == "subscribe"
    with client.client() as alone:
        assert alone.ping()
    assert pool.stats().count_used == 0
    client.close()
    assert drained(pool)


def test_a_client_made_from_the_pool_closes_it(pool_of, admin):
    pool = pool_of()
    redis.Redis.from_pool(pool).ping()
    gc.collect()
    until(lambda: on_server(admin, pool) == [])


# ---------------------------------------------------------------- order, line, limits


@pytest.mark.parametrize(("fifo", "expected"), [(False, [2, 1, 0]), (True, [0, 1, 2])])
def test_order_of_idle_connections(pool_of, fifo, expected):
    pool = pool_of(3, fifo=fifo)
    connections = [pool.get_connection() for _ in range(3)]
    for each in connections:
        pool.release(each)
    assert [connections.index(pool.get_connection()) for _ in range(3)] == expected


def test_waiters_are_served_first_come_first_served(pool_of):
    pool = pool_of(1)
    connection = pool.get_connection()
    waiting = line_up(pool, 5)
    for position, first in enumerate(waiting):
        pool.release(connection)
        assert first.result(PATIENCE_S) is connection
        assert not any(later.done() for later in waiting[position + 1 :])
    assert pool.stats().pending_requests == 0


def test_room_goes_to_the_first_in_line_too(pool_of):
    pool = pool_of(1)
    connection = pool.get_connection()
    for first, *later in _tails(line_up(pool, 4)):
        connection.disconnect()
        pool.release(connection)
        connection = first.result(PATIENCE_S)
        assert not any(each.done() for each in later)


def _tails(items: list[Any]) -> list[list[Any]]:
    return [items[start:] for start in range(len(items))]


def test_a_returned_connection_goes_straight_to_the_first_in_line(pool_of):
    pool = pool_of(1, test_on_borrow="none")
    connection = pool.get_connection()
    (waiting,) = line_up(pool)
    pool.release(connection)
    # Whether or not the waiter has woken yet, nobody else can have it.
    assert pool.stats().count_idle == 0
    assert pool.stats().count_used == 1
    handed_over = connection.borrowed_at
    assert waiting.result(PATIENCE_S) is connection
    assert connection.borrowed_at == handed_over


def test_timeout_zero_does_not_wait(pool_of):
    pool = pool_of(1, timeout=0)
    pool.get_connection()
    with pytest.raises(AcquireTimeout, match="forbids waiting"):
        pool.get_connection()
    assert pool.stats().timeouts == 1


def test_timeout_none_waits_as_long_as_it_takes(pool_of):
    pool = pool_of(1, timeout=None)
    connection = pool.get_connection()
    (waiting,) = line_up(pool)
    pool.release(connection)
    assert waiting.result(PATIENCE_S) is connection


def test_who_timed_out_is_out_of_the_line(pool_of):
    pool = pool_of(1, 0.02)
    connection = pool.get_connection()
    with pytest.raises(AcquireTimeout):
        pool.get_connection()
    assert pool.stats().pending_requests == 0
    pool.release(connection)
    assert pool.stats().count_idle == 1


def test_max_waiting_refuses_at_once(pool_of):
    pool = pool_of(1, max_waiting=2)
    connection = pool.get_connection()
    waiting = line_up(pool, 2)
    with pytest.raises(TooManyWaiting, match="2 already wait"):
        pool.get_connection()
    assert pool.stats().rejected == 1
    for each in waiting:
        pool.release(connection)
        assert each.result(PATIENCE_S) is connection


class Gated(Connection):
    """Connects when `gate` opens, and fails when `broken`."""

    gate: threading.Event
    broken: bool
    arrived: list[Gated]

    def connect(self) -> None:
        broken = self.broken
        self.arrived.append(self)
        assert self.gate.wait(PATIENCE_S)
        if broken:
            raise redis.ConnectionError("broken on purpose")
        super().connect()


def gated(broken: bool = False) -> type[Gated]:
    return type("Gated", (Gated,), {"gate": threading.Event(), "broken": broken, "arrived": []})


def test_a_failed_connect_lets_the_next_in_line_try(pool_of):
    kind = gated(broken=True)
    pool = pool_of(1, connection_class=kind)
    first = in_thread(pool.get_connection)
    until(lambda: kind.arrived)
    (second,) = line_up(pool)
    kind.broken = False
    kind.gate.set()
    with pytest.raises(redis.ConnectionError, match="on purpose"):
        first.result(PATIENCE_S)
    pool.release(second.result(PATIENCE_S))
    assert drained(pool)


def test_connections_being_opened_count_against_the_size(pool_of):
    kind = gated()
    pool = pool_of(2, connection_class=kind)
    opening = [in_thread(pool.get_connection) for _ in range(2)]
    until(lambda: pool.stats().changing == 2)
    (third,) = line_up(pool)
    kind.gate.set()
    opened = [each.result(PATIENCE_S) for each in opening]
    pool.release(opened[0])
    assert third.result(PATIENCE_S) is opened[0]
    assert pool.stats().created == 2


def test_the_pool_stays_usable_while_one_borrower_connects(pool_of):
    kind = gated()
    pool = pool_of(2, connection_class=kind)
    kind.gate.set()
    ready = pool.get_connection()
    kind.gate.clear()
    slow = in_thread(pool.get_connection)
    until(lambda: pool.stats().changing == 1)
    pool.release(ready)
    assert pool.get_connection() is ready
    kind.gate.set()
    assert slow.result(PATIENCE_S)


# ---------------------------------------------------------------- misuse and interruption


def test_returning_twice_is_harmless(pool_of):
    pool = pool_of(2)
    connection = pool.get_connection()
    pool.release(connection)
    pool.release(connection)
    assert pool.stats().count_idle == 1
    assert connection.is_connected
    assert drained(pool)


def test_a_foreign_connection_is_closed_and_not_taken(pool_of):
    pool, other = pool_of(2), pool_of(2)
    foreign = other.get_connection()
    pool.release(foreign)
    assert not foreign.is_connected
    assert pool.stats().count_idle == 0
    other.release(foreign)
    assert drained(other)


def test_a_broken_connection_is_not_kept(pool_of):
    pool = pool_of(1)
    connection = pool.get_connection()
    (waiting,) = line_up(pool)
    connection.disconnect()
    pool.release(connection)
    assert waiting.result(PATIENCE_S).is_connected
    assert pool.stats().closed == {"error": 1}


def test_a_finalizer_may_return_a_connection_inside_the_lock(pool_of):
    pool = pool_of(1)
    connection = pool.get_connection()
    with pool._lock:
        pool.release(connection)
        assert pool.get_connection() is connection


def interrupt_main() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_an_interrupted_waiter_leaves_nothing_behind(pool_of):
    pool = pool_of(1)
    connection = pool.get_connection()

    def interrupt() -> None:
        until(lambda: pool.stats().pending_requests == 1)
        interrupt_main()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        pool.get_connection()
    assert pool.stats().pending_requests == 0
    pool.release(connection)
    assert drained(pool)


@pytest.mark.parametrize("moment", ["connecting", "ping"])
def test_an_interrupted_borrower_leaves_nothing_behind(pool_of, redis_server, deaf, moment):
    pool = pool_of(1, test_on_borrow="ping")
    if moment == "ping":
        pool.release(pool.get_connection())
        (idle,) = pool._get_free_connections()
        idle._parser._sock = idle._sock = socket.create_connection(deaf.getsockname())
    pool.connection_kwargs["port"] = deaf.getsockname()[1]

    def interrupt() -> None:
        peer, _ = deaf.accept()
        assert peer.recv(100)
        interrupt_main()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        pool.get_connection()
    stats = pool.stats()
    assert (stats.count_idle, stats.count_used, stats.changing) == (0, 0, 0)
    pool.connection_kwargs["port"] = redis_server.port
    assert drained(pool)


# ---------------------------------------------------------------- prefill


def test_prefill_opens_all_and_leaves_them_idle(pool_of, admin):
    pool = pool_of(20)
    pool.prefill()
    assert pool.stats().count_idle == 20
    assert len(on_server(admin, pool)) == 20
    pool.prefill()
    assert pool.stats().created == 20


def test_prefill_counts_what_is_open_already(pool_of):
    pool = pool_of(5)
    pool.get_connection()
    pool.prefill(3)
    stats = pool.stats()
    assert (stats.count_idle, stats.count_used) == (2, 1)
    with pytest.raises(ValueError, match="above max_connections"):
        pool.prefill(6)


def test_prefill_keeps_to_its_limit_of_connects_at_once(pool_of):
    now, peak, lock = 0, 0, threading.Lock()

    class Counted(Connection):
        def connect(self) -> None:
            nonlocal now, peak
            with lock:
                now += 1
                peak = max(peak, now)
            super().connect()
            with lock:
                now -= 1

    pool_of(30, connection_class=Counted).prefill(parallel=3)
    assert 1 <= peak <= 3


def test_prefill_fails_with_the_first_cause_and_leaks_nothing(pool_of, redis_server):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        pool = pool_of(5, port=unused.getsockname()[1])
        with pytest.raises(redis.ConnectionError, match="0 of 5 connections") as failure:
            pool.prefill()
    assert isinstance(failure.value.__cause__, redis.ConnectionError)
    pool.connection_kwargs["port"] = redis_server.port
    assert drained(pool)


def test_prefill_ends_where_connections_grow_old_sooner_than_all_are_open(pool_of):
    class Slow(Connection):
        def connect(self) -> None:
            time.sleep(0.03)
            super().connect()

    pool = pool_of(5, connection_class=Slow, max_lifetime=0.02, lifetime_jitter=0)
    in_thread(lambda: pool.prefill(parallel=1)).result(PATIENCE_S)
    assert pool.stats().created >= 5


def test_prefill_serves_those_in_line(pool_of):
    kind = gated()
    pool = pool_of(1, connection_class=kind)
    filling = in_thread(pool.prefill)
    until(lambda: pool.stats().changing == 1)
    (waiting,) = line_up(pool)
    kind.gate.set()
    assert waiting.result(PATIENCE_S).is_connected
    filling.result(PATIENCE_S)


def test_closing_during_prefill_leaves_no_connection(pool_of, admin):
    kind = gated()
    pool = pool_of(3, connection_class=kind)
    filling = in_thread(pool.prefill)
    until(lambda: pool.stats().changing == 3)
    pool.close()
    kind.gate.set()
    with pytest.raises(redis.ConnectionError, match="closed while"):
        filling.result(PATIENCE_S)
    until(lambda: pool.stats().changing == 0)
    assert pool.stats().count_idle == 0
    until(lambda: on_server(admin, pool) == [])


# ---------------------------------------------------------------- test on borrow


def test_without_a_test_a_dead_connection_is_lent(pool_of, admin):
    pool = pool_of(1, test_on_borrow="none")
    connection = pool.get_connection()
    kill(admin, connection)
    pool.release(connection)
    with pytest.raises(redis.ConnectionError):
        ask(pool.get_connection(), "PING")


@pytest.mark.parametrize("test_on_borrow", ["passive", "ping"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_connection_closed_by_the_server_is_replaced(pool_of, admin, test_on_borrow, protocol):
    pool = pool_of(1, test_on_borrow=test_on_borrow, protocol=protocol)
    for _ in range(2):  # the second time it is a reopened connection
        connection = pool.get_connection()
        kill(admin, connection)
        pool.release(connection)
        assert ask(pool.get_connection(), "PING") in (b"PONG", "PONG")
        pool.release(connection)
    assert pool.stats().closed == {"stale": 2}
    assert drained(pool)


@pytest.mark.parametrize("test_on_borrow", ["passive", "ping"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_connection_with_an_unread_reply_is_replaced(pool_of, test_on_borrow, protocol):
    pool = pool_of(1, test_on_borrow=test_on_borrow, protocol=protocol)
    connection = pool.get_connection()
    connection.send_command("ECHO", "somebody else's")
    until(lambda: connection.can_read())
    pool.release(connection)
    assert ask(pool.get_connection(), "ECHO", "mine") == b"mine"
    assert pool.stats().closed == {"stale": 1}


def test_a_reset_connection_is_replaced(pool_of):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = pool_of(
            1, port=listener.getsockname()[1], redis_connect_func=lambda connection: None
        )
        connection = pool.get_connection()
        peer, _ = listener.accept()
        pool.release(connection)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        until(lambda: _hung_up(connection))
        pool.get_connection()
        assert pool.stats().closed == {"stale": 1}


def test_a_push_that_is_expected_does_not_condemn_a_connection(pool_of, admin):
    pool = pool_of(1, protocol=3)
    connection = pool.get_connection()
    key = f"pool-test:{next(_numbers)}"
    assert ask(connection, "CLIENT", "TRACKING", "ON")
    ask(connection, "GET", key)
    admin.set(key, "changed")
    until(lambda: connection.can_read())
    pool.release(connection)
    assert pool.get_connection() is connection
    assert pool.stats().closed == {}
    admin.delete(key)


def test_a_connection_that_reconnected_in_use_is_still_watched(pool_of, admin):
    pool = pool_of(1)
    connection = pool.get_connection()
    pool.release(connection)
    pool.get_connection()
    connection.disconnect()
    with socket.socket():  # takes the old descriptor's number
        connection.connect()
        pool.release(connection)
        assert pool.get_connection() is connection
        assert pool.stats().closed == {}
    kill(admin, connection)
    pool.release(connection)
    assert ask(pool.get_connection(), "PING") == b"PONG"


# ---------------------------------------------------------------- ageing and the housekeeper


def housekeepers(name: str) -> int:
    return sum(each.name == f"housekeeper of pool {name}" for each in threading.enumerate())


def test_no_housekeeper_unless_it_has_something_to_do(pool_of):
    busy, unused = pool_of(), pool_of(min_idle=1)
    busy.prefill(1)
    assert housekeepers(busy.name) == housekeepers(unused.name) == 0


@pytest.mark.parametrize("reason", ["idle", "lifetime"])
def test_an_aged_connection_is_not_lent(pool_of, reason):
    pool = pool_of(1, max_idle_time=1000, max_lifetime=2000)
    connection = pool.get_connection()
    pool.release(connection)
    if reason == "idle":
        connection.idle_since -= 1000
    else:
        connection.expires_at = 0.0
    before = ask(connection, "CLIENT", "ID")
    assert ask(pool.get_connection(), "CLIENT", "ID") != before
    assert pool.stats().closed == {reason: 1}


def test_a_connection_past_its_lifetime_is_not_taken_back(pool_of):
    pool = pool_of(1, max_lifetime=1000)
    connection = pool.get_connection()
    connection.expires_at = 0.0
    (waiting,) = line_up(pool)
    pool.release(connection)
    assert waiting.result(PATIENCE_S) is not connection
    assert pool.stats().closed == {"lifetime": 1}


def test_lifetimes_are_spread(pool_of):
    pool = pool_of(30, max_lifetime=1000, lifetime_jitter=0.2)
    pool.prefill()
    now = time.perf_counter()
    left = [each.expires_at - now for each in pool._get_free_connections()]
    assert min(left) > 700
    assert max(left) < 1201
    assert max(left) - min(left) > 50


@pytest.mark.parametrize("setting", ["max_idle_time", "max_lifetime"])
def test_the_housekeeper_closes_aged_connections(pool_of, admin, setting):
    pool = pool_of(4, **{setting: 0.1})
    pool.prefill(3)
    until(lambda: sum(pool.stats().closed.values()) == 3)
    assert pool.stats().count_idle == 0
    until(lambda: on_server(admin, pool) == [])
    assert drained(pool)


def test_the_housekeeper_keeps_min_idle(pool_of):
    pool = pool_of(3, min_idle=2)
    first = pool.get_connection()
    until(lambda: pool.stats().count_idle == 2)
    pool.get_connection()
    assert pool.stats().count_idle == 1
    pool.release(first)
    pool.disconnect(inuse_connections=False)
    until(lambda: pool.stats().count_idle == 2)
    assert pool.stats().count_used == 1


def test_the_housekeeper_survives_a_server_out_of_reach(pool_of, redis_server):
    pool = pool_of(3, min_idle=2)
    pool.get_connection()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        pool.connection_kwargs["port"] = unused.getsockname()[1]
        pool.disconnect(inuse_connections=False)
        until(lambda: pool.stats().changing == 1)
        until(lambda: pool.stats().changing == 0)
        pool.connection_kwargs["port"] = redis_server.port
    until(lambda: pool.stats().count_idle == 2)


def test_the_housekeeper_ends_at_close_and_starts_again(pool_of, admin):
    pool = pool_of(2, min_idle=2)
    pool.prefill()
    assert housekeepers(pool.name) == 1
    pool.close()
    until(lambda: housekeepers(pool.name) == 0)
    until(lambda: on_server(admin, pool) == [])
    pool.release(pool.get_connection())
    until(lambda: pool.stats().count_idle == 2)
    assert housekeepers(pool.name) == 1


def test_a_round_of_housekeeping_that_comes_after_close_opens_nothing(pool_of):
    pool = pool_of(2, min_idle=2)
    pool.prefill()
    keeper = pool._housekeeper
    pool.close()
    pool._tidy(keeper)
    assert pool.stats().count_idle == 0


def test_the_housekeeper_does_not_keep_the_pool_alive(redis_server):
    pool = Pool.from_url(redis_server.url, min_idle=1, max_idle_time=5, name="forgotten")
    pool.prefill(1)
    assert housekeepers("forgotten") == 1
    gone = weakref.ref(pool)
    del pool
    until(lambda: gc.collect() >= 0 and gone() is None)
    until(lambda: housekeepers("forgotten") == 0)


# ---------------------------------------------------------------- size


def test_resize_up_serves_those_in_line(pool_of):
    pool = pool_of(1)
    pool.get_connection()
    waiting = line_up(pool, 2)
    pool.resize(3)
    assert len({id(each.result(PATIENCE_S)) for each in waiting}) == 2
    assert pool.stats().count_used == 3


def test_resize_down_closes_idle_now_and_lent_on_return(pool_of, admin):
    pool = pool_of(4)
    lent = [pool.get_connection() for _ in range(4)]
    pool.release(lent.pop())
    pool.resize(2)
    assert (pool.stats().count_idle, pool.stats().count_used) == (0, 3)
    for each in lent:
        pool.release(each)
    assert pool.stats().count_idle == 2
    assert pool.stats().closed == {"shrink": 2}
    until(lambda: len(on_server(admin, pool)) == 2)
    assert drained(pool)


# ---------------------------------------------------------------- statistics


def test_statistics_tell_what_happened(pool_of):
    pool = pool_of(2, 0.01, name="orders")
    first, second = pool.get_connection(), pool.get_connection()
    with pytest.raises(AcquireTimeout):
        pool.get_connection()
    pool.release(first)
    pool.get_connection()
    stats = pool.stats()
    assert stats.name == "orders"
    assert (stats.max, stats.count_idle, stats.count_used, stats.changing) == (2, 0, 2, 0)
    assert (stats.requests, stats.empty, stats.timeouts, stats.rejected) == (4, 3, 1, 0)
    assert (stats.created, stats.uses, stats.peak_used) == (2, 1, 2)
    assert 0 < stats.create_time <= stats.wait_time
    assert 0 < stats.use_time < stats.used_seconds
    pool.release(second)
    assert pool.stats().peak_used == 2
    pool.reset_peaks()
    assert pool.stats().peak_used == 1


def test_used_seconds_is_the_time_integral_of_the_count_in_use(pool_of):
    pool = pool_of(3)
    held = [pool.get_connection() for _ in range(3)]
    for connection in held:
        before, after = pool.stats(), pool.stats()
        expected = after.count_used * (after.at - before.at)
        assert after.used_seconds - before.used_seconds == pytest.approx(expected, abs=1e-9)
        pool.release(connection)
        assert pool.stats().used_seconds >= after.used_seconds
    idle = pool.stats()
    assert idle.used_seconds == pytest.approx(idle.use_time)
    assert pool.stats().used_seconds == idle.used_seconds


def test_a_hand_over_counts_as_wait_of_one_and_use_of_the_other(pool_of):
    pool = pool_of(1)
    connection = pool.get_connection()
    before, borrowed = pool.stats(), connection.borrowed_at
    (waiting,) = line_up(pool)
    pool.release(connection)
    waiting.result(PATIENCE_S)
    after = pool.stats()
    assert after.use_time == pytest.approx(connection.borrowed_at - borrowed)
    waited = after.wait_time - before.wait_time
    assert 0 < waited < connection.borrowed_at - borrowed
    assert after.uses == 1


# ---------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"max_connections": 0}, "max_connections must be a whole number from 1 up, not 0"),
        ({"max_connections": 2.5}, "max_connections must be a whole number from 1 up, not 2.5"),
        ({"min_idle": -1}, "min_idle must be a whole number from 0 up, not -1"),
        ({"max_connections": 2, "min_idle": 3}, "min_idle 3 is above max_connections 2"),
        ({"timeout": -1}, "timeout must be 0 or more seconds, or None, not -1"),
        ({"timeout": float("inf")}, "timeout must be 0 or more seconds, or None, not inf"),
        ({"timeout": 1e300}, "seconds, or None for ever, not 1e+300"),
        ({"fifo": "no"}, "fifo must be True or False, not 'no'"),
        ({"connection_class": None}, "connection_class must make connections, which None does not"),
        ({"connection_class": int}, "connection_class must make connections, which <class 'int'>"),
        ({"max_idle_time": 0}, "max_idle_time must be more than 0 seconds, or None, not 0"),
        ({"max_lifetime": "1"}, "max_lifetime must be more than 0 seconds, or None, not '1'"),
        ({"lifetime_jitter": 1}, "lifetime_jitter must be a share from 0 to below 1, not 1"),
        ({"max_waiting": -1}, "max_waiting must be a whole number from 0 up, not -1"),
        ({"test_on_borrow": "pong"}, "test_on_borrow is none, passive or ping, not 'pong'"),
        ({"queue_class": list}, "queue_class is not used by this pool"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, line):
    with pytest.raises(ValueError, match=re.escape(line)) as refusal:
        Pool(**settings)
    assert "\n" not in str(refusal.value)


# ---------------------------------------------------------------- fork


def in_child(check: Callable[[], None]) -> None:
    """Run in a forked child; its failure is ours."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            check()
            status = 0
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as report:
        said = report.read()
    assert os.waitpid(child, 0)[1] == 0, said


def test_a_child_starts_with_an_empty_pool_and_spares_the_parents_sockets(pool_of):
    pool = pool_of(2)
    lent, idle = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    parent_id = ask(lent, "CLIENT", "ID")

    def check() -> None:
        stats = pool.stats()
        assert (stats.count_idle, stats.count_used, stats.requests) == (0, 0, 0)
        assert pool.pid == os.getpid()
        own = pool.get_connection()
        assert ask(own, "CLIENT", "ID") != parent_id
        pool.release(lent)  # the parent's: not taken
        assert pool.stats().count_idle == 0
        pool.release(own)
        assert drained(pool)
        pool.close()

    in_child(check)
    assert pool.pid == os.getpid()
    assert ask(lent, "CLIENT", "ID") == parent_id
    pool.release(lent)
    assert pool.stats().closed == {}
    assert drained(pool)
    assert pool.stats().created == 2


def test_a_child_is_not_held_up_by_a_lock_or_line_of_its_parent(pool_of):
    pool = pool_of(1)
    connection = pool.get_connection()
    (waiting,) = line_up(pool)
    locked, unlock = threading.Event(), threading.Event()

    def hold() -> None:
        with pool._lock:
            locked.set()
            unlock.wait(PATIENCE_S)

    holder = in_thread(hold)
    assert locked.wait(PATIENCE_S)
    try:
        in_child(lambda: pool.release(pool.get_connection()))
    finally:
        unlock.set()
    holder.result(PATIENCE_S)
    pool.release(connection)
    assert waiting.result(PATIENCE_S) is connection


def test_the_housekeeper_works_in_a_child(pool_of):
    pool = pool_of(3, min_idle=2)
    pool.prefill(2)

    def check() -> None:
        pool.release(pool.get_connection())
        until(lambda: pool.stats().count_idle == 2)

    in_child(check)
    assert pool.stats().created == 2


def test_a_client_works_on_both_sides_of_a_fork(pool_of):
    client = redis.Redis(connection_pool=pool_of(1))
    assert client.ping()
    in_child(lambda: client.ping())
    assert client.ping()
