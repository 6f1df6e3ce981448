"""Two runs held against each other: what is called, what is refused, and what fails in CI."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic
from scipy import special, stats

from bench import cli
from bench.analysis import comparison
from bench.analysis.comparison import (
    FALSE_SHARE,
    changes,
    discovered,
    known_to_one,
    matched,
    moderated,
    no_longer_evidence,
    overall,
    prior,
    welch,
)
from bench.experiments import idle_eviction, pool_sweep
from bench.model import PreflightError
from bench.report.comparison import compare, conditions, tripped
from bench.store import Store

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
BLOCKS, CELLS = 3, 60
NOISES = np.geomspace(0.005, 0.05, CELLS)  # of cells: some are five times as restless as others
IDS = [f"{number:012x}" for number in range(CELLS)]
PAIRS = pd.DataFrame({"experiment": "pool_sweep", "before": IDS, "after": IDS})
COLUMNS = {"qps": 10_000.0, "latency_p50_s": 2e-3, "latency_p99_s": 5e-3, "acquire_p99_s": 1e-3,
           "client_cpu_us_per_op": 20.0, "server_cpu_us_per_op": 10.0,
           "server_client_memory_bytes": 1e6}  # fmt: skip


def measured(
    rng: np.random.Generator, factors: dict[int, float] | None = None, shared: float = 0.0
) -> pd.DataFrame:
    """A run of known truth: each cell's figures scatter by its own noise, and by what its block
    shares; `factors`: how much larger those of some cells are."""
    true = np.ones(CELLS)
    for cell, factor in (factors or {}).items():
        true[cell] = factor
    blocks = np.repeat(np.arange(1, BLOCKS + 1), CELLS)
    common = rng.normal(0, shared, BLOCKS)[blocks - 1]
    figures = {
        name: value * np.tile(true, BLOCKS)
        * np.exp(np.tile(NOISES, BLOCKS) * rng.normal(0, 1, blocks.size) + common)
        for name, value in COLUMNS.items()
    }  # fmt: skip
    return pd.DataFrame({
        "experiment": "pool_sweep", "cell": IDS * BLOCKS, "block": blocks, "loop": "closed",
        "valid": True, "bound_by": "users", **figures,
    })  # fmt: skip


# What is called


@pytest.mark.parametrize(
    ("shared", "runs", "most"),
    [
        (0.02, 40, 7),
        pytest.param(0.0, 200, 20, marks=pytest.mark.slow),
        pytest.param(0.02, 200, 20, marks=pytest.mark.slow),
    ],
)
def test_few_runs_without_a_difference_call_one(shared: float, runs: int, most: int) -> None:
    """Of 200 comparisons 5 % would be 10; chance alone gives more than 20 once in a thousand, and
    more than 7 of 40 as seldom. What a block's cells share, as its server's start, is not taken for
    a difference either: without that, 30 % of comparisons would call one."""
    rng = np.random.default_rng(1)
    pairs = [(measured(rng, shared=shared), measured(rng, shared=shared)) for _ in range(runs)]
    assert sum(changes(*pair, PAIRS)["differs"].any() for pair in pairs) <= most


def test_a_cell_that_is_no_evidence_any_more_is_told_with_its_reason() -> None:
    """One that passes and fails by turns, as at a gate's edge it does by chance, is not."""
    rng = np.random.default_rng(13)
    before, after = (measured(rng).assign(invalid_reasons="") for _ in range(2))
    after.loc[after["cell"] == IDS[3], "bound_by"] = "generator"
    after.loc[after["cell"] == IDS[4], ["valid", "invalid_reasons"]] = [False, "settled: no"]
    after.loc[(after["cell"] == IDS[5]) & (after["block"] < BLOCKS), "bound_by"] = "generator"
    before.loc[(before["cell"] == IDS[6]) & (before["block"] == 1), "valid"] = False
    after.loc[after["cell"] == IDS[6], "bound_by"] = "link"
    assert no_longer_evidence(before, after, PAIRS) == [
        ("pool_sweep", IDS[3], "bound by generator"), ("pool_sweep", IDS[4], "settled: no")
    ]  # fmt: skip
    assert no_longer_evidence(after, before, PAIRS) == []


