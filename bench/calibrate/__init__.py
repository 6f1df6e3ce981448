"""What the instrument itself costs and carries, beside other tools, measured in one sitting.

Other tools' rates come from the server's own command counter, so their arithmetic need not be
trusted; ours are the workers' counts, which the operations gate holds against that counter. This
machine's speed drifts by the hour: the tools take turns, round after round, and only ratios within
a round are compared.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from time import perf_counter as clock
from typing import Any

import bench.load.swarm  # noqa: F401  # isort: skip  # patches for gevent: before all that imports ssl

from bench.analysis.statistics import log_t_interval
from bench.calibrate.costs import borrow_rows, merging_rows, phase_rows, recording_rows
from bench.calibrate.live import ROUNDS as LIVE_ROUNDS
from bench.calibrate.live import live_rows
from bench.calibrate.tools import NotMeasured, Rate, cross_check, redis_benchmark, stock
from bench.experiments import instrument
from bench.load.measure import measure
from bench.load.swarm import Swarm
from bench.model import Arrivals, Cell, Client, Observation, Row, Settings, Workload
from bench.report.display import Display
from bench.rig.host import end, manifest, raise_fd_limit, spawn
from bench.rig.probes import read_cores
from bench.rig.rig import Rig
from bench.store import Store

NAME = "calibrate"
LEAN = "lean, 50 users"
# Client and users of the closed loops that are measured beside the other tools'.
OURS: dict[str, tuple[Client, int]] = {
    LEAN: ("lean", 50),
    "lean, 10 users": ("lean", 10),
    "redis-py, 10 users": ("redis-py", 10),
    "redis-py, 50 users": ("redis-py", 50),
}
BORROW, RECORD = "borrow and return", "recording a request"
PHASE = "timing a phase"
STOCK, BENCHMARK = "stock Locust + redis-py, 50 users", "redis-benchmark, 50 connections"
NOISE, MERGE, CROSS = "the machine at rest", "merging histograms", "other tools at the same load"
WORKER = "worker with 5,000 connections, 1,000 users"
LIVE = "the live view"
OUTSIDE = "a cell's time outside measuring, pool ≤ 500"
SMOKE = "bench run --profile smoke, report included"
PREFILLS = ((1000, 0.0, 1.0), (5000, 0.0, 4.5), (5000, 0.001, 6.0))  # pool, RTT, seconds at most
REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference" / "run.json"
ROUNDS = 3
MORE_PAIRS = 6  # of lean and redis-benchmark, whose ratio within one minute runs from 0.5 to 0.9
SAME_ROUNDS = 5  # A/A: ten measurements
# Rates tried one after the other, in requests a second: what, client, round trip, least to reach.
LADDERS: tuple[tuple[str, Client, float, float | None, tuple[int, ...]], ...] = (
    ("lean at RTT 0", "lean", 0.0, 30_000, (20_000, 25_000, 30_000, 35_000, 40_000, 45_000)),
    ("redis-py at 1 ms", "redis-py", 0.001, None, tuple(range(2_000, 13_000, 1_000))),
    ("redis-py at RTT 0", "redis-py", 0.0, None, tuple(range(2_000, 13_000, 1_000))),
)
LADDER_POOLS = {0.0: 50, 0.001: 20}
LADDER_TRIES = 2  # a stall of the machine fails a rung now and then
SETTLE_S = 1.0
REST_S = 1.0
CERTIFY_S = 0.4
AROUND_S = 0.8  # what a cell takes beside its measurement
ATTEMPTS = 4  # a machine that is shared changes its speed within a cell now and then


@dataclass(frozen=True, slots=True)
class Step:
    """Something to measure, named as progress shows it, and how long it is expected to take."""

    what: str
    seconds: float
    measure: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """In place of what a step could not measure, in one line: a row that rests on it alone says so,
    and no other is lost by it."""

    why: str


Found = dict[str, list[Any]]  # what each step found, once per round


def calibrate(seconds: float, output: Path, display: Display) -> dict[str, Any]:
    """Measure everything and store it as JSON at `output`. Blocks for about nine minutes. What
    could not be measured is a row without a value that says why.

    Raises PreflightError, ApparatusLost as a run does.
    """
    raise_fd_limit(12_000)
    cells = [Cell(NAME, 5000, 1000, rtt_s=0.001), *_instrument(seconds)]
    alone = [Step(SMOKE, 90, _smoke_run)]  # a run needs the machine for itself
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryFile() as log,
        Rig(Settings(), cells) as rig,
        Swarm(1, 1000, rig.access, log) as swarm,
    ):
        store = Store.create(Path(folder) / "run", {})
        steps = [
            Step(NOISE, REST_S, lambda: noise_rows(rig)),
            Step(BORROW, 2, lambda: borrow_rows(rig)),
            Step(RECORD, 1, recording_rows),
            Step(MERGE, 1, merging_rows),
            Step(PHASE, 1, phase_rows),
            *opening_steps(rig, swarm, seconds),
            *pipeline_steps(rig, swarm, seconds),
            *instrument_steps(rig, swarm, store, seconds),
            *ladder_steps(rig, swarm, seconds),
            *rate_steps(rig, swarm, seconds),
            Step(CROSS, 8 * seconds, lambda: cross_check(rig, swarm, seconds, Workload())),
            *prefill_steps(rig, swarm),
            *worker_steps(rig, swarm),
            Step(LIVE, LIVE_ROUNDS * 2 * seconds + 8, lambda: live_rows(rig, seconds)),
        ]
        all_steps = [*steps, *alone]
        display.starts(len(all_steps), sum(step.seconds for step in all_steps), "steps")
        found = take(steps, display)
        own = instrument.certificate(store.cells(), store)
        store.close()
    found |= take(alone, display)
    rows = [asdict(row) for row in _rows(found, own)]
    result = {"machine": manifest(), "seconds": seconds, "rows": rows}
    output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return result


def certify(settings: Settings, store: Store, display: Display) -> None:
    """Store with a run what its cells tell of the instrument, and beside it what they cannot: the
    machine at rest, what recording costs, other tools at the same load. Blocks for some seconds.
    """
    cells = store.cells()
    own = cells[cells["experiment"] == instrument.NAME]
    if own.empty:
        return
    with (
        tempfile.TemporaryFile() as log,
        Rig(settings, [Cell(NAME, 10, 10, rtt_s=0.001)]) as rig,
        Swarm(1, 100, rig.access, log) as swarm,
    ):
        steps = [
            Step(NOISE, REST_S, lambda: noise_rows(rig)),
            Step(RECORD, 0.2, recording_rows),
            Step(MERGE, 0.2, merging_rows),
            Step(
                CROSS,
                8 * CERTIFY_S,
                lambda: cross_check(rig, swarm, CERTIFY_S, settings.workload),
            ),
        ]
        display.starts(len(steps), sum(step.seconds for step in steps), "steps of the certificate")
        found = take(steps, display)
    rows = [*instrument.certificate(own, store), *_single(found)]
    store.note_certificate(asdict(row) for row in rows)


def take(steps: Iterable[Step], display: Display) -> Found:
    """Measure step by step, in this order, and say so; what a step could not measure is kept in its
    place. Blocks for all of them. Raises BenchError for what would spoil the others."""
    found: Found = {}
    for step in steps:
        display.does(step.what)
        try:
            seen = step.measure()
        except NotMeasured as refusal:
            seen = Unmeasured(str(refusal))
        found.setdefault(step.what, []).append(seen)
        display.did(step.what, step.seconds)
    return found


def _known(seen: Iterable[Any]) -> list[Any]:
    return [each for each in seen if not isinstance(each, Unmeasured)]


def _why(*steps: list[Any], note: str = "") -> str:
    """The note of a row, and after it why some of the rounds it rests on were not measured."""
    reasons = [each.why for seen in steps for each in seen if isinstance(each, Unmeasured)]
    return "; ".join(filter(None, [note, *dict.fromkeys(reasons)]))


def _pairs(ours: list[Any], theirs: list[Any]) -> list[tuple[Any, Any]]:
    """Those of each round in which both were measured."""
    turns = zip(ours, theirs, strict=False)  # one may have more, after all the others' rounds
    return [pair for pair in turns if len(_known(pair)) == len(pair)]


def _made(found: Found, what: str) -> list[Row]:
    """The rows of a step that is measured once and makes rows itself."""
    (seen,) = found[what]
    return [Row(what, None, "", note=seen.why)] if isinstance(seen, Unmeasured) else seen


def _rows(found: Found, own: list[Row]) -> list[Row]:
    return [
        *_single(found),
        *own,
        *ladder_rows(found),
        *_made(found, BORROW),
        *_made(found, PHASE),
        *opening_rows(found),
        *pipeline_rows(found),
        *rate_rows(found),
        *prefill_rows(found),
        *worker_rows(found),
        *_made(found, LIVE),
        *run_rows(found),
    ]


def _single(found: Found) -> list[Row]:
    return [row for what in (NOISE, RECORD, MERGE, CROSS) for row in _made(found, what)]


# ---------------------------------------------------------------------- the instrument's own cells


def noise_rows(rig: Rig) -> list[Row]:
    """What the machine does while nothing is asked of it. Blocks for `REST_S`."""
    before = read_cores()
    rig.hiccups.mark()
    time.sleep(REST_S)
    stalls, after = rig.hiccups.read(), read_cores()
    rows = [
        Row("machine at rest: stalls above 1 ms", len(stalls) / REST_S, "/s"),
        Row("machine at rest: longest stall", rig.hiccups.max_s * 1e3, "ms"),
    ]
    if before is None or after is None:
        return rows
    spans = [now.since(then) for now, then in zip(after, before, strict=True)]
    every_s = sum(span.total_s for span in spans) or REST_S
    stolen, busy = (sum(getattr(span, part) for span in spans) / every_s
                    for part in ("steal_s", "busy_s"))  # fmt: skip
    return [
        *rows,
        Row("machine at rest: stolen", 100 * stolen, "%"),
        Row("machine at rest: busy", 100 * busy, "%"),
    ]


def _instrument(seconds: float) -> Iterator[Cell]:
    """The instrument's own plan in the order in which it is measured, as often as rounds ask."""
    planned = instrument.plan("standard", Workload(), 1)
    given = [cell for cell in planned.once if cell.steady and cell.warmup_s]
    special = [cell for cell in planned.once if cell not in given]
    yield from special
    for _ in range(ROUNDS):
        yield from (replace(cell, measure_s=seconds) for cell in given)
    for _ in range(SAME_ROUNDS):
        yield from (replace(cell, measure_s=seconds) for cell in planned.cells)


