"""The hiccup meter: a process that sleeps briefly on each core and records how late it woke.

What it sees is what a pool's users see: a stall of the machine, or of the core they share.
A stall of d milliseconds is certain to be seen from 3 up; below that with chance (d - 1)/2.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from time import perf_counter, sleep
from typing import Any

from bench.rig import host

# A wake costs 10 to 45 µs on a virtual machine (trials, by the hour): every millisecond it could be
# 4 % of each core, every second one it is 0.5 to 2.
TICK_S = 0.002
STALL_S = 0.001  # a stall is a wake later than this


class HiccupMeter:
    """One companion process. `mark` begins an interval, `read` tells of it, as often as asked.

    Both raise ApparatusLost when the process is gone.
    """

    def __init__(self) -> None:
        self._ticker = host.Companion("bench.rig.hiccup", name="hiccup meter")
        self.max_s = 0.0

    def __enter__(self) -> HiccupMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._ticker.pid

    def mark(self) -> None:
        """Begins an interval, and forgets the one before."""
        self._ticker.ask("mark")

    def read(self) -> list[tuple[float, float]]:
        """Stalls since the mark: from when to when, in this machine's perf_counter seconds.

        Leaves the greatest lateness of the interval, stall or not, in `max_s`.
        """
        answer = self._ticker.ask("read")
        self.max_s = float(answer["max_s"])
        return [(due, woke) for due, woke in answer["stalls"]]

    def check(self) -> None:
        self._ticker.check()

    def close(self) -> None:
        """May be repeated."""
        self._ticker.close()


class Ticker:
    """What one core's thread has seen since the mark."""

    def __init__(self) -> None:
        self.stalls: list[tuple[float, float]] = []
        self.max_s = 0.0

    def watch(self, core: int | None) -> None:
        """Never returns."""
        if core is not None:
            with contextlib.suppress(OSError):  # the core may be taken from us; then any will do
                os.sched_setaffinity(0, {core})
        before = perf_counter()
        while True:
            sleep(TICK_S)
            now = perf_counter()
            late = now - before - TICK_S
            self.max_s = max(self.max_s, late)
            if late > STALL_S:
                self.stalls.append((now - late, now))
            before = now


class Meter:
    """The companion's side: a ticker per core it may run on."""

    def __init__(self) -> None:
        cores: list[int | None] = [*os.sched_getaffinity(0)] if host.LINUX else [None]
        self._tickers = [Ticker() for _ in cores]
        for ticker, core in zip(self._tickers, cores, strict=True):
            threading.Thread(target=ticker.watch, args=(core,), daemon=True).start()

    def mark(self) -> dict[str, Any]:
        for ticker in self._tickers:
            ticker.stalls = []
            ticker.max_s = 0.0
        return {}

    def read(self) -> dict[str, Any]:
        stalls = sorted(stall for ticker in self._tickers for stall in ticker.stalls)
        return {
            "stalls": stalls,
            "max_s": max(ticker.max_s for ticker in self._tickers),
        }


def main() -> None:
    meter = Meter()
    commands: dict[str, Callable[..., dict[str, Any]]] = {"mark": meter.mark, "read": meter.read}
    for request in sys.stdin.buffer:
        sys.stdout.buffer.write(host.answer(request, commands))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
