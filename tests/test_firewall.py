"""The kernel's firewall between namespaces: real packets, a real Redis behind it, and what is left
when whoever opened it is killed."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.model import ApparatusLost, PreflightError
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
        monkeypatch.setenv(namespaces.UNPRIVILEGED, "1")
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
    """Whether a PING is answered; silence is False, and anything else an error: FIN, RST."""
    sock.sendall(b"PING\r\n")
    try:
        said = sock.recv(64)
    except TimeoutError:
        return False
    assert said == b"+PONG\r\n"
    return True


def test_what_was_idle_too_long_meets_silence_and_new_connections_work(opened: Firewall) -> None:
    with open_server(None, max_connections=50, firewall=opened,
                     options={"tcp-keepalive": "0"}) as server:  # fmt: skip
        before = server.snapshot().connections
        assert before is not None
        with dialled(opened) as idle, dialled(opened, keepalive_s=1) as kept:
            assert answers(idle)
            assert answers(kept)
            assert opened.entries() == 2
            time.sleep(IDLE_S + 1.5)
            assert answers(kept)  # its kernel's probes are packets too
            assert not answers(idle)
            with dialled(opened) as fresh:
                assert answers(fresh)
        # The suite's own questions go past the firewall, however long none was asked: by the same
        # connection as before.
        assert server.snapshot().connections == before + 3
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


def test_nothing_of_it_is_seen_outside() -> None:
    before = outside()
    with Firewall(IDLE_S) as made, open_server(None, max_connections=10, firewall=made):
        assert outside() == before
    assert outside() == before


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
    until_dead([opened.pid], 5)
    with pytest.raises(ApparatusLost, match=r"the firewall .* killed by signal 9"):
        opened.check()
    with pytest.raises(ApparatusLost, match="the firewall"):
        opened.entries()


def test_only_the_clients_side_may_begin(opened: Firewall) -> None:
    with Passage(opened.passage).socket() as listener, opened.server_socket() as caller:
        listener.bind((namespaces.CLIENT_ADDRESS, 7777))
        listener.listen()
        caller.settimeout(1)
        with pytest.raises(TimeoutError):
            caller.connect((namespaces.CLIENT_ADDRESS, 7777))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_no_descriptor_is_left_of_it_and_its_server() -> None:
    before = descriptors()
    with Firewall(IDLE_S) as made, open_server(None, max_connections=10, firewall=made):
        assert descriptors() > before
    assert descriptors() == before


def test_a_full_table_of_descriptors_is_an_error_of_the_system(opened: Firewall) -> None:
    passage = Passage(opened.passage)
    passage.socket().close()  # its channel is open
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[socket.socket] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 40, limits[1]))
    try:
        with pytest.raises(OSError, match="open files") as refusal:
            held.extend(passage.socket() for _ in range(200))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert refusal.value.errno == errno.EMFILE
    passage.socket().close()
    passage.close()


PATCHED = """
from gevent import monkey; monkey.patch_all()
import os, signal, sys
import gevent
from bench.rig.firewall import Passage
passage = Passage(sys.argv[1])
os.kill(int(sys.argv[2]), signal.SIGSTOP)
waiting = [gevent.spawn(passage.socket) for _ in range(100)]
gevent.sleep(0.2)  # comes back: who waits for the helper holds up nobody else
assert not any(each.ready() for each in waiting)
waiting.pop().kill()
os.kill(int(sys.argv[2]), signal.SIGCONT)
made = [each.get(timeout=10) for each in waiting]
assert len({each.fileno() for each in made}) == 99
assert all(type(each).__module__.startswith("gevent") for each in made)
made[0].settimeout(5)
made[0].connect((sys.argv[3], int(sys.argv[4])))
made[0].sendall(b"PING\\r\\n")
print(made[0].recv(64))
"""


def test_many_greenlets_of_a_worker_share_a_passage(opened: Firewall) -> None:
    with open_server(None, max_connections=200, firewall=opened):
        host, port = opened.server_address
        told = subprocess.run(
            [sys.executable, "-c", PATCHED, opened.passage, str(opened.pid), host, str(port)],
            cwd=ROOT, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    assert told.stdout.strip() == repr(b"+PONG\r\n"), told.stderr


def test_a_refusal_says_what_to_allow() -> None:
    """As where the administrator allows none: the limit is set in a user namespace above."""
    script = (
        "echo 0 > /proc/sys/user/max_net_namespaces && exec "
        f"{sys.executable} -c 'from bench.rig.firewall import missing; print(missing())'"
    )
    told = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script],
        cwd=ROOT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert "run it as root, or allow them to users" in told.stdout, told.stderr
    assert told.stdout.count("\n") == 1


def test_root_of_a_container_needs_no_right_to_the_machine() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has rights to lose")
    lesser = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
    script = "from bench.rig.firewall import missing; print(missing())"
    told = subprocess.run(
        [*lesser, sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert told.stdout == "\n", told.stderr


def test_a_small_table_is_refused_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    namespaces.require_room()
    monkeypatch.setattr(namespaces, "LEAST_ENTRIES", 10**9)
    with pytest.raises(OSError, match="nf_conntrack_max=1000000000"):
        namespaces.require_room()


@pytest.mark.parametrize("idle_s", [0, 0.5, 2.5, float("nan"), float("inf")])
def test_a_time_it_cannot_count_is_refused(idle_s: float) -> None:
    with pytest.raises(PreflightError, match="whole seconds"):
        Firewall(idle_s)


def test_without_its_tools_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "tool", lambda name: None if name == "nft" else "/bin/true")
    # Past the cache, so that nothing of this is kept.
    told = firewall.missing.__wrapped__()
    assert told == "nft is not installed; on Debian: apt install nftables"


# Python tries its folder for temporary files with a file, which stays where it is killed just then.
HOLDER = """
import sys
import tempfile
tempfile.gettempdir()
from bench.rig.firewall import Firewall
from bench.rig.server import open_server
print("begun", flush=True)
with Firewall(2) as made:
    print("firewall", made.pid, flush=True)
    with open_server(None, max_connections=10, firewall=made) as server:
        print("server", server.pid, flush=True)
        sys.stdin.read()
"""


# After so many lines of it and so many seconds: while it imports, sets up, starts the server, runs.
MOMENTS = [(1, 0.0), (1, 0.05), (1, 0.1), (1, 0.2), (1, 0.3), (2, 0.0), (2, 0.03), (3, 0.0)]


@pytest.mark.parametrize("privilege", ["", "1"])
@pytest.mark.parametrize(("lines", "seconds"), MOMENTS)
def test_a_killed_owner_leaves_no_process(lines: int, seconds: float, privilege: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLDER], cwd=ROOT, text=True,
                             env={**os.environ, namespaces.UNPRIVILEGED: privilege},
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    with owner:
        assert owner.stdout is not None
        for _ in range(lines):
            assert owner.stdout.readline()
        time.sleep(seconds)
        owner.send_signal(signal.SIGSTOP)  # so that it starts no other meanwhile
        pids = children_of(owner.pid)
        owner.kill()
    assert len(pids) >= lines - 1
    until_dead(pids, 1)


def children_of(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def until_dead(pids: list[int], seconds: float) -> None:
    """Reaps none: that is its parent's."""
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
