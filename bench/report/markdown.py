"""summary.md: a run's story in short, to paste into a pull request beside its PNGs."""

from __future__ import annotations

from pathlib import Path

from bench.model import Verdict
from bench.report.deciding import decided_by
from bench.report.story import Headline, Story

PICTURE_PIXELS = 760  # as wide as a comment is


def write_summary(folder: Path, story: Story) -> Path:
    """Write summary.md into `folder`; its pictures are those in figures/. Raises OSError."""
    path = folder / "summary.md"
    path.write_text(f"{summary(story)}\n", encoding="utf-8")
    return path


def summary(story: Story) -> str:
    """The Markdown."""
    tally = ", ".join(f"{count} {outcome}" for outcome, count in story.tally.items())
    parts = [
        f"## Redis pool bench: {story.name}",
        story.subtitle,
        *([_list([f"{line}." for line in story.missing])] if story.missing else []),
        f"**Verdicts**: {tally}.",
        _table(story),
        *map(_picture, story.headlines),
        f"{story.counts}.",
        "Again:",
        "```\n" + "\n".join(story.reproduce) + "\n```",
    ]
    return "\n\n".join(parts)


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(story: Story) -> str:
    rows = ["| claim | statement | outcome | what decides it |", "|---|---|---|---|"]
    for claim in story.claims:
        if len(claim.verdicts) > 1:
            rows.append(f"| **{claim.id}** | **{_cell(claim.statement)}** | {claim.outcome} | |")
        rows += [_row(verdict) for verdict in claim.verdicts]
    return "\n".join(rows)


def _row(verdict: Verdict) -> str:
    return (
        f"| {verdict.claim} | {_cell(verdict.statement)} | {verdict.outcome} "
        f"| {_cell(decided_by(verdict))} |"
    )


def _cell(text: str) -> str:
    """What would end a cell of the table early is escaped."""
    return text.replace("|", "\\|")


def _picture(headline: Headline) -> str:
    if headline.drawn is None:
        return f"*{headline.title}: not in this run ({headline.experiment}).*"
    address = f"figures/{headline.drawn.png.name}"
    alt = headline.drawn.finding.replace('"', "&quot;")
    return f'**{headline.title}**\n\n<img src="{address}" alt="{alt}" width="{PICTURE_PIXELS}">'
