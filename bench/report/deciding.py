"""What a verdict turns on: its deciding estimate, in words and beside the limits of its rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from bench.analysis.statistics import RATIOS, outside, times_the_data
from bench.figures.units import Unit, si
from bench.model import Estimate, Verdict

_SI_UNITS: dict[str, Unit] = {"s": "s", "/s": "/s", "share": "share"}


def decided_by(verdict: Verdict) -> str:
    """In words: the deciding estimate, and what would decide an open verdict."""
    found = deciding(verdict)
    said = f"{found[0]}: {interval(found[1])}" if found else ""
    if limits := limits_said(verdict):
        said = f"{said}; {limits}"
    if verdict.outcome == "not run":
        said = verdict.reason
    return ". ".join(filter(None, [said, verdict.needs and f"To decide it: {verdict.needs}"]))


def deciding(verdict: Verdict) -> tuple[str, Estimate] | None:
    """The estimate that a verdict turns on, with its name; None where none is known.

    Of those that the rule holds against limits: of an open verdict the one that lacks most, of a
    refuted one that which lies furthest out, of a supported one that which is nearest to a limit.
    """
    known = {name: each for name, each in verdict.estimates.items() if math.isfinite(each.value)}
    held = [name for name in verdict.limits if name in known] or list(known)[:1]
    if not held:
        return None
    keys: dict[str, Callable[[Estimate, tuple[float, ...]], float]] = {
        "undecided": times_the_data,
        "refuted": outside,
        "supported": lambda found, limits: -abs(outside(found, limits)),
    }
    by = keys[verdict.outcome]
    name = max(held, key=lambda each: by(known[each], verdict.limits.get(each, ())))
    return name, known[name]


def spoken(value: float, unit: str) -> str:
    """A value with its unit, three digits."""
    if unit in _SI_UNITS:
        return si(value, _SI_UNITS[unit])
    return f"{_number(value)} {unit}".strip()


def _number(value: float) -> str:
    said = f"{value:#.3g}".rstrip(".") if 0 < abs(value) < 1e3 else f"{value:,.0f}"
    return said.replace("-", "−")


def interval(estimate: Estimate) -> str:
    """'1.20 × (0.90 to 1.40)': a value, and its interval where it has one."""
    value = spoken(estimate.value, estimate.unit)
    if not estimate.low < estimate.high:
        return value
    own_unit = estimate.unit in _SI_UNITS  # milliseconds may stand beside seconds
    low, high = (
        spoken(end, estimate.unit) if own_unit else _number(end)
        for end in (estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})"


def limits_said(verdict: Verdict) -> str:
    """The limits of the deciding estimate; empty where it has none."""
    found = deciding(verdict)
    limits = verdict.limits.get(found[0], ()) if found else ()
    if not found or not limits:
        return ""
    unit = found[1].unit
    said = " and ".join(
        spoken(limit, unit) if unit in _SI_UNITS else f"{limit:,g}".replace("-", "−")
        for limit in limits
    )
    return f"limit {said}" if len(limits) == 1 else f"limits {said}"


class Place(NamedTuple):
    """Where things lie on a strip from 0 to 100: an interval, its value, and the rule's limits."""

    low: float
    value: float
    high: float
    limits: tuple[float, ...]


MARGIN = 0.12  # of the strip, left free at either end


def strip(verdict: Verdict) -> Place | None:
    """The deciding estimate beside the limits of its rule, ratios on logs; None where it has no
    limit to be drawn beside, or more than an interval can be told from."""
    found = deciding(verdict)
    if found is None or not verdict.limits.get(found[0]):
        return None
    name, estimate = found
    ends = [estimate.low, estimate.value, estimate.high, *verdict.limits[name]]
    if estimate.unit in RATIOS and min(ends) > 0:
        ends = [math.log(end) for end in ends]
    return _placed(ends)


def _placed(ends: list[float]) -> Place | None:
    least, span = min(ends), max(ends) - min(ends)
    if not (math.isfinite(span) and span > 0):
        return None
    free = MARGIN * span
    low, value, high, *limits = (100 * (end - least + free) / (span + 2 * free) for end in ends)
    return Place(low, value, high, tuple(limits))
