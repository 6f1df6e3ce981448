"""The kernel's firewall between namespaces: real packets, a real Redis behind it, and what is left
when whoever opened it is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.model import PreflightError
from bench.rig import firewall, namespaces
from bench.rig.firewall import Firewall, Passage
from bench.rig.server import open_server

ROOT = Path(__file__).parents[1]
IDLE_S = 2

if lacking := firewall.missing():
    pytestmark = pytest.mark.skip(reason=f"not run: {lacking}")


@pytest.fixture(params=["as it is", "unprivileged"])
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Firewall]:
    if request.param == "unprivileged":
        monkeypatch.setenv("BENCH_UNPRIVILEGED", "1")
    with Firewall(IDLE_S) as made:
        yield made


def dialled(made: Firewall, keepalive_s: int = 0) -> socket.socket:
    sock = Passage(made.passage).socket()
    if keepalive_s:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keepalive_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, keepalive_s)
    sock.settimeout(1)
    sock.connect(made.server_address)
    return sock


def answers(sock: socket.socket) -> bool:
    """Whether a PING is answered; silence is False, and anything else an error."""
    sock.sendall(b"PING\r\n")
    try:
        return sock.recv(64) == b"+PONG\r\n"
    except TimeoutError:
        return False


def test_what_was_idle_too_long_meets_silence_and_new_connections_work(opened: Firewall) -> None:
    with open_server(None, max_connections=50, firewall=opened,
                     options={"tcp-keepalive": "0"}) as server:  # fmt: skip
        with dialled(opened) as idle, dialled(opened, keepalive_s=1) as kept:
            assert answers(idle)
            assert answers(kept)
            assert opened.entries() == 2
            time.sleep(IDLE_S + 1.5)
            assert answers(kept)  # its kernel's probes are packets too
            assert not answers(idle)
            with dialled(opened) as fresh:
                assert answers(fresh)
        # The suite's own questions go past the firewall, however long none was asked.
        assert server.snapshot().connected_clients >= 1
        assert server.owned
        assert server.snapshot().fds


def test_the_servers_own_keepalive_keeps_a_connection(opened: Firewall) -> None:
    with (
        open_server(None, max_connections=50, firewall=opened, options={"tcp-keepalive": "1"}),
        dialled(opened) as idle,
    ):
        assert answers(idle)
        time.sleep(IDLE_S + 1.5)
        assert answers(idle)


def test_it_takes_up_nothing_in_its_midst(opened: Firewall) -> None:
    """A connection that it has forgotten stays forgotten, whoever sends."""
    with open_server(None, max_connections=50, firewall=opened,
                     options={"tcp-keepalive": "0"}), dialled(opened) as idle:  # fmt: skip
        assert answers(idle)
        time.sleep(IDLE_S + 1.5)
        assert not answers(idle)
        assert not answers(idle)
        assert opened.entries() == 0


def outside() -> tuple[str, ...]:
    """What the ordinary network shows of devices, namespaces and rules."""
    commands = (["ip", "-o", "link"], ["ip", "netns"], ["nft", "list", "ruleset"])
    return tuple(
        subprocess.run(
            [namespaces.tool(name) or name, *words], capture_output=True, text=True
        ).stdout
        for name, *words in commands
    )


def test_nothing_of_it_is_seen_outside(opened: Firewall) -> None:
    during = outside()
    opened.close()
    assert outside() == during
    assert "bench" not in "".join(during)


def test_many_sockets_come_and_none_is_left(opened: Firewall) -> None:
    passage = Passage(opened.passage)
    with open_server(None, max_connections=200, firewall=opened):
        made = [passage.socket() for _ in range(100)]
        for sock in made:
            sock.connect(opened.server_address)
            sock.close()
    passage.close()
    opened.close()
    with pytest.raises(OSError, match="refused"):
        passage.socket()


def test_a_helper_that_is_gone_is_named(opened: Firewall) -> None:
    os.kill(opened.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(opened.pid)], timeout=5)
    with pytest.raises(Exception, match="firewall"):
        opened.check()


@pytest.mark.parametrize("idle_s", [0, 0.5, 2.5])
def test_a_time_it_cannot_count_is_refused(idle_s: float) -> None:
    with pytest.raises(PreflightError, match="whole seconds"):
        Firewall(idle_s)


def test_without_its_tools_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    firewall.missing.cache_clear()
    monkeypatch.setattr(firewall, "tool", lambda name: None if name == "nft" else "/bin/true")
    assert firewall.missing() == "nft is not installed; on Debian: apt install nftables"
    firewall.missing.cache_clear()


HOLDER = """
import sys
from bench.rig.firewall import Firewall
from bench.rig.server import open_server
print("begun", flush=True)
with Firewall(2) as made:
    print("firewall", made.pid, flush=True)
    with open_server(None, max_connections=10, firewall=made) as server:
        print("server", server.pid, flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_a_killed_owner_leaves_neither_process_nor_namespace(lines: int) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLDER], cwd=ROOT, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert owner.stdout is not None
    told = [owner.stdout.readline() for _ in range(lines)]
    before = children_of(owner.pid)
    owner.kill()
    owner.wait()
    pids = {int(line.split()[1]) for line in told if len(line.split()) > 1} | set(before)
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in pids if alive(pid)]


def children_of(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
