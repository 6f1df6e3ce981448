"""The seam, once for everybody: what each experiment that is found must offer."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from bench.experiments import discover, notebook_of
from bench.model import Profile, Workload

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
FOUND = discover()
each = pytest.mark.parametrize("experiment", FOUND.values(), ids=FOUND)


@each
def test_it_is_called_as_its_file_and_asks_something(experiment: ModuleType) -> None:
    assert experiment.__name__.rpartition(".")[2] == experiment.NAME
    assert experiment.QUESTION.endswith("?")


@each
@pytest.mark.parametrize("profile", get_args(Profile))
def test_every_profile_holds_cells_of_its_own(experiment: ModuleType, profile: Profile) -> None:
    plan = experiment.plan(profile, Workload(), 1)
    cells = (*plan.cells, *plan.once, *plan.apart)
    assert cells
    assert {cell.experiment for cell in cells} == {experiment.NAME}


@each
def test_it_offers_what_a_report_asks_for(experiment: ModuleType) -> None:
    missing = [x for x in ("tables", "claims", "figures") if not callable(getattr(experiment, x))]
    assert not missing


@each
@pytest.mark.parametrize("suffix", ["py", "ipynb"])
def test_one_notebook_shows_it(experiment: ModuleType, suffix: str) -> None:
    pages = list(NOTEBOOKS.glob(f"[0-9][0-9]_{notebook_of(experiment)}.{suffix}"))
    assert len(pages) == 1
