"""What is said of sharing a pooler, by costs, latencies and outages whose truth is known."""

from __future__ import annotations

import dataclasses
import math
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import synthetic
from said import Changed, typed_numbers

from bench.experiments import shared_pool
from bench.experiments.shared_pool import (
    BURSTING,
    EQUAL,
    GLIDE,
    PAIR,
    POOLERS,
    RESTART,
    WAYS,
    WORKERS,
    break_even,
    fairness,
    gap_s,
    measured,
    outages,
    saved,
)
from bench.model import Cell, Percentiles, Pod, Profile, Verdict, Workload
from bench.store import Store

FIGURES = ["sharing_cost", "sharing_neighbours"]
POD = Pod(0, 10, 600, 600, 1500.0, 2.0, 5, 0.001, 0.0, 0.0, 0.0013, 0.0013, 0.0016, 0, "")


@dataclasses.dataclass(frozen=True)
class Truth:
    """µs per operation: of the direct way with one worker and what each further one adds; of the
    way through a pooler, whatever the workers. p99 as a factor through a pooler. What a burst adds
    to the neighbour through one. How long a restarted pooler is away."""

    direct_us: float = 80.0
    more_us: float = 5.0
    shared_us: float = 150.0
    p99: float = 1.2
    burst: float = 1.5
    away_s: float = 0.12
    noise: float = 0.005


def observation(cell: Cell, block: int, truth: Truth, rng: np.random.Generator) -> Any:
    usual = synthetic.observation(cell, block)
    noise = float(rng.normal(1, truth.noise))
    pooled = cell.via != "direct"
    all_us = truth.shared_us if pooled else truth.direct_us + truth.more_us * (cell.workers - 1)
    parts = (0.6, 0.25, 0.15) if pooled else (0.8, 0.0, 0.2)
    client, proxy, server = (all_us * part * noise for part in parts)
    p99 = 0.0016 * (truth.p99 if pooled else 1.0) * noise
    mean = 0.0013 * (truth.burst if pooled and cell.arm == BURSTING else 1.0) * noise
    pods = tuple(
        dataclasses.replace(POD, worker=n, latency_mean_s=mean, errors=60 * (cell.arm == RESTART))
        for n in range(cell.workers)
    )
    return dataclasses.replace(
        usual, client_cpu_us_per_op=client, server_cpu_us_per_op=server, pods=pods,
        proxy_cpu_us_per_op=proxy if pooled else None, bound_by="users", valid=True,
        latency=Percentiles(0.0012, 0.0014, p99, None), gates=(),
        server_connections_peak=8 if pooled else 8 + 10 * cell.workers,
        requests=[rows(cell, n, truth).tobytes() for n in range(cell.workers)]
        if cell.keep_requests else [],
    )  # fmt: skip


def rows(cell: Cell, worker: int, truth: Truth) -> Any:
    """A request a millisecond, none of them answered while the pooler is away."""
    due = np.arange(0, cell.measure_s, 0.001) + 1e-5 * worker
    away = (due > 0.1) & (due <= 0.1 + truth.away_s)
    due = due[~away]
    return np.column_stack([due, due, due, due + 0.001])


def stored(folder: Path, truth: Truth = Truth(), profile: Profile = "standard",
           wanted: Any = lambda cell: True, manifest: Any = None) -> Store:  # fmt: skip
    made = Store.create(
        folder, {"settings": {"profile": profile}, "python": "3.11.0", **(manifest or {})}
    )
    rng = np.random.default_rng(3)
    for block, cells in enumerate(shared_pool.plan(profile, Workload(), 1).blocks, 1):
        for cell in filter(wanted, cells):
            made.add(observation(cell, block, truth, rng))
    made.finish("complete")
    return Store.open(folder)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("share") / "usual")


def claims(store: Any) -> dict[str, Verdict]:
    return {each.claim: each for each in shared_pool.claims(store.cells(), store)}


