"""Cells in a few words, from their rows: by what tells them apart from others beside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.comparison import KINDS

# How settings are said where their value alone would not be understood.
SAID = {
    "pool_size": "pool {:g}", "concurrency": "{:g} users", "offered_qps": "{:,g}/s",
    "depth": "depth {:g}", "max_uses": "{:g} use", "tls": "TLS {}",
    "auth": "AUTH {}", "via": "via {}", "workers": "{:g} workers", "side": "side {:g}",
}  # fmt: skip
# What follows from the others, or is never what a cell is looked at for.
UNSAID = frozenset(
    {"experiment", "loop", "warmup_s", "measure_s", "settle_s", "moderation_s", "keep_requests",
     "quiet", "acquire_timeout_s", "backlog", "period_s"}
)  # fmt: skip

USUAL = {field.name: field.default for noun in KINDS for field in fields(noun)}


def labels(cells: pd.DataFrame, ids: Iterable[str]) -> dict[str, str]:
    """A line for each of these cells: the settings in which those of its experiment differ."""
    once = cells[cells["cell"].isin(list(ids))].drop_duplicates("cell")
    once = once.assign(concurrency=once["concurrency"].where(once["loop"] == "closed"))
    found: dict[str, str] = {}
    for _, own in once.groupby("experiment"):
        rows = own[_varied(own)].astype(object).to_dict("records")
        found |= dict(zip(own["cell"], map(_label, rows), strict=True))
    return found


def _varied(cells: pd.DataFrame) -> list[str]:
    """A kind of setting that some cells have none of, as arrivals, is looked at in the others."""
    return [
        field.name
        for noun, sign in KINDS.items()
        for field in fields(noun)
        if field.name in cells and field.name not in UNSAID
        and cells.loc[cells[sign].notna(), field.name].map(str).nunique() > 1
    ]  # fmt: skip


def _label(settings: dict[Any, Any]) -> str:
    said = [_setting(name, value) for name, value in settings.items() if _worth(name, value)]
    return ", ".join(said) or "as it comes"


def _worth(name: str, value: Any) -> bool:
    """Whether a value says anything: a blank and what is usual do not."""
    if isinstance(value, np.ndarray):
        return value.size > 0
    return bool(pd.notna(value)) and (name == "rtt_s" or value != USUAL.get(name))


def _setting(name: str, value: Any) -> str:
    if name == "rtt_s":
        return f"RTT {value * 1e3:g} ms"
    if name in SAID:
        return SAID[name].format(value)
    return value if isinstance(value, str) else f"{name} {value}"
