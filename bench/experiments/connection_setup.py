"""Opening a connection: what does it cost, phase by phase?

One user opens a connection, asks one thing and closes it, over and over, so that no phase waits
for another request's. Who asks is a bare socket (the floor), redis-py tuned (protocol 2, no CLIENT
SETINFO, a TLS context that is kept) and redis-py as it comes. The phases have clock readings of
their own, and so has the whole: whether they add up is looked at in every cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.analysis.replicates import REPLICATES_NEEDED, last_attempts, median_of, replicates_in
from bench.analysis.sentences import counted, not_run
from bench.analysis.statistics import median_spread
from bench.figures.axes import linear_axis
from bench.figures.sheet import footnote, new_figure, panel_title
from bench.figures.style import CLIENTS, GROUND, INK, MUTED, PHASES
from bench.figures.units import digits, si
from bench.model import Auth, Cell, Client, Plan, Profile, Tls, Verdict, Workload
from bench.store import Store, derived

NAME = "connection_setup"
NOTEBOOK = "connection_cost"
QUESTION = "What does opening a connection cost, phase by phase?"
CLAIMS: dict[str, str] = {}  # it shows; others decide

ASKING: tuple[Client, ...] = ("bare", "tuned", "redis-py")
KEEPS_CONTEXT: tuple[Client, ...] = ("bare", "tuned")  # who can take a TLS session up again
RTTS_S = (0.0, 0.001, 0.005)
SECURED_RTTS_S = (0.0, 0.001)
REPLICATES: dict[Profile, int] = {"smoke": 1, "standard": 3, "full": 5}
WARMUP_S = 0.03
# As long as fifty tuned connections, or five of redis-py with TLS, which reads all certificates
# that the system trusts for each: 50 ms of CPU in a trial.
WINDOW_S: dict[Profile, float] = {"smoke": 0.1, "standard": 0.2, "full": 0.8}
LONG_WINDOW_S: dict[Profile, float] = {"smoke": 0.2, "standard": 0.35, "full": 1.5}
WHOLE, CLOSE = "whole", "close"


class Way(NamedTuple):
    """Who opens the connection, and what is to be done before it is of use."""

    client: Client
    tls: Tls = "none"
    auth: Auth = "none"
    database: int = 0

    @property
    def said(self) -> str:
        parts = (
            self.client,
            "" if self.tls == "none" else f"TLS {self.tls}",
            "" if self.auth == "none" else f"AUTH {self.auth}",
            "SELECT" if self.database else "",
        )
        return ", ".join(filter(None, parts))


def plan(profile: Profile, workload: Workload, workers: int) -> Plan:
    """One worker, however many the run has: what opening takes is one process's matter."""
    cells = (_cell(profile, way, rtt_s, workload) for way, rtt_s in _asked(profile))
    return Plan(tuple(cells), REPLICATES[profile])


def _asked(profile: Profile) -> Iterable[tuple[Way, float]]:
    """Every client at every round trip; TLS and AUTH where they are compared."""
    if profile == "smoke":
        yield from product((Way("bare"), Way("redis-py"), Way("bare", tls="full")), RTTS_S[:2])
        return
    yield from product(map(Way, ASKING), RTTS_S)
    full = profile == "full"
    yield from product(_with_tls(), RTTS_S if full else SECURED_RTTS_S)
    rest = (*_with_auth(), *(Way(client, database=1) for client in ASKING[1:]))
    yield from product(rest, RTTS_S if full else RTTS_S[:1])


def _with_tls() -> Iterable[Way]:
    for client in ASKING:
        yield Way(client, tls="full")
        if client in KEEPS_CONTEXT:
            yield Way(client, tls="resumed")


def _with_auth() -> Iterable[Way]:
    auths: tuple[Auth, ...] = ("password", "acl")
    return (Way(client, auth=auth) for client, auth in product(ASKING[1:], auths))


def _cell(profile: Profile, way: Way, rtt_s: float, workload: Workload) -> Cell:
    slow = rtt_s > SECURED_RTTS_S[-1] or (way.tls != "none" and way.client not in KEEPS_CONTEXT)
    return Cell(
        NAME, 1, 1, rtt_s=rtt_s, client=way.client, resp=3 if way.client == "redis-py" else 2,
        opening="lazy", max_uses=1, time_phases=True, tls=way.tls, auth=way.auth,
        database=way.database, workload=workload, warmup_s=WARMUP_S,
        measure_s=(LONG_WINDOW_S if slow else WINDOW_S)[profile],
    )  # fmt: skip


# What was measured


