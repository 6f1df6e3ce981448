"""A run as its report tells it: what was asked, what was measured, what holds, how sure that is,
and how to do it again. `report.html` and `summary.md` are two ways to write it down."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from bench.analysis.gate_table import gate_table
from bench.analysis.replicates import is_known, last_attempts
from bench.analysis.sentences import counted
from bench.analysis.statistics import RATIOS, outside, times_the_data
from bench.experiments import discover
from bench.figures.units import Unit, si
from bench.model import Estimate, Settings, Verdict
from bench.report.drawing import Drawn
from bench.report.page import environment_rows, invalid_cells
from bench.report.tables import certificate_rows, planned, readable
from bench.report.verdicts import Claim, by_claim
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
_SI_UNITS: dict[str, Unit] = {"s": "s", "/s": "/s", "share": "share"}


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
        order = ("supported", "refuted", "undecided", "not run")
        return {name: outcomes.count(name) for name in order if name in outcomes}


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
        f"{counted(len(last), 'cell')} with a last attempt, {bad} of them invalid; bound {limits}"
    )


def _reproduce(store: Store) -> list[str]:
    """The commands that make such a run again."""
    settings, commit = stored_settings(store.folder), store.manifest.get("git_commit")
    check_out = [f"git checkout {commit[:12]}"] if commit else []
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


# Figures of a verdict


def deciding(verdict: Verdict) -> tuple[str, Estimate] | None:
    """The estimate that a verdict turns on, with its name; None where none is known.

    Of those that the rule holds against limits: of an open verdict the one that lacks most, of a
    refuted one that which lies furthest out, of a supported one that which is nearest to a limit.
    """
    known = {name: each for name, each in verdict.estimates.items() if is_known(each)}
    held = [name for name in verdict.limits if name in known] or list(known)[:1]
    if not held:
        return None
    keys: dict[str, Callable[[Estimate, tuple[float, ...]], float]] = {
        "undecided": times_the_data,
        "refuted": outside,
        "supported": lambda found, limits: -abs(outside(found, limits)),
    }
    by = keys[verdict.outcome]
    name = max(held, key=lambda each: by(known[each], verdict.limits.get(each, ())))
    return name, known[name]


def spoken(value: float, unit: str) -> str:
    """A value with its unit, three digits."""
    if unit in _SI_UNITS:
        return si(value, _SI_UNITS[unit])
    return f"{_number(value)} {unit}".strip()


def _number(value: float) -> str:
    said = f"{value:#.3g}".rstrip(".") if 0 < abs(value) < 1e3 else f"{value:,.0f}"
    return said.replace("-", "−")


def interval(estimate: Estimate) -> str:
    """'1.20 × (0.90 to 1.40)': a value, and its interval where it has one."""
    value = spoken(estimate.value, estimate.unit)
    if estimate.low == estimate.high:
        return value
    own_unit = estimate.unit in _SI_UNITS  # milliseconds may stand beside seconds
    low, high = (
        spoken(end, estimate.unit) if own_unit else _number(end)
        for end in (estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})"


def limits_said(verdict: Verdict) -> str:
    """The limits of the deciding estimate; empty where it has none."""
    found = deciding(verdict)
    limits = verdict.limits.get(found[0], ()) if found else ()
    if not found or not limits:
        return ""
    said = " and ".join(spoken(limit, found[1].unit) for limit in limits)
    return f"limit {said}" if len(limits) == 1 else f"limits {said}"


class Place(NamedTuple):
    """Where things lie on a strip from 0 to 100: an interval, its value, and the rule's limits."""

    low: float
    value: float
    high: float
    limits: tuple[float, ...]


MARGIN = 0.12  # of the strip, left free at either end


def strip(verdict: Verdict) -> Place | None:
    """The deciding estimate beside the limits of its rule, ratios on logs; None where it has no
    limit to be drawn beside, or more than an interval can be told from."""
    found = deciding(verdict)
    if found is None or not verdict.limits.get(found[0]):
        return None
    name, estimate = found
    ends = [estimate.low, estimate.value, estimate.high, *verdict.limits[name]]
    if estimate.unit in RATIOS and min(ends) > 0:
        ends = [math.log(end) for end in ends]
    return _placed(ends)


def _placed(ends: list[float]) -> Place | None:
    least, span = min(ends), max(ends) - min(ends)
    if not (math.isfinite(span) and span > 0):
        return None
    free = MARGIN * span
    low, value, high, *limits = (100 * (end - least + free) / (span + 2 * free) for end in ends)
    return Place(low, value, high, tuple(limits))
