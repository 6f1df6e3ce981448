"""What a connection per request is said to cost, by runs whose truth is known: so many round trips
and so much CPU for each client, more with TLS and AUTH, and local ports that run out on time."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.figure import Figure
from matplotlib.text import Text
from said import Changed, typed_numbers

from bench.experiments import connection_per_request as experiment
from bench.experiments.connection_per_request import (
    LOCAL_PORTS,
    PORTS_ARM,
    PORTS_QPS,
    TAX_S,
    Environment,
)
from bench.model import Cell, Estimate, Observation, Percentiles, Profile, Verdict, Workload
from bench.report.verdicts import judge
from bench.store import Store

PROFILES = get_args(Profile)
STANDARD = experiment.plan("standard", Workload(), 1)
FIGURES = ["tax_latency", "tax_cpu", "tax_ports"]
RANGE = {"ipv4/ip_local_port_range": "32768\t60999"}
Change = Callable[[pd.DataFrame], pd.DataFrame]
Named = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Truth:
    """`trips` to open a connection and what it takes besides, `fixed_s`, by client; `tls_s` on top
    and `front_s` for the way through Envoy. `noise`: of a request on a connection of its own, a
    factor for each block. `ports`: how many there really are; `again_s`: when they come back."""

    trips: Named = dataclasses.field(
        default_factory=lambda: {"bare": 1.0, "tuned": 1.0, "redis-py": 4.0}
    )
    fixed_s: Named = dataclasses.field(
        default_factory=lambda: {"bare": 0.08e-3, "tuned": 0.2e-3, "redis-py": 0.9e-3}
    )
    tls_s: float = 3e-3
    front_s: float = 0.1e-3
    tls_ends_at: str = "envoy"
    noise: tuple[float, ...] = (1.0, 1.01, 0.99)
    ports: int = LOCAL_PORTS
    again_s: float = 1.0


def median_s(cell: Cell, block: int, truth: Truth) -> float:
    """The median latency: pooled reads take the round trip and 0.1 ms, more through a front."""
    usual = cell.rtt_s + 0.1e-3 + truth.front_s * (cell.tls != "none" or cell.via == "front")
    if cell.max_uses != 1:
        return usual
    trips = truth.trips[cell.client] + (cell.tls != "none") + (cell.tls == "full")
    opening = trips * cell.rtt_s + truth.fixed_s[cell.client]
    opening += truth.tls_s * {"none": 0.0, "resumed": 0.5, "full": 1.0}[cell.tls]
    if cell.auth != "none" and cell.resp == 2:
        opening += cell.rtt_s  # of its own; RESP 3 has it in its HELLO
    return usual + opening * truth.noise[block - 1]


CLIENT_US = {"bare": (20.0, 80.0), "tuned": (60.0, 240.0), "redis-py": (60.0, 900.0)}
FASTEST = {"bare": 14_000.0, "tuned": 4_500.0, "redis-py": 1_200.0}


def observation(cell: Cell, block: int, truth: Truth) -> Observation:
    usual, own = synthetic.observation(cell, block), cell.max_uses == 1
    took_s = median_s(cell, block, truth)
    noise = truth.noise[block - 1]
    qps = cell.offered_qps or 40_000.0
    if cell.loop == "closed" and own:
        qps = FASTEST[cell.client]
    made = dataclasses.replace(
        usual,
        qps=qps,
        latency=Percentiles(took_s, None, None, None),
        client_cpu_us_per_op=CLIENT_US[cell.client][own] * noise,
        server_cpu_us_per_op=(40.0 if own else 10.0) * noise,
        proxy_cpu_us_per_op=(700.0 if own else 15.0) if cell.tls != "none" else None,
        tls_ends_at=truth.tls_ends_at if cell.tls != "none" or cell.via == "front" else "",
        bound_by="generator" if cell.loop == "closed" else "users",
        operations=25,
        time_wait_peak=5_000 if own else 12,
        series=[{"source": "probes", "at_s": at_s, "time_wait": 100 + qps * at_s * own}
                for at_s in (0.0, 0.1)],
    )  # fmt: skip
    return _without_ports(made, truth) if cell.arm == PORTS_ARM else made


def _without_ports(made: Observation, truth: Truth) -> Observation:
    """A port serves once, and again when it has come back."""
    cell = made.cell
    due_s = np.arange(0.003, cell.measure_s, 1 / PORTS_QPS)
    free_at, rows = [0.0] * truth.ports, []
    for due in due_s:
        port = int(np.argmin(free_at))
        if free_at[port] > due:
            continue
        free_at[port] = due + truth.again_s
        rows.append((due, due, due + 1e-4, due + 2e-4))
    return dataclasses.replace(
        made, requests=[np.array(rows).tobytes()], operations=len(rows), valid=False,
        invalid_reasons="served: only 40 % of offered", errors=due_s.size - len(rows),
    )  # fmt: skip


def stored(
    folder: Path,
    truth: Truth = Truth(),
    replicates: int = 3,
    profile: Profile = "standard",
    wanted: Callable[[Cell], bool] = lambda cell: True,
    **manifest: Any,
) -> Store:
    told = {"settings": {"profile": profile}, "python": "3.11.0", "network": RANGE, **manifest}
    made = Store.create(folder, told)
    plan = experiment.plan(profile, Workload(), 1)
    for block, cells in enumerate(plan.blocks[:replicates], 1):
        for cell in filter(wanted, cells):
            made.add(observation(cell, block, truth))
    made.finish("complete")
    return Store.open(folder)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("run") / "usual")


def changed(store: Store, change: Change) -> Any:
    return Changed(store, change(store.cells()))


def claims(store: Any) -> dict[str, Verdict]:
    return {verdict.claim: verdict for verdict in experiment.claims(store.cells(), store)}


def outcomes(store: Any) -> dict[str, str]:
    return {name: verdict.outcome for name, verdict in claims(store).items()}


def on(client: str, rtt_s: float, mode: str, **values: Any) -> Change:
    """The open loop's cells without TLS with these figures instead."""

    def change(cells: pd.DataFrame) -> pd.DataFrame:
        made = cells.copy()
        own = (made["client"] == client) & (made["rtt_s"] == rtt_s) & (made["loop"] == "open")
        own &= (made["max_uses"] == 1) == (mode == "per request")
        own &= (made["tls"] == "none") & (made["via"] == "direct") & (made["arm"] == "")
        for column, value in values.items():
            made.loc[own, column] = value
        return made

    return change


