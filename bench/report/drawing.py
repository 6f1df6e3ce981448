"""Every experiment of a run judged, and its figures drawn into files, on all cores.

Nothing here loads an experiment or matplotlib before the processes that draw are on their way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.experiments import chosen
from bench.model import BenchError, PreflightError, Verdict
from bench.rig import host
from bench.store import open_measured

DRAWER = "bench.report.drawer"
LONGEST_S = 600.0  # for one experiment of a full run, on a slow machine


class Drawn(NamedTuple):
    """A figure in its files. `finding`: the sentence it is titled with; `prose`: the paragraph of
    Markdown below it, empty where its experiment says no more."""

    experiment: str
    name: str
    finding: str
    prose: str
    png: Path
    svg: Path


Records = list[dict[str, Any]]  # of a table, one per row


class Judged(NamedTuple):
    """Claims and figures of one or more experiments, and the terminal's table of each: a record per
    row."""

    verdicts: list[Verdict]
    figures: list[Drawn]
    tables: dict[str, Records]


def judge_and_draw(
    folder: Path, experiments: Iterable[str], done: Callable[[str], None] = lambda name: None
) -> Judged:
    """Judge every claim of these experiments, one or more, make their tables, and draw their
    figures into `folder`/figures, PNG and SVG, in their order; `done` is told each experiment that
    is done, from a thread.

    Blocks for some seconds per experiment. Raises BenchError, also where the folder cannot be
    written. It is all computing, so each core has a process; they end with this call, however it
    ends. What an experiment's claims and figures rest on is read once, by the process that has it.
    """
    asked = tuple(experiments)
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor())  # left last: the drawers are gone
        # First of all: a process takes seconds to load what it needs, and so does this one.
        drawers = [
            stack.enter_context(closing(_drawer(folder, number)))
            for number in range(1, min(host.usable_cores(), len(asked)) + 1)
        ]
        names = [module.NAME for module in chosen(asked)]
        stored = open_measured(folder).stored_bytes()
        # What takes longest goes first: no process is left alone with it at the end.
        waiting = deque(sorted(names, key=lambda name: -stored[name]))
        told: dict[str, Judged] = {}

        def take(drawer: host.Companion) -> None:
            while name := _next(waiting):
                told[name] = _asked(drawer, name)
                done(name)

        taking = [threads.submit(take, drawer) for drawer in drawers]
        for taken in wait(taking, return_when=FIRST_EXCEPTION).done:
            taken.result()
    return Judged(
        [each for name in names for each in told[name].verdicts],
        [each for name in names for each in told[name].figures],
        {name: told[name].tables[name] for name in names},
    )


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turns a refusal of the file system, below `folder`, into one line: a BenchError."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise BenchError(
            f"{where} cannot be written ({error.strerror}): make room for it, or report on a copy"
        ) from error


def _next(waiting: deque[str]) -> str | None:
    """None where another thread took the last one."""
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _drawer(folder: Path, number: int) -> host.Companion:
    return host.Companion(DRAWER, str(folder), name=f"report process {number}", timeout_s=LONGEST_S)


def _asked(drawer: host.Companion, experiment: str) -> Judged:
    answer = drawer.ask("judge and draw", experiment=experiment)
    if "refused" in answer:
        kind = PreflightError if answer["status"] == PreflightError.status else BenchError
        raise kind(answer["refused"])
    figures = [
        Drawn(experiment, name, finding, prose, Path(png), Path(svg))
        for name, finding, prose, png, svg in answer["figures"]
    ]
    verdicts = [Verdict.of(each) for each in answer["verdicts"]]
    return Judged(verdicts, figures, {experiment: answer["table"]})
