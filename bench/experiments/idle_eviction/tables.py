"""The table of the terminal: a row for each defence in each trap."""

from __future__ import annotations

import pandas as pd

from bench.experiments.idle_eviction.seen import after_gap, bursts, measured
from bench.figures.units import digits


def tables(cells: pd.DataFrame) -> pd.DataFrame:
    """Each defence in each trap; of the bursts after a gap."""
    known = measured(cells)
    each = after_gap(bursts(known))
    if not len(each):
        return pd.DataFrame()
    sizes = known.set_index("cell")["pool_size"]
    grouped = each.groupby(["trap", "path_s", "arm", "cell"], sort=True)
    return pd.DataFrame(
        {
            "trap": trap,
            "path s": path_s,
            "defence": arm,
            "pool": int(sizes[cell].max()),
            "bursts": len(own),
            "requests": int(own["requests"].sum()),
            "errors %": digits(100 * own["failed"].sum() / own["requests"].sum()),
            "after retry %": digits(100 * own["retried"].sum() / own["requests"].sum()),
            "overdue": int(own["overdue"].sum()),
            "of them failed": int(own["overdue_failed"].sum()),
            "p50 ms": digits(1e3 * own["latency_p50_s"].median()),
            "worst p99 ms": digits(1e3 * own["latency_p99_s"].max()),
            "opened": int(own["server_connects"].sum()),
            "PINGs": int(own["server_pings"].sum()),
            "server µs": digits(1e6 * own["server_cpu_s"].sum() / own["requests"].sum()),
            "valid": "yes" if own["valid"].all() else "no",
        }
        for (trap, path_s, arm, cell), own in grouped
    )
