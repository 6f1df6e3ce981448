"""A timer on gevent's hub that wakes at a moment, not at the next whole millisecond.

libev waits in epoll, whose time-outs are whole milliseconds: `gevent.sleep(0.0003)` returns 0.8 ms
late. A timerfd is a descriptor like any other to epoll, and turns readable 0.05 ms after its time.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

from gevent.hub import get_hub

CLOCK_MONOTONIC = 1  # what perf_counter reads on Linux
NONBLOCK_CLOEXEC = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
ABSOLUTE = 1
NEVER = float("inf")


class Timer(Protocol):
    """Calls back on the hub; nothing it calls may block. Times are perf_counter seconds."""

    def arm(self, at: float) -> None:
        """Call back at `at`, soon if that is past, and not before; NEVER: not at all."""

    def close(self) -> None: ...


class DescriptorTimer:
    """Linux: a timerfd. Arming it costs 1 µs, of which the system call takes a third."""

    def __init__(self, callback: Callable[[], object]) -> None:
        # PyDLL keeps the interpreter's lock: the call returns at once, letting go costs more.
        libc = ctypes.PyDLL(None, use_errno=True)
        self._fd = libc.timerfd_create(CLOCK_MONOTONIC, NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "no timer to be had from the kernel")
        self._set = libc.timerfd_settime
        self._spec = (ctypes.c_long * 4)()  # interval and value, each in seconds and nanoseconds
        self._readable: Any = get_hub().loop.io(self._fd, 1)
        self._readable.start(callback)

    def arm(self, at: float) -> None:
        # A new time also takes back "readable", so the descriptor is never read.
        seconds = 0 if at == NEVER else int(at)
        self._spec[2] = seconds
        self._spec[3] = 0 if at == NEVER else int((at - seconds) * 1e9) or 1
        self._set(self._fd, ABSOLUTE, self._spec, None)

    def close(self) -> None:
        """May be repeated."""
        if self._fd >= 0:
            self._readable.stop()
            self._readable.close()
            os.close(self._fd)
            self._fd = -1


class LoopTimer:
    """Elsewhere: the loop's own timer, which kqueue keeps to the microsecond."""

    def __init__(self, callback: Callable[[], object]) -> None:
        from time import perf_counter

        self._clock = perf_counter
        self._callback = callback
        self._timer: Any = None

    def arm(self, at: float) -> None:
        self.close()
        if at != NEVER:
            self._timer = get_hub().loop.timer(max(0.0, at - self._clock()))
            self._timer.start(self._callback, update=True)

    def close(self) -> None:
        """May be repeated."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None


def open_timer(callback: Callable[[], object]) -> Timer:
    """The most exact timer this system has, not yet armed. Raises OSError where none is left."""
    return DescriptorTimer(callback) if sys.platform == "linux" else LoopTimer(callback)
