"""Two runs compared, for `bench compare`: what differs in cells, in experiments and in verdicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.comparison import (
    FIGURES,
    changes,
    differing,
    known_to_one,
    matched,
    no_longer_evidence,
    overall,
)
from bench.analysis.replicates import last_attempts
from bench.analysis.sentences import counted
from bench.experiments import chosen
from bench.model import PreflightError, Verdict
from bench.report.display import Display
from bench.report.labels import labels
from bench.report.verdicts import judge
from bench.store import Store, load_cells, without_nan

SIDES = ("before", "after")
# Of a manifest: what is part of the machine, and what else is worth telling where it differs.
MACHINE = ("architecture", "cpu_model", "cores", "cores_usable")
ENVIRONMENT = (
    *MACHINE, "memory_bytes", "kernel", "os", "servers", "python", "packages", "fd_limit_soft",
    "network", "short_time_slices", "settings", "git_commit", "git_dirty",
)  # fmt: skip


# What each step takes of two standard runs; the display finds the machine's own pace.
CELLS_S, JUDGE_S = 2.0, 3.0
DECIDED = ("supported", "refuted")
TURNED = {("supported", "refuted"), ("refuted", "supported"), *((d, "not run") for d in DECIDED)}


def compare(
    folders: tuple[Path, Path], only: tuple[str, ...], watcher: Display | None = None
) -> dict[str, Any]:
    """Everything that is told of two run folders, for programs; `only` these experiments, or all.

    Blocks for seconds. Raises PreflightError for what cannot be compared, with the reason.
    """
    watcher = watcher or Display(quiet=True)
    watcher.starts(3, CELLS_S + 2 * JUDGE_S, "steps of the comparison")
    if folders[0].resolve() == folders[1].resolve():
        raise PreflightError(f"{folders[0]} is named twice: name two runs")
    names = {module.NAME for module in chosen(only)}
    stores = [Store.open(folder) for folder in folders]
    tables = [last_attempts(load_cells(folder)) for folder in folders]
    _refuse_other_profiles(stores)
    tables = [table[table["experiment"].isin(names)] for table in tables]
    free = _changed_settings(stores)
    unknown = known_to_one(*_shared(tables))
    pairs = matched(tables[0], tables[1], (*free, *unknown))
    if pairs.empty:
        raise PreflightError(_why_none(tables, folders))
    found = changes(tables[0], tables[1], pairs)
    named = labels(tables[0], tables[0]["cell"].unique())
    found["label"] = found["cell"].map(named)
    watcher.did("cells compared", CELLS_S)
    return {
        **{side: _run(store, table, pairs[side])
           for side, store, table in zip(SIDES, stores, tables, strict=True)},
        "environment": (environment := _environment(stores)),
        "same_machine": not {row["what"] for row in environment} & {*MACHINE},
        "settings": free,
        "settings_known_to_one": unknown,
        **_counts(found, pairs),
        "figures": _by_figure(found),
        "overall": _overall(tables[0], tables[1], pairs, found),
        "changes": without_nan(_strongest_first(found).to_dict("records")),
        "no_longer_evidence": _no_longer_evidence(stores[1], tables, pairs, named),
        "verdicts": [] if unknown else _verdicts(stores, pairs["experiment"], watcher),
    }  # fmt: skip


def _refuse_other_profiles(stores: list[Store]) -> None:
    first, second = (store.manifest.get("settings", {}).get("profile") for store in stores)
    if first != second:
        raise PreflightError(
            f"{stores[0].folder} is of profile {first} and {stores[1].folder} of {second}, which "
            "measures for other lengths of time: compare runs of one profile"
        )


def _changed_settings(stores: list[Store]) -> list[str]:
    """What was set otherwise for a whole run, and tells no cell of it apart from another."""
    first, second = (_flat(store.manifest.get("settings", {})) for store in stores)
    names = ("workers", "workload.keys", "workload.value_bytes", "workload.get_share")
    shared = [name for name in names if name in first and name in second]
    return [name.rpartition(".")[2] for name in shared if first[name] != second[name]]


def _shared(tables: list[pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cells of experiments that both runs have."""
    both = set(tables[0]["experiment"]) & set(tables[1]["experiment"])
    first, second = (table[table["experiment"].isin(both)] for table in tables)
    return first, second


def _why_none(tables: list[pd.DataFrame], folders: tuple[Path, Path]) -> str:
    shared = _shared(tables)
    if shared[0].empty:
        told = " and ".join(
            f"{folder} has {', '.join(dict.fromkeys(table['experiment'])) or 'none of them'}"
            for folder, table in zip(folders, tables, strict=True)
        )
        return f"no experiment in common: {told}; measure the same with --only"
    settings = ", ".join(differing(*shared)) or "none alone, but some together"
    return f"the two runs share no cell: they differ in {settings}; measure both with one setting"