def test_a_real_change_of_one_figure_is_found_among_hundreds() -> None:
    """20 % in one of the 420 figures, in the cell of median noise, 1.6 %, from three replicates."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(60):
        before, after = measured(rng), measured(rng)
        after.loc[after["cell"] == IDS[CELLS // 2], "server_cpu_us_per_op"] *= 1.2
        found.append(of_one(changes(before, after, PAIRS), "server_cpu_us_per_op", "differs"))
    assert np.mean(found) > 0.85


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Only so many figures are compared, for tests that need many runs and not many figures."""
    return lambda count: monkeypatch.setattr(comparison, "FIGURES", comparison.FIGURES[:count])


def of_one(table: pd.DataFrame, figure: str, column: str) -> float:
    """What a comparison says of a figure of the cell of median noise."""
    own = (table["cell"] == IDS[CELLS // 2]) & (table["figure"] == figure)
    return float(table.loc[own, column].iloc[0])


def test_of_what_is_called_few_are_false_and_intervals_hold_the_truth(
    fewer: Callable[[int], None],
) -> None:
    fewer(2)
    rng = np.random.default_rng(3)
    factors = dict.fromkeys(range(0, CELLS, 6), 1.2)
    changed = [IDS[number] for number in factors]
    tables = [changes(measured(rng), measured(rng, factors), PAIRS) for _ in range(60)]
    called = pd.concat(tables).query("differs")
    assert len(called) > 60 * 2
    assert (~called["cell"].isin(changed)).mean() < 1.3 * FALSE_SHARE
    true = np.where(called["cell"].isin(changed), 1.2, 1.0)
    assert ((called["low"] < true) & (true < called["high"])).mean() > 0.93
    assert ((called["low"] > 1) | (called["high"] < 1)).all()


def test_what_is_called_worse_follows_the_figures_direction() -> None:
    rng = np.random.default_rng(4)
    table = changes(measured(rng), measured(rng, dict.fromkeys(range(CELLS), 1.5)), PAIRS)
    worse = table[table["differs"]].groupby("figure")["worse"].mean()
    assert worse["qps"] == 0
    assert (worse.drop("qps") == 1).all()


def test_the_smallest_difference_to_be_found_is_found_four_times_in_five(
    fewer: Callable[[int], None],
) -> None:
    """Of one figure of one cell; a hundred runs scatter by 4 % around the 80."""
    fewer(2)
    rng = np.random.default_rng(5)
    alone = [changes(measured(rng), measured(rng), PAIRS) for _ in range(20)]
    told = float(np.median([of_one(table, "latency_p50_s", "detectable") for table in alone]))
    hits = []
    for _ in range(100):
        before, after = measured(rng), measured(rng)
        after.loc[after["cell"] == IDS[CELLS // 2], "latency_p50_s"] *= 1 + told
        hits.append(of_one(changes(before, after, PAIRS), "latency_p50_s", "differs"))
    assert 0.66 < np.mean(hits) < 0.94


def test_a_cell_that_the_rig_bounds_is_told_apart_and_never_called() -> None:
    rng = np.random.default_rng(6)
    before, after = measured(rng), measured(rng, {3: 3.0})
    after.loc[after["cell"] == IDS[3], "bound_by"] = "generator"
    table = changes(before, after, PAIRS)
    assert table.loc[table["cell"] == IDS[3], "hollow"].all()
    assert not table["differs"].any()
    assert not table.loc[table["cell"] != IDS[3], "hollow"].any()


def test_what_is_invalid_or_too_short_to_be_read_is_left_out() -> None:
    rng = np.random.default_rng(7)
    before, after = measured(rng), measured(rng)
    before.loc[(before["cell"] == IDS[0]) & (before["block"] < 3), "valid"] = False
    after.loc[after["cell"] == IDS[1], "acquire_p99_s"] = 1e-6
    table = changes(before, after, PAIRS)
    assert set(table.loc[table["cell"] == IDS[0], "n_before"]) == {1}
    assert "acquire_p99_s" not in set(table.loc[table["cell"] == IDS[1], "figure"])


def test_equal_readings_are_not_taken_for_exact_ones() -> None:
    """Three times 2,000 µs against three times 2,001 µs: one step of the histogram."""
    rng = np.random.default_rng(8)
    before, after = measured(rng), measured(rng)
    before["latency_p50_s"], after["latency_p50_s"] = 2e-3, 2.001e-3
    table = changes(before, after, PAIRS)
    assert table["p"].notna().all()
    assert not table["differs"].any()


def test_a_cell_whose_replicates_are_equal_borrows_its_noise_from_the_others() -> None:
    rng = np.random.default_rng(12)
    runs = [measured(rng), measured(rng)]
    for run, value in zip(runs, (1e6, 1.5e6), strict=True):
        run.loc[run["cell"] == IDS[CELLS // 2], "server_client_memory_bytes"] = value
    assert of_one(changes(runs[0], runs[1], PAIRS), "server_client_memory_bytes", "differs")


def test_one_measurement_of_each_tells_nothing_beyond_noise() -> None:
    rng = np.random.default_rng(9)
    once = [measured(rng).query("block == 1") for _ in range(2)]
    table = changes(once[0], once[1], PAIRS)
    assert len(table) == CELLS * len(COLUMNS)
    assert table["p"].isna().all()
    assert not table["differs"].any()


def test_benjamini_and_hochbergs_own_example() -> None:
    p = np.array([0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240,
                  0.4262, 0.5719, 0.6528, 0.7590, 1.0])  # fmt: skip
    assert discovered(p[::-1]).sum() == 4
    assert not discovered(np.array([])).any()


def test_the_prior_is_found_again() -> None:
    rng = np.random.default_rng(10)
    freedom = np.full(5_000, 4.0)
    true = 0.01**2 * 8 / rng.chisquare(8, 5_000)
    known = prior(true * rng.chisquare(4, 5_000) / 4, freedom)
    assert known.freedom == pytest.approx(8, rel=0.15)
    assert known.variance == pytest.approx(0.01**2, rel=0.05)
    alike = prior(np.full(50, 2.0), np.full(50, 4.0))
    assert np.isinf(alike.freedom)
    assert alike.variance == pytest.approx(2 / np.exp(special.digamma(2) - np.log(2)))


def test_few_cells_lend_each_other_nothing() -> None:
    variance, freedom = moderated(np.array([1.0, 4.0]), np.array([4.0, 4.0]))
    assert variance.tolist() == [1.0, 4.0]
    assert freedom.tolist() == [4.0, 4.0]


def test_welchs_interval_is_the_textbooks() -> None:
    first, second = np.array([0.1, 0.12, 0.17]), np.array([0.3, 0.33, 0.5, 0.41])
    found = welch(first, second)
    interval = stats.ttest_ind(second, first, equal_var=False).confidence_interval()
    assert np.log([found.low, found.high]) == pytest.approx([interval.low, interval.high])


def test_the_mean_of_an_experiment_holds_what_its_blocks_share(
    fewer: Callable[[int], None],
) -> None:
    """A block's start moves all its cells: an interval over cells alone would not hold that."""
    fewer(1)
    rng = np.random.default_rng(11)
    held = []
    for _ in range(60):
        before, after = measured(rng, shared=0.02), measured(rng, shared=0.02)
        means = overall(before, after, PAIRS, changes(before, after, PAIRS))
        assert len(means) == 1
        held.append(means[0][3].low < 1 < means[0][3].high)
    assert np.mean(held) > 0.85


# Which cells go together


def test_loop_and_round_trip_never_mix() -> None:
    cells = Store.open(REFERENCE).cells()
    pairs = matched(cells, cells)
    assert len(pairs) == cells["cell"].nunique()
    assert (pairs["before"] == pairs["after"]).all()
    for column, other in (("rtt_s", 0.123), ("loop", "other")):
        assert matched(cells, cells.assign(**{column: other})).empty


def test_what_was_set_for_a_whole_run_is_matched_on_all_else() -> None:
    cells = Store.open(REFERENCE).cells()
    other = cells.assign(value_bytes=1_000, cell="x" + cells["cell"])
    assert matched(cells, other).empty
    pairs = matched(cells, other, ["value_bytes"])
    assert len(pairs) == cells["cell"].nunique()
    assert ("x" + pairs["before"] == pairs["after"]).all()


def test_a_setting_that_an_older_version_did_not_know_does_not_part_the_cells() -> None:
    cells = Store.open(REFERENCE).cells()
    older = cells.assign(cell="x" + cells["cell"], borrows=None, lone=None)
    assert known_to_one(older, cells) == ["borrows", "lone"]
    assert known_to_one(cells, cells) == []
    assert len(matched(older, cells, ["borrows", "lone"])) > 0.9 * cells["cell"].nunique()


def test_cells_that_only_a_freed_setting_tells_apart_are_left_out() -> None:
    cells = Store.open(REFERENCE).cells()
    sweep = cells[cells["experiment"] == "pool_sweep"]
    pairs = matched(sweep, sweep, ["pool_size"])
    assert len(pairs) < sweep["cell"].nunique()
    assert (pairs["before"] == pairs["after"]).all()


# Real runs


def altered(
    folder: Path,
    cells: Callable[[pd.DataFrame], pd.DataFrame] = lambda cells: cells,
    **manifest: Any,
) -> Path:
    """The reference run again, with other figures or another manifest."""
    folder.mkdir()
    for name in ("latency", "requests"):
        (folder / name).symlink_to(REFERENCE / name)
    shutil.copy(REFERENCE / "series.parquet", folder)
    stored = pq.read_table(REFERENCE / "cells.parquet")
    other = pa.Table.from_pandas(cells(stored.to_pandas()), stored.schema, preserve_index=False)
    pq.write_table(other, folder / "cells.parquet")
    told = json.loads((REFERENCE / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**told, **manifest}))
    return folder


def scaled(factor: float, column: str = "client_cpu_us_per_op") -> Any:
    return lambda cells: cells.assign(**{column: cells[column] * factor})


def settings(**changed: Any) -> dict[str, Any]:
    made = json.loads((REFERENCE / "run.json").read_text())["settings"]
    return {**made, **changed}


def run_bench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """In this process; status, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
    try:
        status = cli.main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def test_a_run_against_its_copy_differs_in_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = altered(tmp_path / "copy")
    status, out, err = run_bench(
        monkeypatch, capsys, "compare", REFERENCE, copy, "--only", "pool_sweep,shared_pool",
        "--fail-on", "worse,verdict",
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "No cell differs beyond noise" in out
    assert "nothing that the runs tell of machine" in out
    assert "0 of " in out.partition("Verdicts")[2]


def test_what_became_dearer_is_called_and_fails_in_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dearer = altered(tmp_path / "dearer", scaled(3), python="9.9.9")
    asked = ("compare", REFERENCE, dearer, "--only", "pool_sweep")
    status, out, err = run_bench(monkeypatch, capsys, *asked, "--fail-on", "worse:50%", "--json")
    found = json.loads(out)
    assert status == 1
    unseen, failed = err.splitlines()
    assert unseen.endswith("figures scatter too much for a change of 50 % to be seen")
    assert failed.startswith("bench: worse: ")
    assert found["failed_on"] == [failed.removeprefix("bench: ")]
    assert {row["what"] for row in found["environment"]} == {"python"}
    assert found["worse"] == found["differs"] > 10
    strongest = found["changes"][0]
    assert strongest["figure"] == "client_cpu_us_per_op"
    assert strongest["ratio"] == pytest.approx(3)
    overall = {row["figure"]: row for row in found["overall"]}
    assert overall["client_cpu_us_per_op"]["ratio"] == pytest.approx(3)
    status, out, err = run_bench(monkeypatch, capsys, *asked, "--fail-on", "worse:190%")
    assert (status, err.count("\n")) == (0, 1)
    assert "figures scatter too much for a change of 190 % to be seen" in err
    assert "--all shows them" in out
    status, out, err = run_bench(monkeypatch, capsys, *asked, "--fail-on", "worse:0.01%")
    assert (status, out) == (2, "")
    assert err.startswith("bench: --fail-on worse:0.01%: of ")


def test_what_became_cheaper_fails_nothing(tmp_path: Path) -> None:
    found = compare((REFERENCE, altered(tmp_path / "cheaper", scaled(1 / 3))), ("pool_sweep",))
    assert found["differs"] > 10
    assert tripped(found, {"worse": 0.0}) == []


def lost(cells: pd.DataFrame) -> pd.DataFrame:
    """Every block but one is invalid: what was decided from replicates no longer is."""
    return cells.assign(valid=cells["valid"] & (cells["replicate"] == 1))


def test_a_verdict_that_is_no_longer_decided_is_told_and_fails_nothing(tmp_path: Path) -> None:
    folder = altered(tmp_path / "lost", lost)
    found = compare((REFERENCE, folder), ("shared_pool", "reference_case"))
    first = found["verdicts"][0]
    assert (first["lost"], first["after"]["outcome"]) == (True, "undecided")
    assert tripped(found, conditions("verdict")) == []
    back = compare((folder, REFERENCE), ("shared_pool", "reference_case"))
    assert any(row["changed"] for row in back["verdicts"])
    assert not any(row["lost"] and row["before"]["outcome"] == "undecided"
                   for row in back["verdicts"])  # fmt: skip


def test_a_verdict_that_turned_is_told_first_and_fails_in_ci(tmp_path: Path) -> None:
    """The server's work on a deep pipeline, three times as much: what was cheap is dear."""

    def dear(cells: pd.DataFrame) -> pd.DataFrame:
        deep = cells["depth"] == 100
        work = cells["server_cpu_us_per_op"].where(~deep, 3 * cells["server_cpu_us_per_op"])
        return cells.assign(server_cpu_us_per_op=work)

    found = compare((REFERENCE, altered(tmp_path / "dear", dear)), ("pipelining",))
    first = found["verdicts"][0]
    assert (first["turned"], first["claim"], first["after"]["outcome"]) == (True, "C1", "refuted")
    assert tripped(found, conditions("verdict")) == ["verdict: C1 supported → refuted"]


def test_a_cell_that_is_missing_or_no_evidence_fails_in_ci(tmp_path: Path) -> None:
    """Missing of an experiment that an unfinished run began; what a run did not plan is not."""

    def bound(cells: pd.DataFrame) -> pd.DataFrame:
        link = cells["bound_by"].where(cells["pool_size"] != 20, "link")
        return cells.assign(bound_by=link)

    found = compare((REFERENCE, altered(tmp_path / "bound", bound)), ("pool_sweep",))
    gone = found["no_longer_evidence"]
    assert {row["why"] for row in gone} == {"bound by link"}
    (line,) = tripped(found, conditions("worse"))
    assert line.startswith(f"worse: {len(gone)} cells that supported claims before support none")
    assert gone[0]["label"] in line

    def part(cells: pd.DataFrame) -> pd.DataFrame:
        return cells[cells["pool_size"] != 20]

    for status, missing in (("interrupted", {"missing"}), ("complete", set())):
        folder = altered(tmp_path / status, part, status=status)
        told = compare((REFERENCE, folder), ("pool_sweep", "shared_pool"))
        assert {row["why"] for row in told["no_longer_evidence"]} == missing
        assert bool(tripped(told, conditions("worse"))) == bool(missing)


def test_another_machine_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = altered(tmp_path / "other", cpu_model="Another", cores=64)
    _, out, _ = run_bench(monkeypatch, capsys, "compare", REFERENCE, other, "--only", "pool_sweep")
    assert "cores: 2 → 64" in out
    assert "Another machine" in out


def test_a_partial_run_is_compared_in_what_is_there(tmp_path: Path) -> None:
    part = altered(
        tmp_path / "part", lambda cells: cells.groupby("experiment").head(40),
        status="interrupted",
    )  # fmt: skip
    found = compare((REFERENCE, part), ("pool_sweep", "shared_pool"))
    assert 0 < found["matched"] < found["before"]["cells"]
    missing = found["before"]["not_in_the_other"]
    assert sum(missing.values()) == found["before"]["cells"] - found["matched"]
    assert found["after"]["status"] == "interrupted"


def test_a_setting_changed_for_a_whole_run_is_named(tmp_path: Path) -> None:
    workload = {**settings()["workload"], "value_bytes": 1_000}
    changed = altered(
        tmp_path / "changed",
        lambda cells: cells.assign(value_bytes=1_000, cell="x" + cells["cell"]),
        settings=settings(workload=workload, seed=7),
    )
    found = compare((REFERENCE, changed), ("pool_sweep",))
    assert found["settings"] == ["value_bytes"]
    assert found["matched"] == found["before"]["cells"]
    assert {row["what"] for row in found["environment"]} == {
        "settings.seed", "settings.workload.value_bytes"
    }  # fmt: skip


def test_a_line_of_figures_is_whole_in_a_narrow_terminal(tmp_path: Path) -> None:
    columns = 80
    dearer = altered(tmp_path / "dearer", scaled(3))
    command = f"stty cols {columns}; {sys.executable} -m bench compare {REFERENCE} {dearer}"
    done = subprocess.run(
        ["script", "-qc", f"{command} --only pool_sweep", "/dev/null"], capture_output=True,
        text=True, timeout=120, cwd=ROOT, check=True,
        env={**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb"},
    )  # fmt: skip
    lines = done.stdout.replace("\r", "").splitlines()
    changed = [line for line in lines if " → " in line]
    assert changed
    assert all(line.endswith(("worse", "better")) for line in changed)
    assert max(map(len, lines)) <= columns


# What cannot be compared


def smoke(folder: Path) -> Path:
    return synthetic.store(folder, "smoke", 1)


def newer(folder: Path) -> Path:
    return altered(folder, format=99)


def damaged(folder: Path) -> Path:
    altered(folder)
    (folder / "cells.parquet").write_bytes(b"PAR1 no table")
    return folder


def half_written(folder: Path) -> Path:
    altered(folder, status="running")
    (folder / "cells.parquet").unlink()
    (folder / "series.parquet").unlink()
    return folder


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def failures(folder: Path) -> Path:
    return altered(folder, lambda cells: cells[cells["experiment"] == "stuck_call"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder, "does not exist"),
        (empty, "is not a run folder"),
        (half_written, "holds no finished cell"),
        (damaged, "is damaged"),
        (newer, "is of format 99"),
        (lambda folder: REFERENCE, "is named twice"),
        (smoke, "of profile full"),
        (failures, "no experiment in common"),
    ],
)
def test_what_cannot_be_compared_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], Path], words: str,
) -> None:  # fmt: skip
    other = make(tmp_path / "other")
    for pair in ((REFERENCE, other), (other, REFERENCE)):
        status, out, err = run_bench(
            monkeypatch, capsys, "compare", *pair, "--only", "pool_sweep,shared_pool"
        )
        assert (status, out) == (2, "")
        assert err.count("\n") == 1
        assert words in err or "of profile smoke" in err


def test_runs_without_a_cell_in_common_are_told_why(tmp_path: Path) -> None:
    far = altered(tmp_path / "far", lambda cells: cells.assign(rtt_s=0.123))
    with pytest.raises(PreflightError, match=r"share no cell: they differ in rtt_s;"):
        compare((REFERENCE, far), ("pool_sweep",))


def test_another_time_scale_parts_the_cells_that_sleep(tmp_path: Path) -> None:
    faster = altered(
        tmp_path / "faster", lambda cells: cells.assign(scale=cells["scale"] * 2),
        settings=settings(time_scale=60.0),
    )  # fmt: skip
    with pytest.raises(PreflightError, match="they differ in scale"):
        compare((REFERENCE, faster), (idle_eviction.NAME,))
    assert compare((REFERENCE, faster), (pool_sweep.NAME,))["matched"] > 0


def test_smoke_runs_stand_side_by_side_and_cannot_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pass would say what nobody could have seen."""
    runs = smoke(tmp_path / "one"), smoke(tmp_path / "two")
    status, out, _ = run_bench(monkeypatch, capsys, "compare", *runs)
    assert status == 0
    assert "nothing can be told beyond noise" in out
    assert "QPS" in out
    for condition in ("worse", "verdict"):
        status, out, err = run_bench(monkeypatch, capsys, "compare", *runs, "--fail-on", condition)
        assert (status, out) == (2, "")
        assert err.startswith(f"bench: --fail-on {condition}: no c")


@pytest.mark.parametrize(
    "text", ["slower", "worse:", "worse:5", "worse:x%", "verdict:5%", "", "worse:-1%"]
)
def test_fail_on_is_checked(text: str) -> None:
    with pytest.raises(PreflightError, match="--fail-on"):
        conditions(text)


def test_fail_on_takes_several() -> None:
    assert conditions("worse:5%, verdict") == {"worse": 0.05, "verdict": 0.0}
