"""Features of a real (tiny) encoder: as transformers computes them, kept on disk, found again."""

import json
import shutil

import numpy as np
import pytest
import torch

from neurolora.errors import ConfigError, DataError
from neurolora.fly import features
from neurolora.fly.backbone import Backbone, BackboneSettings
from neurolora.fly.features import default_cache, extract_features

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10", "w1 w2", "w30 w31 w39"]


def states_of(folder, text):
    """The last hidden states of one text alone (length, d)."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()


def backbone(folder, **settings):
    return Backbone(BackboneSettings(str(folder), **settings))


@pytest.mark.parametrize(("pooling", "pool"), [("mean", lambda s: s.mean(0)), ("cls", lambda s: s[0])])
def test_a_text_in_a_padded_batch_has_the_features_it_has_alone(text_backbone, pooling, pool):
    found = extract_features(backbone(text_backbone, pooling=pooling, batch_size=3), TEXTS)
    assert found.dtype == np.float32
    for row, text in zip(found, TEXTS, strict=True):
        np.testing.assert_allclose(row, pool(states_of(text_backbone, text)), rtol=1e-4, atol=1e-5)


def test_long_texts_are_cut(text_backbone):
    long = backbone(text_backbone, max_length=2)(["w1 w2 w3 w4"])
    np.testing.assert_allclose(long, backbone(text_backbone)(["w1 w2"]), rtol=1e-5)


def test_images_are_read_and_pooled_by_the_first_token(image_backbone, images):
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel

    paths = sorted((images / "test" / "red").iterdir())[:3]
    found = extract_features(backbone(image_backbone, kind="image"), paths)
    pixels = AutoImageProcessor.from_pretrained(image_backbone)(
        [Image.open(p) for p in paths], return_tensors="pt"
    )
    with torch.no_grad():
        expected = AutoModel.from_pretrained(image_backbone).eval()(**pixels).last_hidden_state[:, 0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


class Counting(Backbone):
    """Counts the items that are really computed."""

    def __init__(self, settings):
        super().__init__(settings)
        self.computed = 0

    def __call__(self, items, places=None):
        self.computed += len(items)
        return super().__call__(items, places)


def test_what_lies_on_disk_is_not_computed_again_and_a_killed_run_goes_on(
    text_backbone, tmp_path, monkeypatch
):
    monkeypatch.setattr(features, "CHUNK", 2)
    seen = []
    one = Counting(BackboneSettings(str(text_backbone)))

    def stop_after_one(done, total):
        seen.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(one, TEXTS, tmp_path, stop_after_one)
    assert (one.computed, seen) == (2, [(2, 5)])
    first = extract_features(one, TEXTS, tmp_path)
    assert one.computed == 5
    np.testing.assert_array_equal(extract_features(one, TEXTS, tmp_path), first)
    assert one.computed == 5
    extract_features(Counting(BackboneSettings(str(text_backbone), batch_size=1)), TEXTS[:2], tmp_path)
    assert len(list(tmp_path.iterdir())) == 3  # the size of a batch changes nothing


@pytest.mark.parametrize("change", [{"pooling": "cls"}, {"max_length": 3}])
def test_other_settings_are_other_features(text_backbone, tmp_path, change):
    extract_features(backbone(text_backbone), TEXTS, tmp_path)
    other = Counting(BackboneSettings(str(text_backbone), **change))
    extract_features(other, TEXTS, tmp_path)
    assert other.computed == len(TEXTS)


def test_a_damaged_file_is_made_again(text_backbone, tmp_path):
    expected = extract_features(backbone(text_backbone), TEXTS, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    np.testing.assert_array_equal(extract_features(backbone(text_backbone), TEXTS, tmp_path), expected)


def test_another_weight_is_another_backbone(text_backbone, tmp_path):
    copy = shutil.copytree(text_backbone, tmp_path / "copy")
    assert backbone(copy).identity() == backbone(text_backbone).identity()
    raw = bytearray((copy / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (copy / "model.safetensors").write_bytes(raw)
    assert backbone(copy).identity() != backbone(text_backbone).identity()


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("NEUROLORA_CACHE", str(tmp_path))
    assert default_cache() == tmp_path / "features"
    monkeypatch.delenv("NEUROLORA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "neurolora" / "features"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pooling": "max"}, "pooling 'max'.*mean, cls, pooler"),
        ({"kind": "sound"}, "kind 'sound'.*text, image"),
        ({"max_length": 0}, "max_length 0"),
        ({"batch_size": 0}, "batch_size 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        BackboneSettings("x", **settings)


def test_what_cannot_be_encoded_is_told(text_backbone, image_backbone, tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        extract_features(backbone(tmp_path / "nowhere"), TEXTS)
    with pytest.raises(ConfigError, match="loading the backbone"):
        extract_features(backbone(tmp_path), TEXTS)
    with pytest.raises(DataError, match="no items"):
        extract_features(backbone(text_backbone), [])
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DataError, match=r"reading the image .*a.png"):
        extract_features(backbone(image_backbone, kind="image"), [tmp_path / "a.png"])


def test_features_that_are_not_finite_are_refused(text_backbone):
    one = backbone(text_backbone)
    one._run = lambda items, called: np.array([[np.nan if item == "w2" else 1.0] for item in items])
    with pytest.raises(DataError, match="item 1 gives NaN"):
        one(["w1", "w2"])
    with pytest.raises(DataError, match="item 0 gives NaN"):  # its place among all, not in its batch
        extract_features(one, ["w2", "w"])


# --- texts that an encoder cannot take as they are


def rewritten(folder, copy, **changes):
    """A copy of a backbone whose tokenizer is set up otherwise."""
    path = shutil.copytree(folder, copy) / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return copy


def alone_and_together(folder, **settings):
    """Features of `TEXTS` in one batch, and of each alone."""
    one = backbone(folder, **settings)
    return one(TEXTS), np.concatenate([one([text]) for text in TEXTS])


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
@pytest.mark.parametrize("changes", [{"padding_side": "left"}, {"model_input_names": ["input_ids"]}])
def test_features_do_not_depend_on_the_batch_whatever_the_tokenizer_does(
    text_backbone, tmp_path, changes, pooling
):
    folder = rewritten(text_backbone, tmp_path / "copy", **changes)
    together, alone = alone_and_together(folder, pooling=pooling)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        together, backbone(text_backbone, pooling=pooling)(TEXTS), rtol=1e-4, atol=1e-5
    )


def test_texts_beyond_the_models_window_are_cut_to_it(text_backbone):
    long = " ".join(f"w{i % 40}" for i in range(100))  # the model has 32 places
    found = backbone(text_backbone, max_length=512)([long])
    np.testing.assert_array_equal(found, backbone(text_backbone, max_length=32)([long]))


def test_the_places_that_a_roberta_skips_are_none_of_its_window(text_backbone, tmp_path):
    from transformers import RobertaConfig, RobertaModel

    folder = shutil.copytree(text_backbone, tmp_path / "roberta")
    config = RobertaConfig(
        vocab_size=42, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12, pad_token_id=1, type_vocab_size=1,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    long = " ".join(f"w{i}" for i in range(30))
    found = backbone(folder)([long])
    np.testing.assert_array_equal(found, backbone(folder, max_length=10)([long]))
    assert not np.array_equal(found, backbone(folder, max_length=9)([long]))


def test_a_tokenizer_without_padding_pads_with_what_it_has(text_backbone, tmp_path):
    folder = rewritten(text_backbone, tmp_path / "copy", pad_token=None)
    together, alone = alone_and_together(folder)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_a_text_without_tokens_is_named_by_its_place(text_backbone, monkeypatch):
    one = backbone(text_backbone, batch_size=2)
    for items, place in ((["w1 w2", "w3", " "], 2), ([""], 0), (["w1", "", "w2 w3"], 1)):
        with pytest.raises(DataError, match=f"item {place}, '.?', has no tokens"):
            extract_features(one, items)
    monkeypatch.setattr(features, "CHUNK", 2)
    with pytest.raises(DataError, match="item 3, '', has no tokens"):
        extract_features(one, ["w1", "w2", "w3", "", "w4"])


def test_tokens_that_the_model_does_not_know_are_told(text_backbone, tmp_path):
    from transformers import BertConfig, BertModel

    folder = shutil.copytree(text_backbone, tmp_path / "copy")
    config = BertConfig.from_pretrained(folder)
    config.vocab_size = 20
    BertModel(config).save_pretrained(folder)
    assert backbone(folder)(["w1"]).shape == (1, 32)
    with pytest.raises(ConfigError, match="gives token 41, and its model knows 20"):
        backbone(folder)(["w1", "w39"])


def test_a_length_without_room_for_a_word_is_told(text_backbone, tmp_path):
    from tokenizers import Tokenizer, processors

    folder = shutil.copytree(text_backbone, tmp_path / "copy")
    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words.post_processor = processors.TemplateProcessing(
        single="[UNK] $A [UNK]", special_tokens=[("[UNK]", words.token_to_id("[UNK]"))]
    )
    words.save(str(folder / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"texts of 2 tokens.*2 of them are the tokenizer's own"):
        backbone(folder, max_length=2)(["w1"])
    assert np.isfinite(backbone(folder, max_length=3)(["w1 w2"])).all()
