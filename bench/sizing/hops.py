"""What closes idle connections on the way to a Redis, when, and what the client sees of it.

Defaults as the vendors' documentation and the programs' own configuration state them; each hop's
`source` names which. What a named hop is set to otherwise is given as NAME=DURATION.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Literal

from bench.model import PreflightError
from bench.sizing.quantities import duration, shown

# closed: a FIN or RST comes at the timeout. reset: nothing comes until the next packet, which is
# answered by RST. silence: packets vanish, and a read times out. unknown: not stated, or by rules.
Sees = Literal["closed", "reset", "silence", "unknown"]

# Below 5 s, pools that sweep once in whole seconds cannot be sure to close in time.
LEAST_S, MOST_S = 5.0, 30 * 86_400.0
THE_PATH = "the path"


@dataclass(frozen=True, slots=True)
class Hop:
    """`closes_after_s` idle seconds the connection is closed or forgotten; None: never.

    `refreshed`: whether TCP keepalive probes count as traffic there.
    """

    name: str
    closes_after_s: float | None
    sees: Sees
    refreshed: bool
    source: str


_TABLE = (
    Hop("aws-nlb", 350, "reset", True, "AWS Network Load Balancer guide, TCP idle timeout"),
    Hop("aws-nat", 350, "reset", True, "AWS VPC guide, NAT gateways"),
    Hop("aws-network-firewall", 350, "silence", True, "AWS Network Firewall guide"),
    Hop("ec2", 350, "unknown", True, "Amazon EC2 guide, connection tracking on Nitro 6"),
    Hop("azure-lb", 240, "silence", True, "Azure Load Balancer, TCP reset and idle timeout"),
    Hop("azure-cache", 600, "closed", False, "Azure Cache for Redis, idle timeout"),
    Hop("gcp-nat", 1_200, "silence", True, "Google Cloud NAT, established TCP timeout"),
    Hop("gcp-vpc", 600, "silence", True, "Google Cloud VPC firewall, connection tracking"),
    Hop("haproxy", 50, "closed", False, "Debian's haproxy.cfg, timeout client and server"),
    Hop("envoy", 3_600, "closed", False, "Envoy tcp_proxy, idle_timeout"),
    Hop("conntrack", 432_000, "unknown", True, "Linux nf_conntrack_tcp_timeout_established"),
    Hop("kube-proxy-iptables", 86_400, "unknown", True, "kube-proxy, tcpEstablishedTimeout"),
    Hop("kube-proxy-ipvs", 900, "unknown", True, "IPVS, ipvsadm --set"),
    Hop("redis-timeout", None, "closed", False, "redis.conf, timeout 0: off"),
)
HOPS = {hop.name: hop for hop in _TABLE}


def shortest() -> Hop:
    """The hop whose default is shortest: what a path of which nothing is known may hold."""
    return min(HOPS.values(), key=lambda hop: hop.closes_after_s or float("inf"))


def unknown_path() -> Hop:
    """A careful stand-in: as short as the shortest, as silent as the worst."""
    worst = shortest()
    source = f"not given: assumed as short as the shortest default known ({worst.name})"
    return Hop(THE_PATH, worst.closes_after_s, "unknown", False, source)


def path(option: str, text: str) -> Hop:
    """The hop that closes first on a path given as a duration, a name, NAME=DURATION, or several
    of these with commas between. Raises PreflightError."""
    hops = [_hop(option, part.strip()) for part in text.split(",")]
    return min(hops, key=lambda hop: hop.closes_after_s or float("inf"))


def _hop(option: str, text: str) -> Hop:
    if text.startswith(tuple("+-.0123456789")):
        seconds = duration(option, text, LEAST_S, MOST_S)
        return Hop(THE_PATH, seconds, "unknown", False, "as given")
    name, equals, changed = text.partition("=")
    hop = _known(option, name.strip().lower())
    if not equals:
        return hop
    if not changed.strip():
        raise PreflightError(f"{option} {hop.name}= has no time: write {hop.name}=5min")
    seconds = duration(f"{option}, {hop.name} set to", changed.strip(), LEAST_S, MOST_S)
    return replace(hop, closes_after_s=seconds, source="as given")


def _known(option: str, name: str) -> Hop:
    if name in HOPS:
        return HOPS[name]
    close = difflib.get_close_matches(name, HOPS, n=1)
    meant = f"did you mean “{close[0]}”?" if close else f"there is: {', '.join(HOPS)}"
    raise PreflightError(f"{option}: no hop “{shown(name)}”, nor a time such as 350s; {meant}")
