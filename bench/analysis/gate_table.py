"""How a run's cells fared at each gate. A table of cells has a column `gate_NAME` per gate, which
holds its figure, and names the gates that failed in `invalid_reasons`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pandas as pd

PREFIX = "gate_"


def gate_table(cells: pd.DataFrame) -> pd.DataFrame:
    """A row per gate: how many cells hold its figure, how many failed it, and the figure's median
    and extremes. Attempts count one by one: a cell measured again failed all the same."""
    failed = _failed(cells["invalid_reasons"])
    rows = [
        {
            "gate": name,
            "cells": int(cells[column].notna().sum()),
            "failed": failed[name],
            "lowest": cells[column].min(),
            "median": cells[column].median(),
            "highest": cells[column].max(),
        }
        for column in cells.columns
        if column.startswith(PREFIX)
        for name in [column.removeprefix(PREFIX)]
    ]
    return pd.DataFrame(rows)


def _failed(reasons: Iterable[str]) -> Counter[str]:
    """How many attempts each gate failed."""
    told = ({reason.partition(": ")[0] for reason in said.split("; ")} for said in reasons if said)
    return Counter(gate for gates in told for gate in gates)
