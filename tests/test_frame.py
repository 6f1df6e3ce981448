"""The frame holds together: the lock, the Makefile, the documents, and nothing of one machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
LOCK = (ROOT / "requirements.lock").read_text()
OTHERS = (ROOT / "requirements-others.lock").read_text()

REGISTRY = re.compile(
    rb"\bpypi\.[a-z]|python" rb"hosted|npm" rb"js\.|/simp[l]e/|--(?:extra-)?index-url[ =]\S*:"
)
MACHINE_PATH = re.compile(rb"(?<![\w.~])/(?:root|home|work|Users|opt/wheels|tmp/tools)/")

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def _committed() -> list[Path]:
    """What git holds or would take; in an export without git, nothing to say."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0")[:-1] if (path := ROOT / name).is_file()]


def _make(*arguments: str, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **more}
    for inherited in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "ARGS"):
        environment.pop(inherited, None)
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def _targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^\.PHONY: (.*)$", makefile, re.M)[0].split()) - {"FORCE"}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout's frame without .venv, in a folder whose name has a space."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "requirements-others.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.mark.parametrize("pattern", [REGISTRY, MACHINE_PATH], ids=["registry", "machine path"])
def test_no_committed_file_names(pattern: re.Pattern[bytes]) -> None:
    hits = [
        f"{path.relative_to(ROOT)}: {match.group()!r}"
        for path in _committed()
        for match in pattern.finditer(path.read_bytes())
    ]
    assert not hits


def test_every_locked_package_is_pinned_and_hashed() -> None:
    blocks = re.split(r"\n(?=\S)", LOCK.strip())
    loose = [b for b in blocks if not re.match(r"[a-z0-9._-]+==[^\s;]+( ;|\s\\)", b)]
    unhashed = [b for b in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", b)]
    assert len(blocks) > 50
    assert not loose
    assert not unhashed


def test_the_locks_name_no_place() -> None:
    for lock in (LOCK, OTHERS):
        assert not re.search(r"://|^-|@ |^\s*#", lock, re.M)


def test_what_is_not_for_every_system_is_locked_apart_and_agrees() -> None:
    asked = GROUPS["others"]
    locked, known = (
        dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.M)) for lock in (OTHERS, LOCK)
    )
    assert {canonicalize_name(Requirement(line).name) for line in asked} <= set(locked)
    assert not set(asked) & set(known)
    assert {name: known[name] for name in locked if name in known} == {
        name: version for name, version in locked.items() if name in known
    }
    blocks = re.split(r"\n(?=\S)", OTHERS.strip())
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", block) for block in blocks)


def test_the_lock_answers_pyproject() -> None:
    extras = PROJECT["optional-dependencies"].values()
    asked = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    locked: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK, re.M):
        locked.setdefault(canonicalize_name(name), []).append(version)
    wanted = [Requirement(line) for line in asked]
    stale = [
        str(requirement)
        for requirement in wanted
        if not (versions := locked.get(canonicalize_name(requirement.name)))
        or not all(requirement.specifier.contains(version) for version in versions)
    ]
    assert not stale, "requirements.lock is behind pyproject.toml: make lock"


@needs_make
def test_help_names_every_target_and_variable() -> None:
    said = _make().stdout
    variables = {"PROFILE", "REDIS_URL", "WORKERS", "ONLY", "RESUME", "PYTHON"}
    assert set(re.findall(r"^ +(\S+)", said, re.M)) >= _targets() | variables


@needs_make
def test_variables_reach_the_command_and_the_password_does_not(bare: Path) -> None:
    said = _make(
        "-n", "bench", "PROFILE=smoke", "WORKERS=2", "ONLY=pool_sweep", "RESUME=results/a run",
        cwd=bare, REDIS_URL="redis://:secret@127.0.0.1/0",
    ).stdout  # fmt: skip
    command = " ".join(said.replace("\\\n", " ").split())
    flags = '--profile "smoke" --workers "2" --only "pool_sweep" --resume "results/a run"'
    assert f".venv/bin/bench run {flags}" in command
    assert "secret" not in said


@needs_make
def test_what_is_not_given_is_left_to_the_command(bare: Path) -> None:
    """A resumed run keeps its own profile: a default of make's would contradict it."""
    assert "--" not in _make("-n", "bench", cwd=bare).stdout.partition("bench run")[2]
    assert _make("-n", "report", cwd=bare).stdout.split("bench report")[1].strip() == ""
    given = _make("-n", "report", "RUN=results/a run", cwd=bare).stdout
    assert given.split("bench report")[1].strip() == '"results/a run"'


