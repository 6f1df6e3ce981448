"""A run folder: whole after every cell, whatever happens in between, and clear about trouble."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

import bench.store as stores
from bench.analysis.gates import little_pool, steal
from bench.model import (
    Arrivals,
    Cell,
    Estimate,
    Idling,
    Observation,
    Outage,
    Percentiles,
    Pod,
    PreflightError,
    Service,
    Settings,
    Verdict,
    Workload,
)
from bench.store import Store, load_cells, stored_settings

DESIGN_COLUMNS = set(
    """
    experiment cell block replicate loop client resp workers pool_size opening order concurrency
    rtt_s offered_qps qps in_flight_mean in_flight_peak latency_p50_s latency_p90_s
    latency_p99_s latency_p999_s acquire_p50_s acquire_p90_s acquire_p99_s acquire_p999_s
    command_p50_s command_p90_s command_p99_s command_p999_s send_lag_p99_s pool_empty_share
    hiccup_max_s operations errors timeouts client_fds_peak server_connections_peak
    server_fds_peak link_fds_peak client_cpu_s server_cpu_s link_cpu_s server_cpu_us_per_op
    server_client_memory_bytes server_rss_bytes measured_s bound_by valid invalid_reasons
    """.split()  # noqa: SIM905  one column to a line would be a page
)


def encoded(*values: int) -> bytes:
    histogram = HdrHistogram(1, 60_000_000, 3)
    for value in values:
        histogram.record_value(value)
    return bytes(histogram.encode())


POD = Pod(
    worker=0, pool_size=5, scheduled=None, requests=30, qps=99.5, in_flight_mean=4.9,
    in_flight_peak=5, command_mean_s=0.05, pool_empty_share=0.25, long_wait_share=0.2,
)  # fmt: skip


def observation(pool_size: int = 5, **changed: Any) -> Observation:
    """Every field filled with a value of its type; `changed` says which matter to the test."""
    fields: dict[str, Any] = {
        name: _example(kind) for name, kind in typing.get_type_hints(Observation).items()
    }
    fields |= {
        "cell": Cell("pool_sweep", pool_size, 10, workload=Workload(keys=7)),
        "block": 1,
        "attempt": 1,
        "started_unix_s": 1_750_000_000.0,
        "bound_by": "pool",
        "gates": (little_pool(4.9, held_mean=4.9, qps=100.0), steal(0.002)),
        "pods": (POD,),
        "phases": (),
        "bursts": (),
        "series": [
            {"at_s": 0.0, "requests": 3, "latency_mean_s": None},
            {"at_s": 0.1, "requests": 4, "latency_mean_s": 0.02},
        ],
        "histograms": {
            "latency": encoded(1000, 2500),
            "acquire": encoded(0, 1),
            "command": encoded(999),
        },
    }
    return Observation(**(fields | changed))


def _example(kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        kind = typing.get_args(kind)[0]
    examples = {int: 3, float: 0.5, bool: True, str: ""}
    return Percentiles(0.001, 0.002, 0.003, None) if kind is Percentiles else examples.get(kind)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    made = Store.create(folder, {"seed": 1})
    yield made
    made.close()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# What is stored


def test_a_stored_cell_reads_back_with_every_column_of_the_design(store: Store) -> None:
    measured = observation(qps=123.5, latency=Percentiles(0.001, 0.002, None, None))
    store.add(measured)
    cells = Store.open(store.folder).cells()
    assert set(cells.columns) >= DESIGN_COLUMNS
    (row,) = cells.to_dict("records")
    assert row["cell"] == measured.cell.id
    assert (row["experiment"], row["pool_size"], row["keys"]) == ("pool_sweep", 5, 7)
    assert (row["qps"], row["bound_by"], row["valid"]) == (123.5, "pool", True)
    assert (row["latency_p50_s"], row["latency_p90_s"]) == (0.001, 0.002)
    assert math.isnan(row["latency_p99_s"])
    assert row["gate_little_pool"] == pytest.approx(0.0, abs=1e-9)
    assert row["gate_steal"] == 0.002


def test_every_plain_field_of_the_nouns_is_a_column(store: Store) -> None:
    store.add(observation())
    columns = set(store.cells().columns)
    apart = {"cell", "gates", "series", "histograms", "requests", "workload", "process"}
    apart |= {"idling", "outage", "service"}
    nouns = (Cell, Workload, Arrivals, Idling, Outage, Service, Observation)
    kinds = [typing.get_type_hints(noun) for noun in nouns]
    fields = {name for each in kinds for name, kind in each.items() if kind is not Percentiles}
    assert fields - apart <= columns


def test_each_workers_own_figures_stand_with_the_cell(store: Store) -> None:
    staircase = Cell("t", 9, 40, loop="open", offered_qps=50.0, arrivals=Arrivals(), workers=2,
                     staircase=(4,))  # fmt: skip
    lesser = dataclasses.replace(POD, pool_size=4, scheduled=31)
    store.add(observation(cell=staircase, pods=(lesser, dataclasses.replace(POD, worker=1))))
    (row,) = Store.open(store.folder).cells().to_dict("records")
    assert list(row["staircase"]) == [4]
    first, second = row["pods"]
    assert first == dataclasses.asdict(lesser)
    assert (second["worker"], second["scheduled"]) == (1, None)


def test_a_closed_loop_has_no_arrivals_and_an_open_one_names_its_process(store: Store) -> None:
    bursty = Arrivals("bursty", peak_to_mean=4.0)
    store.add(observation(5))
    store.add(observation(cell=Cell("t", 5, 9, loop="open", offered_qps=50.0, arrivals=bursty)))
    rows = Store.open(store.folder).cells()[["loop", "arrivals", "peak_to_mean", "offered_qps"]]
    closed, opened = rows.astype(object).where(rows.notna(), None).to_numpy().tolist()
    assert closed == ["closed", None, None, None]
    assert opened == ["open", "bursty", 4.0, 50.0]


def test_requests_are_kept_where_the_cell_asks(store: Store) -> None:
    rows = np.array([[0.5, 0.5, 0.6, 0.7], [-0.1, 0.0, 0.0, 0.25]])
    kept, other = observation(5, requests=[rows.tobytes(), rows[:1].tobytes()]), observation(10)
    store.add(kept)
    store.add(other)
    told = Store.open(store.folder).requests(kept.cell.id, 1, 1)
    assert told["intended_s"].tolist() == [-0.1, 0.5, 0.5]
    assert told["done_s"].tolist() == [0.25, 0.7, 0.7]
    assert told["worker"].tolist() == [0, 0, 1]
    with pytest.raises(PreflightError, match="is missing: restore it"):
        store.requests(other.cell.id, 1, 1)


def test_verdicts_are_written_without_nan(store: Store) -> None:
    unknown = Estimate(math.nan, math.nan, math.nan, "s", 0, ("no replicate",))
    store.note_verdicts([Verdict("I1", "it holds", "≤ 1", "undecided", "", {"a": unknown}, ("c",))])
    (told,) = json.loads((store.folder / "verdicts.json").read_text())
    assert (told["claim"], told["outcome"], told["cells"]) == ("I1", "undecided", ["c"])
    assert told["estimates"]["a"]["value"] is None


def test_requests_of_an_unfinished_cell_are_swept_away(store: Store, folder: Path) -> None:
    store.close()
    (folder / "requests" / "abc-1-1.parquet").write_bytes(b"half")
    Store.resume(folder).close()
    assert not list((folder / "requests").iterdir())


def test_the_unknown_is_null_and_keeps_its_columns_type(store: Store) -> None:
    store.add(observation(server_operations=None, server_rss_bytes=None, hiccup_max_s=math.nan))
    table = pq.read_table(store.folder / "cells.parquet")
    for name in ("server_operations", "server_rss_bytes", "hiccup_max_s", "offered_qps"):
        assert table[name].null_count == 1
    assert str(table.schema.field("server_operations").type) == "int64"
    assert str(table.schema.field("offered_qps").type) == "double"


def test_a_gate_met_later_is_a_column_for_all(store: Store) -> None:
    store.add(observation(5, gates=()))
    store.add(observation(10))
    steals = Store.open(store.folder).cells()["gate_steal"]
    assert math.isnan(steals[0])
    assert steals[1] == 0.002


def test_intervals_are_kept_under_their_cells_key(store: Store) -> None:
    first, second = observation(5), observation(10, series=[{"at_s": 0, "queue": 2}])
    store.add(first)
    store.add(second)
    series = Store.open(store.folder).series()
    assert list(series["cell"]) == [first.cell.id, first.cell.id, second.cell.id]
    assert list(series["requests"][:2]) == [3, 4]
    assert list(series["queue"])[2] == 2
    assert math.isnan(series["latency_mean_s"][0])
    assert series["latency_mean_s"][1] == 0.02


def test_both_attempts_of_an_invalid_cell_are_kept(store: Store) -> None:
    store.add(observation(valid=False, invalid_reasons="workers_lost: 1 worker lost"))
    store.add(observation(attempt=2))
    assert list(store.cells()["valid"]) == [False, True]
    assert set(store.attempts()) == {(observation().cell.id, 1)}
    with pytest.raises(ValueError, match="already holds pool 5"):
        store.add(observation(attempt=2))


def test_histograms_read_back_exactly(store: Store) -> None:
    store.add(observation())
    cell = observation().cell.id
    histogram = Store.open(store.folder).histogram(cell, 1, 1, "latency")
    assert histogram.get_total_count() == 2
    assert histogram.get_max_value() == pytest.approx(2500, rel=1e-3)
    with pytest.raises(KeyError, match="holds no 'wait'; it holds latency, acquire, command"):
        store.histogram(cell, 1, 1, "wait")
    with pytest.raises(KeyError, match="no cell"):
        store.histogram(cell, 2, 1, "latency")


def test_the_usual_tools_read_the_histogram_log(store: Store) -> None:
    store.add(observation(measured_s=0.6))
    (log,) = (store.folder / "latency").glob("*.hlog")
    assert log.name == f"{observation().cell.id}-1-1.hlog"
    text = log.read_text()
    assert text.startswith("#[Histogram log format version 1.3]\n#[StartTime: ")
    assert "\nTag=acquire,0.000,0.600,0.000001,HIST" in text
    reader = HistogramLogReader(str(log), HdrHistogram(1, 60_000_000, 3))
    read = {h.get_tag(): h for h in iter(reader.get_next_interval_histogram, None)}
    assert {tag: h.get_total_count() for tag, h in read.items()} == {
        "latency": 2, "acquire": 2, "command": 1
    }  # fmt: skip
    assert reader.get_start_time_sec() > 1.7e9
    spans = [h.get_end_time_stamp() - h.get_start_time_stamp() for h in read.values()]
    assert spans == [pytest.approx(600)] * 3


def test_notebooks_load_the_cells(store: Store) -> None:
    with pytest.raises(PreflightError, match="holds no finished cell yet"):
        load_cells(store.folder)
    store.add(observation())
    assert len(load_cells(str(store.folder))) == 1


def test_experiments_are_named_in_the_order_measured(store: Store) -> None:
    for name, pool in (("pool_sweep", 5), ("cost", 5), ("pool_sweep", 10)):
        store.add(observation(cell=Cell(name, pool, 1)))
    assert store.experiments() == ["pool_sweep", "cost"]


def test_a_reader_in_the_middle_of_a_table_keeps_it_whole(store: Store) -> None:
    store.add(observation(5))
    names = ("cells.parquet", "series.parquet", "run.json")
    with contextlib.ExitStack() as stack:
        before = {name: (store.folder / name).read_bytes() for name in names}
        reading = {name: stack.enter_context((store.folder / name).open("rb")) for name in names}
        store.add(observation(10))
        store.note_server("redis", "7.0.15")
        for name in names:
            assert reading[name].read() == before[name] != (store.folder / name).read_bytes()


# The manifest


def test_the_manifest_tells_start_and_end(store: Store) -> None:
    running = json.loads((store.folder / "run.json").read_text())
    assert (running["status"], running["seed"], running["format"]) == ("running", 1, 1)
    store.note_server("redis", "7.0.15")
    store.note_server("redis", "7.0.15")
    store.add(observation())
    store.finish("complete")
    ended = Store.open(store.folder).manifest
    assert ended["status"] == "complete"
    assert ended["ended"] >= ended["started"]
    assert len(ended["load_average_end"]) == 3
    assert ended["servers"] == [{"flavour": "redis", "version": "7.0.15"}]


def test_a_run_folder_of_its_own_says_all_but_the_password(tmp_path: Path) -> None:
    settings = Settings(profile="smoke", url="redis://:hunter2@127.0.0.1:6379", seed=9)
    first = Store.create_in(tmp_path, settings)
    second = Store.create_in(tmp_path, settings)
    for store in (first, second):
        store.finish("complete")
        assert "smoke" in store.folder.name
    assert first.folder != second.folder
    text = (first.folder / "run.json").read_text()
    assert "hunter2" not in text
    assert json.loads(text)["settings"]["seed"] == 9
    assert {"python", "packages", "kernel", "cores", "load_average"} <= json.loads(text).keys()


def test_after_its_end_a_run_takes_no_more_cells(store: Store) -> None:
    store.finish("interrupted")
    with pytest.raises(ValueError, match="reading only"):
        store.add(observation())
    with pytest.raises(ValueError, match="reading only"):
        Store.open(store.folder).add(observation())


# Resuming


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    settings = Settings(profile="smoke", only=("pool_sweep",))
    store = Store.create_in(tmp_path, settings)
    store.add(observation(5))
    store.finish("interrupted")
    again = Store.resume(store.folder, settings)
    assert set(again.attempts()) == {(observation(5).cell.id, 1)}
    again.add(observation(10))
    again.finish("complete")
    assert list(load_cells(store.folder)["pool_size"]) == [5, 10]
    assert len(again.manifest["resumed"]) == 1


def test_a_run_of_other_settings_is_not_resumed(tmp_path: Path) -> None:
    store = Store.create_in(tmp_path, Settings(profile="smoke"))
    store.close()
    with pytest.raises(PreflightError, match="made with profile smoke, not full: resume it with"):
        Store.resume(store.folder, Settings(profile="full"))
    with pytest.raises(PreflightError, match="made with workload"):
        Store.resume(store.folder, Settings(profile="smoke", workload=Workload(keys=5)))


def test_one_process_at_a_time_adds_to_a_run(store: Store) -> None:
    with pytest.raises(PreflightError, match="being written by another run"):
        Store.resume(store.folder)
    assert set(Store.open(store.folder).attempts()) == set()  # reading is free
    store.close()
    Store.resume(store.folder).close()


def test_a_run_knows_the_settings_that_complete_it(tmp_path: Path) -> None:
    settings = Settings(profile="full", only=("pool_sweep",), seed=4, workload=Workload(keys=5))
    store = Store.create_in(tmp_path, settings)
    store.close()
    assert stored_settings(store.folder).identity() == settings.identity()
    (store.folder / "run.json").write_text('{"format": 1}')
    with pytest.raises(PreflightError, match=r"run\.json holds no complete settings"):
        stored_settings(store.folder)


@pytest.mark.parametrize(
    "damage",
    [
        {"profile": 5},
        {"profile": "quick"},
        {"workers": "x"},
        {"workers": None},
        {"workers": True},
        {"seed": None},
        {"seed": 1.5},
        {"only": [5]},
        {"only": "pool_sweep"},
        {"workload": 5},
        {"workload": {"keys": "many"}},
        {"workload": {"get_share": None}},
        {"another": 1},
    ],
)
def test_settings_of_other_types_are_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    folder = run_folder(tmp_path)
    change_manifest(folder, lambda manifest: manifest["settings"].update(damage))
    with pytest.raises(
        PreflightError, match=r"run\.json holds no complete settings \(.*\):"
    ) as told:
        stored_settings(folder)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "damage",
    [{"settings": None}, {"settings": 5}, {"servers": 5}, {"resumed": 5}, {"format": math.inf}],
)
def test_a_manifest_of_other_shape_is_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    folder = run_folder(tmp_path)
    change_manifest(folder, lambda manifest: manifest.update(damage))
    for read in (stored_settings, Store.open, Store.resume):
        with pytest.raises(PreflightError, match=r"run\.json is damaged \(.*\): restore it"):
            read(folder)


def run_folder(results: Path) -> Path:
    store = Store.create_in(results, Settings(profile="smoke"))
    store.close()
    return store.folder


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "run.json").read_text())
    change(manifest)
    (folder / "run.json").write_text(json.dumps(manifest))


# Discarding


def test_a_run_without_a_cell_can_be_discarded(store: Store) -> None:
    (store.folder / "workers.log").write_text("")
    with no_file_above(1000), pytest.raises(PreflightError):
        store.add(observation())  # leaves a histogram log without a row
    assert list((store.folder / "latency").iterdir())
    store.finish("stopped")
    store.discard()
    assert not store.folder.exists()


def test_discarding_leaves_what_others_put_there(store: Store) -> None:
    (store.folder / "notes.txt").write_text("mine")
    store.discard()
    assert files(store.folder) == {"notes.txt"}


def test_discarding_leaves_a_folder_that_was_there_before(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(folder)
    Store.create(link, {}).discard()
    assert files(link) == {"run.json"}


def test_a_resumed_run_is_never_discarded(store: Store, tmp_path: Path) -> None:
    store.close()
    (store.folder / "notes.txt").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(store.folder)
    for name in (store.folder, link):
        again = Store.resume(name)
        again.finish("interrupted")
        again.discard()
        assert files(store.folder) == {"run.json", "notes.txt"}


# Two processes at once


def ask_beside(*statements: str) -> subprocess.Popen[str]:
    """Another process, that runs `statements` when it is given a line, and then waits for one."""
    script = "\n".join(
        [
            "from pathlib import Path",
            "from bench.model import PreflightError, Settings",
            "from bench.store import Store, host",
            "import time",
            "print(flush=True); input()",
            *statements,
            "input()",
        ]
    )
    root = Path(__file__).resolve().parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
    )  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    return child


def answers(children: list[subprocess.Popen[str]]) -> list[str]:
    """What each says once all were let go, all still alive when the last has spoken."""
    try:
        for child in children:
            tell(child)
        said = [child.stdout.readline().strip() for child in children if child.stdout]
        for child in children:
            tell(child)
            assert child.wait(30) == 0
        return said
    finally:
        for child in children:
            child.kill()
            child.communicate()


def tell(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def test_runs_begun_in_the_same_second_share_no_folder(tmp_path: Path) -> None:
    begin = (
        "time.strftime = lambda *when: 'now'",
        "host.manifest = dict",  # so that they meet at the folder
        f"made = [Store.create_in(Path({str(tmp_path)!r}), Settings()) for _ in range(20)]",
        "print(*(store.folder.name for store in made), flush=True)",
    )
    said = answers([ask_beside(*begin) for _ in range(3)])
    names = " ".join(said).split()
    assert len(names) == len(set(names)) == 60
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_of_two_resumes_at_once_the_second_is_refused(store: Store) -> None:
    store.close()
    resume = (
        "try:",
        f"    store = Store.resume({str(store.folder)!r})",
        "    print('resumed', flush=True)",
        "except PreflightError as error:",
        "    print(error, flush=True)",
    )
    said = sorted(answers([ask_beside(*resume) for _ in range(2)]))
    assert said == [
        f"{store.folder} is being written by another run: wait for it, or stop it",
        "resumed",
    ]
    assert len(Store.open(store.folder).manifest["resumed"]) == 1


def test_a_resume_loses_nothing_another_wrote_just_before(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = stores._locked

    def late(folder: Path) -> int:
        store.note_server("redis", "7.0.15")
        store.close()
        return locked(folder)

    monkeypatch.setattr(stores, "_locked", late)
    Store.resume(store.folder).close()
    assert Store.open(store.folder).manifest["servers"] == [
        {"flavour": "redis", "version": "7.0.15"}
    ]


# What a crash leaves, and what is lost


@pytest.fixture
def crashed(store: Store) -> Store:
    """One cell finished, and all that the crash of a second can leave at each step."""
    store.add(observation(5))
    cells = (store.folder / "cells.parquet").read_bytes()
    store.add(observation(10))
    (store.folder / "cells.parquet").write_bytes(cells)
    (store.folder / ".cells.parquet.partial").write_bytes(b"half")
    (store.folder / "latency" / ".x-1-1.hlog.partial").write_bytes(b"half")
    store.close()
    return store


def test_readers_do_not_see_what_a_crash_left(crashed: Store) -> None:
    before = files(crashed.folder)
    reader = Store.open(crashed.folder)
    assert set(reader.series()["cell"]) == set(reader.cells()["cell"]) == {observation(5).cell.id}
    with pytest.raises(KeyError):
        reader.histogram(observation(10).cell.id, 1, 1, "latency")
    assert files(crashed.folder) == before  # a reader changes nothing: a run may be under way


def test_resuming_sweeps_what_a_crash_left(crashed: Store) -> None:
    kept = {
        "run.json",
        "cells.parquet",
        "series.parquet",
        f"latency/{observation(5).cell.id}-1-1.hlog",
    }
    resumed = Store.resume(crashed.folder)
    assert files(crashed.folder) == kept
    resumed.add(observation(10))
    resumed.close()
    again = Store.open(crashed.folder)
    assert len(again.series()) == 4
    assert again.histogram(observation(10).cell.id, 1, 1, "command").get_total_count() == 1


@pytest.mark.parametrize("others", [("series.parquet",), ("latency",), ()])
def test_a_lost_table_of_cells_is_refused_and_nothing_is_swept(
    store: Store, others: tuple[str, ...]
) -> None:
    store.add(observation(5))
    store.add(observation(10))
    store.finish("complete")
    (store.folder / "cells.parquet").unlink()
    (store.folder / "notes.txt").write_text("mine")
    for name in others:
        path = store.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = {name: (store.folder / name).read_bytes() for name in files(store.folder)}
    with pytest.raises(PreflightError, match=r"cells\.parquet is missing: restore it"):
        Store.resume(store.folder)
    assert {name: (store.folder / name).read_bytes() for name in files(store.folder)} == before


def test_a_table_older_than_its_cells_is_refused_and_nothing_is_swept(store: Store) -> None:
    store.add(observation(5))
    older = (store.folder / "cells.parquet").read_bytes()
    for pool in (10, 20):
        store.add(observation(pool))
    store.close()
    (store.folder / "cells.parquet").write_bytes(older)
    before = files(store.folder)
    with pytest.raises(PreflightError, match=r"cells\.parquet lacks 2 of the cells .*restore it"):
        Store.resume(store.folder)
    assert files(store.folder) == before


def test_a_killed_process_loses_at_most_the_cell_it_was_writing(folder: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from bench.store import Store
        from tests.test_store import observation
        store = Store.create(Path(sys.argv[1]), {})
        for pool in range(1, 10_000):
            store.add(observation(pool))
            print(pool, flush=True)
        """
    )
    root = Path(__file__).resolve().parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert child.stdout is not None
    written = [int(child.stdout.readline()) for _ in range(7)]
    os.kill(child.pid, signal.SIGKILL)
    written += [int(line) for line in child.stdout.read().split()]
    child.wait()
    child.stdout.close()
    resumed = Store.resume(folder)  # its lock died with it
    pools = list(resumed.cells()["pool_size"])
    assert pools in ([*written], [*written, written[-1] + 1])
    assert len(resumed.series()) == 2 * len(pools)
    assert len(list((folder / "latency").iterdir())) == len(pools)
    resumed.add(observation(20_000))
    resumed.close()


