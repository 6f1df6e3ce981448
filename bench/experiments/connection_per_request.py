"""A connection per request: what does it cost beside a pooled one?

An environment is a client, a round trip, and what is to be done before a connection is of use (TLS,
AUTH). In each, the same rate is offered twice: to a pool whose connections are open, and to one
that opens a connection for every request and closes it after. The tax is what that adds to the
median read. It has a part in round trips, which the network sets, and a part in CPU, which the
client sets. Closing so many connections also uses up local ports: each stays in TIME_WAIT.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.replicates import (
    REPLICATES_NEEDED,
    evidence,
    is_known,
    last_attempts,
    median_of,
    paired_ratio,
    points,
)
from bench.analysis.sentences import as_factor, counted, not_run, why_undecided
from bench.analysis.statistics import t_interval
from bench.figures.axes import linear_axis, log_axis
from bench.figures.curves import draw_curve, label_ends
from bench.figures.sheet import footnote, new_figure, panel_title
from bench.figures.style import CLIENTS, INK, MUTED, OVER_LINES, REUSE, darker, marker
from bench.figures.units import digits, si
from bench.model import (
    Arrivals,
    Auth,
    Cell,
    Client,
    Estimate,
    Outcome,
    Plan,
    Profile,
    Region,
    Tls,
    Verdict,
    Via,
    Workload,
)
from bench.store import Store, derived

NAME = "connection_per_request"
NOTEBOOK = "connection_cost"
QUESTION = "What does a connection per request cost, beside a pooled one?"
CLAIMS = {
    "C3": "A connection per request turns every read into a tax of several milliseconds",
}

Mode = Literal["pooled", "per request"]
POOLED: Mode = "pooled"
PER_REQUEST: Mode = "per request"
MODES = (POOLED, PER_REQUEST)
CLIENTS_COMPARED: tuple[Client, ...] = ("bare", "tuned", "redis-py")
KEEPS_CONTEXT: tuple[Client, ...] = ("bare", "tuned")  # who can take a TLS session up again
RTTS_S = (0.0, 0.001, 0.005)
SECURED_RTT_S = 0.001  # where TLS and AUTH are compared

# Every client but the one below leaves a core time to spare at this rate.
# Poisson: evenly spaced requests would meet each other's handshakes always at the same phase.
OFFERED_QPS = 100.0
POOL = 20  # more than are ever out, pooled or not; opening more would only take time
# redis-py as it comes makes a TLS context for each connection and reads all certificates that the
# system trusts into it: 47 ms of CPU in a trial. So its requests come at a rate that leaves time,
# and evenly spaced: no two meet then, and a short window holds enough of them for a median.
SLOW_QPS, SLOW_POOL, SLOW_S = 10.0, 4, 1.2
USERS = 8  # of the closed loop
REPLICATES: dict[Profile, int] = {"smoke": 1, "standard": 3, "full": 5}
OPEN_S: dict[Profile, tuple[float, float]] = {  # warm-up and window
    "smoke": (0.03, 0.2),
    "standard": (0.03, 0.22),
    "full": (0.1, 0.6),
}
CLOSED_S: dict[Profile, tuple[float, float]] = {
    "smoke": (0.03, 0.12),
    "standard": (0.03, 0.12),
    "full": (0.1, 0.5),
}

PORTS_ARM = "ports"
LOCAL_PORTS, PORTS_QPS = 100, 400.0
PORTS_S: dict[Profile, float] = {"smoke": 0.5, "standard": 1.3, "full": 1.3}
TIME_WAIT_S = 60.0  # of Linux, TCP_TIMEWAIT_LEN: no setting changes it


class Environment(NamedTuple):
    """Who asks, from how far away, and what has to be done before a connection is of use."""

    client: Client
    rtt_s: float = 0.0
    tls: Tls = "none"
    auth: Auth = "none"
    via: Via = "direct"

    @property
    def way(self) -> str:
        """What is to be done before it is of use, for people."""
        parts = (
            "" if self.tls == "none" else f"TLS {self.tls}",
            "" if self.auth == "none" else "AUTH",
            "" if self.via == "direct" else "TLS front, plain",
        )
        return ", ".join(filter(None, parts)) or "plain"


# Plan


def plan(profile: Profile, workload: Workload, workers: int) -> Plan:
    """One worker, however many the run has: what a request costs is one process's matter.

    The cell whose ports run out is measured once: what it shows does not scatter.
    """
    made = (*_open_cells(profile, workload), *_closed_cells(profile, workload))
    return Plan(made, REPLICATES[profile], once=(_ports_cell(profile, workload),))


def _open_cells(profile: Profile, workload: Workload) -> Iterable[Cell]:
    warmup_s, measure_s = OPEN_S[profile]
    for environment, mode in _environments(profile):
        slow = environment.client not in KEEPS_CONTEXT and _is_secured(environment)
        size = SLOW_POOL if slow else POOL
        yield Cell(
            NAME, size, size, loop="open", offered_qps=SLOW_QPS if slow else OFFERED_QPS,
            arrivals=Arrivals("constant" if slow else "poisson"), warmup_s=warmup_s,
            measure_s=SLOW_S if slow else measure_s, **_settings(environment, mode, workload),
        )  # fmt: skip


def _is_secured(environment: Environment) -> bool:
    """With TLS, or the way that is set beside it."""
    return environment.tls != "none" or environment.via != "direct"


def _closed_cells(profile: Profile, workload: Workload) -> Iterable[Cell]:
    """As fast as it goes: the highest rate that holds."""
    rtts_s = (0.0, SECURED_RTT_S) if profile == "full" else (0.0,)
    modes = (PER_REQUEST,) if profile == "smoke" else MODES
    warmup_s, measure_s = CLOSED_S[profile]
    for client, rtt_s, mode in product(_clients(profile), rtts_s, modes):
        yield Cell(
            NAME, USERS, USERS, warmup_s=warmup_s, measure_s=measure_s,
            **_settings(Environment(client, rtt_s), mode, workload),
        )  # fmt: skip


def _settings(environment: Environment, mode: Mode, workload: Workload) -> dict[str, Any]:
    return {
        **environment._asdict(),
        "resp": 3 if environment.client == "redis-py" else 2,
        "opening": "lazy" if mode == PER_REQUEST else "prefilled",
        "max_uses": 1 if mode == PER_REQUEST else None,
        "workload": workload,
    }


def _ports_cell(profile: Profile, workload: Workload) -> Cell:
    return Cell(
        NAME, POOL, POOL, loop="open", offered_qps=PORTS_QPS, arrivals=Arrivals("constant"),
        warmup_s=0.0, measure_s=PORTS_S[profile], local_ports=LOCAL_PORTS, keep_requests=True,
        arm=PORTS_ARM, **_settings(Environment("bare"), PER_REQUEST, workload),
    )  # fmt: skip


def _clients(profile: Profile) -> tuple[Client, ...]:
    return ("bare", "redis-py") if profile == "smoke" else CLIENTS_COMPARED


def _environments(profile: Profile) -> Iterable[tuple[Environment, Mode]]:
    """Every environment with each mode; those that no claim and no price rests on only in full.

    A pooled connection's AUTH and resumption are long past when it is read from: only a new one's
    differ. The way through the TLS front without TLS is what TLS itself is set beside.
    """
    clients = _clients(profile)
    rtts_s = RTTS_S[:2] if profile == "smoke" else RTTS_S
    for client, rtt_s, mode in product(clients, rtts_s, MODES):
        yield Environment(client, rtt_s), mode
    if profile == "full":
        yield from product(_secured(RTTS_S), MODES)
        return
    for environment in _secured((SECURED_RTT_S,)):
        if _needed(environment, profile):
            for mode in MODES if environment.tls == "full" else (PER_REQUEST,):
                yield environment, mode


def _needed(environment: Environment, profile: Profile) -> bool:
    """Short of the full grid. A smoke run sees that TLS works, with what takes the least time."""
    client = environment.client
    if profile == "smoke":
        return client == "bare" and environment.tls != "resumed" and environment.auth == "none"
    if environment.auth != "none":
        return client != "bare"
    return environment.via == "direct" or client in KEEPS_CONTEXT


def _secured(rtts_s: Sequence[float]) -> Iterable[Environment]:
    for client, rtt_s in product(CLIENTS_COMPARED, rtts_s):
        yield Environment(client, rtt_s, tls="full")
        if client in KEEPS_CONTEXT:
            yield Environment(client, rtt_s, tls="resumed")
        yield Environment(client, rtt_s, auth="password")
        yield Environment(client, rtt_s, via="front")


# The tax


@derived
def measured(cells: pd.DataFrame) -> pd.DataFrame:
    """The last attempts without the cell whose ports run out, each with its `mode`, and its CPU
    per request on the server's side: with TLS that ends in Envoy, Envoy's is part of that."""
    last = last_attempts(cells[cells["arm"] != PORTS_ARM])
    mode = np.where(last["max_uses"] == 1, PER_REQUEST, POOLED)
    proxy_us = last["proxy_cpu_us_per_op"].astype(float).fillna(0.0)
    return last.assign(mode=mode, server_us=last["server_cpu_us_per_op"].astype(float) + proxy_us)


def part(
    known: pd.DataFrame, environment: Environment, mode: Mode, loop: str = "open"
) -> pd.DataFrame:
    """One cell's replicates."""
    return _parts(known).get((mode, loop, *environment), known.head(0))


