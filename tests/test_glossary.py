"""The words that people meet are explained: a term that is renamed in code is renamed there too."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from bench.model import Outcome, Profile

DOCS = Path(__file__).resolve().parent.parent / "docs"
NOUNS = ("cell", "block", "replicate", "run", "claim", "verdict", "certificate", "gate", "estimate")


def _glossary() -> str:
    return (DOCS / "glossary.md").read_text()


@pytest.mark.parametrize("noun", NOUNS)
def test_each_noun_has_an_entry(noun: str) -> None:
    assert f"**{noun}**" in _glossary()


@pytest.mark.parametrize("outcome", get_args(Outcome))
def test_each_outcome_of_a_verdict_is_named(outcome: str) -> None:
    assert f"*{outcome}*" in _glossary()


@pytest.mark.parametrize("profile", get_args(Profile))
def test_each_profile_is_named(profile: str) -> None:
    assert f"`{profile}`" in _glossary()
