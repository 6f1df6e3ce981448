"""What a run says of the reference case: each claim by its rule, and no sentence beyond the data.

Cells are synthetic, so that the truth is known: a machine without stalls, on which pools behave as
queueing theory says, and 5,000 connections cost nothing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.figure import Figure
from matplotlib.text import Text
from said import Changed, typed_numbers

from bench.analysis.queueing import erlang_c
from bench.experiments import reference_case as case
from bench.figures.style import CROSS
from bench.load.recorder import new_histogram
from bench.model import Cell, Estimate, Observation, Percentiles, Profile, Verdict, Workload
from bench.report.verdicts import judge
from bench.store import Store

PROFILES = get_args(Profile)
FIGURES = ["reference_wait", "reference_in_flight", "reference_cost", "reference_knee"]
CLAIMS = ("C5a", "C5b", "C5c", "C5d", "C6a", "C6b", "C6c")
NOISE = (1.0, 1.004, 0.997, 1.002, 0.999, 1.003)  # by block
CARRIED_QPS = 30_000.0  # by the rig
Change = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass(frozen=True)
class Truth:
    """What the machine is like; as it stands, every claim that theory allows is true."""

    hold_s: float = 1e-3
    spread: float = 1.0  # of the number in flight around its mean, as a factor of Poisson's
    lazy: int = 4_999  # connections that a lazy pool opens: as many as one that is not lazy
    factors: dict[str, float] = field(default_factory=dict)  # of the large pool's figures


def observation(cell: Cell, block: int, truth: Truth) -> Observation:
    """As theory has it, but for noise."""
    noise = NOISE[(block + cell.pool_size + len(cell.order + cell.opening)) % len(NOISE)]
    usual = synthetic.observation(dataclasses.replace(cell, measure_s=0.1), block)
    known = _closed(cell, truth, noise) if cell.loop == "closed" else _opened(cell, truth, noise)
    for column, factor in truth.factors.items():
        if cell.pool_size == case.LARGE and column in known:
            known[column] = _longer(known[column], factor)
    opened = min(cell.pool_size, truth.lazy) if cell.opening == "lazy" else cell.pool_size
    return dataclasses.replace(
        usual, cell=cell, client_fds_peak=opened + 12, server_fds_peak=opened + 8,
        link_fds_peak=2 * opened + 7, server_client_memory_bytes=9_000 * opened,
        client_cpu_us_per_op=_longer(20.0 * noise, _of(truth, cell, "client_cpu_us_per_op")),
        server_cpu_us_per_op=_longer(10.0 / noise, _of(truth, cell, "server_cpu_us_per_op")),
        core_busy_max=0.55, measured_s=cell.measure_s, unloaded_s=truth.hold_s, gates=(),
        server_cpu_s=0.1, **known,
    )  # fmt: skip


def _of(truth: Truth, cell: Cell, column: str) -> float:
    return truth.factors.get(column, 1.0) if cell.pool_size == case.LARGE else 1.0


def _longer(value: Any, factor: float) -> Any:
    if isinstance(value, Percentiles):
        return Percentiles(*(part and part * factor for part in dataclasses.astuple(value)))
    return value * factor


def _closed(cell: Cell, truth: Truth, noise: float) -> dict[str, Any]:
    wanted = cell.concurrency / truth.hold_s
    qps = min(wanted, CARRIED_QPS) * noise
    return {
        "qps": qps, "command_mean_s": cell.concurrency / qps, "in_flight_mean": cell.concurrency,
        "latency": Percentiles(truth.hold_s, 1.1 * truth.hold_s, 1.2e-3 * noise, 2e-3),
        "bound_by": "machine" if wanted > CARRIED_QPS else "users",
    }  # fmt: skip


def _opened(cell: Cell, truth: Truth, noise: float) -> dict[str, Any]:
    assert cell.arrivals is not None
    assert cell.offered_qps is not None
    mean = cell.offered_qps * truth.hold_s * noise
    short = erlang_c(cell.pool_size, mean * cell.arrivals.peak_to_mean)
    wait_s = 1e-3 if short > 0.01 else 5e-6
    waits = Percentiles(1e-6, 2e-6, wait_s * noise, 2 * wait_s)
    return {
        "in_flight_mean": min(mean, cell.pool_size), "command_mean_s": truth.hold_s * noise,
        "pool_empty_share": short, "pool_empty_calm_share": short,
        "acquire": waits, "acquire_calm": waits,
        "bound_by": "pool" if mean >= cell.pool_size else "users",
        "served_share": 1.0, "scheduled": round(cell.offered_qps * cell.measure_s),
        "histograms": {"in_flight": _held(mean, truth.spread)},
    }  # fmt: skip


def _held(mean: float, spread: float) -> bytes:
    """A second's time at each number of connections: Poisson, or wider or narrower."""
    histogram = new_histogram()
    drawn = np.random.default_rng(1).poisson(mean, 20_000)
    numbers, counts = np.unique(np.rint(mean + spread * (drawn - mean)), return_counts=True)
    for number, count in zip(numbers, counts, strict=True):
        histogram.record_value(int(max(number, 0)), 50 * int(count))
    return bytes(histogram.encode())


