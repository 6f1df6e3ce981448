"""One file per experiment, found by folder; offering NAME, QUESTION, CLAIMS (id and statement of
each claim it decides; a verdict's claim is one of these, or one with a letter more, a part of it),
`plan`, `tables`, `claims` and `figures`; and NOTEBOOK, where the notebook that shows it is not
called after it; and TIME_SCALE, where `plan` takes a factor by which the experiment's times are
shorter than the world's."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from collections import Counter
from types import ModuleType
from typing import Any

from bench.model import Cell, Plan, PreflightError, Settings
from bench.rig.lacking import lacking, redundant

# The sweep's curves are what people open first, so it runs first; the rest by name.
FIRST = "pool_sweep"


def discover() -> dict[str, ModuleType]:
    """Every experiment by name, in the order in which a run measures them."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    names.sort(key=lambda name: name != FIRST)
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def notebook_of(experiment: ModuleType) -> str:
    """The name, without its number, of the notebook that shows this experiment."""
    return str(getattr(experiment, "NOTEBOOK", experiment.NAME))


def chosen(only: tuple[str, ...]) -> list[ModuleType]:
    """The experiments named, or all. Raises PreflightError for a name there is none of."""
    found = discover()
    for name in only:
        if name not in found:
            raise PreflightError(f"no experiment “{name}”{nearest(name, list(found))}")
    return [module for name, module in found.items() if not only or name in only]


def plans(settings: Settings, *, owned: bool) -> list[Plan]:
    """What each of the chosen experiments measures, without the cells that cannot be run here.
    Raises PreflightError as `chosen`."""

    def possible(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
        return tuple(c for c in cells if not redundant(c) and lacking(c, owned=owned) is None)

    return [
        dataclasses.replace(
            plan,
            cells=possible(plan.cells),
            once=possible(plan.once),
            apart=possible(plan.apart),
        )
        for plan in _asked_for(settings)
    ]


def not_run(settings: Settings, *, owned: bool) -> list[dict[str, Any]]:
    """What of the chosen experiments cannot be run here, why, and how many cells that is."""
    found = Counter(
        (cell.experiment, *lack)
        for plan in _asked_for(settings)
        for cell in dict.fromkeys((*plan.cells, *plan.once, *plan.apart))
        if not redundant(cell) and (lack := lacking(cell, owned=owned))
    )
    return [
        {"experiment": experiment, "what": what, "why": why, "cells": count}
        for (experiment, what, why), count in found.items()
    ]


def _asked_for(settings: Settings) -> list[Plan]:
    return [_plan(module, settings) for module in chosen(settings.only)]


def _plan(module: ModuleType, settings: Settings) -> Plan:
    scale = {"time_scale": settings.time_scale} if hasattr(module, "TIME_SCALE") else {}
    asked: Plan = module.plan(settings.profile, settings.workload, settings.workers, **scale)
    return asked


def nearest(name: str, known: list[str]) -> str:
    """The end of a message about an unknown name: what was probably meant, or what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean “{close[0]}”?" if close else f"; there is: {', '.join(known)}"
