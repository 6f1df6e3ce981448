"""The sizing rule on synthetic runs whose truth is known: what is said must follow the data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import synthetic
from said import typed_numbers

from bench.analysis.nstar import MOST_SHARE, Law
from bench.analysis.queueing import erlang_c, servers_needed
from bench.experiments import sizing_rule
from bench.experiments.sizing_rule import loads, needs, verdicts, words
from bench.load.arrivals import schedule
from bench.load.recorder import IN_FLIGHT, Recorder
from bench.model import Cell, Pod, Profile, Verdict, Workload
from bench.report.verdicts import judge
from bench.store import Store

HOLD_S = 0.3e-3  # what the rig adds to the round trip
SLOPE = 0.4  # of the share's logarithm, per connection

Need = Callable[[float, float], float]  # N* of a rate and a mean in flight
WAIT_SHARES = 0.8  # of those that find the pool empty wait long


def by_load(qps: float, in_flight: float) -> float:
    """Erlang's N*, where the share of those who wait crosses 1 %."""
    size = servers_needed(in_flight, MOST_SHARE)
    below, at = (math.log(erlang_c(each, in_flight)) for each in (size - 1, size))
    return size - 1 + (below - math.log(MOST_SHARE)) / (below - at)


def by_rate(qps: float, in_flight: float) -> float:
    return qps / 50


def by_both(qps: float, in_flight: float) -> float:
    return by_load(qps, in_flight) * (qps / 1000) ** 0.3


def rows(cell: Cell, block: int) -> np.ndarray:
    """The control's requests, as they are offered, each held for the same time."""
    assert cell.offered_qps is not None
    assert cell.arrivals is not None
    due = schedule(cell.arrivals, cell.offered_qps / cell.workers, block).between(0, cell.measure_s)
    return np.column_stack([due, due, due, due + cell.rtt_s + HOLD_S])


def pods(cell: Cell, block: int, need: Need, noise: float) -> tuple[Pod, ...]:
    assert cell.offered_qps is not None
    assert cell.arrivals is not None
    qps, hold_s = cell.offered_qps / cell.workers, cell.rtt_s + HOLD_S
    in_flight = qps * hold_s
    true = need(qps, in_flight * cell.arrivals.peak_to_mean)
    rng = np.random.default_rng([block, *cell.id.encode()])
    requests = round(qps * cell.measure_s)
    made = []
    for worker in range(cell.workers):
        size = cell.pool_size_of(worker)
        share = MOST_SHARE * math.exp(SLOPE * (true - size) + noise * rng.normal())
        empty = min(1.0, round(share * requests) / requests)
        made.append(
            Pod(
                worker=worker,
                pool_size=size,
                scheduled=requests,
                requests=requests,
                qps=qps,
                in_flight_mean=in_flight,
                in_flight_peak=size,
                command_mean_s=hold_s,
                pool_empty_share=empty,
                long_wait_share=WAIT_SHARES * empty,
            )
        )
    return tuple(made)


def store(
    folder: Path,
    profile: Profile = "standard",
    need: Need = by_load,
    noise: float = 0.15,
    replicates: int = 3,
    **changed: Any,
) -> Store:
    """A run of this experiment in a world where N* is `need`; `changed` fields of every cell."""
    made = Store.create(folder, {"settings": {"profile": profile}, "cores_usable": 2})
    made.note_server("redis", "7.0.0")
    plan = sizing_rule.plan(profile, Workload(), 1)
    for block in range(1, replicates + 1):
        for cell in plan.cells + (plan.once if block == 1 else ()):
            made.add(observation(cell, block, need, noise, **changed))
    made.finish("complete")
    return Store.open(folder)


