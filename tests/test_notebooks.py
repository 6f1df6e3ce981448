"""Notebooks: paired, free of traces, executed headless on a run, and pages that need no network."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pandas as pd
import psutil
import pytest
import synthetic
from IPython.display import Markdown

from bench.experiments import discover, instrument, notebook_of, pool_sweep
from bench.model import BenchError
from bench.report import notebooks, page
from bench.report.drawing import judge_and_draw
from bench.store import Store

ROOT = Path(__file__).resolve().parents[1]
STORED = sorted((ROOT / "notebooks").glob("*.ipynb"))
REFERENCE = ROOT / "results" / "reference"
LARGEST_PICTURE = 150_000
HOME = str(Path.home())
PLAIN = {"display_name": "Python 3", "language": "python", "name": "python3"}


SHOWN = {"01_pool_sweep": pool_sweep, "02_instrument": instrument}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic smoke run whose notebooks were executed."""
    folder = tmp_path_factory.mktemp("results") / "run"
    synthetic.store(folder, "smoke", 1, tuple(SHOWN.values()))
    certified(folder)
    judge_and_draw(folder, ["pool_sweep", "instrument"])
    pages = notebooks.execute(folder, notebooks.showing(["pool_sweep", "instrument"]))
    assert pages == [folder / "notebooks" / f"{name}.html" for name in ("00_overview", *SHOWN)]
    return folder


def certified(folder: Path) -> None:
    store = Store.resume(folder)
    cells = store.cells()
    own = cells[cells["experiment"] == "instrument"]
    store.note_certificate(asdict(row) for row in instrument.certificate(own, store))
    store.finish("complete")


@pytest.fixture(scope="module", params=SHOWN)
def name(request: pytest.FixtureRequest) -> str:
    """Of a notebook."""
    return str(request.param)


@pytest.fixture(scope="module")
def executed(run: Path, name: str) -> Any:
    return nbformat.read(run / "notebooks" / f"{name}.ipynb", as_version=4)


def findings(run: Path, name: str) -> dict[str, str]:
    """What the figures of the notebook say."""
    store = Store.open(run)
    cells = store.cells()
    own = cells[cells["experiment"] == SHOWN[name].NAME]
    told: dict[str, str] = SHOWN[name].findings(own, store)
    return told


def outputs(notebook: Any) -> list[Any]:
    return [out for cell in notebook.cells for out in cell.get("outputs", [])]


def texts(notebook: Any, kind: str) -> list[str]:
    return [out.data[kind] for out in outputs(notebook) if kind in out.get("data", {})]


# As stored


def test_every_notebook_shows_some_experiment_or_all() -> None:
    named = [re.sub(r"^\d+_", "", path.stem) for path in STORED]
    shown = {notebook_of(module) for module in discover().values()}
    assert sorted(named) == sorted({notebooks.OVERVIEW, *shown})


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_the_pair_says_the_same(path: Path) -> None:
    script = jupytext.read(path.with_suffix(".py"))
    stored = nbformat.read(path, as_version=4)
    told = [
        [(c.cell_type, c.source, c.metadata.get("tags")) for c in b.cells] for b in (script, stored)
    ]
    assert told[0] == told[1]
    assert stored.metadata.jupytext.formats == "ipynb,py:percent"


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_notebook_holds_no_traces(path: Path) -> None:
    text = path.read_text()
    stored = json.loads(text)
    for trace in (str(ROOT), HOME + "/", "/tmp/", "/" + "home/", "/usr/", "papermill", "iopub"):
        assert trace not in text
    assert stored["metadata"]["kernelspec"] == PLAIN
    assert set(stored["metadata"]) <= {"jupytext", "kernelspec", "language_info"}
    assert [cell["id"] for cell in stored["cells"]] == [
        f"cell-{number:02d}" for number in range(1, len(stored["cells"]) + 1)
    ]
    assert all(set(cell["metadata"]) <= {"tags"} for cell in stored["cells"])


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_its_parameter_is_the_committed_run(path: Path) -> None:
    tagged = [c.source for c in nbformat.read(path, as_version=4).cells
              if "parameters" in c.metadata.get("tags", [])]  # fmt: skip
    assert tagged == ['run = "../results/reference"']