def instrument_steps(rig: Rig, swarm: Swarm, store: Store, seconds: float) -> list[Step]:
    """Each of the instrument's cells, stored: the certificate is read from there, as a run's is."""

    def of(cell: Cell, round_: int) -> Step:
        def run() -> None:
            for attempt in range(1, ATTEMPTS + 1):
                seen = measure(rig, swarm, cell, round_, round_, attempt)
                store.add(seen)
                if seen.valid:
                    return

        return Step(f"{cell.arm}: {cell.label}", cell.warmup_s + cell.measure_s + AROUND_S, run)

    rounds: dict[Cell, int] = {}
    steps = []
    for cell in _instrument(seconds):
        rounds[cell] = rounds.get(cell, 0) + 1
        steps.append(of(cell, rounds[cell]))
    return steps


def ladder_steps(rig: Rig, swarm: Swarm, seconds: float) -> list[Step]:
    """For each client and way the highest open-loop rate that passes every gate."""
    return [
        Step(
            _ladder(what),
            len(rates) * (seconds + AROUND_S),
            partial(_climb, rig, swarm, client, rtt_s, rates, seconds),
        )
        for what, client, rtt_s, _, rates in LADDERS
    ]


def _ladder(what: str) -> str:
    return f"highest open-loop rate with gates green, {what}"


