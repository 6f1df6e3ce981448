"""Tables for the terminal, from stored cells."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.experiments import discover
from bench.store import Store


def summary(store: Store) -> dict[str, Any]:
    """The run in figures, for programs: counts, bounds, and each experiment's table as records."""
    cells = store.cells()
    last = cells.sort_values("attempt").drop_duplicates(["cell", "block"], keep="last")
    return {
        "folder": str(store.folder),
        "status": store.manifest.get("status"),
        "cells": len(last),
        "invalid": int((~last["valid"]).sum()),
        "bound_by": last["bound_by"].value_counts().to_dict(),
        "tables": {
            name: discover()[name].tables(last).to_dict("records") for name in store.experiments()
        },
    }


def show(store: Store) -> None:
    """Print each experiment's table and what was invalid."""
    console = Console()
    found = summary(store)
    for name, records in found["tables"].items():
        console.print(_table(discover()[name].QUESTION, records))
    console.print(
        f"{found['cells']} cells, {found['invalid']} invalid; bound by "
        + ", ".join(f"{part} {count}" for part, count in found["bound_by"].items())
    )


def _table(title: str, records: list[dict[str, Any]]) -> Table:
    table = _plain_table(title)
    for name in records[0] if records else ():
        numeric = not isinstance(records[0][name], str)
        table.add_column(name, justify="right" if numeric else "left")
    for record in records:
        table.add_row(*map(_said, record.values()))
    return table


def _plain_table(title: str) -> Table:
    """Few lines and no padding: ten columns have to fit into 80 characters."""
    return Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )


def _said(value: Any) -> str:
    unknown = value is None or (isinstance(value, float) and math.isnan(value))
    return "–" if unknown else str(value)


def show_calibration(result: dict[str, Any], output: Path) -> None:
    """Print the certificate: what was measured, what should be reached, whether it was."""
    table = _plain_table("Calibration")
    table.add_column("what")
    table.add_column("measured", justify="right")
    table.add_column("reach", justify="right")
    table.add_column("")
    for row in result["rows"]:
        value = "–" if row["value"] is None else f"{row['value']:,.4g} {row['unit']}"
        mark = {None: "", True: "reached", False: "[bold]not reached[/bold]"}[row["reached"]]
        table.add_row(row["what"], value, row["reach"], f"{mark} {row['note']}".strip())
    Console().print(table)
    Console().print(f"stored in {output}", highlight=False)
