"""The page of settings says what `bench size` says."""

from __future__ import annotations

from pathlib import Path

from bench.sizing.clients import CLIENTS
from bench.sizing.defaults import DEFAULTS
from bench.sizing.page import clients_page

PAGE = Path(__file__).resolve().parent.parent / "docs" / "clients.md"


def test_the_committed_page_is_the_one_the_data_gives() -> None:
    assert PAGE.read_text() == clients_page(), "write it again: make clients"


def test_every_client_has_its_defaults() -> None:
    assert list(DEFAULTS) == list(CLIENTS)