def stored(
    folder: Path,
    truth: Truth = Truth(),
    profile: Profile = "standard",
    wanted: Callable[[Cell], bool] = lambda cell: True,
) -> Store:
    """A whole run, or of the cells wanted."""
    made = Store.create(folder, {"settings": {"profile": profile}, "python": "3.11.0"})
    plan = case.plan(profile, Workload(), 1)
    for block, planned in enumerate(plan.blocks, 1):
        for cell in planned:
            if wanted(cell):
                made.add(observation(cell, block, truth))
    made.finish("complete")
    return Store.open(folder)


@pytest.fixture(scope="module")
def ideal(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("run") / "ideal")


@pytest.fixture(scope="module")
def cells(ideal: Store) -> pd.DataFrame:
    return ideal.cells()


def claims(store: Any) -> dict[str, Verdict]:
    return {verdict.claim: verdict for verdict in case.claims(store.cells(), store)}


# Which cells a change is about


def pool(size: int, arrivals: str = "poisson", order: str = "lifo", opening: str = "prefilled"
         ) -> Callable[[pd.DataFrame], pd.Series]:  # fmt: skip
    def chosen(cells: pd.DataFrame) -> pd.Series:
        own = (cells["pool_size"] == size) & (cells["arrivals"] == arrivals)
        return own & (cells["order"] == order) & (cells["opening"] == opening)

    return chosen


def in_closed_loop(cells: pd.DataFrame) -> pd.Series:
    return cells["loop"] == "closed"


CONTROL, COVERS, BURSTS = pool(case.CONTROL), pool(case.COVERS), pool(case.COVERS, "bursty")


def setting(chosen: Callable[[pd.DataFrame], pd.Series], blocks: int = 99, **values: Any) -> Change:
    """These figures instead, in the first so many blocks."""

    def change(cells: pd.DataFrame) -> pd.DataFrame:
        changed = cells.copy()
        own = chosen(changed) & (changed["block"] <= blocks)
        for column, value in values.items():
            changed.loc[own, column] = value
        return changed

    return change


def scattered(chosen: Callable[[pd.DataFrame], pd.Series], column: str, by: float) -> Change:
    """A figure that differs by so large a factor from block to block."""

    def change(cells: pd.DataFrame) -> pd.DataFrame:
        changed, own = cells.copy(), chosen(cells)
        changed[column] = changed[column].astype(float)
        signs = np.where(changed.loc[own, "block"] % 2, 1.0, -1.0)
        changed.loc[own, column] *= by**signs
        return changed

    return change


def without(chosen: Callable[[pd.DataFrame], pd.Series]) -> Change:
    return lambda cells: cells[~chosen(cells)]


def invalid(chosen: Callable[[pd.DataFrame], pd.Series], blocks: int = 99) -> Change:
    return setting(chosen, blocks, valid=False, invalid_reasons="settled: never")


def bound(chosen: Callable[[pd.DataFrame], pd.Series], blocks: int = 99) -> Change:
    return setting(chosen, blocks, bound_by="machine")


def every(cells: pd.DataFrame) -> pd.Series:
    return cells["pool_size"] > 0


