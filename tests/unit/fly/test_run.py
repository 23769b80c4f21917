"""`neurolora fly` from words to folder and back, on tiny encoders of texts and of images."""

import json

import numpy as np
import pytest

from neurolora.cli.main import main
from neurolora.errors import DataError
from neurolora.fly import FlyClassifier
from neurolora.fly.data import LabelledSource, load_labelled


@pytest.fixture
def words(text_backbone, texts, tmp_path):
    """The command that trains on the texts; features are kept in a folder of the test."""
    return [
        "fly", "train", "--backbone", str(text_backbone), "--data", str(texts), "--n-components", "200",
        "--cache-dir", str(tmp_path / "cache"), "-o", str(tmp_path / "run"),
    ]  # fmt: skip


def test_a_stream_of_texts_is_learned_scored_and_gone_on_with(words, texts, tmp_path, capsys):
    assert main([*words, "--classes-per-step", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["classes"] == [["a"], ["b"], ["c"], ["d"]]
    assert told["accuracy"][0] == 1.0
    assert told["last"] > 0.7
    facts = json.loads((tmp_path / "run" / "fly.json").read_text())
    assert facts["stream"]["accuracy"] == told["accuracy"]
    assert facts["rows"] == {"train": 160, "test": 80}
    assert facts["environment"]["versions"]["torch"]

    again = ["fly", "eval", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]
    assert main([*again, "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert score["accuracy"] == pytest.approx(told["last"])
    assert set(score["classes"]) == set("abcd")
    assert score["rows"] == 80
    assert main([*again, "--data", str(texts), "--split", "train"]) == 0
    assert "of 160 rows" in capsys.readouterr().out


def test_all_classes_at_once_end_where_a_stream_ends(words, tmp_path, capsys):
    assert main([*words, "--classes-per-step", "1", "--class-seed", "3"]) == 0
    assert "average over steps" in capsys.readouterr().out
    assert main([*words[:-1], str(tmp_path / "joint"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["classes"]) == 1
    stream, joint = (FlyClassifier.load(tmp_path / name / "fly.safetensors") for name in ("run", "joint"))
    np.testing.assert_allclose(stream.coef_, joint.coef_, rtol=1e-5, atol=1e-6)


def test_a_later_run_adds_classes(words, texts, tmp_path, capsys):
    for part, kept in (("ab", "ab"), ("cd", "cd")):
        folder = tmp_path / part
        folder.mkdir()
        for split in ("train", "test"):
            rows = json.loads((texts / f"{split}.json").read_text())
            (folder / f"{split}.json").write_text(json.dumps([row for row in rows if row["label"] in kept]))
    place = words.index("--data") + 1
    words[place] = str(tmp_path / "ab")
    assert main(words) == 0
    more = ["fly", "train", "--data", str(tmp_path / "cd"), "--start-from", str(tmp_path / "run")]
    more += ["--cache-dir", str(tmp_path / "cache"), "-o", str(tmp_path / "both")]
    assert main(more) == 0
    learner = FlyClassifier.load(tmp_path / "both" / "fly.safetensors")
    assert learner.classes_.tolist() == list("abcd")
    assert learner.n_samples_seen_ == 160
    assert main([*more[:-1], str(tmp_path / "other"), "--backbone", "another"]) == 2
    assert "Leave --backbone out" in capsys.readouterr().err
    assert main([*more[:-1], str(tmp_path / "other"), "--alpha", "1", "--pooling", "cls"]) == 2
    assert "Leave out --pooling, --alpha" in capsys.readouterr().err
    assert main([*more[:-1], str(tmp_path / "other"), "--images"]) == 2
    assert "learned texts" in capsys.readouterr().err
    assert main(["fly", "eval", str(tmp_path / "run"), "--data", str(texts)]) == 3
    assert "the class 'c', and it knows a, b" in capsys.readouterr().err


def test_images_from_folders(image_backbone, images, tmp_path, capsys):
    command = [
        "fly",
        "train",
        "--images",
        "--backbone",
        str(image_backbone),
        "--data",
        str(images),
        "--no-cache",
    ]
    command += ["--n-components", "100", "--classes-per-step", "1", "-o", str(tmp_path / "run"), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["last"] > 0.9
    assert main(["fly", "eval", str(tmp_path / "run"), "--no-cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.9
    limited = LabelledSource(str(images), kind="image", limit=5)
    assert len(load_labelled(limited, "train")[0]) == 5
    with pytest.raises(DataError, match="no such folder"):
        load_labelled(limited, "validation")
    (tmp_path / "empty" / "train" / "red").mkdir(parents=True)
    with pytest.raises(DataError, match="no image"):
        load_labelled(LabelledSource(str(tmp_path / "empty"), kind="image"), "train")


def test_what_is_asked_wrongly_is_told_before_anything_is_computed(words, tmp_path, capsys):
    assert main([*words, "--alpha", "best"]) == 2
    assert main([*words, "--column", "sentence"]) == 2
    assert main([*words, "--coding-level", "2"]) == 2
    assert not (tmp_path / "run").exists()
    assert main(["fly", "train", "--data", "x", "-o", str(tmp_path / "run")]) == 2
    assert "no backbone is named" in capsys.readouterr().err
    assert main(words) == 0
    before = (tmp_path / "run" / "fly.json").read_bytes()
    assert main(words) == 6
    assert (tmp_path / "run" / "fly.json").read_bytes() == before
    assert main([*words, "--overwrite", "--readout", "associative"]) == 0
    assert main(["fly", "eval", str(tmp_path)]) == 3
    assert main(["fly", "eval", str(tmp_path / "run"), "--limit", "3"]) == 2
