"""The master's side of cells that sleep: when each lane opens, is struck, and closes.

Lanes sleep side by side, and one thing at a time is done to any of them, so that no burst meets
another. What a lane is due comes first; another lane is let in where nothing is due for as long as
that takes.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from time import perf_counter as clock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.analysis import gates
from bench.analysis.statistics import summarise
from bench.load.recorder import add_seconds, new_histogram
from bench.model import (
    ASYNCIO,
    LANE_COLUMNS,
    OUTCOMES,
    SILENT_TRAPS,
    BenchError,
    BoundBy,
    Burst,
    Cell,
    Gate,
    Idling,
    Observation,
    Trap,
)
from bench.rig.host import raise_fd_limit
from bench.rig.namespaces import LEAST_ENTRIES
from bench.rig.probes import Machine, Process, Reading, read_cores
from bench.rig.server import ServerSnapshot
from bench.rig.traps import Place, Traps

INTENDED, SENT, ACQUIRED, DONE, IDLE, OUTCOME, FIRST, COMMANDS, OTHER = range(len(LANE_COLUMNS))
OK, RETRIED = OUTCOMES.index("ok"), OUTCOMES.index("ok after retry")
LANE_TIMEOUT_S = 90.0
POOL_COUNTS = ("opened", "closed_idle", "closed_stale", "closed_error")
LEAD_S = 0.01  # from the order to a burst's begin: its way to the worker, and the lead there
LATE = 0.3  # of its sleep a burst may come late at most
OWN_FDS = 500
MANY = 100  # connections, whose closing others would feel
MOST_DESCRIPTORS = 18_000  # of one process; more lanes at a time would save nothing
# Guesses at what things take, from trials; the timed-out first commands of a burst come on top.
OPENING_S, PER_CONNECTION_S, PER_HANDSHAKE_S, BURST_S = 0.01, 0.00025, 0.0025, 0.02

Rows = NDArray[np.float64]
Told = Callable[[Cell], None]


class Hands(Protocol):
    """Whoever runs lanes; `order` tells what `answers` is to take."""

    @property
    def pids(self) -> list[int]: ...
    def order(self, verb: str, arguments: Sequence[dict[str, Any]]) -> Any: ...
    def answers(self, asked: Any, timeout_s: float) -> list[dict[str, Any]]: ...
    def check(self) -> None: ...


Crews = Mapping[bool, Hands]  # by whether they do so on asyncio


@dataclass(slots=True)
class Sleeper:
    """One lane as the master knows it. `due` is its next burst's time, `ended` its last one's end,
    both perf_counter seconds."""

    number: int
    cell: Cell
    place: Place
    due: float = math.inf
    ended: float = math.nan
    wall_ended: float = math.nan
    cycle: int = 0
    opened_at: float = math.nan
    bursts: list[Burst] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    step_s: float = 0.0

    @property
    def idling(self) -> Idling:
        return _idling(self.cell)

    def first_due(self, now: float) -> float:
        """Its first burst after a gap, were it opened now."""
        return now + opening_s(self.cell) + self.idling.gap_s

    def sleep(self, foreseen: float) -> None:
        """Until its next burst: no sooner than was foreseen, when others were let in by that."""
        self.due = max(foreseen, self.ended + self.idling.gap_s)

    def turns(self, due: float, cycle: int) -> list[tuple[float, float]]:
        """When its bursts are to be expected from the `cycle`-th on, which is due then."""
        takes_s = burst_s(self.cell)
        starts = (
            due + later * (self.idling.gap_s + takes_s)
            for later in range(self.idling.cycles + 1 - cycle)
        )
        return [(start, start + takes_s) for start in starts]


class Dormitory:
    """All lanes of a block's cells, from the first opening to the last closing."""

    def __init__(self, traps: Traps, crews: Crews, cells: Sequence[Cell], block: int) -> None:
        self._traps = traps
        self._crews = crews
        self._block = block
        self.began = clock()
        self._descriptors = min(MOST_DESCRIPTORS, raise_fd_limit(0) - OWN_FDS)
        self.sleepers = [
            Sleeper(number, cell, traps.place(cell)) for number, cell in enumerate(in_turn(cells))
        ]

    def run(self, told: Told) -> Iterator[tuple[Cell, list[Sleeper]]]:
        """Each cell with its lanes, when the last of these has ended. Blocks in between. Raises
        ApparatusLost, BenchError."""
        waiting, asleep = list(self.sleepers), list[Sleeper]()
        while waiting or asleep:
            now = clock()
            due = min(asleep, key=lambda each: each.due, default=None)
            if due is not None and due.due <= now:
                told(due.cell)
                self._strike(due)
            elif fit := next((e for e in waiting if self._has_room(e, asleep, now)), None):
                told(fit.cell)
                waiting.remove(fit)
                asleep.append(fit)
                self._open(fit, fit.first_due(now))
            else:
                self._wait(asleep, now)
            self._check()
            for lane in [each for each in asleep if each.cycle > each.idling.cycles]:
                asleep.remove(lane)
                self._close(lane)
                own = [each for each in self.sleepers if each.cell == lane.cell]
                if not any(each in waiting or each in asleep for each in own):
                    yield lane.cell, own

    def _has_room(self, lane: Sleeper, asleep: Sequence[Sleeper], now: float) -> bool:
        """Whether another may be let in: neither its opening nor any of its bursts, as far as can
        be foreseen, meets one of those asleep, and descriptors are left."""
        if not self._descriptors_left(lane, asleep):
            return False
        due = lane.first_due(now)
        wanted = [(now, due - lane.idling.gap_s), *lane.turns(due, 1)]
        taken = [turn for each in asleep for turn in each.turns(each.due, each.cycle)]
        return not any(a < end and start < b for a, b in wanted for start, end in taken)

    def _descriptors_left(self, lane: Sleeper, asleep: Sequence[Sleeper]) -> bool:
        """Of the worker, which has one for each connection, and of what relays: it has two; or
        what a firewall can know."""
        hop = lane.place.hop
        beside = sum(each.cell.pool_size for each in asleep if each.place.hop == hop)
        total = sum(each.cell.pool_size for each in asleep) + lane.cell.pool_size
        relayed = 2 * (beside + lane.cell.pool_size) if hop else 0
        # What a firewall knows includes those that a burst has put in the place of others.
        passing = sum(e.cell.pool_size for e in asleep if e.place.passage == lane.place.passage)
        if lane.place.passage and 2 * (passing + lane.cell.pool_size) > LEAST_ENTRIES:
            return False
        return max(total, relayed) <= self._descriptors

    def _check(self) -> None:
        """Raises ApparatusLost when a part of the rig, or whoever runs lanes, has ended."""
        self._traps.check()
        for crew in self._crews.values():
            crew.check()

    def _wait(self, asleep: Sequence[Sleeper], now: float) -> None:
        soon = min((each.due for each in asleep), default=now)
        time.sleep(min(0.02, max(0.0, soon - now)))

    def _open(self, lane: Sleeper, due: float) -> None:
        place = lane.place
        lane.opened_at = clock()
        fields = dataclasses.asdict(lane.cell)
        self._ask(
            lane,
            "lane.open",
            [
                {"lane": lane.number, "cell": fields, "address": place.address,
                 "passage": place.passage,
                 "seed": self._traps.seed(self._block, lane.number, worker)}
                for worker in range(lane.cell.workers)
            ],
        )  # fmt: skip
        lane.ended, lane.wall_ended = clock(), time.time()
        if lane.idling.fresh:
            self._strike(lane)
        else:
            lane.cycle = 1
        lane.sleep(due)

    def _strike(self, lane: Sleeper) -> None:
        """One burst, and what server and client told of it."""
        server = lane.place.server
        before, began = server.snapshot(), clock()
        gap_s, wall_gap_s = began - lane.ended, time.time() - lane.wall_ended
        lane.step_s = max(lane.step_s, abs(wall_gap_s - gap_s))
        crew = self._crews[lane.cell.maker == ASYNCIO]
        asked = crew.order("lane.burst", [{"lane": lane.number}] * lane.cell.workers)
        fault = self._go_wrong(lane)
        answers = crew.answers(asked, LANE_TIMEOUT_S)
        lane.ended, lane.wall_ended = clock(), time.time()
        after = server.snapshot()
        if lane.cell.fault == "restart":
            before = dataclasses.replace(
                after, calls={}, cpu_user_s=0.0, cpu_system_s=0.0, connections=0, rejected=0
            )
        rows = np.concatenate([_rows_of(answer) for answer in answers])
        pool = {name: sum(each.get(name, 0) for each in answers) for name in POOL_COUNTS}
        sampled = self._traps.sampler.rows(server, began, lane.ended)
        most = max(
            [
                before.connected_clients,
                after.connected_clients,
                *(r.connected_clients for r in sampled),
            ]
        )
        burst = self._burst(lane, rows, gap_s, before, after, most, pool)
        lane.bursts.append(
            dataclasses.replace(burst, fault_began_s=fault[0], fault_ended_s=fault[1])
        )
        rows[:, INTENDED : DONE + 1] -= self.began
        lane.rows.append(rows)
        lane.cycle += 1
        lane.sleep(lane.due + burst_s(lane.cell) + lane.idling.gap_s)

    def _go_wrong(self, lane: Sleeper) -> tuple[float | None, float | None]:
        """Blocks for the fault of its burst, if one is to come; from when to when it was."""
        outage = lane.cell.outage
        if outage is None:
            return None, None
        time.sleep(LEAD_S + outage.begins_s)
        began = clock()
        with self._traps.faulty(lane.place, outage):
            time.sleep(outage.fault_s)
        ended = clock()
        self._traps.restore(lane.place, outage)
        return began - self.began, ended - self.began

    def _burst(
        self,
        lane: Sleeper,
        rows: Rows,
        gap_s: float,
        before: ServerSnapshot,
        after: ServerSnapshot,
        most: int,
        pool: dict[str, int],
    ) -> Burst:
        latency, lag = rows[:, DONE] - rows[:, INTENDED], rows[:, SENT] - rows[:, INTENDED]
        used = rows[~np.isnan(rows[:, IDLE]) & (rows[:, FIRST] >= 0)]
        overdue = used[used[:, IDLE] > lane.idling.limit_s]
        begun = float(rows[:, INTENDED].min())
        return Burst(
            lane=lane.number,
            cycle=lane.cycle,
            began_s=begun - self.began,
            length_s=float(rows[:, DONE].max()) - begun,
            gap_s=gap_s,
            requests=len(rows),
            outcomes=_counts(rows[:, OUTCOME]),
            first=_counts(used[:, FIRST]),
            overdue=len(overdue),
            overdue_failed=int(np.count_nonzero(overdue[:, FIRST] != OK)),
            **pool,
            latency_p50_s=float(np.quantile(latency, 0.5)),
            latency_p99_s=float(np.quantile(latency, 0.99)),
            latency_max_s=float(latency.max()),
            send_lag_p99_s=float(np.quantile(lag, 0.99)),
            server_cpu_s=_cpu_s(after) - _cpu_s(before),
            server_operations=_calls(after, "get") - _calls(before, "get"),
            server_pings=_calls(after, "ping") - _calls(before, "ping"),
            server_connects=(after.connections or 0) - (before.connections or 0),
            server_connections=most,
            server_rejected=(after.rejected or 0) - (before.rejected or 0),
        )

    def _close(self, lane: Sleeper) -> None:
        self._ask(lane, "lane.close", [{"lane": lane.number}] * lane.cell.workers)
        if lane.cell.pool_size >= MANY:
            self._traps.settle(lane.place)

    def _ask(self, lane: Sleeper, verb: str, arguments: list[dict[str, Any]]) -> None:
        crew = self._crews[lane.cell.maker == ASYNCIO]
        crew.answers(crew.order(verb, arguments), LANE_TIMEOUT_S)