def test_the_stored_outputs_are_those_of_the_committed_run(tmp_path: Path) -> None:
    if not REFERENCE.exists():
        pytest.skip("no committed run yet")
    copy = tmp_path / "reference"
    shutil.copytree(REFERENCE, copy, ignore=shutil.ignore_patterns("notebooks", "figures"))
    for made in notebooks.execute(copy, notebooks.showing(Store.open(copy).experiments())):
        fresh = nbformat.read(made.with_suffix(".ipynb"), as_version=4)
        stored = nbformat.read(ROOT / "notebooks" / f"{made.stem}.ipynb", as_version=4)
        assert texts(stored, "text/markdown") == texts(fresh, "text/markdown"), "refresh it"
        assert len(texts(stored, "image/png")) == len(texts(fresh, "image/png"))


# As executed


def test_the_run_named_is_the_one_shown(executed: Any, name: str) -> None:
    injected = [
        c.source for c in executed.cells if "injected-parameters" in c.metadata.get("tags", [])
    ]
    assert injected == ["run = '..'"]
    said = "\n".join(texts(executed, "text/markdown"))
    few = {
        "01_pool_sweep": "1 replicate, 3",
        "02_instrument": "smoke run",
    }[name]
    assert few in said
    environment = texts(executed, "text/html")[-1]
    assert "redis 7.0.0" in environment
    assert "smoke" in environment


def test_pictures_are_there_and_small(executed: Any, run: Path, name: str) -> None:
    pictures = [base64.b64decode(text) for text in texts(executed, "image/png")]
    assert len(pictures) == len(findings(run, name))
    assert max(map(len, pictures)) <= LARGEST_PICTURE
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


def test_nothing_but_results_is_printed(executed: Any) -> None:
    kinds = {out.output_type for out in outputs(executed)}
    assert kinds <= {"execute_result", "display_data"}, outputs(executed)


def test_figures_are_saved_for_reviews(run: Path) -> None:
    names = {path.name for path in (run / "figures").iterdir()}
    figures = [figure for name in SHOWN for figure in findings(run, name)]
    assert names == {f"{name}.{kind}" for name in figures for kind in ("png", "svg")}
    assert all(path.stat().st_size > 10_000 for path in (run / "figures").iterdir())


def test_an_experiment_draws_from_its_own_cells_and_the_whole_run(run: Path) -> None:
    given: list[tuple[set[str], set[str]]] = []

    def seen(cells: pd.DataFrame, store: Store) -> dict[str, Any]:
        given.append((set(cells["experiment"]), set(store.cells()["experiment"])))
        return {}

    opened = page.open_run(str(run), "instrument")
    for name in ("pool_sweep", "other"):
        shown: Any = types.SimpleNamespace(NAME=name, figures=seen, findings=seen, prose=seen)
        page.pages(opened, shown)
    both = {"pool_sweep", "instrument"}
    assert given == [*[({"pool_sweep"}, both)] * 3, *[(set(), both)] * 3]


def test_no_path_of_this_machine_is_in_what_is_made(run: Path) -> None:
    for made in (run / "notebooks").iterdir():
        text = made.read_text()
        for trace in (str(ROOT), str(run), HOME + "/", "site-packages"):
            assert trace not in text, made.name


