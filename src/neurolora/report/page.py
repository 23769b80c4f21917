"""From facts to one self-contained page: templates, escaping, and how numbers are spelled.

Room: report. `training.py` and `inspection_page.py` call `write_page`. Templates lie in `templates/`; a page
refers to nothing outside itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurolora.files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

    from neurolora.report.drawing import Picture

TEMPLATES = Path(__file__).parent / "templates"
ABSENT = "–"


@cache
def environment() -> Environment:
    """Templates with autoescape on, and an error for a name that is not there."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = number
    made.filters["plain"] = spell
    made.filters["inline_svg"] = inline_svg
    return made


def write_page(template: str, target: Path | str, values: Mapping[str, Any]) -> Path:
    """Render a template over `values` and write it, whole or not at all. Raises OutputError."""
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    text = environment().get_template(template).render(style=style, **values)
    write_text(target, text)
    return Path(target)


def inline_svg(picture: Picture) -> Any:
    """The drawing as markup: the one thing that is not escaped, since `drawing.to_svg` made it."""
    from markupsafe import Markup, escape

    opening = f'<svg role="img" aria-label="{escape(picture.title)}. {escape(picture.description)}" '
    return Markup(picture.svg.replace("<svg ", opening, 1))


def number(value: Any, digits: int = 4) -> str:
    """A number for people: integers with thousands apart, others to `digits` significant figures."""
    if value is None:
        return ABSENT
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def spell(value: Any) -> str:
    """Any config value in one line: lists with commas, null and booleans as YAML spells them."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | set):
        return ", ".join(spell(item) for item in value) or ABSENT
    if isinstance(value, dict):
        return ", ".join(f"{key}: {spell(item)}" for key, item in value.items()) or ABSENT
    return str(value)


def flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as rows `("train.learning_rate", "0.0002")`, in their own order."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            rows += flatten(item, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", spell(item)))
    return rows
