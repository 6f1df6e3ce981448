"""Executes a run's notebooks on its stored results; they read, they never measure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from bench.model import BenchError

SOURCE = Path(__file__).resolve().parents[2] / "notebooks"


def execute(folder: Path, experiments: Iterable[str]) -> list[Path]:
    """Run each experiment's notebook on `folder` and write it, executed, and as HTML beside the
    results. Blocks for seconds per notebook. Returns the HTML pages. Raises BenchError."""
    out = folder / "notebooks"
    out.mkdir(exist_ok=True)
    return [_execute(notebook, folder, out) for notebook in _of(experiments)]


def _of(experiments: Iterable[str]) -> list[Path]:
    """Notebooks are named NN_experiment.ipynb."""
    wanted = set(experiments)
    return [p for p in sorted(SOURCE.glob("*.ipynb")) if re.sub(r"^\d+_", "", p.stem) in wanted]


def _execute(notebook: Path, folder: Path, out: Path) -> Path:
    target = out / notebook.name
    _call(
        ["papermill", str(notebook), str(target), "-p", "run", str(folder.resolve()),
         "--cwd", str(SOURCE), "--no-progress-bar", "--kernel", "python3"],
        f"notebook {notebook.name} failed",
    )  # fmt: skip
    _call(["nbconvert", "--to", "html", str(target), "--log-level", "ERROR"], "no HTML page")
    return target.with_suffix(".html")


def _call(arguments: list[str], failure: str) -> None:
    environment = {**os.environ, "MPLBACKEND": "agg", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no output"]
        raise BenchError(f"{failure}: {last[0]}")
