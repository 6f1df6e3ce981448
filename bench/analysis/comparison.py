"""Two runs side by side: which cells of equal settings differ beyond the scatter of their blocks.

Replicates of a cell come from blocks whose server and workers start fresh, so those of one run are
taken as independent, and those of two runs as unpaired. What the machine itself was in another hour
is not in their scatter: only runs measured by turns can tell that apart.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from bench.analysis.replicates import APPARATUS, REPLICATES_NEEDED
from bench.analysis.statistics import CONFIDENCE, POWER, TICK_S
from bench.model import Arrivals, Cell, Estimate, Idling, Outage, Service, Workload

FALSE_SHARE = 0.05  # of the differences called, at most so many are none, on average
DIGITS = 1e-3  # histograms keep three digits
FEWEST_TICKS = 20  # a time of fewer is known to worse than 5 %
PARTS = ("own", "own_freedom", "shared", "shared_freedom", "scale")
SMALLEST_LOG_P, MOST_LOG_FREEDOM, BISECTIONS = -60.0, 12.0, 50
FEWEST_CELLS = 3  # that can say how alike the scatters of cells are

# The kinds of a cell's settings, each with a column that is known wherever it has any of them.
KINDS: dict[type, str] = {
    Cell: "experiment", Workload: "keys", Arrivals: "arrivals", Idling: "gap_s",
    Outage: "begins_s", Service: "patience_s",
}  # fmt: skip

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figure:
    """A column that is compared: its name for people, `shown` times as large in `unit`, and whether
    more of it is better. A `time` comes from a histogram."""

    column: str
    name: str
    unit: str
    shown: float
    more_is_better: bool = False
    time: bool = False

    def known(self, cells: pd.DataFrame) -> pd.Series[float]:
        """Its logarithms; NaN where it says nothing. An open loop's rate is what was offered."""
        values = cells[self.column].astype(float)
        usable = values > (FEWEST_TICKS * TICK_S if self.time else 0)
        if self.more_is_better:
            usable &= cells["loop"] == "closed"
        return np.log(values.where(usable))


FIGURES = (
    Figure("qps", "QPS", "/s", 1, more_is_better=True),
    Figure("latency_p50_s", "latency p50", "ms", 1e3, time=True),
    Figure("latency_p99_s", "latency p99", "ms", 1e3, time=True),
    Figure("acquire_p99_s", "acquire p99", "ms", 1e3, time=True),
    Figure("client_cpu_us_per_op", "client CPU", "µs/op", 1),
    Figure("server_cpu_us_per_op", "server CPU", "µs/op", 1),
    Figure("server_client_memory_bytes", "server memory", "kB", 1e-3),
)


class Prior(NamedTuple):
    """What the scatters of all cells say of one: a variance, worth so many degrees of freedom."""

    variance: float
    freedom: float


def settings_of(cells: pd.DataFrame) -> list[str]:
    """The columns that hold a cell's settings: together they are its identity."""
    names = dict.fromkeys(field.name for noun in KINDS for field in fields(noun))
    return [name for name in names if name in cells]


