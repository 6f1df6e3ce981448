"""The order of CONTRIBUTING's table: each module imports only from rooms above its own."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    "model", "analysis", "rig", "load", "store", "figures",
    "experiments", "runner", "report", "calibrate", "sizing", "cli", "__main__",
)  # fmt: skip
GENERATOR = {"locust", "gevent"}
MEASURES = ("bench.load", "bench.rig", "bench.runner", "bench.calibrate")
# Verbs that do not measure start from these.
PLAIN = ("cli", "analysis", "rig", "store", "figures", "experiments", "report")


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {_name(path): path for path in sorted((ROOT / "bench").rglob("*.py"))}
NOTEBOOKS = [p for p in sorted((ROOT / "notebooks").glob("*.*")) if p.suffix in {".py", ".ipynb"}]


def _room(module: str) -> str:
    return [*module.split("."), "bench"][1]


def _targets(node: ast.Import | ast.ImportFrom, module: str, is_package: bool) -> Iterator[str]:
    """The modules `node` names, absolute; a name taken from a package may be a module of it."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        up = module.split(".")[: len(module.split(".")) - node.level + is_package]
        base = ".".join([*up, base]).rstrip(".")
    for alias in node.names:
        child = f"{base}.{alias.name}"
        yield child if child in SOURCES else base


def _imports(module: str, tree: ast.AST, is_package: bool = False) -> set[str]:
    """Everything imported anywhere in `tree`, inside functions too."""
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    return {target for node in nodes for target in _targets(node, module, is_package)}


def _imported_by(module: str) -> set[str]:
    path = SOURCES[module]
    return _imports(module, ast.parse(path.read_text()), path.name == "__init__.py")


def _at_once(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: not functions' bodies, nor what is for types only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _at_once(child)


def _tops(path: Path) -> set[str]:
    """First names of what `path` imports as it is itself imported."""
    nodes = _at_once(ast.parse(path.read_text()))
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return {target.partition(".")[0] for node in imports for target in _targets(node, "", False)}


def _own(module: str) -> set[str]:
    return {target for target in _imported_by(module) if target.startswith("bench.")}


def test_every_module_has_a_room() -> None:
    assert {_room(module) for module in SOURCES} - {"bench"} <= set(ROOMS)


@pytest.mark.parametrize("module", sorted(set(SOURCES) - {"bench"}))
def test_imports_come_from_rooms_above(module: str) -> None:
    place = ROOMS.index(_room(module))
    below = {t for t in _own(module) if ROOMS.index(_room(t)) > place}
    assert not below, f"{module} imports {sorted(below)}: only rooms above {ROOMS[place]} may be"


def test_no_module_imports_itself_in_a_circle() -> None:
    left = {module: _own(module) & set(SOURCES) - {module} for module in SOURCES}
    while free := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"these import each other: {sorted(left)}"


def test_the_rig_is_put_together_last() -> None:
    users = {m for m in SOURCES if m.startswith("bench.rig.") and "bench.rig.rig" in _own(m)}
    assert not users


def test_the_pool_stands_alone_so_that_a_service_can_use_it() -> None:
    assert all(_room(target) == "model" for target in _own("bench.load.pool"))


def test_only_the_load_side_imports_the_generator() -> None:
    outside = [m for m in SOURCES if _room(m) != "load" and _tops(SOURCES[m]) & GENERATOR]
    assert not outside


def test_no_test_module_imports_locust_which_patches_the_process() -> None:
    assert not [path for path in (ROOT / "tests").rglob("*.py") if "locust" in _tops(path)]


def test_verbs_that_do_not_measure_start_without_locust() -> None:
    rooms = [m for m in SOURCES if _room(m) in PLAIN]
    code = f"import importlib, sys\nfor m in {rooms}: importlib.import_module(m)\n" + (
        f"print(sorted({GENERATOR} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("module", ["bench.calibrate", "bench.runner", "bench.load.worker"])
def test_what_measures_patches_the_process_before_anything_it_would_miss(module: str) -> None:
    code = f"import {module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def _cells(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    lines = [x for c in cells if c["cell_type"] == "code" for x in "".join(c["source"]).split("\n")]
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_read_and_never_measure(path: Path) -> None:
    found = _imports("notebooks", ast.parse(_cells(path)))
    assert not {name for name in found if name.partition(".")[0] in GENERATOR}
    assert not {name for name in found if name.startswith(MEASURES)}


def test_each_notebook_has_its_text_twin() -> None:
    texts = {path.stem for path in NOTEBOOKS if path.suffix == ".py"}
    assert texts == {path.stem for path in NOTEBOOKS if path.suffix == ".ipynb"}


def test_a_worker_imports_nothing_that_only_the_runner_needs() -> None:
    """Each block starts workers anew: scipy alone was a fifth of what that takes."""
    heavy = {"scipy", "pandas", "pyarrow", "matplotlib", "glide_sync", "trustme"}
    code = (
        f"import bench.load.swarm, bench.load.agent, sys\nprint(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0)
