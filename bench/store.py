"""results/RUN/: written once per cell, read as tables.

A cell is finished if and only if its row is in cells.parquet, which is written last: whatever a
crash leaves half done is not seen by readers, and swept away when the run is resumed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import itertools
import json
import math
import operator
import os
import shlex
import time
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hdrh.histogram import HdrHistogram

from bench.model import (
    LANE_COLUMNS,
    OUTCOMES,
    Arrivals,
    Cell,
    Idling,
    Observation,
    Outage,
    Percentiles,
    PreflightError,
    Service,
    Settings,
    Verdict,
    Workload,
)
from bench.rig import host

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
KEY = ("cell", "block", "attempt")
TICKS_PER_S = 1e6  # histograms count whole microseconds
_COLUMN_TYPES = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
_SHAPES = {"settings": dict, "servers": list, "resumed": list, "packages": dict}  # in run.json
_WRITTEN = (  # by a run, as patterns
    "run.json", "cells.parquet", "series.parquet", "verdicts.json", "workers.log",
    "latency/*.hlog", "requests/*.parquet", ".*.partial", "*/.*.partial",
)  # fmt: skip
# Fields of Observation that are no plain column.
_APART = {"cell", "gates", "series", "histograms", "requests"}
# Types of a cell's fields whose own fields are the columns.
_NESTED = {Workload, Arrivals | None, Idling | None, Outage | None, Service | None}
_TIMES = ("intended_s", "sent_s", "acquired_s", "done_s")
_Noun = TypeVar("_Noun", Settings, Workload)
_Asked = typing.ParamSpec("_Asked")
_Made = TypeVar("_Made")


class Store:
    """One run folder. Reading needs no lock; one process at a time may add to it."""

    def __init__(self, folder: Path, manifest: dict[str, Any], lock: int | None) -> None:
        self.folder = folder
        self.manifest = manifest
        self._lock = lock
        self._made = False  # whether the folder is this process's own
        complete = manifest.get("status") == "complete"
        self._cells = _read_table(folder / "cells.parquet", _schema(), there=complete)
        self._stored = _keys(self._cells)
        self._frame: pd.DataFrame | None = None  # of the cells, once somebody asks
        some = self._cells.num_rows > 0  # a cell's intervals are written before its row
        stored = _read_table(folder / "series.parquet", _series_schema([]), there=some)
        self._series = _only_of(stored, self._cells)

    @classmethod
    def create(cls, folder: Path, manifest: dict[str, Any]) -> Store:
        """Make a new run folder, to add to. Raises PreflightError where that cannot be."""
        with _explained(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            made = _made(folder)
            if not made and any(folder.iterdir()):
                raise PreflightError(f"{folder} is not empty: choose another folder for this run")
        return cls._begun(folder, manifest, made)

    @classmethod
    def create_in(cls, results: Path, settings: Settings) -> Store:
        """Make a run folder of its own under `results`, its manifest saying all of this machine."""
        manifest = {"settings": settings.identity(), **host.manifest()}
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{settings.profile}"
        with _explained(results):
            results.mkdir(parents=True, exist_ok=True)
            folder = next(filter(_made, _names(results / stem)))
        return cls._begun(folder, manifest, made=True)

    @classmethod
    def _begun(cls, folder: Path, manifest: dict[str, Any], made: bool) -> Store:
        started = {"format": FORMAT, "status": "running", "started": _now()}
        store = cls._to_add_to(folder, lambda: {**started, **manifest})
        store._made = made
        return store

    @classmethod
    def open(cls, folder: Path | str) -> Store:
        """Open a run to read. Raises PreflightError naming the file that is missing or damaged."""
        folder = Path(folder)
        return cls(folder, _read_manifest(folder), lock=None)

    @classmethod
    def resume(cls, folder: Path | str, settings: Settings | None = None) -> Store:
        """Open a run to complete it, and sweep away what a crash left half done.

        Raises PreflightError also where another process is adding to it, where it was made with
        settings other than those given, or where the table of finished cells was lost.
        """
        folder = Path(folder)
        _read_manifest(folder)  # what is no run folder is named so, before it is locked

        def manifest() -> dict[str, Any]:
            made = _read_manifest(folder)
            if settings is not None:
                _refuse_other_settings(folder, made.get("settings", {}), settings.identity())
            resumed = [*made.get("resumed", []), _now()]
            return {**made, "status": "running", "resumed": resumed}

        return cls._to_add_to(folder, manifest)

    @classmethod
    def _to_add_to(cls, folder: Path, manifest: Callable[[], dict[str, Any]]) -> Store:
        """The manifest is asked for under the lock: whoever held it until then may change it."""
        lock = _locked(folder)
        try:
            store = cls(folder, manifest(), lock)
            store._sweep()
            store._write_manifest()
        except BaseException:
            os.close(lock)
            raise
        return store

    def add(self, observation: Observation) -> None:
        """Write one finished cell for good: its histograms, its intervals, and last its row.

        Blocks for the disk. Raises PreflightError where it cannot be written; what was stored
        before stays whole.
        """
        if self._lock is None:
            raise ValueError(f"{self.folder} is open for reading only")
        row = _row(observation)
        key = tuple(row[name] for name in KEY)
        if key in self._stored:
            raise ValueError(f"{self.folder} already holds {observation.cell.label}")
        cells = _joined(self._cells, pa.Table.from_pylist([row], _schema(_gate_names(observation))))
        series = _joined(self._series, _series_table(observation))
        if observation.requests:
            _write(self._requests(*key), _parquet(_request_table(observation)))
        _write(self._log(*key), _histogram_log(observation))
        _write(self.folder / "series.parquet", _parquet(series))
        _write(self.folder / "cells.parquet", _parquet(cells))
        self._cells, self._series, self._frame = cells, series, None
        self._stored.add(key)

    def attempts(self) -> dict[tuple[str, int], list[bool]]:
        """Whether each attempt at a cell was valid, in order, by (cell id, block)."""
        tried: dict[tuple[str, int], list[bool]] = {}
        rows = self._cells.select([*KEY, "valid"]).sort_by("attempt").to_pylist()
        for row in rows:
            tried.setdefault((row["cell"], row["block"]), []).append(row["valid"])
        return tried

    def experiments(self) -> list[str]:
        """The experiments of which cells are stored, in the order in which they were measured."""
        return list(dict.fromkeys(self._cells["experiment"].to_pylist()))

    def stored_bytes(self) -> Counter[str]:
        """Of each experiment's histograms and requests, on disk."""
        found: Counter[str] = Counter()
        names = self._cells["experiment"].to_pylist()
        for name, *key in zip(names, *(self._cells[part].to_pylist() for part in KEY), strict=True):
            for path in (self._log(*key), self._requests(*key)):
                with contextlib.suppress(OSError):  # who needs a missing one says so
                    found[name] += path.stat().st_size
        return found

    def cells(self) -> pd.DataFrame:
        """A row per cell, block and attempt; columns as the methods name them, in base units."""
        if self._frame is None:
            self._frame = _in_few_blocks(self._cells.to_pandas())
        return self._frame.copy(deep=False)  # copied on write: who changes it changes their own

    def series(self) -> pd.DataFrame:
        """A row per interval of each stored cell."""
        return self._series.to_pandas()

    def histogram(self, cell_id: str, block: int, attempt: int, tag: str) -> HdrHistogram:
        """One stored histogram, of whole microseconds; `tag`: latency, acquire, command, send_lag.

        Raises PreflightError for a damaged log, KeyError for a cell or tag that is not stored.
        """
        if (cell_id, block, attempt) not in self._stored:
            raise KeyError(f"no cell {cell_id} in block {block}, attempt {attempt}")
        return _read_histogram(self._log(cell_id, block, attempt), tag)

    def requests(self, cell_id: str, block: int, attempt: int) -> pd.DataFrame:
        """Every request of a cell that keeps them, in the order in which they were intended:
        worker, and intended_s, sent_s, acquired_s, done_s, in seconds after the window's begin; of
        cells that sleep a lane stands for a worker, and further columns tell what became of each.

        Raises PreflightError where the file is missing or damaged.
        """
        table = _read_table(self._requests(cell_id, block, attempt), pa.schema([]))
        return table.drop_columns(list(KEY)).to_pandas()

    def note_verdicts(self, verdicts: Iterable[Verdict]) -> None:
        """Write verdicts.json anew: a record for each claim that was judged."""
        told = [dataclasses.asdict(verdict) for verdict in verdicts]
        text = json.dumps(without_nan(told), indent=2, ensure_ascii=False)
        _write(self.folder / "verdicts.json", text.encode() + b"\n")

    def note_certificate(self, rows: Iterable[dict[str, Any]]) -> None:
        """Record what was measured of the instrument itself beside this run's cells."""
        self.manifest["certificate"] = without_nan(list(rows))
        self._write_manifest()

    def note_not_run(self, cells: Iterable[dict[str, Any]]) -> None:
        """Record what of the plan this machine cannot run, and why."""
        self.manifest["not_run"] = list(cells)
        self._write_manifest()

    def note_server(self, flavour: str, version: str) -> None:
        """Record which server was measured; a run may meet several, block by block."""
        server = {"flavour": flavour, "version": version}
        known = self.manifest.setdefault("servers", [])
        if server not in known:
            known.append(server)
            self._write_manifest()

    def finish(self, status: str) -> None:
        """Record how and when the run ended, and let others add to it."""
        ended = {"status": status, "ended": _now(), "load_average_end": list(os.getloadavg())}
        self.manifest.update(ended)
        self._write_manifest()
        self.close()

    def discard(self) -> None:
        """Remove a run in which nothing was finished; what others put into its folder stays.

        A folder that this process did not make, as that of a resumed run, is left as it is.
        """
        self.close()
        if not self._made:
            return
        with contextlib.suppress(OSError):  # not empty: somebody else's files are in it
            for path in itertools.chain.from_iterable(map(self.folder.glob, _WRITTEN)):
                path.unlink(missing_ok=True)
            (self.folder / "latency").rmdir()
            (self.folder / "requests").rmdir()
            self.folder.rmdir()

    def close(self) -> None:
        """Let other processes add to this run. May be repeated."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _log(self, cell: str, block: int, attempt: int) -> Path:
        return self.folder / "latency" / f"{cell}-{block}-{attempt}.hlog"

    def _requests(self, cell: str, block: int, attempt: int) -> Path:
        return self.folder / "requests" / f"{cell}-{block}-{attempt}.parquet"

    def _sweep(self) -> None:
        finished = _keys(self._cells)
        logs = set((self.folder / "latency").glob("*.hlog")) - {self._log(*k) for k in finished}
        requests = set((self.folder / "requests").glob("*.parquet"))
        requests -= {self._requests(*key) for key in finished}
        self._refuse_lost_cells(len(logs))
        with _explained(self.folder):
            (self.folder / "latency").mkdir(exist_ok=True)
            (self.folder / "requests").mkdir(exist_ok=True)
            for orphan in (*logs, *requests, *self.folder.glob("**/.*.partial")):
                orphan.unlink(missing_ok=True)

    def _refuse_lost_cells(self, orphans: int) -> None:
        """A crash leaves one log without its row: more, or no table at all, is a table lost."""
        table = self.folder / "cells.parquet"
        if not table.exists() and (orphans or (self.folder / "series.parquet").exists()):
            lost = "is missing"
        elif orphans > 1:
            lost = f"lacks {orphans} of the cells in latency"
        else:
            return
        raise PreflightError(f"{table} {lost}: restore it from a copy, or start a new run")

    def _write_manifest(self) -> None:
        _write(self.folder / "run.json", json.dumps(self.manifest, indent=2).encode() + b"\n")


def stored_settings(folder: Path | str) -> Settings:
    """The settings a run was made with, to complete it. Raises PreflightError as `Store.open`."""
    made = dict(_read_manifest(Path(folder)).get("settings", {}))
    made.pop("owned_server", None)
    try:
        workload = _of_its_types(Workload(**made.pop("workload")))
        only = made.pop("only")
        made["only"] = tuple(only) if isinstance(only, list) else only
        return _of_its_types(Settings(workload=workload, **made))
    except (KeyError, TypeError) as error:
        raise PreflightError(
            f"{folder}/run.json holds no complete settings ({_brief(error)}): start a new run"
        ) from error


def _of_its_types(noun: _Noun) -> _Noun:
    """`noun`, each of whose fields is checked to be of its type. Raises TypeError."""
    for name, kind in typing.get_type_hints(type(noun)).items():
        value = getattr(noun, name)
        if not _is(value, kind):
            raise TypeError(f"{name} is {_said(value)}")
    return noun


def _is(value: Any, kind: Any) -> bool:
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return value in parts
    if typing.get_origin(kind) is types.UnionType:
        return any(_is(value, part) for part in parts)
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(each, parts[0]) for each in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _in_few_blocks(cells: pd.DataFrame) -> pd.DataFrame:
    """Texts as Python's own, side by side. pandas' strings are a block of memory for each column,
    of which a table of cells has dozens, and each row picked is picked in every block: a third of
    what judging a full run's claims took."""
    texts = {name: object for name, kind in cells.dtypes.items() if kind == "str"}
    return cells.astype(texts).copy()


