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
    r"\s*([+-]?(?:\d{1,3}([,_ \u00a0\u2009\u202f])\d{3}(?:\2\d{3})*(?:\.\d+)?"
    r"|\d+\.?\d*(?:e[+-]?\d+)?|\.\d+|nan|inf))(?!\d)\s*(.*?)\s*",
    re.IGNORECASE,
)
_MAYBE_THOUSANDS = re.compile(
    r"\s*[+-]?([1-9]\d{0,2})\.(\d{3})(?![\d.e])\s*(.*?)\s*", re.IGNORECASE
)
SHOWN, PATH_SHOWN = 40, 120  # characters echoed of what was typed
_RATE = re.compile(r"([kKM]?)\s*(?:(?:req|requests|ops|commands)?\s*/\s*(\w+)|rps|qps)")


def duration(option: str, text: str, least_s: float, most_s: float) -> float:
    """Seconds, from text such as 10ms, 0.01s, 500 µs or 5min.

    Raises PreflightError naming `option` for what is none, or not from `least_s` to `most_s`.
    """
    number, unit = _split(option, text, "a time such as 10ms")
    text = shown(text)
    if not unit:
        raise PreflightError(f"{option} {text}: {text} has no unit: write {text}ms or {text}s")
    factor = DURATIONS.get(unit.replace("μ", "µ").lower())
    if factor is None:
        known = ", ".join(DURATIONS)
        raise PreflightError(
            f"{option} {text}: “{shown(unit)}” is no unit of time; there is: {known}"
        )
    return _limited(option, text, number * factor, least_s, most_s, span)


def rate(option: str, text: str, least: float, most: float) -> float:
    """Requests per second, from text such as 10000/s, 10k/s or 600000/min. Raises PreflightError
    as `duration`."""
    number, unit = _split(option, text, "a rate such as 10000/s")
    _refuse_maybe_thousands(option, text)
    text = shown(text)
    if unit in ("", "k", "K", "M"):
        raise PreflightError(f"{option} {text}: {text} has no unit: write {text}/s or {text}/min")
    matched = _RATE.fullmatch(unit)
    per = _PER.get(matched[2] or "s") if matched else None
    if matched is None or per is None:
        raise PreflightError(
            f"{option} {text}: “{shown(unit)}” is no unit of a rate; write /s, k/s, M/s, /min, /h, "
            "rps or qps"
        )
    return _limited(option, text, number * _SCALE[matched[1]] / per, least, most, per_second)


def share(option: str, text: str) -> float:
    """A share, from text such as 1% or 0.01. Raises PreflightError for one not between 0 and 1."""
    number, unit = _split(option, text, "a share such as 1% or 0.01")
    text = shown(text)
    if unit not in ("", "%"):
        raise PreflightError(
            f"{option} {text}: “{shown(unit)}” is no unit of a share; write 1% or 0.01"
        )
    value = number / 100 if unit else number
    if not 0 < value < 1:
        raise PreflightError(f"{option} {text}: a share must lie between 0 and 1, as 1% or 0.01")
    return value


def ratio(option: str, text: str, most: float) -> float:
    """A factor of at least 1, from text such as 3, 3x or 3×. Raises PreflightError."""
    number, unit = _split(option, text, "a factor such as 3")
    text = shown(text)
    if unit not in ("", "x", "×"):
        raise PreflightError(
            f"{option} {text}: “{shown(unit)}” is no part of a factor; write 3 or 3x"
        )
    return _limited(option, text, number, 1, most, "{:,g}".format)


def span(seconds: float) -> str:
    """Seconds as people read them: 0.0105 is '10.5 ms', 1800 '30 min'."""
    if seconds == 0:
        return "0 s"
    for factor, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        whole = seconds / factor
        if whole >= 1 and whole == round(whole):
            return f"{whole:g} {unit}"
    return si(seconds, "s")


def per_second(rate_per_s: float) -> str:
    """A rate as people read it, with all digits before the point."""
    return f"{rate_per_s:,.0f}/s" if rate_per_s >= 100 else f"{rate_per_s:.3g}/s"


def counted(number: int, noun: str) -> str:
    """A number and its noun: '1 connection', '1,900 connections'."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def shown(typed: object, most: int = SHOWN) -> str:
    """What was typed, to be said again: on one line whatever it holds, and not at length."""
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(typed)
    )
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _split(option: str, text: str, wanted: str) -> tuple[float, str]:
    matched = _QUANTITY.fullmatch(text)
    if matched is None or matched[3].startswith((",", ".", "_")):
        comma = "; a decimal point is a dot" if "," in text else ""
        raise PreflightError(f"{option} “{shown(text)}” is not {wanted}{comma}")
    digits = matched[1].replace(matched[2], "") if matched[2] else matched[1]
    return float(digits), matched[3]


def _refuse_maybe_thousands(option: str, text: str) -> None:
    """10.000/s is ten to one reader and ten thousand to the next."""
    if matched := _MAYBE_THOUSANDS.fullmatch(text):
        whole, rest, unit = matched.groups()
        raise PreflightError(
            f"{option} {shown(text)}: the dot may part thousands: write "
            f"{float(f'{whole}.{rest}'):g}{shown(unit)} or {whole}{rest}{shown(unit)}"
        )


def _limited(
    option: str, text: str, value: float, least: float, most: float, said: Callable[[float], str]
) -> float:
    if not (math.isfinite(value) and least <= value <= most):
        raise PreflightError(f"{option} {text}: it must lie between {said(least)} and {said(most)}")
    return value