def observation(cell: Cell, block: int, need: Need, noise: float, **changed: Any) -> Any:
    plain = synthetic.observation(cell, block)
    recorder = Recorder(["GET"])
    kept = rows(cell, block)
    recorder.sink("GET")(kept.ravel())
    held = recorder.in_flight(0.0, cell.measure_s)
    fields = {
        "pods": pods(cell, block, need, noise),
        "bound_by": "users",
        "valid": True,
        "invalid_reasons": "",
        "histograms": {**plain.histograms, IN_FLIGHT: held},
        "requests": [kept.tobytes()] if cell.keep_requests else [],
        **changed,
    }
    return dataclasses.replace(plain, **fields)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store(tmp_path_factory.mktemp("rule") / "run")


@pytest.fixture(scope="module")
def cells(quiet: Store) -> pd.DataFrame:
    return quiet.cells()


def verdict(found: list[Verdict], claim: str = "C4") -> Verdict:
    return next(each for each in found if each.claim == claim)


# The plan


@pytest.mark.parametrize("profile", get_args(Profile))
def test_every_load_is_offered_to_its_sizes_and_to_a_control(profile: Profile) -> None:
    plan = sizing_rule.plan(profile, Workload(), 1)
    through = [cell for cell in plan.cells if cell.arm != "server"]
    assert len(set(plan.cells + plan.once)) == len(plan.cells) + len(plan.once)
    for load in loads.LOADS[profile]:
        own = [cell for cell in through
               if cell.offered_qps == load.qps * cell.workers and cell.rtt_s == load.rtt_s
               and cell.arrivals == load.arrivals]  # fmt: skip
        sizes = [cell.pool_size_of(worker) for cell in own for worker in range(cell.workers)]
        steps = {max(1, load.planned + step) for step in loads.STEPS[profile]}
        (control,) = [cell.pool_size for cell in own if cell.keep_requests]
        assert set(sizes) == steps | {control}
        assert control >= 4 * load.in_flight
        assert all(cell.quiet and cell.opening == "prefilled" for cell in own)


def test_the_standard_grid_is_the_one_that_was_asked_for() -> None:
    steady = {(load.qps, load.rtt_s) for load in loads.LOADS["standard"] if load.peak_to_mean == 1}
    assert steady >= {(500, 0.02), (1000, 0.01), (2000, 0.005)}
    assert steady >= {(1000, 0.002), (1000, 0.005), (1000, 0.02), (1000, 0.04)}
    assert any(load.peak_to_mean > 1 for load in loads.LOADS["standard"])
    assert loads.STEPS["standard"] == (-4, -2, 0, 2, 4)
    plan = sizing_rule.plan("standard", Workload(), 1)
    assert plan.replicates >= 3
    for cell in plan.cells:
        assert cell.offered_qps is not None
        arrivals = cell.offered_qps / cell.workers * cell.measure_s
        assert arrivals > 2500 + 2 * math.sqrt(2500)  # chance does not undercut it
    assert {cell.rtt_s for cell in plan.once} == {0.0}
    assert all(cell.workload.script_loops for cell in plan.once)


def test_carriers_outnumber_each_pods_connections() -> None:
    for cell in sizing_rule.plan("standard", Workload(), 1).cells:
        assert cell.concurrency // cell.workers > cell.pool_size


# What is found


def test_n_star_of_every_load_and_block_is_found(cells: pd.DataFrame) -> None:
    found = needs.needs(cells)
    assert len(found) == 3 * len(loads.LOADS["standard"])
    for each in found:
        true = by_load(each.qps, each.in_flight * each.load.peak_to_mean)
        assert each.empty.connections == pytest.approx(true, abs=1.2)
        assert each.long.connections < each.empty.connections
        assert each.in_flight == pytest.approx(each.load.qps * (each.load.rtt_s + HOLD_S), rel=1e-6)


def test_the_claim_is_supported_where_the_pool_follows_what_is_in_flight(
    quiet: Store, cells: pd.DataFrame
) -> None:
    found = verdict(sizing_rule.claims(cells, quiet))
    assert found.outcome == "supported"
    rate = found.estimates["exponent of the rate, at most 1% find the pool empty"]
    assert -0.1 < rate.low < 0 < rate.high < 0.1
    assert set(found.cells) <= set(cells["cell"])


