"""The open loop as an ordinary Locust test: the options that say how requests arrive."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

from locust import events

from bench.load.arrivals import read_trace
from bench.load.standalone import StandaloneUser, form_fields
from bench.model import LEAST_QPS, MOST_QPS, Arrivals, PreflightError, Process

GROUP = "Arrivals (over all workers)"
DESCRIPTION = (
    "Requests arrive at intended times, whatever became of those before them. Locust's users carry "
    "them: -u is how many can be out at once, those waiting for a connection included. Fewer than "
    "--pool-size leave connections unused; more change little, for what finds no user free waits "
    "in the backlog, first come first served. The load begins when all are spawned: give -r too."
)


class OpenLoopUser(StandaloneUser):
    """Carries requests as they arrive."""

    option_of: ClassVar[dict[str, str]] = StandaloneUser.option_of | {
        "offered_qps": "--rate",
        "peak_to_mean": "--peak-to-mean",
        "period_s": "--period",
        "spike_factor": "--spike-factor",
        "spike_at_s": "--spike-at",
        "spike_s": "--spike-for",
        "backlog": "--backlog",
    }

    @classmethod
    def load(cls, options: Any) -> dict[str, Any]:
        if (options.arrivals == "trace") != bool(options.trace):
            raise PreflightError("--trace FILE goes with --arrivals trace, and with no other")
        if options.seed < 0:
            raise PreflightError(f"--seed is {options.seed}: it must not be below 0")
        arrivals = Arrivals(
            process=options.arrivals,
            peak_to_mean=options.peak_to_mean,
            period_s=options.period,
            spike_factor=options.spike_factor,
            spike_at_s=options.spike_at,
            spike_s=options.spike_for,
            trace=options.trace,
            backlog=options.backlog,
        )
        rate = options.rate
        if options.trace:
            rate = read_trace(options.trace).rate
            if not LEAST_QPS <= rate <= MOST_QPS:
                raise PreflightError(f"--trace {options.trace}: {rate:g}/s; are its times seconds?")
        return {"loop": "open", "arrivals": arrivals, "offered_qps": rate}

    @classmethod
    def doubt(cls, options: Any, users: int) -> str:
        if not users:
            raise PreflightError("users carry the requests, and some process has none: raise -u")
        if users >= options.pool_size:
            return ""
        return (
            f"of a pool of {options.pool_size} no more than {users} can be in use at once, since "
            "only as many users carry requests: is -u meant to be so low?"
        )


def _options(parser: Any) -> None:
    add = form_fields(parser.add_argument_group(GROUP, DESCRIPTION))
    add("--rate", type=float, default=1000.0, help="requests a second, on average")
    add("--arrivals", choices=get_args(Process), default="poisson", help="how they are spaced")
    add("--peak-to-mean", type=float, default=5.0, help="bursty: rate of a burst, over --rate")
    add("--period", type=float, default=0.1, help="bursty: seconds from burst to burst")
    add("--spike-factor", type=float, default=3.0, help="spike: its rate, over --rate")
    add("--spike-at", type=float, default=5.0, help="spike: seconds after the begin")
    add("--spike-for", type=float, default=5.0, help="spike: seconds")
    add(
        "--trace",
        metavar="FILE",
        default="",
        help="trace: arrival times in seconds, one a line, ascending. Its rate is its own, --rate "
        "is not used; the test ends with it. Every process reads it by this name",
    )
    add("--backlog", type=int, default=20_000, help="requests (per worker); more are dropped")


events.init_command_line_parser.add_listener(_options)
