"""N* of every load from stored cells, the law over all of them, and the rules that rival it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.nstar import (
    MOST_SHARE,
    SERVED,
    Crossing,
    Law,
    crossing,
    law,
    left_out_errors,
)
from bench.analysis.queueing import servers_needed
from bench.analysis.replicates import evidence, last_attempts
from bench.analysis.simulation import smallest_pool, waits
from bench.analysis.statistics import log_t_interval
from bench.experiments.sizing_rule.loads import SERVER_CONTROL, Load
from bench.figures.units import si
from bench.load.recorder import IN_FLIGHT
from bench.model import LONG_WAIT_S, Estimate, Pod
from bench.store import Store, derived

CLOSE = 1  # connections between predicted and measured, up to `CLOSE_UP_TO` in flight
CLOSE_UP_TO, CLOSE_SHARE = 20, 0.05


class Need(NamedTuple):
    """One block's N* for one load, by both objectives, beside what was in flight: rate and hold
    time W₀ of a pod, L = rate · W₀. `cells` are what it rests on."""

    load: Load
    block: int
    qps: float
    hold_s: float
    empty: Crossing
    long: Crossing
    cells: tuple[str, ...]

    @property
    def in_flight(self) -> float:
        return self.qps * self.hold_s


@derived
def pods(cells: pd.DataFrame) -> pd.DataFrame:
    """A row for each pod of the loads through the link, of the last attempts: what it was offered,
    its own figures, whether it was the `control`, and whether its cell is `evidence`."""
    last = last_attempts(cells[cells["arm"].isin(["rule", "bursty"])])
    sound = set(evidence(last).index)
    rows = [_placed(row, pod, sound) for row in last.itertuples() for pod in row.pods]
    return pd.DataFrame(rows, columns=[*(field.name for field in fields(Pod)), *PLACE])


PLACE = [
    "qps_offered", "rtt_s", "peak_to_mean", "cell", "block", "attempt", "control", "evidence",
]  # fmt: skip


def _placed(row: Any, pod: dict[str, Any], sound: set[Any]) -> dict[str, Any]:
    control = bool(row.keep_requests and pod["pool_size"] == row.pool_size)
    place = (row.offered_qps / row.workers, row.rtt_s, row.peak_to_mean, row.cell, row.block,
             row.attempt, control, row.Index in sound)  # fmt: skip
    return {**pod, **dict(zip(PLACE, place, strict=True))}


LOAD = ["qps_offered", "rtt_s", "peak_to_mean"]


@derived
def needs(cells: pd.DataFrame) -> list[Need]:
    """N* of each load and block, where the control and every step are evidence."""
    table = pods(cells)
    return [
        _need(Load(*load), int(block), own)
        for (*load, block), own in table.groupby([*LOAD, "block"])
        if own["evidence"].all() and own["control"].any()
    ]


def _need(load: Load, block: int, own: pd.DataFrame) -> Need:
    control = own[own["control"]].iloc[0]
    steps = own[~own["control"]].sort_values("pool_size")
    empty, long = (_crossing(steps, name) for name in ("pool_empty_share", "long_wait_share"))
    qps = float(own["qps"].mean())
    return Need(load, block, qps, float(control["command_mean_s"]), empty, long,
                tuple(own["cell"].unique()))  # fmt: skip


def _crossing(steps: pd.DataFrame, share: str) -> Crossing:
    """Where the share falls to what the objective allows; a pool that did not serve what it was
    offered meets none."""
    short = steps["requests"] < SERVED * steps["scheduled"]
    shares = steps[share].where(~short, 1.0)
    return crossing(steps["pool_size"].tolist(), shares.tolist(),
                    steps["requests"].tolist(), MOST_SHARE)  # fmt: skip


class Answer(NamedTuple):
    """A load's N* over its replicates, by both objectives, beside L and what was predicted."""

    load: Load
    qps: float
    hold_s: float
    empty: Estimate
    long: Estimate
    erlang: int
    simulated: float

    @property
    def in_flight(self) -> float:
        return self.qps * self.hold_s

    @property
    def predicted(self) -> float:
        """Before the search: by Erlang C from L; of bursts, which it does not know, simulated."""
        return self.erlang if self.load.peak_to_mean == 1 else math.ceil(self.simulated)

    @property
    def whole(self) -> Estimate:
        """N* by the first objective: the crossing, rounded up to whole connections."""
        value, low, high = (
            end if math.isnan(end) else math.ceil(end)
            for end in (self.empty.value, self.empty.low, self.empty.high)
        )
        return replace(self.empty, value=value, low=low, high=high)

    @property
    def measured(self) -> float:
        """The smallest whole pool that meets the first objective."""
        return self.whole.value

    @property
    def close(self) -> bool:
        """Whether the prediction is as near as it should be."""
        off = abs(self.measured - self.predicted)
        return off <= (CLOSE if self.in_flight <= CLOSE_UP_TO else CLOSE_SHARE * self.measured)


