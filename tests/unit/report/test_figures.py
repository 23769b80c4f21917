import math

import numpy as np
import pytest

from neurolora.report.figures import (
    bars,
    curve,
    gate_spread,
    rank_use,
    routing_heatmap,
    running_mean,
    short_names,
)


def test_running_mean_is_the_mean_of_the_last_values_or_of_all_there_are():
    values = [4.0, 0.0, 2.0, 8.0, 1.0]
    expected = [np.mean(values[max(0, end - 3) : end]) for end in range(1, 6)]
    assert running_mean(values, 3) == pytest.approx(expected)


def test_a_curve_without_a_finite_point_is_no_picture():
    assert curve("t", "y", {"a": [], "b": [(1.0, math.nan), (2.0, math.inf)]}) is None


def test_a_curve_says_where_it_begins_and_ends():
    picture = curve("t", "y", {"a": [(1.0, 3.0), (2.0, math.nan), (3.0, 0.5)]})
    assert picture is not None
    assert picture.description == "a: from 3 to 0.5"


def test_only_a_long_noisy_line_is_smoothed():
    points = [(float(step), float(step % 2)) for step in range(100)]
    assert "mean of 5 points" in curve("t", "y", {"a": points}, noisy=True).svg
    assert "mean of" not in curve("t", "y", {"a": points, "b": points}).svg
    assert "mean of" not in curve("t", "y", {"a": points[:40]}, noisy=True).svg


def test_the_heatmap_names_layers_and_even_use():
    picture = routing_heatmap(["0.q", "1.q"], [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], k=1, r=3)
    assert ">0.q<" in picture.svg
    assert ">1.q<" in picture.svg
    assert "k/r = 0.333" in picture.svg
    assert "least 0, most 1, even use would be 0.333" in picture.description


def test_layers_may_have_different_ranks():
    picture = routing_heatmap(["a", "b"], [[0.5, 0.5], [0.2, 0.3, 0.4]], k=1, r=3)
    assert "least 0.2, most 0.5" in picture.description
    assert rank_use([[0.5, 0.5], [0.2, 0.3, 0.4]], k=1, r=3).svg


def test_with_many_layers_only_some_are_named_and_the_picture_stays_bounded():
    names = [f"layer-{i}" for i in range(200)]
    picture = routing_heatmap(names, [[0.5, 0.5]] * 200, k=1, r=2)
    named = [name for name in names if f">{name}<" in picture.svg]
    assert named == names[::5]
    height = float(picture.svg.split('viewBox="0 0 ')[1].split('"')[0].split()[1])
    assert height < 72 * 13


def test_rank_use_tells_the_middle_layers_most_and_least_used_rank():
    table = [[0.1, 0.9, 0.5], [0.2, 0.3, 0.7], [0.4, 0.4, 0.4]]
    picture = rank_use(table, k=1, r=3)
    most = np.median([max(row) for row in table])
    least = np.median([min(row) for row in table])
    assert f"active for {most:.3g}" in picture.description
    assert f"least used for {least:.3g}" in picture.description


def test_gate_spread_spans_all_layers():
    layers = [
        {"gate_mean": [0.9, 1.1], "gate_min": 0.25, "gate_max": 1.5},
        {"gate_mean": [1.0, 1.0], "gate_min": 0.5, "gate_max": 1.75},
    ]
    assert "between 0.25 and 1.75" in gate_spread(layers, ["a", "b"]).description


def test_bars_take_values_that_are_not_finite():
    picture = bars("t", "x", ["a", "b"], [1.0, math.nan])
    assert picture is not None
    assert ">b<" in picture.svg
    assert bars("t", "x", [], []) is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["m.layers.0.attn.q", "m.layers.1.attn.k"], ["0.q", "1.k"]),
        (["m.0.attn.q", "m.0.mlp.up"], ["attn.q", "mlp.up"]),
        (["a.b", "a.b.c"], ["a.b", "a.b.c"]),
        (["only.one"], ["only.one"]),
        (["same.name", "same.name"], ["same.name", "same.name"]),
    ],
)
def test_short_names_leave_out_what_all_share(names, expected):
    assert short_names(names) == expected