def first_blocks(count: int) -> Change:
    return lambda cells: cells[cells["block"] <= count]


# Plan


@pytest.mark.parametrize("profile", PROFILES)
def test_the_plan_names_each_cell_once_and_is_of_one_pool(profile: Profile) -> None:
    made = case.plan(profile, Workload(), workers=3)
    planned = [*made.cells, *made.once, *made.apart]
    assert len({cell.id for cell in planned}) == len(planned)
    assert {cell.workers for cell in planned} == {1}
    assert {cell.offered_qps for cell in planned} == {None, 10_000.0}
    assert made.replicates >= (1 if profile == "smoke" else 5)


@pytest.mark.parametrize("profile", ["standard", "full"])
def test_every_pool_of_the_issue_is_measured(profile: Profile) -> None:
    made = case.plan(profile, Workload(), 1)
    planned = [cell for cell in (*made.cells, *made.once) if cell.loop == "open"]
    sizes = {cell.pool_size for cell in planned if (cell.opening, cell.order) == case.LIFO}
    assert sizes == {5, 8, 10, 12, 15, 20, 50, 500, 5_000}
    variants = {(cell.opening, cell.order) for cell in planned if cell.pool_size == 5_000}
    assert variants == {("prefilled", "lifo"), ("prefilled", "fifo"), ("lazy", "lifo")}
    assert {cell.arrivals.process for cell in planned if cell.arrivals} == {"poisson", "bursty"}


def test_what_a_verdict_rests_on_is_in_every_block() -> None:
    made = case.plan("standard", Workload(), 1)
    of = {(c.loop, c.pool_size, c.opening, c.order) for c in made.cells}
    for loop in ("open", "closed"):
        for size, variant in ((20, case.LIFO), (5_000, case.FIFO), (5_000, case.LAZY)):
            assert (loop, size, *variant) in of
    assert ("open", 50, *case.LIFO) in of
    assert made.replicates >= 5
    full = case.plan("full", Workload(), 1)
    assert not full.once
    assert len(full.cells) > len(made.cells) + len(made.once)


@pytest.mark.parametrize("profile", ["standard", "full"])
def test_turns_pair_two_pools_that_stay_open_on_sides_of_their_own(profile: Profile) -> None:
    made = case.plan(profile, Workload(), 1)
    turns: dict[str, list[Cell]] = {}
    for cell in made.apart:
        turns.setdefault(cell.arm, []).append(cell)
    assert len(turns) >= 8
    assert made.apart_replicates >= 5
    for covers, large in turns.values():
        assert (covers.pool_size, covers.side, large.pool_size, large.side) == (20, 0, 5_000, 1)
        assert large.settle_s >= 4  # the server gives back a new connection's buffers after 3 s
        assert dataclasses.replace(large, pool_size=20, side=0, settle_s=0.0) == covers


def test_a_control_has_more_carriers_than_connections_and_a_full_pool_a_short_line() -> None:
    for cell in case.plan("full", Workload(), 1).cells:
        if cell.arrivals is not None:
            assert cell.pool_size > case.CONTROL or cell.concurrency > cell.pool_size
            assert (cell.arrivals.backlog == 2_000) == (cell.pool_size <= 10)


def test_the_standard_plan_leaves_the_run_its_time() -> None:
    made = case.plan("standard", Workload(), 1)
    assert sum(cell.warmup_s + cell.measure_s for part in made.blocks for cell in part) <= 105
    smoke = case.plan("smoke", Workload(), 1)
    assert sum(cell.warmup_s + cell.measure_s for part in smoke.blocks for cell in part) <= 12


# Claims


def test_on_an_ideal_machine_each_claim_is_what_theory_says(ideal: Store) -> None:
    found = claims(ideal)
    assert {name: verdict.outcome for name, verdict in found.items()} == {
        "C5a": "supported", "C5b": "refuted", "C5c": "supported", "C5d": "refuted",
        "C6a": "supported", "C6b": "supported", "C6c": "supported",
    }  # fmt: skip
    assert found["C5a"].estimates["mean in flight"].value == pytest.approx(10, rel=0.01)
    assert found["C5b"].estimates["p99 in flight"].value == pytest.approx(18, abs=0.5)
    assert "(Poisson: 18)" in found["C5b"].reason
    assert "0.37" in found["C5c"].reason or "0.36" in found["C5c"].reason
    assert "client 4,980, link 9,960, server 4,980" in found["C6a"].reason
    for verdict in found.values():
        assert "nan" not in verdict.reason
        assert verdict.cells
        assert verdict.estimates