# Trouble: one line that names the file and the mend


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may write anywhere, so as root the test becomes somebody else for a moment."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


@contextlib.contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The kernel refuses to let any file grow further, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_unwritable_results_folder_is_named_with_its_mend(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with (
        ordinary_user(),
        pytest.raises(PreflightError, match=r"Permission denied.*--results") as told,
    ):
        Store.create_in(tmp_path / "results", Settings())
    assert str(tmp_path) in str(told.value)
    assert "\n" not in str(told.value)
    tmp_path.chmod(0o755)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(PreflightError, match=r"results.*cannot be written"):
        Store.create(tmp_path / "results" / "run", {})


def test_a_full_disk_keeps_the_cells_before_it(store: Store) -> None:
    store.add(observation(5))
    with no_file_above(1000), pytest.raises(PreflightError, match="free some space") as told:
        store.add(observation(10))
    assert str(store.folder) in str(told.value)
    assert not list(store.folder.rglob(".*.partial"))
    assert set(Store.open(store.folder).attempts()) == {(observation(5).cell.id, 1)}
    store.add(observation(10))
    assert len(set(Store.open(store.folder).attempts())) == 2


def test_a_new_run_does_not_settle_in_a_folder_in_use(store: Store) -> None:
    with pytest.raises(PreflightError, match="is not empty: choose another"):
        Store.create(store.folder, {})


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="does not exist; name one that"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(PreflightError, match=r"is not a run folder: it has no run\.json"):
        Store.resume(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(PreflightError, match=r"file is not a run folder: it has no run\.json"):
        Store.open(tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b'{"format": 1, "st', b"[]", b"{}", b"\xff\xfe"])
def test_a_damaged_manifest_is_named(store: Store, content: bytes) -> None:
    (store.folder / "run.json").write_bytes(content)
    with pytest.raises(PreflightError, match=r"run\.json is damaged .*: restore it"):
        Store.open(store.folder)


def test_a_newer_format_asks_for_an_update(store: Store) -> None:
    (store.folder / "run.json").write_text('{"format": 2}')
    with pytest.raises(PreflightError, match=r"run\.json is of format 2 .*: update the suite"):
        load_cells(store.folder)


@pytest.mark.parametrize("name", ["cells.parquet", "series.parquet"])
@pytest.mark.parametrize("keep", [0, 60, 2000])
def test_a_damaged_table_is_named(store: Store, name: str, keep: int) -> None:
    store.add(observation())
    path = store.folder / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PreflightError, match=rf"{name} is damaged .*: restore it") as told:
        Store.open(store.folder)
    assert "\n" not in str(told.value)


