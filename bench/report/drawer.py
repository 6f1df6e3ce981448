"""A process that judges a run's experiments and draws their figures, one at a time, as its parent
asks: JSON lines by standard input and output."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from bench.analysis.replicates import last_attempts
from bench.experiments import chosen
from bench.figures.sheet import save
from bench.model import BenchError
from bench.report.drawing import Records, writable
from bench.report.verdicts import judge_one
from bench.rig import host
from bench.store import Store, without_nan


class Drawer:
    """Judges one run's experiments, and draws into its folder, as it is asked to."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._store = folder, Store.open(folder)
        self._cells = self._store.cells()

    def judge_and_draw(self, experiment: str) -> dict[str, Any]:
        """Its verdicts, its table, and each figure as its name, finding, prose and files; or why
        there is none."""
        try:
            (module,) = chosen((experiment,))
            own = self._cells[self._cells["experiment"] == experiment]
            verdicts = judge_one(module, own, self._store)
            table = table_of(module, own)
            with writable(self._folder):
                figures = list(self._files(module, own))
        except BenchError as error:
            return {"refused": str(error), "status": error.status}
        return {
            "verdicts": [asdict(verdict) for verdict in verdicts],
            "figures": figures,
            "table": table,
        }

    def _files(self, module: ModuleType, own: pd.DataFrame) -> Iterator[list[str]]:
        figures = module.figures(own, self._store)
        findings, prose = module.findings(own, self._store), module.prose(own, self._store)
        for name, figure in figures.items():
            files = save(figure, self._folder / "figures", name)
            yield [name, findings[name], prose.get(name, ""), *map(str, files)]


def table_of(module: ModuleType, own: pd.DataFrame) -> Records:
    """The terminal's table of an experiment, from its `own` cells, a record per row; None where a
    figure is not known."""
    records: Records = module.tables(last_attempts(own)).to_dict("records")
    return [without_nan(record) for record in records]


def main() -> None:
    # It ends soon: to look for cycles takes a twentieth of its time, and would spare 100 MB of a
    # full run's figures.
    gc.disable()
    drawer = Drawer(Path(sys.argv[1]))
    for request in sys.stdin.buffer:
        answered = host.answer(request, {"judge and draw": drawer.judge_and_draw})
        sys.stdout.buffer.write(answered)
        sys.stdout.buffer.flush()
    gc.freeze()  # the interpreter looks once more as it goes: that would take most of a second


if __name__ == "__main__":
    main()