@derived
def _parts(known: pd.DataFrame) -> dict[tuple[Any, ...], pd.DataFrame]:
    """By mode, loop and environment, picked once: claims, figures and words ask some hundred
    times."""
    return dict(iter(known.groupby(["mode", "loop", *Environment._fields], sort=False)))


class Pair(NamedTuple):
    """The cells of one environment, per request and pooled."""

    own: pd.DataFrame
    pooled: pd.DataFrame

    @property
    def cells(self) -> pd.DataFrame:
        return pd.concat([self.own, self.pooled])

    def usable(self) -> Pair:
        return Pair(evidence(self.own), evidence(self.pooled))

    def valid(self) -> Pair:
        return Pair(self.own[self.own["valid"]], self.pooled[self.pooled["valid"]])


def pair_in(known: pd.DataFrame, environment: Environment, loop: str = "open") -> Pair:
    """Where pooled connections were not measured in the very environment: in that which differs
    only in what a pooled connection has behind it when it is read from."""
    like = (
        environment,
        environment._replace(auth="none"),
        environment._replace(auth="none", tls="full" if environment.tls == "resumed" else "none"),
    )
    alike = [each for each in like if (each.tls == "none") == (environment.tls == "none")]
    found = (part(known, each, POOLED, loop) for each in alike)
    pooled = next((cells for cells in found if len(cells)), known.head(0))
    return Pair(part(known, environment, PER_REQUEST, loop), pooled)


def tax(pair: Pair) -> Estimate:
    """How much longer the median request takes on a connection of its own, in seconds: paired
    within blocks, over what is evidence."""
    return t_interval(_differences(pair.usable()), "s")


def _differences(pair: Pair, column: str = "latency_p50_s") -> pd.Series[float]:
    """By block: per request less pooled."""
    own, pooled = (cells.set_index("block")[column].astype(float) for cells in pair)
    return (own - pooled).dropna()


def round_trips(known: pd.DataFrame, client: Client) -> Estimate:
    """By how much the tax grows with the round trip, in round trips: the slope over all round
    trips within each block. That part the network sets, and no faster client saves it."""
    taxes = {rtt_s: _differences(pair_in(known, Environment(client, rtt_s)).usable())
             for rtt_s in RTTS_S}  # fmt: skip
    table = pd.DataFrame(taxes)
    slopes = [_slope(row) for _, row in table.iterrows()]
    return t_interval(slopes, "round trips")


def _slope(taxes_s: pd.Series[float]) -> float:
    told = taxes_s.dropna()
    if len(told) < 2:
        return math.nan
    return float(np.polyfit(told.index.to_numpy(float), told.to_numpy(float), 1)[0])


class Price(NamedTuple):
    """What TLS adds to a request on a connection of its own, in seconds; `beside` names the way
    without TLS that it is set beside, `ends_at` where TLS ends."""

    added: Estimate
    beside: str
    ends_at: str


def tls_price(known: pd.DataFrame, client: Client, tls: Tls) -> Price:
    """Beside the same front without TLS where TLS ends there, else beside the direct way; at the
    same rate."""
    secured = Environment(client, SECURED_RTT_S, tls=tls)
    own = part(known, secured, PER_REQUEST)
    ends_at = str(own["tls_ends_at"].iloc[-1]) if len(own) else ""
    front = part(known, secured._replace(tls="none", via="front"), PER_REQUEST)
    through = ends_at == "envoy" and len(front) > 0
    plain = front if through else part(known, secured._replace(tls="none"), PER_REQUEST)
    plain = plain[plain["offered_qps"].isin(own["offered_qps"])]
    beside = "the same front without TLS" if through else "the direct way"
    return Price(tax(Pair(own, plain)), beside, ends_at)