@pytest.mark.parametrize(
    ("mean", "outcome"), [(11.7, "supported"), (12.0, "undecided"), (12.5, "refuted"),
                          (8.2, "supported"), (7.5, "refuted")],
)  # fmt: skip
def test_the_mean_in_flight_is_about_ten_or_not(
    ideal: Store, cells: pd.DataFrame, mean: float, outcome: str
) -> None:
    changed = scattered(CONTROL, "in_flight_mean", 1.01)(
        setting(CONTROL, in_flight_mean=mean)(cells)
    )
    assert claims(Changed(ideal, changed))["C5a"].outcome == outcome


@pytest.mark.parametrize(("spread", "outcome"), [(0.2, "supported"), (1.0, "refuted")])
def test_the_peak_is_about_ten_only_where_arrivals_do_not_scatter(
    tmp_path: Path, spread: float, outcome: str
) -> None:
    truth = Truth(spread=spread)
    store = stored(tmp_path / "run", truth, wanted=lambda cell: cell.pool_size == case.CONTROL)
    verdict = claims(store)["C5b"]
    assert verdict.outcome == outcome
    assert re.search(r"the largest of 3 s \d+ \(theory: 2[56] in the median\)", verdict.reason)


def test_a_longer_hold_is_not_the_case(ideal: Store, cells: pd.DataFrame) -> None:
    changed = setting(CONTROL, command_mean_s=1.2e-3)(cells)
    found = claims(Changed(ideal, changed))
    for claim in ("C5a", "C5b", "C5c", "C5d"):
        assert found[claim].outcome == "undecided"
        assert "W₀ is 1.2 ms, not within 10 % of 1 ms" in found[claim].reason
    almost = setting(CONTROL, command_mean_s=1.09e-3)(cells)
    assert claims(Changed(ideal, almost))["C5a"].outcome == "supported"


MISSED = {"pool_empty_calm_share": 0.03, "acquire_calm_p99_s": 0.7e-3}
STALLED = {"pool_empty_share": 0.03, "acquire_p99_s": 0.8e-3}  # in all, the calm parts as they were


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (setting(COVERS, **MISSED), "refuted"),
        (setting(COVERS, **MISSED | {"pool_empty_calm_share": 0.004}), "refuted"),
        (setting(COVERS, **MISSED | {"acquire_calm_p99_s": 0.2e-3}), "refuted"),
        (setting(COVERS, **STALLED), "supported"),  # by stalls alone
        (setting(COVERS, **MISSED, core_busy_max=0.7), "undecided"),  # busy cores lengthen waits
        (setting(COVERS, core_busy_max=0.7), "supported"),  # and never shorten them
        (setting(COVERS, core_busy_max=None, **MISSED), "undecided"),
        (setting(COVERS, served_share=0.998), "undecided"),
        (scattered(COVERS, "pool_empty_calm_share", 6.0), "undecided"),
        (scattered(COVERS, "acquire_calm_p99_s", 300.0), "undecided"),
        (setting(COVERS, 3, pool_empty_calm_share=None, acquire_calm_p99_s=None), "undecided"),
    ],
)  # fmt: skip
def test_the_objective_is_met_or_missed(
    ideal: Store, cells: pd.DataFrame, change: Change, outcome: str
) -> None:
    found = claims(Changed(ideal, change(cells)))
    assert found["C5c"].outcome == outcome
    assert found["C5d"].outcome == "refuted"  # bursts are judged apart


def test_bursts_are_judged_by_their_own_cells(ideal: Store, cells: pd.DataFrame) -> None:
    met = setting(BURSTS, pool_empty_calm_share=0.002, acquire_calm_p99_s=5e-6)
    found = claims(Changed(ideal, met(cells)))
    assert found["C5d"].outcome == "supported"
    assert re.search(r"Erlang C at L 15\.\d: 1[56]\.\d % find it empty", found["C5d"].reason)


