"""What the sweep's figures say: true of synthetic data whose truth is known, and only of those."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import synthetic
from matplotlib.figure import Figure
from matplotlib.text import Text

from bench.analysis.replicates import evidence, last_attempts, paired_ratio, points
from bench.experiments import pool_sweep
from bench.store import load_cells

NAMES = ["concurrency_qps", "latency_pool_size", "cost_pool_size", "little_audit"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """A standard run in which every pool flattens at its own size."""
    cells = load_cells(synthetic.store(tmp_path_factory.mktemp("run") / "r", "standard", 3))
    in_flight = cells[["concurrency", "pool_size"]].min(axis=1)
    return cells.assign(in_flight_mean=in_flight.astype(float))


@pytest.fixture(scope="module")
def smoke(cells: pd.DataFrame) -> pd.DataFrame:
    """One replicate, and only a few pools."""
    return cells[(cells["block"] == 1) & cells["pool_size"].isin([5, 100, 5000])]


def all_invalid(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.assign(valid=False, invalid_reasons="settled: never")


def all_bound(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.assign(bound_by="machine")


def pool_does_not_matter(cells: pd.DataFrame) -> pd.DataFrame:
    """The rate follows the users whatever the pool."""
    service_s = cells["rtt_s"] + 0.0002
    noise = cells["block"].map(dict(enumerate(synthetic.NOISE, 1)))
    return cells.assign(
        qps=cells["concurrency"] / service_s * noise,
        latency_p50_s=service_s * noise,
        client_fds_peak=20,
        bound_by="users",
    )


def always_flat(cells: pd.DataFrame) -> pd.DataFrame:
    """The same rate everywhere, though nobody calls it the rig's limit."""
    noise = cells["block"].map(dict(enumerate(synthetic.NOISE, 1)))
    return cells.assign(qps=5_000.0 * noise, bound_by="pool")


# Findings


def test_pools_that_flatten_at_their_size_are_said_to(cells: pd.DataFrame) -> None:
    finding = pool_sweep.findings(cells, None)["concurrency_qps"]
    said = r"Pools flatten at their own size, 5–20 at 1 ms, .+ at 50 ms: \d+ knees at "
    assert re.match(said, finding)
    found = pool_sweep.curves(cells)
    assert {curve.verdict for curve in found} <= {"own size", "undecided"}
    for curve in found:
        if curve.verdict == "own size":
            assert 0.9 < curve.knee.low <= curve.knee.value <= curve.knee.high < 1.1


@pytest.mark.parametrize("contrary", [pool_does_not_matter, always_flat])
def test_where_they_do_not_the_sentence_is_another(cells: pd.DataFrame, contrary) -> None:  # type: ignore[no-untyped-def]
    finding = pool_sweep.findings(contrary(cells), None)["concurrency_qps"]
    assert finding.startswith("Pool size does not set the plateau")
    assert "own size" not in finding


def test_one_pool_that_departs_is_named(cells: pd.DataFrame) -> None:
    changed = cells.copy()
    odd = (changed["pool_size"] == 50) & (changed["rtt_s"] == 0.05) & (changed["concurrency"] > 50)
    changed.loc[odd, "qps"] *= 2
    finding = pool_sweep.findings(changed, None)["concurrency_qps"]
    assert "flatten at their pool's size" in finding
    assert "not so pool 50 at 50 ms" in finding


def test_latency_tells_a_short_pool_from_one_that_is_large_enough(cells: pd.DataFrame) -> None:
    assert re.match(
        r"p50 latency with a pool of 5 is 20.0 × .+ that with 100; 5000 changes nothing: 1.00 × ",
        pool_sweep.findings(cells, None)["latency_pool_size"],
    )
    contrary = pool_sweep.findings(pool_does_not_matter(cells), None)["latency_pool_size"]
    assert contrary.startswith("A pool of 5 is no slower than one of 100")


def test_a_large_pool_that_is_slower_is_said_to_be(cells: pd.DataFrame) -> None:
    slow = cells.copy()
    slow.loc[slow["pool_size"] == 5000, "latency_p50_s"] *= 1.5
    assert "5000 raises it to 1.50 ×" in pool_sweep.findings(slow, None)["latency_pool_size"]


def test_cost_counts_what_a_large_pool_holds(cells: pd.DataFrame) -> None:
    finding = pool_sweep.findings(cells, None)["cost_pool_size"]
    assert "a pool of 5000 holds 5012 client descriptors and, just filled, 100 MB" in finding
    assert "one of 100 holds 112 and 2 MB" in finding
    contrary = pool_sweep.findings(pool_does_not_matter(cells), None)["cost_pool_size"]
    assert "holds no more than it needs" in contrary


