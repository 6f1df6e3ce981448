"""Tables for the terminal, from stored cells."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.analysis.gate_table import gate_table
from bench.analysis.replicates import last_attempts
from bench.experiments import discover, plans
from bench.model import Verdict
from bench.report.deciding import decided_by
from bench.report.display import open_console
from bench.report.drawing import Records
from bench.report.verdicts import by_claim
from bench.store import Store, stored_settings, without_nan

NOT_REACHED = "not reached"


def summary(
    store: Store, verdicts: Sequence[Verdict], tables: Mapping[str, Records]
) -> dict[str, Any]:
    """The run in figures, for programs: counts, bounds, gates, verdicts, the certificate, and each
    experiment's table."""
    cells = store.cells()
    last = last_attempts(cells)
    status = store.manifest.get("status")
    found = {
        "folder": str(store.folder),
        "status": status,
        "planned": len(last) if status == "complete" else planned(store),
        "cells": len(last),
        "invalid": int((~last["valid"]).sum()),
        "bound_by": last["bound_by"].value_counts().to_dict(),
        "gates": gate_table(cells).to_dict("records"),
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "certificate": store.manifest.get("certificate", []),
        "tables": tables,
    }
    return {name: without_nan(part) for name, part in found.items()}


def planned(store: Store) -> int:
    """How many cells the run would hold when complete."""
    owned = bool(store.manifest["settings"].get("owned_server", True))
    return sum(plan.measurements for plan in plans(stored_settings(store.folder), owned=owned))


def show(store: Store, verdicts: Sequence[Verdict], tables: Mapping[str, Records]) -> None:
    """Print each experiment's table, what was invalid, the certificate, the verdicts, and how far
    an unfinished run got."""
    console = open_console()
    found = summary(store, verdicts, tables)
    for name, records in tables.items():
        module = discover()[name]
        console.print(module.QUESTION)
        console.print(_selection(module, records, store))
        _print_fitting(console, records)
    console.print(
        f"{found['cells']} cells, {found['invalid']} invalid; bound by "
        + ", ".join(f"{part} {count}" for part, count in found["bound_by"].items())
    )
    _show_gates(console, found["gates"])
    if found["certificate"]:
        console.print(
            "\nThe instrument's certificate", _certificate(found["certificate"]), sep="\n"
        )
    if verdicts:
        console.print("\nVerdicts", _verdicts(verdicts), sep="\n")
    if found["status"] != "complete":
        status = "running, or killed" if found["status"] == "running" else found["status"]
        console.print(f"{status}: {found['cells']} of {found['planned']} cells", style="bold")


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    """A row for each, below the claim that it is a part of; reasons and rules are in the report."""
    table = plain_table()
    for head in ("claim", "outcome", "statement", "what decides it"):
        table.add_column(head, ratio=None if head in ("claim", "outcome") else 1)
    for claim in by_claim(verdicts):
        for verdict in claim.verdicts:
            row = verdict.claim, f"[bold]{verdict.outcome}[/bold]", verdict.statement
            table.add_row(*row[:2], *map(escape, (row[2], decided_by(verdict))))
    return table


def _selection(module: ModuleType, records: Records, store: Store) -> str:
    """How many of the measured are shown, and which, in the words of the experiment's `tables`."""
    cells = store.cells()
    own = cells[cells["experiment"] == module.NAME]["cell"].nunique()
    which = (inspect.getdoc(module.tables) or "").partition("\n")[0]
    of = "of" if len(records) <= own else "rows from"
    return f"{len(records)} {of} {own} combinations. {which}"


class _Column(NamedTuple):
    head: str
    texts: list[str]
    number: bool

    @property
    def width(self) -> int:
        """In characters."""
        return max(map(cell_len, [*self.head.splitlines(), *self.texts]))


def _print_fitting(console: Console, records: Records) -> None:
    """The table with as many columns as fit: half a number would mislead."""
    columns = {name: _column(name, records) for name in (records[0] if records else ())}
    left_out: list[str] = []
    while sum(each.width + BETWEEN for each in columns.values()) - BETWEEN > console.width:
        numbers = [name for name, each in columns.items() if each.number]
        if not numbers:
            break
        del columns[numbers[-1]]
        left_out.insert(0, numbers[-1])
    console.print("", _table(list(columns.values())), "", sep="\n")
    if left_out:
        console.print(f"too narrow for: {', '.join(left_out)}")


def _column(name: str, records: Records) -> _Column:
    number = _is_number(records[0][name])
    head = "\n".join(name.rsplit(" ", 1)) if number else name  # its unit goes below its name
    return _Column(head, [_said(record[name]) for record in records], number)


def _table(columns: list[_Column]) -> Table:
    table = plain_table()
    for each in columns:  # told their width, rich need not measure every text again
        table.add_column(
            each.head, justify="right" if each.number else "left", no_wrap=True, width=each.width
        )
    table.add_row(*("\n".join(each.texts) for each in columns))  # row by row takes twice as long
    return table


def _is_number(value: Any) -> bool:
    return not isinstance(value, str)


BETWEEN = 2  # characters between two columns of such a table


def plain_table() -> Table:
    """Few lines and no padding: ten columns have to fit into 80 characters."""
    return Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def _said(value: Any) -> str:
    unknown = value is None or (isinstance(value, float) and math.isnan(value))
    if unknown:
        return "–"
    return readable(value) if isinstance(value, float) else str(value)


def readable(value: float) -> str:
    """Four digits, or all before the point."""
    value += 0.0  # there is no −0
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _show_gates(console: Console, gates: list[dict[str, Any]]) -> None:
    """The gates that some attempt failed; that the rest held goes without a line each."""
    for gate in gates:
        if gate["failed"]:
            console.print(f"   gate {gate['gate']}: failed by {gate['failed']} attempts")


def show_calibration(result: dict[str, Any], output: Path) -> None:
    """Print the certificate: what was measured, what should be reached, whether it was."""
    console = open_console()
    console.print("Calibration", _certificate(result["rows"]), f"stored in {output}", sep="\n")


def _certificate(rows: list[dict[str, Any]]) -> Table:
    table = plain_table()
    table.add_column("what")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("reach", justify="right", no_wrap=True)
    table.add_column("")
    for row in certificate_rows(rows):
        what, value, reach, reached, note = map(escape, row.values())
        mark = f"[bold]{reached}[/bold]" if reached == NOT_REACHED else reached
        table.add_row(what, value, reach, f"{mark} {note}".strip())
    return table


def certificate_rows(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A certificate in words: what was measured of the instrument, what should be reached."""
    return [
        {
            "what": row["what"],
            "measured": "–" if row["value"] is None else f"{readable(row['value'])} {row['unit']}",
            "reach": row["reach"],
            "": {True: "reached", False: NOT_REACHED, None: ""}[row["reached"]],
            "note": row["note"],
        }
        for row in rows
    ]