def _climb(
    rig: Rig, swarm: Swarm, client: Client, rtt_s: float, rates: tuple[int, ...], seconds: float
) -> tuple[float, str]:
    """The last rung that held before one that did not, in requests a second as achieved, and what
    ended the climb."""
    held, ended = 0.0, "every rate tried was held"
    for rate in rates:
        cell = Cell(NAME, LADDER_POOLS[rtt_s], instrument.CARRIERS, rtt_s=rtt_s, client=client,
                    loop="open", arrivals=Arrivals(), offered_qps=float(rate),
                    measure_s=seconds)  # fmt: skip
        for attempt in range(1, LADDER_TRIES + 1):
            seen = measure(rig, swarm, cell, 0, 0, attempt)
            if seen.valid and seen.bound_by != "generator":
                break
        else:
            ended = f"at {rate:,}/s: {seen.invalid_reasons or f'bound by {seen.bound_by}'}"
            break
        held = seen.qps
    return held, ended


def ladder_rows(found: Found) -> list[Row]:
    rows = []
    for what, _, _, least, _ in LADDERS:
        held, ended = (_known(found[_ladder(what)]) or [(None, _why(found[_ladder(what)]))])[0]
        row = Row(_ladder(what), held, "/s", note=ended)
        served = instrument.SERVED * (least or 0)
        rows.append(Row.at_least(row.what, held, "/s", served, ended) if least else row)
    return rows