def known_to_one(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """Settings that only the version of one run had: blank in every cell of the other that has
    settings of that kind at all."""
    return [
        field.name
        for noun, sign in KINDS.items()
        for field in fields(noun)
        if field.name in before and _new(*(cells[cells[sign].notna()][field.name]
                                           for cells in (before, after)))
    ]  # fmt: skip


def _new(first: pd.Series[object], second: pd.Series[object]) -> bool:
    known = first.notna(), second.notna()
    some = len(first) > 0 and len(second) > 0
    return some and any(one.all() and not other.any() for one, other in (known, known[::-1]))


def matched(before: pd.DataFrame, after: pd.DataFrame, free: Collection[str] = ()) -> pd.DataFrame:
    """The cells of both runs that agree in every setting but those `free`: columns experiment,
    before and after (their ids). Cells that only a free setting tells apart are left out."""
    columns = [name for name in settings_of(before) if name not in free]
    first, second = _by_settings(before, columns), _by_settings(after, columns)
    rows = [(key[0], first[key], second[key]) for key in first if key in second]
    return pd.DataFrame(rows, columns=["experiment", "before", "after"])


def _by_settings(cells: pd.DataFrame, columns: list[str]) -> dict[tuple[object, ...], str]:
    """The id of the cell that has these settings, where there is one alone."""
    once = cells.drop_duplicates("cell")
    plain = once[columns].astype(object).where(once[columns].notna(), None)
    ids: dict[tuple[object, ...], list[str]] = {}
    for key, cell in zip(plain.itertuples(index=False, name=None), once["cell"], strict=True):
        ids.setdefault(tuple(map(_hashable, key)), []).append(cell)
    return {key: cells[0] for key, cells in ids.items() if len(cells) == 1}


def _hashable(value: object) -> object:
    return tuple(value) if isinstance(value, np.ndarray) else value


def differing(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """The settings of which the two runs have no value in common: why no cell matches."""
    return [
        name for name in settings_of(before)
        if not _values(before[name]) & _values(after[name])
    ]  # fmt: skip


def _values(column: pd.Series[object]) -> set[object]:
    return {None if _blank(value) else _hashable(value) for value in column}


def _blank(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def changes(before: pd.DataFrame, after: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """A row for each pair of cells and each figure that both know, from valid last attempts.

    Columns: experiment, cell, other (the ids), figure (its column), before, after (geometric
    means), n_before, n_after, ratio (after ÷ before), low and high, p, detectable, hollow (bound by
    the apparatus in half of either run's replicates: it supports no claim), differs, and worse.

    A test is on logarithms, with variances `moderated` and what blocks share (`_half`). Of those
    that are not hollow, `differs` is called by Benjamini and Hochberg at 5 %, over all figures
    together; intervals of the called are as wide as that choice needs, others hold 95 %
    (`_intervals`).
    `detectable`: the smallest true ratio − 1 that would have been called four times in five.
    """
    found = pd.concat([_of_figure(before, after, pairs, figure) for figure in FIGURES])
    found = found.reset_index(drop=True)
    tested = ~found["hollow"] & found["p"].notna()
    found["differs"] = False
    found.loc[tested, "differs"] = discovered(found.loc[tested, "p"].to_numpy())
    level = FALSE_SHARE * max(int(found["differs"].sum()), 1) / max(int(tested.sum()), 1)
    found = found.join(_intervals(found, level))
    higher = found["figure"].isin([each.column for each in FIGURES if each.more_is_better])
    found["worse"] = found["differs"] & ((found["ratio"] < 1) == higher)
    return found.drop(columns=[*PARTS])


def _of_figure(
    before: pd.DataFrame, after: pd.DataFrame, pairs: pd.DataFrame, figure: Figure
) -> pd.DataFrame:
    """The rows of one figure, each with the `PARTS` of its difference's variance."""
    first = _summed(before, figure).reindex(pairs["before"])
    second = _summed(after, figure).reindex(pairs["after"])
    n, m = first["count"].to_numpy(), second["count"].to_numpy()
    spread, freedom = _pooled(first, second)
    if figure.time:
        spread = spread + _coarseness(first["mean"].to_numpy())
    own, own_freedom = moderated(spread, freedom)
    shared, shared_freedom = _shared(first, second)
    parts = pd.DataFrame({
        "own": own, "own_freedom": own_freedom, "shared": shared,
        "shared_freedom": shared_freedom, "scale": 1 / n + 1 / m,
    })  # fmt: skip
    shift = second["mean"].to_numpy() - first["mean"].to_numpy()
    rows = pd.DataFrame({
        "experiment": pairs["experiment"].to_numpy(),
        "cell": pairs["before"].to_numpy(), "other": pairs["after"].to_numpy(),
        "figure": figure.column,
        "before": np.exp(first["mean"].to_numpy()), "after": np.exp(second["mean"].to_numpy()),
        "n_before": n, "n_after": m, "ratio": np.exp(shift),
        "p": _p(parts, shift),
        "hollow": (first["hollow"].to_numpy() >= 0.5) | (second["hollow"].to_numpy() >= 0.5),
    })  # fmt: skip
    rows = rows.join(parts)
    kept = rows[(rows["n_before"] > 0) & (rows["n_after"] > 0)]
    return kept.astype({"n_before": int, "n_after": int})


def _summed(cells: pd.DataFrame, figure: Figure) -> pd.DataFrame:
    """Of each valid cell: mean and variance of the figure's logarithms, how many, the share of its
    replicates that the apparatus bounds; and what its experiment's blocks share: `squares` and
    `freedom` of their effects. An effect is the median over the block's cells, lest the restless
    ones speak for the others; the variance is of what it leaves."""
    valid = cells[cells["valid"].astype(bool)]
    known = valid.assign(log=figure.known(valid), bound=valid["bound_by"].isin(APPARATUS))
    known = known[known["log"].notna()]
    own = known.groupby("cell")
    known = known.assign(count=own["log"].transform("count"), first=own["block"].transform("min"))
    known["shift"] = (known["log"] - own["log"].transform("mean")).where(known["count"] > 1)
    known["effect"] = known.groupby(["experiment", "block"])["shift"].transform("median")
    known["rest"] = (known["shift"] - known["effect"]) ** 2
    found = known.groupby("cell").agg(
        experiment=("experiment", "first"), mean=("log", "mean"), rest=("rest", "sum"),
        count=("log", "count"), hollow=("bound", "mean"),
    )  # fmt: skip
    found["var"] = found["rest"] / (found["count"] - 1).where(found["count"] > 1)
    return found.join(_effects(known), on="experiment")


def _effects(known: pd.DataFrame) -> pd.DataFrame:
    """By experiment: the sum of its blocks' squared effects, and their degrees of freedom: blocks
    less the kinds of them, since each kind holds cells of its own."""
    blocks = known[known["effect"].notna()].groupby(["experiment", "block"])
    each = blocks.agg(effect=("effect", "first"), kind=("first", "min")).reset_index()
    each["square"] = each["effect"] ** 2
    found = each.groupby("experiment").agg(
        squares=("square", "sum"), blocks=("block", "size"), kinds=("kind", "nunique")
    )
    found["freedom"] = found["blocks"] - found["kinds"]
    return found[["squares", "freedom"]]


def _shared(first: pd.DataFrame, second: pd.DataFrame) -> tuple[Array, Array]:
    """The variance of the block effects of both runs, for each cell, and its degrees of freedom."""
    squares, freedom = (
        first[name].fillna(0).to_numpy(float) + second[name].fillna(0).to_numpy(float)
        for name in ("squares", "freedom")
    )
    return squares / np.maximum(freedom, 1), freedom


def _half(parts: pd.DataFrame, level: Array | float) -> Array:
    """The half width of an interval of a difference of means that misses it in at most the share
    `level`, whatever of the variance is the cells' own and what their blocks share: each part has
    a t of its own degrees of freedom (Banerjee, 1960, Sankhyā 22). Satterthwaite's one t for both
    misses more than it says so far out in the tails, where hundreds of comparisons look."""
    own, shared = (
        special.stdtrit(np.maximum(parts[f"{name}_freedom"].to_numpy(float), 1), level / 2) ** 2
        * parts[name].to_numpy(float)
        for name in ("own", "shared")
    )
    return np.asarray(np.sqrt(parts["scale"].to_numpy(float) * (own + shared)))


def _p(parts: pd.DataFrame, shift: Array) -> Array:
    """The level at which the interval just reaches zero, by bisection on its logarithm."""
    low, high = np.full(shift.shape, SMALLEST_LOG_P), np.zeros(shift.shape)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        wider = _half(parts, np.exp(middle)) > np.abs(shift)
        low, high = np.where(wider, middle, low), np.where(wider, high, middle)
    known = np.isfinite(parts["own"].to_numpy(float)) & np.isfinite(shift)
    return np.where(known, np.exp(high), np.nan)


def _pooled(first: pd.DataFrame, second: pd.DataFrame) -> tuple[Array, Array]:
    """The variance within both runs of each cell, and its degrees of freedom."""
    n, m = (part["count"].fillna(0).to_numpy(float) for part in (first, second))
    freedom = np.maximum(n - 1, 0) + np.maximum(m - 1, 0)
    freedom[(n == 0) | (m == 0)] = 0
    squares = sum(
        part["var"].fillna(0).to_numpy() * np.maximum(count - 1, 0)
        for part, count in ((first, n), (second, m))
    )
    return np.where(freedom > 0, squares / np.maximum(freedom, 1), np.nan), freedom


def _coarseness(logs: Array) -> Array:
    """The variance of a logarithm that only rounding gives: equal readings are not exact ones."""
    step = np.maximum(TICK_S / np.exp(logs), DIGITS)
    return np.asarray(step**2 / 12)


def moderated(variance: Array, freedom: Array) -> tuple[Array, Array]:
    """Each cell's variance drawn to what all cells' say, with the degrees of freedom that it gains.

    Smyth (2004, Statistical Applications in Genetics and Molecular Biology 3, article 3): three
    replicates know their own scatter badly; where many cells scatter alike, they lend each other
    what they know, and where they do not, next to nothing is lent. Cells without any degree of
    freedom of their own stay unknown (NaN).
    """
    own = freedom > 0
    telling = own & (variance > 0)
    known = prior(variance[telling], freedom[telling])
    if math.isinf(known.freedom):
        lent = np.full(variance.shape, known.variance)
    else:
        weights = np.maximum(known.freedom + freedom, 1)
        lent = (known.freedom * known.variance + freedom * variance) / weights
    total = np.minimum(freedom + known.freedom, freedom[own].sum())
    sure = own & (lent > 0)  # replicates that are equal, where nobody lends, say nothing of noise
    return np.where(sure, lent, np.nan), np.where(sure, total, np.nan)


def prior(variances: Array, freedom: Array) -> Prior:
    """Fitted by the moments of the variances' logarithms (Smyth, 2004, section 6.2); nothing is
    lent (0 degrees of freedom) by fewer than three cells."""
    if variances.size < FEWEST_CELLS:
        return Prior(0.0, 0.0)
    half = freedom / 2
    centred = np.log(variances) - special.digamma(half) + np.log(half)
    excess = float(centred.var(ddof=1) - special.polygamma(1, half).mean())
    if excess <= 0:  # they scatter no less alike than chance alone would have it
        return Prior(math.exp(centred.mean()), math.inf)
    lent = _trigamma_inverse(excess)
    return Prior(math.exp(centred.mean() + special.digamma(lent) - math.log(lent)), 2 * lent)


def _trigamma_inverse(value: float) -> float:
    """By Newton's method on 1 ÷ trigamma, which is nearly straight (Smyth, 2004, appendix)."""
    found = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, found))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, found))
        found += step
        if -step < 1e-9 * found:
            break
    return found


