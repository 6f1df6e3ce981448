"""plan → skip what is done → shuffle → measure → store. Each cell is written at once."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

from bench.experiments import not_run, plans
from bench.load.crew import Crew, hands
from bench.load.measure import measure
from bench.load.sleepers import asleep_s, measure_asleep, slept_s
from bench.load.swarm import Swarm
from bench.model import Cell, Observation, Plan, PreflightError, Settings
from bench.rig.host import FdLimitError, raise_fd_limit
from bench.rig.rig import OWN_CONNECTIONS, Rig, preflight
from bench.rig.traps import Traps
from bench.store import Store

# Pools this large cost seconds to open, so their cells stay together within a block's random order.
KEEP_TOGETHER_FROM = 1000
OWN_FDS = 100
STRAIGHT = ("none", "redis defaults", "redis timeout", "firewall")  # nobody relays
ATTEMPTS = 2


class Watcher(Protocol):
    """Who is told how the run goes."""

    def starts(self, cells: int, seconds: float) -> None: ...
    def measures(self, cell: Cell) -> None: ...
    def has(self, observation: Observation, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Block:
    """Cells measured one after the other, in this order, by the same processes (of their side)."""

    number: int
    replicate: int
    cells: tuple[Cell, ...]


def blocks(plans: Iterable[Plan], seed: int) -> list[Block]:
    """Every replicate of every cell exactly once, blocks and cells within them in seeded order."""
    made: list[Block] = []
    for plan in plans:
        for replicate, planned in enumerate(plan.blocks, 1):
            number = len(made) + 1
            made.append(Block(number, replicate, tuple(_shuffled(planned, seed, number))))
    random.Random(f"{seed}/blocks").shuffle(made)  # no experiment has one end of the run
    return made


def _shuffled(cells: Iterable[Cell], seed: int, number: int) -> Iterator[Cell]:
    rng = random.Random(f"{seed}/{number}")
    groups: dict[object, list[Cell]] = {}
    planned = list(cells)
    turns = len({cell.side for cell in planned}) > 1
    for cell in planned:
        groups.setdefault(cell.arm if turns else _together(cell), []).append(cell)
    order = list(groups.values())
    rng.shuffle(order)
    for group in order:
        rng.shuffle(group)
        yield from group


def _together(cell: Cell) -> object:
    if cell.opening == "lazy" or cell.pool_size < KEEP_TOGETHER_FROM:
        return cell
    return cell.pool_size, cell.order, cell.rtt_s, cell.client, cell.resp, cell.test_on_borrow


def plan(settings: Settings) -> list[Block]:
    """What `settings` ask for. Raises PreflightError for an unknown experiment."""
    return blocks(plans(settings, owned=settings.url is None), settings.seed)


def check_descriptors(blocks: list[Block]) -> int:
    """Raise the limit on open files to what the plan needs; returns the limit in force.

    Raises PreflightError naming what fits where the hard limit forbids.
    """
    most = max((cell for block in blocks for cell in block.cells), key=_descriptors)
    try:
        return raise_fd_limit(_descriptors(most))
    except FdLimitError as error:
        raise PreflightError(f"{error} ({_what_fits(most, error.limit)})") from error


def _descriptors(cell: Cell) -> int:
    """The most any one process holds: the link has two per connection."""
    return _hops(cell) * (cell.workers * cell.pool_size + OWN_CONNECTIONS) + OWN_FDS


def _hops(cell: Cell) -> int:
    relayed = cell.rtt_s or (cell.idling is not None and cell.idling.trap not in STRAIGHT)
    return 2 if relayed else 1


def _what_fits(cell: Cell, limit: int) -> str:
    connections = max(0, (limit - OWN_FDS) // _hops(cell) - OWN_CONNECTIONS)
    workers = connections // cell.pool_size
    crew = f"{cell.workers} worker" + "s" * (cell.workers > 1)
    through = ", two descriptors each through the link" if cell.rtt_s else ""
    fewer = f", or WORKERS={workers} with pools of {cell.pool_size}" if workers else ""
    return (
        f"{crew} × {cell.pool_size} connections{through}; "
        f"pools of up to {connections // cell.workers} fit with {crew}{fewer}"
    )


def check(settings: Settings) -> dict[str, Any]:
    """Everything a run needs, looked at without load: server, descriptors, the size of the plan.

    Raises PreflightError with what is missing and how to mend it.
    """
    planned = plan(settings)
    if not any(block.cells for block in planned):
        lacks = not_run(settings, owned=settings.url is None)
        why = "; ".join(f"{each['experiment']}, {each['what']}: {each['why']}" for each in lacks)
        raise PreflightError(f"nothing is left to run ({why})")
    cells = [cell for block in planned for cell in block.cells]
    limit = check_descriptors(planned)
    seconds = expected_in_all_s(cells)
    return {
        "server": preflight(settings, cells),
        "descriptors": f"{limit} per process",
        "plan": f"{len(cells)} cells in {len(planned)} blocks, about {seconds / 60:.1f} min",
        **{
            f"not run: {each['experiment']}": f"{each['what']}: {each['why']}"
            for each in not_run(settings, owned=settings.url is None)
        },
    }


def run(settings: Settings, store: Store, watcher: Watcher) -> None:
    """Measure all that `store` lacks. Blocks for the whole run; finished cells are on disk at once.

    Raises PreflightError before any load, ApparatusLost when a part of the rig dies in mid-run,
    be it one of several workers, whose cell is stored as invalid.
    """
    check_descriptors(plan(settings))
    store.note_not_run(not_run(settings, owned=settings.url is None))
    todo = left(settings, store)
    cells = [cell for part in todo.values() for cell in part]
    watcher.starts(len(cells), expected_in_all_s(cells))
    for block, part in todo.items():
        _run_block(settings, block, part, store, watcher)


def left(settings: Settings, store: Store) -> dict[Block, list[Cell]]:
    """What of the plan `store` lacks, in the order in which to measure it."""
    tried = store.attempts()
    lacking = {
        block: [cell for cell in block.cells if _wanted(tried.get((cell.id, block.number), []))]
        for block in plan(settings)
    }
    return {block: cells for block, cells in lacking.items() if cells}


def _wanted(attempts: list[bool]) -> bool:
    """A failed gate has the cell measured once more, and both are kept."""
    return not any(attempts) and len(attempts) < ATTEMPTS


def _run_block(
    settings: Settings, block: Block, cells: list[Cell], store: Store, watcher: Watcher
) -> None:
    with ExitStack() as stack:
        log = stack.enter_context((Path(store.folder) / "workers.log").open("ab+"))
        if cells[0].idling is not None:
            _run_asleep(stack, settings, block, cells, store, watcher, log)
            return
        sides = {
            number: _Side(stack, settings, [cell for cell in cells if cell.side == number], log)
            for number in sorted({cell.side for cell in cells})
        }
        for side in sides.values():
            store.note_server(side.rig.server.flavour, side.rig.server.version)
        for cell in cells:
            watcher.measures(cell)
            side = sides[cell.side]
            rig, crew = side.rig, side.crew(cell)
            for other in sides.values():
                if other is not side and not rig.server.owned:
                    other.close_pools()  # there is but one server
            made = len(store.attempts().get((cell.id, block.number), []))
            for attempt in range(made + 1, ATTEMPTS + 1):
                observation = measure(rig, crew, cell, block.number, block.replicate, attempt)
                store.add(observation)
                if observation.workers_lost:
                    raise crew.loss(observation.workers_lost)
                watcher.has(observation, expected_s(cell))
                if observation.valid:
                    break


def _run_asleep(
    stack: ExitStack,
    settings: Settings,
    block: Block,
    cells: list[Cell],
    store: Store,
    watcher: Watcher,
    log: IO[bytes],
) -> None:
    """Cells that sleep, side by side; those that failed a gate once more, together."""
    traps = stack.enter_context(Traps(settings, cells))
    for server in traps.servers():
        store.note_server(server.flavour, server.version)
    crews = stack.enter_context(hands(cells, traps.access, log))
    made = {cell.id: len(store.attempts().get((cell.id, block.number), [])) for cell in cells}
    while cells:
        made.update({cell.id: made[cell.id] + 1 for cell in cells})
        again = []
        for observation in measure_asleep(
            traps, crews, cells, block.number, block.replicate, made, watcher.measures
        ):
            store.add(observation)
            watcher.has(observation, expected_s(observation.cell))
            if not observation.valid and made[observation.cell.id] < ATTEMPTS:
                again.append(observation.cell)
        cells = again


class _Side:
    """A rig, and those that load it: as many workers as any of the cells needs (those that one
    does not need rest), and a process for the threaded client."""

    def __init__(
        self, stack: ExitStack, settings: Settings, cells: list[Cell], log: IO[bytes]
    ) -> None:
        if cells[0].side:  # the port that was asked for is taken
            settings = replace(settings, server_port=0)
        self.rig = stack.enter_context(Rig(settings, cells))
        self._crews: dict[bool, Swarm | Crew] = {}
        for threaded, kind in ((False, Swarm), (True, Crew)):
            own = [cell for cell in cells if (cell.client == "glide") is threaded]
            if own:
                workers = max(cell.workers for cell in own)
                users = workers * max(-(-cell.concurrency // cell.workers) for cell in own)
                crew: Any = kind
                self._crews[threaded] = stack.enter_context(
                    crew(workers, users, self.rig.access, log)
                )

    def crew(self, cell: Cell) -> Swarm | Crew:
        """Whoever measures this cell; the others' pools are closed."""
        own = self._crews[cell.client == "glide"]
        for other in self._crews.values():
            if other is not own:
                other.close_pools()
        return own

    def close_pools(self) -> None:
        for crew in self._crews.values():
            crew.close_pools()


def expected_in_all_s(cells: Sequence[Cell]) -> float:
    """A guess at what these cells take. Lanes sleep side by side: together at least as long as the
    one that sleeps longest."""
    asleep = [cell for cell in cells if cell.idling is not None]
    awake_s = sum(map(expected_s, asleep))
    longest_s = max((slept_s(cell) for cell in asleep), default=0.0)
    return sum(map(expected_s, cells)) + max(0.0, longest_s - awake_s)


def expected_s(cell: Cell) -> float:
    """A guess at what a cell takes in all, for the time left."""
    if cell.idling is not None:
        return asleep_s(cell)
    measuring = cell.warmup_s + cell.measure_s + 0.1
    if cell.side or cell.opening == "lazy":  # a side keeps its pool open between turns
        return measuring
    return measuring + cell.pool_size * 0.0004