def measure_asleep(
    traps: Traps,
    crews: Crews,
    cells: Sequence[Cell],
    block: int,
    replicate: int,
    attempts: dict[str, int],
    told: Told,
) -> Iterator[Observation]:
    """Run all lanes of these cells, side by side; each cell's observation comes when its last lane
    has ended. Blocks in between.

    `attempts`: by a cell's id, which one this is; `told` hears whose turn it is. Raises
    ApparatusLost when a process of the rig dies, BenchError when a worker reports a failure.
    """
    started_unix_s = time.time()
    traps.hiccups.mark()
    pids = [*traps.pids, *(pid for crew in crews.values() for pid in crew.pids)]
    ours = [Process(pid, "a part", may_end=True) for pid in (os.getpid(), *pids)]
    dormitory = Dormitory(traps, crews, cells, block)
    start = _reading(ours)
    try:
        for cell, lanes in dormitory.run(told):
            span = _reading(ours).since(start)
            machine = span.machine(sum(cpu.total_s for cpu in span.cpu.values()))
            traps.hiccups.read()
            yield observation(
                cell,
                lanes,
                _series(traps, lanes, dormitory.began),
                machine,
                block=block,
                replicate=replicate,
                attempt=attempts[cell.id],
                started_unix_s=started_unix_s,
                measured_s=max(each.ended for each in lanes) - min(e.opened_at for e in lanes),
                outside_s=0.0,
                hiccup_max_s=traps.hiccups.max_s,
                machine_busy_share=machine.busy,
                steal_share=machine.steal,
                foreign_cpu_share=machine.foreign,
            )
    except BenchError:
        traps.check()
        raise


