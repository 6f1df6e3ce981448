"""The command line: bad input gets one clear line and exit status 2, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.rig.server import open_server

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0


def bench(
    *arguments: str,
    url: str | None = None,
    path: str | None = None,
    limit: int | None = None,
    cwd: Path = ROOT,
    **more: str,
) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("REDIS_URL", "NO_COLOR")}
    environment = {**inherited, "PYTHONPATH": str(ROOT), **more}
    if url is not None:
        environment["REDIS_URL"] = url
    if path is not None:
        environment["PATH"] = path

    def lower() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        cwd=cwd,
        preexec_fn=lower,
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr, exit status 2, nothing on stdout."""
    assert done.stdout == ""
    failed(done, *words)


def failed(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr, exit status 2."""
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("bench: ")
    for word in words:
        assert word in lines[0], (word, lines[0])


def run(tmp_path: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """A run that is expected to be refused: it leaves no run folder."""
    results = tmp_path / "results"
    done = bench("run", "--profile", "smoke", "--results", str(results), *arguments, **settings)
    assert list(results.glob("*")) == []
    return done


# ---------------------------------------------------------------------- what the user typed


def test_an_unknown_profile_names_the_nearest() -> None:
    refused(bench("run", "--profile", "standart"), "standart", "did you mean “standard”")


def test_an_unknown_experiment_names_the_nearest(tmp_path: Path) -> None:
    refused(run(tmp_path, "--only", "pool_swep"), "pool_swep", "did you mean “pool_sweep”")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--workers", "0"),
        ("--seed", "-1"),
        ("--seed", "99999999999999999"),
        ("--keys", "0"),
        ("--value-bytes", "-1"),
        ("--get-share", "1.5"),
        ("--server-port", "70000"),
        ("--keys", "99999999999"),
    ],
)
def test_a_number_out_of_range_names_option_and_range(option: str, value: str) -> None:
    refused(bench("run", option, value), option, value, "must lie between")


def test_more_data_than_a_server_should_be_given_is_refused() -> None:
    refused(
        bench("run", "--keys", "2000000", "--value-bytes", "1000"),
        "--value-bytes",
        "2,000,000 keys",
    )


def test_a_list_that_names_no_experiment_is_not_all_of_them() -> None:
    refused(bench("run", "--only", " , "), "--only names no experiment")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["run", "--workers", "abc"], "--workers"),
        (["run", "--profile"], "--profile"),
        (["run", "--bogus"], "--bogus; see bench run --help"),
        (["nosuch"], "nosuch"),
        (["report", "a", "b"], "(b); see bench report --help"),
    ],
)
def test_wrong_usage_is_one_line_too(typed: list[str], said: str) -> None:
    refused(bench(*typed), said)


def test_output_without_room_is_said_and_without_a_reader_is_not() -> None:
    def listed(target: str) -> tuple[int, str]:
        command = f"{shlex.quote(sys.executable)} -m bench list {target}"
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
        return done.returncode, done.stderr

    status, said = listed(">/dev/full")
    assert (status, said.count("\n")) == (1, 1)
    assert "cannot be written: No space left" in said
    assert listed("| true")[1] == ""


def test_a_terminal_without_unicode_gets_what_it_can_show() -> None:
    code = "import bench.cli, sys; sys.argv[1:] = ['list']; bench.cli.main(); print('5–20 µs')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONIOENCODING": "ascii"})  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("5?20 ?s\n")


def test_a_signal_that_meets_a_patched_thread_still_reaches_the_main_one() -> None:
    code = (
        "import bench.load.swarm, os, signal, threading, time\n"
        "from bench.__main__ import _interrupted\n"
        "signal.signal(signal.SIGTERM, _interrupted)\n"
        "kill = lambda: time.sleep(0.1) or os.kill(os.getpid(), signal.SIGTERM) or [].sort()\n"
        "threading.Thread(target=kill).start()\n"
        "try:\n    time.sleep(20)\nfinally:\n    print('unwound')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "unwound\n")


def test_a_signal_in_the_first_moment_is_an_interruption() -> None:
    started = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "bench", "list"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stderr is not None
    for line in started.stderr:  # typer is still being imported
        if line.rstrip().endswith("typing_extensions"):
            started.send_signal(signal.SIGTERM)
            break
    said = started.stderr.read()
    assert started.wait() == 130
    assert "Traceback" not in said


@pytest.mark.parametrize("seconds", ["0", "0.1", "61", "nan"])
def test_a_calibration_of_no_length_or_an_endless_one_is_refused(
    seconds: str, tmp_path: Path
) -> None:
    output = tmp_path / "calibration.json"
    done = bench("calibrate", "--seconds", seconds, "--output", str(output))
    refused(done, "--seconds", "must lie between 0.2 and 60")


@pytest.mark.parametrize("name", ["", "missing/below"], ids=["a folder", "below a file"])
def test_a_calibration_that_could_not_be_stored_is_not_begun(name: str, tmp_path: Path) -> None:
    (tmp_path / "missing").write_text("a file")
    refused(bench("calibrate", "--output", str(tmp_path / name)), str(tmp_path), "--output")


def test_an_output_that_can_be_written_is_tried_without_a_trace(tmp_path: Path) -> None:
    from bench.cli import _writable

    output = tmp_path / "new" / "calibration.json"
    _writable("--output", output)
    assert not output.exists()
    output.write_text("kept")
    _writable("--output", output)
    assert output.read_text() == "kept"


def test_an_unknown_option_exits_with_2() -> None:
    done = bench("run", "--profil", "smoke")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------------- the results folder


def test_a_results_folder_that_cannot_be_written() -> None:
    done = bench("run", "--profile", "smoke", "--results", "/proc/nowhere")
    refused(done, "/proc/nowhere", "--results")


def test_a_resume_of_what_is_no_run(tmp_path: Path) -> None:
    refused(bench("run", "--resume", str(tmp_path)), "is not a run folder")
    refused(bench("run", "--resume", str(tmp_path / "absent")), "does not exist")


@pytest.fixture
def stored_run(tmp_path: Path) -> Path:
    from bench.model import Settings
    from bench.store import Store

    store = Store.create_in(tmp_path, Settings(profile="smoke", seed=3))
    store.close()
    return store.folder


def test_a_resume_with_other_settings_names_the_setting(stored_run: Path) -> None:
    refused(bench("run", "--resume", str(stored_run), "--seed", "4"), "seed", "3", "4")
    refused(bench("run", "--resume", str(stored_run), "--profile", "full"), "profile", "smoke")


def test_a_report_on_nothing() -> None:
    refused(bench("report", "/nonexistent/run"), "does not exist")


def test_a_report_without_a_folder_finds_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.cli import _newest
    from bench.model import PreflightError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(PreflightError, match=r"no run in .*/results"):
        _newest()
    for name in ("reference", "20260102-000000-smoke", "20260101-235959-full"):
        (tmp_path / "results" / name).mkdir(parents=True)
        (tmp_path / "results" / name / "cells.parquet").touch()
        (tmp_path / "results" / "20260103-000000-no-run").mkdir(exist_ok=True)
    assert _newest() == Path("results/20260102-000000-smoke")
    for folder in Path("results").glob("2026*"):
        shutil.rmtree(folder)
    assert _newest() == Path("results/reference")


def test_a_report_without_a_folder_where_there_are_no_results(tmp_path: Path) -> None:
    refused(bench("report", cwd=tmp_path), f"no run in {tmp_path}/results", "bench run")


def test_an_interrupted_run_names_both_ways_to_complete_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "run", "-p", "smoke", "--only", "pool_sweep",
               "--results", str(tmp_path)]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "REDIS_URL"}
    begun = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (stored := list(tmp_path.glob("*/cells.parquet"))):
            assert begun.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        begun.send_signal(signal.SIGINT)
        said = begun.communicate(timeout=PATIENCE_S)[1]
    finally:
        begun.kill()
    folder = stored[0].parent
    assert begun.returncode == 130
    assert f"make bench RESUME={folder} (or bench run --resume {folder})" in said


# ---------------------------------------------------------------------- what a run leaves

# A whole run of the verb, but for what it measures: cells are synthetic, and so are the figures
# beside them. In a process of its own, for it patches the process.
RUN = """
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from bench import calibrate, runner
from bench.cli import main
from bench.model import Row
sys.path.insert(0, "tests")
import synthetic

def measured(settings, store, watcher):
    for block in runner.plan(settings):
        for cell in block.cells:
            store.add(synthetic.observation(cell, block.number))
    store.note_server("redis", "7.0.0")

runner.check, runner.run = lambda settings: {}, measured
rig = SimpleNamespace(access=None)
calibrate.Rig = calibrate.Swarm = lambda *given: nullcontext(rig)
for name in ("noise_rows", "recording_rows", "merging_rows", "cross_check"):
    setattr(calibrate, name, lambda *given, name=name: [Row.at_most(name, 2.0, "ms", 1)])
sys.exit(main())
"""


def test_a_run_leaves_its_certificate_and_its_verdicts(tmp_path: Path) -> None:
    arguments = ["run", "-p", "smoke", "--no-report", "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    manifest, verdicts = (
        json.loads((folder / name).read_bytes(), parse_constant=pytest.fail)
        for name in ("run.json", "verdicts.json")
    )
    assert manifest["status"] == "complete"
    rows = {row["what"]: row for row in manifest["certificate"]}
    assert rows["server stopped: p99 recorded ÷ theory"]["reached"] is True
    for beside in ("noise_rows", "recording_rows", "merging_rows", "cross_check"):
        assert (rows[beside]["value"], rows[beside]["reached"]) == (2.0, False)
    told = {each["claim"]: each for each in verdicts}
    assert told.keys() >= {"I1", "I2", "I3", "I4", "C4", "C5a", "C6a", "C14"}
    for each in verdicts:
        assert each["outcome"] == "undecided"  # of a smoke run
        assert each["rule"]
    assert told["I1"]["estimates"]["p99 recorded ÷ theory"]["low"] is None

    before = (folder / "run.json").read_bytes()
    again = bench("run", "--resume", str(folder))
    assert (again.returncode, "nothing is left to measure" in again.stderr) == (0, True)
    assert (folder / "run.json").read_bytes() == before


def test_a_run_without_the_instrument_has_no_certificate(tmp_path: Path) -> None:
    arguments = ["run", "-p", "smoke", "--only", "pool_sweep", "--no-report"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments, "--results", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    assert "certificate" not in json.loads((folder / "run.json").read_bytes())
    verdicts = json.loads((folder / "verdicts.json").read_bytes())
    assert {verdict["outcome"] for verdict in verdicts} == {"not run"}


# ---------------------------------------------------------------------- the machine


def test_too_few_descriptors_names_limit_largest_pool_and_remedy(tmp_path: Path) -> None:
    done = run(tmp_path, limit=2_000)
    refused(done, "2000", "1 worker × 5000", "pools of up to 918 fit with 1 worker", "nofile")
    assert "WORKERS=" not in done.stderr


def test_more_workers_than_the_link_has_descriptors_for_names_how_many_fit(tmp_path: Path) -> None:
    done = run(tmp_path, "--workers", "4", limit=20_000)
    refused(done, "20000", "4 workers × 5000", "pools of up to 2479", "WORKERS=1", "nofile=40164")


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused(run(tmp_path, "--server-port", port), port)


def test_a_server_binary_that_does_not_start_shows_its_last_words(tmp_path: Path) -> None:
    fake = tmp_path / "bin"
    fake.mkdir()
    server = fake / "redis-server"
    server.write_text("#!/bin/sh\necho 'Fatal: no luck today' >&2\nexit 1\n")
    server.chmod(0o755)
    refused(run(tmp_path, path=f"{fake}:/usr/bin:/bin"), "no luck today")


# ---------------------------------------------------------------------- a server of the user's


@pytest.fixture(scope="module")
def guarded() -> Iterator[Any]:
    with open_server(None, max_connections=50, options={"requirepass": "s3cret"}) as server:
        yield server


@pytest.fixture
def not_redis() -> Iterator[int]:
    """Something that answers every connection as a web server would."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    threading.Thread(target=answer, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def test_a_wrong_url(tmp_path: Path) -> None:
    refused(run(tmp_path, url="http://127.0.0.1:6379"), "redis://")
    refused(run(tmp_path, url="redis://127.0.0.1:1"), "127.0.0.1:1")


def test_a_wrong_password_and_a_missing_one(tmp_path: Path, guarded: Any) -> None:
    for secret in (":wrong@", ""):
        done = run(tmp_path, url=f"redis://{secret}{guarded.host}:{guarded.port}")
        refused(done, "password")
        assert "wrong" not in done.stderr.replace("wrong password", "")


def test_tls_to_a_plain_port(tmp_path: Path, redis_server: Any) -> None:
    refused(run(tmp_path, url=f"rediss://{redis_server.host}:{redis_server.port}"), "TLS")


def test_a_port_that_is_not_redis(tmp_path: Path, not_redis: int) -> None:
    refused(run(tmp_path, url=f"redis://127.0.0.1:{not_redis}"), str(not_redis), "Redis")


def test_maxclients_below_the_plan(tmp_path: Path, redis_server: Any) -> None:
    refused(run(tmp_path, url=redis_server.url), "maxclients")


# ---------------------------------------------------------------------- verbs


def test_list_and_check_speak_json() -> None:
    listed = json.loads(bench("list", "--json").stdout)
    assert listed[0]["experiment"] == "pool_sweep"
    assert listed[0]["profiles"]["full"]["replicates"] >= 5
    assert {each["experiment"] for each in listed} >= {"pool_sweep", "instrument"}
    for plan in (plan for each in listed for plan in each["profiles"].values()):
        assert plan["cells"] <= plan["measurements"] <= plan["cells"] * plan["replicates"]
    checked = json.loads(bench("check", "--profile", "smoke", "--json").stdout)
    assert "maxclients" in checked["server"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "--profile", "standart"),
        ("run", "--workers", "0"),
        ("report", "/nonexistent/run"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_failure_is_json_too_where_json_was_asked_for(arguments: tuple[str, ...]) -> None:
    done = bench(*arguments, "--json")
    failed(done)
    assert f"bench: {json.loads(done.stdout)['error']}\n" == done.stderr


def test_the_version_is_the_project_s() -> None:
    done = bench("--version")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (done.returncode, done.stdout.strip()) == (0, project["version"])


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("--profile s", ["smoke", "standard"]),
        ("--only pool", ["pool_sweep"]),
        ("--only in", ["instrument"]),
        ("--only pool_sweep,pool", ["pool_sweep,pool_sweep"]),
    ],
)
def test_the_shell_completes_profiles_and_experiments(typed: str, offered: list[str]) -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['bench']; import bench.cli as c; c.main()"],
        env={**os.environ, "_BENCH_COMPLETE": "complete_bash", "COMP_WORDS": f"bench run {typed}",
             "COMP_CWORD": "3"},
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert said.stdout.split() == offered


def test_the_command_line_starts_without_what_takes_a_second() -> None:
    code = "import sys, bench.cli; print({'pandas', 'matplotlib', 'locust'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("verb", ["list", "check", "run", "report", "calibrate", "size", "worker"])
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    done = bench(verb, "--help")
    assert done.returncode == 0
    assert "bench " + verb in done.stdout.split("Options")[0].split("Usage")[1]
    assert "Example" in done.stdout


def test_a_worker_without_a_server_to_load() -> None:
    refused(bench("worker"), "REDIS_URL")


def test_a_server_of_yours_that_leaves_nothing_to_run_is_said_in_one_line() -> None:
    asked = ("check", "--profile", "smoke", "--only", "idle_eviction,stuck_call")
    refused(bench(*asked, url="redis://127.0.0.1:1"), "nothing is left to run (idle_eviction")


@pytest.mark.parametrize("port", ["0", "99999"])
def test_a_masters_port_out_of_range(port: str) -> None:
    refused(bench("worker", "--port", port), "--port", port, "must lie between")
