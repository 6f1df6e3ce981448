"""A run's report: verdicts.json, figures/, report.html and summary.md; and its notebooks.

What writes it is imported inside functions: the processes that draw are to be on their way first.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bench.model import Verdict
from bench.report.display import Display
from bench.report.drawing import Drawn, Records, judge_and_draw, writable
from bench.report.notebooks import execute, showing
from bench.store import Store

# What each step takes of a standard run on two cores; the display finds the machine's own pace.
DRAW_S, WRITE_S, NOTEBOOK_S = 2.0, 2.0, 5.0


class Published(NamedTuple):
    """What a report holds: each claim's verdict, each experiment's table for the terminal, a record
    per row, and the files to open."""

    verdicts: list[Verdict]
    tables: dict[str, Records]
    written: list[Path]


def publish(store: Store, watcher: Display, *, notebooks: bool = False) -> Published:
    """Judge the run's claims, draw its figures, write its report and, where asked, execute its
    notebooks.

    Blocks for some seconds per experiment. Raises PreflightError for a damaged run, BenchError
    where its folder cannot be written.
    """
    names = store.experiments()
    pages = showing(names) if notebooks else []
    watcher.starts(
        1 + len(names) + len(pages),
        WRITE_S + DRAW_S * len(names) + NOTEBOOK_S * len(pages),
        "steps of the report",
    )
    watcher.does("judging the claims and drawing")
    judged = judge_and_draw(
        store.folder, names, lambda name: watcher.did(f"{name} judged and drawn", DRAW_S)
    )
    from bench.report.verdicts import absent

    verdicts = judged.verdicts + absent(store)
    store.note_verdicts(verdicts)
    written = _write(store, verdicts, judged.figures, watcher)
    if notebooks:
        written += execute(
            store.folder, pages, lambda name: watcher.did(f"{name} executed", NOTEBOOK_S)
        )
    return Published(verdicts, judged.tables, written)


def _write(
    store: Store, verdicts: list[Verdict], drawn: list[Drawn], watcher: Display
) -> list[Path]:
    from bench.report.html import write_html
    from bench.report.markdown import write_summary
    from bench.report.story import tell

    watcher.does("writing the report")
    story = tell(store, verdicts, drawn)
    with writable(store.folder):
        written = [write_html(store.folder, story), write_summary(store.folder, story)]
    watcher.did("report written", WRITE_S)
    return written
