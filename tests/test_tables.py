"""What a person reads in the terminal: tables that are whole, and progress with what is left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import synthetic

from bench.experiments import discover, instrument, pool_sweep
from bench.model import Row, Settings, Verdict, Workload
from bench.report.display import Display
from bench.report.drawer import table_of
from bench.report.tables import _selection, readable, show, show_calibration, summary
from bench.report.verdicts import judge
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


NASTY = "[bold]who[/bold] :link: [/]: a name between [brackets] ends in \\\\"


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run of the instrument alone, with its certificate, a row of which looks like markup."""
    folder = tmp_path_factory.mktemp("run") / "certified"
    synthetic.store(folder, "standard", 5, (instrument,))
    store = Store.resume(folder)
    rows = instrument.certificate(store.cells(), store)
    nasty = Row.at_most("other tools [1]", 1_234_567.8, "/s", 1, NASTY)
    store.note_certificate(asdict(row) for row in [*rows, nasty])
    store.finish("complete")
    return store


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))


def plain(said: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", said)


def tables(store: Store) -> dict[str, Any]:
    """As the report's processes make them."""
    cells = store.cells()
    return {
        name: table_of(discover()[name], cells[cells["experiment"] == name])
        for name in store.experiments()
    }


# Tables


def test_away_from_a_terminal_nothing_is_wrapped_or_cut(
    complete: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    show(complete, [], tables(complete))
    said = capsys.readouterr().out
    lines = said.splitlines()
    found = summary(complete, [], tables(complete))
    assert lines[0] == pool_sweep.QUESTION
    bounds = ", ".join(f"{part} {count}" for part, count in found["bound_by"].items())
    assert f"{found['cells']} cells, 0 invalid; bound by {bounds}" in lines
    assert "…" not in said
    for record in found["tables"]["pool_sweep"]:
        cells = {readable(v) if isinstance(v, float) else str(v) for v in record.values()}
        assert any(cells <= {"None", "–", *line.split()} for line in lines)


def test_the_heading_says_that_the_rows_are_a_selection_and_of_what(
    complete: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    show(complete, [], tables(complete))
    heading = capsys.readouterr().out.splitlines()[1]
    rows = len(summary(complete, [], tables(complete))["tables"]["pool_sweep"])
    assert heading.startswith(f"{rows} of {len(PLAN.cells)} combinations. ")
    assert "best" in heading


def test_more_rows_than_combinations_are_no_selection(complete: Store) -> None:
    said = _selection(pool_sweep, [{}] * 999, complete)
    assert said.startswith(f"999 rows from {len(PLAN.cells)} combinations. ")


def test_a_narrow_terminal_gets_fewer_columns_and_whole_numbers(
    complete: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal(monkeypatch, 60)
    show(complete, [], tables(complete))
    said = plain(capsys.readouterr().out)
    assert max(map(len, said.splitlines())) <= 60
    assert "…" not in said
    records = summary(complete, [], tables(complete))["tables"]["pool_sweep"]
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
    show(store, [], tables(store))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(status)
    assert last.endswith(f": 3 of {PLANNED} cells")
    assert summary(store, [], tables(store))["planned"] == PLANNED


def test_a_complete_run_says_nothing_of_the_kind(
    complete: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    show(complete, [], tables(complete))
    assert "complete" not in capsys.readouterr().out


def test_certificate_and_verdicts_fit_a_terminal_of_80_columns(
    certified: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal(monkeypatch, 80)
    show(certified, judge(certified, ["instrument"]), tables(certified))
    said = plain(capsys.readouterr().out)
    lines = said.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in said
    begins = lines.index("The instrument's certificate")
    assert lines[begins + 1].split() == ["what", "measured", "reach"]
    assert any(re.search("30,000 /s +≥ 29850 +reached bound by users", line) for line in lines)
    for claim in ("I1", "I2", "I3", "I4"):
        assert sum(line.split()[:2] == [claim, "supported"] for line in lines) == 1


def test_what_looks_like_markup_is_printed_as_it_is(
    certified: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = Verdict(
        "I4", f"Says {NASTY}", "rule", "not run", NASTY, {}, (), experiment="instrument"
    )
    show(certified, [verdict], tables(certified))
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if line.startswith("other tools [1] "))
    assert row.split("/s")[1].split("not reached")[1].strip() == NASTY
    (row,) = (line for line in lines if line.startswith("I4 "))
    assert row.split()[1:3] == ["not", "run"]
    assert row.split("Says")[1].count(NASTY) == 2


def test_a_terminal_of_ascii_gets_the_certificate_and_no_traceback(certified: Store) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "bench", "report", str(certified.folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.isascii()
    assert "The instrument's certificate" in done.stdout
    assert "not reached" in done.stdout
    assert re.search(r"I4 +\|supported ", done.stdout)


def test_the_run_in_figures_is_json_that_every_program_reads(certified: Store) -> None:
    verdicts = judge(certified, ["instrument"])
    found = json.loads(json.dumps(summary(certified, verdicts, tables(certified)), allow_nan=False))
    assert [each["outcome"] for each in found["verdicts"]] == ["supported"] * 4
    assert found["verdicts"][2]["estimates"]["served"]["low"] is None
    assert {"what", "value", "unit", "reach", "reached", "note"} == set(found["certificate"][0])
    assert found["certificate"] == certified.manifest["certificate"]
    gates = {each["gate"]: each for each in found["gates"]}
    assert (gates["little_pool"]["cells"], gates["little_pool"]["failed"]) == (found["cells"], 0)
    assert len(found["tables"]["instrument"]) == 14


def test_each_experiments_table_shows_its_own_cells(tmp_path: Path) -> None:
    folder = synthetic.store(tmp_path / "run", "smoke", 1, (pool_sweep, instrument))
    alone = {name: len(rows) for name, rows in tables(Store.open(folder)).items()}
    cells = Store.open(folder).cells()
    for module in (pool_sweep, instrument):
        own = cells[cells["experiment"] == module.NAME]
        assert alone[module.NAME] == len(module.tables(own))


def test_gates_that_failed_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = stored(tmp_path / "run", 2, "complete")
    changed = store.cells().assign(valid=False, invalid_reasons="settled: never; workers: 1 lost")
    store.cells = lambda: changed.assign(gate_settled=0.5, gate_workers=1.0)  # type: ignore[method-assign]
    show(store, [], tables(store))
    lines = capsys.readouterr().out.splitlines()
    assert "   gate settled: failed by 2 attempts" in lines
    assert "   gate workers: failed by 2 attempts" in lines
    assert not [line for line in lines if "gate little_pool" in line]


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
from bench.model import BenchError, Row
from bench.report.display import Display

refusing = set(sys.argv[1:])  # for good, or "once: …" in the first round, or "spoilt: …"
def found_by(step):
    if "spoilt: " + step in refusing:
        raise BenchError("the server is lost")
    if step in refusing or "once: " + step in refusing:
        refusing.discard("once: " + step)
        raise c.NotMeasured("it stayed invalid")
    known = {c.STOCK: c.Rate(10.0, 1.0), c.LEAN: c.Rate(100.0, 1.0), c.SMOKE: (50.0, 0),
             c.DEEP_BESIDE: c.Rate(600_000.0, 1.0), c.DEEP: Seen(qps=5_000.0),
             c.TIMED: Seen(qps=7_000.0, client_cpu_us_per_op=81.0, phases=(1, 2, 3, 4, 5)),
             c.UNTIMED: Seen(qps=7_000.0, client_cpu_us_per_op=80.0, phases=()),
             **{made: [Row(made, 1.0, "s")] for made in (c.BORROW, c.NOISE, c.RECORD, c.MERGE,
                                                         c.CROSS, c.PHASE, c.LIVE)}}
    if step in c.OPENINGS and step not in known:
        return Seen(qps=10_000.0 if step == c.FLOOR else 2_000.0, client_cpu_us_per_op=1.0)
    if step in rates:
        return known.get(step, c.Rate(50.0, 1.0))
    return known.get(step, (31_000.0, "every rate tried was held") if step in ladder else 0.5)

rates = {step.what for step in c.rate_steps(None, None, 1.0)}
ladder = {step.what for step in c.ladder_steps(None, None, 1.0)}
steps = [*c.opening_steps(None, None, 1.0), *c.pipeline_steps(None, None, 1.0),
         *c.ladder_steps(None, None, 1.0), *c.rate_steps(None, None, 1.0),
         *c.prefill_steps(None, None), *c.worker_steps(None, None)]
names = [c.NOISE, c.BORROW, c.RECORD, c.MERGE, c.LEAN, c.PHASE,
         *(step.what for step in steps), c.CROSS, c.LIVE, c.SMOKE]
with Display(line_every_s=0) as display:
    display.starts(len(names), len(names), "steps")
    found = c.take([c.Step(n, 1.0, lambda n=n: found_by(n)) for n in names], display)
own = [Row("of the instrument's cells", 1.0, "ms")]
print(json.dumps({row.what: [row.value, row.reached, row.note] for row in c._rows(found, own)}))
"""


def calibrated(*refusing: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CALIBRATION, *refusing], cwd=ROOT, capture_output=True, text=True
    )


def test_a_calibration_shows_every_step_and_makes_its_rows_of_what_they_found() -> None:
    done = calibrated()
    assert done.returncode == 0, done.stderr
    steps, *lines = done.stderr.splitlines()
    assert steps.startswith(f"{len(lines)} steps, ")
    assert lines[4].startswith(f"5/{len(lines)} lean, 50 users; ")
    rows = {what: row[:2] for what, row in json.loads(done.stdout).items()}
    assert rows["lean ÷ stock Locust"] == [10.0, True]
    assert rows["of the instrument's cells"] == [1.0, None]
    assert rows["highest open-loop rate with gates green, lean at RTT 0"] == [31_000.0, True]
    for made in (
        "the machine at rest",
        "merging histograms",
        "other tools at the same load",
        "the live view",
    ):
        assert rows[made] == [1.0, None]
    assert rows["connections opened, redis-py as it comes"] == [2_000.0, True]
    assert rows["connections opened, lean, protocol 2 (tuned)"] == [2_000.0, False]
    assert rows["timing phases: added to each"] == [pytest.approx(0.2), None]
    assert rows["commands over one connection, depth 100"] == [500_000.0, True]
    assert rows["prefill 5000 at 1 ms"] == [0.5, True]
    assert rows["bench run --profile smoke, report included"] == [50.0, True]


def test_what_a_calibration_cannot_measure_is_said_in_its_rows_and_loses_no_other() -> None:
    refused = ("connections opened, bare, one user", "stock Locust + redis-py, 50 users",
               "one connection, depth 100", "worker with 5,000 connections, 1,000 users",
               "prefill 1000 at 0 ms", "the live view",
               "a cell's time outside measuring, pool ≤ 500",
               "highest open-loop rate with gates green, lean at RTT 0")  # fmt: skip
    done = calibrated(*refused, "once: lean, 50 users", "once: prefill 5000 at 1 ms")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    why = "it stayed invalid"
    lost = {what for what, (value, _, _) in rows.items() if value is None}
    assert lost == {
        "connections opened, bare, one user", "GET rate, stock Locust + redis-py, 50 users",
        "client CPU, stock Locust + redis-py, 50 users", "lean ÷ stock Locust",
        "commands over one connection, depth 100", "timing phases: added to each", *refused[3:],
    }  # fmt: skip
    assert {tuple(rows[what][1:]) for what in lost} == {(None, why)}
    assert rows["GET rate, lean, 50 users"] == [100.0, None, why]
    assert rows["prefill 5000 at 1 ms"] == [0.5, True, why]
    assert rows["prefill 5000 at 0 ms"] == [0.5, True, ""]
    assert rows["lean ÷ redis-benchmark"][:2] == [2.0, True]
    assert rows["lean ÷ redis-benchmark"][2].endswith(f"; {why}")


def test_what_would_spoil_the_other_steps_ends_a_calibration() -> None:
    done = calibrated("spoilt: prefill 1000 at 0 ms")
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.endswith("BenchError: the server is lost\n")
