"""The Little audit: three figures measured apart, rate, time and number in flight, held against
each other in every cell of whatever experiments are given.

`cells` may hold several attempts at a cell.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.gates import LITTLE_POOL, LITTLE_RTT_S, LITTLE_USERS
from bench.analysis.replicates import last_attempts, median_of
from bench.figures.axes import deviation_axis, log_axis
from bench.figures.cells import any_invalid, cross_out
from bench.figures.sheet import footnote, new_figure, panel_title, pool_legend
from bench.figures.style import MUTED, Style, pool_style
from bench.figures.units import si


class Check(NamedTuple):
    """A gate's figures on some cells, and against what they are drawn."""

    cells: pd.DataFrame
    gate: str
    limit: float
    x: str
    x_label: str

    @property
    def known(self) -> pd.DataFrame:
        """The cells that hold the figure."""
        held = self.gate in self.cells
        return self.cells.dropna(subset=[self.gate]) if held else self.cells.head(0)

    @property
    def drawn(self) -> pd.DataFrame:
        """Those that have a place on a logarithmic axis."""
        return self.known[self.known[self.x] > 0]

    @property
    def held(self) -> pd.DataFrame:
        """Those within the limit."""
        return self.known[self.known[self.gate].abs() <= self.limit]


def _users(cells: pd.DataFrame) -> Check:
    return Check(cells, "gate_little_users", LITTLE_USERS, "concurrency", "users")


def _pool(cells: pd.DataFrame) -> Check:
    return Check(cells, "gate_little_pool", LITTLE_POOL, "in_flight_mean", "mean in flight")


def _of_loop(cells: pd.DataFrame, loop: str) -> pd.DataFrame:
    return cells[cells["loop"] == loop]


def _slow(cells: pd.DataFrame) -> pd.DataFrame:
    return cells[cells["rtt_s"] >= LITTLE_RTT_S]


def _fast(cells: pd.DataFrame) -> pd.DataFrame:
    return cells[cells["rtt_s"] < LITTLE_RTT_S]


def finding(cells: pd.DataFrame) -> str:
    """Whether the law holds in every cell that is gated on it, in how many it does, and how many
    cells are invalid, be it by another gate."""
    last = last_attempts(cells)
    checks = {"users": _users(_slow(_of_loop(last, "closed"))), "pool": _pool(last)}
    gated = {name: check for name, check in checks.items() if len(check.known)}
    if not gated:
        return "No cell holds a figure to test Little's law with"
    said = [
        f"{name} within {si(check.limit, 'share')} in {len(check.held)} of {len(check.known)} cells"
        for name, check in gated.items()
    ]
    all_hold = all(len(check.held) == len(check.known) for check in gated.values())
    head = "Little's law holds throughout" if all_hold else "Little's law does not hold everywhere"
    invalid = int((~last["valid"]).sum())
    but = f"; {invalid} of the {len(last)} cells failed some gate" if invalid else ""
    return f"{head}: {', '.join(said)}{but}"


def draw(cells: pd.DataFrame, title: str) -> Figure:
    """A panel for each check that these cells allow; closed and open loop stand apart."""
    last = last_attempts(cells)
    checks = _panels(last)
    rows = 2 if len(checks) == 4 else 1
    columns = len(checks) // rows
    size = max(4.5 * columns, 11.0), 4.0 * rows + 1.2
    figure, panels = new_figure(title, rows, columns, size=size)
    for axes, (what, check) in zip(panels, checks.items(), strict=True):
        panel_title(axes, what)
        _draw_check(axes, check)
    pool_legend(figure, last["pool_size"])
    footnote(figure, "A point per replicate. Grey: within the limit. Beyond twice the limit the "
                     "scale is logarithmic.", invalid=any_invalid(last))  # fmt: skip
    return figure


def _panels(cells: pd.DataFrame) -> dict[str, Check]:
    closed, open_ = _of_loop(cells, "closed"), _of_loop(cells, "open")
    checks = {
        "users, RTT ≥ 1 ms: λ · mean(done − sent) ÷ users − 1": _users(_slow(closed)),
        "users, RTT 0: the generator's own share (not gated)": _users(_fast(closed)),
        "pool, closed loop: its count in use ÷ λW − 1": _pool(closed),
        "pool, open loop: its count in use ÷ λW − 1": _pool(open_),
    }
    filled = {what: check for what, check in checks.items() if len(check.drawn)}
    return filled or dict([*checks.items()][:1])


def _draw_check(axes: Axes, check: Check) -> None:
    axes.axhspan(-check.limit, check.limit, color=MUTED, alpha=0.12, lw=0)
    for size, own in check.drawn.groupby("pool_size"):
        style = pool_style(int(size))
        _dots(axes, style, own[own["valid"]], check)
        cross_out(axes, style, own, check.x, check.gate)
    log_axis(axes.xaxis, "count", check.x_label)
    deviation_axis(axes.yaxis, check.limit, "")


def _dots(axes: Axes, style: Style, cells: pd.DataFrame, check: Check) -> None:
    axes.plot(cells[check.x], cells[check.gate], style.marker, color=style.colour, alpha=0.7)


def prose(cells: pd.DataFrame) -> str:
    """A paragraph below the figure: what it tests, and what failed."""
    last = last_attempts(cells)
    invalid = int((~last["valid"]).sum())
    return (
        "Little's law ties three figures that are measured apart: rate, time, and number in "
        "flight. A lost request, a wrong clock or a leaked connection would push a point out of "
        f"the grey band.{_users_said(_of_loop(last, 'closed'))} In every loop the pool's own count "
        f"should equal λW. {_failed(invalid, len(last))}"
    )


def _users_said(closed: pd.DataFrame) -> str:
    if closed.empty:
        return ""
    said = " In a closed loop every user should have a request out all the time"
    fast = _users(_fast(closed)).known
    if fast.empty:
        return f"{said}."
    share = si(-median_of(fast, "gate_little_users"), "share")
    return f"{said}; at RTT 0 the gap is the generator's own time, {share} in the median."


def _failed(invalid: int, of: int) -> str:
    if not invalid:
        return f"None of the {of} cells failed a gate, these or others."
    return f"{invalid} of {of} cells failed a gate, these or others, and are crossed out."