@derived
def measured(cells: pd.DataFrame) -> pd.DataFrame:
    """The valid last attempts, each with the mean seconds of its phases (`phase …`, NaN where it
    has none), of the whole, and `sum_ratio`, the phases' sum ÷ the whole.

    The generator is the limit where opening is its own work: that is what is looked at, not a
    ceiling of something else, so such cells count.
    """
    last = last_attempts(cells)
    valid = last[last["valid"].astype(bool)]
    told = [_phases(row) for row in valid["phases"]] if len(valid) else []
    columns = pd.DataFrame(told, index=valid.index, columns=[*_names(), WHOLE, CLOSE], dtype=float)
    known = valid.join(columns.add_prefix("phase "))
    known["sum_ratio"] = columns[list(_names())].sum(axis=1) / columns[WHOLE]
    return known


def _names() -> Iterable[str]:
    return PHASES.keys()


def _phases(told: Any) -> dict[str, float]:
    return {each["name"]: each["mean_s"] for each in told if each["count"]}


def part(known: pd.DataFrame, way: Way, rtt_s: float) -> pd.DataFrame:
    """One cell's replicates."""
    return _parts(known).get((rtt_s, *way), known.head(0))


@derived
def _parts(known: pd.DataFrame) -> dict[tuple[Any, ...], pd.DataFrame]:
    """By round trip and way, picked once: figures and words ask some hundred times."""
    return dict(iter(known.groupby(["rtt_s", *Way._fields], sort=False)))


def ways_in(known: pd.DataFrame) -> list[Way]:
    """Those measured: without TLS and AUTH first, then by client."""
    met = {Way(*row) for row in known[list(Way._fields)].drop_duplicates().itertuples(index=False)}
    return sorted(met, key=_place)


def _place(way: Way) -> tuple[Any, ...]:
    more = way.tls != "none", way.auth != "none", way.database
    return *more, ASKING.index(way.client), way.tls, way.auth