# Claims

TAX_S = 2e-3  # the least that is "multi-millisecond"
RULE = (
    f"median latency at {si(OFFERED_QPS, '/s')} (Poisson) with a connection per request less that "
    f"with pooled connections, paired within blocks, with Student's 95 % interval on the "
    f"differences, from {REPLICATES_NEEDED} replicates up; redis-py as it comes with TLS at "
    f"{si(SLOW_QPS, '/s')}, evenly spaced. Supported: the interval lies at "
    f"{si(TAX_S, 's')} or above; refuted: below"
)
CLAIMED = {
    "C3": Environment("redis-py"),
    "C3b": Environment("redis-py", SECURED_RTT_S),
    "C3c": Environment("redis-py", SECURED_RTT_S, tls="full"),
    "C3d": Environment("bare"),
    "C3e": Environment("bare", SECURED_RTT_S),
}
CLIENT_SAID = {
    "bare": "a bare socket",
    "tuned": "redis-py tuned",
    "redis-py": "redis-py as it comes",
}


def claims(cells: pd.DataFrame, store: Store) -> list[Verdict]:
    """C3, said for each environment: whether it holds depends on client and network."""
    known = measured(cells)
    return [_judge(known, store, claim, environment) for claim, environment in CLAIMED.items()]


def _judge(known: pd.DataFrame, store: Store, claim: str, environment: Environment) -> Verdict:
    pair = pair_in(known, environment)
    found = tax(pair)
    effects = _effects(pair)
    said = [f"tax {_spread(found)}"] if is_known(found) else [_why(pair, store)]
    said += [f"{name} {_effect_said(each)}" for name, each in effects.items() if is_known(each)]
    return Verdict(
        claim,
        f"A connection per request adds {si(TAX_S, 's')} or more to the median read: "
        f"{_environment_said(environment)}",
        RULE,
        outcome_of(found),
        "; ".join(said),
        {"tax": found, **effects},
        tuple(pair.cells["cell"].unique()),
        {"tax": Region(low=TAX_S)},
    )


def outcome_of(found: Estimate) -> Outcome:
    """By the rule above."""
    if not is_known(found):
        return "undecided"
    if found.low >= TAX_S:
        return "supported"
    return "refuted" if found.high < TAX_S else "undecided"


def _environment_said(environment: Environment) -> str:
    way = "without TLS" if environment.tls == "none" else f"with TLS ({environment.tls})"
    return f"{CLIENT_SAID[environment.client]}, {way}, {_at(environment.rtt_s)}"


def _at(rtt_s: float) -> str:
    return f"RTT {si(rtt_s, 's')}"


def _spread(found: Estimate) -> str:
    return f"{si(found.value, 's')} ({si(found.low, 's')} to {si(found.high, 's')})"


SIDES = {"client": "client_cpu_us_per_op", "server": "server_us"}


def cpu_added(pair: Pair, side: str) -> Estimate:
    """What a connection of its own adds to a request's CPU, in seconds. At an equal rate, what a
    process does between requests is in both figures alike, and so not in their difference."""
    return t_interval(1e-6 * _differences(pair.usable(), SIDES[side]), "s")


def _effects(pair: Pair) -> dict[str, Estimate]:
    """At the same rate."""
    times = {"latency p50, per request ÷ pooled": paired_ratio(*pair.usable(), "latency_p50_s")}
    return times | {f"{side} CPU added": cpu_added(pair, side) for side in SIDES}


def _effect_said(effect: Estimate) -> str:
    return _spread(effect) if effect.unit == "s" else as_factor(effect)


def _why(pair: Pair, store: Store) -> str:
    """Why there is no tax with an interval."""
    sides = {PER_REQUEST: pair.own, POOLED: pair.pooled}
    short = [f"{mode}: {why_undecided(cells)}" for mode, cells in sides.items()
             if evidence(cells)["block"].nunique() < REPLICATES_NEEDED]  # fmt: skip
    left_out = not_run(store.manifest, NAME) if any(cells.empty for cells in pair) else ""
    return "; ".join(filter(None, [*short, left_out])) or "too few blocks hold both"


# Tables


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """Each environment, open loop and closed: medians over the last attempts in each block."""
    known = measured(cells)
    rows = [
        _table_row(known, environment, loop)
        for loop in ("open", "closed")
        for environment in _environments_in(known[known["loop"] == loop])
    ]
    return pd.DataFrame(rows)


def _environments_in(known: pd.DataFrame) -> list[Environment]:
    """Those with a connection per request: of the others, each is some environment's pool."""
    own = known[known["mode"] == PER_REQUEST]
    met = own[list(Environment._fields)].drop_duplicates()
    found = [Environment(*row) for row in met.itertuples(index=False)]
    return sorted(found, key=_place)


def _place(environment: Environment) -> tuple[int, ...]:
    """Plain ones first; within a way by client, then by round trip."""
    kinds: tuple[Tls, ...] = ("none", "resumed", "full")
    return (
        kinds.index(environment.tls),
        int(environment.auth != "none"),
        int(environment.via != "direct"),
        CLIENTS_COMPARED.index(environment.client),
        round(environment.rtt_s * 1e6),
    )


def _table_row(known: pd.DataFrame, environment: Environment, loop: str) -> dict[str, Any]:
    pair = pair_in(known, environment, loop)
    found = tax(pair) if loop == "open" else t_interval([], "s")
    in_front = environment.tls != "none" or environment.via != "direct"
    ends_at = str(pair.own["tls_ends_at"].iloc[-1]) if in_front else ""
    return {
        "client": environment.client,
        "RTT ms": environment.rtt_s * 1e3,
        "way": f"{environment.way} to {ends_at}" if ends_at else environment.way,
        "loop": loop,
        "pooled p50 ms": digits(1e3 * median_of(pair.pooled, "latency_p50_s")),
        "own p50 ms": digits(1e3 * median_of(pair.own, "latency_p50_s")),
        "tax ms": digits(1e3 * found.value),
        "tax 95 %": f"{1e3 * found.low:.3g} to {1e3 * found.high:.3g}" if is_known(found) else "–",
        "pooled client µs": digits(median_of(pair.pooled, "client_cpu_us_per_op")),
        "own client µs": digits(median_of(pair.own, "client_cpu_us_per_op")),
        "pooled server µs": digits(median_of(pair.pooled, "server_us")),
        "own server µs": digits(median_of(pair.own, "server_us")),
        "pooled /s": digits(median_of(pair.pooled, "qps")),
        "own /s": digits(median_of(pair.own, "qps")),
        "TIME_WAIT peak": digits(median_of(pair.own, "time_wait_peak")),
        "own bound by": pair.own["bound_by"].mode()[0],
        "valid": f"{int(pair.cells['valid'].sum())} of {len(pair.cells)}",
    }


