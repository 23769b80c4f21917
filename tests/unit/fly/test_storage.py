"""A classifier saved and loaded is the same and goes on learning; broken files are told apart."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from neurolora.errors import ConfigError, DataError, OutputError
from neurolora.fly import FlyClassifier


@pytest.fixture(params=["ridge", "associative"])
def learned(request):
    random = np.random.default_rng(0)
    X, y = random.normal(size=(90, 7)), random.choice(["x", "yy", "zzz"], size=90)
    return FlyClassifier(n_components=30, readout=request.param, random_state=4).fit(X[:60], y[:60]), X, y


def test_it_predicts_the_same_to_the_bit_and_goes_on_as_if_never_stopped(learned, tmp_path):
    one, X, y = learned
    one.save(tmp_path / "fly.safetensors")
    again = FlyClassifier.load(tmp_path / "fly.safetensors")
    assert again.get_params() == one.get_params()
    np.testing.assert_array_equal(again.decision_function(X), one.decision_function(X))
    for continued in (one, again):
        continued.partial_fit(X[60:], y[60:]).partial_fit(X[:1], ["a"])
    np.testing.assert_array_equal(again.decision_function(X), one.decision_function(X))
    assert again.n_samples_seen_ == 91
    assert again.classes_.tolist() == ["a", "x", "yy", "zzz"]


def test_sums_that_nobody_has_solved_yet_are_saved_too(tmp_path):
    one = FlyClassifier(n_components=20).partial_fit(np.eye(3), [True, False, True])
    one.save(tmp_path / "fly.safetensors")
    assert FlyClassifier.load(tmp_path / "fly.safetensors").predict(np.eye(3)).dtype == bool


def test_a_solution_is_read_not_made_again(learned, tmp_path, monkeypatch):
    one, X, _ = learned
    one.save(tmp_path / "fly.safetensors")
    expected = one.decision_function(X)
    again = FlyClassifier.load(tmp_path / "fly.safetensors")
    monkeypatch.setattr(type(again._readout), "solve", lambda *_: pytest.fail("solved again"))
    np.testing.assert_array_equal(again.decision_function(X), expected)
    if one.readout == "ridge":
        assert (again.alpha_, again.gcv_scores_) == (one.alpha_, one.gcv_scores_)


def test_a_file_without_a_solution_is_solved_when_needed(learned, tmp_path):
    from safetensors import safe_open

    path, (one, X, _) = tmp_path / "fly.safetensors", learned
    one.save(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    facts = json.loads(metadata["facts"])
    for name in ("plan", "readout", "solved"):
        del facts[name]
    arrays = {name: array for name, array in load_file(path).items() if name != "coef"}
    save_file(arrays, path, metadata | {"facts": json.dumps(facts)})
    again = FlyClassifier.load(path)
    np.testing.assert_array_equal(again.decision_function(X), one.decision_function(X))


def test_sums_that_cannot_be_solved_yet_are_loaded_and_go_on(tmp_path):
    path = tmp_path / "fly.safetensors"
    X = np.random.default_rng(0).normal(size=(80, 7))
    one = FlyClassifier(n_components=30, alpha=0).partial_fit(X[:5], [0, 1, 0, 1, 1])
    one.save(path)
    again = FlyClassifier.load(path)
    with pytest.raises(DataError, match="singular"):
        again.predict(X)
    y = (X[:, 0] > 0).astype(int)
    np.testing.assert_array_equal(again.partial_fit(X, y).predict(X), one.partial_fit(X, y).predict(X))


def test_a_solution_with_another_penalty_is_made_again(learned, tmp_path):
    one, X, y = learned
    one.set_params(alpha=55.0).save(tmp_path / "fly.safetensors")
    again = FlyClassifier.load(tmp_path / "fly.safetensors")
    expected = FlyClassifier(**one.get_params()).fit(X[:60], y[:60])
    np.testing.assert_array_equal(again.decision_function(X), expected.decision_function(X))


def test_names_of_features_are_kept(tmp_path):
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(np.eye(3), columns=["a", "b", "c"])
    FlyClassifier(n_components=20).fit(X, [0, 1, 2]).save(tmp_path / "fly.safetensors")
    again = FlyClassifier.load(tmp_path / "fly.safetensors")
    with pytest.raises(ValueError, match="feature names"):
        again.predict(X[["b", "a", "c"]])


def test_a_generator_as_seed_is_no_hindrance(tmp_path):
    one = FlyClassifier(n_components=20, random_state=np.random.RandomState(5)).fit(np.eye(3), [0, 1, 2])
    one.save(tmp_path / "fly.safetensors")
    again = FlyClassifier.load(tmp_path / "fly.safetensors")
    np.testing.assert_array_equal(again.decision_function(np.eye(3)), one.decision_function(np.eye(3)))


def test_what_cannot_be_loaded_is_told(learned, tmp_path):
    path = tmp_path / "fly.safetensors"
    with pytest.raises(DataError, match=r"loading .*fly.safetensors: it cannot be read"):
        FlyClassifier.load(path)
    learned[0].save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="it cannot be read"):
        FlyClassifier.load(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(DataError, match="it holds no FlyClassifier"):
        FlyClassifier.load(path)


def test_arrays_that_do_not_fit_together_are_told(learned, tmp_path):
    from safetensors import safe_open

    path = tmp_path / "fly.safetensors"
    learned[0].save(path)
    with safe_open(path, framework="numpy") as file:
        facts = file.metadata()
    arrays = load_file(path)
    name = "Q" if "Q" in arrays else "synapses"
    for wrong in (np.zeros((30, 2)), np.zeros((4, 3))):
        save_file(arrays | {name: wrong}, path, facts)
        with pytest.raises(DataError, match="does not fit together"):
            FlyClassifier.load(path)
    save_file(arrays | {"coef": arrays["coef"][:, :-1]}, path, facts)
    with pytest.raises(DataError, match="does not fit together"):
        FlyClassifier.load(path)
    if name == "Q":
        save_file(arrays | {"G_lower": arrays["G_lower"][:-1]}, path, facts)
        with pytest.raises(DataError, match="does not fit together"):
            FlyClassifier.load(path)


def test_a_folder_that_cannot_be_written_leaves_the_old_file(learned, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        learned[0].save(tmp_path / "file" / "fly.safetensors")


def test_labels_that_json_cannot_hold_are_refused_before_anything_is_written(tmp_path):
    one = FlyClassifier(n_components=20, alphas=(1.0, np.float32(2.0))).fit(np.eye(3), [0, 1, 2])
    one.save(tmp_path / "fly.safetensors")
    one.alphas = (complex(1),)
    with pytest.raises(ConfigError, match="saving a FlyClassifier"):
        one.save(tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()