def discovered(p: Array, share: float = FALSE_SHARE) -> NDArray[np.bool_]:
    """Which of these tests to call, so that on average at most `share` of the called are false.

    Benjamini and Hochberg (1995, Journal of the Royal Statistical Society B 57): all up to the
    largest p(k) ≤ share · k ÷ m, counted from the smallest. Where nothing differs, and were the
    tests independent, it would call anything at all in at most `share` of comparisons; those of
    cells that share a block are not, for which the tests allow twice as many.
    """
    ordered = np.sort(p)
    below = np.flatnonzero(ordered <= share * np.arange(1, p.size + 1) / max(p.size, 1))
    return np.asarray(p <= ordered[below[-1]]) if below.size else np.zeros(p.size, bool)


def _intervals(found: pd.DataFrame, level: float) -> pd.DataFrame:
    """Of what is called at 1 − `level`, which is the share of called tests times 5 %: so of the
    intervals that are picked out for differing 95 % hold the truth (Benjamini and Yekutieli, 2005,
    Journal of the American Statistical Association 100), and each leaves out 1. Others: 95 %."""
    wide = np.where(found["differs"], level, 1 - CONFIDENCE)
    half = _half(found, wide)
    error = np.sqrt(found["scale"] * (found["own"] + found["shared"]))
    needed = _noticed(_half(found, level) / error, level) * error
    return pd.DataFrame({
        "low": found["ratio"] * np.exp(-half), "high": found["ratio"] * np.exp(half),
        "detectable": np.expm1(needed),
    }, index=found.index)  # fmt: skip


