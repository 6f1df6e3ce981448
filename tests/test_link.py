"""The link, with a real Redis and real sockets behind it; through epoll and through selectors."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from bench.model import ApparatusLost
from bench.rig import relay
from bench.rig.link import IdleEnd, Link, Traffic
from bench.rig.relay import BACKLOG_LIMIT_BYTES
from bench.rig.server import Server, open_server

ROOT = Path(__file__).parents[1]
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
FLOOD_LIMIT_BYTES = 64 << 20


class WithoutEpoll:
    """The relay as it runs where there is no epoll, asked as a Companion would."""

    def __init__(self) -> None:
        code = "import select; del select.epoll; from bench.rig import relay; relay.main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "0"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self.process.pid

    def ask(self, command: str, **args: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"command": command, **args}).encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0


Opener = Callable[[tuple[str, int]], Link]


@pytest.fixture(params=["epoll", "selectors"])
def open_link(request: pytest.FixtureRequest) -> Iterator[Opener]:
    with contextlib.ExitStack() as stack:

        def opened(target: tuple[str, int]) -> Link:
            link = (
                Link.open(target) if request.param == "epoll" else Link(WithoutEpoll(), target)  # type: ignore[arg-type]
            )
            return stack.enter_context(link)

        yield opened


@pytest.fixture
def redis_link(redis_server: Server, open_link: Opener) -> Link:
    return open_link((redis_server.host, redis_server.port))


@pytest.fixture
def target() -> Iterator[socket.socket]:
    """A listener on which the test plays the server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


def through(link: Link, rtt_s: float = 0.0) -> socket.socket:
    return socket.create_connection(link.route(rtt_s), timeout=10)


def pair(
    link: Link, target: socket.socket, rtt_s: float = 0.0, **route: Any
) -> tuple[socket.socket, Any]:
    """Both ends of one connection through the link."""
    client = socket.create_connection(link.route(rtt_s, **route), timeout=10)
    served, _ = target.accept()
    served.settimeout(10)
    return client, served


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def empty(link: Link, fds: int | None) -> bool:
    """No connection, and no descriptor more than before."""
    stats = link.stats()
    return stats.connections == 0 and stats.fds == fds


@pytest.mark.parametrize("rtt_s", [0.0, 0.001, 0.01])
def test_large_values_arrive_unchanged_both_ways(redis_link: Link, rtt_s: float) -> None:
    host_name, port = redis_link.route(rtt_s)
    value = os.urandom(5 << 20)  # many chunks, and more than the backlog that stops reading
    with redis.Redis(host=host_name, port=port) as client:
        client.set("link:large", value)
        assert client.get("link:large") == value
        client.delete("link:large")


def test_commands_stay_in_order_in_a_deep_pipeline(redis_link: Link) -> None:
    host_name, port = redis_link.route(0.002)
    with redis.Redis(host=host_name, port=port) as client:
        pipeline = client.pipeline(transaction=False)
        for i in range(5_000):
            pipeline.echo(i)
        assert [int(answer) for answer in pipeline.execute()] == list(range(5_000))


def test_nothing_is_earlier_than_the_round_trip_and_the_first_answer_takes_two(
    redis_link: Link,
) -> None:
    rtt_s = 0.02
    with through(redis_link, rtt_s) as client:
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            client.sendall(b"PING\r\n")
            assert client.recv(64) == b"+PONG\r\n"
            taken.append(time.perf_counter() - start)
    assert taken[0] > 1.9 * rtt_s  # connect() returned before the clock was read
    assert min(taken[1:]) >= rtt_s


def test_a_route_has_one_address_and_each_round_trip_its_own(redis_link: Link) -> None:
    assert redis_link.route(0.001) == redis_link.route(0.001)
    assert redis_link.route(0.001) != redis_link.route(0.01)
    assert redis_link.route(0.001)[0] == "127.0.0.1"


def test_half_close_travels_and_the_answer_still_comes(
    open_link: Opener, target: socket.socket
) -> None:
    link = open_link(target.getsockname())
    link.route(0.001)
    fds = link.stats().fds
    client, served = pair(link, target, 0.001)
    with client, served:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert read_all(served) == b"question"
        served.sendall(b"answer" * 100_000)
        served.close()
        assert read_all(client) == b"answer" * 100_000
    assert eventually(lambda: empty(link, fds))


