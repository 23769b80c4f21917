"""A page of pictures, self-contained: what the benchmarks show beside their JSON."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

STYLE = (
    "body{font-family:sans-serif;max-width:46rem;margin:2rem auto}:root{--faint:#999;--series-1:#0072b2;"
    "--series-2:#d55e00;--series-3:#009e73;--series-4:#cc79a7;--series-5:#56b4e9}"
)


def write_pictures(title: str, about: str, pictures: list[Any], path: Path) -> None:
    """Write the pictures of `neurolora.report` one below the other, each with what it shows in words."""
    from neurolora.files import write_text

    parts = [f"<h2>{escape(p.title)}</h2>{p.svg}<p>{escape(p.description)}</p>" for p in pictures]
    head = f"<!DOCTYPE html><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"
    write_text(path, f"{head}<h1>{escape(title)}</h1><p>{escape(about)}</p>{''.join(parts)}")
