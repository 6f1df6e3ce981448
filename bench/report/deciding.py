"""What a verdict turns on: its deciding estimate, in words and beside where the claim has it."""

from __future__ import annotations

import math
from typing import NamedTuple

from bench.analysis.regions import margin, times_to_lie
from bench.figures.units import Unit, si
from bench.model import Estimate, Region, Verdict

_SI_UNITS: dict[str, Unit] = {"s": "s", "/s": "/s", "share": "share"}
USUAL_CONFIDENCE = 0.95
MOST_DIGITS = 6


class Way(NamedTuple):
    """A way to an outcome: estimates that have to lie in (or outside of) regions, all of them or
    one; `outcome` is what it leads to."""

    outcome: str
    regions: dict[str, Region]
    within: bool = True
    all_of_them: bool = True

    def times(self, verdict: Verdict) -> float:
        """By which factor more data would go this way."""
        each = [self.times_of(verdict, name) for name in self.regions]
        return (max if self.all_of_them else min)(each, default=math.inf)

    def times_of(self, verdict: Verdict, name: str) -> float:
        found = verdict.estimates.get(name)
        if found is None:
            return math.inf
        return times_to_lie(found, self.regions[name], within=self.within)

    def binding(self, verdict: Verdict) -> str:
        """The estimate that this way depends on: the last to get there of all, or the first."""
        pick = max if self.all_of_them else min
        return pick(self.regions, key=lambda name: self.times_of(verdict, name))


def ways(verdict: Verdict) -> list[Way]:
    """To support it, and to refute it; empty where its rule holds no estimate against a region."""
    if not verdict.claimed:
        return []
    refuting = Way("refuted", verdict.opposed, all_of_them=verdict.opposed_by_all)
    if not verdict.opposed:
        refuting = Way("refuted", verdict.claimed, within=False, all_of_them=False)
    return [Way("supported", verdict.claimed), refuting]


def deciding(verdict: Verdict) -> tuple[str, Estimate] | None:
    """The estimate that a verdict turns on, with its name; None where it is not run, or none is
    known.

    Of those that the rule holds against regions: of a supported one that which lies least deep in
    what is claimed, of a refuted one that which lies furthest out, of an open one that which would
    be the last to tell. Where the rule holds none against a region, the first.
    """
    known = {name: each for name, each in verdict.estimates.items() if math.isfinite(each.value)}
    if verdict.outcome == "not run" or not known:
        return None
    held = {name: region for name, region in verdict.claimed.items() if name in known}
    if not held:
        return next(iter(known.items()))
    name = _of_open(verdict, held) if verdict.outcome == "undecided" else _of_told(verdict, held)
    return name, known[name]


def _of_told(verdict: Verdict, held: dict[str, Region]) -> str:
    """An exact value comes behind what has an interval, where both tell."""
    against = verdict.opposed if verdict.outcome == "refuted" else {}

    def key(name: str) -> tuple[bool, float]:
        away = margin(verdict.estimates[name], held[name])
        if name in against:
            away = -margin(verdict.estimates[name], against[name])
        return (math.isinf(away) and away > 0, away)

    pick = max if verdict.opposed_by_all and against else min
    return pick(held, key=key)


def _of_open(verdict: Verdict, held: dict[str, Region]) -> str:
    nearest = min(ways(verdict), key=lambda way: way.times(verdict))
    if math.isfinite(nearest.times(verdict)):
        return nearest.binding(verdict)
    return min(held, key=lambda name: abs(margin(verdict.estimates[name], held[name])))


def decided_by(verdict: Verdict) -> str:
    """In words: the deciding estimate, and what would decide an open verdict."""
    found = deciding(verdict)
    said = f"{found[0]}: {interval(found[1], beside=_ends(verdict, found[0]))}" if found else ""
    if claimed := claimed_said(verdict):
        said = f"{said}; {claimed}"
    if verdict.outcome == "not run":
        said = verdict.reason
    return ". ".join(filter(None, [said, verdict.needs and f"To decide it: {verdict.needs}"]))


def claimed_said(verdict: Verdict) -> str:
    """Where the claim has the deciding estimate; empty where its rule names no region."""
    found = deciding(verdict)
    if found is None or found[0] not in verdict.claimed:
        return ""
    name, estimate = found
    said = f"claimed: {_region(verdict.claimed[name], estimate.unit)}"
    if opposed := verdict.opposed.get(name):
        said = f"{said}; refuted: {_region(opposed, estimate.unit)}"
    return said


