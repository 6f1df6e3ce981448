"""What the data say: a title for each figure, and a paragraph below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from bench.analysis.nstar import MOST_SHARE, Law
from bench.analysis.queueing import in_flight_quantile
from bench.analysis.replicates import last_attempts
from bench.analysis.sentences import counted
from bench.experiments.sizing_rule.loads import SAME_IN_FLIGHT, SAME_RATE, Load
from bench.experiments.sizing_rule.needs import (
    OBJECTIVES,
    PER_QPS,
    Answer,
    Held,
    Rule,
    answers,
    cores,
    held,
    laws,
    named,
    needs,
    pods,
    rules,
    server_controls,
    sound_pods,
)
from bench.experiments.sizing_rule.verdicts import judge_rule, power, said_law
from bench.figures import audit
from bench.figures.units import si
from bench.model import Verdict
from bench.store import Store, derived


class Story(NamedTuple):
    """All that figures and sentences need of the cells, found once."""

    cells: pd.DataFrame
    store: Store
    told: list[Answer]
    rivals: list[Rule]
    by: dict[str, Law]
    verdict: Verdict
    held: dict[Load, Held]


@derived
def story(cells: pd.DataFrame, store: Store) -> Story:
    """Reads the histograms and requests of the controls."""
    told = answers(cells, store)
    rivals = rules(told, cores(store))
    in_flight = {load: held(cells, store, load) for load in SAME_IN_FLIGHT}
    return Story(
        last_attempts(cells), store, told, rivals, laws(needs(cells)),
        judge_rule(cells, told, store),
        {load: found for load, found in in_flight.items() if found is not None},
    )  # fmt: skip


def findings(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A sentence for each figure, its title. Only figures there are data for."""
    return findings_of(story(cells, store))


def findings_of(of: Story) -> dict[str, str]:
    """`findings` of a story that is known."""
    said = {
        "sizing_rule": _rule_finding(of),
        "predicted_measured": _prediction_finding(of),
        "pool_steps": _steps_finding(of),
        "burstiness": _burst_finding(of),
        "in_flight": _in_flight_finding(of),
        "server_work": _server_finding(of.cells),
        "little_audit_rule": audit.finding(of.cells),
    }
    return {name: text for name, text in said.items() if text}


def _rule_finding(of: Story) -> str:
    if not of.told:
        return ""
    head = {
        "supported": "The pool follows what is in flight, not the rate",
        "refuted": "The pool follows the rate as well",
        "undecided": "Whether the pool follows concurrency or rate is undecided",
    }[of.verdict.outcome]
    law = f": {_in_short(of.by)}" if of.by else f" ({of.verdict.reason})"
    return f"{head}{law}{_at_one_rate(of.told)}{_at_one_load(of.told)}"


def _in_short(by: dict[str, Law]) -> str:
    """Of the objective that is drawn; and of one by which the rate may matter more, if there is
    such a one: on that the verdict turns."""
    drawn, *others = by.items()
    most = max(others, key=lambda each: _strongest(each[1]), default=drawn)
    said = f"N* ∝ L^{drawn[1].in_flight.value:.2f}, and ∝ rate^{power(drawn[1].rate)}"
    if _strongest(most[1]) <= _strongest(drawn[1]):
        return said
    return f"{said}; for {OBJECTIVES[most[0]]}, rate^{power(most[1].rate)}"


def _strongest(law: Law) -> float:
    return max(abs(law.rate.low), abs(law.rate.high))


def _at_one_rate(told: list[Answer]) -> str:
    same = [each for each in told if each.load.qps == SAME_RATE[0].qps
            and each.load.peak_to_mean == 1]  # fmt: skip
    if len(same) < 2:
        return ""
    least, most = same[0], same[-1]
    return (
        f". At {si(least.load.qps, '/s')} the need goes from {least.measured:.0f} to "
        f"{most.measured:.0f} as calls take {si(least.hold_s, 's')} to {si(most.hold_s, 's')}"
    )


