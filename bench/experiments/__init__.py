"""One file per experiment, found by folder; offering NAME, QUESTION, `plan`, `tables`, `claims`
and `figures`."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from types import ModuleType

from bench.model import Cell, Plan, PreflightError, Settings

# The sweep's curves are what people open first, so it runs first; the rest by name.
FIRST = "pool_sweep"


def discover() -> dict[str, ModuleType]:
    """Every experiment by name, in the order in which a run measures them."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    names.sort(key=lambda name: name != FIRST)
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def chosen(only: tuple[str, ...]) -> list[ModuleType]:
    """The experiments named, or all. Raises PreflightError for a name there is none of."""
    found = discover()
    for name in only:
        if name not in found:
            raise PreflightError(f"no experiment “{name}”{nearest(name, list(found))}")
    return [module for name, module in found.items() if not only or name in only]


def plans(settings: Settings, *, owned: bool) -> list[Plan]:
    """What each of the chosen experiments measures; without the cells that stop the server where
    that is not owned. Raises PreflightError as `chosen`."""

    def possible(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
        return tuple(cell for cell in cells if owned or not cell.stop_s)

    made = (
        module.plan(settings.profile, settings.workload, settings.workers)
        for module in chosen(settings.only)
    )
    return [
        dataclasses.replace(
            plan,
            cells=possible(plan.cells),
            once=possible(plan.once),
            apart=possible(plan.apart),
        )
        for plan in made
    ]


def nearest(name: str, known: list[str]) -> str:
    """The end of a message about an unknown name: what was probably meant, or what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean “{close[0]}”?" if close else f"; there is: {', '.join(known)}"
