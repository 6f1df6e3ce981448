"""Executes notebooks on stored results: they read, they never measure.

Jupyter's packages are imported inside functions: they take a second, and most verbs need none.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from bench.experiments import chosen, notebook_of
from bench.model import BenchError
from bench.report.drawing import writable
from bench.rig.host import usable_cores
from bench.store import Store

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "notebooks"
REFERENCE = ROOT / "results" / "reference"
PAIRING = {
    "formats": "ipynb,py:percent",
    "notebook_metadata_filter": "-jupytext.text_representation.jupytext_version",
}
OVERVIEW = "overview"
TIMEOUT_S = 300  # for one cell of a notebook
STOP_POLL_S = 0.1
# The usual page fetches scripts from the network and is as wide as the screen.
PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block notebook_css %}{{ super() }}<style>
main { max-width: 1340px; margin: 0 auto; padding: 0 1.5em; }
.jp-OutputPrompt, .jp-InputPrompt { display: none; }
.jp-RenderedMarkdown p, .jp-RenderedMarkdown li { max-width: 52em; }
</style>{% endblock %}
"""


def execute(
    folder: Path, notebooks: list[Path], done: Callable[[str], None] = lambda name: None
) -> list[Path]:
    """Run these notebooks on the folder, and write each, executed and as an HTML page, into
    `folder`/notebooks; `done` is told each, from a thread. Returns the pages.

    Blocks for some seconds per notebook, and runs as many at once as there are cores. Raises
    BenchError, also where the folder cannot be written.
    """
    with writable(folder):
        return _execute(folder, notebooks, done)


def _execute(folder: Path, notebooks: list[Path], done: Callable[[str], None]) -> list[Path]:
    out = folder / "notebooks"
    out.mkdir(exist_ok=True)

    def publish(notebook: Path, stop: threading.Event) -> Path:
        page = _publish(notebook, out, stop)
        done(notebook.stem)
        return page

    return _at_once(publish, notebooks)


def refresh() -> list[Path]:
    """Write every committed notebook anew from its script, executed on the committed run where
    that holds its experiment. Blocks for some seconds per notebook, and runs as many at once as
    there are cores. Raises BenchError."""
    import jupytext  # type: ignore[import-untyped]  # noqa: F401  as in `_at_once`

    return _at_once(_refreshed, sorted(SOURCE.glob("*.py")))


def _at_once(
    make: Callable[[Path, threading.Event], Path], notebooks: Iterable[Path]
) -> list[Path]:
    """What is made of each notebook, in their order; `make` ends soon after its event is set."""
    import nbclient  # noqa: F401  two threads that import it at once trip over each other
    import nbconvert  # noqa: F401

    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=usable_cores()) as beside:  # a kernel is a process
        making = [beside.submit(make, notebook, stop) for notebook in notebooks]
        try:
            wait(making, return_when=FIRST_EXCEPTION)
            return [made.result() for made in making]
        finally:
            stop.set()  # a signal's SystemExit comes to this thread alone
            beside.shutdown(wait=False, cancel_futures=True)


def _refreshed(script: Path, stop: threading.Event) -> Path:
    import jupytext

    notebook = jupytext.read(script)
    if REFERENCE.exists() and script in showing(Store.open(REFERENCE).experiments(), "*.py"):
        notebook = _executed(notebook, script.stem, SOURCE, stop)
    _without_traces(notebook)
    notebook.metadata["jupytext"] = PAIRING
    _write(notebook, script.with_suffix(".ipynb"))
    return script.with_suffix(".ipynb")


def showing(experiments: Iterable[str], pattern: str = "*.ipynb") -> list[Path]:
    """The notebooks, named NN_name, that show these experiments, one or several, or every run."""
    wanted = {OVERVIEW, *(notebook_of(module) for module in chosen(tuple(experiments)))}
    return [path for path in sorted(SOURCE.glob(pattern)) if _name(path) in wanted]


def _name(notebook: Path) -> str:
    return re.sub(r"^\d+_", "", notebook.stem)


def _publish(stored: Path, out: Path, stop: threading.Event) -> Path:
    # Seen from where the executed notebook will lie: no path of this machine gets into it.
    notebook = _parameterised(_read(stored), {"run": ".."})
    executed = _without_traces(_executed(notebook, stored.stem, out, stop))
    _write(executed, out / stored.name)
    page = out / f"{stored.stem}.html"
    page.write_text(_html(executed, f"{stored.stem} · {out.parent.name}"), encoding="utf-8")
    return page


def _executed(notebook: Any, name: str, where: Path, stop: threading.Event) -> Any:
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    client: Any = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(where)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        timeout=TIMEOUT_S,
        shutdown_kernel="immediate",  # the outputs are all here: its exit has nothing to add
        # It holds a key, and the kernel has read it by then: not even a SIGKILL leaves it behind.
        on_notebook_start=lambda notebook: client.km.cleanup_connection_file(),
    )
    try:
        return asyncio.run(_until(stop, client))
    except CellExecutionError as error:
        raise BenchError(f"notebook {name} failed: {error.evalue}") from None
    except (CellTimeoutError, DeadKernelError) as error:
        raise BenchError(f"notebook {name} failed: {_first_line(error)}") from None


async def _until(stop: threading.Event, client: Any) -> Any:
    """The executed notebook. Raises CancelledError soon after `stop`, its kernel ended."""
    running = asyncio.ensure_future(_run(client))
    while not (running.done() or stop.is_set()):
        await asyncio.wait([running], timeout=STOP_POLL_S)
    running.cancel()  # nothing, where it is done
    return await running


async def _run(client: Any) -> Any:
    try:
        return await client.async_execute(env=_kernel_environment())
    finally:
        atexit.unregister(client._cleanup_kernel)  # it trips over a kernel that never started
        if client.km is not None:  # cancelled while the kernel started, or while it ended
            await client.km.shutdown_kernel(now=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _parameterised(notebook: Any, parameters: dict[str, Any]) -> Any:
    """As papermill does it: a cell after the one tagged `parameters`."""
    from nbformat.v4 import new_code_cell

    tagged = [i for i, cell in enumerate(notebook.cells) if "parameters" in _tags(cell)]
    if parameters:
        source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        cell = new_code_cell(source, metadata={"tags": ["injected-parameters"]})  # type: ignore[no-untyped-call]
        notebook.cells.insert(tagged[0] + 1, cell)
    return notebook


def _tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def _kernel_environment() -> dict[str, str]:
    """The kernel is a process of its own: it needs to find this package, wherever it runs."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    added = {"PYTHONPATH": os.pathsep.join(paths), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return {**os.environ, **added}


def _without_traces(notebook: Any) -> Any:
    """Nothing that differs from one execution, or one machine, to the next but the results."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells, 1):
        cell.metadata = {"tags": tags} if (tags := _tags(cell)) else {}
        cell.id = f"cell-{number:02d}"
    return notebook


def _read(path: Path) -> Any:
    import nbformat

    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def _write(notebook: Any, path: Path) -> None:
    import nbformat

    plain = nbformat.from_dict(notebook)  # type: ignore[no-untyped-call]
    nbformat.write(plain, path)  # type: ignore[no-untyped-call]


def _html(notebook: Any, title: str) -> str:
    """One page that needs no network, with the code left out."""
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        extra_loaders=[DictLoader({"page.html.j2": PAGE})], template_file="page.html.j2"
    )
    exporter.exclude_input = True
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    return str(body)
