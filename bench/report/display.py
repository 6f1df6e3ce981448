"""What every verb prints on: answers on stdout, and on stderr the progress of what takes minutes, a
live bar on a terminal, lines now and then elsewhere."""

from __future__ import annotations

import sys
from time import perf_counter as clock

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from bench.model import Cell, Observation

# Of the plan: until that much is done the plan's own pace counts for more than the one seen, as the
# first cells of a block seem to take the block's set-up as well.
TRUSTED = 0.1
ENDLESS = 1_000  # columns


def open_console() -> Console:
    """As wide as the terminal; what goes to a file or a pipe is never wrapped."""
    return Console(width=None if sys.stdout.isatty() else ENDLESS, highlight=False, emoji=False)


class Display:
    """A context manager that writes to stderr: `starts`, then `does` and `did` for each step.

    `measures` and `has` say the same of a run's cells. Away from a terminal a line comes at most
    every `line_every_s`.
    """

    def __init__(self, *, quiet: bool = False, line_every_s: float = 10.0) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._line_every_s = line_every_s
        self._task: TaskID | None = None
        self._last = ""
        self._done = self._planned_s = self._done_s = 0.0
        self._began = self._said = clock()

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def starts(self, steps: int, seconds: float, what: str = "cells") -> None:
        """`steps` are left to do, expected to take `seconds`."""
        self._total, self._planned_s, self._began = steps, seconds, clock()
        self._task = self._progress.add_task("starting", total=steps, left=_left(seconds))
        self._line(f"{steps} {what}, {_left(seconds)}", force=True)

    def does(self, step: str) -> None:
        """The step under way."""
        if self._task is not None:
            self._progress.update(self._task, description=f"{self._last}{step}")

    def did(self, step: str, seconds: float) -> None:
        """A step is done that was expected to take `seconds`."""
        self._done += 1
        self._done_s += seconds
        trusted_s = TRUSTED * self._planned_s
        pace = (clock() - self._began + trusted_s) / (self._done_s + trusted_s)
        left = _left((self._planned_s - self._done_s) * pace)
        if self._task is not None:
            self._progress.update(self._task, advance=1, left=left)
        self._line(f"{self._done:.0f}/{self._total} {step}; {left}")

    def measures(self, cell: Cell) -> None:
        """The cell being measured now."""
        self.does(cell.label)

    def has(self, observation: Observation, seconds: float) -> None:
        """A cell is done that was expected to take `seconds`."""
        if observation.attempt > 1:  # a step more than was planned
            self._total += 1
            self._planned_s += seconds
            if self._task is not None:
                self._progress.update(self._task, total=self._total)
        mark = "" if observation.valid else f" invalid: {observation.invalid_reasons}"
        self._last = f"{observation.qps:,.0f}/s ({observation.bound_by}){mark} · "
        found = f"{observation.qps:,.0f}/s, bound by {observation.bound_by}{mark}"
        doubts = f" ({observation.doubts})" if observation.doubts else ""
        self.did(f"{observation.cell.label}: {found}{doubts}", seconds)

    def _line(self, text: str, *, force: bool = False) -> None:
        due = clock() - self._said > self._line_every_s
        if not self._console.is_terminal and (force or due):
            self._said = clock()
            self._console.print(text, highlight=False, soft_wrap=True)


def _left(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d} left"
