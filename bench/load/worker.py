"""How a worker process is started: the same for the runner's own and for `bench worker`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

LOCUSTFILE = str(Path(__file__).with_name("locustfile.py"))
URL_VARIABLE = "BENCH_REDIS_URL"


def worker_command(master_host: str, port: int) -> list[str]:
    """The command line of a Locust worker that joins that master."""
    return [
        sys.executable, "-m", "locust", "--worker", "-f", LOCUSTFILE,
        "--master-host", master_host, "--master-port", str(port), "--loglevel", "WARNING",
    ]  # fmt: skip


def worker_environment(url: str) -> dict[str, str]:
    """Its environment. The URL goes here alone: it may hold a password, and command lines and
    Locust's messages can be read by others."""
    return {**os.environ, URL_VARIABLE: url}
