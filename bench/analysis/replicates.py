"""Stored cells as points and sentences need them: replicates put together, doubt kept.

A table here has a row per cell, block and attempt, as the store gives it. Only the last attempt at
a cell counts. A cell that the apparatus bounds is a lower bound and an invalid one is nothing:
neither is evidence (rule 7 of the methods).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.analysis.statistics import log_t_interval, median_spread
from bench.model import Estimate

APPARATUS = frozenset({"generator", "link", "server", "machine"})
REPLICATES_NEEDED = 3  # rule 5 of the methods: fewer support no claim
SAME = 1.10  # a ratio whose interval keeps within this factor is no difference


def last_attempts(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and block: an invalid cell was measured again, and that is what counts."""
    order = np.argsort(cells["attempt"].to_numpy(), kind="stable")
    keys = cells[["cell", "block"]].iloc[order]
    return cells.iloc[np.sort(order[~keys.duplicated(keep="last").to_numpy()])]


def evidence(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells a claim may rest on: valid, and not bound by the apparatus."""
    return cells[cells["valid"] & ~cells["bound_by"].isin(APPARATUS)]


def replicates_in(cells: pd.DataFrame) -> int:
    """How many blocks they come from."""
    return int(cells["block"].nunique())


def points(cells: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """One point for each combination of `by`, over the valid replicates that know `value`.

    Columns: `by`, median, low, high, bound_by (what most replicates name), and hollow where half
    of them or more are bound by the apparatus.
    """
    told = cells["valid"] & cells[value].notna()
    known = cells.loc[told, list(dict.fromkeys([*by, value, "bound_by"]))]
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
    return log_t_interval(paired_ratios(above, below, value))


def paired_ratios(above: pd.DataFrame, below: pd.DataFrame, value: str) -> list[float]:
    """above/below of `value` in each block that holds both, by the medians within it."""
    top, bottom = (cells.groupby("block")[value].median() for cells in (above, below))
    return [float(ratio) for ratio in (top / bottom).dropna()]


def is_known(estimate: Estimate) -> bool:
    """Whether a sentence may rest on it: enough replicates, and an interval."""
    return estimate.n >= REPLICATES_NEEDED and not math.isnan(estimate.low)


def median_of(cells: pd.DataFrame, value: str) -> float:
    """Over the cells that know `value`; NaN where none does."""
    return median_spread(cells[value].astype(float)).median
