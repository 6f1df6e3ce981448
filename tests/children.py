"""Child processes for tests of what Locust patches: checks of a test file, locust, workers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from bench.model import ApparatusLost
from bench.rig.host import free_port

ROOT = Path(__file__).parents[1]
NO_SERVER = "redis://127.0.0.1:1"
PATIENCE_S = 60


def run_check(file: str, url: str, name: str, timeout_s: float = 100) -> str:
    """What `python FILE URL NAME` prints; it must end well and without a word of trouble."""
    done = subprocess.run(
        [sys.executable, file, url, name],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.stdout


def assert_lost(work: Callable[[], object], *words: str) -> None:
    """`work` must raise ApparatusLost, and say these words."""
    with pytest.raises(ApparatusLost) as lost:
        work()
    for word in words:
        assert word in str(lost.value), (word, str(lost.value))


@contextmanager
def started(*command: str, url: str) -> Iterator[subprocess.Popen[str]]:
    """A Python module as a child, its output in pipes; killed if the test leaves it behind."""
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "REDIS_URL": url},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err, err[-3000:]
    return out, err


def await_listener(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def answered(url: str) -> int:
    """How many GETs the server has answered."""
    stats = redis.Redis.from_url(url).info("commandstats")
    return int(stats.get("cmdstat_get", {"calls": 0})["calls"])


class Joined:
    """A headless master, which knows no server, and `bench worker`s that do. To be closed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stack = ExitStack()
        self._port = str(free_port())

    def __enter__(self) -> Joined:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def master(self, file: str, *options: str, workers: int, users: int) -> subprocess.Popen[str]:
        bind = ("--master-bind-host", "127.0.0.1", "--master-bind-port", self._port)
        load = ("--headless", "-u", str(users), "-r", "100", "--expect-workers", str(workers))
        command = ("locust", "-f", f"locustfiles/{file}.py", "--master", *bind, *load, *options)
        master = self._stack.enter_context(started(*command, url=NO_SERVER))
        await_listener(int(self._port))
        return master

    def worker(self) -> subprocess.Popen[str]:
        command = ("bench", "worker", "--port", self._port)
        return self._stack.enter_context(started(*command, url=self._url))