def typical(own: pd.DataFrame) -> pd.DataFrame:
    """The replicate whose whole is the median one: its phases belong together."""
    ordered = own.sort_values(f"phase {WHOLE}", kind="stable")
    return ordered.iloc[[(len(ordered) - 1) // 2]]


def whole_s(known: pd.DataFrame, way: Way, rtt_s: float) -> float:
    """Of the typical replicate; NaN where it was not measured."""
    own = part(known, way, rtt_s)
    return float(typical(own)[f"phase {WHOLE}"].iloc[0]) if len(own) else math.nan


def ends_at(known: pd.DataFrame) -> str:
    """Which program decrypts; empty where nothing was encrypted."""
    return next((name for name in known["tls_ends_at"] if name), "")


# Tables and claims


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """Each cell: medians over the valid replicates, in microseconds."""
    known = measured(cells)
    rows = [
        _table_row(own, way, rtt_s)
        for way, rtt_s in product(ways_in(known), sorted(known["rtt_s"].unique()))
        if len(own := part(known, way, rtt_s))
    ]
    return pd.DataFrame(rows)


def _table_row(own: pd.DataFrame, way: Way, rtt_s: float) -> dict[str, Any]:
    names = [name for name in (*_names(), CLOSE) if own[f"phase {name}"].notna().any()]
    return {
        "connection": way.said,
        "RTT ms": rtt_s * 1e3,
        "whole µs": _micros(own, f"phase {WHOLE}"),
        "phases ÷ whole": round(median_of(own, "sum_ratio"), 3),
        "phases µs": ", ".join(f"{name} {_micros(own, f'phase {name}'):g}" for name in names),
        "client CPU µs": digits(median_of(own, "client_cpu_us_per_op")),
        "server CPU µs": digits(median_of(own, "server_cpu_us_per_op")),
        "proxy CPU µs": digits(median_of(own, "proxy_cpu_us_per_op")),
        "connections /s": digits(median_of(own, "qps")),
        "TIME_WAIT peak": digits(median_of(own, "time_wait_peak")),
        "replicates": replicates_in(own),
    }


def _micros(own: pd.DataFrame, column: str) -> float:
    return digits(1e6 * median_of(own, column))


def claims(cells: pd.DataFrame, store: Store) -> list[Verdict]:
    """None is decided here: C2 and C3 are, by experiments of their own, with these figures beside
    them."""
    return []


# What the figures say


def findings(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A sentence for each figure that these cells allow: its title."""
    return _findings(measured(cells))


@derived
def _findings(known: pd.DataFrame) -> dict[str, str]:
    if known.empty:
        return {}
    return {"setup_phases": _phases_finding(known), "setup_cpu": _cpu_finding(known)}


def _phases_finding(known: pd.DataFrame) -> str:
    rtts_s = [rtt_s for rtt_s in (RTTS_S[0], RTTS_S[1]) if (known["rtt_s"] == rtt_s).any()]
    said = "; ".join(f"{_wholes(known, rtt_s)} at RTT {si(rtt_s, 's')}" for rtt_s in rtts_s)
    return f"From nothing to the first reply: {said}{_largest(known)}"


def _wholes(known: pd.DataFrame, rtt_s: float) -> str:
    told = [
        f"{si(seconds, 's')} {client}"
        for client in ASKING
        if not math.isnan(seconds := whole_s(known, Way(client), rtt_s))
    ]
    return ", ".join(told) or "nothing measured"


def _largest(known: pd.DataFrame) -> str:
    """Which phase takes most of redis-py's own, without a network."""
    own = part(known, Way("redis-py"), RTTS_S[0])
    if own.empty:
        return ""
    sizes = {name: median_of(own, f"phase {name}") for name in _names()}
    told = {name: size for name, size in sizes.items() if not math.isnan(size)}
    top = max(told, key=lambda name: told[name])
    share = told[top] / median_of(own, f"phase {WHOLE}")
    return f"; most of redis-py's is “{top}” ({si(share, 'share')})"


def _cpu_finding(known: pd.DataFrame) -> str:
    told = [
        f"{client} {si(1e-6 * median_of(own, 'client_cpu_us_per_op'), 's')} + "
        f"{si(1e-6 * median_of(own, 'server_cpu_us_per_op'), 's')}"
        for client in ASKING
        if len(own := part(known, Way(client), RTTS_S[0]))
    ]
    said = ", ".join(told) or "nothing measured without a network"
    return f"CPU of one connection with one request, client + server: {said}{_tls_cpu(known)}"


def _tls_cpu(known: pd.DataFrame) -> str:
    full, plain = (part(known, Way("bare", tls=tls), RTTS_S[0]) for tls in ("full", "none"))
    if full.empty or plain.empty:
        return ""
    added = [
        1e-6 * (median_of(full, column) - median_of(plain, column))
        for column in ("client_cpu_us_per_op", "server_cpu_us_per_op")
    ]
    where = f" (TLS ends in {ends_at(full)})" if ends_at(full) != "server" else ""
    return f"; TLS adds {' + '.join(si(each, 's') for each in added)} to the bare one{where}"


# Figures


def figures(cells: pd.DataFrame, store: Store) -> dict[str, Figure]:
    """Each finding with its picture."""
    known = measured(cells)
    draw = {"setup_phases": _draw_phases, "setup_cpu": _draw_cpu}
    return {name: draw[name](known, store, title) for name, title in _findings(known).items()}


LINK_NOTE = (
    "The link cannot delay the packets of TCP's handshake: it holds a connection's first byte back "
    "for one round trip, which so lies in the first exchange and not in “connect”."
)


def _draw_phases(known: pd.DataFrame, store: Store, title: str) -> Figure:
    rtts_s = sorted(known["rtt_s"].unique())
    ways = ways_in(known)
    figure, panels = new_figure(title, 1, len(rtts_s), size=(13.0, 1.9 + 0.42 * len(ways)))
    for axes, rtt_s in zip(panels, rtts_s, strict=True):
        panel_title(axes, f"RTT {si(rtt_s, 's')}")
        _draw_waterfall(axes, known, ways, rtt_s)
    for axes in panels[1:]:
        axes.set_yticklabels([])
    handles = [
        Patch(facecolor=colour, edgecolor=GROUND, hatch=hatch, label=name)
        for name, (colour, hatch) in PHASES.items()
        if known[f"phase {name}"].notna().any()
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    footnote(
        figure,
        "Means per connection, of the replicate whose whole is the median one; the black mark is "
        f"the whole, measured by itself, which the phases reach to {_worst_said(known)}. A bar "
        "that does not fit is cut off and says its length. The address is numeric: a name's "
        f"look-up asks a server besides. {LINK_NOTE} {_where(known)}"
        f"{not_run(store.manifest, NAME)}",
    )
    return figure


def _draw_waterfall(axes: Axes, known: pd.DataFrame, ways: list[Way], rtt_s: float) -> None:
    wholes = [whole_s(known, way, rtt_s) for way in ways]
    reach = _reach(wholes)
    for place, (way, whole) in enumerate(zip(ways, wholes, strict=True)):
        own = part(known, way, rtt_s)
        if own.empty:
            _say(axes, 0.0, place, "not measured", reach)
            continue
        left = 0.0
        one = typical(own)
        for name, (colour, hatch) in PHASES.items():
            width = median_of(one, f"phase {name}")
            if not math.isnan(width):
                axes.barh(place, min(width, max(0.0, reach - left)), 0.62, left=left,
                          color=colour, hatch=hatch, edgecolor=GROUND, lw=0)  # fmt: skip
                left += width
        if whole <= reach:
            axes.plot([whole] * 2, [place - 0.4, place + 0.4], color=INK, lw=1.6)
        _say(
            axes, min(whole, reach), place, si(whole, "s") + ("" if whole <= reach else " →"), reach
        )
    axes.set_yticks(range(len(ways)), [way.said for way in ways])
    axes.set_ylim(len(ways) - 0.4, -0.6)
    axes.set_xlim(0, 1.3 * reach)
    axes.grid(axis="y", visible=False)
    linear_axis(axes.xaxis, "s", "since the connection was begun")


def _reach(wholes_s: list[float]) -> float:
    """To where bars are drawn: past all but those that would make the others invisible."""
    told = sorted(seconds for seconds in wholes_s if not math.isnan(seconds))
    if not told:
        return 1.0
    middle = told[len(told) // 2]
    return max(seconds for seconds in told if seconds <= LONGEST * middle)


LONGEST = 6.0  # medians: redis-py's TLS context takes ten times that and more


def _say(axes: Axes, at_s: float, place: int, text: str, reach: float) -> None:
    axes.annotate(text, (at_s, place), (5, 0), textcoords="offset points", va="center",
                  fontsize=8.5, color=MUTED if not at_s else INK)  # fmt: skip


def worst_sum(known: pd.DataFrame) -> float:
    """The cells' ratio of phases to whole, by medians over replicates, that is farthest from 1."""
    ratios = known.groupby("cell")["sum_ratio"].median().dropna()
    return max(ratios, key=lambda ratio: abs(ratio - 1), default=math.nan)


def _worst_said(known: pd.DataFrame) -> str:
    return f"{si(worst_sum(known), 'share')} where they reach least"


def _where(known: pd.DataFrame) -> str:
    where = ends_at(known)
    return f"TLS ends in {'the server' if where == 'server' else 'Envoy'}. " if where else ""


SIDES = (
    ("client", "client_cpu_us_per_op", ""),
    ("server", "server_cpu_us_per_op", "///"),
    ("TLS front", "proxy_cpu_us_per_op", "xxx"),
)


def _draw_cpu(known: pd.DataFrame, store: Store, title: str) -> Figure:
    here = known[known["rtt_s"] == known["rtt_s"].min()]
    ways = ways_in(here)
    rtt_s = float(here["rtt_s"].iloc[0])
    figure, (axes,) = new_figure(title, size=(11.0, 1.9 + 0.42 * len(ways)))
    sides = [side for side in SIDES if (here[side[1]].astype(float) > 0).any()]
    sums = [_cpu_s(part(here, way, rtt_s), sides) for way in ways]
    reach = _reach([sum(each) for each in sums])
    for place, (way, each) in enumerate(zip(ways, sums, strict=True)):
        left = 0.0
        for width, (_, _, hatch) in zip(each, sides, strict=True):
            axes.barh(place, min(width, max(0.0, reach - left)), 0.62, left=left, lw=0,
                      color=CLIENTS[way.client].colour, hatch=hatch, edgecolor=GROUND)  # fmt: skip
            left += width
        cut = " →" if left > reach else ""
        _say(axes, min(left, reach), place, " + ".join(si(w, "s") for w in each) + cut, reach)
    axes.set_yticks(range(len(ways)), [way.said for way in ways])
    axes.set_ylim(len(ways) - 0.4, -0.6)
    axes.set_xlim(0, 1.35 * reach)
    axes.grid(axis="y", visible=False)
    linear_axis(axes.xaxis, "s", f"CPU of one connection with one request, RTT {si(rtt_s, 's')}")
    handles = [Patch(facecolor=MUTED, edgecolor=GROUND, hatch=hatch, label=name)
               for name, _, hatch in sides]  # fmt: skip
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    footnote(
        figure,
        "Medians over replicates: a window's CPU over the connections opened in it, the request "
        f"and the closing included. Colour is the client. {_where(known)}"
        f"{not_run(store.manifest, NAME)}",
    )
    return figure


def _cpu_s(own: pd.DataFrame, sides: list[tuple[str, str, str]]) -> list[float]:
    found = (1e-6 * median_of(own, column) for _, column, _ in sides)
    return [0.0 if math.isnan(each) else each for each in found]


# Prose: what a reviewer should see, its numbers from the cells


def prose(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A paragraph of Markdown below each figure."""
    known = measured(cells)
    told = {"setup_phases": _phases_prose, "setup_cpu": _cpu_prose}
    return {name: told[name](known) for name in _findings(known)}


def _phases_prose(known: pd.DataFrame) -> str:
    return (
        f"{_ratios_said(known)}“client” is work of the client's own: its objects, and what its "
        "connect does between the network's phases. “setinfo” is two commands, each a round trip "
        f"of its own. {_trips_said(known)}{_tls_said(known)}{_auth_said(known)}"
        f"{_select_said(known)}"
        f"Over all cells the phases add up to {_worst_said(known)} of the whole, which is read off "
        f"the clock by itself. {_thin(known)}"
    )


def _ratios_said(known: pd.DataFrame) -> str:
    bare, tuned, usual = (whole_s(known, Way(client), RTTS_S[0]) for client in ASKING)
    said = [
        f"{name} takes {ratio:.2g} × as long as {beside}"
        for name, beside, ratio in (
            ("redis-py tuned", "a bare socket", tuned / bare),
            ("redis-py as it comes", "tuned", usual / tuned),
        )
        if not math.isnan(ratio)
    ]
    return f"Without a network {'; '.join(said)}. " if said else ""


def round_trips(known: pd.DataFrame, way: Way) -> float:
    """What a longer round trip adds to the whole, in round trips; NaN where it is not known."""
    far = max((rtt_s for rtt_s in RTTS_S if len(part(known, way, rtt_s))), default=0.0)
    near = min((rtt_s for rtt_s in RTTS_S if len(part(known, way, rtt_s))), default=0.0)
    if far == near:
        return math.nan
    return (whole_s(known, way, far) - whole_s(known, way, near)) / (far - near)


def _trips_said(known: pd.DataFrame) -> str:
    said = [
        f"{way.said} {trips:.2g}"
        for way in ways_in(known)
        if way.tls == "none" or way.client in KEEPS_CONTEXT  # else its own work scatters by more
        if not math.isnan(trips := round_trips(known, way))
    ]
    return f"Round trips until the first reply: {'; '.join(said)}. " if said else ""


def _tls_said(known: pd.DataFrame) -> str:
    full, resumed, usual = (
        median_of(part(known, way, RTTS_S[0]), "phase tls")
        for way in (Way("bare", "full"), Way("bare", "resumed"), Way("redis-py", "full"))
    )
    if math.isnan(full):
        return ""
    said = f"A TLS handshake takes {si(full, 's')} without a network"
    if not math.isnan(resumed):
        said += f", {si(resumed, 's')} where a session is taken up again"
    if not math.isnan(usual):
        said += (
            f", and {si(usual, 's')} in redis-py as it comes, which makes a context for each "
            "connection and reads all certificates that the system trusts into it"
        )
    return f"{said}. "


def _auth_said(known: pd.DataFrame) -> str:
    said = []
    for auth in ("password", "acl"):
        way = Way("tuned", auth=auth)
        seconds = median_of(part(known, way, RTTS_S[0]), "phase auth")
        if not math.isnan(seconds):
            said.append(f"{si(seconds, 's')} ({auth})")
    if not said:
        return ""
    return (
        f"AUTH is one exchange more in protocol 2, {', '.join(said)}, and none in protocol 3, "
        "where HELLO carries it. "
    )


def _select_said(known: pd.DataFrame) -> str:
    seconds = median_of(part(known, Way("tuned", database=1), RTTS_S[0]), "phase select")
    return "" if math.isnan(seconds) else f"SELECT is another, {si(seconds, 's')}. "


def _thin(known: pd.DataFrame) -> str:
    per_cell = known.groupby("cell")["block"].nunique()
    thin = int((per_cell < REPLICATES_NEEDED).sum())
    if not thin:
        return ""
    of = counted(len(per_cell), "cell")
    return f"{thin} of {of} have fewer than {REPLICATES_NEEDED} valid replicates."


def _cpu_prose(known: pd.DataFrame) -> str:
    here = known[known["rtt_s"] == RTTS_S[0]]
    busiest = here["time_wait_peak"].astype(float).max()
    waiting = (
        f"The side that closes keeps each in TIME_WAIT for a minute: up to {busiest:,.0f} were "
        "counted on this machine. "
        if not math.isnan(busiest)
        else ""
    )
    spread = median_spread(here["client_cpu_us_per_op"].astype(float))
    return (
        "What a latency does not show: while one connection is being opened, the client's process "
        f"does nothing else with these {si(1e-6 * spread.low, 's')} to "
        f"{si(1e-6 * spread.high, 's')} of its core. {waiting}"
    )
