"""Closed loop under plain Locust: each user sends its next request after the last reply.

    locust -f locustfiles/closed_loop.py --headless -u 50 -r 50 -t 10s --pool-size 20

`--redis-url` (or REDIS_URL), `--pool-size`, `--client` and the rest are this file's own options.
"""

from bench.load.standalone import ClosedLoopUser

__all__ = ["ClosedLoopUser"]
