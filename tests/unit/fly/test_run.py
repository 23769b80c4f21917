"""`neurolora fly` from words to folder and back, on tiny encoders of texts and of images."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from neurolora.cli.main import main
from neurolora.errors import ConfigError, DataError
from neurolora.fly import FlyClassifier
from neurolora.fly.data import LabelledSource, load_labelled, new_rows


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


@pytest.fixture
def part(texts, tmp_path):
    """Makes a folder with the rows of some of six classes: half of a's and b's rows are e's and f's."""

    def make(kept):
        folder = tmp_path / kept
        folder.mkdir()
        for split in ("train", "test"):
            rows = json.loads((texts / f"{split}.json").read_text())
            for row in rows[::8] + rows[1::8]:
                row["label"] = {"a": "e", "b": "f"}[row["label"]]
            (folder / f"{split}.json").write_text(json.dumps([row for row in rows if row["label"] in kept]))
        return str(folder)

    return make


def going_on(data, start, output, tmp_path):
    command = ["fly", "train", "--data", data, "--start-from", str(tmp_path / start)]
    return [*command, "--cache-dir", str(tmp_path / "cache"), "-o", str(tmp_path / output)]


def test_a_later_run_adds_classes(words, texts, part, tmp_path, capsys):
    words[words.index("--data") + 1] = part("ab")
    assert main(words) == 0
    more = going_on(part("cd"), "run", "both", tmp_path)
    assert main(more) == 0
    learner = FlyClassifier.load(tmp_path / "both" / "fly.safetensors")
    assert learner.classes_.tolist() == list("abcd")
    assert learner.n_samples_seen_ == 120
    assert main([*more[:-1], str(tmp_path / "other"), "--backbone", "another"]) == 2
    assert "Leave --backbone out" in capsys.readouterr().err
    assert main([*more[:-1], str(tmp_path / "other"), "--alpha", "1", "--pooling", "cls", "--seed", "1"]) == 2
    assert "Leave out --pooling, --alpha, --seed" in capsys.readouterr().err
    assert main([*more[:-1], str(tmp_path / "other"), "--images"]) == 2
    assert "learned texts" in capsys.readouterr().err
    assert main(["fly", "eval", str(tmp_path / "run"), "--data", str(texts)]) == 3
    assert "the class 'c', and it knows a, b" in capsys.readouterr().err


def test_who_goes_on_is_scored_on_all_that_was_seen_through_any_chain_of_runs(words, part, tmp_path, capsys):
    def told(command):
        assert main([*command, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    words[words.index("--data") + 1] = part("abcdef")
    whole = told([*words, "--classes-per-step", "2"])
    words[words.index("--data") + 1], words[-1] = part("ab"), str(tmp_path / "first")
    start = told(words)
    assert (start["known"], start["earlier"]) == ([], [])
    middle = told(going_on(part("cd"), "first", "second", tmp_path))
    end = told(going_on(part("ef"), "second", "third", tmp_path))
    assert [*start["accuracy"], *middle["accuracy"], *end["accuracy"]] == pytest.approx(whole["accuracy"])
    assert end["known"] == ["a", "b", "c", "d"]
    assert middle["earlier"][0] == pytest.approx(start["last"])
    assert end["earlier"][0] == pytest.approx(middle["last"])
    assert end["earlier"][1] < end["earlier"][0]  # the new classes take some of the old ones' rows
    facts = json.loads((tmp_path / "third" / "fly.json").read_text())
    assert [source["name"] for source in facts["earlier"]] == [str(tmp_path / "ab"), str(tmp_path / "cd")]
    assert facts["rows"] == {"train": 40, "test": 80}
    score = told(["fly", "eval", str(tmp_path / "third"), "--cache-dir", str(tmp_path / "cache")])
    assert (score["accuracy"], score["rows"]) == (pytest.approx(whole["last"]), 80)


def test_who_gives_the_same_data_again_learns_nothing_twice(words, texts, tmp_path, capsys):
    assert main(words) == 0
    assert main(going_on(str(texts), "run", "again", tmp_path)) == 3
    assert "an earlier run has all 160 rows already" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "again").exists()


def test_one_class_of_texts_may_come_alone_and_be_scored_alone(words, part, tmp_path, capsys):
    words[words.index("--data") + 1] = part("ab")
    assert main(words) == 0
    assert main(going_on(part("c"), "run", "both", tmp_path)) == 0
    assert main(["fly", "eval", str(tmp_path / "both"), "--data", part("d")]) == 3
    assert "the class 'd', and it knows a, b, c" in capsys.readouterr().err
    assert main(["fly", "eval", str(tmp_path / "both"), "--data", str(tmp_path / "c"), "--no-cache"]) == 0
    assert "of 20 rows" in capsys.readouterr().out


def test_a_run_finds_its_data_from_any_folder(words, texts, tmp_path, monkeypatch):
    monkeypatch.chdir(texts.parent)
    words[words.index("--data") + 1] = texts.name
    assert main(words) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["fly", "eval", "run", "--no-cache"]) == 0


def test_earlier_data_that_are_gone_are_told_and_not_called_scored(words, part, tmp_path, capsys):
    words[words.index("--data") + 1] = part("ab")
    assert main(words) == 0
    (tmp_path / "ab").rename(tmp_path / "elsewhere")
    more = going_on(part("cd"), "run", "both", tmp_path)
    capsys.readouterr()
    assert main(more) == 0
    told = capsys.readouterr().out
    assert "right of seen with test rows" in told
    assert "not scored, for want of test rows: a, b" in told
    assert f"data of an earlier run are not there: {tmp_path / 'ab'} (" in told.replace("\n", "")
    facts = json.loads((tmp_path / "both" / "fly.json").read_text())
    assert facts["stream"]["untested"] == ["a", "b"]
    assert len(facts["missing"]) == 1
    assert main(["fly", "eval", str(tmp_path / "both"), "--no-cache"]) == 0
    told = capsys.readouterr().out
    assert "of 40 rows" in told
    assert "data of an earlier run are not there" in told


@pytest.mark.parametrize("fraction", ["0.25", "0.1", "0.5"])
def test_no_row_is_learned_twice_and_none_both_learned_and_tested(words, tmp_path, texts, capsys, fraction):
    """The second file has the first one's rows too, and holds out as many, fewer or more of them."""
    rows = json.loads((texts / "train.json").read_text())
    new = [{**row, "sentence": f"{row['sentence']} {row['sentence']}"} for row in rows[:60]]
    for name, own in (("alone", rows), ("more", rows + new)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.json").write_text(json.dumps(own))
    words[words.index("--data") + 1] = str(tmp_path / "alone")
    assert main([*words, "--test-fraction", "0.25"]) == 0
    more = going_on(str(tmp_path / "more"), "run", "again", tmp_path)
    capsys.readouterr()
    assert main([*more, "--test-fraction", fraction]) == 0
    told = json.loads((tmp_path / "again" / "fly.json").read_text())
    first, again = (FlyClassifier.load(tmp_path / name / "fly.safetensors") for name in ("run", "again"))
    learned = again.n_samples_seen_ - first.n_samples_seen_
    assert 0 < learned <= len(new)  # none of the old rows, whichever split they were of
    assert f"not learned again: {told['left_out']} rows" in capsys.readouterr().out.replace("\n", " ")
    assert again.n_samples_seen_ + told["rows"]["test"] <= len(rows + new)
    assert main(["fly", "eval", str(tmp_path / "again"), "--no-cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == told["rows"]["test"]


def test_an_image_is_known_by_what_is_in_it(images, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(images, copied)
    items, labels = load_labelled(LabelledSource(str(copied), kind="image"), "train")
    with pytest.raises(DataError, match="has all 36 rows already"):
        new_rows(items, labels, [LabelledSource(str(images), kind="image")])


@pytest.mark.parametrize(
    ("given", "inputs", "winners"),
    [
        (["--fan-in", "12"], 12, 60),
        (["--fan-in", "1"], 1, 60),
        (["--fan-in", "1.0"], 32, 60),
        (["--coding-level", "7"], 12, 7),
        (["--coding-level", "1"], 12, 1),
        (["--coding-level", "1.0"], 12, 200),
    ],
)
def test_shares_are_counts_where_they_are_written_so(words, tmp_path, given, inputs, winners):
    assert main([*words, *given]) == 0
    learner = FlyClassifier.load(tmp_path / "run" / "fly.safetensors")
    assert set(np.diff(learner.components_.indptr)) == {inputs}
    assert learner._plan.keep == winners


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
    for wrong in ({"columns": {"sentence": "a"}}, {"test_fraction": 0.3}):
        with pytest.raises(ConfigError, match="are of texts"):
            LabelledSource(str(images), kind="image", **wrong).check()
    assert main([*command[:-1], "--overwrite", "--test-fraction", "0.3"]) == 2
    with pytest.raises(DataError, match="no image"):
        load_labelled(LabelledSource(str(tmp_path / "empty"), kind="image"), "train")


@pytest.mark.parametrize(
    ("given", "words_of_it"),
    [
        (["--alpha", "best"], "alpha: it is 'best'"),
        (["--column", "sentence"], "it is no pair"),
        (["--coding-level", "2.0"], r"coding_level=2\.0\): there are 200 components"),
        (["--coding-level", "201"], "coding_level=201"),
        (["--coding-level", "much"], "--coding-level much: it is no number"),
        (["--fan-in", "0"], r"fan_in=0\): it is no share of the features"),
        (["--fan-in", "33"], r"fan_in=33\): there are 32 features"),
        (["--n-components", "0"], "n_components: it is 0"),
        (["--readout", "perceptron"], "no such read-out"),
        (["--classes-per-step", "0"], "0 classes a step"),
    ],
)
def test_what_is_asked_wrongly_is_told_before_features_are_kept(words, tmp_path, capsys, given, words_of_it):
    assert main([*words, *given]) == 2
    assert re.search(words_of_it, capsys.readouterr().err.replace("\n", " "))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_a_class_without_test_rows_is_told_before_features_are_made(words, part, tmp_path, capsys):
    words[words.index("--data") + 1] = folder = part("abcd")
    path = Path(folder) / "test.json"
    path.write_text(json.dumps([row for row in json.loads(path.read_text()) if row["label"] != "d"]))
    assert main(words) == 3
    assert "the class 'd': it has no test rows" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_commands_that_lack_something_and_folders_that_are_full(words, tmp_path, capsys):
    assert main(["fly", "train", "--data", "x", "-o", str(tmp_path / "run")]) == 2
    assert "no backbone is named" in capsys.readouterr().err
    assert main(words) == 0
    before = (tmp_path / "run" / "fly.json").read_bytes()
    assert main(words) == 6
    assert (tmp_path / "run" / "fly.json").read_bytes() == before
    assert main([*words, "--overwrite", "--readout", "associative"]) == 0
    assert main(["fly", "eval", str(tmp_path)]) == 3
    assert main(["fly", "eval", str(tmp_path / "run"), "--limit", "3"]) == 2