# Local ports

BUCKET_S = 0.020
OUT_ARRIVALS = 10  # in a row, none of them served: no port is left


class RunOut(NamedTuple):
    """When a narrow range of local ports ran out, in seconds after the first request served: NaN
    where it did not, and `back_s` where they did not come back within the window. `served`: the
    requests served until then, a connection each."""

    out_s: float
    back_s: float
    served: int


def run_out(requests: pd.DataFrame, row: Any) -> RunOut:
    """`requests` as the store gives them, of the cell measured as `row`: arrivals are evenly
    spaced, and those that found no port are not among them."""
    due_s = np.sort(requests["intended_s"].to_numpy(float))
    due_s = due_s[due_s < row.measured_s]
    if not due_s.size:
        return RunOut(math.nan, math.nan, 0)
    long_s, spaced_s = OUT_ARRIVALS / row.offered_qps, 1 / row.offered_qps
    gaps_s = np.diff(np.append(due_s, row.measured_s))
    long = np.flatnonzero(gaps_s > long_s)
    if not long.size:
        return RunOut(math.nan, math.nan, int(due_s.size))
    last = int(long[0])
    back_s = float(due_s[last + 1] - due_s[0]) if last + 1 < due_s.size else math.nan
    return RunOut(float(due_s[last] - due_s[0] + spaced_s), back_s, last + 1)


def ports_cell(cells: pd.DataFrame) -> Any | None:
    """The row of the cell whose ports run out; None where it was not measured, or served nothing.

    Its first attempt: requests fail, as they are meant to, so it is invalid and measured once more
    at once, when ports of the first are still taken.
    """
    own = cells[(cells["arm"] == PORTS_ARM) & (cells["workers_lost"] == 0)]
    first = own[own["operations"] > 0].sort_values(["block", "attempt"], kind="stable")
    return next(first.itertuples(), None)


def ports_granted(store: Store) -> int | None:
    """How many local ports the system hands out by itself; None where it does not tell."""
    told = store.manifest.get("network", {}).get("ipv4/ip_local_port_range", "").split()
    return int(told[1]) - int(told[0]) + 1 if len(told) == 2 else None


def lasts_s(ports: int, qps: float) -> float:
    """How long so many ports last, of one address to one address and port, where each is taken for
    TIME_WAIT_S after its use; infinite at a rate at which they come back in time."""
    return ports / qps if qps * TIME_WAIT_S > ports else math.inf


def time_waits_per_request(known: pd.DataFrame, store: Store) -> float:
    """By how many the sockets in TIME_WAIT grew for each request served, as it went as fast as it
    could with a connection each; NaN where that was not sampled twice."""
    series = store.series()
    if "time_wait" not in series:
        return math.nan
    own = _fastest(known, PER_REQUEST)
    told = [_growth(series, row) for row in own[own["valid"]].itertuples()]
    seen = [each for each in told if not math.isnan(each)]
    return float(np.median(seen)) if seen else math.nan


def _growth(series: pd.DataFrame, row: Any) -> float:
    own = series[(series["cell"] == row.cell) & (series["block"] == row.block)
                 & (series["attempt"] == row.attempt)].dropna(subset=["time_wait"])  # fmt: skip
    if len(own) < 2:
        return math.nan
    first, last = own.iloc[0], own.iloc[-1]
    return float((last["time_wait"] - first["time_wait"])
                 / (last["at_s"] - first["at_s"]) / row.qps)  # fmt: skip


def _fastest(known: pd.DataFrame, mode: Mode) -> pd.DataFrame:
    """The closed loop without a round trip."""
    return known[(known["loop"] == "closed") & (known["mode"] == mode) & (known["rtt_s"] == 0)]


def _rate(known: pd.DataFrame, client: Client, mode: Mode) -> float:
    own = _fastest(known, mode)
    return median_of(own[own["valid"] & (own["client"] == client)], "qps")


# What the figures say


