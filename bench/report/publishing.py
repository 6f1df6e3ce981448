"""A run's report: verdicts.json, figures/, report.html and summary.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.model import Verdict
from bench.report.drawing import draw, writable
from bench.report.html import write_html
from bench.report.markdown import write_summary
from bench.report.story import tell
from bench.report.verdicts import decide
from bench.store import Store


def publish(store: Store) -> tuple[list[Verdict], Sequence[Path]]:
    """Judge the run's claims, draw its figures, and write its report; returns the verdicts, and
    the files to open.

    Blocks for some seconds per experiment. Raises PreflightError for a damaged run, BenchError
    where its folder cannot be written.
    """
    verdicts = decide(store)
    drawn = draw(store.folder, store.experiments())
    story = tell(store, verdicts, drawn)
    with writable(store.folder):
        return verdicts, [write_html(store.folder, story), write_summary(store.folder, story)]