def load_cells(folder: Path | str) -> pd.DataFrame:
    """The cells of a run, for notebooks. Raises PreflightError also where none is finished yet."""
    return open_measured(folder).cells()


def open_measured(folder: Path | str) -> Store:
    """A run with cells to read. Raises PreflightError also where none is finished yet."""
    store = Store.open(folder)
    if not store.attempts():
        raise PreflightError(
            f"{folder} holds no finished cell yet: complete it with {how_to_resume(folder)}"
        )
    return store


def derived(derive: Callable[_Asked, _Made]) -> Callable[_Asked, _Made]:
    """Keeps what `derive` made of its last arguments: claims, figures, findings and prose of an
    experiment rest on the same tables, and reading these from histograms and requests is most of
    their time.

    Arguments are the same if they are the same objects: a table of stored cells is never changed.
    """
    asked: tuple[Any, ...] = ()
    made: Any = None

    @functools.wraps(derive)
    def kept(*given: Any) -> Any:
        nonlocal asked, made
        if len(given) != len(asked) or any(map(operator.is_not, given, asked)):
            made, asked = derive(*given), given  # type: ignore[call-arg]
        return made

    return typing.cast(Callable[_Asked, _Made], kept)


def how_to_resume(folder: Path | str) -> str:
    """What completes a run, as one types it."""
    quoted = shlex.quote(str(folder))
    return f"make bench RESUME={quoted} (or bench run --resume {quoted})"


