"""The claims, judged by rules that were written before the data."""

from __future__ import annotations

import math

import pandas as pd

from bench.analysis.nstar import Law
from bench.analysis.replicates import REPLICATES_NEEDED, is_known, last_attempts
from bench.analysis.sentences import counted, why_undecided
from bench.analysis.statistics import proportion
from bench.experiments.sizing_rule.needs import (
    CLOSE,
    CLOSE_SHARE,
    CLOSE_UP_TO,
    ERLANG,
    OBJECTIVES,
    PER_QPS,
    Answer,
    Need,
    Rule,
    answers,
    cores,
    laws,
    named,
    needs,
    rules,
    steady,
)
from bench.model import Estimate, Outcome, Region, Verdict
from bench.store import Store

EXPONENT = 0.1  # C4: the rate's exponent must lie within ± this


OF_RATE, OF_L = "exponent of the rate", "exponent of L"
CLAIMS = {"C4": "The pool a service needs follows its peak concurrency, not its request rate"}


def claims(cells: pd.DataFrame, store: Store) -> list[Verdict]:
    """C4, and whether the pool can be told before it is searched for."""
    told = answers(cells, store)
    return [judge_rule(cells, told, store), _judge_prediction(cells, told)]


def judge_rule(cells: pd.DataFrame, told: list[Answer], store: Store) -> Verdict:
    """C4, from the answers of these cells."""
    found = needs(cells)
    by = laws(found)
    outcome, reason = rule_outcome(cells, found, by, rules(told, cores(store)))
    estimates = {
        f"{factor}, {OBJECTIVES[objective]}": estimate
        for objective, each in by.items()
        for factor, estimate in ((OF_RATE, each.rate), (OF_L, each.in_flight))
    }
    return Verdict(
        "C4",
        CLAIMS["C4"],
        f"the 95 % interval of the rate's exponent within ±{EXPONENT:g} and that of L above 0, "
        f"under both objectives; refuted where the rate's is wholly outside, or where a pool "
        "∝ QPS predicts better, left one out, than Erlang C from λW₀",
        outcome, reason, estimates, _rests_on(steady(found)),
        {name: Region(low=0.0) if name.startswith(OF_L) else Region(-EXPONENT, EXPONENT)
         for name in estimates},
    )  # fmt: skip


def _rests_on(found: list[Need]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(cell for need in found for cell in need.cells))


def rule_outcome(
    cells: pd.DataFrame, found: list[Need], by: dict[str, Law], rivals: list[Rule]
) -> tuple[Outcome, str]:
    """By the rule of C4, and why."""
    if lacking := _lacking(cells, found, by):
        return "undecided", lacking
    said = "; ".join(f"{OBJECTIVES[objective]}: {said_law(each)}" for objective, each in by.items())
    typical = {rule.name: rule.typical for rule in rivals}
    if typical.get(PER_QPS, math.inf) < typical.get(ERLANG, 0.0):
        return "refuted", f"a pool ∝ QPS predicts better than Erlang C; {said}"
    if any(_outside(each.rate) for each in by.values()):
        return "refuted", said
    decided = all(_within(each.rate) and each.in_flight.low > 0 for each in by.values())
    return ("supported" if decided else "undecided"), said


def _lacking(cells: pd.DataFrame, found: list[Need], by: dict[str, Law]) -> str:
    if not by:
        return _why(cells, "rule")
    replicates = len({need.block for need in steady(found)})
    if replicates < REPLICATES_NEEDED:
        return f"{counted(replicates, 'replicate')}, {REPLICATES_NEEDED} needed"
    return ""


def _why(cells: pd.DataFrame, arm: str) -> str:
    return why_undecided(last_attempts(cells[cells["arm"] == arm]))


def _outside(exponent: Estimate) -> bool:
    return exponent.low > EXPONENT or exponent.high < -EXPONENT


def _within(exponent: Estimate) -> bool:
    return exponent.low >= -EXPONENT and exponent.high <= EXPONENT


def said_law(each: Law) -> str:
    """Both exponents with their intervals."""
    return f"N* ∝ L^{power(each.in_flight)} · rate^{power(each.rate)}"


def power(exponent: Estimate) -> str:
    """An exponent with its interval."""
    value, low, high = (f"{end:.2f}".replace("-", "−").replace("−0.00", "0.00")
                        for end in (exponent.value, exponent.low, exponent.high))  # fmt: skip
    return f"{value} ({low} to {high})"


def _judge_prediction(cells: pd.DataFrame, told: list[Answer]) -> Verdict:
    known = [each for each in told if is_known(each.empty)]
    near = [each for each in known if each.close]
    outcome: Outcome = "supported" if len(near) >= len(known) - 1 else "refuted"
    reason = f"{len(near)} of {counted(len(known), 'load')} within that: {_compared(known)}"
    if len(known) < 2:
        outcome, reason = "undecided", _why(cells, "rule")
    return Verdict(
        "C4p",
        "The pool can be told from rate and hold time before it is searched for",
        f"N* by Erlang C from λW₀, or for bursts by simulation, within ±{CLOSE} of the measured, "
        f"both in whole connections (the crossing rounded up), up to L = {CLOSE_UP_TO} and within "
        f"{CLOSE_SHARE:.0%} above, for all loads but one",
        outcome, reason,
        {"loads told within that": proportion(len(near), len(known))}
        | {named(each): each.empty for each in known},
        _rests_on([need for need in needs(cells) if need.load in {each.load for each in known}]),
    )  # fmt: skip


def _compared(told: list[Answer]) -> str:
    return ", ".join(f"{named(each)} {each.measured:.0f} (predicted {each.predicted:.0f})"
                     for each in told)  # fmt: skip
