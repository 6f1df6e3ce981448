"""The command line: one function per verb. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import errno
import json
import os
import pkgutil
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from typer.exceptions import TyperException

from bench.model import (
    MOST_WORKERS,
    BenchError,
    PreflightError,
    Profile,
    Settings,
    Workload,
    within,
)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path("results")
MOST_SEED = 2**40  # multiplied up, it must still pass as 64 bits to the workers
LEAST_SECONDS, MOST_SECONDS = 0.2, 60
app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Load benchmark and sizing lab for Redis connection pools.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _profiles() -> list[str]:
    return list(get_args(Profile))


def _experiments(typed: str) -> list[str]:
    """Completes the last of a list; names alone, for importing an experiment takes a second."""
    import bench.experiments

    before, comma, _ = typed.rpartition(",")
    names = [info.name for info in pkgutil.iter_modules(bench.experiments.__path__)]
    return [f"{before}{comma}{name}" for name in names]


# What is left out takes the default of `Settings`, or what a resumed run was made with.
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        help="smoke, standard (default) or full.",
        autocompletion=_profiles,
    ),
]
OnlyOption = Annotated[
    str | None,
    typer.Option(
        help="Experiments, separated by commas. Default: all.",
        autocompletion=_experiments,
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option(help="Locust worker processes, each with its own pool. Default: 1.")
]
ScaleOption = Annotated[
    float | None,
    typer.Option(
        help="By which factor the idle-connection traps run faster than the world; 1: as slow. "
        "Default: 30."
    ),
]
PortOption = Annotated[int, typer.Option(help="Port of the server this suite starts. 0: any.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def _show_version(asked: bool) -> None:
    if asked:  # notebooks and lock lie beside pyproject.toml: this package is always a checkout
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        typer.echo(project["version"])
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _bench(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(PreflightError.status)


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
            typer.echo(f"  {profile}: {plan['measurements']} measurements of {plan['cells']} cells")


@app.command()
def check(
    profile: ProfileOption = None,
    only: OnlyOption = None,
    workers: WorkersOption = None,
    time_scale: ScaleOption = None,
    server_port: PortOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Check that everything a run needs is there, without sending load.

    Example: REDIS_URL=redis://127.0.0.1:6379 bench check --profile full
    """
    settings = _settings(
        Settings(url=_url(), server_port=server_port),
        {"profile": profile, "only": only, "workers": workers, "time_scale": time_scale},
    )
    from bench.runner import check as look

    found = look(settings)
    if as_json:
        _print_json(found)
        return
    for name, value in found.items():
        typer.echo(f"{name:12} {value}")


