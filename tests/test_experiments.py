"""The seam, once for everybody: what each experiment that is found must offer."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
import synthetic

from bench.experiments import discover, notebook_of, pool_sweep
from bench.model import Profile, Workload
from bench.report.verdicts import claim_of
from bench.store import Store

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
FOUND = discover()
SHORTEST_SENTENCE = 20
each = pytest.mark.parametrize("experiment", FOUND.values(), ids=FOUND)


@each
def test_it_is_called_as_its_file_and_asks_something(experiment: ModuleType) -> None:
    assert experiment.__name__.rpartition(".")[2] == experiment.NAME
    assert experiment.QUESTION.endswith("?")


@each
@pytest.mark.parametrize("profile", get_args(Profile))
def test_every_profile_holds_cells_of_its_own(experiment: ModuleType, profile: Profile) -> None:
    plan = experiment.plan(profile, Workload(), 1)
    assert plan.cells
    cells = (*plan.cells, *plan.once, *plan.apart)
    assert {cell.experiment for cell in cells} == {experiment.NAME}
    # Lanes of one block are replicates too, and a storm is judged by nobody.
    few = profile == "smoke" or experiment.NAME in ("idle_eviction", "reconnect_storm")
    assert plan.replicates >= (1 if few else 3)
    assert len(plan.blocks) == plan.replicates + plan.apart_replicates
    assert plan.measurements == (
        len(plan.cells) * plan.replicates + len(plan.once) + len(plan.apart) * plan.apart_replicates
    )


@pytest.fixture(scope="module")
def of_others(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run that holds one experiment's cells, and none of the others'."""
    folder = tmp_path_factory.mktemp("run") / "others"
    return Store.open(synthetic.store(folder, "smoke", 1, (pool_sweep,)))


@each
def test_without_a_cell_it_says_nothing_and_fails_nowhere(
    experiment: ModuleType, of_others: Store
) -> None:
    cells = of_others.cells().head(0)
    assert experiment.tables(cells).empty
    found = [getattr(experiment, name)(cells, of_others) for name in ("findings", "figures")]
    assert found[0].keys() >= found[1].keys()
    assert experiment.prose(cells, of_others).keys() >= found[1].keys()
    assert all(verdict.outcome == "undecided" for verdict in experiment.claims(cells, of_others))


@each
def test_its_verdicts_are_parts_of_the_claims_it_names(
    experiment: ModuleType, of_others: Store
) -> None:
    verdicts = experiment.claims(of_others.cells().head(0), of_others)
    assert {claim_of(verdict.claim, experiment) for verdict in verdicts} == set(experiment.CLAIMS)
    assert all(len(statement) > SHORTEST_SENTENCE for statement in experiment.CLAIMS.values())


@each
@pytest.mark.parametrize("suffix", ["py", "ipynb"])
def test_one_notebook_shows_it(experiment: ModuleType, suffix: str) -> None:
    pages = list(NOTEBOOKS.glob(f"[0-9][0-9]_{notebook_of(experiment)}.{suffix}"))
    assert len(pages) == 1
