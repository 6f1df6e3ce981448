"""Children that never outlive us, and what the manifest says."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.model import ApparatusLost, PreflightError
from bench.rig import host

ROOT = Path(__file__).parents[1]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def python(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)


def first_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def reap(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


START = "child = host.spawn(['sleep', '60']); print(child.pid, flush=True); time.sleep(60)"
RUNNERS = {
    "main thread": f"import time; from bench.rig import host; {START}",
    "other thread": (
        "import threading, time; from bench.rig import host\n"
        f"def start(): {START}\n"
        "threading.Thread(target=start).start()"
    ),
    "gevent": (
        "from gevent import monkey; monkey.patch_all()\n"
        f"import time; from bench.rig import host; {START}"
    ),
}


def is_sleeping(pid: int) -> bool:
    """Past the guard: it is the command itself."""
    return Path(f"/proc/{pid}/comm").read_text().strip() == "sleep"


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS.keys())
def test_a_child_dies_with_a_killed_runner(runner: str, settled: bool) -> None:
    process = python(runner)
    child = int(first_line(process))
    if settled:
        assert eventually(lambda: is_sleeping(child))
    reap(process)
    assert eventually(lambda: not alive(child))


def test_a_child_outlives_the_thread_that_started_it() -> None:
    code = (
        "import threading, time; from bench.rig import host\n"
        "def start():\n"
        "    global child; child = host.spawn(['sleep', '60'])\n"
        "thread = threading.Thread(target=start); thread.start(); thread.join()\n"
        "time.sleep(0.5); print(child.poll(), flush=True); time.sleep(60)"
    )
    process = python(code)
    assert first_line(process) == "None"
    reap(process)


def test_the_watcher_of_a_child_leaves_with_it() -> None:
    code = (
        "import subprocess, threading, time; from bench.rig import host\n"
        "def start():\n"
        "    global child; child = host.spawn(['sleep', '60'], stdout=subprocess.PIPE)\n"
        "thread = threading.Thread(target=start); thread.start(); thread.join()\n"
        "time.sleep(0.3)\n"
        "print(open(f'/proc/{child.pid}/task/{child.pid}/children').read(), flush=True)\n"
        "child.kill(); child.stdout.read(); print('output ended', flush=True); time.sleep(60)"
    )
    process = python(code)
    watcher = int(first_line(process))
    assert {os.readlink(f"/proc/{watcher}/fd/{stream}") for stream in range(3)} == {os.devnull}
    assert first_line(process) == "output ended"
    assert eventually(lambda: not alive(watcher))
    reap(process)


def test_a_child_has_a_session_of_its_own() -> None:
    child = host.spawn(["sleep", "60"])
    try:
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
    finally:
        host.end(child)


SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
OWN_SLICE = """
import ctypes, platform, struct
attributes = ctypes.create_string_buffer(56)
call = {calls}[platform.machine()]
assert ctypes.CDLL(None).syscall(call, 0, attributes, 56, 0) == 0
print(struct.unpack_from("=IIQiIQ", attributes)[5])
"""


@pytest.mark.skipif(
    not host.LINUX or platform.machine() not in SCHED_GETATTR
    or tuple(map(int, platform.release().split(".")[:2])) < (6, 12),
    reason="needs Linux 6.12 or later",
)  # fmt: skip
def test_a_child_has_short_time_slices_and_we_have_not() -> None:
    code = OWN_SLICE.format(calls=SCHED_GETATTR)
    child = host.spawn([sys.executable, "-c", code], stdout=subprocess.PIPE)
    said, _ = child.communicate()
    assert int(said) == 100_000
    ours = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(ours.stdout) > 100_000


def test_a_missing_program_is_said_at_once() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        host.spawn(["no-such-program"])


def test_end_kills_a_child_that_will_not_leave_and_closes_its_pipes() -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True)\n"
    child = host.spawn([sys.executable, "-c", stubborn + "time.sleep(60)"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    host.end(child, timeout_s=0.1)
    assert child.returncode == -signal.SIGKILL
    assert child.stdout.closed
    host.end(child)


def test_the_fd_limit_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource as r; from bench.rig import host\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (256, 2000))\n"
        "print(host.raise_fd_limit(1000), r.getrlimit(r.RLIMIT_NOFILE))"
    )
    process = python(code)
    assert first_line(process) == "2000 (2000, 2000)"
    reap(process)


def test_an_fd_limit_too_low_names_itself_and_the_command() -> None:
    code = (
        "import resource as r; from bench.rig import host\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (256, 2000))\n"
        "try: host.raise_fd_limit(3000)\n"
        "except host.FdLimitError as error: print(error.limit, error)"
    )
    process = python(code)
    text = first_line(process)
    assert text.startswith("2000 ")
    assert "3000 descriptors" in text
    assert "--nofile=3000:3000" in text
    reap(process)
    assert issubclass(host.FdLimitError, PreflightError)


def test_open_fds_counts_and_knows_a_missing_process() -> None:
    before = host.open_fds(os.getpid())
    assert before is not None
    with socket.socket(), socket.socket():
        assert host.open_fds(os.getpid()) == before + 2
    with pytest.raises(ProcessLookupError):
        host.open_fds(2**22 - 3)


@pytest.fixture
def companion() -> host.Companion:
    return host.Companion("bench.rig.hiccup", name="hiccup")


def test_a_companion_answers_and_says_its_errors(companion: host.Companion) -> None:
    try:
        assert companion.ask("mark") == {}
        with pytest.raises(ApparatusLost, match=r"hiccup: dance: KeyError"):
            companion.ask("dance")
        assert "stalls" in companion.ask("read")
        companion.check()
    finally:
        companion.close()
    assert not alive(companion.pid)
    companion.close()


def test_a_killed_companion_is_named_with_its_end(companion: host.Companion) -> None:
    companion.ask("mark")
    os.kill(companion.pid, signal.SIGKILL)
    try:
        with pytest.raises(ApparatusLost, match=r"hiccup .*killed by signal 9"):
            companion.ask("read")
        with pytest.raises(ApparatusLost, match=r"hiccup .*killed by signal 9"):
            companion.check()
    finally:
        companion.close()


def test_a_companion_can_be_closed_while_another_greenlet_waits_for_its_answer() -> None:
    code = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent, os, signal\n"
        "from bench.rig.host import Companion\n"
        "it = Companion('bench.rig.hiccup', name='it'); it.ask('mark')\n"
        "os.kill(it.pid, signal.SIGSTOP)\n"
        "asked = gevent.spawn(it.ask, 'mark'); gevent.sleep(0.1)\n"
        "it.close(); asked.join(); print(type(asked.exception).__name__)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (told.returncode, told.stdout.strip()) == (0, "ApparatusLost"), told.stderr


def test_a_companion_that_fails_is_quoted() -> None:
    broken = host.Companion("bench.rig.no_such_module", name="x")
    try:
        with pytest.raises(ApparatusLost, match=r"No module named bench\.rig\.no_such_module"):
            broken.ask("mark")
    finally:
        broken.close()


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()\n"])
def test_a_companion_serves_any_kind_of_runner_and_dies_with_it(patch: str) -> None:
    code = patch + (
        "import os, time; from bench.rig.host import Companion\n"
        "os.chdir('/')\n"
        "it = Companion('bench.rig.hiccup', name='it'); it.ask('mark')\n"
        "time.sleep(0.2); it.ask('mark')\n"
        "print(it.pid, flush=True)\n"
        "time.sleep(60)"
    )
    process = python(code)
    pid = int(first_line(process))
    reap(process)
    assert eventually(lambda: not alive(pid))


def test_the_manifest_tells_the_machine_and_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    told = host.manifest()
    text = json.dumps(told)
    assert told["packages"]["redis"]
    assert told["cores"] >= 1
    assert told["memory_bytes"] > 1 << 20
    assert len(told["git_commit"] or "0" * 40) == 40
    for secret in (socket.gethostname(), str(ROOT), str(Path.home())):
        assert len(secret) < 3 or f'"{secret}' not in text
