"""Clock readings in, histograms and a window's figures out. One recorder per worker and cell.

The hot path is one `array.extend` of three floats; all arithmetic waits until the cell is over.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

LOWEST_US, HIGHEST_US, DIGITS = 1, 60_000_000, 3
INTERVAL_S = 0.2
FEWEST_INTERVALS = 8  # fewer cannot tell drift from noise (rule 6)
KINDS = ("latency", "acquire", "command")

Floats = NDArray[np.float64]


def new_histogram() -> HdrHistogram:
    """Whole microseconds, 1 … 60,000,000, three digits (rule 3 of the methods)."""
    return HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)


def add_seconds(histogram: HdrHistogram, seconds: Floats) -> int:
    """Record every value; return how many lay out of range and were left out.

    `record_value` costs 1.3 µs and drops what is out of range without a word, so values are
    grouped first and the strays counted here. Below 1 µs counts as 0.
    """
    micros = (seconds * 1e6).astype(np.int64)
    fits = (micros >= 0) & (micros <= HIGHEST_US)
    values, counts = np.unique(micros[fits], return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return int(micros.size - np.count_nonzero(fits))


def merge(encoded: Iterable[bytes]) -> HdrHistogram:
    """The exact sum of several workers' encoded histograms: counts of equal buckets add up."""
    total = new_histogram()
    for payload in encoded:
        total.decode_and_add(payload)
    return total


class Recorder:
    """Keeps (sent, acquired, done) of every finished request, apart per command, and the failures.

    `sink(command)` gives the function to call with the three clock readings of one request.
    """

    def __init__(self, commands: Iterable[str]) -> None:
        self._times = {name: array("d") for name in commands}
        self.errors = 0
        self.timeouts = 0
        self.error_samples: dict[str, int] = {}

    def sink(self, command: str) -> Any:
        return self._times[command].extend

    def fail(self, error: BaseException, *, timed_out: bool) -> None:
        """Count a request that got no reply; `timed_out` where it gave up waiting for the pool."""
        if timed_out:
            self.timeouts += 1
        else:
            self.errors += 1
        kind = f"{type(error).__name__}: {error}"
        self.error_samples[kind] = self.error_samples.get(kind, 0) + 1

    def operations(self) -> dict[str, int]:
        """Requests with a reply per command, warm-up and drain included."""
        return {name: len(times) // 3 for name, times in self._times.items()}

    def window(self, start: float, end: float) -> dict[str, Any]:
        """What happened to the requests done in [start, end): counts, sums, encoded histograms,
        and a row per interval. `out_s` and `held_s` are the seconds for which requests were out,
        and held a connection, within the window: cut off at its edges. Times are this process's
        perf_counter."""
        rows = self._rows()
        sent, acquired, done = rows[(rows[:, 2] >= start) & (rows[:, 2] < end)].T
        spans = {"latency": done - sent, "acquire": acquired - sent, "command": done - acquired}
        encoded, strays = {}, {}
        for kind, values in spans.items():
            histogram = new_histogram()
            strays[kind] = add_seconds(histogram, values)
            encoded[kind] = histogram.encode()
        return {
            "requests": int(done.size),
            "sums_s": {kind: float(values.sum()) for kind, values in spans.items()},
            "out_s": _inside(rows[:, 0], rows[:, 2], start, end),
            "held_s": _inside(rows[:, 1], rows[:, 2], start, end),
            "histograms": encoded,
            "out_of_range": strays,
            "series": _series(start, end, done, spans),
        }

    def drain(self) -> Floats:
        """Take out all that was recorded so far, as rows (sent, acquired, done)."""
        rows = self._rows()
        for times in self._times.values():
            del times[:]
        return rows

    def drain_errors(self) -> dict[str, int]:
        """Take out the failures so far, by kind."""
        samples, self.error_samples = self.error_samples, {}
        return samples

    def _rows(self) -> Floats:
        return np.concatenate(
            [np.frombuffer(times).reshape(-1, 3) for times in self._times.values()]
        )


def _inside(begun: Floats, ended: Floats, start: float, end: float) -> float:
    """Seconds of the spans [begun, ended] within [start, end): the area under their count."""
    overlap = np.minimum(ended, end) - np.maximum(begun, start)
    return float(overlap[overlap > 0].sum())


def _series(
    start: float, end: float, done: Floats, spans: dict[str, Floats]
) -> list[dict[str, Any]]:
    count = max(FEWEST_INTERVALS, round((end - start) / INTERVAL_S))
    edges = np.linspace(start, end, count + 1)
    slot = np.searchsorted(edges, done, side="right") - 1
    rows = []
    for index in range(len(edges) - 1):
        inside = slot == index
        latency, acquire = spans["latency"][inside], spans["acquire"][inside]
        seen = latency.size > 0
        rows.append(
            {
                "at_s": float(edges[index] - start),
                "length_s": float(edges[index + 1] - edges[index]),
                "requests": int(latency.size),
                "latency_mean_s": float(latency.mean()) if seen else None,
                "latency_max_s": float(latency.max()) if seen else None,
                "acquire_mean_s": float(acquire.mean()) if seen else None,
            }
        )
    return rows
