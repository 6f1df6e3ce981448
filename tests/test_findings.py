"""What the workers' shares and the machine's stalls are put together to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.load.findings import Merged
from bench.load.recorder import Recorder


def share(served: int, scheduled: int) -> dict[str, Any]:
    """A worker's share of one second: `served` requests, evenly due, of 1 ms each."""
    recorder = Recorder(("GET",))
    for due in np.arange(served) / served:
        recorder.sink("GET")((due, due, due + 0.0002, due + 0.001))
    window = recorder.window(0.0, 1.0, "open")
    for number, row in enumerate(window["series"]):
        row["borrows"], row["empty"] = 100, number
    return {
        **window,
        "scheduled": scheduled,
        "operations": recorder.operations(),
        "window_s": 1.0,
        "start": 100.0,  # on the clock that stalls are told by
        "in_use_mean": 1.0,
    }


def test_percentiles_among_requests_that_were_never_served_are_not_known() -> None:
    """Leaving the unserved out would leave out the longest waits."""
    all_served = Merged([share(1_000, 1_000)], []).percentiles("latency")
    assert all_served.p99 == pytest.approx(0.001)
    for kind in ("latency", "acquire"):
        known = Merged([share(1_000, 1_300)], []).percentiles(kind)
        assert known.p50 is not None
        assert (known.p90, known.p99) == (None, None)
    assert Merged([share(1_000, 1_300)], []).percentiles("command").p99 == pytest.approx(0.0008)


def test_intervals_that_a_stall_reaches_are_not_calm() -> None:
    quiet = Merged([share(1_000, 1_000)], [])
    assert quiet.calm_share() == 1
    length = quiet.intervals[0]["length_s"]
    begin = 100.0 + 2 * length
    stalled = Merged([share(1_000, 1_000)], [(begin - 0.001, begin + 0.001)])  # over an edge
    assert [row["calm"] for row in stalled.intervals] == [
        index not in (1, 2) for index in range(len(stalled.intervals))
    ]
    assert stalled.calm_percentiles("latency").p50 == pytest.approx(0.001)
    count = len(stalled.intervals)
    found = sum(range(count)) - 1 - 2  # each interval's number is how many found the pool empty
    assert stalled.calm_empty_share() == pytest.approx(found / (100 * (count - 2)))
    elsewhere = Merged([share(1_000, 1_000)], [(5.0, 6.0)])  # before the window
    assert elsewhere.calm_share() == 1


def test_workers_intervals_add_up() -> None:
    both = Merged([share(1_000, 1_000), share(500, 500)], [])
    assert both.scheduled == 1_500
    assert sum(row["samples"] for row in both.intervals) == 1_500
    assert [row["empty"] for row in both.intervals] == [2 * n for n in range(len(both.intervals))]
    assert both.qps == pytest.approx(1_500, abs=2)  # the last is done after the window
