"""What the README tells of the committed run: a table of its verdicts, between two marks."""

from __future__ import annotations

import re

from bench.report.notebooks import REFERENCE, ROOT
from bench.report.verdicts import Claim, by_claim, judge_all
from bench.store import Store

BEGIN, END = "<!-- verdicts of results/reference -->", "<!-- end of verdicts -->"
BLOCK = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}\n", re.DOTALL)


def with_verdicts(readme: str, store: Store) -> str:
    """The text of the README with the table of this run's verdicts in place of what was there."""
    block = f"{BEGIN}\n{_table(by_claim(judge_all(store)))}\n{END}\n"
    return BLOCK.sub(lambda _: block, readme)


def refresh() -> None:
    """Write the README anew from the committed run. Blocks for some seconds. Raises
    PreflightError where there is no such run."""
    readme = ROOT / "README.md"
    text = with_verdicts(readme.read_text("utf-8"), Store.open(REFERENCE))
    readme.write_text(text, encoding="utf-8")


def _table(claims: list[Claim]) -> str:
    rows = [f"| {claim.id} | {claim.statement} | {claim.outcome} |" for claim in claims]
    return "\n".join(["| | claim | outcome |", "|---|---|---|", *rows])
