"""What notebooks show of a run beside its own plots and tables."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pandas as pd
from IPython.display import HTML, Image, Markdown
from matplotlib.figure import Figure

from bench.analysis.replicates import last_attempts
from bench.analysis.sentences import counted, not_run
from bench.figures.sheet import drawn
from bench.model import PreflightError
from bench.report.deciding import decided_by
from bench.report.tables import certificate_rows, readable
from bench.report.verdicts import by_claim, judge, judge_all
from bench.store import Store, load_cells

INLINE_DPI = 96
LEFT = "<style>table.text th, table.text td { text-align: left !important; }</style>"
# Which settings name an invalid cell, and how its table heads them.
INVALID_COLUMNS = {
    "arm": "arm",
    "trap": "trap",
    "rtt_s": "RTT s",
    "client": "client",
    "via": "via",
    "pool_size": "pool",
    "loop": "loop",
    "concurrency": "users",
    "offered_qps": "offered /s",
    "opening": "opening",
    "order": "order",
    "replicate": "replicate",
    "attempt": "attempt",
}


class Run(NamedTuple):
    """A run as a notebook sees it: the cells of the experiments it shows, those of all experiments,
    and the store they come from, for histograms, intervals and requests."""

    cells: pd.DataFrame
    all_cells: pd.DataFrame
    store: Store

    @property
    def manifest(self) -> dict[str, Any]:
        """What was run, when and on what."""
        return self.store.manifest


class NothingToShow(PreflightError):
    """Ends a notebook with one line in place of a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def open_run(folder: str, *experiments: str) -> Run:
    """Read a run: the cells of these experiments, or all where none is named. Raises NothingToShow
    where there is none, or it holds no cell of these."""
    try:
        cells, store = load_cells(folder), Store.open(folder)
    except PreflightError as error:
        raise NothingToShow(f"Nothing to show: {error}") from None
    own = cells[cells["experiment"].isin(experiments)] if experiments else cells
    if own.empty:
        named = " or ".join(experiments)
        raise NothingToShow(f"Nothing to show: {folder} holds no cell of {named}")
    return Run(own, cells, store)


def runs(beside: str) -> HTML | Markdown:
    """The runs in the folder that holds this one, the newest first, as a notebook's parameter has
    them."""
    parent = Path(beside).parent if Path(beside).name != ".." else Path(beside, "..")
    found = [(path.parent, _told(path)) for path in parent.glob("*/run.json")]
    rows = [
        {
            "run": str(folder),
            "begun": manifest.get("started", ""),
            "profile": manifest.get("settings", {}).get("profile", ""),
            "status": manifest.get("status", ""),
        }
        for folder, manifest in found
        if manifest
    ]
    rows.sort(key=lambda row: row["begun"], reverse=True)
    return table(pd.DataFrame(rows), "No run is there.", text=True)


def _told(manifest: Path) -> dict[str, Any]:
    """Empty where it cannot be read: a damaged run is not offered."""
    try:
        return Store.open(manifest.parent).manifest
    except PreflightError:
        return {}


def headline(run: Run) -> Markdown:
    """One line on what was run: when, on what, how much of it, and how long the windows were."""
    cells, manifest = run.cells, run.manifest
    windows = cells["measured_s"]
    servers = ", ".join(f"{each['flavour']} {each['version']}" for each in manifest["servers"])
    return Markdown(  # type: ignore[no-untyped-call]
        f"**{manifest['settings']['profile']} run**, {manifest.get('status', 'unfinished')}, "
        f"started {manifest['started']} on {servers}: "
        f"{counted(len(cells), 'measurement')} of {counted(cells['cell'].nunique(), 'cell')} in "
        f"{counted(cells['block'].nunique(), 'block')}, each over a window of {windows.min():.2g}–"
        f"{windows.max():.2g} s, median {windows.median():.2g} s.{_not_run(run)}"
    )


def _not_run(run: Run) -> str:
    """What of these experiments this machine could not run, and why."""
    said = filter(None, (not_run(run.manifest, name) for name in run.cells["experiment"].unique()))
    return "".join(f" {text[0].upper()}{text[1:]}." for text in said)


def show(figure: Figure, finding: str) -> Image:
    """The figure as a picture of its natural width; `finding` is what it says without it."""
    picture = io.BytesIO()
    drawn(figure, INLINE_DPI).save(picture, "PNG")
    return Image(picture.getvalue(), alt=finding)  # type: ignore[no-untyped-call]


class Pages(NamedTuple):
    """What an experiment says of a run's cells, figure by figure."""

    figures: dict[str, Figure]
    findings: dict[str, str]
    prose: dict[str, str]

    def section(self, name: str) -> list[Any]:
        """A figure and the paragraph below it, or that this run does not hold it."""
        if name not in self.figures:
            return [Markdown("Not measured in this run.")]  # type: ignore[no-untyped-call]
        text = Markdown(self.prose[name])  # type: ignore[no-untyped-call]
        return [show(self.figures[name], self.findings[name]), text]


