"""What dies in mid-run: a clear message, no orphan, and a resume that completes the same cells.

Slow: each case starts a real run of the smoke profile, kills a part with SIGKILL, and resumes it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.experiments.pool_sweep import plan
from bench.model import Workload
from bench.rig import firewall
from bench.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PATIENCE_S = 120.0
PARTS = {
    "a worker": "locust --worker",
    "the link": "bench.rig.relay",
    "the server": "127.0.0.1:",
}


class Run:
    """A `bench run` of the smoke profile under way, and every process it started."""

    def __init__(self, results: Path, *arguments: str, **environment: str) -> None:
        self._log = (results / "stderr.txt").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench", "run", "--no-report", *arguments],
            stderr=self._log,
            stdout=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if k != "REDIS_URL"} | environment,
        )
        self._seen: dict[int, psutil.Process] = {}

    def children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children(recursive=True)
            self._seen |= {child.pid: child for child in found}
        return list(self._seen.values())

    def child(self, words: str) -> psutil.Process:
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if words in " ".join(child.cmdline()):
                    return child
        raise AssertionError(f"no child runs {words!r}")

    def ends(self) -> int:
        return self.process.wait(PATIENCE_S)

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def orphans(self) -> list[psutil.Process]:
        """Children that outlive the run by more than a moment."""
        _, alive = psutil.wait_procs(self.children(), timeout=5)
        return alive


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[tuple[Run, Path]]:
    """A run with at least three cells on disk."""
    quick = ("--profile", "smoke", "--only", "pool_sweep")
    run = Run(tmp_path, *quick, "--results", str(tmp_path))
    try:
        folder = until(lambda: next(tmp_path.glob("*-smoke"), None))
        until(lambda: len(stored(folder)) >= 3, run.children)
        yield run, folder
    finally:
        run.process.kill()
        run.process.wait()


def until(condition: Callable[[], Any], meanwhile: Callable[[], object] = lambda: None) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came to that"
        meanwhile()
        time.sleep(0.1)
    return found


def stored(folder: Path) -> set[tuple[str, int]]:
    if not (folder / "run.json").exists():
        return set()
    return set(Store.open(folder).attempts())


def resumes_to_the_whole_plan(folder: Path, before: set[tuple[str, int]]) -> None:
    rows = Store.open(folder).cells().set_index(["cell", "block", "attempt"])["qps"]
    again = Run(folder, "--resume", str(folder))
    assert again.ends() == 0, again.said()
    assert again.orphans() == []
    after = Store.open(folder)
    wanted = {cell.id for cell in plan("smoke", Workload(), 1).cells}
    assert {cell for cell, _ in after.attempts()} == wanted
    assert len(after.attempts()) == len(wanted)
    kept = after.cells().set_index(["cell", "block", "attempt"])["qps"]
    assert before <= set(after.attempts())
    assert (kept.loc[rows.index] == rows).all()  # what was finished was not measured again
    assert after.manifest["status"] == "complete"


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_killed_ends_the_run_with_its_name(
    begun: tuple[Run, Path], part: str
) -> None:
    run, folder = begun
    run.child(PARTS[part]).kill()
    assert run.ends() == 1
    lines = run.said().strip().splitlines()
    assert "Traceback" not in run.said()
    assert part.removeprefix("a ").removeprefix("the ") in lines[-1]
    assert "killed by signal 9" in lines[-1]
    assert any(f"--resume {folder}" in line for line in lines)
    assert run.orphans() == []
    resumes_to_the_whole_plan(folder, stored(folder))


def test_a_runner_that_is_killed_takes_everything_with_it(begun: tuple[Run, Path]) -> None:
    run, folder = begun
    assert len(run.children()) >= 3
    run.process.kill()
    run.ends()
    assert run.orphans() == []
    resumes_to_the_whole_plan(folder, stored(folder))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_keeps_what_is_finished_and_exits_130(
    begun: tuple[Run, Path], signum: signal.Signals
) -> None:
    run, folder = begun
    run.process.send_signal(signum)
    assert run.ends() == 130, run.said()
    assert "Traceback" not in run.said()
    assert f"--resume {folder}" in run.said()
    assert run.orphans() == []
    assert Store.open(folder).manifest["status"] == "interrupted"
    assert len(stored(folder)) >= 3


# Seconds after the firewall and its server are there: while lanes open, sleep, and are struck.
@pytest.mark.parametrize("seconds", [0.0, 1.0, 3.0, 6.0, 9.0])
@pytest.mark.skipif(bool(firewall.missing()), reason=f"not run: {firewall.missing()}")
def test_a_run_that_is_killed_amid_its_traps_leaves_nothing(tmp_path: Path, seconds: float) -> None:
    """No process, and with them no namespace, rule or socket; and no file."""
    files, sockets = tmp_path / "temporary", abstract_sockets()
    files.mkdir()
    run = Run(tmp_path, "--profile", "smoke", "--only", "idle_eviction",
              "--results", str(tmp_path), TMPDIR=str(files))  # fmt: skip
    try:
        # One alone may be the trial of whether the machine can have any.
        until(lambda: len(namespaces_of(run.children())) >= 2)
        assert abstract_sockets() - sockets
        time.sleep(seconds)
        made = namespaces_of(run.children())
    finally:
        run.process.kill()
        run.ends()
    assert run.orphans() == []
    assert len(made) >= 2
    assert not made & namespaces_of(psutil.process_iter())
    assert not abstract_sockets() - sockets
    assert list(files.iterdir()) == []


def namespaces_of(processes: Iterable[psutil.Process]) -> set[str]:
    """Network namespaces in which they are, other than ours."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{process.pid}/ns/net"))
    return found - {os.readlink("/proc/self/ns/net")}


def abstract_sockets() -> set[str]:
    """Unix sockets without a file, by name: the firewall's helper listens on one."""
    names = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()]
    return {name for name in names if name.startswith("@redis-pool-bench-")}
