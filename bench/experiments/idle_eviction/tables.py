"""The table of the terminal: a row for each defence in each trap."""

from __future__ import annotations

import pandas as pd

from bench.experiments.idle_eviction.seen import after_gap, bursts, measured
from bench.figures.units import digits

SUMMED = (
    "requests", "failed", "retried", "overdue", "overdue_failed", "server_connects",
    "server_pings", "server_cpu_s",
)  # fmt: skip


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """Each defence in each trap; of the bursts after a gap."""
    known = measured(cells)
    each = after_gap(bursts(known))
    if not len(each):
        return pd.DataFrame()
    pools = known.drop_duplicates("cell", keep="last")[["cell", "pool_size"]]
    found = (
        each.merge(pools, on="cell")
        .groupby(["trap", "path_s", "arm", "cell"], as_index=False)
        .agg(
            pool=("pool_size", "first"),
            bursts=("requests", "size"),
            p50_s=("latency_p50_s", "median"),
            p99_s=("latency_p99_s", "max"),
            valid=("valid", "all"),
            **{name: (name, "sum") for name in SUMMED},
        )
    )
    return pd.DataFrame(
        {
            "trap": found["trap"],
            "path s": found["path_s"],
            "defence": found["arm"],
            "pool": found["pool"],
            "bursts": found["bursts"],
            "requests": found["requests"],
            "errors %": (100 * found["failed"] / found["requests"]).map(digits),
            "after retry %": (100 * found["retried"] / found["requests"]).map(digits),
            "overdue": found["overdue"],
            "of them failed": found["overdue_failed"],
            "p50 ms": (1e3 * found["p50_s"]).map(digits),
            "worst p99 ms": (1e3 * found["p99_s"]).map(digits),
            "opened": found["server_connects"],
            "PINGs": found["server_pings"],
            "server µs": (1e6 * found["server_cpu_s"] / found["requests"]).map(digits),
            "valid": found["valid"].map({True: "yes", False: "no"}),
        }
    )
