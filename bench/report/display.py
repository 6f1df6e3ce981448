"""Progress of a run: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from time import perf_counter as clock

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from bench.model import Cell, Observation

LINE_EVERY_S = 10.0


class Display:
    """A context manager; `starts`, `measures`, `has` are the runner's calls. Writes to stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._last = ""
        self._done = self._planned_s = self._done_s = 0.0
        self._began = self._said = clock()

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def starts(self, cells: int, seconds: float) -> None:
        """`cells` are left to measure, expected to take `seconds`."""
        self._total, self._planned_s, self._began = cells, seconds, clock()
        self._task = self._progress.add_task("starting", total=cells, left=_left(seconds))
        self._line(f"{cells} cells, {_left(seconds)}", force=True)

    def measures(self, cell: Cell) -> None:
        """The cell being measured now."""
        if self._task is not None:
            self._progress.update(self._task, description=f"{self._last}{cell.label}")

    def has(self, observation: Observation, seconds: float) -> None:
        """A cell is done that was expected to take `seconds`."""
        self._done += 1
        self._done_s += seconds
        pace = (clock() - self._began) / self._done_s
        left = _left((self._planned_s - self._done_s) * pace)
        mark = "" if observation.valid else f" invalid: {observation.invalid_reasons}"
        self._last = f"{observation.qps:,.0f}/s ({observation.bound_by}){mark} · "
        if self._task is not None:
            self._progress.update(self._task, advance=1, left=left)
        found = f"{observation.qps:,.0f}/s, bound by {observation.bound_by}{mark}"
        self._line(f"{self._done:.0f}/{self._total} {observation.cell.label}: {found}; {left}")

    def _line(self, text: str, *, force: bool = False) -> None:
        due = clock() - self._said > LINE_EVERY_S
        if not self._console.is_terminal and (force or due):
            self._said = clock()
            self._console.print(text, highlight=False, soft_wrap=True)


def _left(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d} left"
