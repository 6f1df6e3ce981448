"""How a worker process is started: the same for the runner's own and for `bench worker`."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from bench.model import PreflightError

LOCUSTFILE = str(Path(__file__).with_name("locustfile.py"))
STANDALONE = str(Path(__file__).with_name("standalone_worker.py"))  # for locustfiles/
MASTER_TIMEOUT_S = 4.0
ZMTP_GREETING = b"\xff"  # the first byte that a ZeroMQ socket, and so Locust's master, sends


def worker_command(master_host: str, port: int, locustfile: str = LOCUSTFILE) -> list[str]:
    """The command line of a Locust worker that joins that master."""
    return [
        sys.executable, "-m", "locust", "--worker", "-f", locustfile,
        "--master-host", master_host, "--master-port", str(port), "--loglevel", "WARNING",
    ]  # fmt: skip


def require_master(host: str, port: int) -> None:
    """Raises PreflightError, within seconds, where no Locust master answers: Locust itself would
    ask in silence for five minutes."""
    mend = "start one: locust -f locustfiles/closed_loop.py --master"
    try:
        with socket.create_connection((host, port), timeout=MASTER_TIMEOUT_S) as connection:
            greeting = connection.recv(1)
    except (OSError, OverflowError, UnicodeError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise PreflightError(f"no Locust master at {host}:{port} ({reason}); {mend}") from None
    if greeting != ZMTP_GREETING:
        raise PreflightError(f"what listens at {host}:{port} is no Locust master; {mend}")
