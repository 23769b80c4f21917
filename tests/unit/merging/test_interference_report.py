"""The sums over modules and the prediction, against vectors that are formed whole."""

import pytest
import torch

from neurolora.merging.interference import SignConflict
from neurolora.merging.interference_report import (
    AdapterNumbers,
    InterferenceReport,
    ModuleNumbers,
    PairNumbers,
    features_of,
    gram,
    predicted,
    shares,
    whole_pairs,
)


def pair(first="a", second="b", **changes):
    values = {"inner": 1.0, "cosine": 0.5, "signs": SignConflict(1, 4, 1.0, 2.0), "subspace_overlap": 0.2}
    values |= {"subspace_chance": 0.1, "smallest_angle": 30.0, "routing_overlap": 0.4, "routing_chance": 0.1}
    return PairNumbers(first, second, **(values | changes))


def adapter(label, score):
    return AdapterNumbers(label, label, "LoRA", None, 1.0, 0.5, score, *[0.0] * 8)


def vectors():
    generator = torch.Generator().manual_seed(0)
    return [size * torch.randn(20, generator=generator, dtype=torch.float64) for size in (1.0, 3.0, 0.2)]


def table_of(parts):
    labels = [str(i) for i in range(len(parts))]
    pairs = [
        pair(labels[i], labels[j], inner=float(parts[i] @ parts[j]))
        for i in range(len(parts))
        for j in range(i + 1, len(parts))
    ]
    return gram(labels, [float(part @ part) for part in parts], pairs)


def test_the_prediction_is_what_its_formula_says():
    parts = vectors()
    mean = sum(parts) / 3
    for index, own in enumerate(parts):
        found = predicted(table_of(parts), index)
        kept = float(mean @ own / (own @ own))
        assert found["kept"] == pytest.approx(kept)
        assert found["foreign"] == pytest.approx(float((mean - kept * own).norm() ** 2 / own.norm() ** 2))
        assert found["score"] == pytest.approx(float((mean - own).norm() ** 2 / own.norm() ** 2))
        others = sum(part for part in parts if part is not own)
        assert found["others_over_own"] == pytest.approx(float(others.norm() ** 2 / own.norm() ** 2))


def test_equal_adapters_lose_nothing_and_one_of_zeros_has_no_score():
    own = vectors()[0]
    assert predicted(table_of([own, own]), 0)["score"] == pytest.approx(0.0, abs=1e-12)
    assert set(predicted(table_of([own * 0, own]), 0).values()) == {None}


def test_the_small_one_among_strangers_loses_most():
    scores = [predicted(table_of(vectors()), index)["score"] for index in range(3)]
    assert scores.index(max(scores)) == 2
    assert scores.index(min(scores)) == 1


def test_the_report_puts_the_greatest_score_first_and_zeros_last():
    report = InterferenceReport(
        [adapter("a", 0.5), adapter("b", None), adapter("c", 0.9)], [], [], "", None, {}, []
    )
    assert [one.label for one in report.by_score] == ["c", "a", "b"]
    assert report.to_dict()["prediction"]["order"] == ["c", "a", "b"]


def test_whole_pairs_are_those_of_the_modules_laid_end_to_end():
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64) * torch.tensor(
        [[1.0], [5], [0.1]]
    )
    modules = [
        ModuleNumbers(
            str(i),
            [float(a @ a), float(b @ b)],
            [pair(inner=float(a @ b), signs=SignConflict(i, 4, 0.5, 2.0), smallest_angle=10.0 + i)],
        )
        for i, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    [whole] = whole_pairs(modules)
    one, two = first.flatten(), second.flatten()
    assert whole.cosine == pytest.approx(float(one @ two / one.norm() / two.norm()))
    assert whole.inner == pytest.approx(float(one @ two))
    assert (whole.signs.conflicts, whole.signs.entries) == (3, 12)
    assert whole.smallest_angle == 10.0
    assert whole.routing_overlap == pytest.approx(0.4)


def test_modules_without_routing_or_angle_are_no_zeros():
    absent = {"routing_overlap": None, "routing_chance": None, "smallest_angle": None}
    modules = [ModuleNumbers("0", [1.0, 1.0], [pair(**absent)])]
    [whole] = whole_pairs(modules)
    assert (whole.routing_overlap, whole.routing_chance, whole.smallest_angle) == (None, None, None)
    modules.append(ModuleNumbers("1", [1.0, 1.0], [pair()]))
    [whole] = whole_pairs(modules)
    assert (whole.routing_overlap, whole.smallest_angle) == (0.4, 30.0)
    modules.append(ModuleNumbers("2", [1.0, 1.0], [pair(routing_overlap=0.0, smallest_angle=0.0)]))
    [whole] = whole_pairs(modules)  # a zero that was measured counts
    assert (whole.routing_overlap, whole.smallest_angle) == (pytest.approx(0.2), 0.0)


def test_features_are_means_over_the_own_pairs():
    pairs = [pair("a", "b", cosine=0.2), pair("a", "c", cosine=0.6), pair("b", "c", cosine=-1.0)]
    assert features_of("a", pairs)["mean_cosine"] == pytest.approx(0.4)
    assert features_of("c", pairs)["mean_cosine"] == pytest.approx(-0.2)
    assert features_of("c", pairs)["mean_sign_conflict"] == pytest.approx(0.25)
    assert features_of("c", pairs)["mean_sign_conflict_weighted"] == pytest.approx(0.5)


def test_shares_add_up_to_one_or_to_nothing():
    assert shares([1.0, 3.0]) == [0.25, 0.75]
    assert shares([0.0, 0.0]) == [0.0, 0.0]