# ---------------------------------------------------------------------- rates, tool beside tool


def rate_steps(rig: Rig, swarm: Swarm, seconds: float) -> list[Step]:
    """Closed-loop GET rates of every client, taking turns."""

    def ours(what: str) -> Step:
        return Step(what, seconds + AROUND_S, _ours(rig, swarm, *OURS[what], seconds))

    pair = [ours(LEAN)]
    if shutil.which("redis-benchmark"):
        pair.append(Step(BENCHMARK, seconds + 0.5, lambda: redis_benchmark(rig, seconds)))
    ordinary = Step(STOCK, seconds + 5, lambda: stock(rig, seconds))
    others = [ordinary, *(ours(what) for what in OURS if what != LEAN)]
    return [*pair, *others] * ROUNDS + pair * MORE_PAIRS


def rate_rows(found: Found) -> list[Row]:
    """Medians over the rounds, then ratios within them."""
    rows = []
    rates = {what: found[what] for what in (BENCHMARK, STOCK, *OURS) if what in found}
    for name, seen in rates.items():
        known, note = _known(seen), _why(seen)
        rows += [
            Row(f"GET rate, {name}", _median(rate.qps for rate in known), "/s", note=note),
            Row(f"client CPU, {name}", _median(rate.cpu_us for rate in known), "µs/op", note=note),
        ]
    return rows + _ratios(rates)


def _ratios(rates: dict[str, list[Any]]) -> list[Row]:
    def ratio(name: str, other: str, least: float, note: str = "") -> Row:
        pairs = [ours.qps / theirs.qps for ours, theirs in _pairs(rates[LEAN], rates[other])]
        known = log_t_interval(pairs)
        doubt = f"95 % of {len(pairs)} pairs: {known.low:.2f}–{known.high:.2f}{note}"
        few = "one pair" if pairs else ""
        told = _why(rates[LEAN], rates[other], note=doubt if len(pairs) > 1 else few)
        return Row.at_least(f"lean ÷ {name}", _median(pairs), "×", least, told)

    rows = [ratio("stock Locust", STOCK, 8)]
    if BENCHMARK in rates:
        rows.append(ratio("redis-benchmark", BENCHMARK, 0.7, "; aim 0.85"))
    else:
        rows.append(Row("lean ÷ redis-benchmark", None, "×", "≥ 0.7", None, "not on PATH"))
    return rows


def _ours(rig: Rig, swarm: Swarm, client: Client, users: int, seconds: float) -> Callable[[], Rate]:
    cell = Cell(NAME, users, users, client=client, measure_s=seconds)

    def run() -> Rate:
        seen = _settled(rig, swarm, cell)
        return Rate(seen.qps, seen.client_cpu_us_per_op or 0.0)

    return run


# ---------------------------------------------------------------------- connections, pipelines


