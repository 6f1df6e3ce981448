"""Hold times from where they were measured: a file, a run folder of this project, a live server."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.model import PreflightError
from bench.sizing.holds import HoldTimes, measured
from bench.sizing.quantities import DURATIONS

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

UNITS = ("ns", "us", "ms", "s")
OURS = "command"  # the tag under which this project stores hold times
MOST_BYTES = 200_000_000
LIVE_S, LIVE_REPLIES, LIVE_MOST_S = 1.5, 800, 5.0


def from_file(file: Path, unit: str | None) -> HoldTimes:
    """From a HdrHistogram log (.hlog, whole microseconds unless `unit` says otherwise) or a CSV.

    Raises PreflightError naming the file, and the line where one is at fault.
    """
    if unit is not None and unit not in UNITS:
        raise PreflightError(f"--samples-unit {unit}: there is: {', '.join(UNITS)}")
    text = _read(file)
    if file.suffix == ".hlog" or text.startswith("#[Histogram log"):
        scale_s = DURATIONS[unit or "us"]
        values, counts = _counted(_merged(file, _intervals(file, text)))
        return measured(values * scale_s, counts, f"{file}")
    column, values_s = _column(file, text, unit)
    return measured(*np.unique(values_s, return_counts=True), f"{file}{column}")


def from_run(folder: Path) -> HoldTimes:
    """From a stored run: valid, closed loop, bound by its users; of those the shortest round trip
    above 0, if any was put between, then the fewest users. Raises PreflightError."""
    from bench.store import Store, load_cells

    cells = load_cells(folder)
    fit = cells[(cells["loop"] == "closed") & cells["valid"] & (cells["bound_by"] == "users")]
    if fit.empty:
        raise PreflightError(
            f"{folder} holds no valid closed-loop cell bound by its users: name one of its "
            "histograms with --samples"
        )
    chosen = _plainest(fit)
    store, first = Store.open(folder), chosen.iloc[0]
    total = None
    for _, row in chosen.iterrows():
        each = store.histogram(row["cell"], int(row["block"]), int(row["attempt"]), OURS)
        total = each if total is None else _added(total, each)
    values, counts = _counted(total)
    label = (
        f"{folder}, cell {first['cell']} (closed loop, users: {first['concurrency']}, pool "
        f"{first['pool_size']}, RTT {first['rtt_s'] * 1e3:g} ms, {first['client']}, replicates: "
        f"{len(chosen)})"
    )
    return measured(values * DURATIONS["us"], counts, label)


def _plainest(cells: pd.DataFrame) -> pd.DataFrame:
    """All replicates of the cell that tells the most of a command on its own: of equals, that which
    was repeated most often."""
    rarity = -cells.groupby("cell")["cell"].transform("size")
    ranked = cells.assign(no_link=cells["rtt_s"] == 0, rarity=rarity)
    order = ["no_link", "rtt_s", "concurrency", "rarity", "pool_size", "cell", "block"]
    ranked = ranked.sort_values(order, kind="stable")
    return ranked[ranked["cell"] == ranked.iloc[0]["cell"]]


def _added(total: Any, each: Any) -> Any:
    total.add(each)
    return total


def live(url: str | None) -> HoldTimes:
    """From PINGs to the server at `url`, one after the other on one connection: nothing is written.

    Blocks for 1.5 s, or up to 5 where replies are slow. Raises PreflightError, ApparatusLost.
    """
    if url is None:
        raise PreflightError("--live measures the server that REDIS_URL names, and it is not set")
    from bench.rig.server import reach

    with reach(url) as server:
        connection = server.connect()
        try:
            server.command(connection, "PING")
            taken = _timed(lambda: server.command(connection, "PING"))
        finally:
            connection.disconnect()
        source = f"PING to {server.shown_url} from here (a Python client, and nothing beside it)"
        return measured(*np.unique(taken, return_counts=True), source)


def _timed(exchange: Any) -> list[float]:
    taken: list[float] = []
    begun = now = time.perf_counter()
    while now - begun < LIVE_S or (len(taken) < LIVE_REPLIES and now - begun < LIVE_MOST_S):
        exchange()
        before, now = now, time.perf_counter()
        taken.append(now - before)
    return taken


# Files


def _read(file: Path) -> str:
    try:
        if not file.is_file():
            missing = "is no file" if file.exists() else "does not exist"
            raise PreflightError(f"--samples {file} {missing}")
        if file.stat().st_size > MOST_BYTES:
            raise PreflightError(
                f"--samples {file} has more than {MOST_BYTES // 10**6} MB: give a part of it"
            )
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PreflightError(f"--samples {file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise PreflightError(f"--samples {file} is damaged: it is not text") from None
    if not text.strip():
        raise PreflightError(f"--samples {file} is empty")
    return text


def _intervals(file: Path, text: str) -> list[str]:
    """The encoded histograms of the tag that matters: ours, else no tag, else the only one."""
    by_tag: dict[str, list[str]] = {}
    for line in text.splitlines():
        fields = line.strip().split(",")
        tag = fields.pop(0).removeprefix("Tag=") if line.startswith("Tag=") else ""
        if len(fields) == 4 and not line.startswith(("#", '"')):
            by_tag.setdefault(tag, []).append(fields[3])
    if not by_tag:
        raise PreflightError(f"--samples {file} is damaged: it holds no histogram")
    for tag in (OURS, "", *by_tag):
        if tag in by_tag and (tag in (OURS, "") or len(by_tag) == 1):
            return by_tag[tag]
    raise PreflightError(
        f"--samples {file} holds {', '.join(by_tag)}, and none called {OURS}: leave one in it"
    )


def _merged(file: Path, payloads: list[str]) -> Any:
    from hdrh.histogram import HdrHistogram

    try:
        total = HdrHistogram.decode(payloads[0])
        for payload in payloads[1:]:
            total.add(HdrHistogram.decode(payload))
    except Exception as error:  # the decoder raises whatever its damaged input leads it to
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise PreflightError(f"--samples {file} is damaged ({reason})") from error
    if not total.get_total_count():
        raise PreflightError(f"--samples {file} is empty: its histogram counts nothing")
    return total


def _counted(histogram: Any) -> tuple[Array, Counts]:
    """The values recorded, each as the middle of its bucket, and how often."""
    pairs = [  # taken apart at once: the iterator hands out one object, changed each time
        (item.value_iterated_to, item.count_at_value_iterated_to)
        for item in histogram.get_recorded_iterator()
    ]
    highest, counts = np.array(pairs, dtype=np.int64).T
    lowest = [histogram.get_lowest_equivalent_value(int(value)) for value in highest]
    return np.add(lowest, highest) / 2, counts


def _column(file: Path, text: str, unit: str | None) -> tuple[str, Array]:
    """The column's name, to show, and its values in seconds."""
    rows = [row for row in csv.reader(text.splitlines()) if any(field.strip() for field in row)]
    place, name = _header(file, rows[0], unit)
    unit = unit or _unit_of(name)
    if unit is None:
        raise PreflightError(
            f"--samples {file}: its numbers have no unit: head the column latency_ms, latency_us "
            "or latency_s, or give --samples-unit"
        )
    body = rows[1:] if name else rows
    if not body:
        raise PreflightError(f"--samples {file} is empty: there is nothing below its header")
    values = np.fromiter(_numbers(file, body, place, 1 + bool(name)), dtype=float)
    return f", column {name}" if name else "", values * DURATIONS[unit]


