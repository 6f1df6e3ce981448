"""The claims of a run's experiments, judged from its stored cells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bench.experiments import discover
from bench.model import Verdict
from bench.store import Store


def judge(store: Store, experiments: Iterable[str]) -> list[Verdict]:
    """Every claim of these experiments. A smoke run decides nothing."""
    cells, modules = store.cells(), discover()
    verdicts = [
        verdict
        for name in experiments
        for verdict in modules[name].claims(cells[cells["experiment"] == name], store)
    ]
    if store.manifest.get("settings", {}).get("profile") == "smoke":
        return [_withheld(verdict) for verdict in verdicts]
    return verdicts


def decide(store: Store) -> list[Verdict]:
    """Judge all there is, and write verdicts.json."""
    verdicts = judge(store, store.experiments())
    store.note_verdicts(verdicts)
    return verdicts


def _withheld(verdict: Verdict) -> Verdict:
    reason = f"a smoke run decides nothing ({verdict.reason})"
    return replace(verdict, outcome="undecided", reason=reason)
