"""The user most people write: redis-py's own client and pool, one request event per command.

Only the calibration runs it, to show what the suite's clients are up against.
"""

from __future__ import annotations

import os
import time

from locust import User, task
from redis import Redis

from bench.rig.server import KEY_PREFIX


class StockUser(User):
    """GETs one key through a client shared by all users of the process."""

    client = Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))

    @task
    def get(self) -> None:
        began = time.perf_counter()
        value = self.client.get(f"{KEY_PREFIX}1")
        self.environment.events.request.fire(
            request_type="redis",
            name="GET",
            response_time=(time.perf_counter() - began) * 1e3,
            response_length=len(value) if isinstance(value, bytes) else 0,
            exception=None,
        )
