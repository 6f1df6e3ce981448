"""A run's claims: each has an outcome, what it rests on and, where it is open, what it needs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import synthetic

from bench.analysis.replicates import is_known
from bench.experiments import discover, pipelining, pool_sweep
from bench.model import Estimate, Region, Verdict
from bench.report.deciding import decided_by, deciding, interval, strip, ways
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
        {"ratio": Region(low=1.0)}, experiment="pipelining",
    )  # fmt: skip
    return replace(known, **changes)


@pytest.fixture(scope="module")
def judged() -> list[Verdict]:
    return judge_all(Store.open(REFERENCE))


def test_a_verdict_comes_back_whole_from_json(judged: Sequence[Verdict]) -> None:
    for each in judged:
        back = Verdict.of(json.loads(json.dumps(asdict(each))))
        assert repr(back) == repr(each)  # a figure that is not known equals none, not even itself
    assert any(each.claimed for each in judged)
    assert any(each.opposed for each in judged)


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
        assert set(each.claimed) <= set(each.estimates), each.claim
        assert set(each.opposed) <= set(each.claimed), each.claim
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


SAME = Region(0.95, 1.05)
THREE = {
    "near": Estimate(1.04, 1.01, 1.07, "×", 5, log=True),
    "open": Estimate(1.045, 0.9, 1.2, "×", 5, log=True),
    "out": Estimate(1.5, 1.4, 1.6, "×", 5, log=True),
}


def turns_on(of: Verdict, outcome: str) -> str:
    found = deciding(replace(of, outcome=outcome))  # type: ignore[arg-type]
    assert found is not None
    return found[0]


def test_a_refuted_verdict_turns_on_what_lies_furthest_out_of_what_is_claimed() -> None:
    of = verdict(estimates=THREE, claimed=dict.fromkeys(THREE, SAME))
    assert turns_on(of, "refuted") == "out"
    inside = {name: THREE[name] for name in ("near", "open")}
    assert turns_on(verdict(estimates=inside, claimed=dict.fromkeys(inside, SAME)),
                    "supported") == "open"  # fmt: skip


def test_a_refuted_verdict_never_turns_on_what_supports_it() -> None:
    """As C1: a rate far above what is claimed, and CPU that is above what it may be."""
    of = verdict(
        outcome="refuted",
        estimates={"rate": Estimate(705e3, 577e3, 862e3, "/s", 5, log=True),
                   "CPU": Estimate(1.2, 1.1, 1.3, "×", 5, log=True)},
        claimed={"rate": Region(low=10e3), "CPU": Region(high=1.05)},
    )  # fmt: skip
    assert turns_on(of, "refuted") == "CPU"
    assert decided_by(of) == "CPU: 1.20 × (1.10 to 1.30); claimed: 1.05 or less"


def test_what_refutes_may_be_another_region_for_one_or_for_all() -> None:
    """As C14: a ratio below one supports, one above 0.8 refutes; as C2: all are the same."""
    spike = {"burst": Estimate(3.19, 2.85, 3.57, "×", 3, log=True),
             "step": Estimate(1.0, 0.9, 1.1, "×", 3, log=True)}  # fmt: skip
    one = verdict(estimates=spike, claimed=dict.fromkeys(spike, Region(high=1.0)),
                  opposed=dict.fromkeys(spike, Region(low=0.8)))  # fmt: skip
    assert turns_on(one, "refuted") == "burst"
    assert "claimed: 1 or less; refuted: 0.8 or more" in decided_by(replace(one, outcome="refuted"))
    same = {name: THREE[name] for name in ("near", "open")}
    all_ = verdict(estimates=same, claimed=dict.fromkeys(same, Region(low=1.0)),
                   opposed=dict.fromkeys(same, SAME), opposed_by_all=True)  # fmt: skip
    assert turns_on(all_, "refuted") == "open"


def test_an_open_verdict_turns_on_the_last_to_tell_on_the_shortest_way() -> None:
    wide = {"a": Estimate(1.02, 0.97, 1.07, "×", 5, log=True),
            "b": Estimate(1.06, 0.9, 1.25, "×", 5, log=True)}  # fmt: skip
    of = verdict(estimates=wide, claimed=dict.fromkeys(wide, Region(low=1.0)))
    assert turns_on(of, "undecided") == "b"
    support, refute = ways(of)
    assert 1 < support.times(of) < math.inf
    assert refute.times(of) == math.inf  # neither lies on that side


def test_a_count_beyond_what_is_claimed_decides_before_any_interval() -> None:
    counted = Estimate(480.0, 480.0, 480.0, "", 5)
    of = verdict(
        outcome="refuted",
        estimates={"ratio": OPEN, "descriptors": counted},
        claimed={"ratio": SAME, "descriptors": Region(4_731, 5_229)},
    )
    assert decided_by(of) == "descriptors: 480; claimed: 4,731 to 5,229"


def test_digits_tell_an_interval_from_the_end_that_it_leaves_out() -> None:
    close = Estimate(1.12, 1.0012, 1.26, "×", 4, log=True)
    of = verdict(
        outcome="supported", estimates={"ratio": close}, claimed={"ratio": Region(low=1.0)}
    )
    assert "(1.001 to" in decided_by(of)


def test_what_is_not_run_is_told_by_its_reason_whatever_was_measured_of_it() -> None:
    of = verdict(outcome="not run", reason="not run: Envoy (no wheel)",
                 estimates={"ratio": Estimate(1.1, math.nan, math.nan, "×", 1)})  # fmt: skip
    assert deciding(of) is None
    assert decided_by(of) == "not run: Envoy (no wheel)"


def test_what_was_measured_once_is_not_called_not_run(tmp_path: Path) -> None:
    """Something of the experiment's plan could not be run; this claim's cells could."""
    synthetic.store(tmp_path / "run", "standard", 1, (pipelining,))
    manifest = tmp_path / "run" / "run.json"
    lack = {"experiment": "pipelining", "what": "a port range", "why": "old kernel", "cells": 1}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "not_run": [lack]}))
    found = {each.claim: each for each in judge_all(Store.open(tmp_path / "run"))}
    assert found["C1"].outcome == "undecided"
    assert "replicates or more" in found["C1"].needs


def test_what_is_not_known_has_no_interval_and_no_strip() -> None:
    blank = Estimate(float("nan"), float("nan"), float("nan"), "×", 0)
    assert deciding(verdict(estimates={"ratio": blank})) is None
    assert strip(verdict(estimates={"ratio": blank})) is None
    assert interval(Estimate(7.0, float("nan"), float("nan"), "ms", 1)) == "7.00 ms"


def test_a_strip_keeps_order_and_lies_within() -> None:
    place = strip(verdict())
    assert place is not None
    assert 0 < place.low < place.ends[0] < place.value < place.high < 100
    assert place.claimed == (place.ends[0], 100.0)


def test_verdicts_json_holds_all_of_it(tmp_path: Path) -> None:
    synthetic.store(tmp_path / "run", "standard", 5, (pipelining,))
    store = Store.open(tmp_path / "run")
    store.note_verdicts(judge_all(store))
    stored = json.loads((tmp_path / "run" / "verdicts.json").read_text())
    assert {"claim", "outcome", "reason", "rule", "estimates", "cells", "needs", "experiment",
            "claimed", "opposed"} <= set(stored[0])  # fmt: skip
    assert {each["outcome"] for each in stored} <= {"supported", "refuted", "undecided", "not run"}
