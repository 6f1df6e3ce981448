"""Closed loop under plain Locust: each user sends its next request after the last reply.

    REDIS_URL=redis://127.0.0.1:6379 \\
        locust -f locustfiles/closed_loop.py --headless -u 50 -r 50 -t 10s --pool-size 20

Beside Locust's own options, which `locust --help` lists, there are those of the pool and of the
workload:

    --pool-size --acquire-timeout --test-on-borrow --client --order --opening
    --resp --keys --value-bytes --get-share --seed

They are fields of the web UI's form, too (`make ui`), with what they mean and their defaults.

With more processes, the users are shared out, and each worker has a pool of its own:

    locust -f locustfiles/closed_loop.py --master --master-bind-host 127.0.0.1 --pool-size 20 &
    REDIS_URL=redis://127.0.0.1:6379 bench worker
"""

from bench.load.standalone import ClosedLoopUser

__all__ = ["ClosedLoopUser"]
