"""What is said of opening connections, phase by phase, by phases whose truth is known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import synthetic
from matplotlib.figure import Figure
from said import Changed, typed_numbers

from bench.experiments import connection_setup
from bench.experiments.connection_setup import Way, measured, part, round_trips, whole_s, worst_sum
from bench.figures.style import PHASES
from bench.model import Cell, Phase, Profile, Workload
from bench.store import Store

STANDARD = connection_setup.plan("standard", Workload(), 1)
OWN_S = {"bare": 5e-6, "tuned": 60e-6, "redis-py": 600e-6}
FIGURES = ["setup_phases", "setup_cpu"]


def phases_of(cell: Cell, unnamed: float = 0.0) -> dict[str, float]:
    """Each client's phases: an exchange takes a round trip and 50 µs, the first one two. A share
    `unnamed` of the whole lies in none of them."""
    found = {"client": OWN_S[cell.client], "connect": 50e-6}
    exchanges = []
    if cell.tls != "none":
        found["tls"] = (1.8e-3 if cell.tls == "full" else 1.1e-3) + 2 * cell.rtt_s
    if cell.client == "redis-py":
        exchanges += ["hello", "maint"]
        found["setinfo"] = 2 * (cell.rtt_s + 50e-6)
    if cell.auth != "none" and cell.client == "tuned":
        exchanges.append("auth")
    if cell.database:
        exchanges.append("select")
    exchanges.append("first command")
    for place, name in enumerate(exchanges):
        trips = 2 if place == 0 and cell.tls == "none" else 1
        found[name] = trips * cell.rtt_s + 50e-6
    whole = sum(found.values()) / (1 - unnamed)
    return {name: found[name] for name in PHASES if name in found} | {
        "close": 20e-6,
        "whole": whole,
    }


def stored(
    folder: Path,
    profile: Profile = "standard",
    replicates: int = 3,
    wanted: Callable[[Cell], bool] = lambda cell: True,
    unnamed: float = 0.0,
) -> Store:
    made = Store.create(folder, {"settings": {"profile": profile}, "python": "3.11.0"})
    plan = connection_setup.plan(profile, Workload(), 1)
    for cell, block in product(filter(wanted, plan.cells), range(1, replicates + 1)):
        told = phases_of(cell, unnamed)
        usual = synthetic.observation(cell, block)
        noted = tuple(Phase(name, 100, seconds * synthetic.NOISE[block], seconds)
                      for name, seconds in told.items())  # fmt: skip
        made.add(dataclasses.replace(
            usual, phases=noted, bound_by="generator", client_cpu_us_per_op=1e6 * told["whole"],
            server_cpu_us_per_op=30.0 if cell.tls == "none" else 700.0, proxy_cpu_us_per_op=None,
            tls_ends_at="server" if cell.tls != "none" else "", time_wait_peak=1234,
        ))  # fmt: skip
    made.finish("complete")
    return Store.open(folder)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("setup") / "usual")


@pytest.mark.parametrize("profile", get_args(Profile))
def test_each_cell_opens_anew_and_tells_its_phases(profile: Profile) -> None:
    for cell in connection_setup.plan(profile, Workload(), 4).cells:
        assert cell.fresh
        assert cell.time_phases
        assert cell.workers == cell.concurrency == cell.pool_size == 1
        assert cell.resp == (3 if cell.client == "redis-py" else 2)


def test_the_standard_plan_holds_what_the_question_asks() -> None:
    asked = {(c.client, c.rtt_s, c.tls, c.auth, bool(c.database)) for c in STANDARD.cells}
    for client, rtt_s in product(("bare", "tuned", "redis-py"), (0.0, 0.001, 0.005)):
        assert (client, rtt_s, "none", "none", False) in asked
    assert {tls for _, _, tls, _, _ in asked} == {"none", "full", "resumed"}
    assert {auth for _, _, _, auth, _ in asked} == {"none", "password", "acl"}
    assert any(database for *_, database in asked)
    assert len(STANDARD.cells) == len(set(STANDARD.cells))
    windows = sum(cell.warmup_s + cell.measure_s for cell in STANDARD.cells)
    assert windows * STANDARD.replicates < 25


def test_the_sum_of_the_phases_is_held_against_the_whole(usual: Store, tmp_path: Path) -> None:
    assert worst_sum(measured(usual.cells())) == pytest.approx(1.0)
    gappy = stored(tmp_path / "gappy", unnamed=0.2, wanted=lambda c: c.client == "bare")
    assert worst_sum(measured(gappy.cells())) == pytest.approx(0.8)
    said = connection_setup.prose(gappy.cells(), gappy)["setup_phases"]
    assert "80 %" in said


def test_what_opening_takes_is_told_for_each_client(usual: Store) -> None:
    known = measured(usual.cells())
    for client, own_s in OWN_S.items():
        expected = own_s + 50e-6 + 50e-6 * (1 if client != "redis-py" else 5)
        assert whole_s(known, Way(client), 0.0) == pytest.approx(expected, rel=0.01)  # type: ignore[arg-type]
    title = connection_setup.findings(usual.cells(), usual)["setup_phases"]
    assert "most of redis-py's is “client”" in title


def test_round_trips_are_counted(usual: Store) -> None:
    known = measured(usual.cells())
    assert round_trips(known, Way("bare")) == pytest.approx(2, rel=0.02)
    assert round_trips(known, Way("redis-py")) == pytest.approx(6, rel=0.02)
    assert math.isnan(round_trips(known, Way("tuned", auth="acl")))  # at one distance only


def test_the_largest_phase_is_named_by_the_data(usual: Store) -> None:
    def slower(cells: pd.DataFrame) -> pd.DataFrame:
        changed = [
            [{**each, "mean_s": each["mean_s"] + (0.1 if each["name"] == "hello" else 0.0)}
             for each in row] for row in cells["phases"]
        ]  # fmt: skip
        return cells.assign(phases=changed)

    store: Any = Changed(usual, slower(usual.cells()))
    assert "is “hello”" in connection_setup.findings(store.cells(), store)["setup_phases"]


def test_tls_auth_and_select_are_priced(usual: Store) -> None:
    said = connection_setup.prose(usual.cells(), usual)["setup_phases"]
    assert "1.8 ms without a network, 1.1 ms where a session is taken up again" in said
    assert "(password)" in said
    assert "(acl)" in said
    assert "SELECT is another" in said
    assert "TLS ends in the server" in all_text(usual)


def test_a_cell_that_failed_a_gate_is_left_out(usual: Store) -> None:
    cells = usual.cells()
    spoilt = cells.assign(valid=~((cells["client"] == "bare") & (cells["block"] == 1)))
    assert len(part(measured(spoilt), Way("bare"), 0.0)) == 2


@pytest.mark.parametrize("left", [lambda c: c.tls == "none", lambda c: c.client == "bare",
                                  lambda c: c.rtt_s == 0.005])  # fmt: skip
def test_part_of_a_run_is_shown_as_far_as_it_goes(
    tmp_path: Path, left: Callable[[Cell], bool]
) -> None:
    store = stored(tmp_path / "part", wanted=left)
    cells = store.cells()
    assert list(connection_setup.figures(cells, store)) == FIGURES
    assert list(connection_setup.prose(cells, store)) == FIGURES
    assert len(connection_setup.tables(cells))
    assert "nan" not in str(connection_setup.findings(cells, store)).lower()
    assert "nan" not in str(connection_setup.prose(cells, store)).lower()


def test_a_smoke_run_is_shown_and_said_to_be_thin(tmp_path: Path) -> None:
    store = stored(tmp_path / "smoke", "smoke", replicates=1)
    assert "fewer than 3 valid replicates" in str(connection_setup.prose(store.cells(), store))


def test_nothing_measured_is_nothing_shown(usual: Store) -> None:
    none = usual.cells().head(0)
    assert connection_setup.figures(none, usual) == {}
    assert connection_setup.findings(none, usual) == {}
    assert connection_setup.prose(none, usual) == {}
    assert connection_setup.claims(none, usual) == []
    assert connection_setup.tables(none).empty


def test_each_figures_title_is_its_finding(usual: Store) -> None:
    cells = usual.cells()
    drawn = connection_setup.figures(cells, usual)
    for name, finding in connection_setup.findings(cells, usual).items():
        title = drawn[name].get_suptitle()
        assert title.replace("\n", " ").replace("\u00a0", " ") == finding


def test_no_number_is_typed_into_a_sentence() -> None:
    """CLIENT SETINFO is two commands by redis-py's own making."""
    said = r"_finding|_said|_prose|_thin|_largest|_wholes|_cpu$"
    defined = r"“setinfo” is two commands|one exchange|the bare one|protocol [23]"
    assert typed_numbers(connection_setup, said, defined, ("si", "format"), fewest=8) == []


def all_text(store: Store) -> str:
    drawn = connection_setup.figures(store.cells(), store)
    return " ".join(text for figure in drawn.values() for text in _texts(figure))


def _texts(figure: Figure) -> list[str]:
    from matplotlib.text import Text

    return [each.get_text().replace("\n", " ") for each in figure.findobj(Text)]
