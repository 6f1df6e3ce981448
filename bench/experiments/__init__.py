"""One file per experiment, found by folder; offering QUESTION, `plan`, `tables`, `figures`."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from bench.model import PreflightError

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


def nearest(name: str, known: list[str]) -> str:
    """The end of a message about an unknown name: what was probably meant, or what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean “{close[0]}”?" if close else f"; there is: {', '.join(known)}"
