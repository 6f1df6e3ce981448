"""What single parts of the hot path cost, timed in a loop in this process."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter as clock
from typing import Any

import numpy as np
from redis.connection import BlockingConnectionPool, parse_url

from bench.load.clients import open_pool
from bench.load.phases import CONNECT, Phases
from bench.load.recorder import Recorder, encoded, merge
from bench.model import Cell, Row
from bench.rig.rig import Rig

NAME = "calibrate"
ROUNDS = 3
MICRO_LOOPS = 50_000


def recording_rows() -> list[Row]:
    """What the clocks, the record and its share of the histograms cost a request. The latter are
    fed with times as spread as real ones: equal values are grouped, and would cost next to nothing.
    """

    def clocks_and_record(recorder: Recorder) -> None:
        record = recorder.sink("GET")
        for _ in range(MICRO_LOOPS):
            sent = clock()
            acquired = clock()
            done = clock()
            record((sent, sent, acquired, done))

    recorder = Recorder(("GET",))
    began = clock()
    with _no_gc():
        clocks_and_record(recorder)
    written = clock() - began
    spread = _spread_times()
    digesting = clock()
    spread.window(0.0, 1.0, "closed")
    digested = clock() - digesting
    cost_us = (written + digested) / MICRO_LOOPS * 1e6
    return [Row.at_most("recording a request, all clocks and histograms", cost_us, "µs", 2)]


def phase_rows() -> list[Row]:
    """What timing one phase of a connection's opening costs: both clock readings and the note."""
    phases = Phases()
    phases.begin()
    with _no_gc():
        began = clock()
        for _ in range(MICRO_LOOPS):
            phases.note(CONNECT, clock(), clock())
        cost_us = (clock() - began) / MICRO_LOOPS * 1e6
    return [Row.at_most("timing a phase of a connection's opening", cost_us, "µs", 1)]


def _spread_times() -> Recorder:
    """As many requests within one second, with lognormal waits and commands."""
    rng = np.random.default_rng(1)
    done = np.sort(rng.uniform(0, 1, MICRO_LOOPS))
    command, wait = rng.lognormal(-7, 0.5, (2, MICRO_LOOPS))
    sent = done - command - wait
    recorder = Recorder(("GET",))
    recorder.sink("GET")(np.stack([sent, sent, sent + wait, done], axis=1).ravel())
    return recorder


def merging_rows() -> list[Row]:
    """Whether several workers' histograms add up to one that is fed with all their values."""
    rng = np.random.default_rng(1)
    parts = [rng.lognormal(-7, 1.5, MICRO_LOOPS // 10) for _ in range(4)]
    merged = merge(encoded(part) for part in parts)
    same = merged.encode() == encoded(np.concatenate(parts))
    row = Row("merging 4 workers' histograms: equal to one of all values", float(same), "", "1")
    return [replace(row, reached=same)]


def borrow_rows(rig: Rig) -> list[Row]:
    """Borrow and return of a ready connection under gevent, beside redis-py's stock pool."""
    ours = {test: _pool(rig, test) for test in ("none", "passive")}
    stock = BlockingConnectionPool(max_connections=10, **_options(rig))
    rounds = [
        {**{test: _borrow_us(pool) for test, pool in ours.items()}, "stock": _borrow_us(stock)}
        for _ in range(ROUNDS)
    ]
    for pool in (*ours.values(), stock):
        pool.disconnect()
    costs = {name: float(statistics.median(r[name] for r in rounds)) for name in rounds[0]}
    return [
        Row.at_most("borrow and return, test_on_borrow none", costs["none"], "µs", 4),
        Row.at_most("borrow and return, test_on_borrow passive", costs["passive"], "µs", 8),
        Row("borrow and return, redis-py's BlockingConnectionPool", costs["stock"], "µs"),
    ]


def _pool(rig: Rig, test_on_borrow: Any) -> Any:
    return open_pool(Cell(NAME, 10, 1, test_on_borrow=test_on_borrow), rig.access, None)


def _options(rig: Rig) -> dict[str, Any]:
    options = dict(parse_url(rig.server.url))
    options.pop("connection_class", None)
    return options


def _borrow_us(pool: Any) -> float:
    pool.release(pool.get_connection())
    loops = MICRO_LOOPS // 5
    with _no_gc():
        began = clock()
        for _ in range(loops):
            pool.release(pool.get_connection())
        return (clock() - began) / loops * 1e6


@contextmanager
def _no_gc() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
