"""What deploy spikes are said to do: by a queue whose truth is known, a pool in front of a server.

Each request takes the first connection that is free, travels half the round trip, waits for the
server, which does one thing at a time, and travels back.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import re
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.figure import Figure
from matplotlib.text import Text
from said import Changed, typed_numbers

from bench.experiments import deploy_spike
from bench.experiments.deploy_spike import BIG, COVERING, POOLS, SMALL
from bench.model import Cell, Estimate, Profile, Verdict, Workload
from bench.report.verdicts import judge
from bench.store import Store

PROFILES = get_args(Profile)
STANDARD = deploy_spike.plan("standard", Workload(), 1)
FIGURES = ["spike_latency", "spike_queues", "spike_recover"]
Change = Callable[[pd.DataFrame], pd.DataFrame]


@dataclasses.dataclass(frozen=True)
class Truth:
    """`big_as`: how many connections the big pool really has; `busy_s`: the server's time for a
    script, `plain_s` for anything else; `cold_s`: what a lazy pool adds to each request in the
    spike; `noise`: of the big pool's latency, a factor for each block."""

    big_as: int = BIG
    busy_s: float = 0.67e-3
    plain_s: float = 0.05e-3
    cold_s: float = 0.02
    noise: tuple[float, ...] = (1.0, 1.01, 0.99)


def rows_of(cell: Cell, block: int, truth: Truth) -> synthetic.Rows:
    """Intended, sent, acquired, done of each request."""
    assert cell.arrivals is not None
    assert cell.offered_qps is not None
    at, rng = cell.arrivals.spike_at_s - cell.warmup_s, np.random.default_rng(block)
    ends = min(at + cell.arrivals.spike_s, cell.measure_s)
    base, peak = cell.offered_qps, cell.offered_qps * cell.arrivals.spike_factor
    parts = ((0.0, at, base), (at, ends, peak), (ends, cell.measure_s, base))
    due = np.concatenate(
        [np.sort(rng.uniform(a, b, round((b - a) * rate))) for a, b, rate in parts if b > a]
    )
    size = truth.big_as if cell.pool_size == BIG else cell.pool_size
    free, server_free, rows = [0.0] * size, 0.0, []
    busy_s = truth.busy_s if cell.workload.script_loops else truth.plain_s
    for intended in due:
        sent = intended + 20e-6
        acquired = max(sent, heapq.heappop(free))
        if cell.opening == "lazy" and at <= intended < ends:
            acquired += truth.cold_s
        server_free = max(acquired + cell.rtt_s / 2, server_free) + busy_s
        done = server_free + cell.rtt_s / 2
        heapq.heappush(free, done)
        if cell.pool_size == BIG:
            done = intended + (done - intended) * truth.noise[block - 1]
        rows.append((intended, sent, acquired, max(done, acquired)))
    return np.array(rows)


def stored(
    folder: Path,
    truth: Truth = Truth(),
    replicates: int = 3,
    profile: Profile = "standard",
    arm: str = "",
) -> Store:
    """A run of the standard plan, or of the cells of one situation."""
    made = Store.create(folder, {"settings": {"profile": profile}, "python": "3.11.0"})
    cells = [cell for cell in STANDARD.cells if cell.arm.startswith(arm)]
    for cell, block in product(cells, range(1, replicates + 1)):
        rows = rows_of(cell, block, truth)
        usual = synthetic.observation(cell, block)
        made.add(dataclasses.replace(usual, requests=[rows.tobytes()], operations=len(rows),
                                     bound_by="users", machine_busy_share=0.3))  # fmt: skip
    made.finish("complete")
    return Store.open(folder)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("run") / "usual")


def changed(store: Store, change: Change) -> Any:
    return Changed(store, change(store.cells()))


def claims(store: Any) -> dict[str, Verdict]:
    return {verdict.claim: verdict for verdict in deploy_spike.claims(store.cells(), store)}


def outcomes(store: Any) -> dict[str, str]:
    return {name: verdict.outcome for name, verdict in claims(store).items()}


def on(arm: str, pool: int, opening: str = "prefilled", **values: Any) -> Change:
    """These cells with these figures instead."""

    def change(cells: pd.DataFrame) -> pd.DataFrame:
        changed = cells.copy()
        own = changed["arm"].str.startswith(arm) & (changed["pool_size"] == pool)
        for column, value in values.items():
            changed.loc[own & (changed["opening"] == opening), column] = value
        return changed

    return change


