"""The order of a run: every cell once per replicate, seeded, in blocks; and what it needs first."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from bench.experiments import chosen, instrument
from bench.experiments.idle_eviction.lanes import TRAPS
from bench.experiments.pool_sweep import POOL_SIZES, RTTS_S, plan, turn_s
from bench.model import Cell, PreflightError, Workload

SCRIPT = """
import json
from bench.model import Cell, Plan
from bench.runner import blocks
from bench.experiments import instrument
from bench.model import Workload
cells = tuple(Cell("t", pool, users) for pool in (5, 1000, 5000) for users in (1, 2, 3, 4))
made = {seed: blocks([Plan(cells, 3)], seed) for seed in (1, 1, 2)}
told = {str(seed): [[(c.pool_size, c.concurrency) for c in b.cells] for b in made[seed]]
        for seed in made}
apart = Plan(cells[:2], 3, once=(cells[2], Cell("t", 7, 7, workers=2)))
turns = [Cell("t", pool, 1, arm=f"turn {n}", side=side)
         for n in (1, 2, 3) for side, pool in enumerate((20, 5000))]
twos = blocks([Plan(cells[:1], 2, apart=tuple(turns), apart_replicates=3)], 1)
told["turns"] = [[[c.arm, c.side] for c in b.cells] for b in twos]
planned = {"once": [apart], "instrument": [instrument.plan("standard", Workload(), 1)],
           "both": [Plan(cells, 1), apart]}
for name, plans in planned.items():
    told[name] = [[b.number, b.replicate, max(c.workers for c in b.cells), [c.id for c in b.cells]]
                  for b in blocks(plans, 1)]
told["ids"] = [c.id for c in (*apart.cells, *apart.once)]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def orders() -> dict[str, Any]:
    """In a process of its own: the runner imports locust, which patches the whole process."""
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    return json.loads(said.stdout)


def test_a_run_is_expected_to_take_as_long_as_its_longest_sleep() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "bench", "check", "--only", "idle_eviction", "--time-scale", "1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"about ([0-9.]+) min", said.stdout)
    assert found
    longest_s = max(TRAPS.values())  # no gap is shorter, and the check tells tenths of a minute
    assert float(found[1]) * 60 > longest_s


def test_every_replicate_is_a_block_that_holds_every_cell_once(orders: dict[str, Any]) -> None:
    for blocks in (orders["1"], orders["2"]):
        assert len(blocks) == 3
        for block in blocks:
            assert len({tuple(cell) for cell in block}) == len(block) == 12


def test_the_order_follows_from_the_seed_and_differs_between_blocks(orders: dict[str, Any]) -> None:
    assert orders["1"] != orders["2"]
    first, second, _ = orders["1"]
    assert first != second


def test_cells_of_one_large_pool_stay_together(orders: dict[str, Any]) -> None:
    for block in orders["1"]:
        for pool in (1000, 5000):
            places = [index for index, (size, _) in enumerate(block) if size == pool]
            assert places == list(range(places[0], places[0] + 4))


def test_what_is_measured_once_is_in_the_first_replicate_alone(orders: dict[str, Any]) -> None:
    first, second, third, crew = orders["ids"]
    found = [[replicate, workers, set(ids)] for _, replicate, workers, ids in orders["once"]]
    found.sort(key=lambda block: block[:2])
    assert found == [
        [1, 2, {first, second, third, crew}], [2, 1, {first, second}], [3, 1, {first, second}],
    ]  # fmt: skip
    numbers = [block[0] for block in orders["both"]]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_cells_apart_have_blocks_of_their_own_in_which_sides_take_turns(
    orders: dict[str, Any],
) -> None:
    """Also where both pools are large: each stays open on its side."""
    apart = [block for block in orders["turns"] if len(block) > 1]
    assert len(apart) == 3
    assert [block for block in orders["turns"] if len(block) == 1] == [[["", 0]]] * 2
    for block in apart:
        turns = [block[at : at + 2] for at in range(0, 6, 2)]
        assert all(first[0] == second[0] and first[1] != second[1] for first, second in turns)
        assert len({first[0] for first, _ in turns}) == 3
    assert len({json.dumps(block) for block in apart}) > 1  # in random order


def test_the_instrument_has_a_a_in_every_block_and_all_else_once(orders: dict[str, Any]) -> None:
    made = instrument.plan("standard", Workload(), 1)
    same, once = ({cell.id for cell in cells} for cells in (made.cells, made.once))
    found = sorted(orders["instrument"], key=lambda block: block[1])
    assert [block[1] for block in found] == [1, 2, 3, 4, 5]
    assert set(found[0][3]) == same | once
    for _, _, workers, ids in found:
        assert workers == 1
        assert len(set(ids)) == len(ids)
        assert set(ids) >= same
    assert all(set(block[3]) == same for block in found[1:])
    assert len({tuple(block[3]) for block in found[1:]}) == 2  # either arm may come first


@pytest.mark.parametrize("profile", ["smoke", "standard", "full"])
def test_a_plan_names_each_cell_once_and_leaves_five_turns_in_every_window(profile: Any) -> None:
    cells = plan(profile, Workload(), workers=1).cells
    assert len({cell.id for cell in cells}) == len(cells)
    for cell in cells:
        turn = turn_s(cell.pool_size, cell.concurrency, cell.rtt_s, 1)
        assert cell.measure_s >= 5 * turn
        assert cell.warmup_s >= turn


def test_the_standard_and_full_plans_cover_what_the_sweep_promises() -> None:
    for profile in ("standard", "full"):
        cells = plan(profile, Workload(), workers=1).cells
        assert {cell.pool_size for cell in cells} == set(POOL_SIZES)
        assert {cell.rtt_s for cell in cells} == set(RTTS_S)
        assert {cell.opening for cell in cells} == {"lazy", "prefilled"}
        assert {cell.pool_size for cell in cells if cell.order == "fifo"} >= {500, 5000}
        assert min(cell.concurrency for cell in cells) == 1
        assert max(cell.concurrency for cell in cells) == 5000


def test_the_grid_is_per_worker() -> None:
    one, two = (plan("smoke", Workload(), workers=k).cells for k in (1, 2))
    assert [c.concurrency for c in two] == [2 * c.concurrency for c in one]
    assert [c.pool_size for c in two] == [c.pool_size for c in one]


def test_a_cells_identity_is_every_setting() -> None:
    cell = Cell("t", 5, 10)
    assert cell.id == Cell("t", 5, 10).id
    assert cell.id != Cell("t", 5, 10, warmup_s=0.3).id
    assert cell.id != Cell("t", 5, 10, workload=Workload(keys=7)).id


def test_an_unknown_experiment_names_the_nearest() -> None:
    with pytest.raises(PreflightError, match="did you mean “pool_sweep”"):
        chosen(("pool_sweeps",))