def _region(region: Region, unit: str) -> str:
    low, high = (_end(end, unit) for end in (region.low, region.high))
    if math.isinf(region.high):
        return f"{low} or more"
    return f"{high} or less" if math.isinf(region.low) else f"{low} to {high}"


def _end(end: float, unit: str) -> str:
    return si(end, _SI_UNITS[unit]) if unit in _SI_UNITS else f"{end:,g}".replace("-", "−")


def _ends(verdict: Verdict, name: str) -> list[float]:
    """The finite ends of the regions of an estimate."""
    regions = [each[name] for each in (verdict.claimed, verdict.opposed) if name in each]
    ends = [end for region in regions for end in (region.low, region.high)]
    return [end for end in dict.fromkeys(ends) if math.isfinite(end)]


def spoken(value: float, unit: str, digits: int = 3) -> str:
    """A value with its unit."""
    if unit in _SI_UNITS:
        return si(value, _SI_UNITS[unit])
    return f"{_number(value, digits)} {unit}".strip()


def _number(value: float, digits: int) -> str:
    if value == 0 or abs(value) >= 10**digits:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:#.{digits}g}".rstrip(".").replace("-", "−")


def interval(estimate: Estimate, beside: list[float] | None = None) -> str:
    """'1.20 × (0.90 to 1.40)': a value, and its interval where it has one, with its confidence
    where that is not the usual; in as many digits as tell its ends from what stands `beside`."""
    digits = _digits(estimate, beside or [])
    value = spoken(estimate.value, estimate.unit, digits)
    if not estimate.low < estimate.high:
        return value
    own_unit = estimate.unit in _SI_UNITS  # milliseconds may stand beside seconds
    low, high = (
        spoken(end, estimate.unit) if own_unit else _number(end, digits)
        for end in (estimate.low, estimate.high)
    )
    usual = estimate.confidence == USUAL_CONFIDENCE
    return f"{value} ({low} to {high}{'' if usual else f', {estimate.confidence:.0%} interval'})"


def _digits(estimate: Estimate, beside: list[float]) -> int:
    ends = (estimate.value, estimate.low, estimate.high)
    for digits in range(3, MOST_DIGITS):
        told = {_number(end, digits) for end in ends if math.isfinite(end)}
        if not told & {_number(each, digits) for each in beside if each not in ends}:
            return digits
    return MOST_DIGITS


class Place(NamedTuple):
    """Where things lie on a strip from 0 to 100: an interval and its value, what is claimed, and
    the ends of that and of what refutes."""

    low: float
    value: float
    high: float
    claimed: tuple[float, float]
    ends: tuple[float, ...]


FREE = 0.12  # of the strip, at either end


def strip(verdict: Verdict) -> Place | None:
    """The deciding estimate beside the regions of its rule, on logs where its interval is one of
    logarithms; None where it has no region, or nothing to be told apart."""
    found = deciding(verdict)
    if found is None or found[0] not in verdict.claimed:
        return None
    name, estimate = found
    low = estimate.low if math.isfinite(estimate.low) else estimate.value
    high = estimate.high if math.isfinite(estimate.high) else estimate.value
    ends = [low, estimate.value, high, *_ends(verdict, name)]
    if estimate.log and min(ends) > 0:
        return _placed(list(map(math.log, ends)), _on_logs(verdict.claimed[name]))
    return _placed(ends, verdict.claimed[name])


def _on_logs(region: Region) -> Region:
    return Region(
        math.log(region.low) if region.low > 0 else -math.inf,
        math.log(region.high) if math.isfinite(region.high) else math.inf,
    )


def _placed(ends: list[float], claimed: Region) -> Place | None:
    least, span = min(ends), max(ends) - min(ends)
    if not (math.isfinite(span) and span > 0):
        return None

    def at(end: float) -> float:
        free = FREE * span
        return min(100.0, max(0.0, 100 * (end - least + free) / (span + 2 * free)))

    low, value, high, *rest = map(at, ends)
    return Place(low, value, high, (at(claimed.low), at(claimed.high)), tuple(rest))
