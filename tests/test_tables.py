"""What a person reads in the terminal: tables that are whole, and progress with what is left."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic

from bench.experiments import pool_sweep
from bench.model import Settings, Workload
from bench.report.display import Display
from bench.report.tables import show, show_calibration, summary
from bench.store import Store

ROOT = Path(__file__).resolve().parents[1]
PLAN = pool_sweep.plan("smoke", Workload(), 1)
PLANNED = len(PLAN.cells) * PLAN.replicates


def stored(folder: Path, cells: int, status: str) -> Store:
    settings = Settings(profile="smoke", only=("pool_sweep",)).identity()
    store = Store.create(folder, {"settings": settings})
    for cell in PLAN.cells[:cells]:
        store.add(synthetic.observation(cell, 1))
    store.finish(status)
    return store


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("run") / "complete", len(PLAN.cells), "complete")


# Tables


def test_away_from_a_terminal_nothing_is_wrapped_or_cut(
    complete: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    show(complete)
    said = capsys.readouterr().out
    lines = said.splitlines()
    found = summary(complete)
    assert lines[0] == pool_sweep.QUESTION
    bounds = ", ".join(f"{part} {count}" for part, count in found["bound_by"].items())
    assert f"{found['cells']} cells, 0 invalid; bound by {bounds}" in lines
    assert "…" not in said
    for record in found["tables"]["pool_sweep"]:
        assert any({str(v) for v in record.values()} <= {"nan", *line.split()} for line in lines)


def test_the_heading_says_that_the_rows_are_a_selection_and_of_what(
    complete: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    show(complete)
    heading = capsys.readouterr().out.splitlines()[1]
    rows = len(summary(complete)["tables"]["pool_sweep"])
    assert heading.startswith(f"{rows} of {len(PLAN.cells)} combinations. ")
    assert "best" in heading


def test_a_narrow_terminal_gets_fewer_columns_and_whole_numbers(
    complete: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    show(complete)
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, said.splitlines())) <= 60
    assert "…" not in said
    records = summary(complete)["tables"]["pool_sweep"]
    last = list(records[0])[-2]
    assert f"{last}\n" in said.partition("too narrow for: ")[2]
    for record in records:
        assert str(record["QPS"]) in said.split()
        assert record["bound by"] in said.split()


@pytest.mark.parametrize("status", ["interrupted", "stopped", "running"])
def test_an_unfinished_run_says_how_far_it_got(
    status: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = stored(tmp_path / "run", 3, status)
    show(store)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(status)
    assert last.endswith(f": 3 of {PLANNED} cells")
    assert summary(store)["planned"] == PLANNED


def test_a_complete_run_says_nothing_of_the_kind(
    complete: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    show(complete)
    assert "complete" not in capsys.readouterr().out


def test_a_certificate_is_not_wrapped_away_from_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = "a figure whose name alone would fill a whole line of a terminal, or nearly so, " * 2
    row = {
        "what": what,
        "value": 41234.5,
        "unit": "/s",
        "reach": "≥ 1",
        "reached": True,
        "note": "",
    }
    show_calibration({"rows": [row]}, tmp_path)
    said = capsys.readouterr().out
    line = next(x for x in said.splitlines() if what.strip() in x)
    assert line.split(what.strip())[1].split() == ["41,234", "/s", "≥", "1", "reached"]


# Progress


def test_away_from_a_terminal_each_step_is_a_line_with_what_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Display(line_every_s=0) as display:
        display.starts(2, 100, "steps")
        for step in ("first", "second"):
            display.does(step)
            display.did(step, 50)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "2 steps, 1:40 left"
    assert [line.partition(";")[0] for line in lines[1:]] == ["1/2 first", "2/2 second"]
    assert lines[-1].endswith("0:00 left")


def test_progress_is_silent_where_json_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(quiet=True, line_every_s=0) as display:
        display.starts(1, 1, "steps")
        display.does("a step")
        display.did("a step", 1)
    assert capsys.readouterr() == ("", "")


# Calibration: in a process of its own, for it patches the process

CALIBRATION = """
import json, sys
from types import SimpleNamespace as Seen
from bench import calibrate as c
from bench.report.display import Display

def found_by(step):
    known = {c.STOCK: c.Rate(10.0, 1.0), "lean, 50 users": c.Rate(100.0, 1.0), c.SMOKE: (50.0, 0),
             c.BORROW: [], c.RECORD: []}
    if step in rates:
        return known.get(step, c.Rate(50.0, 1.0))
    cell = Seen(qps=50_000.0, bound_by="link", link_cpu_us_per_op=9.0, latency=Seen(p50=0.0012))
    return known.get(step, cell if step in (c.LINK_MANY, c.LINK_ONE) else 0.5)

rates = {step.what for step in c.rate_steps(None, None, 1.0)}
steps = [*c.rate_steps(None, None, 1.0), *c.link_steps(None, None, 1.0),
         *c.prefill_steps(None, None), *c.worker_steps(None, None)]
names = [c.BORROW, c.RECORD, *(step.what for step in steps), c.SMOKE]
with Display(line_every_s=0) as display:
    display.starts(len(names), len(names), "steps")
    found = c.take([c.Step(n, 1.0, lambda n=n: found_by(n)) for n in names], display)
print(json.dumps({row.what: [row.value, row.reached] for row in c._rows(found)}))
"""


def test_a_calibration_shows_every_step_and_makes_its_rows_of_what_they_found() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALIBRATION], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    steps, *lines = done.stderr.splitlines()
    assert steps.startswith(f"{len(lines)} steps, ")
    assert lines[2].startswith(f"3/{len(lines)} lean, 50 users; ")
    rows = json.loads(done.stdout)
    assert rows["lean ÷ stock Locust"] == [10.0, True]
    assert rows["link at 1 ms, 200 users"] == [50_000.0, True]
    assert rows["round trip at 1 ms, 1 user"] == [1.2, True]
    assert rows["prefill 5000 at 1 ms"] == [0.5, True]
    assert rows["bench run --profile smoke, report included"] == [50.0, True]
