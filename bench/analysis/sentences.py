"""What sentences about evidence are made of: numbers with their doubt, and why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench.analysis.replicates import APPARATUS, REPLICATES_NEEDED, limit_of, replicates_in
from bench.model import Estimate


def why_undecided(cells: pd.DataFrame) -> str:
    """Why these cells support no claim."""
    valid = cells[cells["valid"]]
    if valid.empty:
        return f"none of {len(cells)} cells is valid" if len(cells) else "no such cell was measured"
    if (replicates := replicates_in(valid)) < REPLICATES_NEEDED:
        return f"{counted(replicates, 'replicate')}, {REPLICATES_NEEDED} needed"
    bound = valid[valid["bound_by"].isin(APPARATUS)]
    if bound.empty:
        return "the intervals are too wide"
    return f"the rig bounds {len(bound)} of {len(valid)} cells, most often: {limit_of(bound)}"


def not_run(manifest: Mapping[str, Any], experiment: str) -> str:
    """What of this experiment's plan the machine could not run, and why; empty where all was."""
    said = [
        f"{each['what']} ({each['why']})"
        for each in manifest.get("not_run", [])
        if each["experiment"] == experiment
    ]
    return f"not run: {'; '.join(said)}" if said else ""


def counted(number: int, noun: str) -> str:
    """'1 cell', '2 cells'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_factor(ratio: Estimate) -> str:
    """'1.02 × (0.98–1.07)': a ratio with its interval."""
    value, low, high = (
        format(part, "#.3g").rstrip(".") for part in (ratio.value, ratio.low, ratio.high)
    )
    return f"{value} × ({low}–{high})"
