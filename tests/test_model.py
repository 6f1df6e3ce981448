"""The nouns refuse what is out of range, in one line that names value and range."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from bench.model import Arrivals, Cell, Outage, PreflightError, Row


@pytest.mark.parametrize(
    "bad",
    [
        {"peak_to_mean": 0.99},
        {"peak_to_mean": math.nan},
        {"peak_to_mean": math.inf},
        {"period_s": 0.0},
        {"spike_factor": -0.1},
        {"spike_at_s": -1.0},
        {"spike_s": 1e6},
        {"backlog": -1},
    ],
)
def test_arrivals_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    (name,) = bad
    with pytest.raises(PreflightError, match=f"^{name} is .*: it must lie between .* and ") as said:
        Arrivals("bursty", **bad)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("process", "trace"), [("trace", ""), ("poisson", "a file"), ("constant", "a file")]
)
def test_a_trace_and_its_process_go_together(process: Any, trace: str) -> None:
    with pytest.raises(PreflightError, match="goes with the process"):
        Arrivals(process, trace=trace)


OPEN: dict[str, Any] = {"loop": "open", "offered_qps": 100.0, "arrivals": Arrivals()}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"offered_qps": 0.0}, "offered_qps is 0"),
        ({"offered_qps": -5.0}, "offered_qps is -5"),
        ({"offered_qps": math.nan}, "offered_qps is nan"),
        ({"offered_qps": 1e9}, "offered_qps is 1000000000"),
        ({"pool_size": 0}, "pool_size is 0"),
        ({"acquire_timeout_s": -1.0}, "acquire_timeout_s is -1"),
        ({"measure_s": 0.0}, "measure_s is 0"),
        ({"measure_s": math.inf}, "measure_s is inf"),
        ({"warmup_s": -0.1}, "warmup_s is -0.1"),
        ({"outage": Outage("stop", 0.1, 0.4)}, "fault_s is 0.4"),  # more than half of the window
        ({"staircase": (6,), "workers": 2}, "staircase is 6"),
        ({"staircase": (0,), "workers": 2}, "staircase is 0"),
        ({"staircase": (3, 4), "workers": 2}, "steps of the staircase is 2"),
        ({"arrivals": None}, "go with an open loop"),
        ({"offered_qps": None}, "go with an open loop"),
        ({"loop": "closed"}, "go with an open loop"),
    ],
)
def test_cells_out_of_range_are_refused(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(PreflightError, match=said):
        Cell(**{"experiment": "test", "pool_size": 5, "concurrency": 10, **OPEN, **bad})


def test_a_cell_survives_its_way_to_a_worker() -> None:
    bursty = Arrivals("bursty", peak_to_mean=4.0, backlog=7)
    cell = Cell("test", 5, 10, workers=3, staircase=(2, 4), **{**OPEN, "arrivals": bursty})
    sent = json.loads(json.dumps(dataclasses.asdict(cell)))
    assert Cell.from_dict(sent) == cell
    assert Cell.from_dict(sent).id == cell.id
    closed = Cell("test", 5, 10)
    assert Cell.from_dict(json.loads(json.dumps(dataclasses.asdict(closed)))) == closed


def test_a_staircase_gives_the_first_workers_pools_of_their_own() -> None:
    cell = Cell("test", 9, 30, workers=3, staircase=(4, 6), **OPEN)
    assert [cell.pool_size_of(worker) for worker in range(3)] == [4, 6, 9]
    assert [Cell("test", 9, 30, workers=2).pool_size_of(worker) for worker in (0, 1)] == [9, 9]


@pytest.mark.parametrize(
    ("cell", "steady"),
    [
        (Cell("test", 5, 10), True),
        (Cell("test", 5, 10, **OPEN), True),
        (Cell("test", 5, 10, outage=Outage("stop", 0.1, 0.1)), False),
        (Cell("test", 5, 10, **{**OPEN, "arrivals": Arrivals("spike")}), False),
        (Cell("test", 5, 10, **{**OPEN, "arrivals": Arrivals("trace", trace="f")}), False),
    ],
)
def test_only_what_is_meant_to_stay_as_it_is_is_steady(cell: Cell, steady: bool) -> None:
    assert cell.steady is steady


def test_a_row_says_whether_it_reached_what_it_should() -> None:
    rows = [Row.at_least("a", 5, "/s", 5), Row.at_least("a", 4.9, "/s", 5)]
    rows += [Row.at_most("a", 5, "s", 5), Row.at_most("a", 5.1, "s", 5)]
    assert [row.reached for row in rows] == [True, False, True, False]
    assert [row.reach for row in rows] == ["≥ 5", "≥ 5", "≤ 5", "≤ 5"]
