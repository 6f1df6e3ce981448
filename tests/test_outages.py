"""What is said of stuck calls and reconnect storms, by outages whose truth is known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import asleep
import numpy as np
import pandas as pd
import pytest
from said import Changed, typed_numbers

from bench.experiments import reconnect_storm, stuck_call
from bench.experiments.reconnect_storm import rates_of, recovery_s
from bench.experiments.stuck_call import (
    ACQUIRE,
    ENOUGH,
    FAULT_S,
    FEW,
    NONE,
    POOL,
    RATE_QPS,
    held_threads,
    measured,
    predicted_share,
)
from bench.model import OUTCOMES, Cell, Observation, Profile, Verdict, Workload
from bench.store import Store

NO_THREAD, REFUSED = OUTCOMES.index("no thread"), OUTCOMES.index("refused")


@dataclasses.dataclass(frozen=True)
class Truth:
    """The share of requests without Redis that are served during the outage: with an acquire
    timeout, and without. How long a storm lasts after the fault, and its connections a second."""

    saved: float = 1.0
    starved: float = 0.25
    storm_s: float = 0.2
    connects_qps: float = 3_000.0


def observation(cell: Cell, block: int, truth: Truth) -> Observation:
    assert cell.outage is not None
    began = 1.0 + cell.outage.begins_s
    ended = began + cell.outage.fault_s
    at = np.linspace(1.0, 1.0 + cell.measure_s, 1_200, endpoint=False)
    calls = stuck(cell, at, (began, ended), truth) if cell.experiment == "stuck_call" else storm(
        cell, at, (began, ended), truth
    )  # fmt: skip
    met = asleep.burst(cell, 0, fault_began_s=began, fault_ended_s=ended)
    series = [
        {"source": "probes", "at_s": t, "server_cpu_s": t / 10, "server_connections": 40.0,
         "server_connects": truth.connects_qps * max(0.0, t - ended)}
        for t in np.arange(0.9, 3.0, 0.1)
    ]  # fmt: skip
    return asleep.observation(cell, [met], block, requests=[calls], series=series)


def stuck(cell: Cell, at: Any, outage: tuple[float, float], truth: Truth) -> bytes:
    share = truth.saved if cell.arm.startswith((ACQUIRE, "both")) else truth.starved
    during = (at >= outage[0]) & (at < outage[1])
    other = np.arange(len(at)) % 2
    rank = np.cumsum(during & (other == 1)) / max(1, (during & (other == 1)).sum())
    lost = during & np.where(other == 1, rank > share, True)
    return asleep.rows(at, at + 0.001, np.where(lost, NO_THREAD, asleep.OK), other)


def storm(cell: Cell, at: Any, fault: tuple[float, float], truth: Truth) -> bytes:
    during = (at >= fault[0]) & (at < fault[1])
    late = during | ((at >= fault[1]) & (at < fault[1] + truth.storm_s))
    lost = during & (cell.backoff_s == 0)
    return asleep.rows(at, at + np.where(late, 0.3, 0.001), np.where(lost, REFUSED, asleep.OK))


def stored(folder: Path, module: ModuleType, truth: Truth = Truth(),
           profile: Profile = "standard", wanted: Any = lambda cell: True) -> Store:  # fmt: skip
    made = Store.create(folder, {"settings": {"profile": profile}, "python": "3.11.0"})
    made.note_server("redis", "7.0.0")
    for block, cells in enumerate(module.plan(profile, Workload(), 1).blocks, 1):
        for cell in filter(wanted, cells):
            made.add(observation(cell, block, truth))
    made.finish("complete")
    return Store.open(folder)


MODULES = {"stuck_call": stuck_call, "reconnect_storm": reconnect_storm}


@pytest.fixture(scope="module", params=list(MODULES))
def usual(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    module = MODULES[request.param]
    return module, stored(tmp_path_factory.mktemp(request.param) / "usual", module)


def c8(store: Any) -> Verdict:
    (verdict,) = stuck_call.claims(store.cells(), store)
    return verdict


# Stuck calls


def test_stuck_calls_hold_connections_and_what_arrives_in_a_time_out() -> None:
    calls_qps = RATE_QPS * (1 - stuck_call.OTHER_SHARE)
    assert held_threads(ACQUIRE) == pytest.approx(POOL + calls_qps * stuck_call.ACQUIRE_S)
    assert held_threads(NONE) == pytest.approx(POOL + calls_qps * FAULT_S)
    assert held_threads("max waiting") == POOL + stuck_call.MAX_WAITING
    assert FEW < held_threads(ACQUIRE) < ENOUGH < held_threads(NONE)


def test_the_predicted_share_rises_with_the_threads_up_to_all() -> None:
    for policy in (NONE, ACQUIRE):
        told = [predicted_share(policy, threads) for threads in range(POOL + 1, 1_000, 5)]
        assert told == sorted(told)
        assert 0 < told[0] < 0.5
        assert told[-1] == 1.0
    assert predicted_share(ACQUIRE, ENOUGH) == 1.0
    assert predicted_share(NONE, ENOUGH) < 0.5


@pytest.mark.parametrize(
    ("truth", "outcome"),
    [
        (Truth(), "supported"),
        (Truth(saved=0.7), "refuted"),
        (Truth(starved=0.8), "refuted"),
    ],
)
def test_c8_follows_what_was_served(tmp_path: Path, truth: Truth, outcome: str) -> None:
    judged = {f"{policy}, SIGSTOP" for policy in (NONE, ACQUIRE)}
    store = stored(tmp_path / "run", stuck_call, truth, wanted=lambda c: c.arm in judged)
    assert c8(store).outcome == outcome


def test_what_was_seen_of_an_outage(tmp_path: Path) -> None:
    store = stored(tmp_path / "run", stuck_call, profile="smoke")
    known = measured(store.cells(), store).set_index(["policy", "threads"])
    assert known.loc[(ACQUIRE, ENOUGH), "others_share"] == 1.0
    assert math.isnan(known.loc[(ACQUIRE, ENOUGH), "collapse_s"])
    starved = known.loc[(NONE, ENOUGH)]
    assert starved["others_share"] == pytest.approx(0.25, abs=0.01)
    assert starved["collapse_s"] == pytest.approx(0.25 * FAULT_S, abs=stuck_call.BUCKET_S)
    assert starved["recovery_s"] == 0.0
    assert starved["others_lost"] == pytest.approx(0.75 * starved["calls_lost"], abs=2)


def test_one_replicate_decides_nothing(tmp_path: Path) -> None:
    store = stored(tmp_path / "run", stuck_call, profile="smoke")
    assert c8(store).outcome == "undecided"
    assert "replicate" in c8(store).reason


# Storms


def test_the_recovery_is_counted_from_the_faults_end() -> None:
    at = np.arange(-0.3, 1.0, 0.001)
    slow = (at >= 0) & (at < 0.25 + 0.2)
    requests = pd.DataFrame({"at_s": at, "latency_s": np.where(slow, 0.3, 0.001),
                             "answered": True})  # fmt: skip
    assert recovery_s(requests, 0.25) == pytest.approx(0.2)
    assert recovery_s(requests.assign(latency_s=0.001), 0.25) == 0.0
    late = requests["latency_s"].where(~np.isclose(at, 0.7, atol=0.01), 0.1)
    assert recovery_s(requests.assign(latency_s=late), 0.25) == pytest.approx(0.2)  # a blip
    caught = requests["latency_s"].where(~np.isclose(at, -0.01, atol=0.01), 0.3)
    assert recovery_s(requests.assign(latency_s=caught), 0.25) == pytest.approx(0.2)
    assert math.isnan(recovery_s(requests.assign(answered=at < 0), 0.25))


def test_a_server_that_was_started_anew_counts_from_nothing() -> None:
    series = pd.DataFrame({"at_s": [0.0, 0.1, 0.2], "server_connects": [900.0, 1_000.0, 50.0],
                           "server_cpu_s": [1.0, 1.01, 0.005]})  # fmt: skip
    rates = rates_of(series, started_s=0.15)  # in the middle of the last step
    assert list(rates["connects_qps"].round()) == [1_000, 1_000]
    assert list(rates["busy"].round(3)) == [0.1, 0.1]


# Both


def test_each_figures_title_is_its_finding(usual: Any) -> None:
    module, store = usual
    cells = store.cells()
    drawn, told = module.figures(cells, store), module.findings(cells, store)
    assert list(drawn) == list(told) == list(module.prose(cells, store))
    assert len(drawn) == 2
    for name, finding in told.items():
        title = drawn[name].get_suptitle().replace("\n", " ").replace("\u00a0", " ")
        assert title == finding
    assert "nan" not in f"{told} {module.prose(cells, store)}".lower()
    assert len(module.tables(cells))


def test_nothing_measured_is_nothing_shown(usual: Any) -> None:
    module, store = usual
    none = store.cells().head(0)
    assert module.figures(none, store) == module.findings(none, store) == {}
    assert module.prose(none, store) == {}
    assert module.tables(none).empty
    assert all(v.outcome == "undecided" for v in module.claims(none, Changed(store, none)))


def test_invalid_cells_support_nothing(usual: Any) -> None:
    module, store = usual
    cells = store.cells().assign(valid=False)
    assert module.figures(cells, store) == {}
    assert all(v.outcome == "undecided" for v in module.claims(cells, Changed(store, cells)))


def test_no_number_is_typed_into_a_sentence(usual: Any) -> None:
    module, _ = usual
    assert typed_numbers(module, r"_finding|_prose$|_told$", r"(?i)\bone\b|p99", ("si",),
                         fewest=5) == []  # fmt: skip