def test_little_counts_the_cells_that_fail(cells: pd.DataFrame) -> None:
    assert "holds throughout" in pool_sweep.findings(cells, None)["little_audit"]
    changed = cells.copy()
    slow = changed.index[changed["rtt_s"] > 0][:2]
    changed.loc[slow, "gate_little_users"] = -0.3
    said = pool_sweep.findings(changed, None)["little_audit"]
    gated = int((cells["rtt_s"] > 0).sum())
    assert "does not hold everywhere" in said
    assert f"users within 3 % in {gated - 2} of {gated} cells" in said


def test_nothing_is_found_in_one_replicate(smoke: pd.DataFrame) -> None:
    said = pool_sweep.findings(smoke, None)
    assert "undecided: 1 replicate, 3 needed" in said["concurrency_qps"]
    assert "undecided" in said["latency_pool_size"]
    assert said["cost_pool_size"].startswith("Too few replicates for a conclusion")


def test_nothing_is_found_in_what_the_rig_bounds(cells: pd.DataFrame) -> None:
    said = pool_sweep.findings(all_bound(cells), None)
    for name in ("concurrency_qps", "latency_pool_size"):
        assert "undecided" in said[name]
        assert "most often: machine" in said[name]
    assert said["cost_pool_size"].endswith("Server CPU per operation: undecided")


def test_nothing_is_found_in_invalid_cells(cells: pd.DataFrame) -> None:
    said = pool_sweep.findings(all_invalid(cells), None)
    for name in NAMES[:3]:
        assert re.search(r"undecided.*: none of \d+ cells is valid", said[name])
    assert pool_sweep.tables(all_invalid(cells)).empty


def test_an_invalid_cell_supports_no_knee(cells: pd.DataFrame) -> None:
    changed = cells.copy()
    own = (changed["pool_size"] == 20) & (changed["concurrency"] == 40) & (changed["rtt_s"] == 0.05)
    assert own.any()
    changed.loc[own & (changed["block"] == 2), "valid"] = False
    verdicts = {(c.rtt_s, c.pool_size): c.verdict for c in pool_sweep.curves(changed)}
    assert verdicts[0.05, 20] == "undecided"


# Figures


@pytest.fixture(scope="module")
def quiet(cells: pd.DataFrame) -> dict[str, Figure]:
    """The figures of the run as it is."""
    return pool_sweep.figures(cells, None)


def test_the_audit_has_a_panel_for_each_check(quiet: dict[str, Figure]) -> None:
    titles = [axes.get_title(loc="left") for axes in quiet["little_audit"].axes]
    assert [title.partition(":")[0] for title in titles] == [
        "users, RTT ≥ 1 ms", "users, RTT 0", "pool, closed loop"
    ]  # fmt: skip


@pytest.fixture(params=["as it is", "smoke", all_invalid, always_flat, "some invalid"])
def drawn(
    request: pytest.FixtureRequest,
    cells: pd.DataFrame,
    smoke: pd.DataFrame,
    quiet: dict[str, Figure],
) -> dict[str, Figure]:
    kind = request.param
    if kind == "as it is":
        return quiet
    if callable(kind):
        return pool_sweep.figures(kind(cells), None)
    some = cells.copy()
    some.loc[some.index[::7], "valid"] = False
    kinds = {"smoke": smoke, "some invalid": some}
    return pool_sweep.figures(kinds[kind], None)


def test_every_figure_is_drawn_whatever_the_data_and_its_text_fits(
    drawn: dict[str, Figure],
) -> None:
    assert list(drawn) == NAMES
    for figure in drawn.values():
        figure.draw_without_rendering()
        title = figure._suptitle  # type: ignore[attr-defined]
        assert title.get_text()
        outside = [text for text in _texts(figure) if not _inside(text, figure)]
        assert not outside, [text.get_text() for text in outside]


def test_what_was_not_measured_is_not_drawn(cells: pd.DataFrame) -> None:
    none = cells.head(0)
    assert pool_sweep.figures(none, None) == {}
    assert pool_sweep.findings(none, None) == {}
    assert pool_sweep.prose(none, None) == {}


def _texts(figure: Figure) -> list[Text]:
    labels = [tick.label1 for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)
              for tick in axis.get_major_ticks()]  # fmt: skip
    return [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in labels
    ]


def _inside(text: Text, figure: Figure) -> bool:
    box, canvas, slack = text.get_window_extent(), figure.bbox, 2
    return bool(
        box.x0 >= canvas.x0 - slack
        and box.x1 <= canvas.x1 + slack
        and box.y0 >= canvas.y0 - slack
        and box.y1 <= canvas.y1 + slack
    )


def test_every_panel_holds_data(quiet: dict[str, Figure]) -> None:
    for name, figure in quiet.items():
        panels = [axes for axes in figure.axes if axes.axison]
        for axes in panels:
            assert any(len(line.get_xdata()) for line in axes.get_lines()), name