def _at_one_load(told: list[Answer]) -> str:
    same = [each for each in told if each.load in SAME_IN_FLIGHT]
    if len(same) < 2:
        return ""
    sizes, rates = [each.measured for each in same], [each.load.qps for each in same]
    return (
        f"; with {np.mean([each.in_flight for each in same]):.0f} in flight it is "
        f"{_span(min(sizes), max(sizes))} from {si(min(rates), '/s')} to {si(max(rates), '/s')}"
    )


def _span(low: float, high: float) -> str:
    return f"{low:.0f}" if low == high else f"{low:.0f}–{high:.0f}"


def _prediction_finding(of: Story) -> str:
    if not of.told:
        return ""
    near = sum(each.close for each in of.told)
    off = {rule.name: rule.typical for rule in of.rivals}
    rest = "".join(f", {name} off by {typical:.2g} ×" for name, typical in off.items()
                   if name in (PER_QPS, "2 × L"))  # fmt: skip
    first = f"λW₀ tells the pool beforehand for {near} of {counted(len(of.told), 'load')}"
    return f"{first}{rest and ';' + rest[1:]} typically" if rest else first


def _steps_finding(of: Story) -> str:
    if not of.told:
        return ""
    sizes = [each.measured for each in of.told]
    return (
        f"The objective, {MOST_SHARE:.0%} of requests, is met by {min(sizes):.0f} to "
        f"{max(sizes):.0f} connections"
    )


def _burst_finding(of: Story) -> str:
    pairs = bursts(of.told)
    if not pairs:
        return ""
    said = ", ".join(
        f"{burst.load.peak_to_mean:g} × the mean need {burst.measured:.0f} connections where "
        f"steady arrivals need {steady.measured:.0f}" for steady, burst in pairs
    )  # fmt: skip
    return f"Bursts of {said} ({si(pairs[0][0].load.qps, '/s')}, L = {pairs[0][0].in_flight:.3g})"


def bursts(told: list[Answer]) -> list[tuple[Answer, Answer]]:
    """Each bursty load beside the steady one of the same rate and round trip."""
    steady = {(e.load.qps, e.load.rtt_s): e for e in told if e.load.peak_to_mean == 1}
    return [(steady[key], each) for each in told if each.load.peak_to_mean > 1
            for key in [(each.load.qps, each.load.rtt_s)] if key in steady]  # fmt: skip


def _in_flight_finding(of: Story) -> str:
    if not of.held:
        return ""
    measured = [found.quantile(0.99) for found in of.held.values()]
    theory = [in_flight_quantile(found.mean, 0.99) for found in of.held.values()]
    return (
        f"In flight, not only on average: 99 % of the time at most {_span(*_ends(measured))} "
        f"at every rate, by Poisson's law {_span(*_ends(theory))}"
    )


def _ends(values: Sequence[int]) -> tuple[int, int]:
    return min(values), max(values)


def _server_finding(cells: pd.DataFrame) -> str:
    known = server_controls(cells)
    if known["offered_qps"].nunique() < 2:
        return ""
    least, most = known.iloc[0], known.iloc[-1]
    return (
        f"Where the server's work is the hold time: from "
        f"{si(least['offered_qps'], '/s')} to {si(most['offered_qps'], '/s')} W₀ goes from "
        f"{si(least['command_mean_s'], 's')} to {si(most['command_mean_s'], 's')}, and L from "
        f"{least['in_flight_mean']:.2g} to {most['in_flight_mean']:.2g}"
    )


# Prose


def prose(cells: pd.DataFrame, store: Store) -> dict[str, str]:
    """A paragraph of Markdown below each figure, its numbers from the cells."""
    of = story(cells, store)
    told = {
        "sizing_rule": _rule_prose,
        "predicted_measured": _prediction_prose,
        "pool_steps": _steps_prose,
        "burstiness": _burst_prose,
        "in_flight": _in_flight_prose,
        "server_work": _server_prose,
        "little_audit_rule": _audit_prose,
    }
    return {name: told[name](of) for name in findings_of(of)}


