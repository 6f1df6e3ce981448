"""Clock readings in, histograms and a window's figures out. One recorder per worker and cell.

The hot path is one `array.extend` of four floats; all arithmetic waits until the cell is over.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from bench.model import LONG_WAIT_S, Loop  # not by way of scipy: each worker would import it

LOWEST_US, HIGHEST_US, DIGITS = 1, 60_000_000, 3
INTERVAL_S = 0.2
FEWEST_INTERVALS = 8  # fewer cannot tell drift from noise (rule 6)
KINDS = ("latency", "acquire", "command", "send_lag")
IN_FLIGHT = "in_flight"  # the tag of the histogram of connections held, in an open loop
BY_INTERVAL = ("latency", "acquire")  # so that intervals can be left out, or be batches (rule 4)
INTENDED, SENT, ACQUIRED, DONE = range(4)  # the columns of a row

Floats = NDArray[np.float64]


def interval_count(window_s: float) -> int:
    """Into how many intervals a window is divided."""
    return max(FEWEST_INTERVALS, round(window_s / INTERVAL_S))


def new_histogram() -> HdrHistogram:
    """Whole microseconds, 1 … 60,000,000, three digits (rule 3 of the methods)."""
    return HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)


def add_seconds(histogram: HdrHistogram, seconds: Floats) -> int:
    """Record every value; return how many lay out of range and were left out.

    `record_value` costs 1.3 µs and drops what is out of range without a word, so values are
    grouped first and the strays counted here. Below 1 µs counts as 0.
    """
    micros = np.floor(seconds * 1e6).astype(np.int64)  # a negative time must not become 0
    fits = (micros >= 0) & (micros <= HIGHEST_US)
    values, counts = np.unique(micros[fits], return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return int(micros.size - np.count_nonzero(fits))


def encoded(seconds: Floats) -> bytes:
    """These values as a histogram, without those out of its range."""
    histogram = new_histogram()
    add_seconds(histogram, seconds)
    return bytes(histogram.encode())


def merge(payloads: Iterable[bytes]) -> HdrHistogram:
    """The exact sum of several encoded histograms: counts of equal buckets add up."""
    total = new_histogram()
    for payload in payloads:
        total.decode_and_add(payload)
    return total


class Recorder:
    """Keeps (intended, sent, acquired, done) of every finished request, apart per command, and the
    failures.

    `sink(command)` gives the function to call with the four clock readings of one request.
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

    def operations(self, depth: int = 1) -> dict[str, int]:
        """Commands with a reply, each by its name, warm-up and drain included; `depth` of them are
        a request."""
        return {name: len(times) // 4 * depth for name, times in self._times.items()}

    def window(self, start: float, end: float, loop: Loop) -> dict[str, Any]:
        """What happened to the requests of [start, end): counts, sums, encoded histograms, and a
        row per interval. Times are this process's perf_counter.

        A closed loop's requests belong to the window in which they are done. An open loop's belong
        to that in which they were intended, whenever they are done: what is slow must not fall out
        of it. `done` counts those done in it either way. `out_s` and `held_s` are the seconds for
        which requests were out, and held a connection, within the window: cut off at its edges.
        """
        rows = self._rows()
        done_within = rows[_within(rows[:, DONE], start, end)]
        ours = done_within
        if loop == "open":
            ours = rows[_within(rows[:, INTENDED], start, end)]
        spans = _spans(ours)
        histograms, strays = {}, {}
        for kind, values in spans.items():
            histogram = new_histogram()
            strays[kind] = add_seconds(histogram, values)
            histograms[kind] = histogram.encode()
        placed = ours[:, INTENDED if loop == "open" else DONE]
        return {
            "requests": len(ours),
            "done": len(done_within),
            "sums_s": {kind: float(values.sum()) for kind, values in spans.items()},
            "waited_long": int(np.count_nonzero(spans["acquire"] > LONG_WAIT_S)),
            "out_s": _inside(rows[:, SENT], rows[:, DONE], start, end),
            "held_s": _inside(rows[:, ACQUIRED], rows[:, DONE], start, end),
            "histograms": histograms,
            "quickest_s": float(spans["command"].min()) if len(ours) else None,
            "out_of_range": strays,
            "backwards": int(np.count_nonzero((np.diff(ours, axis=1) < 0).any(axis=1))),
            "series": _series(start, end, done_within, placed, spans),
        }

    def in_flight(self, start: float, end: float) -> bytes:
        """For how many microseconds of [start, end) so and so many connections were held: an
        encoded histogram whose values are numbers of connections."""
        rows = self._rows()
        begun, ended = (np.clip(rows[:, column], start, end) for column in (ACQUIRED, DONE))
        times = np.concatenate([[start], begun, ended, [end]])
        steps = np.repeat([0, 1, -1, 0], [1, len(rows), len(rows), 1])
        order = np.argsort(times, kind="stable")
        held = np.cumsum(steps[order])[:-1]
        lasted_s = np.bincount(held, weights=np.diff(times[order]))
        histogram = new_histogram()
        for connections, seconds in enumerate(lasted_s.tolist()):
            if micros := round(seconds * 1e6):
                histogram.record_value(connections, micros)
        return bytes(histogram.encode())

    def rows(self, since: float) -> Floats:
        """All that was recorded, a row (intended, sent, acquired, done) each, in seconds after
        `since`, in the order in which they were intended."""
        rows = self._rows() - since
        return rows[np.argsort(rows[:, INTENDED], kind="stable")]

    def drain(self) -> Floats:
        """Take out all that was recorded so far, as rows (intended, sent, acquired, done)."""
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
            [np.frombuffer(times).reshape(-1, 4) for times in self._times.values()]
        )


def _within(times: Floats, start: float, end: float) -> NDArray[np.bool_]:
    return (times >= start) & (times < end)


def _spans(rows: Floats) -> dict[str, Floats]:
    intended, sent, acquired, done = rows.T
    return {
        "latency": done - intended,
        "acquire": acquired - sent,
        "command": done - acquired,
        "send_lag": sent - intended,
    }


def _inside(begun: Floats, ended: Floats, start: float, end: float) -> float:
    """Seconds of the spans [begun, ended] within [start, end): the area under their count."""
    overlap = np.minimum(ended, end) - np.maximum(begun, start)
    return float(overlap[overlap > 0].sum())


def _series(
    start: float, end: float, done_within: Floats, placed: Floats, spans: dict[str, Floats]
) -> list[dict[str, Any]]:
    """A row per interval: `requests` are those done in it; times are of those that belong to it."""
    count = interval_count(end - start)
    edges = np.linspace(start, end, count + 1)
    done, _ = np.histogram(done_within[:, DONE], edges)
    slot = np.searchsorted(edges, placed, side="right") - 1
    rows = []
    for index in range(count):
        inside = slot == index
        latency, acquire = spans["latency"][inside], spans["acquire"][inside]
        seen = latency.size > 0
        rows.append(
            {
                "at_s": float(edges[index] - start),
                "length_s": float(edges[index + 1] - edges[index]),
                "requests": int(done[index]),
                "samples": int(latency.size),
                "latency_mean_s": float(latency.mean()) if seen else None,
                "latency_max_s": float(latency.max()) if seen else None,
                "acquire_mean_s": float(acquire.mean()) if seen else None,
                "histograms": {kind: encoded(spans[kind][inside]) for kind in BY_INTERVAL},
            }
        )
    return rows
