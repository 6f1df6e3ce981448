"""How things look on every plot: a colour and marker per pool size, hollow markers where the
apparatus set the limit, a cross where a gate failed. A colour has one meaning through the project,
and every kind of colour vision can tell it from those it meets.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.colors import to_hex, to_rgb

INK, MUTED, FAINT = "#1f2328", "#6e7781", "#d8dee4"
INVALID = "#b3261e"
GROUND = "#fbfcfd"
# Text that lines run behind and markers in front of.
OVER_LINES: Any = {"zorder": 2.5, "bbox": {"facecolor": GROUND, "edgecolor": "none", "pad": 0.5}}

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": GROUND,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titley": 1.0,  # nothing above to evade; looking for it takes a tenth of drawing
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "path.simplify": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "redis-pool-bench",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}


class Style(NamedTuple):
    """How one line of the plot looks, on every plot of the project."""

    colour: str
    marker: str


NEUTRAL = Style(MUTED, "o")  # what is no single pool: the 'pool not binding' band, a reference
LINE = Style(MUTED, "")  # a line without points
# Latency from the intended time, and from the moment of sending, which leaves waiting callers out.
CORRECTED, UNCORRECTED = Style("#117733", "o"), Style("#3399cc", "s")
# How a request is made.
CLIENTS = {
    "bare": Style("#0b6e99", "D"),
    "lean": Style("#882255", "o"),
    "tuned": Style("#c9a227", "s"),
    "redis-py": Style("#999933", "o"),
    "glide": Style("#7b4fa3", "P"),
}
# What stands between client and server.
VIAS = {
    "direct": Style("#1b7f5c", "o"),
    "envoy": Style("#b5477b", "s"),
    "twemproxy": Style("#d98e04", "^"),
}
# Whether a request has a connection of its own.
REUSE = {"pooled": Style("#1b7f5c", "o"), "per request": Style("#b5477b", "^")}
# The phases of opening a connection, in their order: colour and hatch.
PHASES = {
    "client": ("#bbbbbb", ""),
    "resolve": ("#e2c97a", "..."),
    "connect": ("#0077bb", ""),
    "tls": ("#aa3377", "///"),
    "hello": ("#ee7733", ""),
    "auth": ("#cc3311", "xx"),
    "setinfo": ("#009988", "\\\\\\"),
    "maint": ("#66ccbb", "++"),
    "select": ("#4455aa", "---"),
    "first command": ("#222255", ""),
}
# How connections were opened and handed out.
VARIANTS = {
    ("prefilled", "lifo"): Style("#00509d", "o"),
    ("prefilled", "fifo"): Style("#d55e00", "^"),
    ("lazy", "lifo"): Style("#6e7781", "s"),
}
# The rate a pod is offered, requests per second.
_RATES = {
    500.0: Style("#44aa99", "^"),
    1_000.0: Style("#332288", "o"),
    2_000.0: Style("#cc6677", "s"),
}
_SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_MARKERS = ("o", "s", "^", "D", "v", "p", "<", "h", ">", "8")
# Dark blue to orange: ordered, in lightness as well as in hue, for every kind of colour vision. The
# map's pale end, which vanishes on a light ground, is left out.
_MAP, _MAP_END = mpl.colormaps["plasma"], 0.84


def pool_style(size: int) -> Style:
    """The colour and marker of a pool size; sizes not in the sweep lie between their neighbours."""
    place = math.log(max(size, 1) / _SIZES[0]) / math.log(_SIZES[-1] / _SIZES[0])
    place = min(max(place, 0.0), 1.0)
    return Style(to_hex(_MAP(_MAP_END * place)), _MARKERS[round(place * (len(_SIZES) - 1))])


def rate_style(qps: float) -> Style:
    """The colour and marker of an offered rate per pod; grey for one that has none."""
    return _RATES.get(qps, NEUTRAL)


CROSS: dict[str, Any] = {"marker": "x", "markersize": 10, "color": INVALID, "markeredgewidth": 1.8}


def marker(style: Style, *, hollow: bool = False) -> dict[str, Any]:
    """What matplotlib is told to draw a point of this look."""
    return {
        "marker": style.marker,
        "color": style.colour,
        "markerfacecolor": GROUND if hollow else style.colour,
        "markeredgewidth": 1.4,
    }


def darker(colour: str) -> str:
    """The same hue, dark enough for small text."""
    red, green, blue = to_rgb(colour)
    return to_hex((0.75 * red, 0.75 * green, 0.75 * blue))


# What became of a request, or of the first command on a connection; with a hatch.
OUTCOME_LOOKS = {
    "ok": ("#c8ced4", ""),
    "ok after retry": ("#8fb8a8", "///"),
    "slow": ("#e8b54d", "..."),
    "closed": ("#6aa3d5", ""),
    "reset": ("#2f5d8a", "xx"),
    "broken pipe": ("#a08cc8", "\\\\\\"),
    "time-out": ("#c4473a", ""),
    "no connection": ("#7a1f2b", "++"),
    "refused": ("#55606b", "--"),
    "other": ("#222222", ""),
}

# How a service lets go of calls that are stuck.
DEFENCES = {
    "no timeout": Style("#c4473a", "o"),
    "acquire timeout": Style("#1f6f54", "s"),
    "socket timeout": Style("#b9770e", "^"),
    "both timeouts": Style("#3b5aa3", "D"),
    "max waiting": Style("#8c564b", "v"),
}