@pytest.mark.parametrize(
    "change",
    [
        setting(CONTROL, 3, pool_empty_share=0.002),
        setting(CONTROL, 3, in_flight_mean=13.0),
        invalid(CONTROL, 3),
        without(lambda cells: CONTROL(cells) & (cells["block"] <= 3)),
    ],
    ids=["found empty", "below 4 L", "invalid", "missing"],
)
def test_without_a_null_control_that_held_nothing_is_covered(
    ideal: Store, cells: pd.DataFrame, change: Change
) -> None:
    found = claims(Changed(ideal, change(cells)))
    assert found["C5c"].outcome == found["C5d"].outcome == "undecided"
    assert "3 needed" in found["C5c"].reason


def test_a_control_that_was_found_empty_says_so(ideal: Store, cells: pd.DataFrame) -> None:
    found = claims(Changed(ideal, setting(CONTROL, 3, pool_empty_share=0.002)(cells)))
    assert found["C5c"].reason == "the null control held in 2 of 5 blocks, 3 needed"


def test_a_rig_that_bunches_arrivals_refutes_nothing_that_theory_allows(tmp_path: Path) -> None:
    """Twice the scatter of Poisson: 20 or more are in flight for far longer, pool or no pool."""
    for spread, outcome in ((1.0, "refuted"), (2.0, "undecided")):
        run = tmp_path / str(spread)
        store = stored(run, Truth(spread=spread), wanted=lambda cell: cell.pool_size <= 50)
        missed = setting(COVERS, **MISSED)(store.cells())
        found = claims(Changed(store, missed))
        assert found["C5c"].outcome == outcome
        assert ("so this rig bunches" in found["C5c"].reason) == (outcome == "undecided")
        assert found["C5d"].outcome == "refuted"  # theory misses in bursts too


C6 = {"C6a": ("lifo", "prefilled"), "C6b": ("fifo", "prefilled"), "C6c": ("lifo", "lazy")}
LARGE_CLOSED = {
    claim: (lambda order, opening: lambda cells: (
        (cells["loop"] == "closed") & (cells["arm"] != "knee") & (cells["order"] == order)
        & (cells["pool_size"] == 5_000) & (cells["opening"] == opening)))(*variant)
    for claim, variant in C6.items()
}  # fmt: skip
LARGE_OPEN = {claim: pool(5_000, "poisson", *variant) for claim, variant in C6.items()}


def times(chosen: Callable[[pd.DataFrame], pd.Series], column: str, factor: float) -> Change:
    def change(cells: pd.DataFrame) -> pd.DataFrame:
        changed = cells.copy()
        changed[column] = changed[column].astype(float)
        changed.loc[chosen(changed), column] *= factor
        return changed

    return change


@pytest.mark.parametrize("claim", C6)
@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("qps", "requests per second"),
        ("server_cpu_us_per_op", "server CPU per operation"),
        ("client_cpu_us_per_op", "client CPU per operation"),
        ("latency_p99_s", "latency p99"),
    ],
)
def test_a_large_pool_that_differs_is_named_and_no_other(
    ideal: Store, cells: pd.DataFrame, claim: str, column: str, name: str
) -> None:
    chosen = LARGE_CLOSED[claim]
    for factor, outcome in ((1.3, "refuted"), (0.7, "refuted"), (1.02, "supported")):
        found = claims(Changed(ideal, times(chosen, column, factor)(cells)))
        assert found[claim].outcome == outcome
        assert found[claim].reason.startswith(f"differs: {name};") == (outcome == "refuted")
        assert all(found[other].outcome == "supported" for other in C6 if other != claim)
    noisy = claims(Changed(ideal, scattered(chosen, column, 1.3)(cells)))
    assert noisy[claim].outcome == "undecided"
    assert noisy[claim].reason.startswith(f"not shown: {name};")