@pytest.mark.parametrize("need", [by_rate, by_both])
def test_the_claim_is_refuted_where_it_follows_the_rate(need: Need, tmp_path: Path) -> None:
    made = store(tmp_path / "run", need=need)
    if need is by_rate:  # the sizes measured do not hold every N*, as they would in no such world
        by = {"empty": Law(*_known(0.0), *_known(1.0))}
        found = sizing_rule.verdicts.rule_outcome(made.cells(), needs.needs(made.cells()), by, [])
        assert found[0] == "refuted"
        return
    assert verdict(sizing_rule.claims(made.cells(), made)).outcome == "refuted"


def _known(value: float) -> tuple[Any, ...]:
    from bench.model import Estimate

    return (Estimate(value, value - 0.05, value + 0.05, "", 21),)


def test_a_rule_by_rate_that_predicts_better_refutes_it(quiet: Store, cells: pd.DataFrame) -> None:
    told = needs.answers(cells, quiet)
    by = needs.laws(needs.needs(cells))
    rivals = [needs.Rule(needs.PER_QPS, (1.0, 1.01)), needs.Rule(needs.ERLANG, (1.2, 1.3))]
    outcome, reason = sizing_rule.verdicts.rule_outcome(cells, needs.needs(cells), by, rivals)
    assert (outcome, "QPS predicts better" in reason) == ("refuted", True)
    fair = needs.rules(told, 2)
    assert sizing_rule.verdicts.rule_outcome(cells, needs.needs(cells), by, fair)[0] == "supported"