def _rule_prose(of: Story) -> str:
    laws = "; ".join(f"with {OBJECTIVES[name]}, {said_law(each)}" for name, each in of.by.items())
    return (
        "If the pool follows what is in flight, the points on the left lie on one curve, whatever "
        "the rate (colours), and on the right the loads in the band, which share their L, stand "
        "level. If it follows the rate, those of one rate stand level on the right. "
        f"Fitted over all replicates: {laws or 'too few loads for exponents'}. "
        f"{_theory_said(of)} The second objective is a wait in seconds, and so not free of scale: "
        "by theory a pool of slower calls needs slightly more for the same wait."
    )


def _theory_said(of: Story) -> str:
    """Whether the exponent of L is what chance makes it."""
    if not of.by:
        return ""
    below = all(each.in_flight.high < 1 for each in of.by.values())
    seen = "is below that of proportion" if below else "is not shown to be below that of proportion"
    return (
        f"The exponent of L, in the middle of the loads, {seen}; theory expects it to be, because "
        "the room above the mean that chance needs grows only as √L, so that small pools need "
        "relatively more."
    )


def _prediction_prose(of: Story) -> str:
    off = ", ".join(f"{rule.name} {rule.typical:.2f} ×" for rule in of.rivals)
    lasting = [_named_with(each) for each in of.told if not each.close]
    return (
        "The prediction uses nothing but the rate and the hold time W₀ in a pool that is no limit. "
        f"Not within the band: {', '.join(lasting) or 'none'}. Typical error of each rule over the "
        f"steady loads: {off or 'not known'}. Erlang C is made for exponential hold "
        "times; through the link calls take nearly the same, which by theory needs a little less."
    )


def _named_with(each: Answer) -> str:
    return f"{named(each)} (measured {each.measured:.0f}, predicted {each.predicted:.0f})"


def _steps_prose(of: Story) -> str:
    known = sound_pods(pods(of.cells))
    return (
        f"Each point is a pool size at one load, over {known['requests'].sum():,.0f} requests in "
        "all. N* is where the falling fit (isotonic, each block by itself) crosses the objective. "
        f"Controls, pools of more than 4 L: {_control_said(known[known['control']])} of their "
        "requests found them empty: what stalls of the machine do to any pool would show there."
    )


def _control_said(controls: pd.DataFrame) -> str:
    if controls.empty:
        return "an unknown share"
    empty = (controls["pool_empty_share"] * controls["requests"]).sum()
    return f"{empty:,.0f} of {controls['requests'].sum():,.0f}"


def _burst_prose(of: Story) -> str:
    said = "; ".join(
        f"at a peak of {burst.load.peak_to_mean:g} × the mean "
        f"{burst.measured / steady.measured:.2f} × the pool, "
        f"{burst.measured / burst.in_flight:.2f} connections per call in flight "
        f"instead of {steady.measured / steady.in_flight:.2f}"
        for steady, burst in bursts(of.told)
    )
    return (
        f"Bursts leave the mean in flight as it is, and ask more of the pool: {said}. By theory it "
        "must hold the concurrency of its peak, where that lasts for more than a few hold times."
    )


def _in_flight_prose(of: Story) -> str:
    said = ", ".join(
        f"{si(load.qps, '/s')}: mean {found.mean:.2f}, p50 {found.quantile(0.5)}, "
        f"p99 {found.quantile(0.99)}, most {len(found.share) - 1}"
        for load, found in of.held.items()
    )
    return (
        "The mean in flight is what Little's law gives; a pool must bear the tail above it. "
        f"{said}. By theory all loads with the same λW₀ have the same distribution, Poisson's, "
        "whatever the distribution of the hold times (Palm, 1943)."
    )


def _server_prose(of: Story) -> str:
    known = server_controls(of.cells)
    rows = "; ".join(
        f"{si(row.offered_qps, '/s')}: W₀ {si(row.command_mean_s, 's')}, L "
        f"{row.in_flight_mean:.2f}, server {row.server_cpu_s / row.measured_s:.0%} busy"
        for row in known.itertuples()
    )  # fmt: skip
    return (
        "Concurrency is not a constant of the service: where calls queue for a busy server, theory "
        f"has W₀ rise with the rate, and L faster than it. Measured: {rows}. A pool that is larger "
        "than the peak needs only moves that queue into the server."
    )


def _audit_prose(of: Story) -> str:
    return audit.prose(of.cells)