@pytest.mark.parametrize("claim", C6)
@pytest.mark.parametrize("spoil", [invalid, bound])
def test_a_spoilt_pair_is_no_replicate(
    ideal: Store, cells: pd.DataFrame, claim: str, spoil: Callable[..., Change]
) -> None:
    """Equivalence needs five, a difference three."""
    before = 5 if claim == "C6a" else 0  # its blocks are those after the others'
    changed = spoil(LARGE_CLOSED[claim], before + 1)(cells)
    verdict = claims(Changed(ideal, changed))[claim]
    assert verdict.outcome == "undecided"
    assert verdict.reason.startswith(
        "not shown: requests per second, server CPU per operation, client CPU per operation, "
        "latency p99;"
    )
    dearer = times(LARGE_CLOSED[claim], "client_cpu_us_per_op", 1.4)
    for blocks, outcome in ((2, "refuted"), (3, "undecided")):
        changed = spoil(LARGE_CLOSED[claim], before + blocks)(dearer(cells))
        assert claims(Changed(ideal, changed))[claim].outcome == outcome


def test_a_lazy_pool_that_opens_little_does_not_add_what_is_claimed(
    ideal: Store, cells: pd.DataFrame
) -> None:
    lazy = LARGE_OPEN["C6c"]
    changed = setting(lazy, client_fds_peak=312, server_fds_peak=308, link_fds_peak=607)(cells)
    found = claims(Changed(ideal, changed))
    assert found["C6c"].outcome == "refuted"
    assert found["C6c"].reason.startswith("other descriptors than claimed: descriptors more: ")
    assert found["C6a"].outcome == "supported"
    few = changed[changed["block"].isin([1, 2])]
    assert claims(Changed(ideal, few))["C6c"].outcome == "undecided"


@pytest.mark.parametrize("column", ["client_fds_peak", "link_fds_peak", "server_fds_peak"])
def test_each_hop_must_hold_what_is_claimed(ideal: Store, cells: pd.DataFrame, column: str) -> None:
    changed = times(LARGE_CLOSED["C6a"], column, 0.9)(cells)
    assert claims(Changed(ideal, changed))["C6a"].outcome == "refuted"
    unknown = setting(every, **{column: None})(cells)
    verdict = claims(Changed(ideal, unknown))["C6a"]
    assert (verdict.outcome, "descriptors;" in verdict.reason) == ("undecided", True)


@pytest.mark.parametrize(
    "change", [invalid(every), bound(every), first_blocks(2), lambda cells: cells.head(0)],
    ids=["invalid", "bound", "two blocks", "nothing"],
)  # fmt: skip
def test_what_is_no_evidence_decides_nothing(
    ideal: Store, cells: pd.DataFrame, change: Change
) -> None:
    found = claims(Changed(ideal, change(cells)))
    assert tuple(found) == CLAIMS
    assert {verdict.outcome for verdict in found.values()} == {"undecided"}
    assert all(verdict.reason for verdict in found.values())


def test_only_the_last_attempt_at_a_cell_counts(ideal: Store, cells: pd.DataFrame) -> None:
    failed = invalid(every)(cells).assign(attempt=0)
    both = pd.concat([cells, failed], ignore_index=True)
    found = case.claims(both, Changed(ideal, both))  # type: ignore[arg-type]
    assert found[0].outcome == "supported"


def test_a_smoke_run_decides_nothing(tmp_path: Path) -> None:
    store = stored(tmp_path / "run", profile="smoke")
    assert {verdict.outcome for verdict in judge(store, ["reference_case"])} == {"undecided"}


# The knee


def test_a_plateau_of_the_rig_is_no_pool_s_knee(ideal: Store, cells: pd.DataFrame) -> None:
    found = case.knee(cells)
    assert found.knee.value == pytest.approx(30, rel=0.05)
    title = case.findings(cells, ideal)["reference_knee"]
    assert "where the limit is: machine. That is the rig’s plateau, no pool’s knee" in title
    rising = cells[~(in_closed_loop(cells) & (cells["concurrency"] > 20))]
    title = case.findings(rising, Changed(ideal, rising))["reference_knee"]  # type: ignore[arg-type]
    assert title.startswith("Where a closed loop flattens is undecided: ")


