"""Base units as people read them."""

from __future__ import annotations

import math
from typing import Literal

Unit = Literal["s", "/s", "bytes", "count", "share"]

_SCALES: dict[Unit, tuple[tuple[float, str], ...]] = {
    "s": ((1.0, " s"), (1e-3, " ms"), (1e-6, " µs")),
    "/s": ((1e6, " M/s"), (1e3, " k/s"), (1.0, "/s")),
    "bytes": ((1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1.0, " B")),
    "share": ((0.01, " %"),),
    "count": ((1.0, ""),),
}


def si(value: float, unit: Unit) -> str:
    """A value in base units as people read it: 0.0012 s is '1.2 ms', 48,000 /s is '48 k/s'."""
    if not math.isfinite(value):
        return "–"
    fitting = [scale for scale in _SCALES[unit] if abs(value) >= scale[0] * (1 - 1e-9)]
    if value == 0 and unit not in ("share", "/s"):
        return "0"
    factor, suffix = (fitting or _SCALES[unit][-1:])[0]
    return f"{_three_digits(value / factor)}{suffix}"


def digits(value: float) -> float:
    """Three, which is what the histograms hold and replicates agree in at best."""
    return float(f"{value:.3g}")


def _three_digits(value: float) -> str:
    if abs(value) < 999.5:
        return f"{value:.3g}"
    return f"{value:.0f}" if abs(value) < 9_999.5 else f"{value:,.0f}"
