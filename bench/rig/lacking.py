"""What a cell needs that is not to be had: on this machine, or of a server that is not ours."""

from __future__ import annotations

import functools
import importlib.util
import platform
import subprocess
import sys

from bench.model import Cell, Trap
from bench.rig import firewall, host, proxies

NOT_OURS = "REDIS_URL names the server: only one of our own is changed for it"
GLIDE_NOT_OURS = (
    "REDIS_URL names the server: with TLS it would check the certificate against the link's address"
)
PORT_RANGES_SINCE = (6, 3)  # of Linux: a socket may choose among some ports only


def _speaks_tls() -> bool:
    from bench.rig.server import speaks_tls  # it brings ssl, which must wait for locust's patches

    return speaks_tls()


def redundant(cell: Cell) -> bool:
    """Whether the cell is another one again: the TLS front without TLS, where there is no front."""
    return cell.via == "front" and _speaks_tls()


def lacking(cell: Cell, *, owned: bool) -> tuple[str, str] | None:
    """What this cell would need, and why it is not there; None where it can be run."""
    return next(iter(_lacks(cell, owned)), None)


def _lacks(cell: Cell, owned: bool) -> list[tuple[str, str]]:
    special = _special(cell)
    if special and not owned:
        return [(special, NOT_OURS)]
    if cell.client == "glide" and not owned:
        return [("the client glide", GLIDE_NOT_OURS)]
    if cell.idling is not None:
        reason = _no_trap(cell.idling.trap)
        return [(f"the trap {cell.idling.trap}", reason)] if reason else []
    why = [
        (f"via {cell.via}", proxies.missing(cell.via))
        if cell.via in ("envoy", "twemproxy")
        else ("", ""),
        (f"TLS {cell.tls}", _no_tls()) if cell.tls != "none" else ("", ""),
        ("the client glide", no_glide()) if cell.client == "glide" else ("", ""),
        ("a narrow port range", _no_port_range()) if cell.local_ports else ("", ""),
    ]
    return [(what, reason) for what, reason in why if reason]


def _special(cell: Cell) -> str:
    """What of the cell only a server of our own can give; empty where any can."""
    if cell.idling is not None:
        return "what ends idle connections"
    if cell.fault == "stop":
        return "a stop of the server"
    if cell.via != "direct":
        return f"via {cell.via}"
    if cell.tls != "none":
        return f"TLS {cell.tls}"
    if cell.auth != "none":
        return f"AUTH {cell.auth}"
    return "another database" if cell.database else ""


def _no_trap(trap: Trap) -> str:
    if trap == "firewall":
        return firewall.missing()
    if trap in ("envoy", "haproxy"):
        return proxies.missing(trap)
    return ""


def _no_tls() -> str:
    missing = "" if _speaks_tls() else proxies.missing("envoy")
    return missing and f"the server is built without TLS, and {missing}"


def no_glide() -> str:
    """Why valkey-glide cannot be used here; empty where it can."""
    return "" if _glide_works() else "valkey-glide-sync is not installed, or not for this system"


@functools.cache
def _glide_works() -> bool:
    """Tried in a process of its own: it brings a library that is not for every system."""
    if importlib.util.find_spec("glide_sync") is None:
        return False
    tried = [sys.executable, "-c", "from glide_sync import GlideClient"]
    return subprocess.run(tried, capture_output=True).returncode == 0


def _no_port_range() -> str:
    numbers = [int(n) for n in platform.release().split(".")[:2] if n.isdecimal()]
    known = host.LINUX and tuple(numbers) >= PORT_RANGES_SINCE
    return "" if known else "it takes Linux 6.3 or later"