# What a row holds


@functools.cache
def _columns() -> dict[str, pa.DataType]:
    head = {"experiment": str, "cell": str, "block": int, "replicate": int, "attempt": int}
    varied = _plain_types(Cell) | _arrivals_types() | _plain_types(Workload)
    for nested in (Idling, Outage, Service):
        varied |= _plain_types(nested)
    measured = _plain_types(Observation, _APART)
    return {name: _column_type(kind) for name, kind in (head | varied | measured).items()}


def _plain_types(noun: type, apart: Iterable[str] = ()) -> dict[str, Any]:
    """Fields and their types; percentiles become a column each, nested settings are left out."""
    found: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(noun).items():
        if kind is Percentiles:
            found |= {f"{name}_{field.name}_s": float for field in dataclasses.fields(Percentiles)}
        elif kind not in _NESTED and name not in apart:
            found[name] = kind
    return found


def _arrivals_types() -> dict[str, Any]:
    """The process of the arrivals is the column `arrivals`; all are blank in a closed loop."""
    return {_arrivals_column(name): kind for name, kind in typing.get_type_hints(Arrivals).items()}


def _arrivals_column(field: str) -> str:
    return "arrivals" if field == "process" else field


def _column_type(kind: Any) -> pa.DataType:
    if typing.get_origin(kind) is types.UnionType:
        kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
    if typing.get_origin(kind) is typing.Literal:
        kind = str
    if typing.get_origin(kind) is tuple:
        return pa.list_(_column_type(typing.get_args(kind)[0]))
    if dataclasses.is_dataclass(kind):
        return pa.struct(
            [(name, _column_type(of)) for name, of in typing.get_type_hints(kind).items()]
        )
    return _COLUMN_TYPES[kind]