@derived
def answers(cells: pd.DataFrame, store: Store) -> list[Answer]:
    """Each load whose N* lies within the sizes measured, by mean in flight."""
    found: dict[Load, list[Need]] = {}
    for need in needs(cells):
        found.setdefault(need.load, []).append(need)
    made = [_answer(load, own, cells, store) for load, own in found.items()]
    return sorted((each for each in made if each.empty.n), key=lambda each: each.in_flight)


def _answer(load: Load, own: list[Need], cells: pd.DataFrame, store: Store) -> Answer:
    qps, hold_s = (float(np.mean([getattr(need, name) for need in own]))
                   for name in ("qps", "hold_s"))  # fmt: skip
    return Answer(
        load, qps, hold_s,
        log_t_interval([need.empty.connections for need in own], unit="connections"),
        log_t_interval([need.long.connections for need in own], unit="connections"),
        servers_needed(qps * hold_s, MOST_SHARE),
        _simulated(load, cells, store),
    )  # fmt: skip


def _simulated(load: Load, cells: pd.DataFrame, store: Store) -> float:
    """N* of the control's own requests, as sent and as long as they took, through smaller pools."""
    recorded = [_recorded(store, row) for row in _controls(cells, load)]
    requests = sum(len(each) for each in recorded)

    @functools.cache
    def share(size: int) -> float:
        return float(np.mean(np.concatenate([_found_empty(each, size) for each in recorded])))

    least = smallest_pool(lambda size: share(size) <= MOST_SHARE, load.planned, requests)
    if least is None or least == 1:
        return float(least or math.nan)
    sizes = [least - 1, least]
    return crossing(sizes, list(map(share, sizes)), [requests] * 2, MOST_SHARE).connections


def sound_pods(table: pd.DataFrame) -> pd.DataFrame:
    """Those whose cell is evidence."""
    return table[table["evidence"].astype(bool)]


def _controls(cells: pd.DataFrame, load: Load) -> Iterator[pd.Series]:
    mine = sound_pods(pods(cells))
    mine = mine[mine["control"].astype(bool)]
    for name, value in zip(LOAD, load, strict=True):
        mine = mine[mine[name] == value]
    yield from (row for _, row in mine.iterrows())


def _recorded(store: Store, row: pd.Series) -> pd.DataFrame:
    return store.requests(row["cell"], row["block"], row["attempt"])


def _found_empty(requests: pd.DataFrame, size: int) -> NDArray[np.bool_]:
    """Of the requests within the window: which would have found so large a pool empty."""
    held_s = requests["done_s"] - requests["acquired_s"]
    waited = waits(requests["sent_s"], held_s, size) > 0
    return np.asarray(waited[requests["intended_s"] >= 0])


# The rule


OBJECTIVES = {
    "empty": f"at most {MOST_SHARE:.0%} find the pool empty",
    "long": f"p99 of the wait at most {si(LONG_WAIT_S, 's')}",
}


def laws(found: list[Need]) -> dict[str, Law]:
    """By each objective, over the Poisson loads; empty where too little is known."""
    told = {}
    for objective in OBJECTIVES:
        known = [need for need in steady(found)
                 if not math.isnan(getattr(need, objective).connections)]  # fmt: skip
        try:
            told[objective] = law(
                [getattr(need, objective).connections for need in known],
                [need.in_flight for need in known], [need.qps for need in known],
                [need.block for need in known],
            )  # fmt: skip
        except ValueError:
            return {}
    return told


def steady(found: list[Need]) -> list[Need]:
    """Those of Poisson arrivals."""
    return [need for need in found if need.load.peak_to_mean == 1]


class Rule(NamedTuple):
    """A rule of thumb, and predicted ÷ measured N* for each load, in the order of the answers."""

    name: str
    ratios: tuple[float, ...]

    @property
    def typical(self) -> float:
        """By what factor it is off: root mean square on logarithms."""
        return float(np.exp(np.sqrt(np.mean(np.square(np.log(self.ratios))))))


PER_QPS, ERLANG, SIMULATED = "∝ QPS", "Erlang C from λW₀", "simulated from the control"


