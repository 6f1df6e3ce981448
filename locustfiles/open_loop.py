"""Open loop under plain Locust: requests arrive at intended times, whatever the replies do.

    REDIS_URL=redis://127.0.0.1:6379 \\
        locust -f locustfiles/open_loop.py --headless -u 50 -r 50 -t 10s --pool-size 20 \\
        --rate 5000 --arrivals bursty --peak-to-mean 5

Locust's users carry the requests: -u is how many can be out at once, those waiting for a
connection included. Beside Locust's own options, which `locust --help` lists, there are those of
the arrivals, of the pool and of the workload:

    --rate --arrivals --peak-to-mean --period --spike-factor --spike-at --spike-for
    --trace --backlog
    --pool-size --acquire-timeout --test-on-borrow --client --order --opening
    --resp --keys --value-bytes --get-share --seed

They are fields of the web UI's form, too (`make ui LOOP=open`), with what they mean and their
defaults.

With more processes, --rate is shared out, and each worker has a pool of its own:

    locust -f locustfiles/open_loop.py --master --master-bind-host 127.0.0.1 --rate 5000 &
    REDIS_URL=redis://127.0.0.1:6379 bench worker
"""

from bench.load.standalone_open import OpenLoopUser

__all__ = ["OpenLoopUser"]