def _noticed(critical: Array, level: float) -> Array:
    """The true difference, in standard errors, that exceeds `critical` of them four times in five:
    by the noncentral t of as many degrees of freedom as would make `critical` what it is."""
    low, high = np.zeros(critical.shape), np.full(critical.shape, MOST_LOG_FREEDOM)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fewer = special.stdtrit(np.exp(middle), 1 - level / 2) < critical
        low, high = np.where(fewer, low, middle), np.where(fewer, middle, high)
    return np.asarray(special.nctdtrinc(np.exp(high), 1 - POWER, critical))


def no_longer_evidence(
    before: pd.DataFrame, after: pd.DataFrame, pairs: pd.DataFrame
) -> list[tuple[str, str, str]]:
    """Experiment, id and reason of each cell that was evidence in every replicate before and is in
    none after. That takes three replicates or more of each: at the edge of a gate a cell that did
    not change passes and fails by turns, and by chance seldom so often in one order."""
    first, second = _share_of_evidence(before), _share_of_evidence(after)
    return [
        (pair.experiment, pair.before, _most_frequent_reason(after[after["cell"] == pair.after]))
        for pair in pairs.itertuples(index=False)
        if first.get(pair.before) == 1 and second.get(pair.after) == 0
    ]


def _share_of_evidence(cells: pd.DataFrame) -> dict[str, float]:
    """By cell, of those with enough replicates."""
    solid = cells["valid"].astype(bool) & ~cells["bound_by"].isin(APPARATUS)
    found = solid.groupby(cells["cell"]).agg(["mean", "size"])
    return dict(found[found["size"] >= REPLICATES_NEEDED]["mean"])


