"""What is said of pipelines and of dividing a rate, by costs whose truth is known."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import synthetic
from said import Changed, typed_numbers

from bench.experiments import pipelining
from bench.experiments.pipelining import (
    LIFETIME_S,
    PAID,
    RATE_QPS,
    SPLITS,
    measured,
    pays_back_s,
    setup_cpu_s,
)
from bench.model import Cell, Profile, Verdict, Workload
from bench.store import Store

FIGURES = ["pipeline_depth", "pipeline_split"]


@dataclasses.dataclass(frozen=True)
class Truth:
    """µs of CPU: of the server per wake-up and per command; of a connection opened; per command
    and further connection, steady. `noise`: of each replicate, a factor."""

    wake_us: float = 10.0
    each_us: float = 0.5
    setup_us: float = 1_000.0
    more_us: float = 0.0
    noise: float = 0.01
    rate_of_one: float = 500_000.0


def stored(folder: Path, truth: Truth = Truth(), profile: Profile = "standard") -> Store:
    made = Store.create(folder, {"settings": {"profile": profile}, "python": "3.11.0"})
    plan = pipelining.plan(profile, Workload(), 1)
    rng = np.random.default_rng(5)
    for block, cells in enumerate(plan.blocks, 1):
        for cell in cells:
            made.add(observation(cell, block, truth, float(rng.normal(1, truth.noise))))
    made.finish("complete")
    return Store.open(folder)


def observation(cell: Cell, block: int, truth: Truth, noise: float) -> Any:
    usual = synthetic.observation(cell, block)
    if cell.loop == "closed":
        depth = cell.workload.depth
        server = truth.wake_us / depth + truth.each_us
        qps = min(truth.rate_of_one, 1e6 / server) / depth
        return dataclasses.replace(usual, qps=qps, server_cpu_us_per_op=server * noise,
                                   client_cpu_us_per_op=server * noise, bound_by="users",
                                   connections_opened=cell.pool_size)  # fmt: skip
    loaded_s = cell.warmup_s + cell.measure_s
    opened = cell.pool_size / cell.max_lifetime_s * loaded_s if cell.max_lifetime_s else 0.0
    setup_us = truth.setup_us * opened / (RATE_QPS * loaded_s)
    both = 100.0 + truth.more_us * (cell.pool_size - 1) + setup_us
    return dataclasses.replace(
        usual, qps=RATE_QPS, client_cpu_us_per_op=0.8 * both * noise, measured_s=cell.measure_s,
        server_cpu_us_per_op=0.2 * both * noise, bound_by="users",
        connections_opened=cell.pool_size + round(opened), valid=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("pipe") / "usual")


def claims(store: Any) -> dict[str, Verdict]:
    return {each.claim: each for each in pipelining.claims(store.cells(), store)}


@pytest.mark.parametrize("profile", get_args(Profile))
def test_the_plan_holds_both_ways_to_send_a_hundred_commands(profile: Profile) -> None:
    plan = pipelining.plan(profile, Workload(), 4)
    cells = (*plan.cells, *plan.apart)
    found = {(c.pool_size, c.workload.depth) for c in cells if c.loop == "closed"}
    assert {(1, 1), (1, 100), (10, 10)} <= found
    for n, lifetime_s in product(SPLITS, (None, LIFETIME_S)):
        own = [c for c in cells if c.loop == "open"
               and (c.pool_size, c.max_lifetime_s) == (n, lifetime_s)]  # fmt: skip
        assert own
        assert all(c.order == "fifo" and c.offered_qps == RATE_QPS for c in own)
    assert len(cells) == len(set(cells))


def test_one_connection_that_carries_enough_at_no_more_cost_is_supported(usual: Store) -> None:
    verdict = claims(usual)["C1"]
    assert verdict.outcome == "supported"
    assert verdict.estimates["commands per second"].value == pytest.approx(500_000, rel=0.01)
    ratio = verdict.estimates["server CPU, one ÷ ten"].value
    assert ratio == pytest.approx((0.1 + 0.5) / (1 + 0.5), rel=0.05)


def test_too_slow_a_pipeline_is_refuted(tmp_path: Path) -> None:
    slow = stored(tmp_path / "slow", Truth(rate_of_one=9_000.0))
    assert claims(slow)["C1"].outcome == "refuted"


def test_a_dearer_pipeline_is_refuted(usual: Store) -> None:
    cells = usual.cells()
    dearer = cells["server_cpu_us_per_op"].where(cells["depth"] != 100, 9.0)
    store = Changed(usual, cells.assign(server_cpu_us_per_op=dearer))
    assert claims(store)["C1"].outcome == "refuted"


def test_equal_costs_are_shown_to_be_equal(usual: Store) -> None:
    assert claims(usual)["C2"].outcome == "refuted"


def test_a_true_difference_is_called(tmp_path: Path) -> None:
    """Ten per cent for each further connection."""
    found = claims(stored(tmp_path / "more", Truth(more_us=10.0)))["C2"]
    assert found.outcome == "supported"
    assert found.estimates["2 ÷ 1"].value == pytest.approx(1.1, rel=0.03)


def test_noise_leaves_it_open_and_says_how_much_is_possible(tmp_path: Path) -> None:
    found = claims(stored(tmp_path / "noisy", Truth(noise=0.2)))["C2"]
    assert found.outcome == "undecided"
    assert "a difference of up to" in found.reason


def test_what_opening_costs_is_found_again(usual: Store, tmp_path: Path) -> None:
    dear = stored(tmp_path / "dear", Truth(setup_us=2_000.0, noise=0.001))
    known = measured(dear.cells())
    for n in SPLITS:
        assert setup_cpu_s(known, n).value == pytest.approx(2e-3, rel=0.15)
    # One of ten has a tenth of the work to pay with.
    assert pays_back_s(known, 10) == pytest.approx(2e-3 / (PAID * 100e-6 * RATE_QPS / 10), rel=0.2)
    assert claims(dear)["C2b"].outcome == "supported"
    assert "paid back at a lifetime of" in claims(dear)["C2b"].reason


def test_openings_that_cost_nothing_refute(tmp_path: Path) -> None:
    free = stored(tmp_path / "free", Truth(setup_us=0.0))
    assert claims(free)["C2b"].outcome == "refuted"


def test_an_invalid_cell_is_no_evidence(usual: Store) -> None:
    store = Changed(usual, usual.cells().assign(valid=False))
    assert {verdict.outcome for verdict in claims(store).values()} == {"undecided"}


def test_a_full_core_still_tells_its_cost(usual: Store) -> None:
    store = Changed(usual, usual.cells().assign(bound_by="generator"))
    assert claims(store)["C1"].outcome == "supported"
    assert "bound by generator" in claims(store)["C1"].reason


def test_a_smoke_run_decides_nothing_and_is_shown(tmp_path: Path) -> None:
    smoke = stored(tmp_path / "smoke", profile="smoke")
    assert {verdict.outcome for verdict in claims(smoke).values()} == {"undecided"}
    assert list(pipelining.figures(smoke.cells(), smoke)) == FIGURES


def test_nothing_measured_is_nothing_shown(usual: Store) -> None:
    none = usual.cells().head(0)
    assert pipelining.figures(none, usual) == pipelining.findings(none, usual) == {}
    assert pipelining.tables(none).empty
    assert {each.outcome for each in pipelining.claims(none, usual)} == {"undecided"}


@pytest.mark.parametrize("loop", ["closed", "open"])
def test_half_a_run_is_shown_as_far_as_it_goes(usual: Store, loop: str) -> None:
    cells = usual.cells()
    store: Any = Changed(usual, cells[cells["loop"] == loop])
    drawn = pipelining.figures(store.cells(), store)
    assert list(drawn) == [FIGURES[loop == "open"]]
    said = str(pipelining.findings(store.cells(), store)) + str(
        pipelining.prose(store.cells(), store)
    )
    assert "nan" not in said.lower()
    assert len(pipelining.tables(store.cells()))


def test_each_figures_title_is_its_finding(usual: Store) -> None:
    cells = usual.cells()
    drawn = pipelining.figures(cells, usual)
    for name, finding in pipelining.findings(cells, usual).items():
        title = drawn[name].get_suptitle()
        assert title.replace("\n", " ").replace("\u00a0", " ") == finding


def test_no_number_is_typed_into_a_sentence() -> None:
    """“One” is the connection that all are set beside."""
    said = r"_finding|_said|_prose|_told|_c1$|_c2$|_cpu_compared|_depth_latency"
    defined = r"(?i)C2b|C2|C1|one|ten|÷ 1|latency_p50_s"
    assert typed_numbers(pipelining, said, defined, ("si",), fewest=8) == []
