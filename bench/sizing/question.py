"""What was asked, checked: every refusal is one line that names the option and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.model import PreflightError, within
from bench.sizing import clients, hops, sources
from bench.sizing.clients import Client
from bench.sizing.holds import LEAST_S, MOST_S, HoldTimes, exponential, lognormal
from bench.sizing.hops import Hop
from bench.sizing.pools import Load, Objective
from bench.sizing.quantities import duration, per_second, rate, ratio, share, shown, span

LEAST_RATE, MOST_RATE = 0.001, 100_000_000.0  # per second, over all pods
MOST_BURST = 10_000.0
MOST_PODS = 100_000
MAXCLIENTS, MOST_MAXCLIENTS = 10_000, 1_000_000
WAIT_SHARE = 0.01
AGREE = 0.01  # two figures for one thing must not differ by more
LATENCY_AGREES = 0.1  # the mean of a fit is no better known


@dataclass(frozen=True, slots=True)
class Asked:
    """The options as typed."""

    rate: str
    peak: str | None = None
    burst: str | None = None
    latency: str | None = None
    p50: str | None = None
    p99: str | None = None
    samples: str | None = None
    samples_unit: str | None = None
    run: str | None = None
    live: bool = False
    pods: int = 1
    wait_share: str | None = None
    wait_p99: str | None = None
    idle_timeout: str | None = None
    maxclients: int | None = None
    client: str = "all"


@dataclass(frozen=True, slots=True)
class Question:
    """Rates are per second over all pods; `path` is the hop that closes idle connections first."""

    rate_per_s: float
    peak_per_s: float
    hold: HoldTimes
    pods: int
    objectives: tuple[Objective, ...]
    path: Hop
    maxclients: int
    clients: tuple[Client, ...]
    assumptions: tuple[str, ...]

    @property
    def at_peak(self) -> Load:
        """What one pod carries at the peak."""
        return Load(self.peak_per_s / self.pods, self.hold)

    @property
    def at_mean(self) -> Load:
        return Load(self.rate_per_s / self.pods, self.hold)


def checked(asked: Asked, url: str | None) -> Question:
    """What `asked` means. `url` is the server that --live measures, which blocks for a second or
    two. Raises PreflightError."""
    mean = rate("--rate", asked.rate, LEAST_RATE, MOST_RATE)
    peak = _peak(asked, mean)
    within("--pods", asked.pods, 1, MOST_PODS)
    maxclients = MAXCLIENTS if asked.maxclients is None else asked.maxclients
    within("--maxclients", maxclients, 1, MOST_MAXCLIENTS)
    objectives = _objectives(asked)
    path = hops.unknown_path()
    if asked.idle_timeout is not None:
        path = hops.path("--idle-timeout", asked.idle_timeout)
    wanted = clients.chosen("--client", asked.client)
    hold = _hold(asked, url)
    _refuse_overload(peak * hold.mean_s, maxclients)
    return Question(
        mean, peak, hold, asked.pods, objectives, path, maxclients, wanted,
        (*_assumptions(asked, path), *hold.doubts),
    )  # fmt: skip


def _peak(asked: Asked, mean: float) -> float:
    given = []
    if asked.peak is not None:
        given.append(rate("--peak", asked.peak, LEAST_RATE, MOST_RATE))
    if asked.burst is not None:
        given.append(mean * ratio("--burst", asked.burst, MOST_BURST))
    if len(given) == 2 and abs(given[0] / given[1] - 1) > AGREE:
        raise PreflightError(
            f"--peak {shown(asked.peak)} contradicts --burst {shown(asked.burst)}, which makes "
            f"{per_second(given[1])} of --rate {shown(asked.rate)}: leave one of them out"
        )
    peak = given[0] if given else mean
    if peak < mean:
        raise PreflightError(
            f"--peak {shown(asked.peak)} is below --rate {shown(asked.rate)}: the mean cannot "
            "exceed the peak"
        )
    return peak


def _objectives(asked: Asked) -> tuple[Objective, ...]:
    met = []
    if asked.wait_share is not None:
        most = share("--wait-share", asked.wait_share)
        met.append(Objective(0.0, most, shown(asked.wait_share.strip())))
    if asked.wait_p99 is not None:
        met.append(Objective(duration("--wait-p99", asked.wait_p99, LEAST_S, MOST_S), 0.01))
    return tuple(met) or (Objective(0.0, WAIT_SHARE),)


def _hold(asked: Asked, url: str | None) -> HoldTimes:
    typed = {
        "--latency": asked.latency,
        "--p50 and --p99": asked.p50 or asked.p99,
        "--samples": asked.samples,
        "--run": asked.run,
        "--live": asked.live or None,
    }
    given = [name for name, value in typed.items() if value is not None]
    if not given:
        raise PreflightError(f"no latency: give one of {', '.join(typed)}")
    if asked.samples_unit is not None and asked.samples is None:
        raise PreflightError("--samples-unit goes with --samples")
    if given == ["--latency", "--p50 and --p99"]:
        return _fit_with_mean(asked)
    if len(given) > 1:
        raise PreflightError(f"{' and '.join(given)} both tell the latency: leave one of them out")
    return _from_one(asked, url)


def _from_one(asked: Asked, url: str | None) -> HoldTimes:
    if asked.latency is not None:
        return exponential(duration("--latency", asked.latency, LEAST_S, MOST_S))
    if asked.samples is not None:
        if not asked.samples:
            raise PreflightError("--samples is empty: name a .hlog or a .csv file")
        return sources.from_file(Path(asked.samples), asked.samples_unit)
    if asked.run is not None:
        if not asked.run:
            raise PreflightError("--run is empty: name a run folder, such as results/reference")
        return sources.from_run(Path(asked.run))
    if asked.live:
        return sources.live(url)
    return _fit(asked)


def _fit(asked: Asked) -> HoldTimes:
    if asked.p50 is None or asked.p99 is None:
        missing = "--p50" if asked.p50 is None else "--p99"
        raise PreflightError(f"--p50 and --p99 go together: {missing} is missing")
    fitted = lognormal(
        duration("--p50", asked.p50, LEAST_S, MOST_S), duration("--p99", asked.p99, LEAST_S, MOST_S)
    )
    if fitted.mean_s > MOST_S:
        raise PreflightError(
            f"--p50 {shown(asked.p50)} and --p99 {shown(asked.p99)} make a mean of "
            f"{span(fitted.mean_s)}: it must not exceed {span(MOST_S)}"
        )
    return fitted


def _fit_with_mean(asked: Asked) -> HoldTimes:
    """The fit, where the mean given beside it agrees."""
    assert asked.latency is not None
    if asked.p50 is None or asked.p99 is None:
        raise PreflightError(
            "--latency is the mean and tells all that is used of it: leave it out, or give both "
            "--p50 and --p99 in its place"
        )
    mean_s, fitted = duration("--latency", asked.latency, LEAST_S, MOST_S), _fit(asked)
    if abs(mean_s / fitted.mean_s - 1) > LATENCY_AGREES:
        raise PreflightError(
            f"--latency {shown(asked.latency)} contradicts --p50 {shown(asked.p50)} and --p99 "
            f"{shown(asked.p99)}, which make a mean of {span(fitted.mean_s)}: leave one or "
            "the other out"
        )
    return fitted


def _refuse_overload(in_flight: float, maxclients: int) -> None:
    if in_flight >= maxclients:
        raise PreflightError(
            f"{in_flight:,.0f} calls in flight at the peak need more connections than --maxclients "
            f"{maxclients:,}: with any pool it allows the queue grows for ever; lower rate or "
            "latency, or share the load among several servers"
        )


def _assumptions(asked: Asked, path: Hop) -> list[str]:
    told = [
        "arrivals are independent of each other (Poisson), at the peak rate for as long as it "
        "takes; calls sent in bunches wait more",
        "latency is the time a connection is held: if the caller does more before it gives the "
        "connection back, add that",
    ]
    if asked.pods > 1:
        told.append("pods share the load evenly, and each is one process with a pool of its own")
    if asked.idle_timeout is None:
        told.append(
            f"the path's idle timeout is unknown: {span(path.closes_after_s or 0)} and silence "
            f"assumed, as short as the shortest default known ({hops.shortest().name}); name "
            "yours with --idle-timeout"
        )
    if asked.maxclients is None:
        told.append(f"maxclients is Redis' default, {MAXCLIENTS:,}; hosted ones differ")
    return told
