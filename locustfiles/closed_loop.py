"""Closed loop under plain Locust: each user sends its next request after the last reply.

    REDIS_URL=redis://127.0.0.1:6379 \\
        locust -f locustfiles/closed_loop.py --headless -u 50 -r 50 -t 10s --pool-size 20

`--pool-size`, `--client` and the rest are this file's own options: see --help.

With more processes, the users are shared out, and each worker has a pool of its own:

    locust -f locustfiles/closed_loop.py --master --master-bind-host 127.0.0.1 --pool-size 20 &
    REDIS_URL=redis://127.0.0.1:6379 bench worker
"""

from bench.load.standalone import ClosedLoopUser

__all__ = ["ClosedLoopUser"]