def opening_steps(rig: Rig, swarm: Swarm, seconds: float) -> list[Step]:
    """A connection for each request, as fast as one worker can, by clients that take turns."""

    def of(what: str, client: Client, resp: int, timed: bool) -> Step:
        users = 1 if timed or what == UNTIMED else OPENING_USERS
        cell = Cell(
            NAME, users, users, client=client, resp=resp, opening="lazy", max_uses=1,
            time_phases=timed, measure_s=seconds,
        )  # fmt: skip
        return Step(what, seconds + AROUND_S, lambda: _settled(rig, swarm, cell))

    return [
        of(what, client, resp, timed) for what, (client, resp, timed, _) in OPENINGS.items()
    ] * ROUNDS


OPENING_USERS = 8
FLOOR = "connections opened, a bare socket (the floor)"
UNTIMED, TIMED = "connections opened, bare, one user", "connections opened, bare, phases timed"
# Client, protocol, whether phases are timed, least to reach.
OPENINGS: dict[str, tuple[Client, int, bool, float | None]] = {
    FLOOR: ("bare", 2, False, None),
    "connections opened, lean, protocol 2 (tuned)": ("lean", 2, False, 4_500),
    "connections opened, redis-py as it comes": ("redis-py", 3, False, 1_200),
    UNTIMED: ("bare", 2, False, None),
    TIMED: ("bare", 2, True, None),
}


def opening_rows(found: Found) -> list[Row]:
    """Medians over the rounds, and what timing phases costs a bare connection, in pairs."""
    rows = []
    for what, (*_, least) in OPENINGS.items():
        rate = _median(seen.qps for seen in _known(found[what]))
        share = _median(own.qps / floor.qps for own, floor in _pairs(found[what], found[FLOOR]))
        said = "" if share is None else f"{share:.3f} × the floor"
        note = _why(found[what], found[FLOOR], note=said)
        row = Row(what, rate, "/s", note=note)
        rows.append(Row.at_least(what, rate, "/s", least, note) if least else row)
    return [*rows, _timing_row(found)]


def _timing_row(found: Found) -> Row:
    """In pairs, per phase of a connection."""
    added = [
        ((timed.client_cpu_us_per_op or 0.0) - (plain.client_cpu_us_per_op or 0.0))
        / len(timed.phases)
        for timed, plain in _pairs(found[TIMED], found[UNTIMED])
    ]
    phases = max((len(seen.phases) for seen in _known(found[TIMED])), default=0)
    said = f"of CPU, over {phases} phases of a bare connection, in {len(added)} pairs"
    note = _why(found[TIMED], found[UNTIMED], note=said if added else "")
    return Row("timing phases: added to each", _median(added), "µs", note=note)


DEEP, DEEP_BESIDE = "one connection, depth 100", "redis-benchmark -P 100 -c 1"
DEPTH = 100


def pipeline_steps(rig: Rig, swarm: Swarm, seconds: float) -> list[Step]:
    """Commands sent a hundred at a time over one connection, beside redis-benchmark's."""
    cell = Cell(NAME, 1, 1, workload=Workload(depth=DEPTH), measure_s=seconds)
    steps = [Step(DEEP, seconds + AROUND_S, lambda: _settled(rig, swarm, cell))]
    if shutil.which("redis-benchmark"):
        beside = partial(redis_benchmark, rig, seconds, connections=1, depth=DEPTH)
        steps.append(Step(DEEP_BESIDE, seconds + 0.5, beside))
    return steps * ROUNDS


def pipeline_rows(found: Found) -> list[Row]:
    rate = _median(seen.qps * DEPTH for seen in _known(found[DEEP]))
    rows = [Row.at_least(f"commands over {DEEP}", rate, "/s", 400_000, _why(found[DEEP]))]
    if DEEP_BESIDE in found:
        beside = _median(each.qps for each in _known(found[DEEP_BESIDE]))
        rows.append(Row(f"commands by {DEEP_BESIDE}", beside, "/s", note=_why(found[DEEP_BESIDE])))
    return rows


# ---------------------------------------------------------------------- prefill, memory