def all_invalid(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.assign(valid=False, invalid_reasons="served: only 90 % of offered")


def one_replicate(cells: pd.DataFrame) -> pd.DataFrame:
    return cells[cells["block"] == 1]


def nothing(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.head(0)


def without(arm: str) -> Change:
    return lambda cells: cells[~cells["arm"].str.contains(arm)]


def nothing_served(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.assign(operations=0)


# Plan


@pytest.mark.parametrize("profile", PROFILES)
def test_the_plan_names_each_cell_once_and_covers_every_spike(profile: Profile) -> None:
    made = deploy_spike.plan(profile, Workload(), workers=2)
    assert len({cell.id for cell in made.cells}) == len(made.cells)
    assert made.replicates >= (1 if profile == "smoke" else 3)
    assert not made.once
    met = Counter((cell.arm, cell.opening) for cell in made.cells)
    some = {
        ("network burst", "prefilled"): 3, ("network step", "prefilled"): 3,
        ("network burst", "lazy"): 3, ("network step", "lazy"): 3,
        ("server burst", "prefilled"): 3, ("server step", "prefilled"): 2,
        ("server burst", "lazy"): 1,
    }  # fmt: skip
    arms = [f"{situation} {shape}" for situation in ("network", "server")
            for shape in ("burst", "step")]  # fmt: skip
    every = dict.fromkeys(product(arms, ("prefilled", "lazy")), 3)
    assert met == (every if profile == "full" else some)
    assert {cell.pool_size for cell in made.cells} == set(POOLS)
    assert {cell.workers for cell in made.cells} == {1}


def test_only_what_is_varied_differs() -> None:
    for cell in STANDARD.cells:
        assert cell.keep_requests
        assert not cell.steady
        assert (cell.workload.script_loops > 0) == cell.arm.startswith("server")
    pools = {(c.client, c.resp, c.order, c.rtt_s, c.acquire_timeout_s) for c in STANDARD.cells}
    assert len(pools) == len({c.rtt_s for c in STANDARD.cells}) == 2
    # What limits, and nothing else, sets the round trip: the big pool is opened twice in a block.
    assert len({(c.arm.split()[0], c.rtt_s) for c in STANDARD.cells}) == 2


def test_every_window_holds_enough_requests_for_a_p99_and_no_carrier_is_short() -> None:
    for cell in STANDARD.cells:
        assert cell.arrivals is not None
        assert cell.offered_qps is not None
        at = cell.arrivals.spike_at_s - cell.warmup_s
        end = cell.measure_s - deploy_spike.STOPPING_S
        peak_s = min(cell.arrivals.spike_s, end - at)
        peak = peak_s * cell.offered_qps * cell.arrivals.spike_factor
        since = peak + (end - at - peak_s) * cell.offered_qps
        assert since - 2 * math.sqrt(since) > 726
        assert peak < cell.concurrency


def test_the_standard_plan_leaves_the_run_its_time() -> None:
    one = sum(cell.warmup_s + cell.measure_s for cell in STANDARD.cells)
    assert one * STANDARD.replicates <= 35


# Time to recover


def slow_until(until_s: float, every_s: float = 0.001) -> tuple[Any, Any]:
    """Requests due each millisecond of 0.6 s: 10 ms before 0.1 s, 50 ms up to `until_s`."""
    due_s = np.arange(0, 0.6, every_s)
    return due_s, np.where((due_s >= 0.1) & (due_s < until_s), 0.050, 0.010)


@pytest.mark.parametrize(
    ("until_s", "recovered"),
    [(0.0, 0.0), (0.1, 0.0), (0.2, 0.0), (0.3, 0.0), (0.34, 0.04), (0.42, 0.12), (0.6, math.nan)],
)
def test_recovery_is_counted_from_the_spike_s_end(until_s: float, recovered: float) -> None:
    found = deploy_spike.recovery_s(*slow_until(until_s), 0.010, 0.1, 0.3, 0.6)
    assert found == pytest.approx(recovered, abs=1e-9, nan_ok=True)


def test_recovery_from_a_step_is_counted_from_its_begin() -> None:
    found = deploy_spike.recovery_s(*slow_until(0.3), 0.010, 0.1, 0.1, 0.6)
    assert found == pytest.approx(0.2)


def test_a_stall_is_no_slow_queue_and_few_slow_requests_are_none() -> None:
    due_s, latency_s = slow_until(0.42)
    stalled = np.where((due_s >= 0.48) & (due_s < 0.50), 0.050, latency_s)
    assert deploy_spike.recovery_s(due_s, stalled, 0.010, 0.1, 0.3, 0.6) == pytest.approx(0.12)
    some = np.where(np.arange(due_s.size) % 3 == 0, 0.050, latency_s)
    assert deploy_spike.recovery_s(due_s, some, 0.010, 0.1, 0.3, 0.6) == pytest.approx(0.12)


def test_slow_is_twice_what_was_usual() -> None:
    due_s, latency_s = slow_until(0.42)
    barely = np.where(latency_s > 0.01, 0.0199, latency_s)
    assert deploy_spike.recovery_s(due_s, barely, 0.010, 0.1, 0.3, 0.6) == 0.0


@pytest.mark.parametrize("late_s", [0.0, 0.005, 0.02])
@pytest.mark.parametrize("cell", STANDARD.cells[:6:3], ids=lambda cell: cell.arm)
def test_the_spike_is_found_where_the_rate_rises(cell: Cell, late_s: float) -> None:
    """However late the window opened."""
    row = row_of(cell)
    for block in range(1, 4):
        due_s = rows_of(cell, block, Truth())[:, 0] - late_s
        found = deploy_spike.spike_begin_s(due_s, row)
        assert found == pytest.approx(row.spike_at_s - row.warmup_s - late_s, abs=0.006)


def row_of(cell: Cell) -> Any:
    assert cell.arrivals is not None
    return SimpleNamespace(**{f.name: getattr(cell, f.name) for f in dataclasses.fields(cell)},
                           spike_at_s=cell.arrivals.spike_at_s, spike_s=cell.arrivals.spike_s,
                           spike_factor=cell.arrivals.spike_factor,
                           measured_s=cell.measure_s)  # fmt: skip


def felt(arm: str, pool: int, **truth: Any) -> deploy_spike.Felt:
    (cell,) = (c for c in STANDARD.cells
               if (c.arm, c.pool_size, c.opening) == (arm, pool, "prefilled"))  # fmt: skip
    names = ["intended_s", "sent_s", "acquired_s", "done_s"]
    rows = pd.DataFrame(rows_of(cell, 1, Truth(**truth)), columns=names)
    return deploy_spike.felt(rows, row_of(cell))


def test_what_a_small_pool_holds_back_waits_at_its_own_door() -> None:
    """It carries 20 in 10.05 ms; of 600 in 0.2 s some 200 are left over, and drain in 0.14 s."""
    told = felt("network burst", SMALL)
    assert told.usual_s == pytest.approx(0.01005, rel=0.02)
    assert told.spike_p99_s == pytest.approx(0.01 + 200 / 1990, rel=0.1)
    assert told.recovery_s == pytest.approx(0.14, abs=0.021)
    assert told.wait_s == pytest.approx(0.05, rel=0.1)
    assert told.beyond_s == pytest.approx(0.05e-3, rel=0.3)
    assert told.late_s == pytest.approx(20e-6, rel=0.01)


def test_what_a_big_pool_lets_through_waits_at_the_server_that_is_busy() -> None:
    small, big = felt("server burst", SMALL), felt("server burst", BIG)
    assert big.wait_s == pytest.approx(0, abs=1e-9)
    assert big.beyond_s > 0.05
    assert small.wait_s > 10 * small.beyond_s
    assert small.wait_s + small.beyond_s == pytest.approx(big.beyond_s, rel=0.05)
    assert felt("network burst", BIG).recovery_s == 0


def test_a_step_beyond_what_a_pool_carries_has_no_end() -> None:
    assert math.isnan(felt("network step", SMALL).recovery_s)
    assert felt("network step", BIG).recovery_s == 0


# Claims


def test_a_big_pool_absorbs_what_the_network_holds_and_nothing_else(usual: Store) -> None:
    found = claims(usual)
    assert {name: verdict.outcome for name, verdict in found.items()} == {
        "C14": "supported", "C14b": "refuted", "C14c": "refuted", "C14d": "refuted",
    }  # fmt: skip
    cells = usual.cells()
    for verdict in found.values():
        assert list(verdict.estimates) == list(deploy_spike.FIGURES)
        assert set(verdict.cells) < set(cells["cell"])
        assert "nan" not in verdict.reason
    assert found["C14"].estimates["p99 of the burst"].value == pytest.approx(0.09, rel=0.15)
    assert found["C14b"].estimates["p99 of the burst"].value == pytest.approx(1, rel=0.1)
    assert len(found["C14"].cells) == len(found["C14d"].cells) == 4


@pytest.mark.parametrize(
    ("truth", "claim", "outcome"),
    [
        ({"big_as": SMALL}, "C14", "refuted"),
        ({"big_as": 2}, "C14", "refuted"),
        ({"noise": (1.0, 30.0, 0.9)}, "C14", "undecided"),
        ({"busy_s": 0.05e-3}, "C14b", "supported"),  # a server with time to spare after all
        ({"cold_s": 0.0}, "C14d", "refuted"),
        # Both recover within what is told, which shows nothing of their ratio.
        ({"noise": (1.0, 2.0, 0.4)}, "C14c", "undecided"),
    ],
    ids=str,
)
def test_a_claim_follows_the_truth(
    truth: dict[str, Any], claim: str, outcome: str, tmp_path: Path
) -> None:
    arm = "server" if claim == "C14b" else "network"
    assert outcomes(stored(tmp_path / "run", Truth(**truth), arm=arm))[claim] == outcome


def ratio(low: float, high: float, n: int = 3) -> Estimate:
    return Estimate(math.sqrt(low * high), low, high, "×", n)


BETTER, SAME, WORSE, WIDE = ratio(0.1, 0.2), ratio(0.9, 1.1), ratio(2, 3), ratio(0.5, 2)
LITTLE, FEW = ratio(0.85, 0.95), ratio(0.1, 0.2, n=2)


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        ([BETTER, BETTER, BETTER], "supported"),
        ([BETTER, SAME, BETTER], "refuted"),
        ([BETTER, WORSE, WIDE], "refuted"),
        ([BETTER, WIDE, BETTER], "undecided"),
        ([BETTER, LITTLE, BETTER], "supported"),  # better, if not by a fifth
        ([BETTER, FEW, BETTER], "undecided"),
        ([FEW, FEW, FEW], "undecided"),
    ],
)
def test_the_rule(found: list[Estimate], outcome: str) -> None:
    assert deploy_spike.outcome_of(found) == outcome


def test_two_replicates_and_a_smoke_run_decide_nothing(tmp_path: Path) -> None:
    assert set(outcomes(stored(tmp_path / "two", replicates=2)).values()) == {"undecided"}
    smoke = stored(tmp_path / "smoke", profile="smoke")
    assert {verdict.outcome for verdict in judge(smoke, ["deploy_spike"])} == {"undecided"}


@pytest.mark.parametrize(
    "change",
    [
        on("network", SMALL, valid=False, invalid_reasons="send_lag: p99 2 ms behind schedule"),
        on("network", SMALL, bound_by="generator"),
        on("network", SMALL, bound_by="server"),
        on("network", BIG, bound_by="machine"),
        on("network", BIG, workers_lost=1),
        all_invalid,
        one_replicate,
    ],
    ids=["invalid", "generator", "server", "machine", "lost", "all invalid", "one replicate"],
)
def test_what_is_no_evidence_supports_nothing(usual: Store, change: Change) -> None:
    assert outcomes(changed(usual, change))["C14"] == "undecided"


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({"bound_by": "server"}, "refuted"),
        ({"bound_by": "machine"}, "refuted"),  # a slow command beside waits: the server's queue
        ({"bound_by": "machine", "machine_busy_share": 0.9}, "undecided"),
        ({"bound_by": "generator"}, "undecided"),
        ({"bound_by": "link"}, "undecided"),
        ({"bound_by": "server", "valid": False}, "undecided"),
    ],
    ids=str,
)
def test_the_server_may_be_the_limit_where_it_is_meant_to_be(
    usual: Store, values: dict[str, Any], outcome: str
) -> None:
    assert outcomes(changed(usual, on("server", BIG, **values)))["C14b"] == outcome