def rules(told: list[Answer], cores: int) -> list[Rule]:
    """The rivals over the Poisson loads; none for fewer than two of these. The constant of the one
    that has one is fitted to all other loads."""
    known = [each for each in told if each.load.peak_to_mean == 1]
    if len(known) < 2:
        return []
    sizes = np.array([each.empty.value for each in known])
    in_flight = np.array([each.in_flight for each in known])
    predicted = {
        PER_QPS: left_out_errors(sizes, [each.qps for each in known]),
        f"10 × {cores} cores": 10 * cores / sizes,
        "2 × L": 2 * in_flight / sizes,
        ERLANG: np.array([each.erlang for each in known]) / sizes,
        SIMULATED: np.array([each.simulated for each in known]) / sizes,
    }
    return [Rule(name, tuple(map(float, ratios))) for name, ratios in predicted.items()]


def cores(store: Store) -> int:
    """Of the machine that was measured."""
    return int(store.manifest.get("cores_usable") or 1)


# Tables


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """A row per load and pool size: what share of requests found it empty, and waited long."""
    grouped = sound_pods(pods(cells)).groupby([*LOAD, "pool_size"])
    means = grouped[["qps", "in_flight_mean", *SCALES]].mean().reset_index()
    for column, factor in SCALES.items():
        means[column] *= factor
    means["rtt_s"] *= 1e3
    return means.rename(columns=HEADINGS).assign(pods=grouped.size().to_numpy())


SCALES = {"command_mean_s": 1e3, "pool_empty_share": 100.0, "long_wait_share": 100.0}
HEADINGS = {
    "qps_offered": "offered /s", "rtt_s": "RTT ms", "peak_to_mean": "burst ×", "pool_size": "pool",
    "qps": "QPS", "in_flight_mean": "in flight", "command_mean_s": "W ms",
    "pool_empty_share": "empty %", "long_wait_share": "long wait %",
}  # fmt: skip


def named(each: Answer) -> str:
    """The load in short."""
    bursts = "" if each.load.peak_to_mean == 1 else f" in bursts of {each.load.peak_to_mean:g} ×"
    return f"{si(each.load.qps, '/s')} × {si(each.load.rtt_s, 's')}{bursts}"


def answer_table(told: list[Answer]) -> pd.DataFrame:
    """A row per load: what was in flight, N* by both objectives, and what was predicted."""
    return pd.DataFrame(
        [
            {
                "load": named(each),
                "L": each.in_flight,
                "W₀ s": each.hold_s,
                "N*": each.measured,
                "predicted": each.predicted,
                "crossing": each.empty.value,
                "from": each.empty.low,
                "to": each.empty.high,
                "crossing (p99 wait)": each.long.value,
                "Erlang C": each.erlang,
                "simulated": each.simulated,
                "replicates": each.empty.n,
                "as predicted": "yes" if each.close else "no",
            }
            for each in told
        ]
    )


def rule_table(rivals: list[Rule]) -> pd.DataFrame:
    """A row per rule of thumb: by what factor it is off, typically and at most."""
    return pd.DataFrame(
        [
            {
                "rule": rule.name,
                "typically off by ×": rule.typical,
                "smallest ÷ measured": min(rule.ratios),
                "largest ÷ measured": max(rule.ratios),
            }
            for rule in rivals
        ]
    )


# What was in flight


class Held(NamedTuple):
    """The share of time at each number of connections held, from 0, in one load's controls."""

    share: NDArray[np.float64]

    def at_least(self, number: int) -> float:
        """The share of time with so many in flight or more."""
        return float(self.share[number:].sum())

    @property
    def mean(self) -> float:
        return float(self.share @ np.arange(len(self.share)))

    def quantile(self, p: float) -> int:
        """The least number that is not exceeded for the share `p` of the time."""
        return int(np.searchsorted(np.cumsum(self.share), p))


def held(cells: pd.DataFrame, store: Store, load: Load) -> Held | None:
    """Of that load's controls; None where none is evidence."""
    found = list(_controls(cells, load))
    return held_of(store, pd.DataFrame(found)) if found else None


def held_of(store: Store, cells: pd.DataFrame) -> Held:
    """The mean over these cells."""
    histograms = [
        store.histogram(row.cell, row.block, row.attempt, IN_FLIGHT) for row in cells.itertuples()
    ]
    levels = max(int(each.get_max_value()) for each in histograms) + 1
    micros = [sum(each.get_count_at_value(level) for each in histograms) for level in range(levels)]
    return Held(np.array(micros) / sum(micros))


def server_controls(cells: pd.DataFrame) -> pd.DataFrame:
    """Of the series without the link what is evidence, and where the pool is no limit."""
    known = evidence(last_attempts(cells[cells["arm"] == "server"]))
    return known[known["pool_size"] == SERVER_CONTROL].sort_values("offered_qps")