def outcomes(store: Any) -> dict[str, str]:
    return {name: verdict.outcome for name, verdict in claims(store).items()}


@pytest.mark.parametrize("profile", get_args(Profile))
def test_all_ways_meet_the_same_rate(profile: Profile) -> None:
    cells = shared_pool.plan(profile, Workload(), 1).cells
    assert {cell.offered_qps for cell in cells} == {shared_pool.RATE_QPS}
    assert {cell.resp for cell in cells} == {2}  # poolers know no other
    assert {cell.arm for cell in cells} == {EQUAL, BURSTING, RESTART, GLIDE}
    for via in WAYS:
        assert any(cell.via == via and cell.arm == EQUAL for cell in cells)
    assert all(cell.quiet for cell in cells if cell.arm == EQUAL)
    assert all(cell.arrivals.lone for cell in cells if cell.arm == BURSTING and cell.arrivals)


def test_what_costs_more_both_ways_supports(usual: Store) -> None:
    assert outcomes(usual) == dict.fromkeys(("C7", "C7b", "C7c", "C7d"), "supported")
    found = claims(usual)["C7"]
    assert found.estimates["shared ÷ direct"].value == pytest.approx(150 / 95, rel=0.01)
    assert "40 connections to the server saved" in found.reason


def test_what_costs_less_refutes(tmp_path: Path) -> None:
    cheap = stored(tmp_path / "cheap", Truth(shared_us=60.0, p99=0.9))
    assert set(outcomes(cheap).values()) == {"refuted"}


def test_cpu_and_latency_are_judged_apart(tmp_path: Path) -> None:
    found = outcomes(stored(tmp_path / "apart", Truth(p99=0.9)))
    assert (found["C7"], found["C7b"]) == ("supported", "refuted")


def test_noise_decides_nothing(tmp_path: Path) -> None:
    noisy = stored(tmp_path / "noisy", Truth(shared_us=95.0, p99=1.0, noise=0.3))
    assert set(outcomes(noisy).values()) == {"undecided"}


def test_a_break_even_is_found_again(tmp_path: Path) -> None:
    """80 + 5(k − 1) meets 150 at fifteen workers."""
    known = measured(stored(tmp_path / "even", Truth(noise=0.0005)).cells())
    found = break_even(known, "envoy")
    assert found.slope.value == pytest.approx(-5, rel=0.1)
    assert found.workers == pytest.approx(15, rel=0.1)


def test_no_break_even_is_claimed_where_the_difference_does_not_shrink(tmp_path: Path) -> None:
    flat = stored(tmp_path / "flat", Truth(more_us=0.0))
    assert math.isnan(break_even(measured(flat.cells()), "envoy").workers)
    assert "no break-even in sight" in claims(flat)["C7"].reason


def test_connections_saved_are_counted_beside_direct(usual: Store) -> None:
    known = measured(usual.cells())
    assert [saved(known, "envoy", k) for k in WORKERS] == [10, 20, 40]


def test_fairness_is_jains() -> None:
    assert fairness([5.0, 5.0, 5.0]) == pytest.approx(1)
    assert fairness([9.0, 0.0, 0.0]) == pytest.approx(1 / 3)
    assert math.isnan(fairness([0.0, 0.0]))


def test_a_neighbours_burst_is_told(usual: Store) -> None:
    title = shared_pool.findings(usual.cells(), usual)["sharing_neighbours"]
    assert "envoy 1.50 × (" in title
    assert "direct 1" in title


def test_the_silence_of_a_restart_is_found_again(usual: Store) -> None:
    known = measured(usual.cells())
    for via in POOLERS:
        for each in outages(known, usual, via):
            assert each.errors == (60,) * PAIR
            assert each.gaps_s == pytest.approx((0.121,) * PAIR, abs=0.002)
    assert "envoy 121 ms" in shared_pool.findings(usual.cells(), usual)["sharing_neighbours"]