@pytest.mark.parametrize("end", ["client", "server"])
def test_a_reset_travels_and_leaves_nothing(
    open_link: Opener, target: socket.socket, end: str
) -> None:
    link = open_link(target.getsockname())
    link.route(0.001)
    fds = link.stats().fds
    client, served = pair(link, target, 0.001)
    with client, served:
        client.sendall(b"hello")
        assert served.recv(64) == b"hello"
        broken, other = (client, served) if end == "client" else (served, client)
        broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        broken.close()
        with pytest.raises(ConnectionResetError):
            other.recv(64)
    assert eventually(lambda: empty(link, fds))


def test_a_client_that_left_before_its_round_trip_was_over_leaves_nothing(
    open_link: Opener, target: socket.socket
) -> None:
    link = open_link(target.getsockname())
    link.route(0.2)
    fds = link.stats().fds
    client, served = pair(link, target, 0.2)
    client.sendall(b"last words")
    client.close()
    with served:
        assert read_all(served) == b"last words"
    assert eventually(lambda: empty(link, fds))


def test_a_target_that_refuses_is_a_reset(open_link: Opener) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    link = open_link(address)
    link.route(0.001)
    fds = link.stats().fds
    with through(link, 0.001) as client, pytest.raises(ConnectionResetError):
        client.recv(64)
    assert eventually(lambda: empty(link, fds))


def test_a_killed_server_ends_every_connection(open_link: Opener) -> None:
    with open_server(None, max_connections=100) as doomed:
        link = open_link((doomed.host, doomed.port))
        link.route(0.001)
        fds = link.stats().fds
        clients = [through(link, 0.001) for _ in range(50)]
        for client in clients:
            client.sendall(b"PING\r\n")
            assert client.recv(64) == b"+PONG\r\n"
        assert doomed.pid is not None
        os.kill(doomed.pid, signal.SIGKILL)
        for client in clients:
            assert client.recv(64) == b""
            client.close()
        assert eventually(lambda: empty(link, fds))


def flood(client: socket.socket) -> int:
    """Writes until nothing has been taken for a while; how many bytes that were."""
    client.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < FLOOD_LIMIT_BYTES:
            sent += client.send(bytes(1 << 16))
    return sent


def test_a_reader_that_stops_holds_the_writer_and_nobody_else(
    open_link: Opener, target: socket.socket
) -> None:
    link = open_link(target.getsockname())
    client, served = pair(link, target)
    other, other_served = pair(link, target)
    with client, served, other, other_served:
        sent = flood(client)
        assert BACKLOG_LIMIT_BYTES < sent < FLOOD_LIMIT_BYTES
        other.sendall(b"still here")
        assert other_served.recv(64) == b"still here"
        client.shutdown(socket.SHUT_WR)
        assert len(read_all(served)) == sent
        served.close()
        assert client.recv(64) == b""


def test_the_end_waits_behind_what_a_slow_reader_has_not_taken(
    open_link: Opener, target: socket.socket
) -> None:
    answer = bytes(BACKLOG_LIMIT_BYTES - 1)
    link = open_link(target.getsockname())
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(link.route(0.0))
        served, _ = target.accept()
        with served:
            served.sendall(answer)
        assert eventually(lambda: link.stats().bytes_to_client == len(answer))
        assert read_all(client) == answer


@pytest.mark.parametrize("open_link", ["epoll"], indirect=True)
def test_a_reset_after_an_end_leaves_nothing(open_link: Opener, target: socket.socket) -> None:
    """Selectors do not tell of it: there the connection stays until the server leaves too."""
    link = open_link(target.getsockname())
    link.route(0.001)
    fds = link.stats().fds
    client, served = pair(link, target, 0.001)
    with client, served:
        client.shutdown(socket.SHUT_WR)
        assert read_all(served) == b""
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        client.close()
        assert eventually(lambda: empty(link, fds))


def test_closed_connections_cost_no_memory(open_link: Opener, target: socket.socket) -> None:
    link = open_link(target.getsockname())
    sizes = []
    for count in (300, 1_500):
        for _ in range(count):
            client, served = pair(link, target)
            client.close()
            served.close()
        assert eventually(lambda: link.stats().connections == 0)
        sizes.append(psutil.Process(link.pid).memory_info().rss)
    assert sizes[1] - sizes[0] < 1 << 20


