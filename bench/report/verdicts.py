"""The claims of a run's experiments, judged from its stored cells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pandas as pd

from bench.analysis.replicates import last_attempts
from bench.analysis.sentences import counted
from bench.experiments import chosen
from bench.model import Verdict
from bench.store import Store


def judge(store: Store, experiments: Iterable[str]) -> list[Verdict]:
    """Every claim of these experiments. A smoke run decides nothing.

    Raises PreflightError for an experiment that this version does not have.
    """
    cells = store.cells()
    verdicts = [
        _with_doubts(verdict, cells)
        for module in chosen(tuple(experiments))
        for verdict in module.claims(cells[cells["experiment"] == module.NAME], store)
    ]
    if store.manifest.get("settings", {}).get("profile") == "smoke":
        return [_withheld(verdict) for verdict in verdicts]
    return verdicts


def decide(store: Store) -> list[Verdict]:
    """Judge all there is, and write verdicts.json."""
    verdicts = judge(store, store.experiments())
    store.note_verdicts(verdicts)
    return verdicts


def _with_doubts(verdict: Verdict, cells: pd.DataFrame) -> Verdict:
    """What was only reported of its cells is said beside it: stalls, steal, others' work."""
    own = last_attempts(cells[cells["cell"].isin(verdict.cells)])
    doubtful = int((own["doubts"] != "").sum()) if "doubts" in own else 0
    if not doubtful:
        return verdict
    of = counted(len(own), "measurement")
    return replace(
        verdict, reason=f"{verdict.reason} (stalls or others' work in {doubtful} of its {of})"
    )


def _withheld(verdict: Verdict) -> Verdict:
    reason = f"a smoke run decides nothing ({verdict.reason})"
    return replace(verdict, outcome="undecided", reason=reason)
