"""A run's claims: each has an outcome, what it rests on and, where it is open, what it needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import synthetic

from bench.analysis.replicates import is_known
from bench.experiments import discover, pipelining, pool_sweep
from bench.model import Estimate, Verdict
from bench.report.deciding import decided_by, deciding, interval, strip
from bench.report.verdicts import by_claim, claim_of, judge_all
from bench.store import Store

REFERENCE = Path(__file__).resolve().parents[1] / "results" / "reference"
DESIGNED = (
    "C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9", "C9b", "C10", "C11", "C12", "C12b",
    "C13", "C14",
)  # fmt: skip
OPEN = Estimate(1.02, 0.97, 1.07, "×", 5)


def verdict(**changes: object) -> Verdict:
    known = Verdict(
        "C1", "It holds", "by a rule", "undecided", "because", {"ratio": OPEN}, ("a", "b"),
        {"ratio": (1.0,)}, experiment="pipelining",
    )  # fmt: skip
    return replace(known, **changes)


@pytest.fixture(scope="module")
def judged() -> list[Verdict]:
    return judge_all(Store.open(REFERENCE))


def test_every_claim_of_the_design_has_an_outcome_on_the_reference(
    judged: Sequence[Verdict],
) -> None:
    claims = {claim.id: claim for claim in by_claim(judged)}
    assert [id_ for id_ in claims if id_.startswith("C")] == list(DESIGNED)
    assert [id_ for id_ in claims if not id_.startswith("C")] == ["I1", "I2", "I3", "I4"]
    assert sum(len(claim.verdicts) for claim in claims.values()) == len(judged)
    for claim in claims.values():
        assert claim.experiment in discover()
        assert claim.outcome
        assert all(each.outcome in claim.outcome for each in claim.verdicts)


def test_every_verdict_of_the_reference_has_interval_and_cells_or_what_would_decide_it(
    judged: Sequence[Verdict],
) -> None:
    for each in judged:
        assert each.outcome != "not run", each.claim
        assert each.cells, each.claim
        assert all((each.rule, each.reason, each.statement)), each.claim
        assert bool(each.needs) == (each.outcome == "undecided"), each.claim
        if not each.claim.startswith("I"):
            assert any(is_known(found) for found in each.estimates.values()), each.claim
        assert set(each.limits) <= set(each.estimates), each.claim
        assert decided_by(each)


def test_a_verdict_belongs_to_the_longest_claim_that_it_begins_with() -> None:
    idle = discover()["idle_eviction"]
    assert claim_of("C9b", idle) == "C9b"
    assert claim_of("C11b", idle) == "C11"
    assert claim_of("C12", idle) == "C12"


def test_claims_of_what_a_run_does_not_hold_are_not_run_and_say_how(tmp_path: Path) -> None:
    synthetic.store(tmp_path / "run", "smoke", 1, (pool_sweep,))
    found = {each.claim: each for each in judge_all(Store.open(tmp_path / "run"))}
    assert set(DESIGNED) <= set(found)
    assert {each.outcome for each in found.values()} == {"not run"}
    assert "make bench ONLY=stuck_call" in found["C8"].reason


def test_of_a_run_that_was_interrupted_it_is_told_to_complete_it(tmp_path: Path) -> None:
    synthetic.store(tmp_path / "run", "standard", 1, (pipelining,))
    manifest = tmp_path / "run" / "run.json"
    kept = json.loads(manifest.read_text())
    kept["settings"]["only"] = ["pipelining", "stuck_call"]
    manifest.write_text(json.dumps({**kept, "status": "interrupted"}))
    found = {each.claim: each for each in judge_all(Store.open(tmp_path / "run"))}
    assert "make bench RESUME=results/run" in found["C1"].needs
    assert "make bench RESUME=results/run" in found["C8"].reason
    assert "make bench ONLY=deploy_spike" in found["C14"].reason


def test_what_a_machine_could_not_run_is_not_run_and_says_why(tmp_path: Path) -> None:
    shutil.copytree(REFERENCE, tmp_path / "run", ignore=shutil.ignore_patterns("figures"))
    table = tmp_path / "run" / "cells.parquet"
    cells = pq.read_table(table)
    pq.write_table(cells.filter(pc.not_equal(cells["via"], "twemproxy")), table)
    manifest = tmp_path / "run" / "run.json"
    lack = {"experiment": "shared_pool", "what": "twemproxy", "why": "not on PATH", "cells": 6}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "not_run": [lack]}))
    found = {each.claim: each for each in judge_all(Store.open(tmp_path / "run"))}
    assert found["C7c"].outcome == found["C7d"].outcome == "not run"
    assert "twemproxy (not on PATH)" in found["C7c"].reason
    assert found["C7"].outcome != "not run"
    assert found["C8"].outcome != "not run"


def test_an_open_verdict_turns_on_what_lacks_most_and_a_refuted_one_on_what_lies_furthest_out() -> (
    None
):
    estimates = {
        "near": Estimate(1.04, 1.01, 1.07, "×", 5),
        "open": Estimate(1.045, 0.9, 1.2, "×", 5),
        "out": Estimate(1.5, 1.4, 1.6, "×", 5),
    }
    of = verdict(estimates=estimates, limits=dict.fromkeys(estimates, (0.95, 1.05)))
    names = {
        outcome: deciding(replace(of, outcome=outcome))[0]  # type: ignore[index, arg-type]
        for outcome in ("undecided", "refuted", "supported")
    }
    assert names == {"undecided": "open", "refuted": "out", "supported": "open"}


def test_a_count_beyond_its_limits_decides_before_any_interval() -> None:
    counted = Estimate(480.0, 480.0, 480.0, "", 5)
    of = verdict(
        outcome="refuted",
        estimates={"ratio": OPEN, "descriptors": counted},
        limits={"ratio": (0.95, 1.05), "descriptors": (4_731, 5_229)},
    )
    assert decided_by(of) == "descriptors: 480; limits 4,731 and 5,229"


def test_what_is_not_known_has_no_interval_and_no_strip() -> None:
    blank = Estimate(float("nan"), float("nan"), float("nan"), "×", 0)
    assert deciding(verdict(estimates={"ratio": blank})) is None
    assert strip(verdict(estimates={"ratio": blank})) is None
    assert interval(Estimate(7.0, float("nan"), float("nan"), "ms", 1)) == "7.00 ms"


def test_a_strip_keeps_order_and_lies_within() -> None:
    place = strip(verdict())
    assert place is not None
    assert 0 < place.low < place.limits[0] < place.value < place.high < 100


def test_verdicts_json_holds_all_of_it(tmp_path: Path) -> None:
    synthetic.store(tmp_path / "run", "standard", 5, (pipelining,))
    store = Store.open(tmp_path / "run")
    store.note_verdicts(judge_all(store))
    stored = json.loads((tmp_path / "run" / "verdicts.json").read_text())
    assert {"claim", "outcome", "reason", "rule", "estimates", "cells", "needs", "experiment",
            "limits"} <= set(stored[0])  # fmt: skip
    assert {each["outcome"] for each in stored} <= {"supported", "refuted", "undecided", "not run"}