LATE = {"valid": False, "bound_by": "generator", "invalid_reasons": "send_lag: p99 2 ms behind"}


def test_a_pool_that_sends_late_supports_nothing(usual: Store) -> None:
    late = on("network", BIG, "lazy", **LATE)
    assert outcomes(changed(usual, late))["C14d"] == "undecided"


def test_why_nothing_is_decided_is_said(usual: Store, tmp_path: Path) -> None:
    spoilt = on("network burst", SMALL, valid=False, invalid_reasons="served: 1")
    store: Any = changed(usual, spoilt)
    assert claims(store)["C14"].reason.endswith(
        "p99 of the burst, recovery from the burst: evidence in 9 of 12 measurements"
    )
    title = deploy_spike.findings(store.cells(), store)["spike_latency"]
    assert "undecided where the network limits (evidence in 0 of 3 measurements)" in title
    slow = stored(tmp_path / "run", Truth(busy_s=2e-3), arm="server")
    found = claims(slow)["C14b"]
    assert "evidence in 12 of 12 measurements, 6 without an end of their recovery" in found.reason
    assert claims(slow)["C14"].reason.endswith("not measured")


def test_only_the_last_attempt_at_a_cell_counts(usual: Store) -> None:
    def again(cells: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([all_invalid(cells).assign(attempt=0), cells], ignore_index=True)

    assert outcomes(changed(usual, again)) == outcomes(usual)


# Sentences


STATES: list[Any] = ["usual", all_invalid, one_replicate, nothing, nothing_served]
STATES += ["network", "server", "burst", "step"]


@pytest.fixture(params=STATES, ids=str)
def some(request: pytest.FixtureRequest, usual: Store) -> Any:
    """The run in every state: whole, spoilt, begun, and each part missing alone."""
    kind = request.param
    if kind == "usual":
        return usual
    return changed(usual, kind if callable(kind) else without(kind))


def test_titles_state_what_the_data_say(usual: Store) -> None:
    said = deploy_spike.findings(usual.cells(), usual)
    assert list(said) == FIGURES
    told = deploy_spike.measured(usual.cells(), usual)
    p99 = told[(told["arm"] == "network burst") & (told["opening"] == "prefilled")]
    small, big = (p99.loc[p99["pool_size"] == pool, "spike_p99_s"].median() * 1e3
                  for pool in (SMALL, BIG))  # fmt: skip
    assert (
        f": {small:.3g} ms with a pool of 20, {big:.3g} ms with 5,000 where the network limits"
        in said["spike_latency"]
    )
    waits = r"; [\d.]+ ms \+ [\d.]+ ms with 20, 0 \+ \d+ ms with 5,000 where the server"
    assert re.search(waits, said["spike_queues"])
    assert "that of 20 where the network limits" in said["spike_recover"]


def test_titles_change_with_the_data(usual: Store, tmp_path: Path) -> None:
    other = stored(tmp_path / "run", Truth(big_as=SMALL, busy_s=1e-3))
    before, after = (deploy_spike.findings(s.cells(), s) for s in (usual, other))
    assert all(before[name] != after[name] for name in FIGURES)


def test_claims_and_titles_hold_in_every_state_of_the_run(some: Any) -> None:
    cells = some.cells()
    for verdict in deploy_spike.claims(cells, some):
        assert "nan" not in verdict.reason
        assert verdict.reason
    titles = deploy_spike.findings(cells, some)
    assert list(titles) == (FIGURES if len(cells) else [])
    for title in titles.values():
        assert "nan" not in title
    if len(cells) and not cells["valid"].any():
        assert all("undecided" in title for title in titles.values())
    paragraphs = deploy_spike.prose(cells, some)
    assert list(paragraphs) == list(titles)
    for text in paragraphs.values():
        assert text.strip().endswith(".")
        assert not re.search(r"\bnan\b|\bNone\b|\(\)|: \.|–\.", text), text


DEFINED = r"\bp9[59]\b|95 % intervals|C14"
SAID = r"_finding$|_prose$|^_(?:latencies|queues|ratio_said|opened|order|judge)$|^_recover|^claims$"


def test_no_sentence_holds_a_number_that_is_typed() -> None:
    formats = ("median_of", "si", "_seconds")
    assert not typed_numbers(deploy_spike, SAID, DEFINED, formats, fewest=13)


def test_prose_reads_its_numbers_from_the_cells(usual: Store) -> None:
    change = on("network burst", BIG, "lazy", connections_opened=1_234, in_flight_peak=77)
    store: Any = changed(usual, change)
    told = deploy_spike.prose(store.cells(), store)
    assert (
        "opened 1,234 connections for at most 77 in use where the network limits"
        in told["spike_queues"]
    )
    assert re.search(r"20: 1[246]0 ms where the network limits", told["spike_latency"])
    assert "5,000: at once where the network limits" in told["spike_latency"]


def test_requests_that_overtook_each_other_are_told() -> None:
    """Of three that got their connections in turn, the first came back last: 2, 1 and 1 places."""
    rows = pd.DataFrame({"acquired_s": [0.1, 0.2, 0.3], "done_s": [0.6, 0.4, 0.5]})
    assert deploy_spike._shift(rows) == pytest.approx(4 / 3)
    assert deploy_spike._shift(rows.assign(done_s=[0.4, 0.5, 0.6])) == 0


def test_prose_says_how_far_a_queue_was_out_of_turn(usual: Store) -> None:
    known = deploy_spike.measured(usual.cells(), usual)
    big = (known["arm"] == "server burst") & (known["pool_size"] == BIG)
    known.loc[big, "shift"] = 41.0
    said = deploy_spike._order(known)
    assert "by 0 places with 20 connections and 41 places with 5,000, which" in said
    assert deploy_spike._order(known[~big]) == ""


# Figures and tables


def test_every_figure_is_drawn_whatever_the_data(some: Any) -> None:
    made = deploy_spike.figures(some.cells(), some)
    assert list(made) == list(deploy_spike.findings(some.cells(), some))
    for name, figure in made.items():
        _fits(name, figure)


def _fits(name: str, figure: Figure) -> None:
    """Text stays on the sheet."""
    figure.draw_without_rendering()
    labels = [tick.label1 for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)
              for tick in axis.get_major_ticks()]  # fmt: skip
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in labels:
            box = text.get_window_extent()
            inside = figure.bbox.x0 - 2 <= box.x0 and box.x1 <= figure.bbox.x1 + 2
            assert inside, (name, text.get_text())