@derived
def findings(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A sentence for each figure that these cells allow: its title."""
    if cells.empty:
        return {}
    known = measured(cells)
    return {
        "tax_latency": _latency_finding(known),
        "tax_cpu": _cpu_finding(known),
        "tax_ports": _ports_finding(cells, store),
    }


TITLED: tuple[Client, ...] = ("redis-py", "bare")


def _latency_finding(known: pd.DataFrame) -> str:
    said = "; ".join(_taxes_said(known, client) for client in TITLED)
    return f"What a connection per request adds to the median read: {said}"


def _taxes_said(known: pd.DataFrame, client: Client) -> str:
    who = CLIENT_SAID[client]
    pairs = {rtt_s: pair_in(known, Environment(client, rtt_s)) for rtt_s in (0.0, SECURED_RTT_S)}
    found = {rtt_s: tax(pair) for rtt_s, pair in pairs.items()}
    told = [f"{si(each.value, 's')} at {_at(rtt_s)}" for rtt_s, each in found.items()
            if is_known(each)]  # fmt: skip
    if not told:
        return f"undecided with {who} ({_evidence_in(pairs[0.0])})"
    return f"{' and '.join(told)} with {who}"


def _evidence_in(pair: Pair) -> str:
    if pair.own.empty or pair.pooled.empty:
        return "not measured"
    both = sum(len(cells) for cells in pair.usable())
    return f"evidence in {both} of {counted(len(pair.cells), 'measurement')}"


def _cpu_finding(known: pd.DataFrame) -> str:
    said = "; ".join(_cpus_said(known, client) for client in TITLED)
    return f"What a connection per request adds to a request's CPU: {said}"


def _cpus_said(known: pd.DataFrame, client: Client) -> str:
    who, pair = CLIENT_SAID[client], pair_in(known, Environment(client))
    found = {side: cpu_added(pair, side) for side in SIDES}
    told = [f"{side} {si(each.value, 's')}" for side, each in found.items() if is_known(each)]
    if not told:
        return f"undecided with {who} ({_evidence_in(pair)})"
    return f"{', '.join(told)} with {who}"


def _ports_finding(cells: pd.DataFrame, store: Store) -> str:
    granted = ports_granted(store)
    if granted is None:
        computed = "this system does not tell how many local ports it hands out"
    else:
        computed = (
            f"{granted:,} local ports carry {si(granted / TIME_WAIT_S, '/s')} of connections to "
            "one address and port"
        )
    return f"{computed[0].upper()}{computed[1:]}; {_shown(cells, store)}"


def _shown(cells: pd.DataFrame, store: Store) -> str:
    """The cell whose ports run out, beside what was computed."""
    row = ports_cell(cells)
    if row is None:
        left_out = not_run(store.manifest, NAME)
        return f"that they run out was not shown here{f' ({left_out})' if left_out else ''}"
    ports, rate = int(row.local_ports), si(row.offered_qps, "/s")
    computed = si(ports / row.offered_qps, "s")
    found = run_out(store.requests(row.cell, row.block, row.attempt), row)
    if math.isnan(found.out_s):
        return f"{ports} ports at {rate} did not run out within {si(row.measured_s, 's')}"
    return f"{ports} ports at {rate} ran out after {si(found.out_s, 's')} ({computed} computed)"


# Figures


def figures(cells: pd.DataFrame, store: Store) -> dict[str, Figure]:
    """Each finding with its picture."""
    known = measured(cells)
    draw = {
        "tax_latency": lambda title: _draw_latency(known, title),
        "tax_cpu": lambda title: _draw_cpu(known, title),
        "tax_ports": lambda title: _draw_ports(cells, store, title),
    }
    return {name: draw[name](title) for name, title in findings(cells, store).items()}


# AWS, "Optimize Redis client performance for Amazon ElastiCache": a new connection for each request
# and a pooled one.
PUBLISHED_NEW_S, PUBLISHED_POOLED_S = 2.82e-3, 0.21e-3
LEAST_DRAWN_S = 0.02e-3  # of a tax, which may be negative where it is lost in the noise


class Point(NamedTuple):
    """A tax as it is drawn: hollow where only the rig's limit gave one, `bad` where no replicate
    was valid. Seconds, of which a logarithmic axis holds those from `LEAST_DRAWN_S` up."""

    value: float
    low: float
    high: float
    hollow: bool = False
    bad: bool = False


def _point(pair: Pair) -> Point | None:
    for chosen, hollow, bad in (
        (pair.usable(), False, False),
        (pair.valid(), True, False),
        (pair, False, True),
    ):
        differences = _differences(chosen)
        if len(differences):
            return _drawn(t_interval(differences, "s"), hollow, bad)
    return None


def _drawn(found: Estimate, hollow: bool, bad: bool) -> Point:
    ends = (found.value if math.isnan(end) or bad else end for end in (found.low, found.high))
    value, low, high = (max(LEAST_DRAWN_S, end) for end in (found.value, *ends))
    return Point(value, low, high, hollow, bad)


Series = dict[Client, list[tuple[float, Point]]]


def _draw_latency(known: pd.DataFrame, title: str) -> Figure:
    figure, (left, right) = new_figure(title, 1, 2, size=(12.0, 5.4))
    plain = _against_rtt(known)
    secured, ways = _against_ways(known)
    panel_title(left, "neither TLS nor AUTH, against the round trip")
    panel_title(right, f"what is to be done on a new connection, {_at(SECURED_RTT_S)}")
    reach = [point for series in (plain, secured) for own in series.values() for _, point in own]
    for axes, series in ((left, plain), (right, secured)):
        _draw_taxes(axes, series, joined=series is plain)
        _tax_axis(axes, reach)
        _references(axes, published=axes is left)
    linear_axis(left.xaxis, "s", "round trip time")
    left.set_xlim(-0.03 * RTTS_S[-1], 1.2 * RTTS_S[-1])
    label_ends(left, _ends(plain))
    right.set_xticks(range(len(ways)), ways)
    right.set_xlim(-0.6, max(len(ways), 1) - 0.4)
    right.grid(axis="x", visible=False)
    _legend(figure, secured if len(secured) else plain)
    footnote(
        figure,
        f"Latency p50 on a connection of its own less that on a pooled one, each at "
        f"{si(OFFERED_QPS, '/s')} Poisson (redis-py as it comes with TLS: {si(SLOW_QPS, '/s')}, "
        f"evenly spaced): mean over replicates, bars 95 % intervals of the "
        f"differences paired within blocks. Dashed: {si(TAX_S, 's')}, from which the claim holds. "
        f"Dotted: published by AWS for ElastiCache, {si(PUBLISHED_NEW_S, 's')} with a new "
        f"connection, {si(PUBLISHED_POOLED_S, 's')} pooled, its round trip not told. "
        f"{_where_tls_ends(known)}{_at_the_edge(reach)}",
        hollow=any(point.hollow for point in reach),
        invalid=any(point.bad for point in reach),
    )
    return figure


def _against_rtt(known: pd.DataFrame) -> Series:
    found: Series = {}
    for client, rtt_s in product(CLIENTS_COMPARED, RTTS_S):
        point = _point(pair_in(known, Environment(client, rtt_s)))
        if point is not None:
            found.setdefault(client, []).append((rtt_s, point))
    return found


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "AUTH": {"auth": "password"},
    "TLS resumed": {"tls": "resumed"},
    "TLS full": {"tls": "full"},
}
DODGE = 0.16  # of the distance between ways, from one client to the next


def _against_ways(known: pd.DataFrame) -> tuple[Series, list[str]]:
    """Each client's tax by way, clients beside each other; and the ways that were measured."""
    told = {
        (way, client): point
        for way, client in product(WAYS, CLIENTS_COMPARED)
        if (point := _point(pair_in(known, Environment(client, SECURED_RTT_S, **WAYS[way]))))
    }
    ways = [way for way in WAYS if any(way == name for name, _ in told)]
    middle = (len(CLIENTS_COMPARED) - 1) / 2
    found: Series = {}
    for (way, client), point in told.items():
        place = ways.index(way) + DODGE * (CLIENTS_COMPARED.index(client) - middle)
        found.setdefault(client, []).append((place, point))
    return found, ways


def _draw_taxes(axes: Axes, series: Series, *, joined: bool) -> None:
    for client, own in series.items():
        groups = [own] if joined else [[each] for each in own]
        for group in groups:
            places, taken = zip(*group, strict=True)
            draw_curve(
                axes, CLIENTS[client], places, [point.value for point in taken],
                low=[point.low for point in taken], high=[point.high for point in taken],
                hollow=[point.hollow for point in taken], invalid=[point.bad for point in taken],
            )  # fmt: skip


def _tax_axis(axes: Axes, reach: Sequence[Point]) -> None:
    lowest = min([*(point.low for point in reach), TAX_S / 2])
    highest = max([*(point.high for point in reach), 2 * TAX_S])
    axes.set_ylim(max(LEAST_DRAWN_S, lowest) / 1.3, 1.5 * highest)
    log_axis(axes.yaxis, "s", "tax on the median read")


def _references(axes: Axes, *, published: bool) -> None:
    """The claim's line, and what others measured."""
    axes.axhline(TAX_S, color=INK, linestyle="--", linewidth=1.2, zorder=1)
    _beside(axes, TAX_S, "claim", -7)
    if published:
        added_s = PUBLISHED_NEW_S - PUBLISHED_POOLED_S
        axes.axhline(added_s, color=MUTED, linestyle=":", linewidth=1.2, zorder=1)
        _beside(axes, added_s, "AWS", 7)


def _beside(axes: Axes, y: float, text: str, up_pt: float) -> None:
    axes.annotate(
        text, (1, y), (-4, up_pt), xycoords=("axes fraction", "data"), textcoords="offset points",
        ha="right", va="center", fontsize=8, color=MUTED, **OVER_LINES,
    )  # fmt: skip


def _ends(series: Series) -> list[tuple[float, float, str, Any]]:
    return [(own[-1][0], own[-1][1].value, client, CLIENTS[client])
            for client, own in series.items()]  # fmt: skip


def _legend(figure: Figure, series: Series) -> None:
    handles = [Line2D([], [], linestyle="", label=CLIENT_SAID[client], **marker(CLIENTS[client]))
               for client in reversed(CLIENTS_COMPARED) if client in series]  # fmt: skip
    if handles:
        figure.legend(handles=handles, loc="outside right center", frameon=False, labelcolor=INK)


def _where_tls_ends(known: pd.DataFrame) -> str:
    ends = sorted({str(end) for end in known["tls_ends_at"] if end})
    return f"TLS ends in {' or '.join(_END_SAID.get(end, end) for end in ends)}. " if ends else ""


_END_SAID = {"server": "the server itself", "envoy": "Envoy in front of the server"}


def _at_the_edge(reach: Sequence[Point]) -> str:
    low = sum(point.value <= LEAST_DRAWN_S for point in reach)
    return f"Drawn at {si(LEAST_DRAWN_S, 's')}: {low} that are less." if low else ""


class Bars(NamedTuple):
    """A row of the CPU figure: an environment, open loop or closed."""

    environment: Environment
    place: float
    loop: str


def _draw_cpu(known: pd.DataFrame, title: str) -> Figure:
    figure, panels = new_figure(title, 1, 2, size=(12.0, 5.4))
    named = _cpu_environments(known)
    rows = [Bars(environment, place + 0.17 * (1 if loop == "closed" else -1), loop)
            for place, environment in enumerate(named) for loop in ("open", "closed")]  # fmt: skip
    columns = {"client_cpu_us_per_op": "the client's CPU", "server_us": "the server side's CPU"}
    for axes, (column, name) in zip(panels, columns.items(), strict=True):
        panel_title(axes, name)
        for row in rows:
            _draw_pair(axes, row, pair_in(known, row.environment, row.loop), column)
        axes.set_yticks(range(len(named)), [_row_name(each) for each in named])
        axes.set_ylim(max(len(named), 1) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        _cpu_axis(axes)
    panels[1].set_yticklabels([])
    figure.legend(handles=_reuse_handles(), loc="outside right center", frameon=False,
                  labelcolor=INK)  # fmt: skip
    shown = known[known["mode"].isin(MODES)]
    footnote(
        figure,
        "Medians over replicates, differences paired within blocks; in each row above at "
        f"{si(OFFERED_QPS, '/s')} (redis-py with TLS: {si(SLOW_QPS, '/s')}), where what a "
        "process does between requests weighs, below as fast as it goes in a closed loop, where "
        f"it hardly does; it cancels from the difference, which stands beside. "
        f"{_where_tls_ends(known)}"
        f"{_envoy_counted(known)}",
        hollow=bool(points(shown, ["cell"], "qps")["hollow"].any()),
        invalid=bool((~shown["valid"]).any()),
    )
    return figure


def _envoy_counted(known: pd.DataFrame) -> str:
    met = (known["tls_ends_at"] == "envoy").any()
    return "The server's side holds Envoy's CPU where it is in front." if met else ""


def _cpu_environments(known: pd.DataFrame) -> list[Environment]:
    wanted = [Environment(client) for client in CLIENTS_COMPARED]
    wanted += [Environment(client, SECURED_RTT_S, tls="full") for client in CLIENTS_COMPARED]
    met = set(_environments_in(known))
    return [each for each in wanted if each in met]


def _row_name(environment: Environment) -> str:
    return f"{environment.client}\n{environment.way}, {_at(environment.rtt_s)}"


def _draw_pair(axes: Axes, row: Bars, pair: Pair, column: str) -> None:
    """Pooled and per request on one line, with how much more the latter takes."""
    sides = ((POOLED, pair.pooled), (PER_REQUEST, pair.own))
    told = [(mode, *each) for mode, cells in sides if (each := _cpu_of(cells, column))]
    if len(told) == 2:
        (_, pooled_s, _, bad), (_, own_s, _, worse) = told
        axes.hlines(row.place, pooled_s, own_s, color=MUTED, linewidth=1, zorder=1)
        if not (bad or worse):
            added_s = 1e-6 * float(_differences(pair.valid(), column).mean())
            said = f"{'+' if added_s >= 0 else '−'}{si(abs(added_s), 's')}"
            _beyond(axes, row.place, max(pooled_s, own_s), said)
    for mode, value_s, hollow, bad in told:
        draw_curve(axes, REUSE[mode], [value_s], [row.place], hollow=[hollow], invalid=[bad])


def _cpu_of(cells: pd.DataFrame, column: str) -> tuple[float, bool, bool] | None:
    """Seconds of CPU for a request, whether the rig bounds them, and whether none is valid."""
    line = points(cells, ["cell"], column)
    if len(line):
        return 1e-6 * float(line["median"].iloc[0]), bool(line["hollow"].iloc[0]), False
    value_s = 1e-6 * median_of(cells, column)
    return None if math.isnan(value_s) or value_s <= 0 else (value_s, False, True)


def _beyond(axes: Axes, place: float, right: float, text: str) -> None:
    axes.annotate(text, (right, place), (9, 0), textcoords="offset points", va="center",
                  fontsize=8, color=MUTED)  # fmt: skip


def _cpu_axis(axes: Axes) -> None:
    low, high = axes.get_xlim()
    seen = [x for line in axes.get_lines() for x in np.atleast_1d(line.get_xdata()) if x > 0]
    low, high = (min(seen), max(seen)) if seen else (1e-5, 1e-3)
    axes.set_xlim(low / 1.6, high * 2.6)
    log_axis(axes.xaxis, "s", "CPU per request")


def _reuse_handles() -> list[Line2D]:
    return [Line2D([], [], linestyle="", label=mode, **marker(REUSE[mode])) for mode in MODES]


def _draw_ports(cells: pd.DataFrame, store: Store, title: str) -> Figure:
    figure, (left, right) = new_figure(title, 1, 2, size=(12.0, 4.8))
    row = ports_cell(cells)
    _draw_served(left, store, row)
    _draw_lasts(right, measured(cells), store)
    told = "" if row is None else (
        f"Left: requests served by when they were due, in {si(BUCKET_S, 's')} each, "
        f"{int(row.local_ports)} local ports (the socket option IP_LOCAL_PORT_RANGE); dotted: "
        "offered. On loopback, and by default nowhere else, Linux takes a port in TIME_WAIT up "
        "again after a second. "
    )  # fmt: skip
    footnote(
        figure,
        f"{told}Right: ports ÷ rate, computed, for connections of one address to one address and "
        f"port, TIME_WAIT {si(TIME_WAIT_S, 's')}; points: the rates at which clients here opened a "
        "connection per request, closed loop.",
        hollow=bool(_rates(measured(cells))),
    )
    return figure


def _draw_served(axes: Axes, store: Store, row: Any | None) -> None:
    linear_axis(axes.xaxis, "s", "due after the first request")
    axes.set_ylabel(f"served in {si(BUCKET_S, 's')}")
    if row is None:
        panel_title(axes, "a narrow range of local ports")
        _note(axes, "not measured")
        return
    panel_title(axes, f"{int(row.local_ports)} local ports, {si(row.offered_qps, '/s')} offered")
    requests = store.requests(row.cell, row.block, row.attempt)
    due_s = requests["intended_s"].to_numpy(float)
    due_s = due_s[due_s < row.measured_s]
    edges = np.arange(0, row.measured_s + BUCKET_S, BUCKET_S)
    counts, _ = np.histogram(due_s - due_s[0], edges)
    style = REUSE[PER_REQUEST]
    axes.stairs(counts, edges, color=style.colour, fill=True, alpha=0.35)
    axes.stairs(counts, edges, color=style.colour, linewidth=1.4)
    offered = row.offered_qps * BUCKET_S
    axes.axhline(offered, color=MUTED, linestyle=":", linewidth=1.2)
    computed_s = row.local_ports / row.offered_qps
    axes.axvline(computed_s, color=INK, linestyle="--", linewidth=1.2)
    axes.annotate(
        f"computed: no port left after {si(computed_s, 's')}", (computed_s, 1.22 * offered), (5, 0),
        textcoords="offset points", va="center", fontsize=8, color=INK, **OVER_LINES,
    )  # fmt: skip
    axes.set_ylim(0, 1.4 * max(offered, float(counts.max())))
    axes.set_xlim(0, row.measured_s)


def _note(axes: Axes, text: str) -> None:
    axes.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center",
                  fontsize=9, color=MUTED)  # fmt: skip


def _draw_lasts(axes: Axes, known: pd.DataFrame, store: Store) -> None:
    granted = ports_granted(store)
    if granted is None:
        panel_title(axes, "how long the local ports last")
        _note(axes, "this system does not tell its port range")
        return
    panel_title(axes, f"how long this machine's {granted:,} local ports last, computed")
    rates, least = _rates(known), granted / TIME_WAIT_S
    fastest = max([*rates.values(), 10 * least])
    most = 8 * fastest
    tried = np.geomspace(least, most, 50)
    axes.plot(tried, granted / tried, color=INK, linestyle="--", linewidth=1.2)
    axes.axvspan(least / 10, least, color=MUTED, alpha=0.12, lw=0)
    axes.set_xlim(least / 10, most)
    axes.set_ylim(granted / most / 1.3, 2 * TIME_WAIT_S)
    log_axis(axes.xaxis, "/s", "connections opened and closed")
    log_axis(axes.yaxis, "s", "until none is left")
    axes.annotate(
        f"below {si(least, '/s')}\nthey never run out", (least, TIME_WAIT_S / 4), (-6, 0),
        textcoords="offset points", ha="right", va="center", fontsize=8.5, color=INK,
    )  # fmt: skip
    for client, qps in rates.items():
        style = CLIENTS[client]
        lasts = min(lasts_s(granted, qps), TIME_WAIT_S)
        hollow = _bounded(known, client)
        axes.plot([qps], [lasts], linestyle="", **marker(style, hollow=hollow), zorder=3)
        axes.annotate(
            f"{client}: {si(qps, '/s')}, {si(lasts, 's')}", (qps, lasts), (9, 5),
            textcoords="offset points", fontsize=8.5, color=darker(style.colour), **OVER_LINES,
        )  # fmt: skip


def _rates(known: pd.DataFrame) -> dict[Client, float]:
    """The highest rate of each client that opens a connection per request."""
    found = {client: _rate(known, client, PER_REQUEST) for client in CLIENTS_COMPARED}
    return {client: qps for client, qps in found.items() if qps > 0}


def _bounded(known: pd.DataFrame, client: Client) -> bool:
    own = _fastest(known, PER_REQUEST)
    return bool(points(own[own["client"] == client], ["cell"], "qps")["hollow"].any())


# Prose: what a reviewer should see, its numbers from the cells


def prose(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A paragraph of Markdown below each figure."""
    if cells.empty:
        return {}
    known = measured(cells)
    return {
        "tax_latency": _latency_prose(known, store),
        "tax_cpu": _cpu_prose(known),
        "tax_ports": _ports_prose(cells, known, store),
    }


def _latency_prose(known: pd.DataFrame, store: Store) -> str:
    return (
        "The tax has a part that grows with the distance, a round trip for each exchange that a "
        "new connection needs before its first reply, and a part that does not: what the client "
        f"and the server do to open and close it. {_trips_prose(known)} {_price_prose(known)} "
        "The link cannot hold back the packets of the TCP handshake: it holds the first bytes "
        f"instead, for as long. {_not_run_prose(store)}{RULE[0].upper()}{RULE[1:]}."
    )


def _not_run_prose(store: Store) -> str:
    said = not_run(store.manifest, NAME)
    return f"{said[0].upper()}{said[1:]}. " if said else ""


def _trips_prose(known: pd.DataFrame) -> str:
    found = {client: round_trips(known, client) for client in CLIENTS_COMPARED}
    said = [f"{each.value:.2g} ({each.low:.2g} to {each.high:.2g}) with {CLIENT_SAID[client]}"
            for client, each in found.items() if is_known(each)]  # fmt: skip
    if not said:
        return "How many round trips it is was not decided."
    return f"In round trips that first part is {'; '.join(said)}."


def _price_prose(known: pd.DataFrame) -> str:
    """What TLS itself adds, the same way with it and without."""
    kinds: tuple[Tls, ...] = ("full", "resumed")
    found = [(client, tls, tls_price(known, client, tls))
             for client, tls in product(CLIENTS_COMPARED, kinds)]  # fmt: skip
    told = [(client, tls, price) for client, tls, price in found if is_known(price.added)]
    if not told:
        return "What TLS adds was not decided."
    said = "; ".join(
        f"{si(price.added.value, 's')} with {CLIENT_SAID[client]}, {tls}"
        for client, tls, price in told
    )
    beside = " or ".join(sorted({price.beside for _, _, price in told}))
    return f"TLS, beside {beside}, adds to each request at {_at(SECURED_RTT_S)}: {said}."


def _cpu_prose(known: pd.DataFrame) -> str:
    rows = [
        f"{_us(pair.pooled)} pooled and {_us(pair.own)} per request with {CLIENT_SAID[client]}"
        for client in CLIENTS_COMPARED
        if len((pair := pair_in(known, Environment(client)).usable()).own) and len(pair.pooled)
    ]
    at = f"At {si(OFFERED_QPS, '/s')} a request takes, of client + server CPU: "
    said = f"{at}{'; '.join(rows)}." if rows else "No CPU figure at equal rate is evidence."
    return f"{said} {_rates_prose(known)}"


def _us(cells: pd.DataFrame) -> str:
    client, server = (1e-6 * median_of(cells, name) for name in ("client_cpu_us_per_op",
                                                                 "server_us"))  # fmt: skip
    return f"{si(client, 's')} + {si(server, 's')}"


def _rates_prose(known: pd.DataFrame) -> str:
    """The highest rate that held, and what ended it."""
    said = [
        f"{_rate_said(pooled, own)} with {CLIENT_SAID[client]}"
        for client in CLIENTS_COMPARED
        if not math.isnan(own := _rate(known, client, PER_REQUEST))
        for pooled in (_rate(known, client, POOLED),)
    ]
    if not said:
        return "The highest rate that holds was not measured."
    limits = sorted(set(_fastest(known, PER_REQUEST).query("valid")["bound_by"]))
    return (
        f"The highest rate that held at {_at(0.0)}, closed loop, was {'; '.join(said)}. With a "
        f"connection per request the limit was: {' or '.join(limits)}; where that is the rig, the "
        "rate is a lower bound."
    )


def _rate_said(pooled: float, own: float) -> str:
    beside = "" if math.isnan(pooled) else f"{si(pooled, '/s')} pooled and "
    return f"{beside}{si(own, '/s')} per request"


def _ports_prose(cells: pd.DataFrame, known: pd.DataFrame, store: Store) -> str:
    return (
        "Whoever closes a connection first keeps its port in TIME_WAIT for "
        f"{si(TIME_WAIT_S, 's')}, and a connection per request is closed by the client. So many "
        "are in TIME_WAIT at once as were closed in that time; a port is not free again for the "
        "same address and port until then. "
        f"{_granted_prose(known, store)}{_time_wait_prose(known, store)}"
        f"{_shown_prose(cells, store)}"
    )


def _granted_prose(known: pd.DataFrame, store: Store) -> str:
    granted, rates = ports_granted(store), _rates(known)
    if granted is None:
        return "This system does not tell how many local ports it hands out. "
    said = [f"at the {si(qps, '/s')} of {CLIENT_SAID[client]} {_lasting(granted, qps)}"
            for client, qps in rates.items()]  # fmt: skip
    end = f"; towards another machine they would last, {', '.join(said)}" if said else ""
    return f"{granted:,} ports carry {si(granted / TIME_WAIT_S, '/s')} for good{end}. "


def _lasting(granted: int, qps: float) -> str:
    lasts = lasts_s(granted, qps)
    return "for good" if math.isinf(lasts) else si(lasts, "s")


def _time_wait_prose(known: pd.DataFrame, store: Store) -> str:
    grown = time_waits_per_request(known, store)
    peak = _fastest(known, PER_REQUEST)["time_wait_peak"].astype(float).max()
    said = "" if math.isnan(grown) else (
        f"Sockets in TIME_WAIT grew by {grown:.2g} for each request here. "
    )  # fmt: skip
    if math.isnan(peak):
        return said
    return f"{said}The whole machine held up to {peak:,.0f} of them, earlier cells' among them. "


def _shown_prose(cells: pd.DataFrame, store: Store) -> str:
    row = ports_cell(cells)
    if row is None:
        return "That they run out was not shown in this run."
    found = run_out(store.requests(row.cell, row.block, row.attempt), row)
    if math.isnan(found.out_s):
        return f"With {int(row.local_ports)} ports none was seen to be lacking."
    back = "" if math.isnan(found.back_s) else (
        f", and requests were served again after {si(found.back_s, 's')}, when the kernel took up "
        "ports of loopback anew"
    )  # fmt: skip
    return (
        f"With {int(row.local_ports)} ports {found.served} requests were served before none was "
        f"left after {si(found.out_s, 's')}{back}. That cell is meant to fail requests, so no "
        "claim rests on it, and it is not asked to serve them all."
    )
