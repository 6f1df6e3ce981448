"""report.html: a run's story as one file that needs no network."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image

from bench.report.deciding import claimed_said, deciding, interval, strip
from bench.report.story import NOT_TESTABLE, Story

TEMPLATE = Path(__file__).with_name("report.html.j2")
MOST_INVALID = 60  # rows; all of them are in cells.parquet
_markdown = MarkdownIt("commonmark")  # raw HTML in it is shown as text


def write_html(folder: Path, story: Story) -> Path:
    """Write report.html into `folder`, every figure and style within it. Raises OSError."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": _prose, "picture": _picture, "width": _width}
    page = environment.get_template(TEMPLATE.name).render(
        story=story,
        not_testable=NOT_TESTABLE,
        invalid=_invalid(story),
        invalid_left_out=max(0, len(story.invalid) - MOST_INVALID),
        deciding=deciding,
        interval=interval,
        claimed_said=claimed_said,
        strip=strip,
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _prose(text: str) -> Markup:
    """Markdown as HTML."""
    return Markup(_markdown.render(text))  # what is raw in it is escaped


def _picture(png: Path) -> str:
    """The address of a picture that lies within the page."""
    return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode()


def _width(png: Path) -> dict[str, int]:
    """Its size in points, so that the page does not move while it loads."""
    with Image.open(png) as picture:
        return {"width": picture.width // 2, "height": picture.height // 2}


def _invalid(story: Story) -> dict[str, Any]:
    shown = story.invalid.head(MOST_INVALID)
    rows = [
        ["–" if value is None or value != value else str(value) for value in row]
        for row in shown.itertuples(index=False)
    ]
    return {"heads": list(shown.columns), "rows": rows}
