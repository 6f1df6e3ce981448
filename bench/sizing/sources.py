"""Hold times from where they were measured: a file, a run folder of this project, a live server."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis.statistics import recorded
from bench.model import PreflightError
from bench.sizing.holds import MOST_S, HoldTimes, measured
from bench.sizing.quantities import DURATIONS, PATH_SHOWN, per_second, shown, span

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Row = tuple[int, list[str]]  # with the line of the file

UNITS = ("ns", "us", "ms", "s")
OURS = "command"  # the tag under which this project stores hold times
MOST_BYTES = 200_000_000
SEPARATORS = {";": "“;”", "\t": "tabs", "|": "“|”"}  # of other tools
LIVE_S, LIVE_REPLIES, LIVE_MOST_S = 1.5, 800, 5.0


def from_file(file: Path, unit: str | None) -> HoldTimes:
    """From a HdrHistogram log (.hlog, whole microseconds unless `unit` says otherwise) or a CSV.

    Raises PreflightError naming the file, and the line where one is at fault.
    """
    if unit is not None and unit not in UNITS:
        raise PreflightError(f"--samples-unit {shown(unit)}: there is: {', '.join(UNITS)}")
    text = _read(file)
    if file.suffix == ".hlog" or text.startswith("#[Histogram log"):
        scale_s = DURATIONS[unit or "us"]
        values, counts = _counted(_merged(file, _intervals(file, text)))
        return measured(values * scale_s, counts, _path(file), "--samples")
    column, values_s = _column(file, text, unit)
    found = np.unique(values_s, return_counts=True)
    return measured(*found, f"{_path(file)}{column}", "--samples")


def from_run(folder: Path) -> HoldTimes:
    """From a stored run: the cells of `_undisturbed`, and of those one with a round trip above 0,
    if any was put between, the least load, and then the shortest. Raises PreflightError."""
    try:
        return _from_run(folder)
    except PreflightError as error:
        said = str(error).replace(str(folder), _path(folder)).removeprefix("--run ")
        raise PreflightError(f"--run {said}") from error


def _from_run(folder: Path) -> HoldTimes:
    from bench.store import Store, load_cells

    fit = _undisturbed(load_cells(folder))
    if fit.empty:
        raise PreflightError(
            f"{folder} holds no cell that tells the time of a command on its own: valid, in a "
            "closed loop bound by its users or an open one whose pool was never empty; make one "
            "with make bench ONLY=pool_sweep, or name a histogram with --samples"
        )
    chosen = _plainest(fit)
    store, first = Store.open(folder), chosen.iloc[0]
    total = None
    for _, row in chosen.iterrows():
        each = store.histogram(row["cell"], int(row["block"]), int(row["attempt"]), OURS)
        total = each if total is None else _added(total, each)
    values, counts = _counted(total)
    load = f"closed loop, users: {first['concurrency']}"
    if first["loop"] == "open":
        load = f"open loop, {per_second(first['offered_qps'])}"
    label = (
        f"{_path(folder)}, cell {first['cell']} ({load}, pool {first['pool_size']}, "
        f"RTT {first['rtt_s'] * 1e3:g} ms, {first['client']}, replicates: {len(chosen)})"
    )
    return measured(values * DURATIONS["us"], counts, label, "--run")


def _undisturbed(cells: pd.DataFrame) -> pd.DataFrame:
    """Valid cells where a command's time is its own: in a closed loop bound by its users, or else
    in an open loop of steady Poisson arrivals whose pool never ran empty and was never stopped."""
    valid = cells[cells["valid"].astype(bool) & _usual(cells)]
    closed = valid[(valid["loop"] == "closed") & (valid["bound_by"] == "users")]
    if not closed.empty:
        return closed
    steady = (valid["loop"] == "open") & (valid["arrivals"] == "poisson")
    if "fault" in valid:
        steady &= valid["fault"].isna()
    return valid[steady & (valid["bound_by"] == "users") & (valid["pool_empty_share"] == 0)]


def _usual(cells: pd.DataFrame) -> pd.Series:
    """One command at a time, straight to the server, in plain text, by connections that stay. A run
    of an older version knows of no other."""
    found = cells["valid"].notna()
    for name, usual in {"depth": 1, "via": "direct", "tls": "none"}.items():
        if name in cells:
            found &= cells[name] == usual
    for name in ("max_uses", "max_lifetime_s"):
        if name in cells:
            found &= cells[name].isna()
    return found


def _plainest(cells: pd.DataFrame) -> pd.DataFrame:
    """All replicates of the cell that tells the most of a command on its own: of equals, that which
    was repeated most often."""
    rarity = -cells.groupby("cell")["cell"].transform("size")
    ranked = cells.assign(no_link=cells["rtt_s"] == 0, rarity=rarity)
    load = "in_flight_mean" if (cells["loop"] == "open").all() else "concurrency"
    order = ["no_link", load, "rtt_s", "rarity", "pool_size", "cell", "block"]
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
        raise PreflightError(
            "--live measures the server that REDIS_URL names, and it is not set: "
            "REDIS_URL=redis://127.0.0.1:6379 bench size --live …"
        )
    from bench.rig.server import reach

    with reach(url) as server:
        connection = server.connect()
        try:
            server.command(connection, "PING")
            taken = _timed(lambda: server.command(connection, "PING"))
        finally:
            connection.disconnect()
        source = f"PING to {server.shown_url} from here (a Python client, and nothing beside it)"
        return measured(*np.unique(taken, return_counts=True), source, "--live")


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
            raise PreflightError(f"{_named(file)} {_why_no_file(file)}")
        if file.stat().st_size > MOST_BYTES:
            raise PreflightError(
                f"{_named(file)} has more than {MOST_BYTES // 10**6} MB: give a part of it"
            )
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PreflightError(f"{_named(file)} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise PreflightError(f"{_named(file)} is not UTF-8: save it as UTF-8") from None
    if "\0" in text:
        raise PreflightError(f"{_named(file)} is not UTF-8: save it as UTF-8")
    if not text.strip():
        raise PreflightError(f"{_named(file)} is empty")
    return text


def _named(file: Path) -> str:
    return f"--samples {_path(file)}"


def _path(path: Path) -> str:
    return shown(path, PATH_SHOWN)


def _why_no_file(file: Path) -> str:
    if not file.exists():
        return "does not exist"
    if file.is_dir():
        return "is a folder: name a .hlog or a .csv in it, or a run folder with --run"
    return "is no regular file: save what it gives as one, and name that"


def _intervals(file: Path, text: str) -> list[str]:
    """The encoded histograms of the tag that matters: ours, else no tag, else the only one."""
    by_tag: dict[str, list[str]] = {}
    for line in text.splitlines():
        fields = line.strip().split(",")
        tag = fields.pop(0).removeprefix("Tag=") if line.startswith("Tag=") else ""
        if len(fields) == 4 and not line.startswith(("#", '"')):
            by_tag.setdefault(tag, []).append(fields[3])
    if not by_tag:
        raise PreflightError(f"{_named(file)} is damaged: it holds no histogram")
    for tag in (OURS, "", *by_tag):
        if tag in by_tag and (tag in (OURS, "") or len(by_tag) == 1):
            return by_tag[tag]
    raise PreflightError(
        f"{_named(file)} holds {shown(', '.join(by_tag))}, and none called {OURS}: leave one in it"
    )


def _merged(file: Path, payloads: list[str]) -> Any:
    from hdrh.histogram import HdrHistogram

    try:
        total = HdrHistogram.decode(payloads[0])
        for payload in payloads[1:]:
            total.add(HdrHistogram.decode(payload))
    except Exception as error:  # the decoder raises whatever its damaged input leads it to
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise PreflightError(f"{_named(file)} is damaged ({shown(reason)})") from error
    if not total.get_total_count():
        raise PreflightError(f"{_named(file)} is empty: its histogram counts nothing")
    return total


def _counted(histogram: Any) -> tuple[Array, Counts]:
    """The values recorded, each as the middle of its bucket, and how often."""
    highest, counts = recorded(histogram)
    lowest = [histogram.get_lowest_equivalent_value(int(value)) for value in highest]
    return np.add(lowest, highest) / 2, counts


def _column(file: Path, text: str, unit: str | None) -> tuple[str, Array]:
    """The column's name, to show, and its values in seconds."""
    rows = _rows(file, text)
    first = next(rows)
    place, name = _header(file, first[1])
    unit = unit or _unit_of(name)
    if unit is None:
        raise PreflightError(
            f"{_named(file)}: its numbers have no unit: head the column latency_ms, latency_us "
            "or latency_s, or give --samples-unit"
        )
    body = rows if name else chain([first], rows)
    numbers = _numbers(file, body, place, len(first[1]), DURATIONS[unit])
    values_s = np.fromiter(numbers, dtype=float)
    if not len(values_s):
        raise PreflightError(f"{_named(file)} is empty: there is nothing below its header")
    return f", column {shown(name)}" if name else "", values_s