def _schema(gates: Iterable[str] = ()) -> pa.Schema:
    """The columns of cells.parquet; each gate met so far adds the one that holds its figure."""
    return pa.schema([*_columns().items(), *((name, pa.float64()) for name in gates)])


def _gate_names(observation: Observation) -> list[str]:
    return [f"gate_{gate.name}" for gate in observation.gates]


def _row(observation: Observation) -> dict[str, Any]:
    cell = observation.cell
    row: dict[str, Any] = {**_flat(cell.workload), **_flat(cell)}
    if cell.arrivals is not None:
        row |= {_arrivals_column(name): value for name, value in _flat(cell.arrivals).items()}
    for nested in (cell.idling, cell.outage, cell.service):
        row |= _flat(nested) if nested is not None else {}
    row |= {name: value for name, value in _flat(observation).items() if name not in _APART}
    row |= {f"gate_{gate.name}": gate.figure for gate in observation.gates}
    row["cell"] = observation.cell.id
    for name in ("pods", "phases", "bursts"):
        row[name] = [dataclasses.asdict(each) for each in getattr(observation, name)]
    return {name: _known(value) for name, value in row.items()}


def _flat(noun: Any) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(noun):
        value = getattr(noun, field.name)
        if isinstance(value, Percentiles):
            parts = dataclasses.asdict(value)
            flat |= {f"{field.name}_{part}_s": figure for part, figure in parts.items()}
        else:
            flat[field.name] = value
    return flat


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _series_schema(rows: list[dict[str, Any]]) -> pa.Schema:
    """Every number is a float: a column must not change its type from one cell to the next."""
    columns = {"cell": pa.string(), "block": pa.int64(), "attempt": pa.int64()}
    for row in rows:
        for name, value in row.items():
            columns[name] = pa.string() if isinstance(value, str) else pa.float64()
    return pa.schema(list(columns.items()))