def test_the_curve_is_of_one_block(cells: pd.DataFrame) -> None:
    slower = cells.copy()
    slower["qps"] = slower["qps"].where(slower["block"] == 1, slower["qps"] / 3)
    assert case.knee(slower).knee.value == pytest.approx(30, rel=0.05)


# Sentences


def test_titles_state_what_the_data_say(ideal: Store, cells: pd.DataFrame) -> None:
    said = case.findings(cells, ideal)
    assert list(said) == FIGURES
    covers = r"A pool of 20 covers 10,000 requests/s at 1 ms: outside the rig's stalls 0.3\d+ % \("
    assert re.match(covers, said[FIGURES[0]])
    assert re.search(r"10.0 in flight on average, 18 at p99 \(Poisson: 18\)", said[FIGURES[1]])
    assert (
        "LIFO, prefilled: +4,980 descriptors, all figures the same within 5 %" in said[FIGURES[2]]
    )


def test_titles_change_with_the_data(ideal: Store, cells: pd.DataFrame) -> None:
    missed = setting(COVERS, **MISSED)(cells)
    dear = times(LARGE_CLOSED["C6b"], "client_cpu_us_per_op", 1.4)(missed)
    said = case.findings(dear, Changed(ideal, dear))  # type: ignore[arg-type]
    assert said[FIGURES[0]].startswith(
        "A pool of 20 does not cover 10,000 requests/s at 1 ms: outside the rig's stalls 3 %"
    )
    assert (
        "FIFO, prefilled: +4,980 descriptors, client CPU per operation 1.40 × ("
        in (said[FIGURES[2]])
    )


DEFINED = r"\bp\d+\b|\b95 % interval"


def test_no_sentence_holds_a_number_that_is_typed() -> None:
    told = r"_finding$|_prose$|_outcome$|_said$|_print$|^_unfit|^_uncontrolled$"
    assert not typed_numbers(case, told, DEFINED, ("_median", "si"), fewest=16)


STATES: dict[str, Change] = {
    "whole": lambda cells: cells,
    "all invalid": invalid(every),
    "all bound": bound(every),
    "one replicate": first_blocks(1),
    "nothing": lambda cells: cells.head(0),
    "no control": without(CONTROL),
    "no pool of 20": without(pool(20)),
    "no bursts": without(BURSTS),
    "open loop alone": without(in_closed_loop),
    "closed loop alone": lambda cells: cells[in_closed_loop(cells)],
    "no lazy": lambda cells: cells[cells["opening"] == "prefilled"],
    "one invalid": invalid(COVERS, 1),
}


@pytest.fixture(params=STATES, ids=str)
def some(request: pytest.FixtureRequest, ideal: Store, cells: pd.DataFrame) -> Any:
    """The run in every state."""
    return Changed(ideal, STATES[request.param](cells))


def test_prose_has_a_paragraph_for_each_figure_and_no_gaps(some: Any) -> None:
    own = some.cells()
    told = case.prose(own, some)
    assert list(told) == list(case.findings(own, some))
    for text in told.values():
        assert text.endswith(".")
        assert not re.search(r"\bnan\b|\bNone\b|\(\)|: \.|–\.", text), text


def test_prose_reads_its_numbers_from_the_cells(ideal: Store, cells: pd.DataFrame) -> None:
    changed = setting(COVERS, pool_empty_share=0.0123)(cells)
    changed = setting(LARGE_CLOSED["C6b"], server_client_memory_bytes=111_000_000)(changed)
    told = case.prose(changed, Changed(ideal, changed))  # type: ignore[arg-type]
    assert "was found empty by 1.23 % of Poisson arrivals" in told[FIGURES[0]]
    assert "The server's clients take 111 MB" in told[FIGURES[2]]
    assert "Envoy and conntrack are not on this path" in told[FIGURES[2]]


# Figures and tables


@pytest.fixture(scope="module")
def drawn(ideal: Store, cells: pd.DataFrame) -> dict[str, Figure]:
    return case.figures(cells, ideal)