def test_each_round_trip_has_a_panel_that_names_every_limit(quiet: dict[str, Figure]) -> None:
    panels = quiet["concurrency_qps"].axes
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["RTT 0", "RTT 1 ms", "RTT 10 ms", "RTT 50 ms"]
    said = [text.get_text() for text in panels[-1].texts]
    assert "pool not binding" in said
    assert "20: pool" in said
    assert any(re.match(r"what this rig carries: 26.* k/s \(limit: link\)", text) for text in said)


def test_no_ceiling_is_drawn_where_the_rig_was_not_the_limit(cells: pd.DataFrame) -> None:
    last = last_attempts(pool_does_not_matter(cells))
    panels = pool_sweep._draw_concurrency(last, "A finding").axes
    assert not [t for axes in panels for t in axes.texts if "carries" in t.get_text()]


def test_no_ceiling_is_drawn_where_more_users_were_not_tried(cells: pd.DataFrame) -> None:
    """Slow for 100 users is not yet a rate that would not rise with more of them."""
    last = last_attempts(cells)
    few = last[(last["rtt_s"] == 0.01) & (last["order"] == "lifo") & (last["concurrency"] <= 100)]
    bound = few.assign(bound_by="machine", qps=few["qps"] * 0.85)
    panels = pool_sweep._draw_concurrency(bound, "A finding").axes
    assert not [t for axes in panels for t in axes.texts if "carries" in t.get_text()]
    panels = pool_sweep._draw_concurrency(bound.assign(qps=bound["qps"] * 0.5), "A finding").axes
    assert [t for axes in panels for t in axes.texts if "carries" in t.get_text()]


def test_each_invalid_cell_is_crossed_out_where_it_is(cells: pd.DataFrame) -> None:
    changed = cells.copy()
    one = changed.index[(changed["rtt_s"] == 0.05) & (changed["concurrency"] == 500)][0]
    changed.loc[one, ["valid", "qps"]] = [False, 1234.0]
    panel = pool_sweep._draw_concurrency(last_attempts(changed), "A finding").axes[-1]
    crosses = [line for line in panel.get_lines() if line.get_marker() == "x"]
    assert {tuple(p) for line in crosses for p in line.get_xydata()} == {(500, 1234.0)}


def test_a_new_connection_is_called_dearer_only_where_it_is(cells: pd.DataFrame) -> None:
    assert "looks dearer than it stays" in pool_sweep.prose(cells, None)["cost_pool_size"]
    same = cells.assign(idle_connection_memory_bytes=2_000.0)
    said = pool_sweep.prose(same, None)["cost_pool_size"]
    assert "holds 2 kB in the server" in said
    assert "dearer" not in said


def test_prose_has_no_gaps(cells: pd.DataFrame, smoke: pd.DataFrame) -> None:
    for data in (cells, smoke, all_invalid(cells), all_bound(cells)):
        for text in pool_sweep.prose(data, None).values():
            assert "nan" not in text
            assert text.endswith(".")


def test_the_knee_table_has_a_row_for_each_curve(cells: pd.DataFrame) -> None:
    table = pool_sweep.knee_table(cells)
    assert len(table) == len(pool_sweep.curves(cells)) > 5
    assert pool_sweep.knee_table(cells.head(0)).empty


# Replicates


def test_the_last_attempt_counts(cells: pd.DataFrame) -> None:
    first = cells.head(1).assign(valid=False, qps=1.0)
    again = cells.head(1).assign(attempt=2)
    for both in (pd.concat([first, again]), pd.concat([again, first])):
        last = last_attempts(both)
        assert len(last) == 1
        assert last["valid"].all()


def test_a_point_is_hollow_where_half_its_replicates_are_bound_by_the_rig() -> None:
    frame = pd.DataFrame(
        {
            "pool_size": [5, 5, 5, 9, 9, 9],
            "qps": [1.0, 2.0, 9.0, 4.0, 5.0, None],
            "valid": [True] * 6,
            "bound_by": ["pool", "pool", "link", "users", "machine", "machine"],
        }
    )
    found = points(frame, ["pool_size"], "qps").set_index("pool_size")
    assert found["median"].tolist() == [2.0, 4.5]
    assert found["hollow"].tolist() == [False, True]
    assert len(evidence(frame)) == 3


def test_a_ratio_is_taken_within_blocks_only() -> None:
    above = pd.DataFrame({"block": [1, 2, 3], "qps": [20.0, 40.0, 99.0]})
    below = pd.DataFrame({"block": [1, 2, 4], "qps": [10.0, 20.0, 1.0]})
    ratio = paired_ratio(above, below, "qps")
    assert (ratio.value, ratio.n) == (pytest.approx(2.0), 2)


def test_the_committed_run_can_be_drawn() -> None:
    reference = Path(__file__).resolve().parents[1] / "results" / "reference"
    if not reference.exists():
        pytest.skip("no committed run yet")
    assert list(pool_sweep.figures(load_cells(reference), None)) == NAMES
