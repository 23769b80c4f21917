"""Adapters on their base, plain models, and each way in which a folder can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from neurolora.errors import AdapterError, ConfigError, FingerprintMismatchError
from neurolora.evaluation import describe_model, load_for_inference
from neurolora.evaluation.adapter_folder import Source, describe_adapter, find_source, open_adapter
from neurolora.tasks import TaskRequest, save_task

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def save_base(folder: Path, tokenizer: Any, seed: int = 0) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A folder with `base`, another base of the same shapes, and a NeuroLoRA `adapter` on the first."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from neurolora import NeuroLoraConfig

    root = tmp_path_factory.mktemp("saved")
    save_base(root / "base", tokenizer)
    save_base(root / "other", tokenizer, seed=1)
    config = NeuroLoraConfig(
        r=8, top_k=2, target_modules=["q_proj"], init_weights=False, task_type="CAUSAL_LM"
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(root / "base"), config)
    model.save_pretrained(root / "adapter")
    save_task(root / "adapter", TaskRequest(task="gsm8k"))
    ids = torch.tensor([[0, 5, 6, 7]])
    with torch.no_grad():
        torch.save(model.eval()(ids).logits, root / "logits.pt")
    return root


@pytest.fixture
def adapter(saved: Path, tmp_path: Path) -> Path:
    """A copy of the adapter, to be damaged."""
    return Path(shutil.copytree(saved / "adapter", tmp_path / "adapter"))


def change_config(adapter: Path, **values: Any) -> None:
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps(config | values))


def test_an_adapter_loads_on_its_base_and_runs_as_it_was_saved(saved: Path, no_network: list[Any]) -> None:
    model, tokenizer, task = load_for_inference(saved / "adapter", device="cpu")
    with torch.no_grad():
        logits = model(torch.tensor([[0, 5, 6, 7]])).logits
    assert torch.equal(logits, torch.load(saved / "logits.pt", weights_only=True))
    assert not model.training
    assert tokenizer.pad_token_id is not None
    assert task is not None
    assert task.request.task == "gsm8k"
    described = describe_model(model)
    assert described["adapter"]["method"] == "NEUROLORA"
    assert described["adapter"]["base_fingerprint"]
    assert described["adapter"]["projection_fingerprint"]


def test_a_plain_model_loads_too(saved: Path) -> None:
    loaded = load_for_inference(saved / "base", dtype="bfloat16", device="cpu")
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.task is None
    assert describe_model(loaded.model)["adapter"] is None


def test_the_adapters_own_tokenizer_comes_first(adapter: Path, tokenizer: Any) -> None:
    import copy

    own = copy.deepcopy(tokenizer)
    own.add_tokens(["<mine>"])
    own.save_pretrained(adapter)
    assert "<mine>" in load_for_inference(adapter, device="cpu").tokenizer.get_vocab()


def test_another_base_is_refused_unless_allowed(saved: Path) -> None:
    other = str(saved / "other")
    with pytest.raises(FingerprintMismatchError, match="--allow-base-mismatch") as refused:
        load_for_inference(saved / "adapter", base_model=other, device="cpu")
    names = json.loads((saved / "adapter" / CONFIG).read_text())["base_fingerprint"]["digest"]
    assert names in str(refused.value)
    with pytest.warns(UserWarning, match=names):
        loaded = load_for_inference(saved / "adapter", other, device="cpu", allow_base_mismatch=True)
    assert loaded.model.peft_config


def test_the_same_base_in_another_dtype_is_the_same(saved: Path) -> None:
    loaded = load_for_inference(saved / "adapter", dtype="bfloat16", device="cpu")
    assert next(loaded.model.get_base_model().model.embed_tokens.parameters()).dtype == torch.bfloat16


def test_folders_that_are_nothing_say_what_they_hold(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(AdapterError, match="no such folder"):
        load_for_inference(tmp_path / "deep" / "nowhere")
    with pytest.raises(AdapterError, match=r"holds neither .* but nothing"):
        load_for_inference(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(AdapterError, match=r"notes\.txt"):
        load_for_inference(tmp_path)
    with pytest.raises(AdapterError, match="it is a file"):
        load_for_inference(tmp_path / "notes.txt")
    with pytest.raises(AdapterError, match="holds some: adapter"):
        load_for_inference(saved)


def test_an_unknown_method_is_named(adapter: Path) -> None:
    change_config(adapter, peft_type="MYSTERY")
    with pytest.raises(AdapterError, match=r"'MYSTERY'.*does not know"):
        load_for_inference(adapter)


def test_a_base_that_is_not_there_is_named_with_the_way_to_give_it(adapter: Path, tmp_path: Path) -> None:
    change_config(adapter, base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(AdapterError, match=r"gone.*--base-model"):
        load_for_inference(adapter)
    change_config(adapter, base_model_name_or_path=None)
    with pytest.raises(AdapterError, match=r"names no base model.*--base-model"):
        load_for_inference(adapter)


def test_a_base_of_other_shapes_is_refused(adapter: Path, tmp_path: Path, tokenizer: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    with pytest.raises(FingerprintMismatchError, match="hidden_size"):
        load_for_inference(adapter, base_model=str(tmp_path / "wide"))
    with pytest.raises(AdapterError, match="shape"):
        load_for_inference(adapter, str(tmp_path / "wide"), allow_base_mismatch=True)


def test_damaged_files_are_clear_errors(adapter: Path) -> None:
    content = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(AdapterError, match="damaged or cut short"):
        load_for_inference(adapter)
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(AdapterError, match="pickle"):
        load_for_inference(adapter)
    (adapter / CONFIG).write_text("{")
    with pytest.raises(AdapterError, match=CONFIG):
        load_for_inference(adapter)


def test_a_tensor_that_is_missing_is_an_error_for_any_method(
    saved: Path, tmp_path: Path, adapter: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(saved / "base")
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    for folder, word in ((tmp_path / "lora", "lora_B"), (adapter, "neurolora_B")):
        tensors = load_file(folder / WEIGHTS)
        del tensors[next(name for name in tensors if word in name)]
        save_file(tensors, folder / WEIGHTS)
        with pytest.raises(AdapterError, match=word):
            load_for_inference(folder)


def test_options_that_cannot_work_are_refused(saved: Path) -> None:
    with pytest.raises(ConfigError, match="float8"):
        load_for_inference(saved / "base", dtype="float8")
    with pytest.raises(ConfigError, match="whole model"):
        load_for_inference(saved / "base", base_model="gpt2")
    with pytest.raises(ConfigError, match="device"):
        load_for_inference(saved / "base", device="nosuch")


def test_a_classifier_gets_the_width_of_its_saved_head(tmp_path: Path, tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    config = BertConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    base = BertForSequenceClassification.from_pretrained(tmp_path / "bert", num_labels=5)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"))
    model.save_pretrained(tmp_path / "adapter")
    loaded = load_for_inference(tmp_path / "adapter", device="cpu")
    assert loaded.model.config.num_labels == 5
    with torch.no_grad():
        expected = model.eval()(torch.tensor([[0, 5, 6]])).logits
        assert torch.equal(loaded.model(torch.tensor([[0, 5, 6]])).logits, expected)


def test_the_source_is_described_with_fingerprints(saved: Path) -> None:
    found = find_source(str(saved / "adapter"))
    assert found.is_adapter
    described = describe_adapter(open_adapter(Path(found.name), None))
    assert described["base"] == str(saved / "base")
    assert len(described["weights_sha256"]) == 64
    assert described["projection_fingerprint"]


@pytest.mark.parametrize(
    ("failure", "cached", "expected"),
    [
        (OSError("no connection"), None, "no connection"),
        (LocalEntryNotFoundError("no connection"), None, "no connection"),
        (LocalEntryNotFoundError("no connection"), "/cache/config.json", Source("some/model", False)),
        (EntryNotFoundError("no such file"), None, Source("some/model", False)),
    ],
)
def test_a_hub_name_is_an_adapter_a_model_or_a_clear_error(
    failure: Exception, cached: str | None, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: cached)
    if isinstance(expected, str):
        with pytest.raises(AdapterError, match=rf"some/model.*no such folder here.*{expected}"):
            find_source("some/model")
    else:
        assert find_source("some/model") == expected


def test_an_adapter_on_the_hub_is_fetched_whole(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: "x")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(saved / "adapter"))
    assert find_source("some/adapter") == Source(str(saved / "adapter"), True)
