"""What a run says of its own instrument: each claim by its rule, and no sentence beyond the data.

Cells are synthetic, so that the truth is known: the quiet instrument keeps every promise, and each
contrary breaks one.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import synthetic
from matplotlib.figure import Figure
from matplotlib.text import Text
from said import Changed, typed_numbers

from bench.experiments import instrument, plans, pool_sweep
from bench.model import Outage, Profile, Row, Settings, Verdict, Workload
from bench.report import page
from bench.report.verdicts import decide, judge
from bench.store import Store

QUIET = synthetic.Truth()
Change = Callable[[pd.DataFrame], pd.DataFrame]
PROFILES = get_args(Profile)
PARTS = ("proof", "schedule", "warm-up", "ceiling", "capacity", "overload", "link", "client")
STANDARD = instrument.plan("standard", Workload(), 1)
FIGURES = [
    "stopped_server", "schedule", "warm_up", "same_cell", "link_accuracy", "generator_busy",
    "little_all_cells",
]  # fmt: skip
FIGURE_OF = {"proof": FIGURES[0], "schedule": FIGURES[1], "warm-up": FIGURES[2], "link": FIGURES[4]}


def stored(folder: Path, truth: synthetic.Truth = QUIET, *arms: str) -> Store:
    """A standard run of the instrument, or of some of its parts."""
    parts = (instrument,)
    synthetic.store(folder, "standard", 5, parts, truth, lambda c: not arms or c.arm in arms)
    return Store.open(folder)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("run") / "quiet")


@pytest.fixture(scope="module")
def cells(quiet: Store) -> pd.DataFrame:
    return quiet.cells()


def claims(store: Any) -> dict[str, Verdict]:
    return {verdict.claim: verdict for verdict in instrument.claims(store.cells(), store)}


def set_on(arm: str, **values: Any) -> Change:
    """The last measurement of a part with these figures instead."""

    def change(cells: pd.DataFrame) -> pd.DataFrame:
        changed = cells.copy()
        last = changed.index[changed["arm"] == arm][-1]
        for column, value in values.items():
            changed.loc[last, column] = value
        return changed

    return change


def invalid(arm: str) -> Change:
    return set_on(arm, valid=False, invalid_reasons="settled: never")


def times(arm: str, column: str, *factors: float) -> Change:
    """A figure of a part, block by block, these factors as large."""

    def change(cells: pd.DataFrame) -> pd.DataFrame:
        changed, own = cells.copy(), cells["arm"] == arm
        changed[column] = changed[column].astype(float)
        changed.loc[own, column] *= pd.Series(factors, changed.index[own])
        return changed

    return change


def all_invalid(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.assign(valid=False, invalid_reasons="settled: never")


def one_replicate(cells: pd.DataFrame) -> pd.DataFrame:
    return cells[cells["block"] == 1]


def nothing(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.head(0)


def without(arm: str) -> Change:
    return lambda cells: cells[cells["arm"] != arm]


# Plan


@pytest.mark.parametrize("profile", PROFILES)
def test_the_plan_names_each_cell_once_and_measures_a_a_in_every_block(profile: Profile) -> None:
    made = instrument.plan(profile, Workload(), workers=2)
    every = [*made.cells, *made.once]
    assert len({cell.id for cell in every}) == len(every)
    assert [cell.arm for cell in made.cells] == ["a", "b"]
    first, second = made.cells
    assert first == dataclasses.replace(second, arm="a")
    assert {cell.arm for cell in made.once} == set(PARTS)
    assert {cell.workers for cell in every} == {1}
    assert made.replicates >= (1 if profile == "smoke" else 5)


def test_the_proof_stops_the_server_for_14_hundredths_of_its_window() -> None:
    (proof,) = (cell for cell in STANDARD.once if cell.arm == "proof")
    assert (proof.measure_s, proof.offered_qps) == (10.0, 250.0)
    assert proof.outage == Outage("stop", 3.0, 1.4)
    assert proof.arrivals is not None
    assert proof.arrivals.backlog >= instrument.PROOF_BACKLOG * 250.0 * 1.4
    for profile in PROFILES:
        (own,) = (c for c in instrument.plan(profile, Workload(), 1).once if c.arm == "proof")
        assert own.outage is not None
        assert own.outage.fault_s == pytest.approx(0.14 * own.measure_s)


def test_the_standard_plan_leaves_the_run_its_time() -> None:
    measured = [*STANDARD.cells * STANDARD.replicates, *STANDARD.once]
    assert sum(cell.warmup_s + cell.measure_s for cell in measured) <= 32


def test_a_server_of_the_user_s_is_not_stopped() -> None:
    settings = Settings(only=("instrument",))
    (own,), (foreign,) = (plans(settings, owned=owned) for owned in (True, False))
    assert own == STANDARD
    assert foreign.cells == own.cells
    assert [c for c in own.once if c not in foreign.once] == [c for c in own.once if c.outage]
    assert foreign.measurements == own.measurements - 1


# Claims


def test_every_claim_of_a_quiet_instrument_is_supported(quiet: Store, cells: pd.DataFrame) -> None:
    found = claims(quiet)
    assert {name: verdict.outcome for name, verdict in found.items()} == dict.fromkeys(
        ("I1", "I2", "I3", "I4"), "supported"
    )
    for verdict in found.values():
        assert set(verdict.cells) < set(cells["cell"])
        assert verdict.estimates
        assert "nan" not in verdict.reason
    assert found["I1"].estimates["p99 recorded ÷ theory"].value == pytest.approx(1, abs=0.002)
    assert found["I1"].estimates["p99 uncorrected ÷ theory"].value < 0.001
    assert found["I4"].estimates["achieved ÷ capacity"].value == pytest.approx(0.98)
    assert len(found["I2"].cells) == 2


def test_the_proof_sets_what_was_recorded_beside_theory(quiet: Store, cells: pd.DataFrame) -> None:
    told = instrument.proof(cells, quiet)
    assert [stop.theory_s for stop in told] == pytest.approx([0.4, 0.9, 1.3])
    assert [stop.recorded_s for stop in told] == pytest.approx([0.4, 0.9, 1.3], rel=0.006)
    assert max(stop.uncorrected_s for stop in told) < 1e-4


@pytest.mark.parametrize(
    ("truth", "outcome"),
    [
        ({"stretched": 1.09}, "supported"),
        ({"stretched": 0.91}, "supported"),
        ({"stretched": 1.11}, "refuted"),
        ({"stretched": 0.89}, "refuted"),
        ({"stretched": 1.2}, "refuted"),
        ({"longest_s": 1.1}, "refuted"),  # p90 and p95 are right, p99 is not
        ({"on_the_wire": True}, "refuted"),  # what proves nothing is no proof
    ],
    ids=str,
)
def test_percentiles_must_hold_the_stop_as_theory_has_it(
    truth: dict[str, Any], outcome: str, tmp_path: Path
) -> None:
    store = stored(tmp_path / "run", synthetic.Truth(**truth), "proof")
    verdict = claims(store)["I1"]
    assert verdict.outcome == outcome
    title = instrument.findings(store.cells(), store)["stopped_server"]
    assert title.startswith("A stopped server shows as callers feel it") == (outcome == "supported")
    rows = instrument.proof_rows(store.cells(), store)
    recorded_well = outcome == "supported" or "on_the_wire" in truth
    assert all(row.reached for row in rows) == recorded_well


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (invalid("proof"), "its cell is invalid (settled: never)"),
        (set_on("proof", server_cpu_s=2.1), "the server was 21 % busy"),
        (set_on("proof", dropped=1), "requests dropped: 1"),
        (set_on("proof", backlog=699), "the backlog of 699 is below 2 × 350"),
        (without("proof"), "not measured: it needs a server of the suite's own, to stop it"),
    ],
    ids=["invalid", "busy", "dropped", "backlog", "not measured"],
)
def test_a_proof_that_lacks_something_decides_nothing(
    quiet: Store, cells: pd.DataFrame, change: Change, why: str
) -> None:
    store: Any = Changed(quiet, change(cells))
    verdict = claims(store)["I1"]
    assert (verdict.outcome, verdict.reason) == ("undecided", why)
    (row,) = instrument.proof_rows(store.cells(), store)
    assert (row.value, row.reached, row.note) == (None, None, why)
    title = instrument.findings(store.cells(), store).get("stopped_server", f"undecided: {why}")
    assert title.endswith(f"undecided: {why}")


@pytest.mark.parametrize(
    "change", [set_on("proof", server_cpu_s=2.0), set_on("proof", backlog=700)], ids=str
)
def test_a_proof_that_just_has_it_decides(
    quiet: Store, cells: pd.DataFrame, change: Change
) -> None:
    assert claims(Changed(quiet, change(cells)))["I1"].outcome == "supported"


def test_a_proof_of_too_few_requests_decides_nothing(
    quiet: Store, cells: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instrument, "quantiles", lambda histogram, shares: [0.4, 0.9, None])
    verdict = claims(quiet)["I1"]
    assert (verdict.outcome, verdict.reason) == (
        "undecided",
        "too few requests for its percentiles",
    )


@pytest.mark.parametrize("factor", [1.2, 0.8])
def test_arms_that_differ_are_told_apart(factor: float, tmp_path: Path) -> None:
    store = stored(tmp_path / "run", synthetic.Truth(second_arm=factor), "a", "b")
    verdict = claims(store)["I2"]
    assert verdict.outcome == "refuted"
    assert verdict.reason.startswith(
        "100.0 % of 50 overlapping comparisons from 5 pairs call a difference; all pairs"
    )
    assert verdict.estimates["latency p99"].value == pytest.approx(factor, rel=0.01)
    title = instrument.findings(store.cells(), store)["same_cell"]
    assert title.endswith("in 50 of 50 comparisons, beyond the 10 % allowed")
    (row,) = (r for r in instrument.same_rows(store.cells()) if r.reach)
    assert (row.value, row.reached) == (100, False)


ODD_ONE = (1.0, 1.01, 1.0101, 1.0102, 1.0103)  # 4 of its 10 ways call a difference: all without it


@pytest.mark.parametrize(("columns", "outcome"), [(1, "supported"), (2, "undecided")])
def test_a_tenth_of_the_comparisons_may_call_a_difference(
    quiet: Store, cells: pd.DataFrame, columns: int, outcome: str
) -> None:
    """8 and 16 % of all."""
    changed = cells.copy()
    for column in ("latency_p99_s", "server_cpu_us_per_op")[:columns]:
        first = changed.loc[changed["arm"] == "a", column].to_numpy()
        changed.loc[changed["arm"] == "b", column] = first
        changed = times("b", column, *ODD_ONE)(changed)
    verdict = claims(Changed(quiet, changed))["I2"]
    assert (verdict.outcome, verdict.reason) == (
        outcome, f"{8.0 * columns} % of 50 overlapping comparisons from 5 pairs call a difference"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "pairs"),
    [
        (invalid("b"), "4 pairs of requests per second"),
        (lambda cells: cells[cells["block"] < 5], "4 pairs of requests per second"),
        (one_replicate, "1 pair of requests per second"),
        (set_on("a", server_cpu_us_per_op=None), "4 pairs of server CPU per operation"),
        (without("a"), "0 pairs of requests per second"),
    ],
    ids=["invalid", "four blocks", "one block", "figure unknown", "not measured"],
)
def test_too_few_pairs_tell_nothing(
    quiet: Store, cells: pd.DataFrame, change: Change, pairs: str
) -> None:
    store: Any = Changed(quiet, change(cells))
    verdict = claims(store)["I2"]
    assert (verdict.outcome, verdict.reason) == ("undecided", f"{pairs}, 5 needed")
    title = instrument.findings(store.cells(), store)["same_cell"]
    assert title.endswith(f"undecided: {pairs}, 5 needed")
    row = instrument.same_rows(store.cells())[-1]
    assert (row.value, row.reached, row.note) == (None, None, f"{pairs}, 5 needed")


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [
        ("served_share", 0.995, 0.994),
        ("send_lag_p50_s", 0.1e-3, 0.11e-3),
        ("send_lag_p99_s", 0.3e-3, 1e-3),
        ("client_cpu_s", 1.0, 1.02),  # of the two seconds of its window
    ],
)
def test_the_schedule_is_kept_within_every_limit(
    quiet: Store, cells: pd.DataFrame, column: str, good: float, bad: float
) -> None:
    for value, outcome in ((good, "supported"), (bad, "refuted")):
        store: Any = Changed(quiet, set_on("schedule", **{column: value})(cells))
        assert claims(store)["I3"].outcome == outcome
        rows = [row for row in instrument.schedule_rows(store.cells()) if not row.reached]
        assert len(rows) == (outcome == "refuted")


@pytest.mark.parametrize(("carried", "outcome"), [(0.8, "refuted"), (0.94, "refuted"),
                                                  (0.96, "supported")])  # fmt: skip
def test_an_overloaded_pool_must_carry_what_it_can(
    quiet: Store, cells: pd.DataFrame, carried: float, outcome: str
) -> None:
    qps = carried * cells.loc[cells["arm"] == "capacity", "qps"].iloc[0]
    verdict = claims(Changed(quiet, set_on("overload", qps=qps)(cells)))["I4"]
    assert verdict.outcome == outcome
    assert verdict.reason == f"achieved ÷ capacity {carried:g} × (≥ 0.95)"


@pytest.mark.parametrize(
    ("claim", "arm"), [("I3", "schedule"), ("I4", "capacity"), ("I4", "overload")]
)
def test_invalid_and_missing_cells_decide_nothing(
    quiet: Store, cells: pd.DataFrame, claim: str, arm: str
) -> None:
    for change, why in ((invalid(arm), "settled: never"), (without(arm), "not measured")):
        verdict = claims(Changed(quiet, change(cells)))[claim]
        assert (verdict.outcome, verdict.reason) == ("undecided", why)


def test_one_invalid_cell_of_several_decides_nothing(quiet: Store, cells: pd.DataFrame) -> None:
    """As where a part is measured in several blocks: half of the evidence is not chosen."""
    for claim, arm in (("I3", "schedule"), ("I4", "overload")):
        again = cells[cells["arm"].isin([arm, "capacity"])].assign(block=2)
        both = pd.concat([cells, invalid(arm)(again)], ignore_index=True)
        verdict = claims(Changed(quiet, both))[claim]
        assert (verdict.outcome, verdict.reason) == ("undecided", "settled: never")


def test_a_figure_that_no_cell_knows_is_neither_reached_nor_missed(
    quiet: Store, cells: pd.DataFrame
) -> None:
    store: Any = Changed(quiet, set_on("schedule", send_lag_p99_s=None)(cells))
    assert claims(store)["I3"].outcome == "undecided"
    (row,) = (r for r in instrument.schedule_rows(store.cells()) if "lag p99" in r.what)
    assert (row.value, row.reached, row.note) == (None, None, "not known")


def test_only_the_last_attempt_at_a_cell_counts(quiet: Store, cells: pd.DataFrame) -> None:
    failed = invalid("schedule")(cells)
    mended = cells[cells["arm"] == "schedule"].assign(attempt=2)
    both = pd.concat([failed, mended], ignore_index=True)
    assert claims(Changed(quiet, both))["I3"].outcome == "supported"


def test_a_smoke_run_decides_nothing(tmp_path: Path, quiet: Store) -> None:
    folder = synthetic.store(tmp_path / "run", "smoke", 1, (instrument,))
    (tmp_path / "run" / "verdicts.json").unlink(missing_ok=True)
    for verdict in decide(Store.open(folder))[:4]:
        assert verdict.outcome == "undecided"
        assert verdict.reason.startswith("a smoke run decides nothing (")
    assert {v.outcome for v in judge(quiet, ["instrument"])} == {"supported"}
    told = json.loads((folder / "verdicts.json").read_bytes(), parse_constant=pytest.fail)
    assert [each["claim"] for each in told[:4]] == ["I1", "I2", "I3", "I4"]
    assert {each["outcome"] for each in told[:4]} == {"undecided"}
    assert {each["outcome"] for each in told[4:]} == {"not run"}


# The certificate


def certificate(store: Any) -> list[Row]:
    return instrument.certificate(store.cells(), store)


@pytest.fixture(params=["quiet", all_invalid, one_replicate, nothing, *PARTS, "a"], ids=str)
def some(request: pytest.FixtureRequest, quiet: Store, cells: pd.DataFrame) -> Any:
    """The run in every state: whole, spoilt, begun, and each part missing alone."""
    kind = request.param
    if kind == "quiet":
        return quiet
    change = kind if callable(kind) else without(kind)
    return Changed(quiet, change(cells))


def test_the_certificate_can_be_stored_in_every_state_of_the_run(some: Any) -> None:
    rows = [dataclasses.asdict(row) for row in certificate(some)]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    for row in rows:
        assert row["reached"] in (None, True, False)
        assert (row["value"] is None) <= bool(row["note"]), row
        assert (row["value"] is None) <= (row["reached"] is None), row
        assert "nan" not in row["note"]


def test_a_quiet_instrument_reaches_everything(quiet: Store) -> None:
    rows = certificate(quiet)
    link, rest = ([r for r in rows if r.what.startswith("link at") is linked]
                  for linked in (True, False))  # fmt: skip
    assert {row.reached for row in rest if row.reach} == {True}
    assert [row.value for row in link][:1] == [synthetic.LINK_CARRIES_QPS]
    assert len({row.what for row in rows}) == len(rows)
    (ceiling,) = (row for row in rows if "gates green" in row.what)
    assert (ceiling.value, ceiling.note) == (30_000, "bound by users, 66 % busy")
    users = [row.what for row in rows if row.what.startswith("round trip")]
    assert users == [f"round trip at 1 ms, {n}" for n in
                     ("1 user", "10 users", "50 users", "200 users")]  # fmt: skip


def test_a_certificate_says_what_is_not_reached(quiet: Store, cells: pd.DataFrame) -> None:
    off = {
        "worker busy": set_on("schedule", client_cpu_s=1.9),
        "gates green": invalid("ceiling"),
        "achieved ÷ capacity": set_on("overload", qps=4_000.0),
    }
    for what, change in off.items():
        (row,) = (r for r in certificate(Changed(quiet, change(cells))) if what in r.what)
        assert row.reached is False
    slow = cells.copy()
    slow.loc[(slow["arm"] == "link") & (slow["concurrency"] == 1), "command_p50_s"] = 1.4e-3
    (row,) = (r for r in certificate(Changed(quiet, slow)) if r.what.endswith(", 1 user"))
    assert (row.reached, row.reach) == (False, "≤ 1.35")


def test_chance_in_how_many_arrive_costs_the_ceiling_nothing(
    quiet: Store, cells: pd.DataFrame
) -> None:
    fewer = round(29_500 * cells.set_index("arm").loc["ceiling", "measured_s"])
    store = Changed(quiet, set_on("ceiling", qps=29_500.0, scheduled=fewer)(cells))
    (row,) = (r for r in certificate(store) if "gates green" in r.what)
    assert row.reached
    store = Changed(quiet, set_on("ceiling", qps=28_400.0)(cells))  # the rest came in the drain
    (row,) = (r for r in certificate(store) if "gates green" in r.what)
    assert row.reached is False
    store = Changed(quiet, set_on("ceiling", served_share=0.99)(cells))
    (row,) = (r for r in certificate(store) if "gates green" in r.what)
    assert row.reached is False


def test_the_page_shows_the_stored_certificate(quiet: Store) -> None:
    rows = [Row.at_most("lag <b>", 12_345.0, "ms", 1, "late & later"), Row("none", None, "")]
    manifest = {"certificate": [dataclasses.asdict(row) for row in rows]}
    shown: Any = Changed(quiet, quiet.cells())
    shown.manifest = manifest
    html = page.certificate(page.Run(quiet.cells(), quiet.cells(), shown)).data
    for said in ("lag &lt;b&gt;", "12,345 ms", "not reached", "late &amp; later", "–"):
        assert said in html
    shown.manifest = {}
    empty = page.certificate(page.Run(quiet.cells(), quiet.cells(), shown))
    assert empty.data == "This run holds no certificate."


def test_the_page_shows_every_verdict_with_its_rule(quiet: Store, cells: pd.DataFrame) -> None:
    html = page.verdicts(page.Run(cells, cells, quiet)).data
    for verdict in claims(quiet).values():
        assert verdict.statement in html
        assert verdict.claim in html
    assert html.count("supported") == 4
    assert "at most 10 % of comparisons by 3 pairs" in html


# Sentences


def test_titles_state_what_the_data_say(quiet: Store, cells: pd.DataFrame) -> None:
    said = instrument.findings(cells, quiet)
    assert list(said) == FIGURES
    assert said["stopped_server"] == (
        "A stopped server shows as callers feel it: p90–p99 within 0.5 % of theory; timed on the "
        "wire, they read 50 µs at most"
    )
    assert said["schedule"] == (
        "Of 10 k/s, half leave within 41 µs of when they are due and 99 % within 272 µs, at 24 % "
        "of a core"
    )
    assert re.fullmatch(
        r"MSER-5 cuts \d+ ms off a cold start: before it a median of [\d.]+ ms, after it 1.25 ms",
        said["warm_up"],
    )
    assert said["same_cell"] == (
        "A cell is told apart from itself in 0 of 50 comparisons, within the 10 % allowed"
    )
    assert said["link_accuracy"] == (
        "Through a link set to 1 ms a command takes 1.2 ms with 1 user (bound by users) and "
        "7.69 ms with 200 users (bound by link)"
    )
    assert said["generator_busy"].startswith("The generator was the limit in 1 of 22 cells; in all")


def test_titles_change_with_the_data(quiet: Store, cells: pd.DataFrame) -> None:
    changed = set_on(
        "schedule", offered_qps=9_000.0, send_lag_p50_s=43e-6, send_lag_p99_s=0.91e-3,
        client_cpu_s=0.86,
    )(cells)  # fmt: skip
    linked = changed["arm"] == "link"
    changed.loc[linked, ["command_p50_s", "rtt_s"]] *= 3
    changed.loc[linked, "bound_by"] = "machine"
    changed.loc[changed["arm"] == "ceiling", "bound_by"] = "generator"
    said = instrument.findings(changed, Changed(quiet, changed))  # type: ignore[arg-type]
    assert said["schedule"] == (
        "Of 9 k/s, half leave within 43 µs of when they are due and 99 % within 910 µs, at 43 % "
        "of a core"
    )
    assert said["link_accuracy"] == (
        "Through a link set to 3 ms a command takes 3.6 ms with 1 user (bound by machine) and "
        "23.1 ms with 200 users (bound by machine)"
    )
    assert said["generator_busy"].startswith("The generator was the limit in 2 of 22 cells")


def test_a_cold_start_is_cut_where_it_has_faded(quiet: Store, cells: pd.DataFrame) -> None:
    found = instrument.warm_up(cells, quiet)
    assert found is not None
    assert found.cut_s is not None
    decay_s = QUIET.cold_decay_s
    assert 4 * decay_s < found.cut_s < 8 * decay_s


def test_a_start_that_is_not_cold_needs_no_cut(tmp_path: Path) -> None:
    store = stored(tmp_path / "run", synthetic.Truth(cold_s=0.0), "warm-up")
    found = instrument.warm_up(store.cells(), store)
    assert found is not None
    assert found.cut_s == 0
    title = instrument.findings(store.cells(), store)["warm_up"]
    assert title == "A cold start needs no cut, by MSER-5"


def test_a_start_that_never_settles_is_said_to(tmp_path: Path) -> None:
    slow = synthetic.Truth(cold_decay_s=3.0)
    store = stored(tmp_path / "run", slow, "warm-up")
    title = instrument.findings(store.cells(), store)["warm_up"]
    assert title == "A cold start never settled within its window, by MSER-5"


DEFINED = r"\bp\d+\b|MSER-5|\b99 %|two one-sided tests|four times in five|95 % interval|half"


def test_no_sentence_holds_a_number_that_is_typed() -> None:
    told = r"_finding$|_prose$|_outcome$|^_unfit|^_invalid$|^_too_few$|^_resolution$"
    assert not typed_numbers(instrument, told, DEFINED, ("median_of", "si"), fewest=16)


def test_prose_has_a_paragraph_for_each_figure_and_no_gaps(some: Any) -> None:
    own = some.cells()
    told = instrument.prose(own, some)
    assert list(told) == list(instrument.findings(own, some))
    for text in told.values():
        assert text.endswith(".")
        assert not re.search(r"\bnan\b|\bNone\b(?! of the)|\(\)|: \.|–\.", text), text


def test_prose_reads_its_numbers_from_the_cells(quiet: Store, cells: pd.DataFrame) -> None:
    changed = set_on("proof", server_cpu_s=0.7, dropped=3, scheduled=9_876, served_share=0.9993)(
        cells
    )
    changed = set_on(
        "schedule", scheduled=19_123, pool_empty_share=0.031, in_flight_mean=11.7,
        in_flight_peak=19, hiccup_max_s=0.0123, calm_share=0.6, acquire_calm_p99_s=2e-6,
        acquire_p99_s=0.002,
    )(changed)  # fmt: skip
    told = instrument.prose(changed, Changed(quiet, changed))  # type: ignore[arg-type]
    assert (
        "was 7 % busy, 3 of 9,876 requests were dropped, and 99.93 % were"
        in (told["stopped_server"])
    )
    for said in ("19,123 arrivals", "3.1 % found", "11.7 in flight", "19 at most", "12.3 ms; 60 %"):
        assert said in told["schedule"]
    assert told["schedule"].endswith("was 2 µs instead of 2 ms.")
    assert (
        "Shown to be the same within 5 %, by two one-sided tests: requests per second, lat"
        in (told["same_cell"])
    )
    assert "1 user 1.2 ms (bound by users)" in told["link_accuracy"]
    assert "users 16, pool 2" in told["generator_busy"]


def test_prose_of_a_real_difference_does_not_call_it_the_same(tmp_path: Path) -> None:
    store = stored(tmp_path / "run", synthetic.Truth(second_arm=1.2), "a", "b")
    assert instrument.prose(store.cells(), store)["same_cell"].endswith(
        "two one-sided tests: none."
    )


# Figures and tables


@pytest.fixture(scope="module")
def drawn(quiet: Store, cells: pd.DataFrame) -> dict[str, Figure]:
    return instrument.figures(cells, quiet)


def test_every_figure_is_drawn_whatever_the_data_and_says_so(some: Any) -> None:
    own = some.cells()
    made = instrument.figures(own, some)
    missing = {FIGURE_OF[arm] for arm in FIGURE_OF if not (own["arm"] == arm).any()}
    if not own["arm"].isin(instrument.ARMS).any():
        missing.add("same_cell")
    assert list(made) == [name for name in FIGURES if name not in missing]
    spoilt = not own["valid"].any()
    for name, figure in made.items():
        title = figure._suptitle.get_text().replace("\n", " ")  # type: ignore[attr-defined]
        assert title
        assert "nan" not in title
        if spoilt and len(own) and name != "little_all_cells":
            assert re.search("undecided|invalid", title), title
    if spoilt and len(own):
        _fits(made)


def test_text_stays_on_the_sheet(drawn: dict[str, Figure]) -> None:
    _fits(drawn)


def _fits(figures: dict[str, Figure]) -> None:
    for name, figure in figures.items():
        figure.draw_without_rendering()
        labels = [tick.label1 for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)
                  for tick in axis.get_major_ticks()]  # fmt: skip
        for text in figure.findobj(Text):
            if text.get_visible() and text.get_text().strip() and text not in labels:
                box = text.get_window_extent()
                inside = figure.bbox.x0 - 2 <= box.x0 and box.x1 <= figure.bbox.x1 + 2
                assert inside, (name, text.get_text())
                inside = figure.bbox.y0 - 2 <= box.y0 and box.y1 <= figure.bbox.y1 + 2
                assert inside, (name, text.get_text())


def test_axes_say_what_they_show_and_lines_what_they_are(drawn: dict[str, Figure]) -> None:
    for name in FIGURES[:-1]:
        for axes in drawn[name].axes:
            named = axes.get_title(loc="left") or (axes.get_xlabel() and axes.get_ylabel())
            assert named, name
    keys = {
        name: [text.get_text() for axes in drawn[name].axes if (legend := axes.get_legend())
               for text in legend.get_texts()]
        for name in FIGURES
    }  # fmt: skip
    assert keys["stopped_server"] == ["from when it was due", "timed on the wire", "theory"]
    assert keys["schedule"] == ["due", "sent", "theory"]
    beside, *_ = drawn["generator_busy"].legends
    assert [text.get_text() for text in beside.get_texts()] == [
        "lean, closed loop", "lean, open loop", "redis-py, closed loop"
    ]  # fmt: skip


def test_theory_lies_on_what_was_recorded_and_the_wire_far_below(drawn: dict[str, Figure]) -> None:
    shares, steps = drawn["stopped_server"].axes
    recorded, wire, theory = (
        line for line in sorted(shares.get_lines(), key=lambda line: line.get_zorder())
        if len(line.get_xdata()) > 50
    )  # fmt: skip
    at = [0.9, 0.95, 0.99]
    for line, told in ((recorded, [0.4, 0.9, 1.3]), (theory, [0.4, 0.9, 1.3]), (wire, [0, 0, 0])):
        x, y = line.get_data()
        found = [y[next(i for i, share in enumerate(x) if share >= wanted)] for wanted in at]
        assert found == pytest.approx(told, abs=0.03)
    (longest,) = steps.get_lines()
    assert max(longest.get_ydata()) == pytest.approx(1.4, abs=0.01)


def test_each_invalid_measurement_is_crossed_out(quiet: Store, cells: pd.DataFrame) -> None:
    changed = invalid("b")(invalid("ceiling")(cells))
    made = instrument.figures(changed, Changed(quiet, changed))  # type: ignore[arg-type]

    def crosses(axes: Any) -> int:
        return sum(len(line.get_xdata()) for line in axes.get_lines() if line.get_marker() == "x")

    assert crosses(made["generator_busy"].axes[0]) == 2
    assert crosses(made["same_cell"].axes[1]) == len(instrument.COMPARED)
    for name in ("generator_busy", "same_cell"):
        keys = [text.get_text() for legend in made[name].legends for text in legend.get_texts()]
        assert "crossed out: invalid, a gate failed" in keys


def test_cells_of_every_experiment_are_audited(tmp_path: Path) -> None:
    folder = synthetic.store(
        tmp_path / "run", "smoke", 1, (pool_sweep, instrument),
        wanted=lambda cell: cell.experiment == "pool_sweep" or cell.arm == "schedule",
    )  # fmt: skip
    store = Store.open(folder)
    cells = store.cells()
    own = cells[cells["experiment"] == "instrument"]
    said = instrument.findings(own, store)
    assert f"of {len(cells)} cells" in said["generator_busy"]
    assert f"pool within 1 % in {len(cells)} of {len(cells)} cells" in said["little_all_cells"]


def test_the_table_has_a_row_for_each_part_and_setting(cells: pd.DataFrame) -> None:
    table = instrument.tables(cells)
    assert len(table) == len(STANDARD.cells) + len(STANDARD.once)
    (proof,) = table[table["part"] == "proof"].to_dict("records")
    assert (proof["p99 ms"], proof["valid"], proof["worker %"]) == (1300, "1 of 1", 1)
    failed = instrument.tables(invalid("b")(cells))
    assert failed.loc[failed["part"] == "b", "valid"].item() == "4 of 5"
    assert instrument.tables(cells.head(0)).empty


@pytest.mark.parametrize(("arm", "claim"), [("schedule", "I3"), ("capacity", "I4")])
def test_what_the_machine_held_back_is_not_held_against_the_generator(
    quiet: Store, cells: pd.DataFrame, arm: str, claim: str
) -> None:
    for bound, outcome in (("machine", "undecided"), ("generator", "supported")):
        changed = cells.copy()
        changed.loc[changed["arm"] == arm, "bound_by"] = bound
        verdict = claims(Changed(quiet, changed))[claim]
        assert verdict.outcome == outcome