def pages(run: Run, experiment: ModuleType) -> Pages:
    """All figures of the run's cells that its experiment draws, with what it says of them."""
    own = run.all_cells[run.all_cells["experiment"] == experiment.NAME]
    return Pages(
        experiment.figures(own, run.store),
        experiment.findings(own, run.store),
        experiment.prose(own, run.store),
    )


def bullets(lines: list[str]) -> Markdown:
    """A list in Markdown."""
    return Markdown("\n".join(f"- {line}" for line in lines))  # type: ignore[no-untyped-call]


def table(frame: pd.DataFrame, empty: str = "None.", *, text: bool = False) -> HTML | Markdown:
    """A table without its index; the text `empty` where it has no row. Columns stand at the right,
    as suits figures, or those of `text` at the left."""
    if frame.empty:
        return Markdown(empty)  # type: ignore[no-untyped-call]
    html = frame.to_html(
        index=False, border=0, na_rep="–", classes="text" * text, float_format=readable
    )
    return HTML(LEFT * text + html)  # type: ignore[no-untyped-call]


def invalid_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """Every attempt that failed a gate, why, and whether measuring it again mended that."""
    last = last_attempts(cells).set_index(["cell", "block"])["valid"]
    bad = cells[~cells["valid"]]
    keys = pd.MultiIndex.from_frame(bad[["cell", "block"]])
    listed = bad.reindex(columns=list(INVALID_COLUMNS)).dropna(axis=1, how="all")
    listed = listed.rename(columns=INVALID_COLUMNS)
    again = ["valid" if valid else "invalid" for valid in last.loc[keys]] if len(bad) else []
    return listed.assign(**{"last attempt": again, "why": bad["invalid_reasons"]})


def claims(run: Run) -> HTML | Markdown:
    """Every claim there is: its parts with what decides them, and what the run does not hold."""
    rows = [
        {
            "claim": verdict.claim,
            "statement": verdict.statement,
            "outcome": verdict.outcome,
            "what decides it": decided_by(verdict),
        }
        for claim in by_claim(judge_all(run.store))
        for verdict in claim.verdicts
    ]
    return table(pd.DataFrame(rows), text=True)


def verdicts(run: Run) -> HTML | Markdown:
    """Each claim of the experiment with its outcome, what decided it, and by which rule."""
    rows = [
        {
            "claim": verdict.claim,
            "statement": verdict.statement,
            "outcome": verdict.outcome,
            "why": ". To decide it: ".join(filter(None, [verdict.reason, verdict.needs])),
            "rule (before the data, unless it says so)": verdict.rule,
        }
        for verdict in judge(run.store, run.cells["experiment"].unique())
    ]
    return table(pd.DataFrame(rows), "No claim is judged here.", text=True)


def certificate(run: Run) -> HTML | Markdown:
    """What was measured of the instrument itself, as the run stored it."""
    rows = certificate_rows(run.manifest.get("certificate", []))
    return table(pd.DataFrame(rows), "This run holds no certificate.", text=True)


def environment(manifest: dict[str, Any]) -> HTML:
    """On what the run was made, from its manifest: no host name, no path."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td style='text-align:left'>{escape(text)}</td></tr>"
        for name, text in environment_rows(manifest).items()
        if text
    )
    return HTML(f"<table>{rows}</table>")  # type: ignore[no-untyped-call]


def environment_rows(manifest: dict[str, Any]) -> dict[str, str]:
    settings = manifest.get("settings", {})
    servers = [f"{server['flavour']} {server['version']}" for server in manifest.get("servers", [])]
    packages = [f"{name} {version}" for name, version in manifest.get("packages", {}).items()]
    known = {
        "status": manifest.get("status"),
        "started": manifest.get("started"),
        "ended": manifest.get("ended"),
        "profile": settings.get("profile"),
        "workers": settings.get("workers"),
        "seed": settings.get("seed"),
        "workload": settings.get("workload"),
        "server": ", ".join(servers) + ("" if settings.get("owned_server", True) else " (yours)"),
        "processor": manifest.get("cpu_model"),
        "cores": manifest.get("cores_usable"),
        "memory": _gigabytes(manifest.get("memory_bytes")),
        "system": manifest.get("os"),
        "kernel": manifest.get("kernel"),
        "descriptor limit": manifest.get("fd_limit_hard"),
        "load average": _load(manifest),
        "python": manifest.get("python"),
        "packages": ", ".join(packages),
        "commit": f"{manifest.get('git_commit') or 'unknown'}"
        + (" and changes" if manifest.get("git_dirty") else ""),
    }
    return {name: _said(value) for name, value in known.items()}


def _gigabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.1f} GB"


def _load(manifest: dict[str, Any]) -> str:
    ends = [manifest.get(name) for name in ("load_average", "load_average_end")]
    return " → ".join("/".join(f"{value:.2f}" for value in end) for end in ends if end)


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return "" if value is None else str(value)