def _cell_seen(
    rig: Rig, swarm: Swarm, pool: int, users: int, rtt_s: float, seconds: float
) -> Observation:
    return _settled(rig, swarm, Cell(NAME, pool, users, rtt_s=rtt_s, measure_s=seconds))


def _settled(rig: Rig, swarm: Swarm, cell: Cell) -> Observation:
    """The first valid of at most `ATTEMPTS` measurements; raises NotMeasured if none is."""
    for attempt in range(1, ATTEMPTS + 1):
        seen = measure(rig, swarm, cell, 0, 0, attempt)
        if seen.valid:
            return seen
    raise NotMeasured(f"it stayed invalid {ATTEMPTS} times: {seen.invalid_reasons}; try later")


def prefill_steps(rig: Rig, swarm: Swarm) -> list[Step]:
    """Time to open large pools."""

    def of(pool: int, rtt_s: float, limit_s: float) -> Step:
        return Step(_prefill(pool, rtt_s), SETTLE_S + limit_s,
                    lambda: _prefill_s(rig, swarm, pool, rtt_s))  # fmt: skip

    return [step for each in PREFILLS for step in [of(*each)] * ROUNDS]


def prefill_rows(found: Found) -> list[Row]:
    return [
        Row.at_most(what, _median(_known(found[what])), "s", limit_s, _why(found[what]))
        for pool, rtt_s, limit_s in PREFILLS
        for what in [_prefill(pool, rtt_s)]
    ]


def _prefill(pool: int, rtt_s: float) -> str:
    return f"prefill {pool} at {rtt_s * 1e3:g} ms"


def worker_steps(rig: Rig, swarm: Swarm) -> list[Step]:
    """A worker's memory with a large pool, and what small cells take outside measuring."""

    def outside(pool: int) -> Step:
        return Step(OUTSIDE, 0.5 + AROUND_S,
                    lambda: _cell_seen(rig, swarm, pool, pool, 0.001, 0.5).outside_s)  # fmt: skip

    large = Step(WORKER, 4, lambda: _cell_seen(rig, swarm, 5000, 1000, 0.0, 1.0).client_rss_bytes)
    return [large, *map(outside, (5, 50, 500, 10, 100, 200))]


def worker_rows(found: Found) -> list[Row]:
    memory = _median(each / 1e6 for each in _known(found[WORKER]))
    outside_s = max(_known(found[OUTSIDE]), default=None)
    return [
        Row.at_most(WORKER, memory, "MB", 400, _why(found[WORKER])),
        Row.at_most(OUTSIDE, outside_s, "s", 0.8, _why(found[OUTSIDE])),
    ]


def _smoke_run() -> tuple[float, int]:
    """Seconds and exit status of a whole run."""
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "bench", "run", "--profile", "smoke", "--results", results]
        began = clock()
        running = spawn(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            status = running.wait()
        finally:
            end(running)
        return clock() - began, status


def run_rows(found: Found) -> list[Row]:
    """How long whole runs take: a smoke run now, the committed standard run by its own clock."""
    seconds, status = found[SMOKE][0]
    note = "" if status == 0 else f"exit status {status}"
    smoke = Row.at_most(SMOKE, seconds, "s", 90, note)
    rows = [replace(smoke, reached=bool(smoke.reached) and status == 0)]
    if REFERENCE.exists():
        told = json.loads(REFERENCE.read_bytes())
        if told["settings"]["profile"] == "standard" and "ended" in told:
            started, ended = (datetime.fromisoformat(told[name]) for name in ("started", "ended"))
            took_s = (ended - started).total_seconds()
            rows.append(Row.at_most("standard run, of results/reference", took_s, "s", 195))
    return rows


def _prefill_s(rig: Rig, swarm: Swarm, pool: int, rtt_s: float) -> float:
    swarm.close_pools()
    time.sleep(SETTLE_S)
    cell = Cell(NAME, pool, 1, rtt_s=rtt_s)
    return float(swarm.prepare(cell, rig.address(cell), seed=0)[0]["seconds"])


def _median(values: Iterable[float]) -> float | None:
    """None where none was measured."""
    known = list(values)
    return float(statistics.median(known)) if known else None