def _run(store: Store, cells: pd.DataFrame, ids: pd.Series[str]) -> dict[str, Any]:
    """`missing`: how many of its cells the other run lacks, by experiment."""
    lone = cells[~cells["cell"].isin(ids)].drop_duplicates("cell")
    return {
        "folder": str(store.folder),
        "status": store.manifest.get("status"),
        "started": store.manifest.get("started"),
        "measurements": len(cells),
        "cells": cells["cell"].nunique(),
        "invalid": int((~cells["valid"].astype(bool)).sum()),
        "not_in_the_other": lone["experiment"].value_counts().to_dict(),
    }


def _environment(stores: list[Store]) -> list[dict[str, Any]]:
    """What the manifests say otherwise; what only one of them tells is not known to differ."""
    first, second = (
        _flat({name: store.manifest[name] for name in ENVIRONMENT if name in store.manifest})
        for store in stores
    )
    return [
        {"what": name, "before": first[name], "after": second[name]}
        for name in first
        if name in second and first[name] != second[name]
    ]


def _flat(told: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in told.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {
            above + name: _servers(value) if name == "servers" else value
        }  # fmt: skip
    return flat


def _servers(servers: list[dict[str, str]]) -> str:
    return ", ".join(f"{server['flavour']} {server['version']}" for server in servers)


def _counts(found: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Any]:
    """In pairs of cells: those of equal settings, those that could be tested, those that the
    apparatus bounds; and in figures of them: those tested, and those that differ."""
    solid = found[~found["hollow"] & found["p"].notna()]
    return {
        "matched": len(pairs),
        "tested": solid["cell"].nunique(),
        "hollow": found.loc[found["hollow"], "cell"].nunique(),
        "tests": len(solid),
        "differs": int(found["differs"].sum()),
        "worse": int(found["worse"].sum()),
    }


def _no_longer_evidence(
    after: Store, tables: list[pd.DataFrame], pairs: pd.DataFrame, named: dict[str, str]
) -> list[dict[str, Any]]:
    """Cells that supported claims before and support none now, and why. One that a complete run
    lacks was not in its plan; one that an unfinished run lacks, of an experiment it began, is
    missing."""
    found = no_longer_evidence(tables[0], tables[1], pairs)
    if after.manifest.get("status") != "complete":
        begun = tables[0][tables[0]["experiment"].isin(pairs["experiment"])]
        lone = begun[~begun["cell"].isin(pairs["before"])].drop_duplicates("cell")
        found += [(*row, "missing") for row in lone[["experiment", "cell"]].itertuples(index=False)]
    return [
        {"experiment": experiment, "cell": cell, "label": named.get(cell, cell), "why": why}
        for experiment, cell, why in found
    ]


def _by_figure(found: pd.DataFrame) -> list[dict[str, Any]]:
    """`detectable`: in the median cell."""
    tested = found[~found["hollow"] & found["p"].notna()]
    rows = [
        {
            "figure": figure.column,
            "tests": len(own),
            "better": int((own["differs"] & ~own["worse"]).sum()),
            "worse": int(own["worse"].sum()),
            "detectable": float(own["detectable"].median()),
        }
        for figure in FIGURES
        if len(own := tested[tested["figure"] == figure.column])
    ]
    return list(without_nan(rows))


def _overall(
    before: pd.DataFrame, after: pd.DataFrame, pairs: pd.DataFrame, found: pd.DataFrame
) -> list[dict[str, Any]]:
    rows = [
        {
            "experiment": experiment, "figure": figure.column, "cells": cells, "blocks": ratio.n,
            "ratio": ratio.value, "low": ratio.low, "high": ratio.high,
        }
        for experiment, figure, cells, ratio in overall(before, after, pairs, found)
    ]  # fmt: skip
    return list(without_nan(rows))


def _strongest_first(found: pd.DataFrame) -> pd.DataFrame:
    """Those that differ first, and of them, and of the others, the largest factors."""
    size = found["ratio"].where(found["ratio"] > 1, 1 / found["ratio"])
    ordered = found.assign(size=size).sort_values(
        ["differs", "size"], ascending=False, kind="stable"
    )
    return ordered.drop(columns="size")


def _verdicts(
    stores: list[Store], experiments: Iterable[str], watcher: Display
) -> list[dict[str, Any]]:
    """Both runs judged now, by the same rules, whatever was stored; changed ones first.

    `turned`: decided before, and now its opposite or not asked. `lost`: decided before, and no
    longer: that may be nothing but a wider interval.
    """
    names = list(dict.fromkeys(experiments))
    judged = []
    for store in stores:
        watcher.does(f"judging the claims of {store.folder}")
        judged.append({verdict.claim: verdict for verdict in judge(store, names)})
        watcher.did(f"claims of {store.folder} judged", JUDGE_S)
    first, second = judged
    rows: list[dict[str, Any]] = [
        {"claim": claim, "before": _judged(first.get(claim)), "after": _judged(second.get(claim))}
        for claim in dict.fromkeys([*first, *second])
    ]
    for row in rows:
        outcomes = _outcome(row, "before"), _outcome(row, "after")
        row["changed"] = outcomes[0] != outcomes[1]
        row["turned"] = outcomes in TURNED
        row["lost"] = row["changed"] and outcomes[0] in DECIDED
    order = ("turned", "lost", "changed")
    return list(without_nan(sorted(rows, key=lambda row: [not row[name] for name in order])))


def _judged(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    kept = ("statement", "outcome", "reason", "estimates")
    return {name: value for name, value in asdict(verdict).items() if name in kept}


def _outcome(row: dict[str, Any], side: str) -> str | None:
    return row[side] and str(row[side]["outcome"])


def conditions(text: str) -> dict[str, float]:
    """What is to fail a comparison, as `worse:5%,verdict`: by name, the least change that counts.

    Raises PreflightError for what is neither.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, colon, least = part.strip().partition(":")
        if name not in ("worse", "verdict") or (colon and name == "verdict"):
            raise PreflightError(f"--fail-on “{part.strip()}”: it takes worse, worse:5%, verdict")
        found[name] = _share(least) if colon else 0.0
    return found


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not (text.endswith("%") and 0 <= share < 100):
        raise PreflightError(f"--fail-on worse:{text}: the least change is a percentage, as 5%")
    return share


def tripped(found: dict[str, Any], fail_on: dict[str, float]) -> list[str]:
    """A line for each condition that is met. Raises PreflightError where one could not be: a pass
    would say what nobody looked at."""
    lines = []
    if "worse" in fail_on:
        lines += _worse(found, fail_on["worse"])
    if "verdict" in fail_on:
        lines += _turned(found)
    return lines


def _worse(found: dict[str, Any], least: float) -> list[str]:
    """Figures whose whole interval, as wide as their choice among all needs, is worse by more than
    `least`; and cells that are no evidence any more."""
    if not found["tests"]:
        raise PreflightError(
            "--fail-on worse: no cell has replicates in both runs, or the rig bounds all that do, "
            "so none could be told worse: use runs of profile standard or full"
        )
    if least and unseen(found, least) == found["tests"]:
        raise PreflightError(
            f"--fail-on worse:{100 * least:g}%: of {found['tests']} figures none scatters so "
            "little that so small a change would be seen: name a larger one, or use profile full"
        )
    worse = [row for row in found["changes"] if row["worse"] and _surely(row) > least]
    lines = [_told_worse(worse, found["tests"])] if worse else []
    if gone := found["no_longer_evidence"]:
        lines.append(
            f"worse: {counted(len(gone), 'cell')} that supported claims before support none now, "
            f"as of {gone[0]['experiment']} ({gone[0]['label']}): {gone[0]['why']}"
        )
    return lines


def _told_worse(worse: list[dict[str, Any]], tests: int) -> str:
    strongest = worse[0]
    name = next(each.name for each in FIGURES if each.column == strongest["figure"])
    return (
        f"worse: {len(worse)} of {tests} figures, most of all {name} of "
        f"{strongest['experiment']} ({strongest['label']}): {strongest['ratio']:.3g} ×"
    )


def _surely(row: dict[str, Any]) -> float:
    """By which share it changed at least, of what it was before: the interval's end nearer to 1."""
    return max(0.0, float(row["low"]) - 1, 1 - float(row["high"]))


def unseen(found: dict[str, Any], least: float) -> int:
    """Of the figures tested: how many would hide such a change more often than one time in five."""
    tested = [row for row in found["changes"] if not row["hollow"] and row["p"] is not None]
    return sum(row["detectable"] is None or row["detectable"] > least for row in tested)


def _turned(found: dict[str, Any]) -> list[str]:
    """A claim that the later run does not have has not turned, it was not asked; and one that is no
    longer decided may owe that to a wider interval alone."""
    judged = [row for row in found["verdicts"] if row["before"] and row["after"]]
    if not any(row["before"]["outcome"] in DECIDED for row in judged):
        raise PreflightError(
            "--fail-on verdict: no claim that was decided before is judged in both runs, so none "
            "could turn: use runs of profile standard or full by one version of the suite"
        )
    turned = [
        f"{row['claim']} {row['before']['outcome']} → {row['after']['outcome']}"
        for row in judged
        if row["turned"]
    ]
    return [f"verdict: {', '.join(turned)}"] if turned else []