def test_bytes_and_chunks_are_counted_per_connection_and_in_all(
    open_link: Opener, target: socket.socket
) -> None:
    link = open_link(target.getsockname())
    client, served = pair(link, target)
    idle, idle_served = pair(link, target)
    with client, served, idle, idle_served:
        for _ in range(3):
            client.sendall(b"12345")
            assert served.recv(64) == b"12345"
        served.sendall(b"1234567")
        assert client.recv(64) == b"1234567"
        assert sorted(link.traffic(), key=lambda each: each.bytes_to_server) == [
            Traffic(0, 0, 0, 0),
            Traffic(15, 3, 7, 1),
        ]
    assert eventually(lambda: link.stats().connections == 0)
    stats = link.stats()
    assert (stats.bytes_to_server, stats.chunks_to_server) == (15, 3)
    assert (stats.bytes_to_client, stats.chunks_to_client) == (7, 1)
    assert stats.accepted == 2
    assert stats.cpu_user_s + stats.cpu_system_s > 0
    assert link.traffic() == []


def test_five_thousand_connections_all_relay_and_all_go(open_link: Opener) -> None:
    count = 5_000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * count + 200:
        pytest.skip(f"the link needs {2 * count + 200} descriptors, the hard limit is {hard}")
    with open_server(None, max_connections=count) as server, contextlib.ExitStack() as stack:
        link = open_link((server.host, server.port))
        link.route(0.001)
        fds = link.stats().fds
        assert fds is not None
        clients = [stack.enter_context(through(link, 0.001)) for _ in range(count)]
        for client in clients:
            client.sendall(b"PING\r\n")
        assert all(client.recv(64) == b"+PONG\r\n" for client in clients)
        stats = link.stats()
        assert stats.connections == stats.accepted == count
        assert stats.fds == fds + 2 * count
        assert server.snapshot().connected_clients == count + 1
        stack.close()
        assert eventually(lambda: empty(link, fds))
        assert eventually(lambda: server.snapshot(light=True).connected_clients == 1)


