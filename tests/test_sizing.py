"""The advisor: sizes against published values, against formulas, and against simulation."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bench.model import PreflightError
from bench.rig.server import Server
from bench.sizing import show
from bench.sizing.advice import DOUBLE, FLAT, HALF, RECOMMENDED, Advice, advise, as_json
from bench.sizing.clients import ALIASES, CLIENTS, settings
from bench.sizing.holds import exponential, lognormal, measured
from bench.sizing.hops import HOPS
from bench.sizing.pools import Load, Objective, Simulation, by_formula, described, recommended
from bench.sizing.question import Asked, checked
from bench.store import load_cells

ROOT = Path(__file__).resolve().parent.parent


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("REDIS_URL", "NO_COLOR")}
    return subprocess.run(
        [sys.executable, "-m", "bench", "size", *arguments],
        capture_output=True, text=True, timeout=120, cwd=ROOT, env={**inherited, **environment},
    )  # fmt: skip


def asked(**options: Any) -> Advice:
    given = {"rate": "10000/s", "latency": "1ms", **options}
    return advise(checked(Asked(**given), None))


@pytest.fixture(scope="module")
def plain() -> Advice:
    """10,000/s at 1 ms: the load of ten that everything is compared with."""
    return asked()


# ---------------------------------------------------------------------- the size


SHARES = ("20%", "10%", "0.05", "1%", "0.001")


@pytest.mark.parametrize(
    ("rate", "share", "connections"),
    [
        *zip(["10000/s"] * 5, SHARES, (14, 16, 17, 19, 22), strict=True),
        *zip(["100k/s"] * 5, SHARES, (111, 115, 119, 125, 134), strict=True),
        ("1000/s", "1%", 5),
        ("5000/s", "1%", 12),
        ("50k/s", "1%", 68),
    ],
)
def test_the_published_sizes(rate: str, share: str, connections: int) -> None:
    assert asked(rate=rate, wait_share=share, client="go").connections == connections


def by_logarithms(load: float, servers: int) -> float:
    """Erlang C from its sum, term by term in logarithms: no recursion."""
    terms = [n * math.log(load) - math.lgamma(n + 1) for n in range(servers)]
    last = servers * math.log(load) - math.lgamma(servers + 1) - math.log(1 - load / servers)
    top = max(*terms, last)
    whole = math.fsum(math.exp(term - top) for term in [*terms, last])
    return math.exp(last - top) / whole


def test_a_load_of_a_thousand_is_what_the_sum_itself_gives() -> None:
    load, servers = 1000.0, 1001
    while by_logarithms(load, servers) > 0.01:
        servers += 1
    found = by_formula(Load(1e6, exponential(1e-3)), (Objective(0, 0.01),))
    assert (found, by_logarithms(load, found) <= 0.01) == (servers, True)


@pytest.mark.parametrize("load", [0.001, 0.3, 10_000.0, 300_000.0])
def test_the_smallest_size_is_found_for_tiny_and_huge_loads(load: float) -> None:
    objective = Objective(0, 0.01)
    found = by_formula(Load(load * 1e3, exponential(1e-3)), (objective,))
    assert load < found < load + 3 * math.sqrt(load) + 3


def test_the_longest_wait_asked_for_sizes_by_its_tail() -> None:
    """P(wait > t) = C·exp(−(c − A)·t/S): 13 connections leave 0.29·e^(−1.5)… above 1 %."""
    found = asked(wait_p99="0.5ms").connections
    tails = {n: by_logarithms(10, n) * math.exp(-(n - 10) * 0.5) for n in (found - 1, found)}
    assert tails[found] <= 0.01 < tails[found - 1]
    both = asked(wait_p99="0.5ms", wait_share="0.1%")
    assert both.connections == 22


def test_pods_share_the_load() -> None:
    advice = asked(rate="40000/s", pods=4)
    assert (advice.connections, advice.connections_total) == (19, 76)
    assert advice.maxclients_share == pytest.approx(0.0076)


@pytest.mark.parametrize("burst", [{"peak": "10000/s"}, {"burst": "2x"}])
def test_the_peak_decides_and_the_mean_is_told(burst: dict[str, str]) -> None:
    advice = asked(rate="5000/s", **burst)
    assert advice.connections == 19
    assert advice.connections_for_mean_rate == 12


def test_half_double_and_the_flat_rule(plain: Advice) -> None:
    half, double = plain.sizes[HALF], plain.sizes[DOUBLE]
    assert (half.connections, half.stable, half.wait_share) == (9, False, 1)
    assert half.simulated_wait_share is half.wait_p99_s is None
    assert (double.connections, double.wait_p99_s, double.simulated_wait_p999_s) == (38, 0, 0)
    assert plain.sizes[FLAT].connections == 20


@pytest.mark.parametrize(
    ("rate", "said"), [("1000/s", "too small"), ("10000/s", "about right"), ("100k/s", "generous")]
)
def test_the_flat_rule_is_too_small_right_and_generous(rate: str, said: str) -> None:
    assert said in asked(rate=rate).flat_rule


def test_a_load_of_next_to_nothing_needs_one_or_two() -> None:
    advice = asked(rate="1/min", latency="10us")
    assert advice.connections == 1
    assert HALF not in advice.sizes


def test_a_half_that_holds_is_simulated_too() -> None:
    half = asked(rate="1000/s", wait_share="0.1%").sizes[HALF]
    assert half.stable
    assert half.simulated_wait_share == pytest.approx(half.wait_share, rel=0.1)


# ---------------------------------------------------------------------- the simulation beside it


def test_the_simulated_share_is_erlang_cs(plain: Advice) -> None:
    best = plain.sizes[RECOMMENDED]
    assert best.wait_share == pytest.approx(by_logarithms(10, 19))
    assert best.simulated_wait_share == pytest.approx(best.wait_share, rel=0.15)


def test_the_simulated_p99_is_the_tail_of_m_m_c() -> None:
    size = described(Simulation(Load(10_000, exponential(1e-3))), 14)
    expected = 1e-3 / 4 * math.log(by_logarithms(10, 14) / 0.01)
    assert size.wait_p99_s == pytest.approx(expected)
    assert size.simulated_wait_p99_s == pytest.approx(expected, rel=0.05)


def test_equal_hold_times_wait_less_than_exponential_ones() -> None:
    equal = described(Simulation(Load(10_000, lognormal(1e-3, 1e-3))), 14)
    spread = described(Simulation(Load(10_000, exponential(1e-3))), 14)
    assert equal.simulated_wait_p99_s is not None
    assert spread.simulated_wait_p99_s is not None
    assert 0 < equal.simulated_wait_p99_s < 0.8 * spread.simulated_wait_p99_s


def test_a_long_tail_gets_a_larger_pool_where_the_wait_itself_is_limited() -> None:
    hold = lognormal(0.5e-3, 10e-3)
    load = Load(10 / hold.mean_s, hold)
    objectives = (Objective(3e-3, 0.01),)
    simulation = Simulation(load)
    found = recommended(simulation, objectives)
    assert found > by_formula(load, objectives)
    assert not simulation.exceeds(found, objectives[0])
    assert simulation.exceeds(found - 1, objectives[0])


def test_a_queue_too_near_its_limit_is_not_simulated() -> None:
    size = described(Simulation(Load(9_999.9, exponential(1e-3))), 10)
    assert size.stable
    assert size.simulated_wait_p99_s is None
    assert size.wait_p99_s is not None


def test_a_huge_load_is_either_simulated_long_enough_or_not() -> None:
    simulation = Simulation(Load(50_000_000, exponential(1e-2)))
    assert simulation.requests > 0
    assert described(simulation, 600_000).simulated_wait_share is None


def test_the_lognormal_goes_through_both_percentiles() -> None:
    hold = lognormal(1e-3, 8e-3)
    drawn = hold.draw(400_000, np.random.default_rng(1))
    assert np.quantile(drawn, 0.5) == pytest.approx(1e-3, rel=0.02)
    assert np.quantile(drawn, 0.99) == pytest.approx(8e-3, rel=0.03)
    assert np.quantile(drawn, 0.999) == pytest.approx(hold.p999_s, rel=0.06)
    assert drawn.mean() == pytest.approx(hold.mean_s, rel=0.01)


def test_what_was_measured_is_drawn_in_its_shares() -> None:
    hold = measured([1e-3, 5e-3], [9_000, 1_000], "here")
    assert (hold.mean_s, hold.p50_s, hold.p99_s) == (pytest.approx(1.4e-3), 1e-3, 5e-3)
    drawn = hold.draw(100_000, np.random.default_rng(1))
    assert (drawn == 5e-3).mean() == pytest.approx(0.1, abs=0.005)
    assert set(drawn) == {1e-3, 5e-3}


# ---------------------------------------------------------------------- timeouts


@pytest.mark.parametrize("name", HOPS)
def test_timeouts_stay_below_every_hop(name: str) -> None:
    advice = asked(idle_timeout=name, client="go")
    told, hop = advice.timeouts, HOPS[name]
    assert name in told.reasons["idle timeout"]
    assert told.passive_is_enough == (hop.sees == "closed")
    assert ("PING" in told.reasons["validation"]) == (hop.sees != "closed")
    limit = hop.closes_after_s or math.inf
    assert told.idle_timeout_s + told.sweep_interval_s < limit
    assert told.keepalive_idle_s * told.keepalive_probes <= max(limit, 3)


def test_the_shortest_hop_of_a_path_counts_and_a_changed_one_is_heeded() -> None:
    path = checked(Asked("1/s", latency="1ms", idle_timeout="aws-nlb, azure-lb"), None).path
    assert path.name == "azure-lb"
    changed = asked(idle_timeout="aws-nlb,haproxy=20s").timeouts
    assert changed.idle_timeout_s == 10
    assert changed.passive_is_enough
    assert asked(idle_timeout="redis-timeout=300s").timeouts.idle_timeout_s == 150


def test_a_path_of_which_nothing_is_said_is_as_short_as_the_shortest(plain: Advice) -> None:
    shortest = min(hop.closes_after_s for hop in HOPS.values() if hop.closes_after_s)
    assert plain.question.path.closes_after_s == shortest
    assert any("idle timeout is unknown" in said for said in plain.question.assumptions)
    assert not plain.timeouts.passive_is_enough


@pytest.mark.parametrize("latency", ["1us", "1ms", "20ms", "3s", "60s"])
def test_timeouts_leave_room_for_what_is_normal(latency: str) -> None:
    advice = asked(rate="20/s", latency=latency)
    told, hold, best = advice.timeouts, advice.question.hold, advice.sizes[RECOMMENDED]
    assert told.command_timeout_s >= 0.2 + 2 * hold.p999_s
    assert told.connect_timeout_s > 1 + hold.p999_s
    assert told.acquire_timeout_s >= max(0.1, 3 * (best.wait_p999_s or 0))
    for seconds in (told.command_timeout_s, told.connect_timeout_s, told.acquire_timeout_s):
        assert float(f"{seconds:.1e}") == seconds  # two digits at most


def test_a_hang_holds_up_the_pool_and_those_who_wait_for_it(plain: Advice) -> None:
    assert plain.timeouts.acquire_timeout_s == 0.1
    assert plain.timeouts.held_up_requests == 19 + 1_000


# ---------------------------------------------------------------------- settings to paste

NUMBERS = {
    "redis-py": ("max_connections=19", "timeout=0.1", "socket_timeout=0.25",
                 "socket_connect_timeout=1.5", "health_check_interval=25", "TCP_KEEPIDLE: 16"),
    "jedis": ("setMaxTotal(19)", "setMaxWait(Duration.ofMillis(100))", "setMinIdle(10)",
              "socketTimeoutMillis(250)", "connectionTimeoutMillis(1500)",
              "setMinEvictableIdleDuration(Duration.ofSeconds(25))"),
    "lettuce": ("setMaxTotal(19)", "connectTimeout(Duration.ofMillis(1500))",
                "idle(Duration.ofSeconds(16))", "Duration.ofMillis(250)"),
    "go-redis": ("PoolSize:              19", "MaxActiveConns:        19", "100 * time.Millisecond",
                 "250 * time.Millisecond", "1500 * time.Millisecond", "25 * time.Second",
                 "1800 * time.Second", "180 * time.Second"),
    "node-redis": ("maximum: 19", "minimum: 10", "acquireTimeout: 100", "connectTimeout: 1500",
                   "timeout: 250", "cleanupDelay: 25000", "keepAliveInitialDelay: 16000"),
    "stackexchange": ("connectTimeout=1500", "syncTimeout=250", "asyncTimeout=250",
                      "keepAlive=16"),
    "redis-rs": ("max_size(19)", "from_millis(100)", "from_millis(250)", "idle_timeout",
                 "from_secs(25)", "from_secs(1800)", "from_secs(16)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLIENTS)
def test_every_client_is_told_the_numbers(plain: Advice, name: str) -> None:
    pasted = settings(CLIENTS[name], plain.plan)
    for number in NUMBERS[name]:
        assert number in pasted
    assert max(map(len, pasted.splitlines())) <= 80
    assert not pasted.startswith(" ")
    assert CLIENTS[name].notes(plain.plan)


@pytest.mark.parametrize("name", ["lettuce", "node-redis", "stackexchange"])
def test_multiplexed_clients_are_said_to_need_no_pool(plain: Advice, name: str) -> None:
    client = CLIENTS[name]
    assert client.multiplexed
    assert "multiplexe" in " ".join(client.notes(plain.plan))


def test_what_is_pasted_for_redis_py_runs(plain: Advice, redis_server: Server) -> None:
    import socket

    import redis

    names: dict[str, Any] = {"redis": redis, "socket": socket}
    text = settings(CLIENTS["redis-py"], plain.plan)
    text = text.replace('"HOST"', f'"{redis_server.host}", port={redis_server.port}')
    exec(text, names)
    assert names["client"].ping()
    assert names["pool"].max_connections == 19
    assert names["pool"].timeout == 0.1
    names["pool"].disconnect()


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_of_clients(alias: str) -> None:
    (client,) = checked(Asked("1/s", latency="1ms", client=alias.upper()), None).clients
    assert client.name == ALIASES[alias]


# ---------------------------------------------------------------------- the verb

UNITS = ("_s", "_per_s", "connections", "share", "requests", "pods", "probes")


def numbers(value: Any, key: str = "") -> list[str]:
    if isinstance(value, dict):
        return [found for name, part in value.items() for found in numbers(part, name)]
    if isinstance(value, list):
        return [found for part in value for found in numbers(part, key)]
    return [key] if isinstance(value, int | float) and not isinstance(value, bool) else []


def test_the_verb_answers_in_json() -> None:
    done = bench("--rate", "10000/s", "--latency", "1ms", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout, parse_constant=pytest.fail)
    pool, best = told["pool"], told["sizes"][RECOMMENDED]
    assert pool["connections"] == 19
    assert pool["in_flight_mean_requests"] == pytest.approx(10)
    assert pool["in_flight_peak_requests"] == 28
    assert best["wait_share"] == pytest.approx(by_logarithms(10, 19))
    assert best["simulated_wait_share"] == pytest.approx(best["wait_share"], rel=0.15)
    assert not told["sizes"][HALF]["stable"]
    assert [client["client"] for client in told["clients"]] == list(CLIENTS)
    assert "max_connections=19" in told["clients"][0]["paste"]
    assert all(isinstance(said, str) for said in told["assumptions"])
    assert {key for key in numbers(told) if not key.endswith(UNITS)} == set()


def test_every_figure_has_its_unit_in_its_key_whatever_was_asked() -> None:
    told = as_json(asked(rate="10/h", wait_p99="2ms", pods=3, idle_timeout="envoy"))
    assert {key for key in numbers(told) if not key.endswith(UNITS)} == set()
    json.dumps(told, allow_nan=False)


def test_the_screen_tells_size_evidence_timeouts_and_settings() -> None:
    done = bench(
        "--rate", "5000/s", "--burst", "2", "--latency", "1ms", "--idle-timeout", "aws-nlb",
        "--client", "jedis, go", "--maxclients", "30",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    for said in (
        "Pool size: 19 connections", "10 calls in flight", "about 28", "would take 12",
        "grows for ever", "flat 2 × L", "acquire timeout", "aws-nlb", "rolling deploy",
        "setMaxTotal(19)", "PoolSize:              19", "Assumed",
    ):  # fmt: skip
        assert " ".join(said.split()) in " ".join(done.stdout.split())
    assert "\x1b" not in done.stdout
    assert "redis-py (" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 400


def told(monkeypatch: pytest.MonkeyPatch, advice: Advice, width: int) -> list[str]:
    """The lines on a terminal so wide."""
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False, emoji=False)
    monkeypatch.setattr(show, "open_console", lambda: console)
    show.show(advice)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 74])
def test_a_narrow_terminal_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, plain: Advice, width: int
) -> None:
    lines = told(monkeypatch, plain, width)
    for said in ("half: pool 9, busy > 100 %", "recommended: pool 19, busy 53 %",
                 "double: pool 38, busy 26 %", "acquire timeout: 100 ms"):  # fmt: skip
        assert said in lines
    assert "…" not in "".join(lines[: lines.index("recommended: pool 19, busy 53 %") + 9])


def test_a_pool_too_small_is_told_apart_from_figures(
    monkeypatch: pytest.MonkeyPatch, plain: Advice
) -> None:
    lines = told(monkeypatch, plain, 200)
    (row,) = [line for line in lines if line.startswith("half  ")]
    assert row.split() == ["half", "9", ">", "100", "%", "all", "–", "–", "–"]
    assert any("111 % of its 9 connections, so the queue grows for ever" in line for line in lines)
    (double,) = [line for line in lines if line.startswith("double  ")]
    assert double.rstrip().endswith("0 s      0 s")
    assert "µs (Erlang C)" in plain.timeouts.reasons["acquire timeout"]


@pytest.mark.parametrize(
    ("options", "said", "unsaid"),
    [
        ({"rate": "1/s"}, "Pool size: 1 connection\n", "connections are"),
        ({"rate": "1/s"}, "1 connection is 0.01 % of maxclients", "flat rule"),
        ({"rate": "1000/s"}, "keep 1 call in flight", "1 calls"),
        ({"rate": "9M/s"}, "keep 9,000 calls in flight", "e+"),
        ({"wait_share": "0.0001%"}, "asked: at most 0.0001% of requests wait", "at most <"),
    ],
)
def test_counts_and_shares_read_well(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, str], said: str, unsaid: str
) -> None:
    text = "\n".join(told(monkeypatch, asked(**options), 1_000))
    assert said in text
    assert unsaid not in text.partition("what if")[0]


def test_it_starts_without_what_takes_a_second() -> None:
    code = (
        "import sys, bench.cli; sys.argv = ['bench', 'size', '--rate', '1/s', '--latency', '1ms'];"
        "bench.cli.main();"
        "heavy = {'pandas', 'matplotlib', 'scipy.stats', 'locust', 'gevent', 'redis', 'pyarrow'};"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == "set()"


def test_a_live_server_is_measured_and_nothing_is_written(redis_server: Server) -> None:
    before = redis_server.snapshot().calls
    done = bench("--rate", "10000/s", "--live", "--json", REDIS_URL=redis_server.url)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)["question"]
    assert f"PING to {redis_server.shown_url}" in told["latency"]
    assert 1e-6 < told["hold_p50_s"] < 0.1
    after = redis_server.snapshot().calls
    grown = {name for name, calls in after.items() if calls > before.get(name, 0)}
    assert grown <= {"ping", "info", "config|get", "client|setinfo", "hello", "select"}


def test_a_run_folder_gives_its_hold_times_and_says_which_cell() -> None:
    done = bench("--rate", "10000/s", "--run", "results/reference", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)["question"]
    label = re.match(
        r"results/reference, cell (\w+) \(closed loop, users: 1, pool", told["latency"]
    )
    assert label, told["latency"]
    cells = load_cells(ROOT / "results" / "reference")
    chosen = cells[cells["cell"] == label[1]]
    assert f"replicates: {len(chosen)}" in told["latency"]
    assert f"RTT {chosen['rtt_s'].iloc[0] * 1e3:g} ms" in told["latency"]
    assert chosen["command_p50_s"].min() <= told["hold_p50_s"] <= chosen["command_p50_s"].max()


# ---------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate": "20M/s"}, "queue grows for ever"),
        ({"rate": "9.9M/s"}, "more than --maxclients 10,000"),
        ({"maxclients": 10}, "queue grows for ever"),
        ({"maxclients": 18}, "^19 connections are more than --maxclients 18"),
        ({"rate": "1M/s", "pods": 5000}, "5,000 pods × "),
    ],
)
def test_loads_that_no_allowed_pool_carries(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PreflightError, match=said):
        asked(**options)