@needs_make
def test_help_promises_the_slow_tests_that_exist() -> None:
    slow = next(line for line in _make().stdout.splitlines() if line.split()[:1] == ["test-slow"])
    assert not {"soak", "browser", "namespaces"} & set(re.findall(r"\w+", slow))


def test_git_takes_the_reference_run_and_nothing_a_report_or_another_run_adds() -> None:
    def ignored(path: str) -> bool:
        command = ["git", "check-ignore", "--quiet", "--no-index", f"results/{path}"]
        return subprocess.run(command, cwd=ROOT).returncode == 0

    _committed()  # skips without git
    assert ignored("reference/notebooks/01_pool_sweep.html")
    assert ignored("20260101-000000-smoke/run.json")
    for kept in ("run.json", "verdicts.json", "cells.parquet", "figures/little_audit.svg",
                 "latency/a-1-1.hlog", "requests/a-1-1.parquet"):  # fmt: skip
        assert not ignored(f"reference/{kept}")


@needs_make
@pytest.mark.parametrize(
    ("answer", "mend"),
    [("exit 127", "install one"), ("echo old", "PYTHON=python3.12"), ("echo bare", "python3-venv")],
)
def test_a_python_that_will_not_do_is_one_line(bare: Path, answer: str, mend: str) -> None:
    python = bare / "some python"
    python.write_text(f"#!/bin/sh\n{answer}\n")
    python.chmod(0o755)
    done = _make("bench", f"PYTHON={python}", cwd=bare)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert mend in done.stderr
    assert not (bare / ".venv").exists()


@needs_make
def test_the_lock_s_pip_is_cut_out_whole(bare: Path) -> None:
    recipe = next(x for x in (bare / "Makefile").read_text().splitlines() if "pip.lock" in x)
    (bare / ".venv").mkdir()
    subprocess.run(recipe.strip().lstrip("@").replace("$$", "$"), shell=True, cwd=bare, check=True)
    lines = (bare / ".venv" / "pip.lock").read_text().splitlines()
    assert lines[0].startswith("pip==")
    assert len(lines) > 1
    assert all("--hash=" in line for line in lines[1:])
    assert not lines[-1].endswith("\\")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_targets_that_exist(document: Path) -> None:
    named = set(re.findall(r"(?:^|[\s`])make ([a-z][a-z-]*)", _code(document.read_text())))
    assert named <= _targets()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_verbs_that_exist(document: Path) -> None:
    named = set(re.findall(r"(?:^|[\s`/])bench ([a-z]+)", _code(document.read_text()), re.M))
    help_ = subprocess.run(
        [sys.executable, "-m", "bench", "--help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert named <= set(re.findall(r"^\W*([a-z]+)", help_, re.M))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_link_to_files_that_exist(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
    assert not [link for link in links if not (document.parent / link).exists()]


def _code(text: str) -> str:
    """Only what is set as code: fenced blocks and `spans`."""
    fenced = re.findall(r"^```.*?\n(.*?)^```", text, re.M | re.S)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return "\n".join([*fenced, *spans])


def test_readme_gives_the_fresh_clone_procedure() -> None:
    commands = _code(README).splitlines()
    assert {"make bench PROFILE=smoke", "make bench", "make test"} <= set(commands)


def test_the_changelog_opens_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", changelog, re.M)
    assert versions[0] == PROJECT["version"]


def test_ci_runs_the_readme_s_test_command_then_the_slow_ones() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert script.index("make test ") < script.index("make test-slow ")


@needs_make
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_set_up_from_a_fresh_copy_mends_itself_and_is_done_once(tmp_path: Path) -> None:
    copy = tmp_path / "a fresh copy"
    for path in _committed():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    (copy / ".venv").mkdir()  # what an interrupted set-up leaves: no stamp
    first = _make("setup", cwd=copy)
    assert first.returncode == 0, first.stderr
    assert _make("-q", "setup", cwd=copy).returncode == 0
    listed = subprocess.run(
        [copy / ".venv/bin/bench", "list"], capture_output=True, text=True, cwd="/"
    )
    assert {"pool_sweep:", "instrument:"} <= set(listed.stdout.split())
    moved = copy.rename(tmp_path / "moved")
    assert _make("-q", "setup", cwd=moved).returncode == 1
    assert _make("clean", cwd=moved).returncode == 0
    assert not (moved / ".venv").exists()
