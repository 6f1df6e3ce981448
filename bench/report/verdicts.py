"""The claims, judged from a run's stored cells; and what would decide those that are open."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from types import ModuleType
from typing import NamedTuple, get_args

import pandas as pd

from bench.analysis.regions import ENOUGH_REPLICATES
from bench.analysis.replicates import APPARATUS, REPLICATES_NEEDED, is_known, last_attempts
from bench.analysis.sentences import counted, not_run
from bench.experiments import chosen, discover
from bench.model import Outcome, Verdict
from bench.report.deciding import Way, ways
from bench.store import Store

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)  # in the order in which they are told
NOT_RUN: Outcome = "not run"


class Claim(NamedTuple):
    """A claim as a whole: the verdicts on its parts, or on the environments it was tried in."""

    id: str
    statement: str
    experiment: str
    verdicts: tuple[Verdict, ...]

    @property
    def outcome(self) -> str:
        """One for all parts, or how many of them came out how."""
        outcomes = Counter(verdict.outcome for verdict in self.verdicts)
        if len(outcomes) == 1:
            return str(*outcomes)
        return ", ".join(f"{outcomes[each]} {each}" for each in OUTCOMES if each in outcomes)


def judge(store: Store, experiments: Iterable[str]) -> list[Verdict]:
    """Every claim of these experiments. A smoke run decides nothing.

    Raises PreflightError for an experiment that this version does not have.
    """
    cells = store.cells()
    return [
        verdict
        for module in chosen(tuple(experiments))
        for verdict in judge_one(module, cells[cells["experiment"] == module.NAME], store)
    ]


def judge_one(module: ModuleType, own: pd.DataFrame, store: Store) -> list[Verdict]:
    """Every claim of an experiment, from its `own` cells."""
    verdicts = [_finished(verdict, module, own, store) for verdict in module.claims(own, store)]
    if store.manifest.get("settings", {}).get("profile") == "smoke":
        return [_withheld(verdict) for verdict in verdicts]
    return verdicts


def judge_all(store: Store) -> list[Verdict]:
    """Every claim there is, those of experiments that the run does not hold as not run."""
    return judge(store, store.experiments()) + absent(store)


def absent(store: Store) -> list[Verdict]:
    """The claims of experiments that the run does not hold, as not run."""
    held = store.experiments()
    modules = [module for name, module in discover().items() if name not in held]
    return [each for module in modules for each in _absent(module, store)]


def decide(store: Store) -> list[Verdict]:
    """Judge all there is, and write verdicts.json."""
    verdicts = judge_all(store)
    store.note_verdicts(verdicts)
    return verdicts


def by_claim(verdicts: Iterable[Verdict]) -> list[Claim]:
    """The verdicts under the claims that they are parts of, in the order of the claims' ids."""
    verdicts = list(verdicts)
    found = []
    for name, module in discover().items():
        own = [verdict for verdict in verdicts if verdict.experiment == name]
        for id_, statement in module.CLAIMS.items():
            parts = tuple(v for v in own if claim_of(v.claim, module) == id_)
            if parts:
                found.append(Claim(id_, statement, name, parts))
    return sorted(found, key=lambda claim: _order(claim.id))


def claim_of(part: str, experiment: ModuleType) -> str:
    """The id of the claim that a verdict is a part of: the longest that it begins with."""
    ids: list[str] = [id_ for id_ in experiment.CLAIMS if part.startswith(id_)]
    return max(ids, key=len)


def _order(id_: str) -> tuple[str, int, str]:
    """C9 comes before C9b, and that before C10; the instrument's own after them."""
    kind, number, part = re.fullmatch(r"([A-Z]+)(\d+)(.*)", id_).groups()  # type: ignore[union-attr]
    return kind, int(number), part


def _absent(module: ModuleType, store: Store) -> list[Verdict]:
    why = f"the run holds no cell of it: {_measuring(module.NAME, store)}"
    return [
        Verdict(id_, statement, "", NOT_RUN, why, {}, (), experiment=module.NAME)
        for id_, statement in module.CLAIMS.items()
    ]


