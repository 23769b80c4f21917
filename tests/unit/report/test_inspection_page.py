import re

from neurolora.report.inspection import inspect_adapter
from neurolora.report.inspection_page import COLUMNS, module_row, write_inspection_report


def test_the_page_without_and_with_routing(adapter, make, tmp_path):
    facts = inspect_adapter(adapter)
    text = write_inspection_report(facts, tmp_path / "plain.html").read_text(encoding="utf-8")
    assert "NeuroLoRA adapter: adapter" in text
    assert re.findall(r"<h3>(.*?)</h3>", text) == ["Norm of B", "Columns of B: mean squared cosine"]
    assert "Not measured" in text
    assert all(module.name in text for module in facts.modules)
    routed = write_inspection_report(facts, tmp_path / "routed.html", make.routing()).read_text(
        encoding="utf-8"
    )
    assert "How often each rank is used" in routed
    assert "Not measured" not in routed


def test_the_page_is_escaped_and_repeatable(tmp_path, make):
    evil = make.config(base_model_name_or_path="<script>x</script>", neurolora_version="<b>")
    facts = inspect_adapter(make.adapter(tmp_path / "a", evil))
    first = write_inspection_report(facts, tmp_path / "1.html").read_bytes()
    assert b"<script" not in first
    assert b"<b>" not in first
    assert first == write_inspection_report(facts, tmp_path / "2.html").read_bytes()


def test_notes_stand_on_top(tmp_path, make):
    zero = {k: v * 0 if k.endswith("_B") else v for k, v in make.tensors().items()}
    facts = inspect_adapter(make.adapter(tmp_path / "a", tensors=zero))
    text = write_inspection_report(facts, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "has not been trained" in text


def test_rows_fit_their_columns(adapter):
    facts = inspect_adapter(adapter)
    row = dict(zip(COLUMNS, module_row(facts, 1), strict=True))
    module = facts.modules[1]
    assert row["module"] == module.name
    assert row["norm of B"] == module.up_norm
    assert row["least column of B"] == min(module.rank_norms)
    assert row["greatest column of B"] == max(module.rank_norms)
    assert row["gamma"] == "2 to 2"
