"""Tiny encoders of words and of images, with random weights, and labelled items that they can tell apart."""

import json

import numpy as np
import pytest
import torch

WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="session")
def text_backbone(tmp_path_factory):
    """A BERT of two layers (d = 32) with a word tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    names = ["[PAD]", "[UNK]", *WORDS]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(names), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, initializer_range=0.05,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def image_backbone(tmp_path_factory):
    """A ViT of one layer (d = 16) for images of 16 x 16."""
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16,
        patch_size=8, initializer_range=0.05,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTModel(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Four classes, each with words of its own, as `train.json` and `test.json`."""
    folder = tmp_path_factory.mktemp("texts")
    random = np.random.default_rng(0)
    for split, count in (("train", 160), ("test", 80)):
        rows = []
        for i in range(count):
            label = i % 4
            own = random.choice(WORDS[10 * label : 10 * label + 10], size=int(random.integers(2, 8)))
            rows.append({"sentence": " ".join(own), "label": "abcd"[label]})
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Red, green and blue squares in noise, a folder a class."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for channel, name in enumerate(("red", "green", "blue")):
            home = folder / split / name
            home.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 80, size=(20, 20, 3), dtype=np.uint8)
                pixels[..., channel] += 150
                Image.fromarray(pixels).save(home / f"{i}.png")
    return folder