def _finished(verdict: Verdict, module: ModuleType, cells: pd.DataFrame, store: Store) -> Verdict:
    """With what stands beside every verdict: who judged, its doubts, and what it still needs."""
    own = last_attempts(cells[cells["cell"].isin(verdict.cells)])
    verdict = replace(_with_doubts(verdict, own), experiment=module.NAME)
    if verdict.outcome != "undecided":
        return replace(verdict, needs="")
    lacking = not_run(store.manifest, module.NAME)
    if lacking and not any(each.n for each in verdict.estimates.values()):
        return replace(verdict, outcome=NOT_RUN, reason=lacking, needs="")
    return replace(verdict, needs=verdict.needs or _needs(verdict, own, store))


def _measuring(experiment: str, store: Store) -> str:
    """What measures it: completing this run, or another."""
    asked = store.manifest.get("settings", {}).get("only") or [experiment]
    if store.manifest.get("status") != "complete" and experiment in asked:
        return f"`make bench RESUME=results/{store.folder.resolve().name}`"
    return f"`make bench ONLY={experiment}`"


def _with_doubts(verdict: Verdict, own: pd.DataFrame) -> Verdict:
    """What was only reported of its cells is said beside it: stalls, steal, others' work."""
    doubtful = int((own["doubts"] != "").sum()) if "doubts" in own else 0
    if not doubtful:
        return verdict
    of = counted(len(own), "measurement")
    return replace(
        verdict, reason=f"{verdict.reason} (stalls or others' work in {doubtful} of its {of})"
    )


def _needs(verdict: Verdict, own: pd.DataFrame, store: Store) -> str:
    """What would decide it: cells at all, more of them, other cores, or more replicates."""
    measuring = _measuring(verdict.experiment, store)
    if own.empty:
        return f"its cells, which this run does not hold: {measuring}"
    held = [verdict.estimates[name] for name in verdict.claimed if name in verdict.estimates]
    open_ways = ways(verdict)
    if not open_ways or not all(map(is_known, held)):
        return _more_evidence(own, measuring)
    return _more_replicates(verdict, min(open_ways, key=lambda way: way.times(verdict)))


def _more_evidence(own: pd.DataFrame, measuring: str) -> str:
    """Where the measurements themselves are no evidence: invalid, bound by the rig, or too few."""
    valid = own[own["valid"]]
    held = valid[valid["bound_by"].isin(APPARATUS)]
    if valid.empty:
        return f"its {counted(len(own), 'measurement')} without a failed gate, on a quieter machine"
    if valid["block"].nunique() < REPLICATES_NEEDED:
        return f"{REPLICATES_NEEDED} replicates or more: {measuring}"
    if len(held):
        by = ", ".join(held["bound_by"].value_counts().index)
        return f"a machine whose own limit ({by}) does not set the figure: more or faster cores"
    return "not more of the same, but what its reason names"


def _more_replicates(verdict: Verdict, way: Way) -> str:
    """Which figure takes the most on the shortest way to an outcome, and how much of it."""
    factor = way.times(verdict)
    if math.isinf(factor):
        return "no number of replicates, if the figures stay as they are; a quieter machine may"
    name = way.binding(verdict)
    if verdict.estimates[name].n < ENOUGH_REPLICATES:
        return (
            f"more replicates of “{name}”: from so few its scatter is not known well enough to say "
            "how many; or a quieter machine"
        )
    return (
        f"about {factor:.1f} × the replicates, if “{name}” stays as it is, and then it is "
        f"{way.outcome}; or a quieter machine"
    )


def _withheld(verdict: Verdict) -> Verdict:
    if verdict.outcome == NOT_RUN:
        return verdict
    reason = f"a smoke run decides nothing ({verdict.reason})"
    needs = f"a standard run: `make bench ONLY={verdict.experiment}`"
    return replace(verdict, outcome="undecided", reason=reason, needs=needs)
