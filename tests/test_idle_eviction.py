"""What is said of idle connections, by runs whose truth is known."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import asleep
import numpy as np
import pytest
from asleep import counts
from said import Changed, typed_numbers

from bench.experiments import idle_eviction
from bench.experiments.idle_eviction import words
from bench.experiments.idle_eviction.lanes import (
    C12B,
    FIX,
    NONE,
    PAIRS,
    PARTS,
    SHORT_GAP,
    TRAPS,
    Scaled,
    plan,
)
from bench.experiments.idle_eviction.seen import combinations, measured, part
from bench.experiments.idle_eviction.words import stops_all
from bench.model import (
    SILENT_TRAPS,
    WHOLE_SECONDS,
    Cell,
    Idling,
    Observation,
    PreflightError,
    Profile,
    Verdict,
    Workload,
)
from bench.store import Store

FIGURES = ["idle_matrix", "idle_timeline", "idle_first_commands", "idle_server"]
KINDS = {"link reset": "reset", "link reset on next": "reset", "link silence": "time_out",
         "firewall": "time_out"}  # fmt: skip
CLAIMS = ["C9", "C9b", "C10", "C11", "C11b", "C12", "C12b", "C13"]


@dataclasses.dataclass(frozen=True)
class Truth:
    """`killing`: whether a server at its defaults closes what is idle. `dead`: of the connections
    that a trap has closed, the share whose first command fails. `leaky`: requests that fail with
    the fix. `during`, `fixed`: server CPU of a burst on dead connections, and with the fix, beside
    a healthy one. `below_server`: requests that fail with an idle timeout of 290 s. `…_clients`:
    the share of the clients that the server still has after a gap, where an end is told and where
    not; `rejected`: connections that it refuses."""

    killing: bool = False
    dead: float = 1.0
    leaky: int = 0
    slow_bursts: int = 0
    during: float = 0.4
    fixed: float = 1.0
    below_server: int = 3
    told_clients: float = 0.01
    silent_clients: float = 1.0
    rejected: int = 0


def idling(cell: Cell) -> Idling:
    assert cell.idling is not None
    return cell.idling


def observation(cell: Cell, truth: Truth, rng: Any) -> Observation:
    own = idling(cell)
    bursts = []
    for lane, cycle in itertools.product(range(own.lanes), range(own.cycles + 1)):
        if cycle or own.fresh:
            noise = float(rng.normal(1, 0.02))
            known = met(cell, truth) if cycle else {}
            cpu = known.pop("cpu", 1.0) * noise * 20e-6 * own.requests
            bursts.append(asleep.burst(cell, cycle, lane, server_cpu_s=cpu, **known))
    kept: dict[str, Any] = {}
    if cell.keep_requests:
        at = np.linspace(1.0, 16.0, own.requests)
        kept["requests"] = [asleep.rows(at, at + 0.001)]
        kept["series"] = [
            {"source": "probes", "at_s": t, "server_cpu_s": t / 50, "server_connections": 5_001.0}
            for t in np.arange(0.5, 16.0, 0.1)
        ]
    slow = [0.0005] * 900 + [0.2] * 100
    late = len(bursts) if cell.arm == "retries" and own.trap in SILENT_TRAPS else 0
    if cell.arm == FIX and own.trap == "link fin":
        late = truth.slow_bursts
    bursts[:late] = [dataclasses.replace(each, latency_max_s=0.2) for each in bursts[:late]]
    return asleep.observation(cell, bursts, answered=slow if late else [0.0005] * 1_000, **kept)


def met(cell: Cell, truth: Truth) -> dict[str, Any]:
    """What a burst after a gap meets."""
    own, requests = idling(cell), idling(cell).requests
    kind = KINDS.get(own.trap, "closed")
    if own.trap == "redis defaults":
        lost = 5 if truth.killing and cell.arm == NONE else 0
        return {"first": counts(ok=100 - lost, closed=lost)}
    if cell.arm in (FIX, C12B):
        lost = truth.leaky if cell.arm == FIX else truth.below_server * (own.trap == "haproxy")
        return {"outcomes": counts(ok=requests - lost, **{kind: lost}), "cpu": truth.fixed}
    if cell.arm == "retries":
        return {"outcomes": counts(ok=requests - 50, ok_after_retry=50), "overdue": 50,
                "overdue_failed": 50, "first": counts(ok=50, **{kind: 50})}  # fmt: skip
    if cell.arm == NONE:
        dead = round(truth.dead * 100)
        remain = truth.silent_clients if own.trap in SILENT_TRAPS else truth.told_clients
        return {"outcomes": counts(ok=requests - dead, **{kind: dead}), "overdue": 100,
                "overdue_failed": dead, "first": counts(ok=100 - dead, **{kind: dead}),
                "cpu": truth.during, "server_rejected": truth.rejected,
                "server_connections": round(remain * cell.pool_size)}  # fmt: skip
    return {}


def stored(folder: Path, truth: Truth = Truth(), profile: Profile = "standard",
           wanted: Any = lambda cell: True, manifest: Any = None) -> Store:  # fmt: skip
    made = Store.create(
        folder, {"settings": {"profile": profile}, "python": "3.11.0", **(manifest or {})}
    )
    made.note_server("redis", "7.0.0")
    rng = np.random.default_rng(5)
    for cell in filter(wanted, plan(profile, Workload(), 1).cells):
        made.add(observation(cell, truth, rng))
    made.finish("complete")
    return Store.open(folder)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("idle") / "usual")


def claims(store: Any) -> dict[str, Verdict]:
    return {each.claim: each for each in idle_eviction.claims(store.cells(), store)}


def outcomes(store: Any) -> dict[str, str]:
    return {name: verdict.outcome for name, verdict in claims(store).items()}


# The plan


@pytest.mark.parametrize("profile", ["standard", "full"])
def test_every_defence_meets_every_trap(profile: Profile) -> None:
    cells = plan(profile, Workload(), 1).cells
    seen = {(cell.arm, idling(cell).trap) for cell in cells}
    assert {(arm, trap) for arm in (*PARTS, *PAIRS, FIX, C12B) for trap in TRAPS} <= seen
    assert len(set(cells)) == len(cells)


def test_the_order_of_all_timers_is_that_of_the_world() -> None:
    for cell in plan("standard", Workload(), 1).cells:
        own = idling(cell)
        if cell.arm == "idle below" and own.trap_s:
            assert cell.max_idle_s is not None
            assert cell.max_idle_s < own.trap_s < own.gap_s
        if cell.arm == "idle above":
            assert cell.max_idle_s is not None
            assert own.trap_s < own.gap_s < cell.max_idle_s
        if cell.arm == "keepalive":
            assert cell.keepalive_s == 1
        if own.trap in WHOLE_SECONDS:
            assert own.trap_s == int(own.trap_s)
        if own.trap == "firewall":
            assert own.trap_s < own.server_keepalive_s
        if cell.arm == SHORT_GAP:
            assert own.gap_s < own.trap_s
        if cell.arm == C12B and own.trap_s < 290 / own.scale:
            assert cell.max_idle_s is not None
            assert own.trap_s == 0 or own.trap_s < own.gap_s < cell.max_idle_s


@pytest.mark.parametrize("scale", [400.0, 1_000.0])
def test_a_time_scale_that_would_turn_the_truth_round_is_refused(scale: float) -> None:
    with pytest.raises(PreflightError, match="choose a smaller --time-scale"):
        plan("standard", Workload(), 1, scale)


def test_the_true_scale_is_an_option() -> None:
    cells = plan("standard", Workload(), 1, 1.0).cells
    (path,) = {idling(c).trap_s for c in cells if idling(c).trap == "link reset"}
    assert path == 350.0
    assert {c.keepalive_s for c in cells if c.arm == "keepalive"} == {30}


def test_scaled_times_keep_their_ratio_where_nothing_counts_whole_seconds() -> None:
    scaled = Scaled(30.0)
    assert scaled.s(350) == pytest.approx(350 / 30, abs=1e-4)
    assert [scaled.whole_s(s) for s in (30, 300, 240, 13)] == [1, 10, 8, 1]


def test_the_full_factorial_leaves_out_no_level_and_no_pair() -> None:
    levels = [c.arm.removeprefix("factorial ") for c in plan("full", Workload(), 1).cells
              if c.arm.startswith("factorial") and idling(c).trap == "firewall"]  # fmt: skip
    assert len(levels) == len(set(levels)) == 72
    for first, second in itertools.combinations(range(6), 2):
        pairs = {(row[first], row[second]) for row in levels}
        sizes = {n: len({row[n] for row in levels}) for n in (first, second)}
        assert len(pairs) == math.prod(sizes.values())


# The claims


def test_as_the_usual_run_has_it(usual: Store) -> None:
    assert outcomes(usual) == {
        "C9": "supported", "C9b": "refuted", "C10": "supported", "C11": "supported",
        "C11b": "refuted", "C12": "supported", "C12b": "refuted", "C13": "supported",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("truth", "claim", "outcome"),
    [
        (Truth(killing=True), "C9b", "supported"),
        (Truth(dead=0.5), "C9", "refuted"),
        (Truth(dead=0.5), "C10", "refuted"),
        (Truth(during=1.4), "C11", "refuted"),
        (Truth(rejected=1), "C11", "refuted"),
        (Truth(told_clients=0.9), "C11b", "supported"),
        (Truth(silent_clients=0.1), "C11", "refuted"),
        (Truth(leaky=1), "C12", "refuted"),
        (Truth(slow_bursts=1), "C12", "undecided"),
        (Truth(slow_bursts=2), "C12", "refuted"),
        (Truth(below_server=0), "C12b", "supported"),
        (Truth(fixed=1.3), "C13", "refuted"),
    ],
)
def test_another_truth_is_another_verdict(
    tmp_path: Path, truth: Truth, claim: str, outcome: str
) -> None:
    judged = (NONE, FIX, C12B, "retries", SHORT_GAP)
    store = stored(tmp_path / "run", truth, wanted=lambda cell: cell.arm in judged)
    assert outcomes(store)[claim] == outcome


def test_slow_answers_are_failures(usual: Store) -> None:
    known = measured(usual.cells())
    found = combinations(known, usual)
    retried = found[(found["arm"] == "retries") & (found["trap"] == "link silence")]
    assert int(retried["failed"].iloc[0]) == 0
    assert int(retried["slow"].iloc[0]) == 100
    assert "retries" not in stops_all(found)
    assert FIX in stops_all(found)


def test_the_incidents_own_lanes_are_shown_and_not_judged(usual: Store) -> None:
    found = combinations(measured(usual.cells()), usual)
    assert found["huge"].sum() == 2
    for arm in (NONE, FIX):
        assert len(part(found, arm)) == len(TRAPS)


def test_a_trap_that_could_not_run_is_named_with_the_reason(tmp_path: Path) -> None:
    lacking = {"experiment": "idle_eviction", "what": "the trap firewall",
               "why": "nft is not installed", "cells": 20}  # fmt: skip
    store = stored(
        tmp_path / "run", manifest={"not_run": [lacking]},
        wanted=lambda c: idling(c).trap != "firewall" and c.arm in (NONE, FIX, "retries"),
    )  # fmt: skip
    for verdict in claims(store).values():
        assert "not run: the trap firewall (nft is not installed)" in verdict.reason
    assert list(idle_eviction.figures(store.cells(), store)) == FIGURES


def test_invalid_cells_support_nothing(usual: Store) -> None:
    store = Changed(usual, usual.cells().assign(valid=False))
    assert set(outcomes(store).values()) == {"undecided"}


@pytest.mark.parametrize("arm", [NONE, FIX, C12B, "retries", "like Jedis"])
def test_part_of_a_run_is_shown_as_far_as_it_goes(tmp_path: Path, arm: str) -> None:
    store = stored(tmp_path / "part", wanted=lambda cell: cell.arm == arm)
    cells = store.cells()
    said = f"{idle_eviction.findings(cells, store)} {idle_eviction.prose(cells, store)}"
    assert "nan" not in said.lower()
    assert "nan" not in " ".join(v.reason for v in claims(store).values()).lower()
    assert list(idle_eviction.figures(cells, store)) == list(idle_eviction.findings(cells, store))
    assert len(idle_eviction.tables(cells))


def test_a_smoke_run_is_shown(tmp_path: Path) -> None:
    store = stored(tmp_path / "smoke", profile="smoke")
    assert "idle_matrix" in idle_eviction.figures(store.cells(), store)
    assert set(outcomes(store)) == set(CLAIMS)


def test_nothing_measured_is_nothing_shown(usual: Store) -> None:
    none = usual.cells().head(0)
    assert idle_eviction.figures(none, usual) == idle_eviction.findings(none, usual) == {}
    assert idle_eviction.prose(none, usual) == {}
    assert idle_eviction.tables(none).empty
    assert set(outcomes(Changed(usual, none)).values()) == {"undecided"}


def test_each_figures_title_is_its_finding(usual: Store) -> None:
    cells = usual.cells()
    drawn = idle_eviction.figures(cells, usual)
    assert list(drawn) == FIGURES
    for name, finding in idle_eviction.findings(cells, usual).items():
        title = drawn[name].get_suptitle()
        assert title.replace("\n", " ").replace("\u00a0", " ") == finding


def test_no_number_is_typed_into_a_sentence() -> None:
    assert typed_numbers(words, r"_finding|_prose$", r"(?i)latency_p99_s|p99|\bone\b",
                         ("si",), fewest=8) == []  # fmt: skip
