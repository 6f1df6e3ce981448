"""The report: one page that needs nobody else, in a real browser; and its summary in Markdown."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic
from browsing import browser, complaints, fits, lowest_contrast, needs_browser
from playwright.sync_api import Browser, Page

from bench.experiments import discover, pool_sweep
from bench.model import BenchError, PreflightError
from bench.report.display import Display
from bench.report.publishing import publish
from bench.report.readme import with_verdicts
from bench.report.story import HEADLINE
from bench.store import Store

REFERENCE = Path(__file__).resolve().parents[1] / "results" / "reference"
LARGEST_BYTES = 5_000_000
QUIET = Display(quiet=True)
READABLE = 4.5  # contrast of text, WCAG 2.2 level AA
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the committed run with its report."""
    folder = tmp_path_factory.mktemp("results") / "reference"
    shutil.copytree(REFERENCE, folder, ignore=shutil.ignore_patterns("figures", "report.html"))
    publish(Store.open(folder), QUIET)
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def opened(chromium: Browser, folder: Path, **context: Any) -> tuple[Page, list[str]]:
    page = chromium.new_context(**{"viewport": DESK, **context}).new_page()
    said = complaints(page)
    page.goto((folder / "report.html").as_uri())
    return page, said


def unfolded(page: Page) -> Page:
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    return page


@needs_browser
def test_the_page_needs_nobody_and_complains_of_nothing(reference: Path, chromium: Browser) -> None:
    page = chromium.new_page()
    said, asked = complaints(page), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((reference / "report.html").as_uri())
    unfolded(page).wait_for_load_state("networkidle")
    assert said == []
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert sum(url.startswith("file:") for url in asked) == 1
    assert (reference / "report.html").stat().st_size <= LARGEST_BYTES


@needs_browser
def test_every_figure_of_the_run_is_shown_and_told(reference: Path, chromium: Browser) -> None:
    page, _ = opened(chromium, reference)
    pictures = unfolded(page).locator("figure img")
    drawn = list((reference / "figures").glob("*.png"))
    assert pictures.count() == len(drawn) > len(HEADLINE)
    for number in range(pictures.count()):
        picture = pictures.nth(number)
        assert picture.evaluate("(each) => each.decode().then(() => each.naturalWidth)") > 400
        assert picture.is_visible()
        assert len(picture.get_attribute("alt") or "") > 20
    shown = page.locator("#plots figure img")
    assert shown.count() == len(HEADLINE)


@needs_browser
def test_verdicts_come_first_and_are_those_stored(reference: Path, chromium: Browser) -> None:
    page, _ = opened(chromium, reference)
    stored = {each["claim"]: each for each in json.loads((reference / "verdicts.json").read_text())}
    rows = page.locator(".verdicts tbody tr:not(.claim)")
    assert page.locator("main section").first.get_attribute("id") == "verdicts"
    shown = {
        row.locator("th").first.inner_text(): row.locator(".badge").first.inner_text()
        for row in rows.all()
    }
    assert shown == {claim: each["outcome"] for claim, each in stored.items()}
    tally = page.locator(".tally").inner_text()
    for outcome in set(shown.values()):
        assert re.search(rf"{list(shown.values()).count(outcome)}\s+{outcome}", tally)


@needs_browser
def test_every_link_leads_somewhere_on_the_page(reference: Path, chromium: Browser) -> None:
    page, _ = opened(chromium, reference)
    links = [each.get_attribute("href") or "" for each in page.locator("a").all()]
    assert len(links) > len(discover())
    assert all(link.startswith("#") for link in links)
    missing = [link for link in set(links) if page.locator(f"[id='{link[1:]}']").count() != 1]
    assert missing == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_it_is_readable_everywhere(
    reference: Path, chromium: Browser, scheme: Any, size: dict[str, int]
) -> None:
    page, said = opened(chromium, reference, color_scheme=scheme, viewport=size)
    assert fits(unfolded(page))
    ratio, where = lowest_contrast(page)
    assert ratio >= READABLE, where
    assert said == []


@needs_browser
def test_headings_go_down_by_one_and_the_keyboard_reaches_every_fold(
    reference: Path, chromium: Browser
) -> None:
    page, _ = opened(chromium, reference)
    levels = [int(each.evaluate("(e) => e.tagName[1]")) for each in page.locator("h1,h2,h3").all()]
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    fold = page.locator("summary").first
    fold.focus()
    page.keyboard.press("Enter")
    assert fold.evaluate("(each) => each.parentElement.open")


