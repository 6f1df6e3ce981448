"""The answer: how many connections, what half and double as many give, timeouts and settings."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from bench.model import PreflightError
from bench.sizing.clients import Plan, settings
from bench.sizing.pools import Simulation, Size, by_formula, described, percent, recommended
from bench.sizing.quantities import counted
from bench.sizing.question import Question
from bench.sizing.timeouts import Timeouts, derived

HALF, RECOMMENDED, DOUBLE, FLAT = "half", "recommended", "double", "flat 2 × L"
MUCH = 0.5  # of maxclients: a rolling deploy may hold the old pods' and the new pods' pools at once


@dataclass(frozen=True, slots=True)
class Advice:
    """`sizes` by what they are: half, recommended, double, and what the flat rule says."""

    question: Question
    sizes: dict[str, Size]
    connections_for_mean_rate: int
    simulated_requests: int
    timeouts: Timeouts

    @property
    def connections(self) -> int:
        """Of one pod."""
        return self.sizes[RECOMMENDED].connections

    @property
    def connections_total(self) -> int:
        return self.connections * self.question.pods

    @property
    def maxclients_share(self) -> float:
        return self.connections_total / self.question.maxclients

    @property
    def plan(self) -> Plan:
        in_flight = math.ceil(self.question.at_mean.in_flight)
        return Plan(self.connections, min(in_flight, self.connections), self.timeouts)

    @property
    def flat_rule(self) -> str:
        """What a flat twice the mean in flight makes of it."""
        flat, best = self.sizes[FLAT], self.sizes[RECOMMENDED]
        if flat.connections < best.connections:
            return f"too small: {percent(flat.wait_share)} of requests would wait"
        if flat.connections > 1.2 * best.connections:
            return f"generous: {flat.connections - best.connections:,} more than it takes"
        return "about right here"


def advise(question: Question) -> Advice:
    """Size for the peak. Raises PreflightError where the pods' pools together exceed maxclients."""
    simulation = Simulation(question.at_peak)
    best = recommended(simulation, question.objectives)
    _refuse_beyond_maxclients(question, best)
    flat = max(1, math.ceil(2 * question.at_peak.in_flight - 1e-9))
    wanted = {HALF: best // 2, RECOMMENDED: best, DOUBLE: 2 * best, FLAT: flat}
    sizes = {
        name: described(simulation, connections)
        for name, connections in wanted.items()
        if connections
    }
    timeouts = derived(question.at_peak, sizes[RECOMMENDED], question.path, best * question.pods)
    for_mean = by_formula(question.at_mean, question.objectives)
    return Advice(question, sizes, for_mean, simulation.requests, timeouts)


def _refuse_beyond_maxclients(question: Question, connections: int) -> None:
    total, maxclients = connections * question.pods, question.maxclients
    if total > maxclients:
        pods, product = "", ""
        if question.pods > 1:
            pods, product = f"{question.pods:,} pods × ", f"{total:,}, "
        raise PreflightError(
            f"{pods}{counted(connections, 'connection')} are {product}more than --maxclients "
            f"{maxclients:,}: raise it, use fewer and larger pods, or share the load among servers"
        )


def as_json(advice: Advice) -> dict[str, Any]:
    """Every figure, with its unit in its key."""
    question, load = advice.question, advice.question.at_peak
    return {
        "question": {
            "rate_per_s": question.rate_per_s,
            "peak_per_s": question.peak_per_s,
            "pods": question.pods,
            "latency": question.hold.source,
            "hold_mean_s": question.hold.mean_s,
            "hold_p50_s": question.hold.p50_s,
            "hold_p99_s": question.hold.p99_s,
            "hold_p999_s": question.hold.p999_s,
            "objectives": [
                {"says": str(each), "longest_wait_s": each.longest_s, "share": each.share}
                for each in question.objectives
            ],
            "path": question.path.name,
            "path_idle_timeout_s": question.path.closes_after_s,
            "path_sees": question.path.sees,
            "path_source": question.path.source,
            "maxclients_connections": question.maxclients,
        },
        "pool": {
            "connections": advice.connections,
            "total_connections": advice.connections_total,
            "maxclients_share": advice.maxclients_share,
            "in_flight_mean_requests": load.in_flight,
            "in_flight_peak_requests": load.in_flight_peak,
            "mean_rate_connections": advice.connections_for_mean_rate,
            "flat_rule": advice.flat_rule,
        },
        "sizes": {
            name: {**asdict(size), "stable": size.stable} for name, size in advice.sizes.items()
        },
        "simulated_requests": advice.simulated_requests,
        "timeouts": asdict(advice.timeouts),
        "clients": [
            {
                "client": client.name,
                "version_read": client.version,
                "multiplexed": client.multiplexed,
                "paste": settings(client, advice.plan),
                "notes": client.notes(advice.plan),
            }
            for client in question.clients
        ],
        "assumptions": list(question.assumptions),
    }
