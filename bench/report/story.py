"""A run as its report tells it: what was asked, what was measured, what holds, how sure that is,
and how to do it again. `report.html` and `summary.md` are two ways to write it down."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from bench.analysis.gate_table import gate_table
from bench.analysis.replicates import last_attempts
from bench.analysis.sentences import counted
from bench.experiments import discover
from bench.model import Settings, Verdict
from bench.report.drawing import Drawn
from bench.report.page import environment_rows, invalid_cells
from bench.report.tables import certificate_rows, planned, readable
from bench.report.verdicts import OUTCOMES, Claim, by_claim
from bench.store import Store, stored_settings

# What a reviewer looks at first, in this order.
HEADLINE = (
    ("pool_sweep", "concurrency_qps", "Concurrency against QPS, per pool size"),
    ("sizing_rule", "sizing_rule", "The pool needed, against calls in flight and against QPS"),
    ("idle_eviction", "idle_matrix", "Which defence stops which trap"),
    ("idle_eviction", "idle_timeline", "The incident, before the fix and after it"),
    ("connection_setup", "setup_phases", "What opening a connection takes, phase by phase"),
)
NOT_TESTABLE = (
    "how common such incidents are",
    "what sizing a pool costs a team",
)


class Headline(NamedTuple):
    """One of the plots that are looked at first; `drawn` None: this run does not hold it."""

    title: str
    experiment: str
    drawn: Drawn | None


class Section(NamedTuple):
    """An experiment: its question, and its plots beside the headline ones."""

    experiment: str
    question: str
    figures: tuple[Drawn, ...]


@dataclass(frozen=True, slots=True)
class Story:
    """All that is told of a run, in the order in which it is told."""

    name: str
    subtitle: str
    missing: tuple[str, ...]
    claims: tuple[Claim, ...]
    headlines: tuple[Headline, ...]
    sections: tuple[Section, ...]
    certificate: tuple[dict[str, str], ...]
    gates: tuple[dict[str, str], ...]
    invalid: pd.DataFrame
    counts: str
    environment: dict[str, str]
    reproduce: tuple[str, ...]

    @property
    def tally(self) -> dict[str, int]:
        """How many verdicts came out how."""
        outcomes = [verdict.outcome for claim in self.claims for verdict in claim.verdicts]
        return {name: outcomes.count(name) for name in OUTCOMES if name in outcomes}


def tell(store: Store, verdicts: Sequence[Verdict], drawn: Sequence[Drawn]) -> Story:
    """The story of a run from its stored cells, verdicts and drawn figures."""
    cells, manifest = store.cells(), store.manifest
    return Story(
        store.folder.resolve().name,
        _subtitle(cells, manifest),
        tuple(_missing(store)),
        tuple(by_claim(verdicts)),
        tuple(_headlines(drawn)),
        tuple(_sections(store, drawn)),
        tuple(certificate_rows(manifest.get("certificate", []))),
        tuple(_gates(cells)),
        invalid_cells(cells),
        _counts(cells),
        {name: text for name, text in environment_rows(manifest).items() if text},
        tuple(_reproduce(store)),
    )


def _subtitle(cells: pd.DataFrame, manifest: dict[str, Any]) -> str:
    """What ran where, in one line."""
    profile = manifest.get("settings", {}).get("profile", "unknown")
    servers = " and ".join(f"{s['flavour']} {s['version']}" for s in manifest.get("servers", []))
    cores = manifest.get("cores_usable")
    machine = f"{counted(cores, 'core')} ({manifest.get('cpu_model', 'unknown')})" if cores else ""
    parts = (
        f"{profile} run",
        f"begun {_moment(manifest.get('started'))}",
        servers,
        machine,
        f"{counted(len(cells), 'measurement')} of {counted(cells['cell'].nunique(), 'cell')}",
    )
    return " · ".join(filter(None, parts))


def _moment(stored: str | None) -> str:
    """'2026-01-31T12:30:59Z' as people write it."""
    return f"{stored[:10]} {stored[11:16]} UTC" if stored else "at an unknown time"


def _missing(store: Store) -> list[str]:
    """What a reader must know that is not here: unfinished, without an experiment, not run."""
    manifest, held = store.manifest, store.experiments()
    said = []
    if manifest.get("status") != "complete":
        done = len(last_attempts(store.cells()))
        status = "running, or was killed" if manifest.get("status") == "running" else "unfinished"
        said.append(f"This run is {status}: {done:,} of {planned(store):,} cells are there")
    if absent := [name for name in discover() if name not in held]:
        said.append(f"It holds no cell of {', '.join(absent)}")
    said += [
        f"Not run: {each['experiment']}, {each['what']} ({each['why']})"
        for each in manifest.get("not_run", [])
    ]
    if not manifest.get("certificate"):
        said.append("It holds no certificate of the instrument")
    return said


def _headlines(drawn: Sequence[Drawn]) -> list[Headline]:
    by_name = {(each.experiment, each.name): each for each in drawn}
    return [Headline(title, of, by_name.get((of, name))) for of, name, title in HEADLINE]


def _sections(store: Store, drawn: Sequence[Drawn]) -> list[Section]:
    shown = {(of, name) for of, name, _ in HEADLINE}
    return [
        Section(
            name,
            discover()[name].QUESTION,
            tuple(d for d in drawn if d.experiment == name and (name, d.name) not in shown),
        )
        for name in discover()
        if name in store.experiments()
    ]


def _gates(cells: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {
            "gate": row["gate"],
            "measurements": f"{row['cells']:,}",
            "failed": f"{row['failed']:,}",
            **{name: _known(row[name]) for name in ("lowest", "median", "highest")},
        }
        for row in gate_table(cells).to_dict("records")
    ]


def _known(value: float) -> str:
    return "–" if math.isnan(value) else readable(value)


def _counts(cells: pd.DataFrame) -> str:
    """How the cells fared: valid or not, and what set their limit."""
    last = last_attempts(cells)
    bound = last["bound_by"].value_counts()
    limits = ", ".join(f"{count:,} by {part}" for part, count in bound.items())
    bad = int((~last["valid"]).sum())
    return (
        f"{counted(len(last), 'measurement')} without the attempts that were repeated, "
        f"{bad} of them invalid; bound {limits}"
    )


def _reproduce(store: Store) -> list[str]:
    """The commands that make such a run again."""
    settings, commit = stored_settings(store.folder), store.manifest.get("git_commit")
    dirty = "  # and changes that were not committed" if store.manifest.get("git_dirty") else ""
    check_out = [f"git checkout {commit[:12]}{dirty}"] if commit else []
    owned = store.manifest.get("settings", {}).get("owned_server", True)
    url = "" if owned else "REDIS_URL=… "
    return [*check_out, "make setup", f"{url}.venv/bin/bench run {_options(settings)}"]


def _options(settings: Settings) -> str:
    """The options that differ from the defaults, and those that everybody asks for."""
    usual, given = Settings(), settings
    work, usual_work = given.workload, usual.workload
    asked = {
        "profile": given.profile,
        "only": ",".join(given.only) or None,
        "workers": given.workers if given.workers != usual.workers else None,
        "seed": given.seed,
        "time-scale": given.time_scale if given.time_scale != usual.time_scale else None,
        "keys": work.keys if work.keys != usual_work.keys else None,
        "value-bytes": work.value_bytes if work.value_bytes != usual_work.value_bytes else None,
        "get-share": work.get_share if work.get_share != usual_work.get_share else None,
    }
    return " ".join(f"--{n} {shlex.quote(str(v))}" for n, v in asked.items() if v is not None)
