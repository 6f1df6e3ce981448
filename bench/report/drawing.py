"""Every figure of a run drawn into files, experiment by experiment, on all cores."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.experiments import chosen
from bench.figures.sheet import save
from bench.model import BenchError, PreflightError
from bench.report.page import Run, pages
from bench.rig import host
from bench.store import Store, load_cells

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


def draw(
    folder: Path, experiments: Iterable[str], done: Callable[[str], None] = lambda name: None
) -> list[Drawn]:
    """Draw every figure of these experiments into `folder`/figures, PNG and SVG, in their order;
    `done` is told each experiment whose are, from a thread.

    Blocks for some seconds per experiment. Raises BenchError, also where the folder cannot be
    written. Drawing is all computing, so each core has a process that draws; they end with this
    call, however it ends.
    """
    names = [module.NAME for module in chosen(tuple(experiments))]
    counts = load_cells(folder)["experiment"].value_counts()
    # Most cells take longest, and go first: no process is left alone with them at the end.
    waiting = deque(sorted(names, key=lambda name: -counts.get(name, 0)))
    drawn = _shared_out(folder, waiting, min(host.usable_cores(), len(names)), done)
    return [each for name in names for each in drawn[name]]


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


def _shared_out(
    folder: Path, waiting: deque[str], processes: int, done: Callable[[str], None]
) -> dict[str, list[Drawn]]:
    """What was drawn of each experiment. Whoever is done takes the next one that is waiting."""
    drawn: dict[str, list[Drawn]] = {}

    def take(drawer: host.Companion) -> None:
        while name := _next(waiting):
            drawn[name] = _asked(drawer, name)
            done(name)

    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor())  # left last: their drawers are gone
        drawers = [
            stack.enter_context(closing(_drawer(folder, number)))
            for number in range(1, processes + 1)
        ]
        taking = [threads.submit(take, drawer) for drawer in drawers]
        for taken in wait(taking, return_when=FIRST_EXCEPTION).done:
            taken.result()
    return drawn


def _next(waiting: deque[str]) -> str | None:
    """None where another thread took the last one."""
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _drawer(folder: Path, number: int) -> host.Companion:
    return host.Companion(
        __name__, str(folder), name=f"figure drawer {number}", timeout_s=LONGEST_S
    )


def _asked(drawer: host.Companion, experiment: str) -> list[Drawn]:
    answer = drawer.ask("draw", experiment=experiment)
    if "refused" in answer:
        kind = PreflightError if answer["status"] == PreflightError.status else BenchError
        raise kind(answer["refused"])
    return [
        Drawn(experiment, name, finding, prose, Path(png), Path(svg))
        for name, finding, prose, png, svg in answer["figures"]
    ]


# The drawer's side


class Drawer:
    """Draws into one run's folder what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        cells = load_cells(folder)
        self._run = Run(cells, cells, Store.open(folder))

    def draw(self, experiment: str) -> dict[str, Any]:
        """Each figure as its name, finding, prose and files; or why there is none."""
        try:
            with writable(self._folder):
                return {"figures": list(self._files(experiment))}
        except BenchError as error:
            return {"refused": str(error), "status": error.status}

    def _files(self, experiment: str) -> Iterator[list[str]]:
        (module,) = chosen((experiment,))
        page = pages(self._run, module)
        for name, figure in page.figures.items():
            files = save(figure, self._folder / "figures", name)
            yield [name, page.findings[name], page.prose.get(name, ""), *map(str, files)]


def main() -> None:
    drawer = Drawer(Path(sys.argv[1]))
    for request in sys.stdin.buffer:
        sys.stdout.buffer.write(host.answer(request, {"draw": drawer.draw}))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