def test_a_table_of_other_columns_is_named(store: Store, tmp_path: Path) -> None:
    other = pq.read_table(pq_of(tmp_path, {"pool": [1]}))
    pq.write_table(other, store.folder / "cells.parquet")
    with pytest.raises(PreflightError, match=r"cells\.parquet is damaged or of another version"):
        Store.open(store.folder)
    keyed = {"cell": ["a"], "block": [1], "attempt": [1], "qps": ["fast"]}
    pq.write_table(pq.read_table(pq_of(tmp_path, keyed)), store.folder / "cells.parquet")
    with pytest.raises(PreflightError, match=r"cells\.parquet is damaged or of another version"):
        Store.open(store.folder)


def pq_of(folder: Path, columns: dict[str, list[Any]]) -> Path:
    import pyarrow as pa

    pq.write_table(pa.table(columns), folder / "other.parquet")
    return folder / "other.parquet"


@pytest.mark.parametrize("keep", [None, 0, 300, -40])
def test_a_damaged_histogram_log_is_named(store: Store, keep: int | None) -> None:
    store.add(observation(histograms={"latency": encoded(*range(1, 3000))}))
    (log,) = (store.folder / "latency").glob("*.hlog")
    if keep is None:
        log.unlink()
    else:
        log.write_bytes(log.read_bytes()[:keep])
    with pytest.raises(PreflightError, match=r"hlog is (missing|damaged .*): restore it"):
        store.histogram(observation().cell.id, 1, 1, "latency")


@pytest.mark.parametrize("name", ["cells.parquet", "series.parquet"])
def test_a_table_that_a_complete_run_lacks_is_named(store: Store, name: str) -> None:
    store.add(observation())
    store.finish("complete")
    (store.folder / name).unlink()
    with pytest.raises(PreflightError, match=rf"{name} is missing: restore it"):
        Store.open(store.folder)


def test_what_may_not_be_read_is_not_called_damaged(store: Store) -> None:
    """A folder in its place cannot be read either, and unlike permissions binds root as well."""
    store.add(observation(requests=(np.zeros((1, 4)).tobytes(),)))
    key = (observation().cell.id, 1, 1)
    kept, log = (next(store.folder.glob(f"{place}/*")) for place in ("requests", "latency"))
    reads: list[tuple[Path, Callable[[], object]]] = [
        (kept, lambda: store.requests(*key)),
        (log, lambda: store.histogram(*key, "latency")),
        (store.folder / "series.parquet", lambda: Store.open(store.folder)),
    ]
    for path, read in reads:
        path.unlink()
        path.mkdir()
        with pytest.raises(PreflightError, match=rf"{path.name} cannot be read \(Is a directory\)"):
            read()
