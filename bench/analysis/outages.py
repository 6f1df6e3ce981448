"""Cells in whose one burst something goes wrong, as their experiments need them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

OUTAGE = ["cell", "block", "attempt", "bursts"]  # what a row needs for what follows


def fault_of(row: Any) -> tuple[float, float]:
    """When the fault in the cell's burst began and ended, in seconds of the run's clock."""
    (burst,) = row.bursts
    return float(burst["fault_began_s"]), float(burst["fault_ended_s"])


def since_fault(requests: pd.DataFrame, row: Any) -> pd.DataFrame:
    """The cell's stored requests with `at_s`, when each came after the fault's begin, `latency_s`
    from then, whether it was `answered`, and whether it is one of the `other` that need no
    Redis."""
    begun, _ = fault_of(row)
    return requests.assign(
        at_s=requests["intended_s"] - begun,
        latency_s=requests["done_s"] - requests["intended_s"],
        answered=requests["outcome"].isin(["ok", "ok after retry"]),
        other=requests["other"] > 0,
    )


def burst_median(cells: pd.DataFrame, name: str) -> float:
    """Over all bursts of these cells."""
    return float(np.median([burst[name] for bursts in cells["bursts"] for burst in bursts]))
