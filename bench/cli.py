"""The command line: one function per verb. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from bench.model import BenchError, PreflightError, Profile, Settings, Workload

if TYPE_CHECKING:
    from bench.store import Store

INTERRUPTED = 130
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Load benchmark and sizing lab for Redis connection pools.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ProfileOption = Annotated[str, typer.Option("--profile", "-p", help="smoke, standard or full.")]
OnlyOption = Annotated[
    str, typer.Option(help="Experiments to run, separated by commas. Default: all.")
]
WorkersOption = Annotated[int, typer.Option(help="Locust worker processes, each with its own pool.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the order of cells and of the keys sent.")]
KeysOption = Annotated[int, typer.Option(help="Distinct keys.")]
ValueOption = Annotated[int, typer.Option(help="Bytes in each value.")]
GetOption = Annotated[float, typer.Option(help="Share of GET; the rest is SET.")]
ResultsOption = Annotated[Path, typer.Option(help="Folder that holds the runs.")]
PortOption = Annotated[int, typer.Option(help="Port of the server this suite starts. 0: any.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the experiments and how many cells each profile measures.

    Example: bench list
    """
    from bench.experiments import discover

    rows = [_describe(name, module) for name, module in discover().items()]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        typer.echo(f"{row['experiment']}: {row['question']}")
        for profile, plan in row["profiles"].items():
            typer.echo(f"  {profile}: {plan['cells']} cells × {plan['replicates']}")