def test_a_gap_is_each_workers_own() -> None:
    done = [0.0, 0.1, 0.2, 0.9, 1.0]
    frame = pd.DataFrame({"worker": [0, 1, 0, 0, 1], "done_s": done})
    assert gap_s(frame, 0, until_s=1.1) == pytest.approx(0.7)
    assert gap_s(frame, 1, until_s=1.1) == pytest.approx(0.9)
    assert math.isnan(gap_s(frame, 2, until_s=1.1))


def test_a_pooler_that_is_not_back_by_the_end_is_silent_until_then() -> None:
    frame = pd.DataFrame({"worker": 0, "done_s": [0.0, 0.1, 0.2, 1.5]})
    assert gap_s(frame, 0, until_s=1.0) == pytest.approx(0.8)


def test_a_pooler_that_could_not_run_is_named_with_the_reason(tmp_path: Path) -> None:
    lacking = {"experiment": shared_pool.NAME, "what": "via envoy", "why": "not for this system",
               "cells": 5}  # fmt: skip
    store = stored(tmp_path / "lacking", wanted=lambda cell: cell.via != "envoy",
                   manifest={"not_run": [lacking]})  # fmt: skip
    found = claims(store)
    assert found["C7"].outcome == "undecided"
    assert "not run: via envoy (not for this system)" in found["C7"].reason
    assert found["C7c"].outcome == "supported"
    assert list(shared_pool.figures(store.cells(), store)) == FIGURES


def test_what_the_rig_bounds_supports_nothing(usual: Store) -> None:
    store = Changed(usual, usual.cells().assign(bound_by="generator"))
    assert set(outcomes(store).values()) == {"undecided"}


@pytest.mark.parametrize("arm", [EQUAL, BURSTING, RESTART, GLIDE])
def test_part_of_a_run_is_shown_as_far_as_it_goes(tmp_path: Path, arm: str) -> None:
    store = stored(tmp_path / arm, wanted=lambda cell: cell.arm == arm)
    cells = store.cells()
    assert shared_pool.figures(cells, store)
    said = f"{shared_pool.findings(cells, store)} {shared_pool.prose(cells, store)}"
    assert "nan" not in said.lower()
    assert len(shared_pool.tables(cells))


def test_a_smoke_run_is_shown_and_decides_nothing(tmp_path: Path) -> None:
    smoke = stored(tmp_path / "smoke", profile="smoke")
    assert set(outcomes(smoke).values()) == {"undecided"}
    assert list(shared_pool.figures(smoke.cells(), smoke)) == FIGURES


def test_nothing_measured_is_nothing_shown(usual: Store) -> None:
    none = usual.cells().head(0)
    assert shared_pool.figures(none, usual) == shared_pool.findings(none, usual) == {}
    assert shared_pool.prose(none, usual) == {}
    assert shared_pool.tables(none).empty
    store = Changed(usual, none)
    assert set(outcomes(store).values()) == {"undecided"}


def test_each_figures_title_is_its_finding(usual: Store) -> None:
    cells = usual.cells()
    drawn = shared_pool.figures(cells, usual)
    for name, finding in shared_pool.findings(cells, usual).items():
        title = drawn[name].get_suptitle()
        assert title.replace("\n", " ").replace("\u00a0", " ") == finding


def test_no_number_is_typed_into_a_sentence() -> None:
    said = r"_finding|_said|_prose|_judge$"
    defined = r"(?i)C7[bcd]?|\bone\b|latency_p\d+_s|neighbour_p50_s|p99"
    assert typed_numbers(shared_pool, said, defined, ("si",), fewest=7) == []


def test_every_way_and_worker_has_its_row(usual: Store) -> None:
    told = shared_pool.tables(usual.cells())
    rows_ = set(zip(told["part"], told["way"], told["workers"], strict=True))
    assert {(EQUAL, via, k) for via, k in product(WAYS, WORKERS)} <= rows_
    assert (GLIDE, GLIDE, 1) in rows_
