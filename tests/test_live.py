"""The live view: a tab of this project's in Locust's web UI; real server, real browser."""

from __future__ import annotations

import json
import re
import signal
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from browsing import browser, complaints, fits, lowest_contrast, needs_browser
from children import (
    NO_SERVER,
    PATIENCE_S,
    answered,
    await_listener,
    ended,
    free_port,
    started,
)
from playwright.sync_api import Browser

from bench.rig.server import Server, open_server

READABLE = 4.5
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
PASSWORD = "never-to-be-seen-7261"


class Web:
    """A Locust with its web UI on a free port."""

    def __init__(self, process: Any, port: int) -> None:
        self.process = process
        self.address = f"http://127.0.0.1:{port}"

    def start(self, users: int = 10, **fields: Any) -> dict[str, Any]:
        """What the form's button sends, and what is answered."""
        form = {"user_count": users, "spawn_rate": 1_000, "host": "", **fields}
        return self._asked("/swarm", urllib.parse.urlencode(form).encode())

    def stop(self) -> None:
        self._asked("/stop", b"")

    def figures(self, since: int = 0) -> dict[str, Any]:
        return self._asked(f"/pool/figures?since={since}")

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._asked("/stats/requests")["workers"]
        return found

    def read(self, path: str) -> str:
        with urllib.request.urlopen(self.address + path) as answer:
            return str(answer.read().decode())

    def _asked(self, path: str, data: bytes | None = None) -> dict[str, Any]:
        with urllib.request.urlopen(self.address + path, data) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def seen(self, known: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first row of the running test that `known` accepts."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            told = self.figures()
            own = [row for row in told["rows"] if row["test"] == told["test"].get("number")]
            if found := next((row for row in reversed(own) if known(row)), None):
                return found
            assert time.monotonic() < deadline, told
            time.sleep(0.2)


@contextmanager
def web(url: str, *options: str, loop: str = "closed") -> Iterator[Web]:
    port = free_port()
    where = ("--web-host", "127.0.0.1", "--web-port", str(port))
    with started("locust", "-f", f"locustfiles/{loop}_loop.py", *where, *options, url=url) as child:
        await_listener(port)
        yield Web(child, port)
        child.send_signal(signal.SIGINT)
        ended(child)


@pytest.fixture(scope="module")
def closed(redis_server: Server) -> Iterator[Web]:
    with web(redis_server.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def is_full(row: dict[str, Any]) -> bool:
    return not row["final"] and row["served_qps"] > 0 and row["server"].get("cpu") is not None


def test_the_pool_is_seen_as_it_is(closed: Web, redis_server: Server) -> None:
    assert closed.start(users=30, pool_size=7)["success"]
    row = closed.seen(lambda row: is_full(row) and row["waiting"] > 0)
    assert (row["size"], row["used"], row["idle"]) == (7, 7, 0)
    assert row["used"] + row["waiting"] == 30
    assert row["empty_share"] > 0.5
    assert row["fds"] >= 7
    assert row["server"]["clients"] >= 7
    assert row["server"]["fds"] >= row["server"]["clients"]
    assert 0 < row["server"]["cpu"] < 2
    closed.stop()


def test_times_are_true_below_a_millisecond(closed: Web) -> None:
    assert closed.start(users=2, pool_size=5)["success"]
    row = closed.seen(lambda row: is_full(row) and row["latency_p99_s"] is not None)
    assert 0 < row["latency_p50_s"] < row["latency_p99_s"]
    assert (row["latency_p50_s"] * 1e6) % 1_000  # Locust's own rounds to whole milliseconds
    assert row["acquire_p50_s"] < row["latency_p50_s"]
    closed.stop()


def test_it_counts_what_locust_and_the_server_count(closed: Web, redis_server: Server) -> None:
    before = answered(redis_server.url)
    assert closed.start(users=5, pool_size=5)["success"]
    closed.seen(is_full)
    closed.stop()
    row = closed.seen(lambda row: row["final"])
    stats = json.loads(closed.read("/stats/requests"))
    (total,) = (each for each in stats["stats"] if each["name"] == "Aggregated")
    assert row["served_total"] == total["num_requests"]
    # A user that is stopped before its reply leaves a request that only the server knows.
    assert 0 <= answered(redis_server.url) - before - row["served_total"] <= 5
    assert row["failed_total"] == total["num_failures"] == 0


def test_fields_of_the_form_take_effect(closed: Web) -> None:
    asked = {"pool_size": 3, "acquire_timeout": 0.25, "test_on_borrow": "ping",
             "client": "redis-py"}  # fmt: skip
    assert closed.start(users=3, **asked)["success"]
    closed.seen(is_full)
    test = closed.figures()["test"]
    assert test["pool_size"] == 3
    assert test["acquire_timeout_s"] == 0.25
    assert (test["test_on_borrow"], test["client"]) == ("ping", "redis-py")
    closed.stop()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("pool_size", "abc", "--pool-size is a whole number, not 'abc'"),
        ("pool_size", 0, "--pool-size is 0: it must lie between"),
        ("acquire_timeout", -1, "--acquire-timeout is -1"),
        ("client", "jedis", "--client is one of"),
        ("host", "redis://elsewhere:6379", "the server is not set by Host"),
    ],
)
def test_what_the_form_cannot_mean_is_refused_in_one_line(
    closed: Web, field: str, value: Any, said: str
) -> None:
    answer = closed.start(**{field: value})
    assert not answer["success"]
    assert said in answer["message"]
    assert "\n" not in answer["message"]