def test_a_link_that_was_late_says_when(redis_server: Server) -> None:
    with (
        Link.open((redis_server.host, redis_server.port)) as link,
        socket.create_connection(link.route(0.05)) as client,
    ):
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
        link.mark()
        client.sendall(b"PING\r\n")
        time.sleep(0.01)
        began = time.perf_counter()
        os.kill(link.pid, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(link.pid, signal.SIGCONT)
        assert client.recv(100) == b"+PONG\r\n"
        stalls = link.stalls()
        link.mark()
        assert not link.stalls()
    assert any(due < began + 0.1 and now - due > 0.1 for due, now in stalls)


def test_a_moderated_link_looks_after_its_connections_once_in_that_time(
    redis_server: Server,
) -> None:
    """What comes while it rests travels together, and nothing is lost."""
    rest_s = 0.2
    with (
        Link.open((redis_server.host, redis_server.port), rest_s) as link,
        socket.create_connection(link.route(0.001)) as client,
    ):
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
        before = link.stats()
        for _ in range(10):
            client.sendall(b"PING\r\n")
            time.sleep(rest_s / 100)
        received = b""
        while received.count(b"+PONG\r\n") < 10:
            received += client.recv(1000)
        after = link.stats()
    assert after.bytes_to_server - before.bytes_to_server == 60
    assert after.chunks_to_server - before.chunks_to_server < 5


def test_a_killed_link_is_named(redis_server: Server) -> None:
    with Link.open((redis_server.host, redis_server.port)) as link:
        link.check()
        os.kill(link.pid, signal.SIGKILL)
        with pytest.raises(ApparatusLost, match=r"link .*killed by signal 9"):
            link.stats()
        with pytest.raises(ApparatusLost, match=r"link .*killed by signal 9"):
            link.check()


# Idle ends and faults

IDLE_S = 0.4
SILENT_S = 0.5  # for so long nothing comes: that is silence
BEFORE_GHOSTS_GO_S = relay.GHOST_S / 2


def hears_nothing(sock: socket.socket) -> bool:
    """Neither data nor end nor error, for a while."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLRDHUP)
    return not poll.poll(SILENT_S * 1000)


def idle_pair(link: Link, target: socket.socket, end: IdleEnd) -> tuple[Any, Any]:
    """Both ends of a connection that was ended for idleness."""
    client, served = pair(link, target, idle_s=IDLE_S, idle_end=end)
    client.sendall(b"hello")
    assert served.recv(64) == b"hello"
    assert eventually(lambda: link.stats().dropped == 1)
    return client, served


def glimpsed(sock: socket.socket) -> str:
    """What a pool's check without a round trip would see."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLRDHUP)
    seen = sum(event for _, event in poll.poll(0))
    if not seen:
        return "nothing"
    return "an error" if seen & select.POLLERR else "an end" if seen & select.POLLRDHUP else "data"


def answered(sock: socket.socket, request: bytes) -> str:
    """What the next command meets."""
    sock.settimeout(SILENT_S)
    try:
        sock.sendall(request)
        return "an answer" if sock.recv(64) else "an end"
    except ConnectionResetError:
        return "a reset"
    except TimeoutError:
        return "nothing"


# What is seen before anything is sent, what the first command meets, whether the server has it yet.
MEETINGS: dict[IdleEnd, tuple[str, str, bool]] = {
    "fin": ("an end", "an end", False),
    "reset": ("an error", "a reset", False),
    "reset on next": ("nothing", "a reset", True),
    "silence": ("nothing", "nothing", True),
}


@pytest.mark.parametrize("end", MEETINGS)
def test_what_a_client_of_redis_meets_on_its_idle_connection(
    redis_server: Server, redis_link: Link, end: IdleEnd
) -> None:
    glimpse, answer, held = MEETINGS[end]
    route = redis_link.route(0.0, idle_s=IDLE_S, idle_end=end)
    with (
        redis.Redis(port=redis_server.port) as admin,
        socket.create_connection(route, timeout=10) as client,
    ):
        client.sendall(b"CLIENT ID\r\n")
        client_id = client.recv(64).strip(b":\r\n").decode()

        def as_told() -> bool:
            return held == (client_id in {each["id"] for each in admin.client_list()})

        assert eventually(lambda: redis_link.stats().dropped == 1)
        assert eventually(lambda: glimpsed(client) == glimpse)
        assert eventually(as_told)
        assert answered(client, b"PING\r\n") == answer
        client.close()
        time.sleep(SILENT_S)
        assert as_told()
        if held:
            assert admin.client_kill_filter(_id=client_id) == 1


def test_an_idle_connection_ends_with_fin_at_both_ends(
    open_link: Opener, target: socket.socket
) -> None:
    client, served = idle_pair(open_link(target.getsockname()), target, "fin")
    with client, served:
        assert client.recv(64) == b""
        assert served.recv(64) == b""


def test_an_idle_connection_is_reset_at_both_ends(open_link: Opener, target: socket.socket) -> None:
    client, served = idle_pair(open_link(target.getsockname()), target, "reset")
    with client, served:
        for end in (client, served):
            with pytest.raises(ConnectionResetError):
                end.recv(64)


@pytest.mark.parametrize("first", ["client", "server"])
def test_who_sends_next_is_reset_and_the_other_hears_nothing(
    open_link: Opener, target: socket.socket, first: str
) -> None:
    client, served = idle_pair(open_link(target.getsockname()), target, "reset on next")
    sender, other = (client, served) if first == "client" else (served, client)
    with client, served:
        assert hears_nothing(client)
        sender.sendall(b"anyone there?")
        with pytest.raises(ConnectionResetError):
            sender.recv(64)
        assert hears_nothing(other)
        other.settimeout(BEFORE_GHOSTS_GO_S)
        other.sendall(b"and where are you?")  # who has been told nothing learns it when it sends
        with pytest.raises(ConnectionResetError):
            other.recv(64)


def test_a_ghost_goes_when_its_server_leaves(open_link: Opener, target: socket.socket) -> None:
    link = open_link(target.getsockname())
    link.route(0.0, idle_s=IDLE_S, idle_end="silence")
    fds = link.stats().fds
    client, served = idle_pair(link, target, "silence")
    client.close()
    assert hears_nothing(served)
    served.close()
    assert eventually(lambda: empty(link, fds), BEFORE_GHOSTS_GO_S)


def test_a_client_whose_server_left_in_silence_hears_nothing_and_leaves_nothing(
    open_link: Opener, target: socket.socket
) -> None:
    link = open_link(target.getsockname())
    link.route(0.0, idle_s=IDLE_S, idle_end="silence")
    fds = link.stats().fds
    client, served = idle_pair(link, target, "silence")
    served.close()
    assert hears_nothing(client)
    client.close()
    assert eventually(lambda: empty(link, fds), BEFORE_GHOSTS_GO_S)


def test_silence_swallows_what_is_sent_and_the_end_too(
    open_link: Opener, target: socket.socket
) -> None:
    link = open_link(target.getsockname())
    client, served = idle_pair(link, target, "silence")
    with served:
        client.sendall(b"anyone there?")
        served.sendall(b"and you?")
        assert hears_nothing(client)
        assert hears_nothing(served)
        client.close()
        assert hears_nothing(served)
        assert link.stats().connections == 0  # the client's side is gone, the server's a ghost
        served.settimeout(relay.GHOST_S + 10)
        with pytest.raises(ConnectionResetError):
            served.recv(64)


def test_a_connection_in_use_is_not_dropped(open_link: Opener, target: socket.socket) -> None:
    link = open_link(target.getsockname())
    client, served = pair(link, target, idle_s=IDLE_S, idle_end="fin")
    with client, served:
        for _ in range(8):
            time.sleep(IDLE_S / 3)
            client.sendall(b"hello")
            assert served.recv(64) == b"hello"
        assert link.stats().dropped == 0


def test_other_routes_keep_their_idle_connections(open_link: Opener, target: socket.socket) -> None:
    link = open_link(target.getsockname())
    client, served = pair(link, target)
    with client, served:
        ended, _ = idle_pair(link, target, "reset")
        client.sendall(b"hello")
        assert served.recv(64) == b"hello"
        ended.close()


def test_a_stall_holds_everything_and_loses_nothing(
    open_link: Opener, target: socket.socket
) -> None:
    link = open_link(target.getsockname())
    client, served = pair(link, target)
    with client, served:
        with link.stalled():
            for part in (b"a", b"b", b"c"):
                client.sendall(part)
                time.sleep(0.05)
            late, late_served = pair(link, target)
            late.sendall(b"late")
            client.shutdown(socket.SHUT_WR)
            assert hears_nothing(served)
            assert hears_nothing(late_served)
        assert b"".join(iter(lambda: served.recv(64), b"")) == b"abc"
        assert late_served.recv(64) == b"late"
        late.close()
        late_served.close()


def test_a_long_stall_holds_the_writer_and_costs_no_time(
    open_link: Opener, target: socket.socket
) -> None:
    link = open_link(target.getsockname())
    client, served = pair(link, target)
    with client, served:
        with link.stalled():
            sent = flood(client)
            assert BACKLOG_LIMIT_BYTES < sent < FLOOD_LIMIT_BYTES
            served.sendall(b"the other way too")
            before = link.stats()
            assert hears_nothing(client)
            after = link.stats()
            assert after.cpu_user_s - before.cpu_user_s < SILENT_S / 4  # it waits
        client.shutdown(socket.SHUT_WR)
        assert len(read_all(served)) == sent
        assert client.recv(64) == b"the other way too"


def test_a_reset_comes_after_the_stall_as_one(open_link: Opener, target: socket.socket) -> None:
    link = open_link(target.getsockname())
    link.route(0.0)
    fds = link.stats().fds
    client, served = pair(link, target)
    with served:
        client.sendall(b"hello")
        assert served.recv(64) == b"hello"
        with link.stalled():
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.close()
            assert hears_nothing(served)
        with pytest.raises(ConnectionResetError):
            served.recv(64)
    assert eventually(lambda: empty(link, fds))


def test_what_waits_is_sent_although_an_answer_came_first(
    open_link: Opener, target: socket.socket
) -> None:
    """One event then tells of both: of something to read, and of room to write."""
    link = open_link(target.getsockname())
    client, served = pair(link, target)
    with client, served:
        sent = flood(client)
        os.kill(link.pid, signal.SIGSTOP)
        served.settimeout(0.2)
        taken = 0
        with contextlib.suppress(TimeoutError):
            while True:
                taken += len(served.recv(1 << 20))
        served.sendall(b"go on")
        os.kill(link.pid, signal.SIGCONT)
        served.settimeout(10)
        assert client.recv(64) == b"go on"
        while taken < sent:
            taken += len(served.recv(1 << 20))
        assert taken == sent


def test_a_stall_of_some_takes_the_oldest(open_link: Opener, target: socket.socket) -> None:
    link = open_link(target.getsockname())
    pairs = [pair(link, target) for _ in range(5)]
    for client, served in pairs:  # all are known to the link
        client.sendall(b"hello")
        assert served.recv(64) == b"hello"
    with link.stalled(share=0.5):
        pairs.append(pair(link, target))
        for client, _ in pairs:
            client.sendall(b"question")
        silent = [hears_nothing(served) for _, served in pairs]
        assert silent == [True, True, True, False, False, False]
    assert [served.recv(64) for _, served in pairs] == [b"question"] * 6
    for ends in pairs:
        for end in ends:
            end.close()


def test_a_cut_resets_and_refuses_until_it_heals(open_link: Opener, target: socket.socket) -> None:
    link = open_link(target.getsockname())
    client, served = pair(link, target)
    with client, served:
        with link.cut():
            for end in (client, served):
                with pytest.raises(ConnectionResetError):
                    end.recv(64)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(link.route(0.0), timeout=10)
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(link.route(0.0))  # or the path could not heal
        again, answered = pair(link, target)
        with again, answered:
            again.sendall(b"hello")
            assert answered.recv(64) == b"hello"


def test_what_was_severed_stays_dead_and_new_ones_work(
    open_link: Opener, target: socket.socket
) -> None:
    link = open_link(target.getsockname())
    client, served = pair(link, target)
    with link.severed():
        client.sendall(b"lost")
        meanwhile = through(link)
        meanwhile.sendall(b"lost too")
        assert hears_nothing(served)
        assert hears_nothing(target)  # nobody connected
    client.sendall(b"still lost")
    meanwhile.sendall(b"still lost")
    served.sendall(b"and this")
    for end in (client, served, meanwhile, target):
        assert hears_nothing(end)
    again, answered = pair(link, target)
    again.sendall(b"hello")
    assert answered.recv(64) == b"hello"
    for end in (client, served, meanwhile, again, answered):
        end.close()


def test_what_was_severed_swallows_on_and_leaves_nothing(
    open_link: Opener, target: socket.socket
) -> None:
    """Also where the link had stopped reading, for the sake of a reader that had."""
    link = open_link(target.getsockname())
    link.route(0.0)
    fds = link.stats().fds
    client, served = pair(link, target)
    assert flood(client) < FLOOD_LIMIT_BYTES
    with link.severed():
        assert flood(client) >= FLOOD_LIMIT_BYTES
        late = through(link)
        late.close()
    client.close()
    served.close()
    assert eventually(lambda: empty(link, fds), BEFORE_GHOSTS_GO_S)


def test_an_end_that_a_stall_holds_is_dropped_with_its_idle_connection(
    open_link: Opener, target: socket.socket
) -> None:
    link = open_link(target.getsockname())
    link.route(0.0, idle_s=IDLE_S, idle_end="silence")
    fds = link.stats().fds
    client, served = pair(link, target, idle_s=IDLE_S, idle_end="silence")
    with link.stalled():
        client.sendall(b"held")
        client.close()
        assert eventually(lambda: link.stats().dropped == 1)
    assert hears_nothing(served)
    served.close()
    assert eventually(lambda: empty(link, fds), BEFORE_GHOSTS_GO_S)


def test_a_fault_befalls_one_route_alone(open_link: Opener, target: socket.socket) -> None:
    link = open_link(target.getsockname())
    near, far = link.route(0.0), link.route(0.001)
    cut, cut_served = pair(link, target, 0.0)
    stalled, stalled_served = pair(link, target, 0.001)
    with cut, cut_served, stalled, stalled_served:
        with link.cut(route=near):
            with pytest.raises(ConnectionResetError):
                cut.recv(64)
            stalled.sendall(b"passes")
            assert stalled_served.recv(64) == b"passes"
            with pytest.raises(ValueError, match="while another fault is on"), link.severed():
                pass
            with link.stalled(route=far):  # each route has its own
                stalled.sendall(b"held")
                assert hears_nothing(stalled_served)
            assert stalled_served.recv(64) == b"held"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(near, timeout=10)
        again, served = pair(link, target, 0.0)
        again.close()
        served.close()
    elsewhere = ("127.0.0.1", 1)
    with pytest.raises(ValueError, match="no route of this link"), link.cut(route=elsewhere):
        pass
