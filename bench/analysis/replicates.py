"""Stored cells as points and sentences need them: replicates put together, doubt kept.

A table here has a row per cell, block and attempt, as the store gives it. Only the last attempt at
a cell counts. A cell that the apparatus bounds is a lower bound and an invalid one is nothing:
neither is evidence (rule 7 of the methods).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from bench.analysis.statistics import log_t_interval
from bench.model import Estimate

APPARATUS = frozenset({"generator", "link", "server", "machine"})


def last_attempts(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and block: an invalid cell was measured again, and that is what counts."""
    ordered = cells.sort_values("attempt", kind="stable")
    return ordered.drop_duplicates(["cell", "block"], keep="last").sort_index()


def evidence(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells a claim may rest on: valid, and not bound by the apparatus."""
    return cells[cells["valid"] & ~cells["bound_by"].isin(APPARATUS)]


def points(cells: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """One point for each combination of `by`, over the valid replicates that know `value`.

    Columns: `by`, median, low, high, bound_by (what most replicates name), and hollow where half
    of them or more are bound by the apparatus.
    """
    known = cells[cells["valid"] & cells[value].notna()]
    grouped = known.assign(hollow=known["bound_by"].isin(APPARATUS)).groupby(list(by))
    found = grouped[value].agg(["median", "min", "max"]).astype(float)
    found = found.rename(columns={"min": "low", "max": "high"})
    found["bound_by"] = grouped["bound_by"].agg(_most_frequent)
    found["hollow"] = grouped["hollow"].mean() >= 0.5
    return found.reset_index()


def _most_frequent(names: pd.Series[str]) -> str:
    """The first by name where several are."""
    counts: Counter[str] = Counter(names)
    return min(counts, key=lambda name: (-counts[name], name))


def limit_of(cells: pd.DataFrame) -> str:
    """What most of the cells name as their limit."""
    return _most_frequent(cells["bound_by"])


def paired_ratio(above: pd.DataFrame, below: pd.DataFrame, value: str) -> Estimate:
    """above/below of `value`, paired within blocks, with its interval over the replicates.

    NaN with a warning where no block holds both.
    """
    top, bottom = (cells.groupby("block")[value].median() for cells in (above, below))
    return log_t_interval((top / bottom).dropna().tolist())