def test_a_rate_is_offered_and_told_beside_what_was_served(redis_server: Server) -> None:
    with web(redis_server.url, loop="open") as opened:
        assert opened.start(users=20, rate=300, pool_size=20)["success"]
        row = opened.seen(lambda row: is_full(row) and row["offered_qps"] > 200)
        assert opened.figures()["test"]["offered_qps"] == 300
        assert row["dropped_qps"] == 0
        opened.stop()


@needs_browser
def test_the_tab_is_there_and_complains_of_nothing(closed: Web, chromium: Browser) -> None:
    page = chromium.new_context(viewport=DESK).new_page()
    said = complaints(page)
    page.goto(closed.address)
    page.get_by_role("tab", name=re.compile("pool", re.IGNORECASE)).or_(
        page.get_by_text("Start new load test")
    ).first.wait_for()
    assert closed.start(users=20, pool_size=6)["success"]
    closed.seen(is_full)
    page.reload()
    page.get_by_role("tab", name=re.compile("pool", re.IGNORECASE)).click()
    frame = page.frame_locator("iframe[title='Pool']")
    frame.get_by_text("Pool, connections").wait_for()
    frame.get_by_text(re.compile(r"pool of 6 \(")).wait_for()
    assert said == []
    closed.stop()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_the_page_is_readable_everywhere(
    closed: Web, chromium: Browser, scheme: Any, size: dict[str, int]
) -> None:
    closed.start(users=9, pool_size=4)
    closed.seen(lambda row: is_full(row) and row["latency_p99_s"] is not None)
    page = chromium.new_context(viewport=size, color_scheme=scheme).new_page()
    said = complaints(page)
    page.goto(f"{closed.address}/pool")
    page.get_by_text(re.compile("is running")).wait_for()
    assert page.locator("dd", has_text=re.compile(r"\d+ µs|\d ms")).count() >= 4
    assert page.locator("svg.chart[role=img]").count() == 6
    assert fits(page)
    ratio, where = lowest_contrast(page)
    assert ratio >= READABLE, where
    assert said == []
    closed.stop()


@needs_browser
def test_a_page_that_nobody_sees_asks_nothing(closed: Web, chromium: Browser) -> None:
    page = chromium.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_request(re.compile("/pool/figures")):
        page.goto(f"{closed.address}/pool")
    page.evaluate("Object.defineProperty(document, 'visibilityState', {get: () => 'hidden'})")
    before = len(asked)
    page.wait_for_timeout(2_500)
    assert len(asked) == before


def test_a_server_that_dies_is_told_and_one_that_is_back_is_seen() -> None:
    with open_server(None, max_connections=50) as server, web(server.url) as opened:
        assert opened.start(users=4, pool_size=4)["success"]
        opened.seen(is_full)
        with server.away():
            opened.seen(lambda row: bool(row["server"].get("trouble")))
            opened.seen(lambda row: row["failed_qps"] > 0)
        opened.seen(lambda row: is_full(row) and not row["server"].get("trouble"))
        opened.stop()


def test_no_password_is_on_the_page_nor_in_its_figures() -> None:
    with open_server(None, max_connections=50) as server:
        redis.Redis.from_url(server.url).config_set("requirepass", PASSWORD)
        with web(server.url.replace("redis://", f"redis://:{PASSWORD}@")) as opened:
            assert opened.start(users=2, pool_size=2)["success"]
            opened.seen(is_full)
            told = [opened.read(path) for path in ("/", "/pool", "/pool/figures", "/pool/tab.js")]
            assert all(PASSWORD not in each for each in told)
            opened.stop()


def test_workers_are_told_together_and_each(redis_server: Server) -> None:
    """A master with the web UI, and two `bench worker`s."""
    port, master_port = free_port(), free_port()
    where = ("--web-host", "127.0.0.1", "--web-port", str(port))
    bind = ("--master-bind-host", "127.0.0.1", "--master-bind-port", str(master_port))
    command = ("locust", "-f", "locustfiles/closed_loop.py", "--master", *bind, *where)
    worker = ("bench", "worker", "--port", str(master_port))
    with started(*command, url=NO_SERVER) as master:
        await_listener(master_port)
        await_listener(port)
        with started(*worker, url=redis_server.url), started(*worker, url=redis_server.url):
            opened = Web(master, port)
            while opened.figures()["state"] != "ready" or len(opened.workers()) < 2:
                time.sleep(0.2)
            assert opened.start(users=20, pool_size=4)["success"]
            row = opened.seen(lambda row: row["size"] == 8 and row["used"] == 8)
            assert row["waiting"] == 12
            assert {each["size"] for each in opened.figures()["processes"]} == {4}
            opened.stop()
            master.send_signal(signal.SIGINT)
            ended(master)
