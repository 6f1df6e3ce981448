"""The comparison of two runs in words and tables, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.analysis.comparison import FALSE_SHARE, FIGURES
from bench.analysis.sentences import as_factor, counted
from bench.model import Estimate
from bench.report.display import open_console
from bench.report.tables import plain_table, readable

STRONGEST = 15  # rows of a table, unless all are asked for
COMMIT = 12  # digits of one that people read
NAMED = {figure.column: figure for figure in FIGURES}
MARKS = {True: "[bold]worse[/bold]", False: "better"}


def show(found: dict[str, Any], everything: bool) -> None:
    """Print what differs: the environments, the cells, the experiments on the whole, the verdicts.
    `everything`: also what does not differ, and what supports no claim."""
    console = open_console()
    _show_runs(console, found)
    _show_environment(console, found)
    _show_cells(console, found, everything)
    _show_figures(console, found["figures"])
    _show_overall(console, found["overall"], everything)
    _show_verdicts(console, found, everything)


def _show_runs(console: Console, found: dict[str, Any]) -> None:
    for side in ("before", "after"):
        run = found[side]
        invalid = f", {run['invalid']} invalid and left out" if run["invalid"] else ""
        console.print(
            f"{side:6} {escape(run['folder'])}: {run['status']}, of {run['started']}, "
            f"{counted(run['cells'], 'cell')} in {run['measurements']} measurements{invalid}"
        )
        if missing := run["not_in_the_other"]:
            said = ", ".join(f"{count} of {name}" for name, count in missing.items())
            console.print(f"       not in the other run: {said}")


def _show_environment(console: Console, found: dict[str, Any]) -> None:
    rows = found["environment"]
    console.print("\nWhat was otherwise", style="bold")
    if not rows:
        console.print("nothing that the runs tell of machine, software and settings")
    for row in rows:
        before, after = (_short(row["what"], row[side]) for side in ("before", "after"))
        console.print(f"{row['what']}: {escape(before)} → {escape(after)}")
    if not found["same_machine"]:
        console.print(
            "Another machine: absolute figures differ for that reason alone; what carries over is "
            "how cells of one run compare, as the verdicts have it."
        )
    if len(found["settings"]) > 1:
        console.print(
            f"{' and '.join(found['settings'])} were changed at once: what either does alone "
            "cannot be told."
        )


def _short(what: str, value: Any) -> str:
    return str(value)[:COMMIT] if what == "git_commit" else str(value)


def _show_cells(console: Console, found: dict[str, Any], everything: bool) -> None:
    console.print("\nCells", style="bold")
    console.print(_told_of_cells(found))
    rows = [row for row in found["changes"] if everything or row["differs"] or not found["tests"]]
    shown = rows if everything else rows[:STRONGEST]
    for experiment, label in dict.fromkeys((row["experiment"], row["label"]) for row in shown):
        console.print(f"\n{experiment}: {escape(label)}")
        for row in shown:
            if (row["experiment"], row["label"]) == (experiment, label):
                console.print(_change(row))
    if len(rows) > len(shown):
        console.print(f"… and {len(rows) - len(shown)} more; --all shows them")
    _show_gone(console, found["no_longer_evidence"], everything)


def _show_gone(console: Console, gone: list[dict[str, Any]], everything: bool) -> None:
    if not gone:
        return
    console.print(
        f"\n{counted(len(gone), 'cell')} that supported claims before support none now",
        style="bold",
    )
    shown = gone if everything else gone[:STRONGEST]
    for row in shown:
        console.print(f"{row['experiment']}: {escape(row['label'])}: {escape(row['why'])}")
    if len(gone) > len(shown):
        console.print(f"… and {len(gone) - len(shown)} more; --all shows them")


def _told_of_cells(found: dict[str, Any]) -> str:
    same = f"{counted(found['matched'], 'cell')} of equal settings"
    if found["settings"]:
        same += f" but for {', '.join(found['settings'])}"
    if unknown := found["settings_known_to_one"]:
        same += f" (and {', '.join(unknown)}, which only one version knew)"
    rest = found["matched"] - found["tested"] - found["hollow"]
    return (
        f"{same}: {found['tested']} with replicates; {found['hollow']} bound by the rig, which "
        f"support no claim; {rest} measured once. {_called(found)}"
    )


def _called(found: dict[str, Any]) -> str:
    if not found["tests"]:
        return "So nothing can be told beyond noise: the values only stand side by side."
    rest = (
        "That is the scatter between blocks of each run; what the machine was in another hour is "
        "not in it: runs taken by turns would tell."
    )
    if not found["differs"]:
        return f"No cell differs beyond noise, in {found['tests']} figures. {rest}"
    return (
        f"Of {found['tests']} figures {found['differs']} differ beyond noise, {found['worse']} for "
        f"the worse; of these one in {1 / FALSE_SHARE:.0f} may be chance. {rest}"
    )


def _change(row: dict[str, Any]) -> str:
    figure = NAMED[row["figure"]]
    before, after = (readable(row[side] * figure.shown) for side in ("before", "after"))
    return (
        f"   {figure.name:13} {before:>7} → {after:<7} {figure.unit:5} {_ratio(row):>22}  "
        f"{_mark(row)}"
    )


def _ratio(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return f"{row['ratio']:.3g} ×"
    return as_factor(Estimate(row["ratio"], row["low"], row["high"], "", 0))


def _mark(row: dict[str, Any]) -> str:
    if row["hollow"]:
        return "hollow"
    return MARKS[row["worse"]] if row["differs"] else ""


def _show_figures(console: Console, rows: list[dict[str, Any]]) -> None:
    """The smallest difference that would have been called four times in five, cell by cell."""
    if not rows:
        return
    table = plain_table()
    table.add_column("figure")
    for name in ("cells", "better", "worse", "smallest found, median cell"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        counts = (str(row[name]) for name in ("tests", "better", "worse"))
        table.add_row(NAMED[row["figure"]].name, *counts, _smallest(row["detectable"]))
    console.print("", table, sep="\n")


def _smallest(detectable: float | None) -> str:
    return "–" if detectable is None else f"{1 + detectable:.3g} ×"


def _show_overall(console: Console, overall: list[dict[str, Any]], everything: bool) -> None:
    known = [row for row in overall if row["low"] is not None]
    rows = [row for row in known if everything or not row["low"] <= 1 <= row["high"]]
    if not known:
        return
    console.print("\nExperiments on the whole", style="bold")
    console.print(
        f"{len(rows)} of {len(known)} geometric means over an experiment's cells shown"
        + ("" if everything else ": those whose own 95 % interval leaves out 1")
        + ". What the machine was in another hour is not in them: none fails a comparison."
    )
    if rows:
        console.print("", _overall(rows), sep="\n")


def _overall(rows: list[dict[str, Any]]) -> Table:
    table = plain_table()
    table.add_column("experiment")
    table.add_column("figure")
    table.add_column("cells", justify="right")
    table.add_column("after ÷ before", justify="right", no_wrap=True)
    for row in rows:
        name = NAMED[row["figure"]].name
        table.add_row(row["experiment"], name, str(row["cells"]), _ratio(row))
    return table


def _show_verdicts(console: Console, found: dict[str, Any], everything: bool) -> None:
    console.print("\nVerdicts", style="bold")
    if found["settings_known_to_one"]:
        console.print("not judged again: the runs are of versions that knew other settings")
        return
    rows = found["verdicts"]
    if not rows:
        console.print("these experiments decide no claim")
        return
    changed, turned = (sum(row[name] for row in rows) for name in ("changed", "turned"))
    console.print(
        f"{changed} of {len(rows)} changed, both runs judged now by the same rules, and {turned} "
        "turned from one decision to the other; what is no longer decided may have no more than a "
        "wider interval"
    )
    for row in rows if everything else [row for row in rows if row["changed"]]:
        _show_verdict(console, row)


def _show_verdict(console: Console, row: dict[str, Any]) -> None:
    either = row["before"] or row["after"]
    outcomes = " → ".join(
        row[side]["outcome"] if row[side] else "not asked" for side in ("before", "after")
    )
    console.print(f"{row['claim']} [bold]{outcomes}[/bold]: {escape(either['statement'])}.")
    for side in ("before", "after"):
        if row[side]:
            console.print(f"   {side}: {escape(row[side]['reason'])}")