def _series_table(observation: Observation) -> pa.Table:
    key = {"cell": observation.cell.id, "block": observation.block, "attempt": observation.attempt}
    rows = [{name: _known(value) for name, value in row.items()} for row in observation.series]
    return pa.Table.from_pylist([row | key for row in rows], _series_schema(rows))


def _request_table(observation: Observation) -> pa.Table:
    """Times to the microsecond: the clock's finer digits would be most of the file."""
    names = _TIMES if observation.cell.idling is None else LANE_COLUMNS
    parts = [np.frombuffer(rows).reshape(-1, len(names)) for rows in observation.requests]
    times = np.concatenate(parts).round(6)
    worker = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = np.argsort(times[:, 0], kind="stable")
    columns = {name: _request_column(name, times[order, i]) for i, name in enumerate(names)}
    key = {"cell": observation.cell.id, "block": observation.block, "attempt": observation.attempt}
    repeated = {name: [value] * len(times) for name, value in key.items()}
    return pa.table({**repeated, "worker": worker[order], **columns})


def _request_column(name: str, values: Any) -> pa.Array:
    """What became of a request is stored by name; blank where it sent nothing."""
    if name not in ("outcome", "first"):
        return pa.array(values, from_pandas=True)
    return pa.array([OUTCOMES[int(code)] if code >= 0 else None for code in values], pa.string())


def without_nan(value: Any) -> Any:
    """JSON has no NaN: not known is null."""
    if isinstance(value, dict):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _keys(table: pa.Table) -> set[tuple[str, int, int]]:
    return set(zip(*(table[name].to_pylist() for name in KEY), strict=True))


def _only_of(series: pa.Table, cells: pa.Table) -> pa.Table:
    """The intervals whose cell is finished."""
    kept = _keys(cells)
    names = zip(*(series[name].to_pylist() for name in KEY), strict=True)
    return series.filter(pa.array([key in kept for key in names], pa.bool_()))


def _joined(old: pa.Table, new: pa.Table) -> pa.Table:
    return pa.concat_tables([old, new], promote_options="default").combine_chunks()


# Histogram logs


