"""Quantities as people type them, with their units; base units out. A bare number is refused: it
may be seconds to one reader and milliseconds to the next."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from bench.figures.units import si
from bench.model import PreflightError

DURATIONS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0,
    "min": 60.0, "h": 3_600.0, "d": 86_400.0,
}  # fmt: skip
_PER = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3_600.0}
_SCALE = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6}
# A comma stands only before three digits: in “1,5ms” it would be somebody's decimal point.
_QUANTITY = re.compile(
    r"\s*([+-]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*(?:e[+-]?\d+)?|\.\d+|nan|inf))\s*(.*?)\s*",
    re.IGNORECASE,
)
_RATE = re.compile(r"([kKM]?)\s*(?:(?:req|requests|ops|commands)?\s*/\s*(\w+)|rps|qps)")


def duration(option: str, text: str, least_s: float, most_s: float) -> float:
    """Seconds, from text such as 10ms, 0.01s, 500 µs or 5min.

    Raises PreflightError naming `option` for what is none, or not from `least_s` to `most_s`.
    """
    number, unit = _split(option, text, "a time such as 10ms")
    if not unit:
        raise PreflightError(f"{option} {text}: {text} has no unit: write {text}ms or {text}s")
    factor = DURATIONS.get(unit.replace("μ", "µ").lower())
    if factor is None:
        known = ", ".join(DURATIONS)
        raise PreflightError(f"{option} {text}: “{unit}” is no unit of time; there is: {known}")
    return _limited(option, text, number * factor, least_s, most_s, span)


def rate(option: str, text: str, least: float, most: float) -> float:
    """Requests per second, from text such as 10000/s, 10k/s or 600000/min. Raises PreflightError
    as `duration`."""
    number, unit = _split(option, text, "a rate such as 10000/s")
    if unit in ("", "k", "K", "M"):
        raise PreflightError(f"{option} {text}: {text} has no unit: write {text}/s or {text}/min")
    matched = _RATE.fullmatch(unit)
    per = _PER.get(matched[2] or "s") if matched else None
    if matched is None or per is None:
        raise PreflightError(f"{option} {text}: “{unit}” is no unit of a rate; write /s, k/s, /min")
    return _limited(option, text, number * _SCALE[matched[1]] / per, least, most, per_second)


def share(option: str, text: str) -> float:
    """A share, from text such as 1% or 0.01. Raises PreflightError for one not between 0 and 1."""
    number, unit = _split(option, text, "a share such as 1% or 0.01")
    if unit not in ("", "%"):
        raise PreflightError(f"{option} {text}: “{unit}” is no unit of a share; write 1% or 0.01")
    value = number / 100 if unit else number
    if not 0 < value < 1:
        raise PreflightError(f"{option} {text}: a share must lie between 0 and 1, as 1% or 0.01")
    return value


def ratio(option: str, text: str, most: float) -> float:
    """A factor of at least 1, from text such as 3, 3x or 3×. Raises PreflightError."""
    number, unit = _split(option, text, "a factor such as 3")
    if unit not in ("", "x", "×"):
        raise PreflightError(f"{option} {text}: “{unit}” is no part of a factor; write 3 or 3x")
    return _limited(option, text, number, 1, most, "{:,g}".format)


def span(seconds: float) -> str:
    """Seconds as people read them: 0.0105 is '10.5 ms', 1800 '30 min'."""
    for factor, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        whole = seconds / factor
        if whole >= 1 and whole == round(whole):
            return f"{whole:g} {unit}"
    return si(seconds, "s")


def per_second(rate_per_s: float) -> str:
    """A rate as people read it, with all digits before the point."""
    return f"{rate_per_s:,.0f}/s" if rate_per_s >= 100 else f"{rate_per_s:.3g}/s"


def _split(option: str, text: str, wanted: str) -> tuple[float, str]:
    matched = _QUANTITY.fullmatch(text)
    if matched is None or matched[2].startswith((",", ".")):
        comma = "; a decimal point is a dot" if "," in text else ""
        raise PreflightError(f"{option} “{text}” is not {wanted}{comma}")
    return float(matched[1].replace(",", "")), matched[2]


def _limited(
    option: str, text: str, value: float, least: float, most: float, said: Callable[[float], str]
) -> float:
    if not (math.isfinite(value) and least <= value <= most):
        raise PreflightError(f"{option} {text}: it must lie between {said(least)} and {said(most)}")
    return value