def observation(
    cell: Cell,
    lanes: Sequence[Sleeper],
    series: list[dict[str, Any]],
    machine: Machine,
    **known: Any,
) -> Observation:
    """What the lanes of one cell recorded; latency is that of bursts after a gap, and under tags
    of their own that of the "answered" among these requests, and of the "fresh" first bursts."""
    bursts = tuple(burst for lane in lanes for burst in lane.bursts)
    first = 1 if _idling(cell).fresh and _idling(cell).cycles else 0
    rows = np.concatenate([rows for lane in lanes for rows in lane.rows[first:]])
    requests = sum(burst.requests for burst in bursts)
    failed = sum(sum(burst.outcomes) - _answered(burst) for burst in bursts)
    refused = sum(burst.outcomes[OUTCOMES.index("no connection")] for burst in bursts)
    checks = tuple(_gates(cell, lanes, machine))
    reasons = gates.invalid_reasons(checks)
    histograms = {
        "latency": _histogram(rows[:, DONE] - rows[:, INTENDED]),
        "acquire": _histogram(rows[:, ACQUIRED] - rows[:, SENT]),
        "command": _histogram(rows[:, DONE] - rows[:, ACQUIRED]),
        "send_lag": _histogram(rows[:, SENT] - rows[:, INTENDED]),
    }
    times = {kind: summarise(histogram) for kind, histogram in histograms.items()}
    served = rows[np.isin(rows[:, OUTCOME], (OK, RETRIED))]
    histograms["answered"] = _histogram(served[:, DONE] - served[:, INTENDED])
    if first:
        fresh = np.concatenate([lane.rows[0] for lane in lanes])
        histograms["fresh"] = _histogram(fresh[:, DONE] - fresh[:, INTENDED])
    return Observation.partly(
        cell,
        **known,
        **times,
        qps=requests / sum(burst.length_s for burst in bursts),
        latency_mean_s=float(np.mean(rows[:, DONE] - rows[:, INTENDED])),
        scheduled=requests,
        dropped=0,
        served_share=1 - failed / requests,
        operations=requests - failed,
        server_operations=sum(burst.server_operations for burst in bursts),
        errors=failed - refused,
        timeouts=refused,
        connections_opened=sum(burst.server_connects for burst in bursts),
        server_connections_peak=max(burst.server_connections for burst in bursts),
        server_cpu_s=sum(burst.server_cpu_s for burst in bursts),
        server_cpu_us_per_op=1e6 * sum(burst.server_cpu_s for burst in bursts) / requests,
        clock_step_s=max(lane.step_s for lane in lanes),
        workers_lost=0,
        bound_by=_bound_by(cell, bursts),
        valid=not reasons,
        invalid_reasons=reasons,
        doubts=gates.doubts(checks),
        gates=checks,
        bursts=bursts,
        series=series,
        histograms={kind: bytes(h.encode()) for kind, h in histograms.items()},
        requests=[part.tobytes() for lane in lanes for part in [np.concatenate(lane.rows)]]
        if cell.keep_requests
        else [],
    )