def _histogram_log(observation: Observation) -> bytes:
    """A log in the format of HdrHistogram's own tools, a tag for each kind of time."""
    started_s = observation.started_unix_s
    said = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started_s))
    lines = [
        "#[Histogram log format version 1.3]",
        f"#[StartTime: {started_s:.3f} (seconds since epoch), {said}]",
        f"#[BaseTime: {started_s:.3f} (seconds since epoch)]",
        "#[Values are whole microseconds; Interval_Max is in seconds]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    for tag, payload in observation.histograms.items():
        longest_s = HdrHistogram.decode(payload).get_max_value() / TICKS_PER_S
        times = f"0.000,{observation.measured_s:.3f},{longest_s:.6f}"
        lines.append(f"Tag={tag},{times},{payload.decode()}")
    return "\n".join([*lines, ""]).encode()


def _read_histogram(log: Path, tag: str) -> HdrHistogram:
    try:
        payloads = dict(_tagged(log.read_text().splitlines()))
        if payloads and tag not in payloads:
            raise KeyError(f"{log} holds no {tag!r}; it holds {', '.join(payloads)}")
        return HdrHistogram.decode(payloads.get(tag, ""))
    except KeyError:
        raise
    except FileNotFoundError:
        raise PreflightError(f"{log} is missing: restore it from a copy of the run") from None
    except OSError as error:
        raise _unreadable(log, error) from error
    except Exception as error:  # the decoder raises whatever its damaged input leads it to
        raise PreflightError(
            f"{log} is damaged ({_brief(error)}): restore it from a copy of the run"
        ) from error


def _tagged(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        if line.startswith("Tag="):
            tag, _start, _length, _longest, payload = line.removeprefix("Tag=").split(",")
            yield tag, payload


# Files


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    try:
        manifest = json.loads(path.read_bytes())
        format_ = int(manifest["format"])
        for name, kind in _SHAPES.items():
            if not isinstance(manifest.get(name, kind()), kind):
                raise ValueError(f"{name} is {_said(manifest[name])}")
    except (FileNotFoundError, NotADirectoryError):
        what = "is not a run folder: it has no run.json" if folder.exists() else "does not exist"
        raise PreflightError(f"{folder} {what}; name one that `bench run` made") from None
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise PreflightError(
            f"{path} is damaged ({_brief(error)}): restore it from a copy, or start a new run"
        ) from error
    if format_ > FORMAT:
        raise PreflightError(
            f"{path} is of format {format_} and this version reads up to {FORMAT}: update the suite"
        )
    return dict(manifest)


def _unreadable(path: Path, error: OSError) -> PreflightError:
    return PreflightError(f"{path} cannot be read ({error.strerror}): see its permissions")


def _read_table(path: Path, schema: pa.Schema, *, there: bool = True) -> pa.Table:
    """A stored table with at least the columns of `schema`; an empty one where the file is missing
    and need not be `there`. Raises PreflightError."""
    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()))
        missing = [name for name in KEY if name not in table.column_names]
        if missing:
            raise ValueError(f"no column {missing[0]}")
        return _joined(schema.empty_table(), table)
    except FileNotFoundError:
        if there:
            raise PreflightError(f"{path} is missing: restore it from a copy of the run") from None
        return schema.empty_table()
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, pa.ArrowException) as error:
        raise PreflightError(
            f"{path} is damaged or of another version ({_brief(error)}): "
            "restore it from a copy, or start a new run"
        ) from error


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _write(path: Path, content: bytes) -> None:
    """Replace `path` at once and for good: after a crash it holds the old content or the new."""
    partial = path.with_name(f".{path.name}.partial")
    with _explained(path):
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn a refusal of the file system into one line with its mend."""
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    try:
        yield
    except OSError as error:
        mend = (
            "free some space, then run again; where cells were kept, resume the run"
            if error.errno in full
            else "use a folder you may write to (--results; of a run that is there, a copy)"
        )
        raise PreflightError(f"{path} cannot be written ({error.strerror}): {mend}") from error


def _locked(folder: Path) -> int:
    """A descriptor whose lock says that this process adds to the run; the lock dies with it."""
    with _explained(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise PreflightError(
            f"{folder} is being written by another run: wait for it, or stop it"
        ) from None
    except OSError:
        pass  # a file system without locks, as some network ones: go on without
    return descriptor


def _made(folder: Path) -> bool:
    """Whether it was this call that made it: of two processes, only one is told so."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _names(first: Path) -> Iterator[Path]:
    yield first
    number = 1
    while True:
        number += 1
        yield first.with_name(f"{first.name}-{number}")


def _refuse_other_settings(folder: Path, made: dict[str, Any], given: dict[str, Any]) -> None:
    made, given = json.loads(json.dumps([made, given]))  # as stored: tuples are lists
    for name in sorted(made.keys() | given.keys()):
        before, now = made.get(name), given.get(name)
        if before != now:
            raise PreflightError(
                f"{folder} was made with {name} {_said(before)}, not {_said(now)}: "
                "resume it with the same settings, or start a new run"
            )


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _brief(error: Exception) -> str:
    first = (str(error) or type(error).__name__).splitlines()[0]
    return first.strip().rstrip(".")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
