"""How long requests hold a connection: what is known of it, and draws for a simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.figures.units import si
from bench.model import PreflightError
from bench.sizing.quantities import counted, span

Array = NDArray[np.float64]

LEAST_S, MOST_S = 1e-6, 60.0
MOST_TAIL = 1_000.0  # p99 ÷ p50: beyond, the fitted mean is nearly all extrapolation
FEWEST_SAMPLES = 20
ABSURD_S = 1e6  # more is not told in digits
FEWEST_FOR_P99, FEWEST_FOR_P999 = 726, 7_289  # rule 4 of the methods
Z99, Z999 = 2.3263478740408408, 3.090232306167813  # quantiles of the normal distribution


@dataclass(frozen=True, slots=True)
class HoldTimes:
    """How long a request holds its connection, in seconds; `draw(n, rng)` gives n such times.

    `exponential`: only the mean is known, and the formulas' own distribution stands in. `source`
    says where it is from, `doubts` what of it is assumed.
    """

    mean_s: float
    p50_s: float
    p99_s: float
    p999_s: float
    source: str
    draw: Callable[[int, np.random.Generator], Array]
    exponential: bool = False
    doubts: tuple[str, ...] = ()


def exponential(mean_s: float) -> HoldTimes:
    """Nothing but the mean is known. Exponential times spread more than most services' do."""
    doubt = (
        f"hold times are exponential (p99 {span(mean_s * math.log(100))}), as in Erlang C: only "
        "their mean was given; cautious unless the tail is longer (then give --p50 and --p99)"
    )
    return HoldTimes(
        mean_s, mean_s * math.log(2), mean_s * math.log(100), mean_s * math.log(1000),
        f"a mean of {span(mean_s)}", lambda n, rng: rng.exponential(mean_s, n), True, (doubt,),
    )  # fmt: skip


def lognormal(p50_s: float, p99_s: float) -> HoldTimes:
    """The lognormal through both percentiles: ln p50 is its μ, ln(p99/p50)/2.326 its σ, and
    p50·exp(σ²/2) its mean. Raises PreflightError where p99 is below p50 or far beyond it."""
    if p99_s < p50_s:
        raise PreflightError(
            f"--p99 {span(p99_s)} is below --p50 {span(p50_s)}: no latency is spread like that"
        )
    if p99_s > MOST_TAIL * p50_s:
        raise PreflightError(
            f"--p99 {span(p99_s)} is more than {MOST_TAIL:,.0f} times --p50 {span(p50_s)}: no fit "
            "tells its mean; give --samples"
        )
    mu, sigma = math.log(p50_s), math.log(p99_s / p50_s) / Z99
    return HoldTimes(
        math.exp(mu + sigma * sigma / 2), p50_s, p99_s, math.exp(mu + Z999 * sigma),
        f"a lognormal through p50 {span(p50_s)} and p99 {span(p99_s)}",
        lambda n, rng: rng.lognormal(mu, sigma, n), doubts=_fitted(sigma),
    )  # fmt: skip


def _fitted(sigma: float) -> tuple[str, ...]:
    """The share of a lognormal's mean that lies beyond its z-quantile is Φ(σ − z)."""
    beyond = 0.5 * math.erfc((Z99 - sigma) / math.sqrt(2))
    said = "hold times are lognormal: two percentiles do not tell their shape"
    if beyond >= 0.1:
        said += f"; {beyond:.0%} of the mean lies beyond the p99, where this is a guess"
    return (said,)


def measured(values_s: ArrayLike, counts: ArrayLike, source: str, option: str = "") -> HoldTimes:
    """As measured: each of `values_s`, ascending, `counts` times.

    Raises PreflightError, naming `option`, for too few of them or a mean that no command's can be.
    """
    values, weights = np.asarray(values_s, dtype=float), np.asarray(counts, dtype=np.int64)
    total, rising = int(weights.sum()), np.cumsum(weights)
    said = f"{option} {source}".strip()
    if total < FEWEST_SAMPLES:
        raise PreflightError(
            f"{said}: {counted(total, 'sample')} {'is' if total == 1 else 'are'} too few: give at "
            f"least {FEWEST_SAMPLES}"
        )
    mean_s = float(values @ weights) / total
    if not LEAST_S <= mean_s <= MOST_S:
        raise PreflightError(
            f"{said}: the mean is {_told(mean_s)} and must lie between {span(LEAST_S)} and "
            f"{span(MOST_S)}: is the unit right?"
        )

    def below(share: float) -> float:
        return float(values[np.searchsorted(rising, share * total)])

    def draw(n: int, rng: np.random.Generator) -> Array:
        return values[np.searchsorted(rising, rng.integers(total, size=n), side="right")]

    described = f"{source}: {total:,} samples, mean {span(mean_s)}"
    return HoldTimes(
        mean_s, below(0.5), below(0.99), below(0.999), described, draw, doubts=_few(total)
    )


def _told(mean_s: float) -> str:
    """A mean that cannot be, in seconds and not at length."""
    if mean_s > ABSURD_S:
        return f"more than {ABSURD_S:,.0f} s"
    if 0 < mean_s < 1e-9:
        return "less than 1 ns"
    return si(mean_s, "s") if mean_s else "0 s"


def _few(samples: int) -> tuple[str, ...]:
    if samples >= FEWEST_FOR_P999:
        return ()
    what = "p99.9 is" if samples >= FEWEST_FOR_P99 else "p99 and p99.9 are"
    return (f"{samples:,} samples are few: {what} uncertain, and so are timeouts built on it",)
