"""When the requests of an open loop arrive: functions of seed and time; only the caller sleeps.

The random processes are made in operational time, which counts expected arrivals: there each of
them is Poisson at rate 1, and a `_Clock`, which knows the rate at every moment, turns that into
seconds. Points are made in chunks of fixed operational length, each from a generator of its own, so
that a slice anywhere costs only the chunks it touches.
"""

from __future__ import annotations

import math
import sys
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.model import Arrivals, PreflightError

Times = NDArray[np.float64]

CHUNK = 1024  # expected arrivals; a power of two, so that scaling by it rounds nothing
SLACK = 1.0  # expected arrivals; float64 errs by less than 0.1 at the highest rate after a day


class Schedule(Protocol):
    """When one worker's requests arrive, in seconds after the load began; none before 0."""

    end_s: float
    """Nothing arrives at this time or later; infinite unless the arrivals come from a trace."""

    def between(self, start_s: float, end_s: float) -> Times:
        """The intended times in [start_s, end_s), ascending; not to be written to.

        Slices that adjoin make up the whole one, bit for bit. Memory is that of the slice.
        """

    def count(self, start_s: float, end_s: float) -> int:
        """How many arrive in [start_s, end_s); as slow as `between`, in the memory of one chunk."""


def schedule(
    arrivals: Arrivals, rate: float, seed: int, worker: int = 0, workers: int = 1
) -> Schedule:
    """The share of worker `worker` (from 0) in arrivals at `rate`, per second over all `workers`.

    Random arrivals are split into independent streams, one a worker, whose bursts and spikes fall
    together, or come to the first alone (`lone`); of the others each worker takes every
    `workers`-th. A trace comes at its own rate
    whatever `rate` is (`Trace.rate` tells). `seed` is not negative; equal arguments give equal
    times (random ones as long as numpy keeps its streams). Raises PreflightError for a bad trace.
    """
    if arrivals.process == "trace":
        return _Listed(read_trace(arrivals.trace).times[worker::workers])
    if arrivals.process == "constant":
        return _Made(_Steps([rate]), _evenly(worker, workers), CHUNK * workers)
    if arrivals.lone and worker:
        arrivals = replace(arrivals, process="poisson")
    return _Made(_clock(arrivals, rate / workers, seed), _at_random(seed, worker), CHUNK)


class _Clock(Protocol):
    """The rate over time. Both functions ascend, and `times` undoes `expected` up to rounding."""

    def expected(self, at_s: float) -> float:
        """Operational time at `at_s`."""

    def times(self, points: Times) -> Times:
        """Seconds at operational times, which ascend from 0 up."""


def _clock(arrivals: Arrivals, rate: float, seed: int) -> _Clock:
    if arrivals.process == "bursty":
        return _Bursts(rate, arrivals.peak_to_mean, arrivals.period_s, seed)
    if arrivals.process == "spike":
        rates = [rate, rate * arrivals.spike_factor, rate]
        return _Steps(rates, [arrivals.spike_at_s, arrivals.spike_s])
    return _Steps([rate])


class _Steps:
    """Each of `rates` (per second) for the length beside it, the last one for ever."""

    def __init__(self, rates: list[float], lengths_s: Iterable[float] = ()) -> None:
        self._rates = rates
        self._edges_s = [0.0]
        self._edges = [0.0]  # in operational time
        for rate, length_s in zip(rates, lengths_s, strict=False):
            self._edges_s.append(self._edges_s[-1] + length_s)
            self._edges.append(self._edges[-1] + rate * length_s)
        self._edges_s.append(math.inf)

    def expected(self, at_s: float) -> float:
        step = 0
        while self._edges_s[step + 1] <= at_s:
            step += 1
        return self._edges[step] + self._rates[step] * (at_s - self._edges_s[step])

    def times(self, points: Times) -> Times:
        times = np.empty_like(points)
        # A gap has no length in operational time, so that a point on its edge is one after it.
        cuts = [*np.searchsorted(points, self._edges), len(points)]
        for step, rate in enumerate(self._rates):
            part = slice(cuts[step], cuts[step + 1])
            late = (points[part] - self._edges[step]) / rate  # of no points where `rate` is 0
            # Rounding must not carry a point past the next step's first.
            times[part] = np.minimum(self._edges_s[step] + late, self._edges_s[step + 1])
        return times


class _Bursts:
    """All of a mean `rate` in the first 1/`peak_to_mean` of each period, and nothing in the rest.

    Where in a period the load begins follows from `seed` alone: workers burst together.
    """

    def __init__(self, rate: float, peak_to_mean: float, period_s: float, seed: int) -> None:
        self._period_s = period_s
        self._on_s = period_s / peak_to_mean
        self._peak = rate * peak_to_mean
        self._per_burst = rate * period_s
        self._origin_s = -period_s * np.random.default_rng(seed).random()

    def expected(self, at_s: float) -> float:
        since_s = at_s - self._origin_s
        burst = math.floor(since_s / self._period_s)
        into_s = max(since_s - burst * self._period_s, 0.0)
        return burst * self._per_burst + min(into_s, self._on_s) * self._peak

    def times(self, points: Times) -> Times:
        burst = np.floor(points / self._per_burst)
        late = np.maximum(points - burst * self._per_burst, 0.0) / self._peak
        start, following = (n * self._period_s + self._origin_s for n in (burst, burst + 1))
        # Bursts that touch (peak_to_mean 1) must not overlap by rounding.
        return np.minimum(start + late, following)