def _most_frequent_reason(cells: pd.DataFrame) -> str:
    bound = "bound by " + cells["bound_by"].astype(str)
    reasons = cells["invalid_reasons"].where(~cells["valid"].astype(bool), bound)
    return str(reasons.mode().iloc[0])


def overall(
    before: pd.DataFrame, after: pd.DataFrame, pairs: pd.DataFrame, found: pd.DataFrame
) -> list[tuple[str, Figure, int, Estimate]]:
    """The geometric mean of the ratios of an experiment's cells, by experiment and figure, with how
    many cells it is over. Hollow ones are left out.

    Cells of a block share its server's start: so the block is the unit. Its mean over the cells is
    one value of its run, and Welch's t on those of both runs gives the interval.
    """
    solid = found[found["p"].notna() & ~found["hollow"]]
    return [
        (str(experiment), figure, len(own), _mean_change(before, after, own, figure))
        for experiment in dict.fromkeys(pairs["experiment"])
        for figure in FIGURES
        if len(own := solid[(solid["experiment"] == experiment)
                            & (solid["figure"] == figure.column)]) > 1
    ]  # fmt: skip


def _mean_change(
    before: pd.DataFrame, after: pd.DataFrame, own: pd.DataFrame, figure: Figure
) -> Estimate:
    first = _block_means(before, own["cell"].tolist(), figure)
    second = _block_means(after, own["other"].tolist(), figure)
    return welch(first, second)


def _block_means(cells: pd.DataFrame, ids: Sequence[str], figure: Figure) -> Array:
    """The mean logarithm over these cells in each block. Cells of blocks apart are taken by the
    order of their blocks; one that lacks a block of its kind is left out, not the block."""
    valid = cells[cells["valid"].astype(bool) & cells["cell"].isin(ids)]
    known = valid.assign(log=figure.known(valid)).dropna(subset=["log"])
    kind = known.groupby("cell")["block"].transform("min")
    known["turn"] = known.groupby(kind)["block"].rank(method="dense")
    table = known.pivot(index="turn", columns="cell", values="log").dropna(axis="columns")
    return np.asarray(table.mean(axis=1).to_numpy(float))


def welch(first: Array, second: Array) -> Estimate:
    """exp of the difference of two means of logarithms, with Welch's t interval (Welch, 1947,
    Biometrika 34); fewer than two values on a side give none."""
    n = min(first.size, second.size)
    value = float(np.exp(second.mean() - first.mean())) if n else math.nan
    if n < 2:
        return Estimate(value, math.nan, math.nan, "", n, ("no interval: 2 blocks needed",))
    parts = np.array([first.var(ddof=1) / first.size, second.var(ddof=1) / second.size])
    if not parts.any():
        return Estimate(value, value, value, "", n)
    freedom = parts.sum() ** 2 / (parts**2 / [first.size - 1, second.size - 1]).sum()
    half = special.stdtrit(freedom, (1 + CONFIDENCE) / 2) * math.sqrt(parts.sum())
    low, high = value * np.exp(np.array([-half, half]))
    return Estimate(value, float(low), float(high), "", n)