def test_every_figure_is_drawn_whatever_the_data_and_says_so(some: Any) -> None:
    own = some.cells()
    made = case.figures(own, some)
    assert list(made) == list(case.findings(own, some))
    for figure in made.values():
        title = figure._suptitle.get_text().replace("\n", " ")  # type: ignore[attr-defined]
        assert title
        assert "nan" not in title
        if len(own) and not own["valid"].any():
            assert re.search("undecided", title), title
    _fits(made)


def test_a_smoke_run_has_every_figure(tmp_path: Path) -> None:
    store = stored(tmp_path / "run", profile="smoke")
    assert list(case.figures(store.cells(), store)) == FIGURES


def _fits(figures: dict[str, Figure]) -> None:
    for name, figure in figures.items():
        figure.draw_without_rendering()
        labels = [tick.label1 for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)
                  for tick in axis.get_major_ticks()]  # fmt: skip
        for text in figure.findobj(Text):
            if text.get_visible() and text.get_text().strip() and text not in labels:
                box = text.get_window_extent()
                assert figure.bbox.x0 - 2 <= box.x0, (name, text.get_text())
                assert box.x1 <= figure.bbox.x1 + 2, (name, text.get_text())
                assert figure.bbox.y0 - 2 <= box.y0, (name, text.get_text())
                assert box.y1 <= figure.bbox.y1 + 2, (name, text.get_text())


def test_theory_is_drawn_beside_what_was_measured(drawn: dict[str, Figure]) -> None:
    empty, _ = drawn["reference_wait"].axes
    (theory,) = (line for line in empty.get_lines() if len(line.get_xdata()) > 12)
    shares = dict(zip(*theory.get_data(), strict=True))
    assert shares[20] == pytest.approx(erlang_c(20, 10.0), rel=0.05)
    held = drawn["reference_in_flight"].axes[0]
    bars = {round(bar.get_x() + 0.45): bar.get_height()  # type: ignore[attr-defined]
            for bar in held.patches}  # fmt: skip
    (poisson, *_) = (line for line in held.get_lines() if len(line.get_xdata()) > 10)
    assert bars[10] == pytest.approx(dict(zip(*poisson.get_data(), strict=True))[10], rel=0.1)
    marks = [text.get_text() for text in held.texts]
    assert marks[0] == "p99 18"


def test_each_invalid_measurement_is_crossed_out(ideal: Store, cells: pd.DataFrame) -> None:
    changed = invalid(COVERS, 2)(cells)
    made = case.figures(changed, Changed(ideal, changed))  # type: ignore[arg-type]

    def crosses(axes: Any) -> int:
        return sum(len(line.get_xdata()) for line in axes.get_lines()
                   if line.get_marker() == CROSS["marker"])  # fmt: skip

    assert crosses(made["reference_wait"].axes[0]) == 2
    assert crosses(made["reference_cost"].axes[1]) == 2
    keys = [text.get_text() for legend in made["reference_wait"].legends
            for text in legend.get_texts()]  # fmt: skip
    assert "crossed out: invalid, a gate failed" in keys


def test_the_table_has_a_row_for_each_pool_and_load(cells: pd.DataFrame) -> None:
    table = case.tables(cells)
    made = case.plan("standard", Workload(), 1)
    assert len(table) == len(made.cells) + len(made.once)
    assert {"Envoy entries", "conntrack entries"} <= set(table)
    assert table["Envoy entries"].isna().all()
    counted = case.tables(cells.assign(envoy_fds_peak=77.0))
    assert set(counted["Envoy entries"]) == {77.0}
    own = table[(table["pool"] == 5_000) & (table["opening"] == "lazy") & (table["loop"] == "open")]
    assert own["valid"].tolist() == ["5 of 5"]
    assert case.tables(cells.head(0)).empty
    assert not case.tables(invalid(every)(cells)).empty


def test_no_interval_is_no_sentence() -> None:
    blank = Estimate(float("nan"), float("nan"), float("nan"), "s", 0)
    assert case._spread(blank) == "–"


def test_no_sentence_shows_the_name_of_what_it_should_tell(some: Any) -> None:
    told = [*case.prose(some.cells(), some).values(), *case.findings(some.cells(), some).values()]
    assert not [text for text in told if "{" in text]
