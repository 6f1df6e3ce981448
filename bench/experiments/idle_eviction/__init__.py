"""Idle eviction: which defence keeps a pool's idle connections from failing, in which trap?

A pool is filled, lies idle for longer than something on the path allows, and is struck by a burst.
The traps are real: a server at its defaults and one with a `timeout`, a network that drops what is
idle in four manners, two load balancers, and a kernel's firewall between network namespaces. The
defences are those of a client: pool size, idle timeout, validation on borrow, TCP keepalive,
retries, order of use; alone and together; and those that clients bring along. Time runs faster by
one factor for everything at once, so that the order of all timers is that of the world.
"""

from bench.experiments.idle_eviction.figures import figures
from bench.experiments.idle_eviction.lanes import NAME, TIME_SCALE, plan
from bench.experiments.idle_eviction.tables import tables
from bench.experiments.idle_eviction.verdicts import CLAIMS, claims
from bench.experiments.idle_eviction.words import findings, prose

QUESTION = "Which defence keeps idle connections from failing, in which trap?"

__all__ = [
    "CLAIMS", "NAME", "QUESTION", "TIME_SCALE", "claims", "figures", "findings", "plan", "prose",
    "tables",
]  # fmt: skip
