"""Lanes that sleep: real pools, a real worker, real traps; and what the master makes of them."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
from typing import Any

import pytest
from children import NO_SERVER, run_check

from bench.analysis import gates
from bench.model import (
    OUTCOMES,
    Arrivals,
    Cell,
    Idling,
    Outage,
    PreflightError,
    Service,
    Settings,
)

CHECKS = ("sleeps", "outage", "workers", "asyncio")


def cell(trap: str = "none", **changed: Any) -> Cell:
    """A pool of 30, a burst of 60 requests, before and after a short sleep."""
    timed = {"trap_s": 0.5} if trap not in ("none", "link", "redis defaults") else {}
    idling = Idling(trap=trap, gap_s=1.2, requests=60, volley=10, **timed)  # type: ignore[arg-type]
    fields: dict[str, Any] = {
        "pool_size": 30, "concurrency": 60, "loop": "open", "client": "tuned", "resp": 2,
        "offered_qps": 1_000.0, "arrivals": Arrivals(), "socket_timeout_s": 0.2, "idling": idling,
    }  # fmt: skip
    return Cell("lanes", **(fields | changed))


# What a cell may ask


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"trap": "firewall", "trap_s": 2.5}, "counts whole seconds"),
        ({"trap": "redis timeout", "trap_s": 0.5}, "counts whole seconds"),
        ({"trap": "link fin", "trap_s": 0.0}, "trap_s is 0"),
        ({"cycles": 0, "fresh": False}, "cycles is 0"),
        ({"volley": 2_000}, "volley is 2000"),
    ],
)
def test_what_no_lane_can_do_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(PreflightError, match=said):
        Idling(**changed)


def test_a_service_with_fewer_threads_than_connections_is_refused() -> None:
    with pytest.raises(PreflightError, match="fewer than the pool's 30 connections"):
        cell(service=Service(threads=20))


def test_a_cell_that_sleeps_survives_being_taken_apart() -> None:
    asked = cell("link fin", outage=Outage("stop", 0.1, 0.2), service=Service(40))
    assert Cell.from_dict(dataclasses.asdict(asked)) == asked
    assert Cell.from_dict(dataclasses.asdict(asked)).id == asked.id


def test_a_burst_that_came_too_late_makes_the_cell_invalid() -> None:
    assert gates.gap(14.5, 14.0, 4.2).passed
    late = gates.gap(19.0, 14.0, 4.2)
    assert late.passed is False
    assert "5.0 s late" in late.reason


def test_a_burst_may_come_no_later_than_the_next_timer() -> None:
    from bench.load import sleepers

    slept = Idling(trap="link silence", gap_s=8.8, trap_s=8.0, requests=60, volley=10)
    asked = cell(idling=slept, max_idle_s=9.6)
    assert sleepers._room_s(asked) == pytest.approx(0.8)
    assert sleepers._room_s(dataclasses.replace(asked, max_idle_s=None)) == pytest.approx(2.64)


def test_no_two_lanes_of_a_run_meet_the_same_arrivals() -> None:
    from bench.rig.traps import Traps

    traps = Traps(Settings(), [])
    which = list(itertools.product(range(1, 7), range(40), range(3)))
    assert len({traps.seed(*each) for each in which}) == len(which)


def test_a_generator_that_was_late_makes_the_cell_invalid() -> None:
    assert gates.burst_lag(0.010).passed
    late = gates.burst_lag(0.028)
    assert late.passed is False
    assert "28.0 ms behind" in late.reason


def test_a_machine_that_slept_makes_the_cell_invalid() -> None:
    """The wall clock goes on while the monotonic one stands still."""
    assert gates.clock(3600.0, 0).passed is False


# What became of a request


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_outcomes_are_told_by_the_systems_own_word() -> None:
    import redis  # here: the checks below must import locust before it

    from bench.load.loans import outcome_of
    from bench.load.pool import AcquireTimeout

    lost = redis.ConnectionError("Error while reading")
    told = {
        "broken pipe": chained(lost, OSError(errno.EPIPE, "Broken pipe")),
        "reset": chained(redis.ConnectionError("x"), OSError(errno.ECONNRESET, "reset")),
        "refused": chained(redis.ConnectionError("x"), OSError(errno.ECONNREFUSED, "refused")),
        "time-out": redis.TimeoutError("Timeout reading from socket"),
        "closed": redis.ConnectionError("Connection closed by server."),
        "no connection": AcquireTimeout("none came free"),
        "other": redis.ConnectionError("something else"),
    }
    assert {kind: outcome_of(error) for kind, error in told.items()} == {k: k for k in told}
    assert set(told) < set(OUTCOMES)


# On a real rig, in a process of its own: Locust patches it


@pytest.mark.parametrize("name", CHECKS)
def test_on_a_real_rig(name: str) -> None:
    run_check(__file__, NO_SERVER, name)


@pytest.mark.parametrize("name", ["firewall", "firewall_asyncio", "passage"])
def test_behind_a_firewall(name: str) -> None:
    from bench.rig import firewall  # here: as redis above

    if why := firewall.missing():
        pytest.skip(f"not run: {why}")
    run_check(__file__, NO_SERVER, name)


def measured(cells: list[Cell]) -> dict[str, Any]:
    import tempfile

    from bench.load.crew import hands
    from bench.load.sleepers import measure_asleep
    from bench.model import Settings
    from bench.rig.traps import Traps

    with (
        tempfile.TemporaryFile() as log,
        Traps(Settings(), cells) as traps,
        hands(cells, traps.access, log) as crews,
    ):
        tries = {each.id: 1 for each in cells}
        found = measure_asleep(traps, crews, cells, 1, 1, tries, lambda cell: None)
        return {each.cell.arm: each for each in found}


def outcomes(burst: Any) -> dict[str, int]:
    return {name: n for name, n in zip(OUTCOMES, burst.outcomes, strict=True) if n}


def check_sleeps() -> None:
    """Fresh, every request is answered; after the gap a trap's own outcome is met, and a defence
    meets it or does not."""
    cells = [
        cell("none", arm="none"),
        cell("link fin", arm="fin"),
        cell("link reset", arm="reset"),
        cell("link reset on next", arm="next", test_on_borrow="passive"),
        cell("link silence", arm="silence"),
        cell("link silence", arm="retried", retries=3),
        cell("link silence", arm="pinged", test_on_borrow="ping"),
        cell("link fin", arm="tested", test_on_borrow="passive"),
        cell("link silence", arm="evicted", max_idle_s=0.3),
    ]
    found = measured(cells)
    for name, each in found.items():
        assert each.valid, f"{name}: {each.invalid_reasons}"
        fresh, later = each.bursts
        assert outcomes(fresh) == {"ok": 60}, f"{name}: {outcomes(fresh)}"
        assert later.gap_s >= 1.2
        assert sum(later.outcomes) == 60

    def met(name: str) -> Any:
        return found[name].bursts[1]

    assert outcomes(met("none")) == {"ok": 60}
    for name, kind in (("fin", "closed"), ("reset", "reset"), ("next", "reset"),
                       ("silence", "time-out")):  # fmt: skip
        burst = met(name)
        assert outcomes(burst)[kind] == 30, f"{name}: {outcomes(burst)}"  # the whole pool was dead
        assert burst.overdue == burst.overdue_failed == 30
    assert outcomes(met("retried")) == {"ok": 30, "ok after retry": 30}
    assert met("retried").latency_max_s >= 0.2  # its socket's time-out came first
    for name in ("pinged", "tested", "evicted"):
        assert outcomes(met(name)) == {"ok": 60}, f"{name}: {outcomes(met(name))}"
        assert met(name).server_connects >= 10
    assert met("pinged").closed_stale == met("pinged").server_connects
    assert met("pinged").server_pings >= 30
    kept = found["silence"]
    assert kept.operations == 60 + 30
    assert kept.errors == 30


def check_outage() -> None:
    """While Redis stands still, threads are held; what needs no Redis is served by the others."""
    base = cell(
        "link", pool_size=5, offered_qps=400.0, keep_requests=True, socket_timeout_s=None,
        idling=Idling("link", gap_s=0.0, cycles=0, requests=320, volley=0),
    )  # fmt: skip

    def service(arm: str, fault: str, threads: int, **changed: Any) -> Cell:
        fields = {"outage": Outage(fault, 0.2, 0.4), "service": Service(threads, 0.1, 0.5, 0.001)}  # type: ignore[arg-type]
        return dataclasses.replace(base, arm=arm, **(fields | changed))

    found = measured(
        [
            service("starved", "stop", 10),
            service("saved", "stop", 60, acquire_timeout_s=0.03),
            service("stalled", "stall", 10),
            service("paused", "pause", 10),
            service("cut", "cut", 60),
            dataclasses.replace(
                service("restarted", "restart", 60, retries=10, backoff_s=1.0),
                service=None,
            ),
        ]
    )
    told = {name: outcomes(each.bursts[0]) for name, each in found.items()}
    for name, each in found.items():
        (burst,) = each.bursts
        assert each.valid, f"{name}: {each.invalid_reasons}"
        assert burst.fault_ended_s - burst.fault_began_s >= 0.4
        assert sum(burst.outcomes) == 320
        assert len(each.series) > 3
    for name in ("starved", "stalled", "paused"):
        assert told[name].get("no thread", 0) > 20, f"{name}: {told[name]}"
    assert "no thread" not in told["saved"]
    assert told["saved"]["no connection"] > 10
    assert told["cut"].get("refused", 0) > 5
    back = told["restarted"]  # pauses with jitter may add up to less than the server is away for
    assert back["ok after retry"] > 0
    assert back["ok"] + back["ok after retry"] > 280


def behind() -> Cell:
    return cell(idling=Idling("firewall", 1.0, gap_s=2.5, requests=60, volley=10))


def check_firewall() -> None:
    """What it forgot meets silence."""
    (found,) = measured([behind()]).values()
    assert found.valid, found.invalid_reasons
    fresh, later = found.bursts
    assert outcomes(fresh) == {"ok": 60}
    assert outcomes(later) == {"ok": 30, "time-out": 30}


def on_asyncio(trap: str, arm: str, **changed: Any) -> Cell:
    return cell(trap, arm=arm, maker="redis-py asyncio", client="redis-py", resp=3, **changed)


def check_asyncio() -> None:
    """redis-py's asyncio pool, as it is: what became of its commands is told as of the others'. It
    does not wait for a connection."""
    found = measured(
        [
            on_asyncio("none", "none"),
            on_asyncio("link fin", "fin"),
            on_asyncio("link silence", "silence"),
            on_asyncio("link silence", "retried", retries=3),
            cell("none", arm="ours"),
        ]
    )
    for name, each in found.items():
        assert each.valid, f"{name}: {each.invalid_reasons}"
        assert outcomes(each.bursts[0]) == {"ok": 60}, name
    met = {name: each.bursts[1] for name, each in found.items()}
    assert outcomes(met["none"]) == {"ok": 60}
    assert met["fin"].overdue == met["fin"].overdue_failed == outcomes(met["fin"])["closed"] > 0
    assert outcomes(met["silence"]) == {"time-out": 30, "no connection": 30}
    assert outcomes(met["retried"]) == {"ok after retry": 30, "no connection": 30}
    assert met["retried"].overdue_failed == met["retried"].server_connects == 30


def check_firewall_asyncio() -> None:
    """By sockets that were made inside."""
    asked = dataclasses.replace(on_asyncio("none", ""), idling=behind().idling)
    (found,) = measured([asked]).values()
    assert found.valid, found.invalid_reasons
    assert outcomes(found.bursts[0]) == {"ok": 60}
    assert outcomes(found.bursts[1]) == {"time-out": 30, "no connection": 30}


def check_passage() -> None:
    """A lane that is closed keeps no socket in the firewall's namespaces."""
    from bench.load.lanes import Keeper
    from bench.rig.firewall import Firewall
    from bench.rig.server import open_server

    with Firewall(5) as wall, open_server(None, max_connections=100, firewall=wall) as server:
        os.environ["BENCH_REDIS_URL"] = server.url
        keeper, counts = Keeper(), []
        for lane in range(3):  # the first opens what the process keeps
            keeper.open(lane, dataclasses.asdict(behind()), [*wall.server_address], wall.passage, 1)
            assert wall.entries() >= 30
            keeper.close(lane)
            counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[0] == counts[2], counts


def check_workers() -> None:
    """Each of two workers has a pool of its own, and half of the requests."""
    (found,) = measured([cell("none", arm="two", workers=2, keep_requests=True)]).values()
    assert found.valid, found.invalid_reasons
    assert found.bursts[0].server_connections >= 60
    assert [outcomes(each) for each in found.bursts] == [{"ok": 60}] * 2


if __name__ == "__main__":
    import sys

    import bench.load.swarm  # noqa: F401 (patches the process, before all else)

    globals()[f"check_{sys.argv[2]}"]()