@app.command()
def run(
    profile: ProfileOption = None,
    only: OnlyOption = None,
    workers: WorkersOption = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the order of cells and of the keys. Default: 1.")
    ] = None,
    keys: Annotated[int | None, typer.Option(help="Distinct keys. Default: 1000.")] = None,
    value_bytes: Annotated[
        int | None, typer.Option(help="Bytes in each value. Default: 100.")
    ] = None,
    get_share: Annotated[
        float | None, typer.Option(help="Share of GET, the rest is SET. Default: 1.")
    ] = None,
    time_scale: ScaleOption = None,
    results: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = RESULTS,
    resume: Annotated[Path | None, typer.Option(help="Run folder to complete.")] = None,
    server_port: PortOption = 0,
    report: Annotated[
        bool, typer.Option(help="Write the report afterwards, and execute the notebooks.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Measure, cell by cell, and store. REDIS_URL in the environment names a server of yours.

    Examples: bench run --profile smoke · bench run --resume results/RUN
    """
    from bench.store import Store, how_to_resume, stored_settings

    base = Settings() if resume is None else stored_settings(resume)
    base = replace(base, url=_url(), server_port=server_port)
    settings = _settings(
        base,
        {
            "profile": profile, "only": only, "workers": workers, "seed": seed,
            "keys": keys, "value_bytes": value_bytes, "get_share": get_share,
            "time_scale": time_scale,
        },
    )  # fmt: skip
    from bench.calibrate import certify
    from bench.report.display import Display
    from bench.report.verdicts import decide
    from bench.runner import check as look
    from bench.runner import left
    from bench.runner import run as measure_all

    if resume is not None and settings == base:
        made = Store.open(resume)
        if made.manifest.get("status") == "complete" and not left(settings, made):
            typer.echo(f"bench: {resume} is complete: nothing is left to measure", err=True)
            return
    for name, why in look(settings).items():
        if name.startswith("not run"):
            typer.echo(f"bench: {name}: {why}", err=True)
    store = Store.create_in(results, settings) if resume is None else Store.resume(resume, settings)
    try:
        with Display(quiet=as_json) as display:
            measure_all(settings, store, display)
            certify(settings, store, display)
    except BaseException as trouble:
        store.finish("interrupted" if isinstance(trouble, SystemExit) else "stopped")
        if store.attempts():
            mend = how_to_resume(store.folder)
            typer.echo(f"bench: finished cells are kept; complete the run with {mend}", err=True)
        else:
            typer.echo("bench: no cell was finished: nothing is kept", err=True)
            store.discard()
        raise
    decide(store)
    store.finish("complete")
    if report:
        _report_apart(store.folder, as_json)
    else:
        cells = store.attempts().values()
        failed = sum(not any(attempts) for attempts in cells)
        seen = f"bench report {store.folder}"
        typer.echo(f"bench: {len(cells)} cells, {failed} invalid; look at them: {seen}", err=True)


@app.command()
def report(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A run folder. Default: the newest in results, else its reference."),
    ] = None,
    notebooks: Annotated[
        bool, typer.Option("--notebooks", help="Execute the notebooks on it, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Judge the claims of a run, draw its figures, write report.html and summary.md, print tables.

    Examples: bench report results/reference · bench report --notebooks
    """
    from bench.report.display import Display
    from bench.report.publishing import publish
    from bench.store import Store

    folder = _newest() if folder is None else folder
    store = Store.open(folder)
    with Display(quiet=as_json) as display:
        told = publish(store, display, notebooks=notebooks)
    from bench.report.tables import show, summary  # not before: the report's processes load first

    if as_json:
        figures = summary(store, told.verdicts, told.tables)
        _print_json({**figures, "pages": [str(page) for page in told.written]})
        return
    show(store, told.verdicts, told.tables)
    for page in (*told.written, folder / "cells.parquet", folder / "figures"):
        typer.echo(f"open {page}")


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A run folder.")],
    after: Annotated[Path, typer.Argument(help="The run folder that is held against it.")],
    only: OnlyOption = None,
    fail_on: Annotated[
        str | None,
        typer.Option(help="Exit with 1 on: worse, worse:5%, verdict, or several; see above."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Show what does not differ, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs: which cells differ beyond noise, by how much, which verdicts changed.

    Examples: bench compare results/reference results/RUN
    · bench compare OLD NEW --only pool_sweep --fail-on worse:5%,verdict

    --fail-on worse: a cell's figure is worse beyond noise, or a cell that was evidence in all its
    replicates is in none. worse:5%: its whole interval is worse by more than that; stderr says how
    many figures scatter too much to tell. verdict: a decided claim turned into its opposite.

    Exit status: 0 compared; 1 --fail-on was met, and stderr says by what; 2 cannot be compared.
    """
    from bench.report.comparison import compare as held_against
    from bench.report.comparison import conditions, tripped, unseen
    from bench.report.display import Display
    from bench.report.side_by_side import show

    wanted = conditions(fail_on) if fail_on is not None else {}
    with Display(quiet=as_json or not sys.stderr.isatty()) as display:
        found = held_against((before, after), _named(only), display)
    met = tripped(found, wanted)
    if least := wanted.get("worse"):
        hidden = f"{unseen(found, least)} of {found['tests']} figures scatter too much"
        typer.echo(f"bench: {hidden} for a change of {100 * least:g} % to be seen", err=True)
    if as_json:
        _print_json({**found, "failed_on": met})
    else:
        show(found, all_)
    for line in met:
        typer.echo(f"bench: {line}", err=True)
    if met:
        raise typer.Exit(1)


@app.command()
def calibrate(
    seconds: Annotated[float, typer.Option(help="Length of each measurement.")] = 2.0,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = RESULTS
    / "calibration.json",
    as_json: JsonOption = False,
) -> None:
    """Measure the instrument itself: its rates, costs and accuracy beside other tools', in one run.

    Example: bench calibrate --seconds 5
    """
    within("--seconds", seconds, LEAST_SECONDS, MOST_SECONDS)
    _writable("--output", output)
    from bench.calibrate import calibrate as measure
    from bench.report.display import Display
    from bench.report.tables import show_calibration

    with Display(quiet=as_json, line_every_s=0) as display:
        rows = measure(seconds, output, display)
    if as_json:
        _print_json(rows)
    else:
        show_calibration(rows, output)


@app.command()
def size(
    rate: Annotated[str, typer.Option(help="Mean rate over all pods, as 10000/s or 600k/min.")],
    peak: Annotated[str | None, typer.Option(help="Highest rate. Default: the mean.")] = None,
    burst: Annotated[str | None, typer.Option(help="Peak as a multiple of the mean.")] = None,
    latency: Annotated[
        str | None, typer.Option(help="Mean time a call holds its connection, as 10ms.")
    ] = None,
    p50: Annotated[str | None, typer.Option(help="Or its median, with --p99.")] = None,
    p99: Annotated[str | None, typer.Option(help="Its 99th percentile.")] = None,
    samples: Annotated[
        str | None,
        typer.Option(help="Or a .hlog, or a CSV with a column as latency_ms.", metavar="<path>"),
    ] = None,
    samples_unit: Annotated[
        str | None, typer.Option(help="Unit of the samples: ns, us, ms or s.")
    ] = None,
    from_run: Annotated[
        str | None, typer.Option("--run", help="Or a run folder of this suite.", metavar="<path>")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Or measure REDIS_URL from here: PINGs, read-only.")
    ] = False,
    pods: Annotated[int, typer.Option(help="Processes, each with a pool of its own.")] = 1,
    wait_share: Annotated[
        str | None, typer.Option(help="Share of requests that may wait. Default: 1%.")
    ] = None,
    wait_p99: Annotated[str | None, typer.Option(help="Longest p99 of the wait, as 0.5ms.")] = None,
    idle_timeout: Annotated[
        str | None,
        typer.Option(help="Of the path: 350s, or hops as aws-nlb,haproxy=5min."),
    ] = None,
    maxclients: Annotated[
        int | None, typer.Option(help="Connections the server allows. Default: 10000.")
    ] = None,
    client: Annotated[
        str, typer.Option(help="One or several, as redis-py,jedis,lettuce,go-redis,…; or all.")
    ] = "all",
    as_json: JsonOption = False,
) -> None:
    """Advise a pool size, timeouts and client settings for your own numbers, with the evidence.

    Example: bench size --rate 10000/s --latency 1ms --pods 4 --idle-timeout aws-nlb
    """
    from bench.sizing.advice import advise
    from bench.sizing.advice import as_json as told
    from bench.sizing.question import Asked, checked
    from bench.sizing.show import show

    asked = Asked(
        rate=rate, peak=peak, burst=burst, latency=latency, p50=p50, p99=p99, samples=samples,
        samples_unit=samples_unit, run=from_run, live=live, pods=pods, wait_share=wait_share,
        wait_p99=wait_p99, idle_timeout=idle_timeout, maxclients=maxclients, client=client,
    )  # fmt: skip
    advice = advise(checked(asked, _url()))
    if as_json:
        _print_json(told(advice))
    else:
        show(advice)


@app.command()
def worker(
    master_host: Annotated[str, typer.Option("--master", help="Host of the master.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the master.")] = 5557,
) -> None:
    """Be a worker of a Locust master that runs a file of locustfiles/, until it quits.

    All options are given to the master; REDIS_URL in the environment names the server.

    Example: bench worker --port 5557, beside: locust -f locustfiles/open_loop.py --master
    """
    from bench.load.worker import STANDALONE, require_master, worker_command
    from bench.rig.server import open_server

    within("--port", port, 1, 65_535)
    url = _url()
    if url is None:
        raise PreflightError("REDIS_URL is not set: a worker must know which server to load")
    open_server(url, max_connections=1).close()
    require_master(master_host, port)
    typer.echo(f"joining the Locust master at {master_host}:{port}; Ctrl-C leaves it", err=True)
    os.execv(sys.executable, worker_command(master_host, port, STANDALONE))


def _settings(base: Settings, given: dict[str, Any]) -> Settings:
    """`base` with what the user gave, checked. Raises PreflightError naming value and mend."""
    given = {name: value for name, value in given.items() if value is not None}
    if "only" in given:
        given["only"] = _named(given["only"])
    fields = ("keys", "value_bytes", "get_share")
    work: dict[str, Any] = {name: given.pop(name) for name in fields if name in given}
    settings = replace(base, workload=_workload(base.workload, work), **given)
    _check(settings)
    return settings


def _named(only: str | None) -> tuple[str, ...]:
    """The experiments of --only. Raises PreflightError where it names none."""
    if only is None:
        return ()
    names = tuple(name.strip() for name in only.split(",") if name.strip())
    if not names:
        raise PreflightError("--only names no experiment; `bench list` shows them")
    return names


def _workload(base: Workload, given: dict[str, Any]) -> Workload:
    try:
        return replace(base, **given)
    except PreflightError as error:
        name, _, rest = str(error).partition(" ")
        raise PreflightError(f"--{name.replace('_', '-')} {rest}") from error


def _check(settings: Settings) -> None:
    from bench.experiments import nearest

    profile, known = settings.profile, _profiles()
    if profile not in known:
        raise PreflightError(f"no profile “{profile}”{nearest(profile, known)}")
    within("--workers", settings.workers, 1, MOST_WORKERS)
    within("--seed", settings.seed, 0, MOST_SEED)
    within("--server-port", settings.server_port, 0, 65_535)
    within("--time-scale", settings.time_scale, 1, 1_000)


def _writable(option: str, path: Path) -> None:
    """Tried before anything is measured: a refusal afterwards would cost the measurement."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        path.open("ab").close()
        if new:
            path.unlink()
    except OSError as error:
        raise PreflightError(
            f"{path} cannot be written ({error.strerror}): name another with {option}"
        ) from error


def _newest() -> Path:
    """The run begun last that holds a cell, complete or not: runs are named by when they began."""
    runs = sorted(RESULTS.glob("[0-9]*/cells.parquet"))
    runs = runs or sorted(RESULTS.glob("reference/cells.parquet"))
    if not runs:
        raise PreflightError(
            f"no run in {RESULTS.absolute()}: name a run folder, or measure one with `bench run`"
        )
    return runs[-1].parent


def _url() -> str | None:
    """REDIS_URL comes by the environment alone: an argument would show in the process list."""
    return os.environ.get("REDIS_URL") or None


def _report_apart(folder: Path, as_json: bool) -> None:
    """In a process of its own: this one is patched for gevent, which notebooks do not survive."""
    from bench.rig.host import end, spawn

    command = [sys.executable, "-m", "bench", "report", str(folder), "--notebooks"]
    reporting = spawn(command + (["--json"] if as_json else []))
    try:
        status = reporting.wait()
    finally:
        end(reporting)
    if status:
        raise typer.Exit(status)


def _describe(name: str, module: Any) -> dict[str, Any]:
    plans = {p: module.plan(cast(Profile, p), Workload(), 1) for p in get_args(Profile)}
    return {
        "experiment": name,
        "question": module.QUESTION,
        "profiles": {
            profile: {
                "cells": len({*plan.cells, *plan.once, *plan.apart}),
                "replicates": plan.replicates,
                "measurements": plan.measurements,
            }
            for profile, plan in plans.items()
        },
    }


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def main() -> int:
    """The `bench` command. Exit status: 0 done, 1 some cell could not be measured, 2 wrong usage or
    preflight; 130, interrupted, comes from the signal's handler."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # for terminals of ASCII
    try:
        return app(standalone_mode=False, prog_name="bench") or 0
    except TyperException as error:
        return _usage(error)
    except BenchError as error:
        if "--json" in sys.argv:
            _print_json({"error": str(error)})
        typer.echo(f"bench: {error}", err=True)
        return error.status
    except OSError as error:
        return _unwritten(error)


def _usage(error: TyperException) -> int:
    context = getattr(error, "ctx", None)
    help_ = f"{context.command_path if context else 'bench'} --help"
    typer.echo(f"bench: {error.format_message().rstrip('.')}; see {help_}", err=True)
    return PreflightError.status


def _unwritten(error: OSError) -> int:
    """What we print may have nobody to read it any more (`| head`), or no room. Raises the rest."""
    if error.errno not in (errno.EPIPE, errno.ENOSPC):
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer
    if error.errno == errno.ENOSPC:
        typer.echo(f"bench: the output cannot be written: {error.strerror}", err=True)
    return 1
