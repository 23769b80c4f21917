"""The pages of `neurolora reproduce`: Markdown for the documentation and the README, HTML with pictures.

Room: report. Made from results alone, and equal results give equal bytes, so that CI can tell whether a page
is what the stored results say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neurolora import markdown
from neurolora.errors import DataError, explain
from neurolora.files import write_text
from neurolora.report.page import write_page
from neurolora.report.study_facts import (
    Result,
    TextTable,
    by_verdict,
    costs,
    differences,
    hypotheses,
    in_words,
    printed,
    provenance,
    scores,
    searches,
    task_parts,
)
from neurolora.report.study_pictures import curve_picture, score_dots

PAGES, FIRST_SCALE = "results", "miniature"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
NOTE = (
    "Means over seeds, ± half of a 95% interval (Student's t): what another seed would change. That other "
    "test rows could have been drawn is not in it, as all seeds are scored on the same, nor that validation "
    "could have chosen otherwise, as rates and weights are chosen once for all seeds. Where runs of a row "
    "end far apart, as some fail, the interval says little: look at the points in the pictures. The paper's "
    "figures are of Llama-3-8B on its own tasks; what can be compared is their order. A statement counts as "
    "held where the 95% interval of the difference, paired by seed, lies above 0, as the opposite where it "
    "lies below: of pairs that do not differ, one in twenty would be judged, one way or the other, by chance."
)


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Results as `studies` wrote them. Raises DataError for a file that is none."""
    found = []
    for path in paths:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            result["study"], result["rows"], result["columns"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            do = "Run `neurolora reproduce` again"
            raise DataError(explain(f"reading the result {path}", f"it is none ({error})", do)) from None
        found.append(result)
    return found


def settings_of(result: Result) -> tuple[str, str]:
    """What the results of one page have in common: the sizes' fingerprint and the model's."""
    return result["sizes_fingerprint"], result["model_fingerprint"]


def results_markdown(results: Sequence[Result]) -> str:
    """All results as one Markdown page: what held and what did not first, then each study."""
    pictures = f"[With pictures]({page_name(results)}.html)."
    parts = ["# Results\n", f"{in_words(results)} {NOTE} {pictures}\n"]
    for title, sayings in by_verdict(results):
        parts += [f"**{title}**\n", "".join(f"- {saying}\n" for saying in sayings)]
    for result in results:
        parts += [f"## {result['title']}\n", f"{result['about']}\n", _markdown(scores(result))]
        parts += _section("The paper's figures", printed(result))
        parts += _section("Task by task, means over seeds", task_parts(result))
        parts += _section("Paired by seed", differences(result))
        parts += _section("What we asked", hypotheses(result))
        parts += _section("Costs", costs(result))
        parts += _section("Chosen on validation rows, with other seeds", searches(result))
        parts.append("".join(f"- {name}: {value}\n" for name, value in provenance(result)))
    return "\n".join(parts)


def _section(title: str, table: TextTable) -> list[str]:
    return [f"### {title}\n", _markdown(table)] if table.rows else []


def _markdown(table: TextTable) -> str:
    return markdown.table(table.columns, table.rows)


def page_name(results: Sequence[Result]) -> str:
    """The pages' name without its ending: `results` of the scale that the README shows."""
    label = results[0]["scale"]["label"]
    return PAGES if label == FIRST_SCALE else f"{PAGES}-{label}"


def readme_block(results: Sequence[Result]) -> str:
    """The README's part: each study's own scores without the paper's, and the sentence on the claims."""
    scale, seeds = results[0]["scale"], len(results[0]["seeds"])
    about = (
        f"{scale['about'][0].upper()}{scale['about'][1:]}, in percent: means over {seeds} seeds ± half of a"
    )
    parts = [f"{about} 95% interval. {in_words(results)}\n"]
    for result in results:
        if len(result["columns"]) > 1:  # the ablations and curves of one task stand on the page
            parts += [f"**{result['title']}**\n", _markdown(_short(result))]
    return "\n".join(parts)


def _short(result: Result) -> TextTable:
    """The scores that a README shows: of merges what is kept; beside single tasks the trained parameters."""
    table = scores(result)
    if result["kind"] == "merging":
        ids = [column["id"] for column in result["columns"]]
        shown = [
            0,
            *(place for place, name in enumerate(ids, start=1) if name.endswith(("_kept", "_gained"))),
        ]
        rows = table.rows[1:] if result.get("base") else table.rows  # before training nothing is kept
        columns = [table.columns[place] for place in shown]
        return TextTable(columns, [[row[place] for place in shown] for row in rows])
    if result["kind"] == "single":
        trained = {row["name"]: row["costs"].get("trainable", 0) for row in result["rows"]}
        rows = [[*row, f"{trained.get(row[0], 0):,}"] for row in table.rows]
        return TextTable([*table.columns, "trained parameters"], rows)
    return table


def with_block(text: str, block: str, where: str) -> str:
    """`text` with what stands between the two marks replaced. Raises DataError if they are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        do = f"Put {BEGIN} and {END} where the results belong"
        raise DataError(explain(f"putting the results into {where}", "it has no marks for them", do))
    return f"{before}{BEGIN}\n{block}{END}{after}"


def require_marks(readme: Path) -> None:
    """Raises DataError for a README in which there is no place for results."""
    with_block(readme.read_text(encoding="utf-8"), "", str(readme))


def write_pages(results: Sequence[Result], folder: Path, readme: Path | None = None) -> list[Path]:
    """The results of one scale as Markdown and HTML in a folder, and as the README's part if it is theirs.

    Only the miniature's stand in a README. Raises OutputError, and DataError for results of different
    settings, or a README without the marks.
    """
    if len(set(map(settings_of, results))) > 1:
        found = ", ".join(f"{result['study']}: {result['sizes_fingerprint']}" for result in results)
        do = "Run all of them again: cells that are still right are only read"
        raise DataError(explain("one page of results of one scale", f"their settings differ ({found})", do))
    name = page_name(results)
    values = {
        "title": "The paper's tables",
        "subtitle": in_words(results),
        "problems": [],
        "note": NOTE,
        "verdicts": by_verdict(results),
        "studies": [_study(result) for result in results],
    }
    page = write_page("studies.html.j2", folder / f"{name}.html", values)
    write_text(folder / f"{name}.md", results_markdown(results))
    if readme is not None and name == PAGES:
        text = readme.read_text(encoding="utf-8")
        write_text(readme, with_block(text, readme_block(results), str(readme)))
    return [folder / f"{name}.md", page]


def _study(result: Result) -> dict[str, Any]:
    columns = [column["id"] for column in result["columns"]]
    drawn = (
        columns
        if result["kind"] == "single"
        else [name for name in columns if name in ("average", "bwt") or name.endswith("_kept")]
    )
    draw = curve_picture if result["curve"] else score_dots
    return {
        "title": result["title"],
        "about": result["about"],
        "pictures": [draw(result, column) for column in drawn],
        "scores": scores(result),
        "differences": differences(result),
        "printed": printed(result),
        "parts": task_parts(result),
        "hypotheses": hypotheses(result),
        "costs": costs(result),
        "searches": searches(result),
        "provenance": provenance(result),
    }