def where(**values: Any) -> Change:
    def change(cells: pd.DataFrame) -> pd.DataFrame:
        own = np.logical_and.reduce([cells[name] == value for name, value in values.items()])
        return cells[own]

    return change


def without(**values: Any) -> Change:
    return lambda cells: cells.drop(where(**values)(cells).index)


def all_invalid(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.assign(valid=False, invalid_reasons="served: only 90 % of offered")


def one_replicate(cells: pd.DataFrame) -> pd.DataFrame:
    return cells[cells["block"] == 1]


def nothing(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.head(0)


def nothing_served(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.assign(operations=0, latency_p50_s=math.nan)


# Plan


@pytest.mark.parametrize("profile", PROFILES)
def test_the_plan_names_each_cell_once_and_measures_both_modes(profile: Profile) -> None:
    made = experiment.plan(profile, Workload(), workers=2)
    assert len({cell.id for cell in made.cells}) == len(made.cells)
    assert made.replicates >= (1 if profile == "smoke" else 3)
    for cell in made.cells:
        assert cell.workers == 1
        own = (cell.max_uses, cell.opening)
        assert own in ((1, "lazy"), (None, "prefilled"))
        assert cell.resp == (3 if cell.client == "redis-py" else 2)
    plain = [c for c in made.cells if (c.tls, c.auth, c.via) == ("none", "none", "direct")]
    met = {(c.client, c.rtt_s, c.max_uses) for c in plain if c.loop == "open"}
    clients = ("bare", "redis-py") if profile == "smoke" else ("bare", "tuned", "redis-py")
    rtts_s = (0.0, 0.001) if profile == "smoke" else (0.0, 0.001, 0.005)
    assert met == set(product(clients, rtts_s, (1, None)))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_cell_has_pooled_ones_to_be_set_beside(profile: Profile) -> None:
    """Equal in the load, and in all that a pooled connection still has to do with."""
    cells = experiment.plan(profile, Workload(), 1).cells
    for own in (cell for cell in cells if cell.max_uses == 1 and cell.loop == "open"):
        if own.via == "front":
            continue  # set beside TLS, per request both
        like = [c for c in cells if c.max_uses is None and c.loop == "open"
                and (c.client, c.rtt_s, c.offered_qps) == (own.client, own.rtt_s, own.offered_qps)
                and (c.tls == "none") == (own.tls == "none")]  # fmt: skip
        assert like, own.label
        assert {c.measure_s for c in like} == {own.measure_s}


def test_tls_has_its_own_way_without_tls_beside_it() -> None:
    for cell in STANDARD.cells:
        if cell.tls != "none" and cell.max_uses == 1 and cell.client != "redis-py":
            like = dataclasses.replace(cell, tls="none")
            sides = [c.via for c in STANDARD.cells if dataclasses.replace(c, via="direct") == like]
            assert sorted(sides) == ["direct", "front"]
    assert not any(c.tls == "resumed" and c.client == "redis-py" for c in STANDARD.cells)


def test_the_cell_whose_ports_run_out_is_measured_once_and_by_a_bare_socket() -> None:
    (cell,) = STANDARD.once
    assert (cell.client, cell.max_uses, cell.local_ports) == ("bare", 1, LOCAL_PORTS)
    assert cell.keep_requests
    assert not cell.steady
    assert cell.measure_s > 2 * LOCAL_PORTS / PORTS_QPS


def test_a_client_that_makes_a_tls_context_each_time_is_asked_less_often() -> None:
    """And evenly spaced, so that its window holds the eleven requests that a median needs."""
    for cell in STANDARD.cells:
        slow = cell.client == "redis-py" and cell.tls != "none"
        if cell.loop == "open":
            assert cell.arrivals is not None
            assert cell.offered_qps is not None
            assert (cell.arrivals.process == "constant") == slow
            assert cell.offered_qps * cell.measure_s >= (11.5 if slow else 20)


def test_what_was_offered_at_another_rate_is_no_price_of_tls(usual: Store) -> None:
    known = experiment.measured(usual.cells())
    assert not experiment.is_known(experiment.tls_price(known, "redis-py", "full").added)


def test_the_standard_plan_leaves_the_run_its_time() -> None:
    windows = {profile: experiment.plan(profile, Workload(), 1) for profile in PROFILES}
    without_front = [cell for cell in windows["standard"].cells if cell.via == "direct"]
    assert sum(cell.warmup_s + cell.measure_s + 0.15 for cell in without_front) <= 15
    smoke = windows["smoke"]
    assert sum(cell.measure_s for cell in smoke.cells + smoke.once) <= 3


# Claims


def test_the_tax_depends_on_client_and_network(usual: Store) -> None:
    found = claims(usual)
    assert {name: verdict.outcome for name, verdict in found.items()} == {
        "C3": "refuted", "C3b": "supported", "C3c": "supported", "C3d": "refuted",
        "C3e": "refuted",
    }  # fmt: skip
    values = {name: verdict.estimates["tax"].value for name, verdict in found.items()}
    assert values["C3"] == pytest.approx(0.9e-3)
    assert values["C3b"] == pytest.approx(4.9e-3)
    assert values["C3c"] == pytest.approx(9.9e-3)
    assert values["C3e"] == pytest.approx(1.08e-3)
    ids = set(usual.cells()["cell"])
    for verdict in found.values():
        assert len(verdict.cells) == 2
        assert set(verdict.cells) < ids
        assert "nan" not in verdict.reason


def test_effects_stand_beside_the_tax(usual: Store) -> None:
    effects = claims(usual)["C3"].estimates
    assert effects["client CPU added"].value == pytest.approx(840e-6)
    assert effects["latency p50, per request ÷ pooled"].value == pytest.approx(10, rel=0.01)
    secured = claims(usual)["C3c"].estimates["server CPU added"]
    assert secured.value == pytest.approx(715e-6)  # Envoy's is the server side's


@pytest.mark.parametrize(
    ("truth", "claim", "outcome"),
    [
        ({"fixed_s": {"bare": 1e-4, "tuned": 2e-4, "redis-py": 2.5e-3}}, "C3", "supported"),
        ({"trips": {"bare": 1.0, "tuned": 1.0, "redis-py": 0.5}}, "C3b", "refuted"),
        ({"tls_s": 0.0, "trips": {"bare": 1.0, "tuned": 1.0, "redis-py": -1.5}}, "C3c", "refuted"),
        ({"fixed_s": {"bare": 5e-3, "tuned": 2e-4, "redis-py": 9e-4}}, "C3d", "supported"),
        ({"trips": {"bare": 3.0, "tuned": 1.0, "redis-py": 4.0}}, "C3e", "supported"),
        ({"noise": (0.2, 2.0, 1.0)}, "C3b", "undecided"),
    ],
    ids=str,
)
def test_a_claim_follows_the_truth(
    truth: dict[str, Any], claim: str, outcome: str, tmp_path: Path
) -> None:
    own = experiment.CLAIMED[claim].client
    run = stored(tmp_path / "run", Truth(**truth), wanted=lambda cell: cell.client == own)
    assert outcomes(run)[claim] == outcome


@pytest.mark.parametrize(
    ("low_s", "high_s", "n", "outcome"),
    [
        (TAX_S, 2 * TAX_S, 3, "supported"),
        (0.9 * TAX_S, 2 * TAX_S, 3, "undecided"),
        (0.5 * TAX_S, 0.99 * TAX_S, 3, "refuted"),
        (-TAX_S, TAX_S / 2, 3, "refuted"),
        (2 * TAX_S, 3 * TAX_S, 2, "undecided"),
        (math.nan, math.nan, 3, "undecided"),
    ],
)
def test_the_rule(low_s: float, high_s: float, n: int, outcome: str) -> None:
    found = Estimate((low_s + high_s) / 2, low_s, high_s, "s", n)
    assert experiment.outcome_of(found) == outcome


def test_pairs_are_made_within_blocks(usual: Store) -> None:
    """A block twice as slow in all it does adds its own difference, and no other's."""

    def change(cells: pd.DataFrame) -> pd.DataFrame:
        lost = (cells["block"] == 2) & (cells["max_uses"] == 1) & (cells["rtt_s"] == 0)
        shifted = cells["latency_p50_s"] + 0.05 * (cells["block"] == 3)
        return cells.assign(latency_p50_s=shifted)[~lost]

    found = claims(changed(usual, change))["C3"].estimates["tax"]
    assert found.n == 2
    assert found.value == pytest.approx(0.9e-3, rel=0.01)


def test_two_replicates_and_a_smoke_run_decide_nothing(tmp_path: Path) -> None:
    assert set(outcomes(stored(tmp_path / "two", replicates=2)).values()) == {"undecided"}
    smoke = stored(tmp_path / "smoke", profile="smoke", replicates=1)
    found = judge(smoke, ["connection_per_request"])
    assert {verdict.outcome for verdict in found} == {"undecided"}
    assert [verdict.claim for verdict in found if not verdict.cells] == ["C3c"]


@pytest.mark.parametrize("mode", ["pooled", "per request"])
@pytest.mark.parametrize(
    "values",
    [
        {"valid": False, "invalid_reasons": "served: only 90 % of offered"},
        {"bound_by": "generator"},
        {"bound_by": "machine"},
    ],
    ids=["invalid", "generator", "machine"],
)
def test_what_is_no_evidence_supports_nothing(
    usual: Store, mode: str, values: dict[str, Any]
) -> None:
    found = claims(changed(usual, on("redis-py", 0.001, mode, **values)))
    assert found["C3b"].outcome == "undecided"
    assert f"{mode}: " in found["C3b"].reason
    assert found["C3"].outcome == "refuted"


def test_an_environment_that_was_not_run_is_said_to_be_missing(tmp_path: Path) -> None:
    left_out = {"experiment": experiment.NAME, "what": "TLS", "why": "no server has it", "cells": 8}
    other = {"experiment": "pipelining", "what": "glide", "why": "not installed", "cells": 2}
    plain = stored(tmp_path / "run", wanted=lambda cell: cell.tls == "none" and not cell.arm,
                   not_run=[left_out, other])  # fmt: skip
    found = claims(plain)
    assert found["C3c"].outcome == "undecided"
    assert "not run: TLS (no server has it)" in found["C3c"].reason
    assert "glide" not in found["C3c"].reason
    assert "not run" not in found["C3b"].reason
    assert found["C3b"].outcome == "supported"
    title = experiment.findings(plain.cells(), plain)["tax_ports"]
    assert "not shown here (not run: TLS (no server has it))" in title


def test_only_the_last_attempt_at_a_cell_counts(usual: Store) -> None:
    def again(cells: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([all_invalid(cells).assign(attempt=0), cells], ignore_index=True)

    assert outcomes(changed(usual, again)) == outcomes(usual)


# Round trips, and what TLS and AUTH add


@pytest.mark.parametrize(("client", "trips"), [("bare", 1.0), ("tuned", 1.0), ("redis-py", 4.0)])
def test_the_tax_in_round_trips(usual: Store, client: Any, trips: float) -> None:
    found = experiment.round_trips(experiment.measured(usual.cells()), client)
    assert found.value == pytest.approx(trips, rel=0.01)
    assert found.low < trips < found.high


def test_round_trips_need_more_than_one(usual: Store) -> None:
    known = experiment.measured(where(rtt_s=0.0)(usual.cells()))
    assert math.isnan(experiment.round_trips(known, "bare").value)


@pytest.mark.parametrize(
    ("ends_at", "change", "beside", "added_s"),
    [
        ("envoy", None, "the same front without TLS", 5e-3),
        ("server", without(via="front"), "the direct way", 5.1e-3),
        ("envoy", without(via="front"), "the direct way", 5.1e-3),
        ("server", None, "the direct way", 5.1e-3),
    ],
    ids=str,
)
def test_tls_is_set_beside_the_same_way_without_it(
    ends_at: str, change: Change | None, beside: str, added_s: float, tmp_path: Path
) -> None:
    cells = stored(tmp_path / "run", Truth(tls_ends_at=ends_at),
                   wanted=lambda cell: cell.client == "tuned").cells()  # fmt: skip
    known = experiment.measured(change(cells) if change else cells)
    price = experiment.tls_price(known, "tuned", "full")
    assert (price.beside, price.ends_at) == (beside, ends_at)
    assert price.added.value == pytest.approx(added_s, rel=0.01)


@pytest.mark.parametrize(("client", "added_s"), [("tuned", 1e-3), ("redis-py", 0.0)])
def test_auth_is_a_round_trip_of_its_own_where_no_hello_takes_it_along(
    usual: Store, client: Any, added_s: float
) -> None:
    known = experiment.measured(usual.cells())
    plain, asked = (experiment.tax(experiment.pair_in(known, Environment(client, 0.001, auth=auth)))
                    for auth in ("none", "password"))  # fmt: skip
    assert asked.n == 3
    assert asked.value - plain.value == pytest.approx(added_s, abs=1e-6)


# Local ports


def row_of(**values: Any) -> Any:
    usual = {"offered_qps": PORTS_QPS, "measured_s": 1.3, "local_ports": LOCAL_PORTS}
    return SimpleNamespace(**{**usual, **values})


def due(*spans: tuple[float, float]) -> pd.DataFrame:
    parts = [np.arange(a, b - 1e-9, 1 / PORTS_QPS) for a, b in spans]
    return pd.DataFrame({"intended_s": np.concatenate(parts) if parts else []})


@pytest.mark.parametrize(
    ("spans", "out_s", "back_s", "served"),
    [
        (((0.0, 0.25), (1.0, 1.25)), 0.25, 1.0, 100),
        (((0.004, 0.254), (1.004, 1.254)), 0.25, 1.0, 100),  # the window opened late
        (((0.0, 0.25),), 0.25, math.nan, 100),
        (((0.0, 0.1), (0.12, 0.25)), 0.25, math.nan, 92),  # a stall's loss is no lack of ports
        (((0.0, 1.3),), math.nan, math.nan, 520),
        ((), math.nan, math.nan, 0),
    ],
    ids=str,
)
def test_ports_have_run_out_when_nothing_is_served_any_more(
    spans: tuple[tuple[float, float], ...], out_s: float, back_s: float, served: int
) -> None:
    found = experiment.run_out(due(*spans), row_of())
    assert found.out_s == pytest.approx(out_s, nan_ok=True)
    assert found.back_s == pytest.approx(back_s, nan_ok=True)
    assert found.served == served


@pytest.mark.parametrize("ports", [60, 100, 300])
def test_what_is_shown_agrees_with_what_was_computed(ports: int, tmp_path: Path) -> None:
    store = stored(tmp_path / "run", Truth(ports=ports), wanted=lambda cell: cell.arm == PORTS_ARM)
    title = experiment.findings(store.cells(), store)["tax_ports"]
    assert f"ran out after {ports / PORTS_QPS * 1e3:.0f} ms (250 ms computed)" in title
    plenty = stored(tmp_path / "plenty", Truth(ports=600), wanted=lambda c: c.arm == PORTS_ARM)
    assert "did not run out" in experiment.findings(plenty.cells(), plenty)["tax_ports"]


def test_the_first_attempt_shows_it_since_the_next_finds_its_ports_taken(usual: Store) -> None:
    def again(cells: pd.DataFrame) -> pd.DataFrame:
        own = cells[cells["arm"] == PORTS_ARM]
        return pd.concat([own.assign(attempt=2), cells], ignore_index=True)

    assert experiment.ports_cell(again(usual.cells())).attempt == 1


def test_ports_come_back_in_time_at_a_low_rate() -> None:
    assert experiment.lasts_s(28_232, 1_000.0) == pytest.approx(28.232)
    assert math.isinf(experiment.lasts_s(28_232, 470.0))


@pytest.mark.parametrize(
    ("network", "ports"), [(RANGE, 28_232), ({}, None), ({"ipv4/ip_local_port_range": ""}, None)]
)
def test_the_port_range_is_the_system_s(network: Any, ports: int | None, tmp_path: Path) -> None:
    store = stored(tmp_path / "run", wanted=lambda c: c.arm == PORTS_ARM, network=network)
    assert experiment.ports_granted(store) == ports
    said = experiment.findings(store.cells(), store)["tax_ports"]
    assert ("28,232 local ports carry 471/s" in said) == (ports is not None)


def test_the_cell_whose_ports_run_out_is_no_evidence_and_no_environment(usual: Store) -> None:
    (port_cell,) = STANDARD.once
    cells = usual.cells()
    assert port_cell.id in set(cells["cell"])
    assert all(port_cell.id not in verdict.cells for verdict in claims(usual).values())
    assert port_cell.id not in set(experiment.measured(cells)["cell"])


def test_sockets_in_time_wait_grow_by_one_a_request(usual: Store) -> None:
    known = experiment.measured(usual.cells())
    assert experiment.time_waits_per_request(known, usual) == pytest.approx(1.0)


# Sentences

STATES: list[Any] = [
    None, all_invalid, one_replicate, nothing, nothing_served, without(arm=PORTS_ARM),
    where(arm=PORTS_ARM), where(loop="closed"), where(loop="open"), where(tls="full"),
    where(max_uses=1), without(max_uses=1), where(client="bare"), without(client="redis-py"),
    where(rtt_s=0.005),
]  # fmt: skip


@pytest.fixture(params=range(len(STATES)))
def some(request: pytest.FixtureRequest, usual: Store) -> Any:
    """The run in every state: whole, spoilt, begun, and parts of it missing or alone."""
    change = STATES[request.param]
    return changed(usual, change) if change else usual


def test_titles_state_what_the_data_say(usual: Store) -> None:
    said = experiment.findings(usual.cells(), usual)
    assert list(said) == FIGURES
    assert "900 µs at RTT 0 and 4.9 ms at RTT 1 ms with redis-py as it comes" in said["tax_latency"]
    assert "80 µs at RTT 0 and 1.08 ms at RTT 1 ms with a bare socket" in said["tax_latency"]
    assert "client 840 µs, server 30 µs with redis-py as it comes" in said["tax_cpu"]
    assert "28,232 local ports carry 471/s of connections to one" in said["tax_ports"]
    assert "ran out after 250 ms (250 ms computed)" in said["tax_ports"]


def test_titles_change_with_the_data(usual: Store, tmp_path: Path) -> None:
    slower = {"bare": 1e-3, "tuned": 1e-3, "redis-py": 3e-3}
    other = stored(tmp_path / "run", Truth(fixed_s=slower, ports=50, noise=(1, 1.1, 1.3)))
    store: Any = changed(other, on("redis-py", 0.0, "pooled", client_cpu_us_per_op=9.0))
    before = experiment.findings(usual.cells(), usual)
    after = experiment.findings(store.cells(), store)
    assert all(before[name] != after[name] for name in FIGURES)


def test_claims_and_sentences_hold_in_every_state_of_the_run(some: Any) -> None:
    cells = some.cells()
    found = experiment.claims(cells, some)
    assert [verdict.claim for verdict in found] == list(experiment.CLAIMED)
    for verdict in found:
        assert verdict.reason
        assert "nan" not in verdict.reason
    titles, paragraphs = experiment.findings(cells, some), experiment.prose(cells, some)
    assert list(titles) == list(paragraphs) == (FIGURES if len(cells) else [])
    for text in paragraphs.values():
        assert text.strip().endswith(".")
    for text in [*titles.values(), *paragraphs.values()]:
        assert not re.search(r"\bnan\b|\bNone\b|\(\)|: \.|–\.|  ", text), text
    if len(cells) and not cells["valid"].any():
        assert "undecided" in titles["tax_latency"]
        assert "undecided" in titles["tax_cpu"]


SAID = r"_finding$|_prose$|_said$|^_(?:judge|spread|why|evidence_in|shown|lasting|at|us)$|^claims$"


def test_no_sentence_holds_a_number_that_is_typed() -> None:
    formats = ("median_of", "si", "points", "_rate")
    assert not typed_numbers(experiment, SAID, r"\bp50\b|C3", formats, fewest=20)


def test_prose_reads_its_numbers_from_the_cells(usual: Store) -> None:
    told = experiment.prose(usual.cells(), usual)
    assert re.search(r"4 \(3\.\d+ to 4\.\d+\) with redis-py as it comes", told["tax_latency"])
    assert "TLS, beside the same front without TLS, adds" in told["tax_latency"]
    assert "5 ms with redis-py tuned, full" in told["tax_latency"]
    assert "2.5 ms with a bare socket, resumed" in told["tax_latency"]
    assert "60 µs + 10 µs pooled and 900 µs + 40 µs per request" in told["tax_cpu"]
    assert "40 k/s pooled and 1.2 k/s per request with redis-py as it comes" in told["tax_cpu"]
    assert "the limit was: generator" in told["tax_cpu"]
    assert "14 k/s of a bare socket 2.02 s" in told["tax_ports"]
    assert "grew by 1 for each request" in told["tax_ports"]
    assert "100 requests were served before none was left after 250 ms" in told["tax_ports"]
    assert "served again after 1 s" in told["tax_ports"]


# Figures and tables


def test_every_figure_is_drawn_whatever_the_data(some: Any) -> None:
    made = experiment.figures(some.cells(), some)
    assert list(made) == list(experiment.findings(some.cells(), some))
    for name, figure in made.items():
        _fits(name, figure)


def test_the_figures_of_a_smoke_and_a_full_run_are_drawn(tmp_path: Path) -> None:
    for profile in ("smoke", "full"):
        store = stored(tmp_path / profile, profile=profile, replicates=1)
        for name, figure in experiment.figures(store.cells(), store).items():
            _fits(name, figure)


def _fits(name: str, figure: Figure) -> None:
    """Text stays on the sheet."""
    figure.draw_without_rendering()
    labels = [tick.label1 for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)
              for tick in axis.get_major_ticks()]  # fmt: skip
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in labels:
            box = text.get_window_extent()
            inside = figure.bbox.x0 - 2 <= box.x0 and box.x1 <= figure.bbox.x1 + 2
            assert inside, (name, text.get_text())


def test_points_stand_where_the_data_are(usual: Store) -> None:
    made = experiment.figures(usual.cells(), usual)
    left, right = made["tax_latency"].axes
    colours = {client: experiment.CLIENTS[client].colour for client in experiment.CLIENTS_COMPARED}
    lines = {line.get_color(): line for line in left.get_lines()
             if len(line.get_xdata()) == 3 and line.get_linestyle() == "-"}  # fmt: skip
    assert lines[colours["redis-py"]].get_xdata() == pytest.approx([0, 0.001, 0.005])
    assert lines[colours["redis-py"]].get_ydata() == pytest.approx([0.9e-3, 4.9e-3, 20.9e-3])
    assert lines[colours["bare"]].get_ydata() == pytest.approx([0.08e-3, 1.08e-3, 5.08e-3])
    assert [t.get_text() for t in right.get_xticklabels()] == list(experiment.WAYS)
    for axes in (left, right):
        assert any(list(line.get_ydata()) == [TAX_S, TAX_S] for line in axes.get_lines())
    cpu = made["tax_cpu"].axes[0]
    taken = [float(line.get_xdata()[0]) for line in cpu.get_lines()
             if line.get_marker() == experiment.REUSE["per request"].marker
             and len(line.get_xdata())]  # fmt: skip
    assert max(taken) == pytest.approx(900e-6)
    served = made["tax_ports"].axes[0]
    assert any(list(line.get_xdata()) == [0.25, 0.25] for line in served.get_lines())


def test_what_the_rig_bounds_is_hollow_and_what_is_invalid_is_crossed_out(usual: Store) -> None:
    bound = changed(usual, on("bare", 0.0, "per request", bound_by="generator"))
    bad = changed(usual, on("bare", 0.0, "per request", valid=False, invalid_reasons="served: 1"))
    for store, mark in ((bound, "hollow: "), (bad, "crossed out: ")):
        figure = experiment.figures(store.cells(), store)["tax_latency"]
        said = " ".join(text.get_text() for text in figure.findobj(Text))
        assert mark in said
    usual_ = experiment.figures(usual.cells(), usual)["tax_latency"]
    assert "crossed out" not in " ".join(text.get_text() for text in usual_.findobj(Text))


def test_the_table_has_a_row_for_each_environment(usual: Store) -> None:
    cells = usual.cells()
    table = experiment.tables(cells)
    own = [cell for cell in STANDARD.cells if cell.max_uses == 1]
    assert len(table) == len(own)
    assert set(table["loop"]) == {"open", "closed"}
    row = table[(table["client"] == "redis-py") & (table["way"] == "TLS full to envoy")].iloc[0]
    assert row["tax ms"] == pytest.approx(9.9)
    assert row["own server µs"] == pytest.approx(740)
    assert row["valid"] == "6 of 6"
    failed = experiment.tables(on("bare", 0.0, "pooled", valid=False)(cells))
    assert (failed["valid"] == "3 of 6").sum() == 1


def test_tables_hold_in_every_state_of_the_run(some: Any) -> None:
    cells = some.cells()
    table = experiment.tables(cells)
    assert len(table) <= len(cells)