def _header(file: Path, first: list[str], unit: str | None) -> tuple[int, str]:
    """Which column, and its name ("" where the file has no header)."""
    names = [field.strip() for field in first]
    if any(_number(name) is not None for name in names):
        if len(names) > 1:
            raise PreflightError(
                f"--samples {file} has {len(names)} columns and no header: head the one that holds "
                "the latency latency_ms, latency_us or latency_s"
            )
        return 0, ""
    timed = [i for i, name in enumerate(names) if _unit_of(name)]
    if len(timed) == 1 or (not timed and len(names) == 1):
        place = timed[0] if timed else 0
        return place, names[place]
    found = ", ".join(names[i] for i in timed) or "none"
    raise PreflightError(
        f"--samples {file}: one column must be a latency, named as latency_ms is; found: {found}"
    )


def _unit_of(name: str) -> str | None:
    unit = name.rpartition("_")[2].lower().replace("µ", "u")
    return unit if "_" in name and unit in UNITS else None


def _numbers(file: Path, rows: list[list[str]], place: int, first_line: int) -> Iterator[float]:
    for line, row in enumerate(rows, first_line):
        value = _number(row[place]) if place < len(row) else None
        if value is None or not 0 <= value < math.inf:
            said = row[place].strip() if place < len(row) else ""
            raise PreflightError(
                f"--samples {file}, row {line}: “{said[:40]}” is no latency: it must be a number, "
                "not negative"
            )
        yield value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