def in_turn(cells: Sequence[Cell]) -> list[Cell]:
    """A cell for each lane, in the order in which to let them in: who sleeps longest first, and of
    these one of each trap in turn, or what relays would be full while others have room."""
    before: Counter[Trap] = Counter()
    ranked = []
    for cell in cells:
        idling = _idling(cell)
        for _ in range(idling.lanes):
            ranked.append((-slept_s(cell), before[idling.trap], cell))
            before[idling.trap] += 1
    return [cell for _, _, cell in sorted(ranked, key=itemgetter(0, 1))]


def slept_s(cell: Cell) -> float:
    """How long each of its lanes sleeps in all."""
    idling = _idling(cell)
    return idling.cycles * idling.gap_s


def asleep_s(cell: Cell) -> float:
    """A guess at what the cell's lanes take of the time, while others sleep beside them."""
    idling = _idling(cell)
    return idling.lanes * (opening_s(cell) + burst_s(cell) * idling.cycles)


def opening_s(cell: Cell) -> float:
    """A guess at how long it takes to open a lane, its burst on fresh connections included."""
    each_s = PER_CONNECTION_S if cell.maker == "ours" else PER_HANDSHAKE_S
    fresh_s = _arriving_s(cell) if _idling(cell).fresh else 0.0
    return OPENING_S + each_s * cell.pool_size + fresh_s