def test_scatter_leaves_it_undecided(tmp_path: Path) -> None:
    made = store(tmp_path / "run", noise=2.5)
    found = verdict(sizing_rule.claims(made.cells(), made))
    assert found.outcome == "undecided"
    assert "rate^" in found.reason


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"valid": False, "invalid_reasons": "cores: a core was 90% busy"}, "none of"),
        ({"bound_by": "machine"}, "the rig bounds"),
    ],
)
def test_what_is_no_evidence_decides_nothing(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    made = store(tmp_path / "run", **changed)
    found = sizing_rule.claims(made.cells(), made)
    assert {each.outcome for each in found} == {"undecided"}
    assert said in verdict(found).reason


def test_one_replicate_decides_nothing(tmp_path: Path) -> None:
    made = store(tmp_path / "run", replicates=1)
    found = verdict(sizing_rule.claims(made.cells(), made))
    assert found.outcome == "undecided"
    assert "1 replicate, 3 needed" in found.reason
    smoke = store(tmp_path / "smoke", "smoke", replicates=1)
    assert {each.outcome for each in judge(smoke, [sizing_rule.NAME])} == {"undecided"}


def test_a_pool_that_does_not_serve_what_is_offered_is_too_small(cells: pd.DataFrame) -> None:
    starved = cells.copy()
    starved["pods"] = [
        [{**pod, "requests": round(0.99 * pod["requests"]), "pool_empty_share": 0.001}
         for pod in pods_] for pods_ in starved["pods"]
    ]  # fmt: skip
    assert {each.empty.beyond for each in needs.needs(starved)} == {"above"}


def test_predictions_that_are_off_are_counted(quiet: Store, cells: pd.DataFrame) -> None:
    assert verdict(sizing_rule.claims(cells, quiet), "C4p").outcome == "supported"
    more = cells.copy()  # the same shares at pools of four connections more
    more["pods"] = [
        [{**pod, "pool_size": pod["pool_size"] + 4 * (pod["pool_size"] != largest)}
         for pod in pods_] for pods_, largest in zip(more["pods"], more["pool_size"], strict=True)
    ]  # fmt: skip
    found = verdict(sizing_rule.claims(more, quiet), "C4p")
    assert found.outcome == "refuted"


def test_rivals_are_judged_by_how_far_off_they_are(quiet: Store, cells: pd.DataFrame) -> None:
    told = needs.answers(cells, quiet)
    off = {rule.name: rule.typical for rule in needs.rules(told, 2)}
    assert off[needs.ERLANG] < 1.1 < off["2 × L"] < off[needs.PER_QPS]
    assert off[needs.SIMULATED] < 1.15
    twice = {rule.name: rule.typical for rule in needs.rules(told, 4)}
    assert twice["10 × 4 cores"] > off["10 × 2 cores"]


def test_only_the_last_attempt_counts(quiet: Store, cells: pd.DataFrame) -> None:
    again = cells.assign(attempt=2, valid=False, invalid_reasons="cores: a core was 90% busy")
    assert not needs.needs(pd.concat([cells, again], ignore_index=True))


# What is said and drawn


def test_titles_follow_the_data(quiet: Store, cells: pd.DataFrame, tmp_path: Path) -> None:
    said = sizing_rule.findings(cells, quiet)
    assert said["sizing_rule"].startswith("The pool follows what is in flight, not the rate")
    assert "from 500/s to 2 k/s" in said["sizing_rule"]
    both = store(tmp_path / "run", need=by_both)
    assert sizing_rule.findings(both.cells(), both)["sizing_rule"].startswith(
        "The pool follows the rate as well"
    )


KINDS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "all": lambda cells: cells,
    "one block": lambda cells: cells[cells["block"] == 1],
    "no bursts": lambda cells: cells[cells["arm"] != "bursty"],
    "no server": lambda cells: cells[cells["arm"] != "server"],
    "only server": lambda cells: cells[cells["arm"] == "server"],
    "one load": lambda cells: cells[cells["rtt_s"] == 0.040],
    "all invalid": lambda cells: cells.assign(valid=False, invalid_reasons="cores: busy"),
    "all bound": lambda cells: cells.assign(bound_by="machine"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_figures_titles_and_prose_belong_together_whatever_the_data(
    kind: str, quiet: Store, cells: pd.DataFrame
) -> None:
    some = KINDS[kind](cells)
    titles = sizing_rule.findings(some, quiet)
    drawn = sizing_rule.figures(some, quiet)
    told = sizing_rule.prose(some, quiet)
    assert set(titles) == set(drawn) == set(told)
    for name, figure in drawn.items():
        assert (
            figure.get_suptitle().replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")
            == titles[name]
        )
        figure.canvas.draw()
    everything = " ".join([*titles.values(), *told.values()])
    assert "nan" not in everything
    assert kind in ("only server", "all invalid", "all bound") or "sizing_rule" in titles


@pytest.mark.parametrize(("module", "fewest"), [(words, 17), (verdicts, 4)])
def test_no_number_is_typed_into_a_sentence(module: Any, fewest: int) -> None:
    defined = r"above 0|0\.00|\bC4p?\b|\b99 %|\b95 %|Palm, 1943|\b2 × L\b|\b4 L\b|\bp(?:50|99)\b"
    functions = r"_finding$|_prose$|_said$|^_at_|^_in_short|judge|outcome$|^said_|^power$"
    assert not typed_numbers(module, functions, defined, ("si",), fewest=fewest)


def test_tables_hold_a_row_per_size(cells: pd.DataFrame, quiet: Store) -> None:
    rows_ = sizing_rule.tables(cells)
    assert (rows_["pods"] == 3).all()
    assert rows_["W ms"].between(rows_["RTT ms"], rows_["RTT ms"] + 2).all()
    assert rows_["empty %"].max() > 1
    told = sizing_rule.answer_table(needs.answers(cells, quiet))
    assert len(told) == len(loads.LOADS["standard"])
    assert sizing_rule.tables(cells.assign(valid=False)).empty
