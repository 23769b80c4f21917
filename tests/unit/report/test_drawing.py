import re
import xml.etree.ElementTree as ElementTree

import pytest

from neurolora.report.drawing import INK, PAINTS, SERIES, canvas, to_svg


def draw(label="one"):
    with canvas(2.0) as (figure, axes):
        axes.plot([0, 1], [1, 0], color=SERIES[0], label=label)
        axes.set_xlabel(label)
        return to_svg(figure)


def test_the_same_figure_gives_the_same_bytes():
    assert draw() == draw()


def test_no_date_no_prologue_and_no_metadata():
    svg = draw()
    assert svg.startswith("<svg")
    assert "<metadata" not in svg
    assert not re.search(r"20\d\d-\d\d-\d\d", svg)


def test_colours_are_left_to_the_page():
    svg = draw()
    assert "var(--series-1)" in svg
    assert "currentColor" in svg
    assert not any(placeholder in svg for placeholder in PAINTS)
    assert INK in PAINTS


def test_groups_carry_no_identifiers_and_every_reference_has_its_target():
    svg = draw()
    assert '<g id="' not in svg
    targets = set(re.findall(r'id="([^"]+)"', svg))
    references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    assert references
    assert references <= targets


@pytest.mark.parametrize("label", ["<script>alert(1)</script>", "a & b", "$x_1$"])
def test_text_is_text_whatever_it_holds(label):
    root = ElementTree.fromstring(draw(label))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert label in texts


def test_the_width_is_left_to_the_page_and_the_font_too():
    svg = draw()
    opening = svg[: svg.index(">")]
    assert "viewBox" in opening
    assert "width=" not in opening
    assert "height=" not in opening
    assert "font-family" not in svg


def test_drawing_leaves_global_settings_alone():
    import matplotlib

    draw()
    assert matplotlib.rcParams["svg.fonttype"] == matplotlib.rcParamsDefault["svg.fonttype"] != "none"