def test_the_page_needs_no_network(run: Path, name: str) -> None:
    html = (run / "notebooks" / f"{name}.html").read_text()
    fetched = re.findall(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']([^"']*)""", html)
    assert all(source.startswith("data:") for source in fetched), fetched
    assert not re.findall(r"""(?:import\s|import\(|@import|url\()\s*["']?https?:""", html)
    assert {"01_pool_sweep": "Pool sweep", "02_instrument": "The instrument"}[name] in html
    assert "execute_notebook" not in html


def test_the_instrument_s_page_holds_verdicts_gates_and_the_certificate(run: Path) -> None:
    told = nbformat.read(run / "notebooks" / "02_instrument.ipynb", as_version=4)
    tables = texts(told, "text/html")
    verdicts, gates, certificate, parts, environment = tables
    assert verdicts.count("undecided") == 4
    assert "a smoke run decides nothing" in verdicts
    assert "little_pool" in gates
    assert "server stopped: p99 recorded" in certificate
    assert "reached" in certificate
    assert "schedule" in parts
    assert "redis 7.0.0" in environment
    said = texts(told, "text/markdown")
    own, store = Store.open(run).cells(), Store.open(run)
    prose = instrument.prose(own[own["experiment"] == "instrument"], store)
    assert set(prose.values()) <= set(said)
    assert not [text for text in said if "Not measured" in text]
    assert "Every cell passed its gates at the first attempt." in said


@pytest.mark.parametrize("missing", ["proof", "link"])
def test_a_part_that_was_not_measured_is_said_and_all_else_shown(
    missing: str, tmp_path: Path
) -> None:
    """As on a server of the user's, which is not stopped. Without a kernel: that takes seconds."""
    folder = synthetic.store(
        tmp_path / "run", "smoke", 1, (instrument,), wanted=lambda cell: cell.arm != missing
    )
    shown: list[Any] = []
    script = jupytext.read(ROOT / "notebooks" / "02_instrument.py")
    names: dict[str, Any] = {}
    for cell in (c for c in script.cells if c.cell_type == "code"):
        exec(cell.source, names)
        names |= {"run": str(folder), "display": lambda *parts: shown.extend(parts)}
    said = [part.data for part in shown if isinstance(part, Markdown)]
    assert said.count("Not measured in this run.") == 1
    assert len(said) == 7


# Trouble


def test_a_notebook_that_fails_is_one_line(
    tmp_path: Path,
) -> None:
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(BenchError) as caught:
        notebooks._executed(broken, "01_broken", tmp_path, threading.Event())
    assert str(caught.value) == "notebook 01_broken failed: division by zero"


def test_without_a_run_the_notebook_says_so_in_one_line(tmp_path: Path) -> None:
    (stored,) = (path for path in STORED if path.stem == "01_pool_sweep")
    with pytest.raises(BenchError) as caught:
        notebooks._publish(stored, tmp_path, threading.Event())
    assert re.fullmatch(r"notebook 01_pool_sweep failed: Nothing to show: .*", str(caught.value))
    with pytest.raises(page.NothingToShow) as shown:
        page.open_run("nowhere", "pool_sweep")
    (line,) = shown.value._render_traceback_()
    assert "\n" not in line
    assert "nowhere does not exist" in line


def test_the_first_line_counts_one_as_one(run: Path) -> None:
    opened = page.open_run(str(run), "pool_sweep")
    one, two = opened.cells[:1], opened.cells[:2].assign(block=[0, 1], cell=["one", "other"])
    said = [page.headline(opened._replace(cells=cells)).data for cells in (one, two)]
    assert "1 measurement of 1 cell in 1 block, each" in said[0]
    assert "2 measurements of 2 cells in 2 blocks, each" in said[1]


def test_a_run_without_cells_of_the_experiment_says_so(run: Path) -> None:
    with pytest.raises(page.NothingToShow, match="holds no cell of other"):
        page.open_run(str(run), "other")


REPORT = """
import sys
from pathlib import Path
from bench.__main__ import main
from bench.report import notebooks
notebooks.SOURCE = Path(sys.argv.pop())
main()
"""
ENDLESS = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(1000)"
PATIENCE_S = 60


@pytest.fixture
def reporting(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A report on a notebook without end, and the process id of its kernel, at work."""
    parameters = nbformat.v4.new_code_cell("", metadata={"tags": ["parameters"]})
    endless = [parameters, nbformat.v4.new_code_cell(ENDLESS)]
    for name in ("source", "tmp"):
        (tmp_path / name).mkdir()
    nbformat.write(
        nbformat.v4.new_notebook(cells=endless), tmp_path / "source" / "01_pool_sweep.ipynb"
    )
    folder = synthetic.store(tmp_path / "run", "smoke", 1)
    command = [sys.executable, "-c", REPORT, "report", str(folder), "--notebooks",
               str(tmp_path / "source")]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    report = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        told = folder / "notebooks" / "pid"
        wait_until(lambda: told.exists() and told.read_text() != "")
        yield report, int(told.read_text())
    finally:
        report.kill()
        report.wait()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_report_that_is_ended_ends_its_kernel(
    reporting: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    report, kernel = reporting
    report.terminate()
    assert report.wait(PATIENCE_S) == 130
    assert not psutil.pid_exists(kernel)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_report_that_is_killed_leaves_no_kernel_and_no_key(
    reporting: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    report, kernel = reporting
    report.kill()
    report.wait()
    assert list((tmp_path / "tmp").iterdir()) == []
    wait_until(lambda: not psutil.pid_exists(kernel))


def test_a_page_that_cannot_be_written_ends_the_kernel_of_the_one_beside_it(
    tmp_path: Path,
) -> None:
    def children() -> set[int]:
        return {child.pid for child in psutil.Process().children()} - before

    before: set[int] = set()
    before |= children()
    folder = synthetic.store(tmp_path / "run", "smoke", 1)
    (folder / "notebooks" / "00_overview.html").mkdir(parents=True)
    with pytest.raises(BenchError, match=r"00_overview\.html cannot be written \(Is a directory"):
        notebooks.execute(folder, notebooks.showing(["pool_sweep"]))
    assert children() == set()


def test_figures_that_cannot_be_written_end_who_draws_them(tmp_path: Path) -> None:
    folder = synthetic.store(tmp_path / "run", "smoke", 1)
    (folder / "figures").write_text("in the way")
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(BenchError, match="figures cannot be written"):
        judge_and_draw(folder, ["pool_sweep"])
    assert {child.pid for child in psutil.Process().children()} <= before


# The committed ones


def test_a_notebook_whose_experiment_the_committed_run_lacks_is_written_unexecuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "notebooks" / "02_instrument.py", tmp_path)
    kept = synthetic.store(tmp_path / "kept", "smoke", 1, wanted=lambda cell: cell.pool_size == 5)
    monkeypatch.setattr(notebooks, "SOURCE", tmp_path)
    monkeypatch.setattr(notebooks, "REFERENCE", kept)
    (written,) = notebooks.refresh()
    assert written == tmp_path / "02_instrument.ipynb"
    assert not outputs(nbformat.read(written, as_version=4))


# The page's parts


def test_a_notebook_is_given_its_own_cells_all_cells_and_the_store(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = Store.open(run).cells()
    mixed = pd.concat([cells, cells.head(1).assign(experiment="other")])
    monkeypatch.setattr(page, "load_cells", lambda folder: mixed)
    opened = page.open_run(str(run), "other")
    assert (len(opened.cells), len(opened.all_cells)) == (1, len(cells) + 1)
    assert opened.store.folder == run
    assert opened.manifest == opened.store.manifest


def test_invalid_attempts_are_all_listed(run: Path) -> None:
    first = Store.open(run).cells().head(2)
    failed = first.assign(valid=False, invalid_reasons="settled: the rate drifted")
    mended = first.head(1).assign(attempt=2)
    again = failed.tail(1).assign(attempt=2)
    listed = page.invalid_cells(pd.concat([failed, mended, again]))
    assert listed["last attempt"].tolist() == ["valid", "invalid", "invalid"]
    assert set(listed["why"]) == {"settled: the rate drifted"}
    assert page.invalid_cells(first).empty


def test_the_environment_survives_a_manifest_that_knows_little() -> None:
    assert page.environment({"python": "3.11<"}).data.count("<tr>") == 2
    assert "3.11&lt;" in page.environment({"python": "3.11<"}).data


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_no_executed_notebook_of_another_run_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert all(name.startswith("results/reference/") for name in listed)