def burst_s(cell: Cell) -> float:
    """A guess at how long a burst takes after a gap."""
    idling = _idling(cell)
    closed_in_time = cell.max_idle_s is not None and cell.max_idle_s < idling.limit_s
    silent = idling.trap in SILENT_TRAPS and not closed_in_time
    return _arriving_s(cell) + ((cell.socket_timeout_s or 0.0) if silent else 0.0)


def _arriving_s(cell: Cell) -> float:
    idling = _idling(cell)
    return BURST_S + (idling.requests - idling.volley) / (cell.offered_qps or 1.0)


def _answered(burst: Burst) -> int:
    return burst.outcomes[OK] + burst.outcomes[RETRIED]


def _histogram(seconds: Rows) -> Any:
    histogram = new_histogram()
    add_seconds(histogram, seconds[~np.isnan(seconds)])
    return histogram


def _counts(codes: Rows) -> tuple[int, ...]:
    """How many there are of each of `OUTCOMES`."""
    return tuple(np.bincount(codes.astype(int), minlength=len(OUTCOMES)).tolist())


def _gates(cell: Cell, lanes: Sequence[Sleeper], machine: Machine) -> Iterator[Gate]:
    bursts = [burst for lane in lanes for burst in lane.bursts]
    redis = [rows[rows[:, OTHER] == 0] for lane in lanes for rows in lane.rows]
    answered = sum(int(np.isin(rows[:, OUTCOME], (OK, RETRIED)).sum()) for rows in redis)
    sends = int(sum(rows[:, COMMANDS].sum() for lane in lanes for rows in lane.rows))
    served = sum(burst.server_operations for burst in bursts)
    # A server that was started anew has counted from nothing.
    known = None if cell.fault == "restart" else {"get": served}
    yield gates.operations({"get": answered}, {"get": sends}, known)
    longest_s = max((burst.gap_s for burst in bursts if burst.cycle), default=0.0)
    yield gates.gap(longest_s, _idling(cell).gap_s, _room_s(cell))
    # A foreign pool's own work is what is measured, as are an outage's line and its retries.
    if cell.maker == "ours" and cell.outage is None:
        yield gates.burst_lag(max(burst.send_lag_p99_s for burst in bursts))
    yield gates.clock(max(lane.step_s for lane in lanes), 0)
    yield gates.steal(machine.steal)
    yield gates.foreign_cpu(machine.foreign)


def _room_s(cell: Cell) -> float:
    """How late a burst may come: before the next timer that is to outlast the sleep."""
    gap_s = _idling(cell).gap_s
    timers = [time_s for time_s in (_idling(cell).trap_s, cell.max_idle_s or 0.0) if time_s > gap_s]
    return min([LATE * gap_s, *(time_s - gap_s for time_s in timers)])


def _bound_by(cell: Cell, bursts: Sequence[Burst]) -> BoundBy:
    """The generator, where it was late; else the load, of which a burst is all there is. A service
    is waited for by its callers, which is no lateness."""
    if cell.service is not None:
        return "users"
    lag = gates.burst_lag(max(burst.send_lag_p99_s for burst in bursts))
    return "users" if lag.passed else "generator"


def _series(traps: Traps, lanes: Sequence[Sleeper], began: float) -> list[dict[str, Any]]:
    """What the dashboard of the server showed, where that is kept."""
    start, end = min(each.opened_at for each in lanes), max(each.ended for each in lanes)
    return [
        {"source": "probes", "at_s": told.at_s - began, "server_cpu_s": _cpu_s(told),
         "server_connections": told.connected_clients, "server_connects": told.connections}
        for told in traps.sampler.rows(lanes[0].place.server, start, end)
    ]  # fmt: skip


def _reading(processes: Sequence[Process]) -> Reading:
    return Reading(
        clock(), {each: each.sample().used for each in processes}, waits={}, cores=read_cores()
    )


def _rows_of(answer: dict[str, Any]) -> Rows:
    return np.frombuffer(answer["rows"]).reshape(-1, len(LANE_COLUMNS)).copy()


def _idling(cell: Cell) -> Idling:
    assert cell.idling is not None, "it is asleep"
    return cell.idling


def _cpu_s(told: ServerSnapshot) -> float:
    return told.cpu_user_s + told.cpu_system_s


def _calls(told: ServerSnapshot, command: str) -> int:
    return told.calls.get(command, 0)
