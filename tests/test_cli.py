"""The command line: bad input gets one clear line and exit status 2, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.rig.server import open_server


def bench(
    *arguments: str, url: str | None = None, path: str | None = None, limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("REDIS_URL", "NO_COLOR")}
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
        preexec_fn=lower,
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr, exit status 2, nothing on stdout."""
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
        ("--keys", "0"),
        ("--value-bytes", "-1"),
        ("--get-share", "1.5"),
        ("--server-port", "70000"),
    ],
)
def test_a_number_out_of_range_names_option_and_range(option: str, value: str) -> None:
    refused(bench("run", option, value), option, value, "must lie between")


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


# ---------------------------------------------------------------------- the machine


def test_too_few_descriptors_names_limit_largest_pool_and_remedy(tmp_path: Path) -> None:
    done = run(tmp_path, limit=2_000)
    refused(done, "2000", "largest pool of this plan that fits is 500", "nofile")


def test_several_workers_with_5000_each_through_the_link_are_refused(tmp_path: Path) -> None:
    refused(run(tmp_path, "--workers", "4", limit=20_000), "20000", "largest pool")


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
    checked = json.loads(bench("check", "--profile", "smoke", "--json").stdout)
    assert "maxclients" in checked["server"]


@pytest.mark.parametrize("verb", ["list", "check", "run", "report", "calibrate", "worker"])
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    done = bench(verb, "--help")
    assert done.returncode == 0
    assert "bench " + verb in done.stdout.split("Options")[0].split("Usage")[1]
    assert "Example" in done.stdout


def test_a_worker_without_a_server_to_load() -> None:
    refused(bench("worker"), "REDIS_URL")