@app.command()
def check(
    profile: ProfileOption = "standard",
    only: OnlyOption = "",
    workers: WorkersOption = 1,
    server_port: PortOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Check that everything a run needs is there, without sending load.

    Example: REDIS_URL=redis://127.0.0.1:6379 bench check
    """
    settings = _settings(profile=profile, only=only, workers=workers, server_port=server_port)
    from bench.rig.rig import preflight
    from bench.runner import check_descriptors, plan

    planned = plan(settings)
    cells = [cell for block in planned for cell in block.cells]
    limit = check_descriptors(planned)
    found = preflight(settings, cells)
    if as_json:
        _print_json({"server": found, "descriptor_limit": limit, "cells": len(cells)})
        return
    typer.echo(f"server       {found}")
    typer.echo(f"descriptors  {limit} per process")
    typer.echo(f"plan         {len(cells)} cells in {len(planned)} blocks")


@app.command()
def run(
    profile: ProfileOption = "standard",
    only: OnlyOption = "",
    workers: WorkersOption = 1,
    seed: SeedOption = 1,
    keys: KeysOption = 1_000,
    value_bytes: ValueOption = 100,
    get_share: GetOption = 1.0,
    results: ResultsOption = Path("results"),
    resume: Annotated[str, typer.Option(help="Run folder to complete.")] = "",
    server_port: PortOption = 0,
    report: Annotated[bool, typer.Option(help="Execute the notebooks afterwards.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Measure, cell by cell, and store. REDIS_URL in the environment names a server of yours.

    Examples: bench run --profile smoke · bench run --resume results/RUN
    """
    settings = _settings(
        profile=profile, only=only, workers=workers, seed=seed, keys=keys, value_bytes=value_bytes,
        get_share=get_share, results=str(results), resume=resume or None, server_port=server_port,
    )  # fmt: skip
    from bench.report.display import Display
    from bench.runner import run as measure_all

    store = _store(settings)
    try:
        with Display(quiet=as_json) as display:
            measure_all(settings, store, display)
    except BaseException as trouble:
        store.finish("interrupted" if isinstance(trouble, SystemExit) else "stopped")
        typer.echo(f"bench: finished cells are kept; go on with --resume {store.folder}", err=True)
        raise
    store.finish("complete")
    if report:
        _report_apart(store.folder, as_json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.")] = Path("results/reference"),
    as_json: JsonOption = False,
) -> None:
    """Print the tables of a run, draw its figures, and execute its notebooks.

    Example: bench report results/reference
    """
    from bench.report.notebooks import execute
    from bench.report.tables import show, summary
    from bench.store import Store

    store = Store.open(folder)
    experiments = store.experiments()
    pages = execute(folder, experiments)
    if as_json:
        _print_json({**summary(store), "pages": [str(page) for page in pages]})
        return
    show(store)
    for page in [*pages, folder / "cells.parquet", folder / "figures"]:
        typer.echo(f"open {page}")


@app.command()
def calibrate(
    seconds: Annotated[float, typer.Option(help="Length of each measurement.")] = 2.0,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path(
        "results/calibration.json"
    ),
    as_json: JsonOption = False,
) -> None:
    """Measure the instrument itself: its rates, costs and accuracy beside other tools', in one run.

    Example: bench calibrate --seconds 5
    """
    from bench.calibrate import calibrate as measure
    from bench.report.tables import show_calibration

    rows = measure(seconds, output)
    if as_json:
        _print_json(rows)
    else:
        show_calibration(rows, output)


@app.command()
def worker(
    master_host: Annotated[str, typer.Option("--master", help="Host of the master.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the master.")] = 5557,
) -> None:
    """Be a Locust worker of a master started elsewhere, until it quits.

    REDIS_URL in the environment names the server. Example: bench worker --port 5557
    """
    from bench.load.worker import worker_command, worker_environment

    os.execve(
        sys.executable, worker_command(master_host, port), worker_environment(_url() or "")
    )


def _settings(**given: Any) -> Settings:
    """The run's one configuration, checked. Raises PreflightError naming the value and the mend."""
    from bench.experiments import nearest

    profile = given["profile"]
    if profile not in get_args(Profile):
        raise PreflightError(f"no profile “{profile}”{nearest(profile, list(get_args(Profile)))}")
    for name in ("workers", "keys"):
        if given.get(name, 1) < 1:
            raise PreflightError(f"--{name} is {given[name]}: it must be 1 or more")
    if not 0 <= given.get("get_share", 1.0) <= 1:
        raise PreflightError(f"--get-share is {given['get_share']}: it must lie between 0 and 1")
    if given.get("value_bytes", 1) < 0:
        raise PreflightError(f"--value-bytes is {given['value_bytes']}: it must be 0 or more")
    if not 0 <= given["server_port"] <= 65_535:
        raise PreflightError(f"--server-port is {given['server_port']}: ports end at 65535")
    only = tuple(name.strip() for name in given.pop("only").split(",") if name.strip())
    workload = Workload(
        **{name: given.pop(name) for name in ("keys", "value_bytes", "get_share") if name in given}
    )
    return Settings(only=only, workload=workload, url=_url(), **given)


def _url() -> str | None:
    """REDIS_URL comes by the environment alone: an argument would show in the process list."""
    return os.environ.get("REDIS_URL") or None


def _store(settings: Settings) -> Store:
    from bench.store import Store

    if settings.resume is None:
        return Store.create_in(Path(settings.results), settings)
    return Store.resume(Path(settings.resume), settings)


def _report_apart(folder: Path, as_json: bool) -> None:
    """In a process of its own: this one is patched for gevent, which notebooks do not survive."""
    command = [sys.executable, "-m", "bench", "report", str(folder)]
    done = subprocess.run(command + (["--json"] if as_json else []))
    if done.returncode:
        raise typer.Exit(done.returncode)


def _describe(name: str, module: Any) -> dict[str, Any]:
    plans = {p: module.plan(cast(Profile, p), Workload(), 1) for p in get_args(Profile)}
    return {
        "experiment": name,
        "question": module.QUESTION,
        "profiles": {
            profile: {"cells": len(plan.cells), "replicates": plan.replicates}
            for profile, plan in plans.items()
        },
    }


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def _interrupted(signum: int, frame: Any) -> None:
    # SystemExit is what gevent carries from any greenlet to the main one, and what unwinds every
    # context manager on the way out.
    raise SystemExit(INTERRUPTED)


def main() -> None:
    """The `bench` command. Exit status: 0 done, 1 some cell could not be measured, 2 wrong usage or
    preflight, 130 interrupted."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _interrupted)
    try:
        app()
    except BenchError as error:
        typer.echo(f"bench: {error}", err=True)
        sys.exit(error.status)
