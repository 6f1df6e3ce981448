"""The whole calibration for real, its windows as short as may be: every step makes its rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = (  # at least one of each part of the table, whether or not its cells are evidence
    "server stopped:", "merging", "recording", "A/A: comparisons",
    "highest open-loop rate with gates green, lean", "borrow and return, test_on_borrow none",
    "GET rate, lean, 50 users", "GET rate, stock Locust", "prefill 5000 at 1 ms",
    "worker with 5,000 connections", "a cell's time outside measuring", "bench run --profile smoke",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1500)  # it ends with a smoke run, its report and its notebooks
def test_a_calibration_fills_its_whole_table_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(psutil.pids())
    output = tmp_path / "calibration.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "calibrate", "--seconds", "0.2", "--output", str(output)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "REDIS_URL"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {row["what"]: row for row in json.loads(output.read_text())["rows"]}
    for name in ROWS:
        assert [what for what in rows if what.startswith(name)], (name, sorted(rows))
    assert rows["prefill 5000 at 1 ms"]["value"] > 0
    assert all(row["what"] in done.stdout for row in rows.values())
    left = [each for each in psutil.process_iter(["cmdline"]) if each.pid not in before]
    assert not [each for each in left if "bench" in " ".join(each.info["cmdline"] or [])]