Points = Callable[[int], Times]  # chunk number → its points in operational time, ascending


def _at_random(seed: int, worker: int) -> Points:
    """A Poisson process at rate 1, independent of every other seed's and worker's."""
    # A spawn key, because numpy takes the seeds [5] and [5, 0] for the same.
    key = np.random.SeedSequence(seed, spawn_key=(worker,)).generate_state(2, np.uint64)

    def points(chunk: int) -> Times:
        rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, chunk, 0]))
        inside: Times = rng.random(rng.poisson(CHUNK))
        inside.sort()
        inside += chunk
        inside *= CHUNK
        return inside

    return points


def _evenly(worker: int, workers: int) -> Points:
    """Every `workers`-th of the points n + 0.5. A chunk is `CHUNK` of them."""

    def points(chunk: int) -> Times:
        own = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK, dtype=np.float64)
        return own * workers + (worker + 0.5)

    return points


class _Made:
    """A schedule made on demand.

    On one core of an AMD EPYC, slices of 0.25 s at 10,000/s to 100,000/s cost 0.02 µs an arrival
    if evenly spaced and 0.05 to 0.08 µs if random, half of it sorting; the least a slice costs is
    the two chunks at its ends, 20 to 60 µs each.
    """

    end_s = math.inf

    def __init__(self, clock: _Clock, points: Points, chunk: int) -> None:
        self._clock = clock
        self._points = points
        self._chunk = chunk  # its operational length

    def between(self, start_s: float, end_s: float) -> Times:
        return np.concatenate([np.empty(0), *self._parts(start_s, end_s)])

    def count(self, start_s: float, end_s: float) -> int:
        return sum(map(len, self._parts(start_s, end_s)))

    def _parts(self, start_s: float, end_s: float) -> Iterator[Times]:
        """The slice chunk by chunk. Times alone decide what is in it, never a rounded `expected`;
        hence the slack."""
        start_s = max(start_s, 0.0)
        if start_s >= end_s:
            return
        first = max(0, self._chunk_at(start_s, -SLACK))
        for chunk in range(first, self._chunk_at(end_s, SLACK) + 1):
            yield _cut(self._clock.times(self._points(chunk)), start_s, end_s)

    def _chunk_at(self, at_s: float, slack: float) -> int:
        return math.floor((self._clock.expected(at_s) + slack) / self._chunk)


class _Listed:
    """A schedule held whole: 8 bytes an arrival."""

    def __init__(self, times: Times) -> None:
        self._times = np.ascontiguousarray(times)  # else every search copies it
        self.end_s = math.nextafter(times[-1], math.inf) if len(times) else 0.0

    def between(self, start_s: float, end_s: float) -> Times:
        return _cut(self._times, start_s, end_s)

    def count(self, start_s: float, end_s: float) -> int:
        return len(self.between(start_s, end_s))


def _cut(times: Times, start_s: float, end_s: float) -> Times:
    first, last = np.searchsorted(times, (start_s, end_s))
    return times[first:last]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The arrivals listed in the file `path`: seconds after the first of them, ascending."""

    path: str
    times: Times

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last."""
        return float(self.times[-1])

    @property
    def rate(self) -> float:
        """Mean arrivals per second: n of them are n - 1 steps in the time from first to last.

        Raises PreflightError where that time is nothing.
        """
        if not self.duration_s:
            raise PreflightError(
                f"the trace {self.path} has no rate, as nothing arrives after its first moment: "
                "list arrivals at two times or more"
            )
        return (len(self.times) - 1) / self.duration_s


def read_trace(path: str) -> Trace:
    """The file's arrivals: one time in seconds a line, never earlier than the one before.

    Times may count from anywhere; as float64 holds them, those since 1970 are exact to 0.2 µs.
    Blank lines and lines that begin with # are skipped. Raises PreflightError for any other file.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise PreflightError(
                f"the trace {path} is a folder, a pipe or a device: name a regular file, as every "
                "worker reads it anew"
            )
        with open(path, "rb") as file:
            listed = np.array(_parse(path, file))
    except OSError as error:
        raise PreflightError(
            f"the trace {path} cannot be read ({error.strerror}): name another file"
        ) from error
    if not len(listed):
        raise PreflightError(f"the trace {path} is empty: list one time in seconds a line")
    times = listed - listed[0]
    times.flags.writeable = False  # slices of it are handed out
    return Trace(path, times)


def _parse(path: str, lines: Iterable[bytes]) -> array[float]:
    times = array("d")
    last = -sys.float_info.max
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(BOM_UTF8).strip()
        if not text or text.startswith(b"#"):
            continue
        try:
            time_s = float(text)
        except ValueError:
            time_s = math.nan
        if not last <= time_s < math.inf:
            raise PreflightError(f"the trace {path}, line {number}: {_trouble(text, time_s, last)}")
        times.append(time_s)
        last = time_s
    return times


def _trouble(text: bytes, time_s: float, last: float) -> str:
    if math.isfinite(time_s):
        return f"{time_s!r} s is earlier than the {last!r} s before it: sort the lines by time"
    try:
        shown = text.decode()
    except UnicodeDecodeError:
        return "this is not UTF-8: save the trace as UTF-8 text"
    return f"{shown[:40]!r} is no time: write one number of seconds a line"
