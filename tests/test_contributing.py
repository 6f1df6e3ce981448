"""CONTRIBUTING's “Adding an experiment”, followed to the letter in a copy of the project."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECTION = (ROOT / "CONTRIBUTING.md").read_text().split("## Adding an experiment")[1]
FILES = dict(re.findall(r"^`(\S+)`:\n\n```python\n(.*?)^```", SECTION, re.M | re.S))
COMMANDS = re.findall(r"^\.venv/bin/(.+)$", SECTION, re.M)
COPIED = ("bench", "notebooks", "tests", "locustfiles", "pyproject.toml")
SEAM = ("tests/test_layout.py", "tests/test_experiments.py")

pytestmark = pytest.mark.slow


def _files(folder: Path) -> set[str]:
    """Without what Python and pytest keep for themselves."""
    kept = (path for path in folder.rglob("*") if path.is_file())
    names = {str(path.relative_to(folder)) for path in kept}
    return {n for n in names if "__pycache__" not in n and not n.startswith(".")}


def _run(copy: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_is_listed_measured_judged_and_shown(tmp_path: Path) -> None:
    listed = subprocess.check_output(["git", "ls-files", *COPIED], cwd=ROOT, text=True).split()
    for name in listed:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name, text in FILES.items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text)
    scripts = Path(sys.executable).parent
    said = [_run(tmp_path, str(scripts / c.split()[0]), *c.split()[1:]) for c in COMMANDS]
    assert "value_size" in said[1]
    (run,) = (path.parent for path in tmp_path.glob("results/*/run.json"))
    verdicts = {v["claim"]: v for v in json.loads((run / "verdicts.json").read_text())}
    assert verdicts["V1"]["outcome"] == "undecided"  # a smoke run decides nothing
    assert len(verdicts["V1"]["cells"]) == 2
    assert (run / "figures" / "value_size.png").exists()
    assert (run / "notebooks" / "09_value_size.html").exists()
    _run(tmp_path, sys.executable, "-m", "pytest", "-q", *SEAM)
    assert all((ROOT / n).read_bytes() == (tmp_path / n).read_bytes() for n in listed)
    added = {n for n in _files(tmp_path) if not n.startswith("results/")} - set(listed)
    assert added == {*FILES, "notebooks/09_value_size.ipynb"}