@needs_browser
def test_on_paper_all_folds_are_open(reference: Path, chromium: Browser) -> None:
    page, _ = opened(chromium, reference)
    assert page.locator("details:not([open])").count()
    assert page.pdf()[:4] == b"%PDF"
    assert page.locator("details:not([open])").count() == 0


@needs_browser
def test_a_partial_run_says_what_it_lacks(tmp_path: Path, chromium: Browser) -> None:
    synthetic.store(tmp_path / "run", "standard", 1, (pool_sweep,))
    manifest = tmp_path / "run" / "run.json"
    kept = json.loads(manifest.read_text())
    lack = {"experiment": "pool_sweep", "what": "<b>TLS</b>", "why": "none here", "cells": 3}
    manifest.write_text(json.dumps({**kept, "status": "interrupted", "not_run": [lack]}))
    publish(Store.open(tmp_path / "run"), QUIET)
    page, said = opened(chromium, tmp_path / "run")
    note = page.locator(".note").inner_text()
    assert re.search(r"unfinished: [\d,]+ of [\d,]+ cells", note)
    assert "idle_eviction" in note
    assert "<b>TLS</b> (none here)" in note  # as text: no markup of a run's becomes the page's
    assert "certificate" in note
    assert page.locator(".badge.not-run").count() > 0
    assert page.locator("#plots figure img").count() == 1
    assert page.locator("#plots").inner_text().count("holds nothing to draw it from") == 4
    assert said == []


def test_the_summary_is_whole_tables_and_pictures_that_are_there(reference: Path) -> None:
    text = (reference / "summary.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}
    stored = json.loads((reference / "verdicts.json").read_text())
    for verdict in stored:
        row = next(row for row in rows if row.startswith(f"| {verdict['claim']} |"))
        assert f"| {verdict['outcome']} |" in row
    pictures = re.findall(r'<img src="([^"]+)" alt="[^"]{20,}"', text)
    assert len(pictures) == len(HEADLINE)
    assert all((reference / picture).exists() for picture in pictures)


def test_nothing_of_this_machine_is_in_the_report(reference: Path) -> None:
    for name in ("report.html", "summary.md", "verdicts.json"):
        text = (reference / name).read_text()
        assert str(reference.parent) not in text
        assert str(Path.home()) + "/" not in text


def test_commands_that_make_the_run_again_name_what_differs_from_usual(tmp_path: Path) -> None:
    synthetic.store(tmp_path / "run", "standard", 1, (pool_sweep,))
    manifest = tmp_path / "run" / "run.json"
    kept = json.loads(manifest.read_text())
    kept["settings"] |= {"workers": 2, "seed": 7, "owned_server": False}
    kept["settings"]["workload"] |= {"value_bytes": 1_000}
    manifest.write_text(json.dumps({**kept, "git_commit": "0123456789abcdef"}))
    publish(Store.open(tmp_path / "run"), QUIET)
    text = (tmp_path / "run" / "summary.md").read_text()
    assert "git checkout 0123456789ab" in text
    assert "REDIS_URL=… .venv/bin/bench run --profile standard" in text
    assert "--workers 2 --seed 7 --value-bytes 1000" in text
    assert "--keys" not in text


def test_a_run_without_a_cell_is_refused_in_one_line(tmp_path: Path) -> None:
    synthetic.store(tmp_path / "run", "smoke", 1, (pool_sweep,))
    for name in ("cells.parquet", "series.parquet"):
        (tmp_path / "run" / name).unlink()
    manifest = tmp_path / "run" / "run.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "status": "interrupted"}))
    with pytest.raises(PreflightError, match="holds no finished cell"):
        publish(Store.open(tmp_path / "run"), QUIET)


def test_a_folder_in_the_way_of_the_page_is_said_in_one_line(tmp_path: Path) -> None:
    synthetic.store(tmp_path / "run", "smoke", 1, (pool_sweep,))
    (tmp_path / "run" / "report.html").mkdir()
    with pytest.raises(BenchError, match=r"report\.html cannot be written"):
        publish(Store.open(tmp_path / "run"), QUIET)


def test_the_readme_tells_the_verdicts_of_the_committed_run() -> None:
    readme = (REFERENCE.parents[1] / "README.md").read_text("utf-8")
    told = with_verdicts(readme, Store.open(REFERENCE))
    assert told == readme, "make notebooks writes them again"
    assert len(re.findall(r"^\| C\d+\w* \|", told, re.MULTILINE)) == 16
