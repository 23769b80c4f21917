import re

import pytest

from neurolora.merging.interference_collection import compare_adapters
from neurolora.report.heatmaps import module_heatmap, shorten, square_heatmap, stacked_shares
from neurolora.report.interference_page import (
    ADAPTERS,
    PAIRS,
    adapter_rows,
    pair_row,
    rounded,
    write_interference_report,
)


@pytest.fixture
def report(stored, tmp_path):
    return compare_adapters([stored.routed(tmp_path / name, seed) for seed, name in enumerate("abc")])


def page(report, tmp_path, name="page.html"):
    return write_interference_report(report, tmp_path / name).read_text(encoding="utf-8")


def test_the_page_has_its_pictures_and_tables(report, tmp_path):
    text = page(report, tmp_path)
    assert text.startswith("<!DOCTYPE html>")
    titles = re.findall(r"<h3>(.*?)</h3>", text)
    measures = ["Cosine of the deltas", "Sign conflicts, by mass", "Overlap of the routing sets",
                "Shared column space of B"]  # fmt: skip
    assert titles == [
        "Predicted loss when merged",
        "Share of all energy",
        *measures,
        "Share of the energy",
        *measures,
    ]
    assert all(module.name in text for module in report.modules)
    assert "a × b" in text
    assert "||M - D||^2" in text
    assert "Modules left out" not in text
    assert not re.findall(r'(?:href|src)="(?!#|data:)', text)


def test_plain_lora_has_no_picture_of_routing(stored, tmp_path):
    text = page(compare_adapters([stored.lora(tmp_path / name, i) for i, name in enumerate("ab")]), tmp_path)
    assert "Overlap of the routing sets" not in text
    assert "no adapter has routing sets" in text


def test_what_is_left_out_stands_on_the_page(stored, tmp_path):
    folders = [stored.routed(tmp_path / "a"), stored.routed(tmp_path / "b", modules=stored.MODULES[:2])]
    text = page(compare_adapters(folders), tmp_path)
    assert "Modules left out" in text
    assert "a: 1 modules that not all have" in text


def test_the_page_is_escaped_and_repeatable(stored, tmp_path):
    folders = [stored.routed(tmp_path / "<script>x"), stored.routed(tmp_path / "b", 1)]
    report = compare_adapters(folders)
    text = page(report, tmp_path)
    assert "<script" not in text
    assert text == page(report, tmp_path, "again.html")


def test_rows_fit_their_columns(report):
    pair = report.pairs[1]
    row = pair_row(pair)
    assert len(row) == len(PAIRS)
    assert row[0] == "a × c"
    assert [float(cell) for cell in row[1:-1]] == pytest.approx(
        [pair.cosine, pair.signs.share, pair.signs.weighted, pair.routing_overlap, pair.routing_chance,
         pair.subspace_overlap, pair.subspace_chance], abs=6e-4,
    )  # fmt: skip
    first = dict(zip(ADAPTERS, adapter_rows(report)[0], strict=True))
    assert first["score"] == max(one.score for one in report.adapters)


def test_more_adapters_than_bars_can_show(stored, tmp_path):
    report = compare_adapters([stored.lora(tmp_path / str(seed), seed) for seed in range(9)])
    text = page(report, tmp_path)
    assert "Share of the energy" in text


def test_rounding_leaves_no_minus_before_zero():
    assert (rounded(-0.0001), rounded(-0.25), rounded(None)) == ("0.000", "-0.250", None)


def test_long_names_keep_their_end():
    assert shorten("runs/gsm8k") == "runs/gsm8k"
    assert shorten("x" * 40 + "/last", 10) == "…xxxx/last"


def test_numbers_are_written_into_small_tables_only():
    small = square_heatmap("t", "l", ["a", "b"], [[None, -0.25], [-0.25, None]])
    assert "-0.25" in small.svg.replace("−", "-")
    many = [[0.377] * 20 for _ in range(20)]
    assert "0.38<" not in square_heatmap("t", "l", list("abcdefghijklmnopqrst"), many).svg


def test_pictures_tell_what_they_show():
    drawn = module_heatmap("t", "l", ["m", "n"], ["a × b"], [[0.1], [None]])
    assert drawn.description == "2 modules: from 0.1 to 0.1, middle 0.1"
    assert module_heatmap("t", "l", ["m"], ["a × b"], [[None]]).description == "1 modules: no values"
    bars = stacked_shares("t", "l", ["m", "n"], ["a", "b"], [[0.25, 0.75], [0.75, 0.25]])
    assert bars.description == "Mean share over 2 modules: a 0.5; b 0.5"