def _rows(file: Path, text: str) -> Iterator[Row]:
    """Those that are not blank, each with the line of the file on which it begins."""
    reader = csv.reader(io.StringIO(text), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise PreflightError(
                f"{_named(file)}, line {line}: not a CSV of latencies ({error}): is a quote left "
                "open there?"
            ) from None
        if any(field.strip() for field in row):
            yield line, row


def _header(file: Path, first: list[str]) -> tuple[int, str]:
    """Which column, and its name ("" where the file has no header)."""
    names = [field.strip() for field in first]
    parted = [said for separator, said in SEPARATORS.items() if separator in names[0]]
    if len(names) == 1 and parted:
        raise PreflightError(
            f"{_named(file)} has its columns parted by {parted[0]}: part them by commas, with a "
            "dot as the decimal point"
        )
    if any(_number(name) is not None for name in names):
        if len(names) > 1:
            raise PreflightError(
                f"{_named(file)} has {len(names)} columns and no header: head the one that holds "
                "the latency latency_ms, latency_us or latency_s"
            )
        return 0, ""
    timed = [i for i, name in enumerate(names) if _unit_of(name)]
    if len(timed) == 1 or (not timed and len(names) == 1):
        place = timed[0] if timed else 0
        return place, names[place]
    found = shown(", ".join(names[i] for i in timed) or "none")
    raise PreflightError(
        f"{_named(file)}: one column must be a latency, named as latency_ms is; found: {found}"
    )


def _unit_of(name: str) -> str | None:
    unit = name.rpartition("_")[2].lower().replace("µ", "u")
    return unit if "_" in name and unit in UNITS else None


def _numbers(
    file: Path, rows: Iterable[Row], place: int, columns: int, unit_s: float
) -> Iterator[float]:
    """In seconds."""
    for line, row in rows:
        where = f"{_named(file)}, line {line}:"
        if any(field.strip() for field in row[columns:]):
            raise PreflightError(
                f"{where} {len(row)} columns, and {columns} in the first line: a decimal point is "
                "a dot"
            )
        said = row[place].strip() if place < len(row) else ""
        value = _number(said)
        if value is None or not 0 <= value < math.inf:
            raise PreflightError(
                f"{where} “{shown(said)}” is no latency: it must be a number, not negative"
            )
        if value * unit_s > MOST_S:
            raise PreflightError(
                f"{where} “{shown(said)}” is more than {span(MOST_S)}: is the unit right?"
            )
        yield value * unit_s


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
