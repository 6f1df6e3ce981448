"""A run's report: verdicts.json, figures/, report.html and summary.md; and its notebooks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.model import Verdict
from bench.report.display import Display
from bench.report.drawing import Drawn, draw, writable
from bench.report.html import write_html
from bench.report.markdown import write_summary
from bench.report.notebooks import execute, showing
from bench.report.story import tell
from bench.report.verdicts import decide
from bench.store import Store

# What each step takes of a standard run on two cores; the display finds the machine's own pace.
JUDGE_S, DRAW_S, WRITE_S, NOTEBOOK_S = 3.0, 2.0, 4.0, 5.0


def publish(
    store: Store, watcher: Display, *, notebooks: bool = False
) -> tuple[list[Verdict], list[Path]]:
    """Judge the run's claims, draw its figures, write its report and, where asked, execute its
    notebooks; returns the verdicts, and the files to open.

    Blocks for some seconds per experiment. Raises PreflightError for a damaged run, BenchError
    where its folder cannot be written.
    """
    names = store.experiments()
    pages = showing(names) if notebooks else []
    seconds = JUDGE_S + WRITE_S + DRAW_S * len(names) + NOTEBOOK_S * len(pages)
    watcher.starts(2 + len(names) + len(pages), seconds, "steps of the report")
    verdicts, drawn = _judged_and_drawn(store, names, watcher)
    written = _write(store, verdicts, drawn, watcher)
    if notebooks:
        written += execute(
            store.folder, pages, lambda name: watcher.did(f"{name} executed", NOTEBOOK_S)
        )
    return verdicts, written


def _judged_and_drawn(
    store: Store, names: list[str], watcher: Display
) -> tuple[list[Verdict], list[Drawn]]:
    """Judged meanwhile: the processes that draw need no more than the files, and of a full run each
    half would leave a core idle for seconds."""

    def judge() -> list[Verdict]:
        verdicts = decide(store)
        watcher.did("claims judged", JUDGE_S)
        return verdicts

    watcher.does("judging the claims and drawing")
    with ThreadPoolExecutor(1) as beside:
        judged = beside.submit(judge)
        drawn = draw(store.folder, names, lambda name: watcher.did(f"{name} drawn", DRAW_S))
        return judged.result(), drawn


def _write(
    store: Store, verdicts: list[Verdict], drawn: list[Drawn], watcher: Display
) -> list[Path]:
    watcher.does("writing the report")
    story = tell(store, verdicts, drawn)
    with writable(store.folder):
        written = [write_html(store.folder, story), write_summary(store.folder, story)]
    watcher.did("report written", WRITE_S)
    return written