def test_lines_bars_and_intervals_stand_where_the_data_are(usual: Store) -> None:
    made = deploy_spike.figures(usual.cells(), usual)
    burst = made["spike_latency"].axes[0]
    tops = {line.get_color(): max(line.get_ydata()) for line in burst.get_lines()
            if len(line.get_xdata()) > 10 and line.get_linestyle() == "-"}  # fmt: skip
    colours = {pool: deploy_spike.pool_style(pool).colour for pool in POOLS}
    assert tops[colours[SMALL]] == pytest.approx(0.11, rel=0.1)
    assert tops[colours[BIG]] < 0.012
    assert tops[colours[COVERING]] < 0.02
    network, server = made["spike_queues"].axes
    assert sum(bar.get_width() for bar in network.patches[:3]) == pytest.approx(0.05, rel=0.15)
    assert sum(bar.get_width() for bar in server.patches[:3]) == pytest.approx(
        sum(bar.get_width() for bar in server.patches[6:9]), rel=0.06
    )
    points = [
        line for line in made["spike_recover"].axes[0].get_lines() if line.get_marker() == "o"
    ]
    assert points[0].get_xdata()[0] == pytest.approx(0.09, rel=0.15)


def test_what_is_no_evidence_is_said_to_be_left_out(usual: Store) -> None:
    store: Any = changed(usual, on("server burst", BIG, valid=False, invalid_reasons="served: 1"))
    for name, figure in deploy_spike.figures(store.cells(), store).items():
        said = " ".join(text.get_text().replace("\n", " ") for text in figure.findobj(Text))
        assert f"left out: 3 of {len(store.cells())} measurements" in said, name
        assert ("no evidence" in said) == (name != "spike_recover")


def test_the_table_has_a_row_for_each_cell(usual: Store) -> None:
    cells = usual.cells()
    table = deploy_spike.tables(cells)
    assert len(table) == len(STANDARD.cells)
    failed = deploy_spike.tables(on("server step", BIG, valid=False)(cells))
    assert (failed["valid"] == "0 of 3").sum() == 1
    assert deploy_spike.tables(cells.head(0)).empty
