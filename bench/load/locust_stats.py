"""What Locust's console and web UI show of a test, and what is said of it at its end.

Locust is fed summaries; an event per request would cost more than the request.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from locust.stats import RequestStats, StatsEntry, StatsError

from bench.analysis.statistics import enough, quantiles
from bench.load.recorder import DONE, INTENDED, SENT, Floats, add_seconds, new_histogram

METHOD = "redis"
REPORTED = (0.5, 0.9, 0.99, 0.999)
REPORTED_OF_LAG = (0.5, 0.99)
TOO_FEW = "unknown (too few)"


def log(stats: RequestStats, name: str, rows: Floats, failures: Mapping[str, int]) -> None:
    """Add many requests at once, each in the second in which it was done: Locust's current rate
    is a mean over such seconds. Like Locust, count the failed ones (by kind) too, but without a
    time."""
    failed = sum(failures.values())
    if not rows.size and not failed:
        return
    entry: Any = StatsEntry(stats, name, METHOD)  # its own types say int
    entry.last_request_timestamp = time.time()
    entry.num_requests = len(rows) + failed
    entry.num_none_requests = entry.num_failures = failed
    if failed:
        entry.num_reqs_per_sec[int(entry.last_request_timestamp)] += failed
        entry.num_fail_per_sec[int(entry.last_request_timestamp)] += failed
    if rows.size:
        _add_times(entry, rows)
    stats.get(name, METHOD).extend(entry)
    stats.total.extend(entry)
    for kind, count in failures.items():
        _add_errors(stats, name, kind, count)


def _add_times(entry: Any, rows: Floats) -> None:
    """Keys keep three digits: Locust's own rounding to whole milliseconds would show most of a
    Redis as 0."""
    milliseconds = (rows[:, DONE] - rows[:, INTENDED]) * 1e3
    entry.total_response_time = float(milliseconds.sum())
    entry.min_response_time = float(milliseconds.min())
    entry.max_response_time = float(milliseconds.max())
    entry.response_times.update(_counts(_three_digits(milliseconds)))
    seconds = (rows[:, DONE] + (time.time() - time.perf_counter())).astype(np.int64)
    for second, count in _counts(seconds).items():
        entry.num_reqs_per_sec[second] += count


def _add_errors(stats: RequestStats, name: str, kind: str, count: int) -> None:
    """Locust's `log_error` takes them one by one, which would hold up the load."""
    error = stats.errors.setdefault(
        StatsError.create_key(METHOD, name, kind), StatsError(METHOD, name, kind)
    )
    error.occurrences += count - 1
    error.occurred()


def _counts(values: Any) -> dict[Any, int]:
    distinct, counts = np.unique(values, return_counts=True)
    return dict(zip(distinct.tolist(), counts.tolist(), strict=True))


def _three_digits(values: Floats) -> Floats:
    scale = 10.0 ** (2 - np.floor(np.log10(np.maximum(values, 1e-3))))
    return np.round(values * scale) / scale


def latency_line(stats: RequestStats) -> str:
    """The percentiles in Locust's statistics, to the microsecond: its table shows whole ms."""
    total = stats.total
    timed = total.num_requests - total.num_none_requests
    figures = {
        share: total.get_response_time_percentile(share) / 1e3 if enough(share, timed) else None
        for share in REPORTED
    }
    return f"latency of {timed} requests: {_named(figures)}"


@dataclass(slots=True)
class Totals:
    """What became of the arrivals of an open loop so far; those left over are out, or wait."""

    offered: int = 0
    served: int = 0
    failed: int = 0
    dropped: int = 0
    send_lag: HdrHistogram = field(default_factory=new_histogram)
    lag_out_of_range: int = 0

    def add(self, rows: Floats, *, offered: int, failed: int, dropped: int) -> None:
        self.offered += offered
        self.served += len(rows)
        self.failed += failed
        self.dropped += dropped
        self.lag_out_of_range += add_seconds(self.send_lag, rows[:, SENT] - rows[:, INTENDED])

    @property
    def unfinished(self) -> int:
        return self.offered - self.served - self.failed - self.dropped

    def packed(self) -> dict[str, Any]:
        """For a message to Locust's master."""
        return {
            "offered": self.offered,
            "served": self.served,
            "failed": self.failed,
            "dropped": self.dropped,
            "send_lag": self.send_lag.encode(),
            "lag_out_of_range": self.lag_out_of_range,
        }

    def add_packed(self, other: Mapping[str, Any]) -> None:
        self.offered += other["offered"]
        self.served += other["served"]
        self.failed += other["failed"]
        self.dropped += other["dropped"]
        self.send_lag.decode_and_add(other["send_lag"])
        self.lag_out_of_range += other["lag_out_of_range"]

    def line(self) -> str:
        lags = quantiles(self.send_lag, REPORTED_OF_LAG, self.lag_out_of_range)
        return (
            f"offered {self.offered}, served {self.served}, failed {self.failed}, "
            f"dropped {self.dropped}, unfinished {self.unfinished}; "
            f"send lag {_named(dict(zip(REPORTED_OF_LAG, lags, strict=True)))}"
        )


def _named(percentiles: Mapping[float, float | None]) -> str:
    return ", ".join(f"p{100 * share:g} {_shown(value)}" for share, value in percentiles.items())


def _shown(seconds: float | None) -> str:
    return TOO_FEW if seconds is None else f"{1e3 * seconds:.3f} ms"
