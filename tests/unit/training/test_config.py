"""The config's door: all problems at once, nearest names, file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neurolora.errors import ConfigError
from neurolora.training.config import TrainingConfig, full_key, known_keys, load_config, to_yaml

NEEDED = {"model_name_or_path": "world", "task": "world-recall"}


def problems_of(path: Path | None = None, **overrides: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_table_5() -> None:
    config = load_config(None, NEEDED)
    train, adapter = config.train, config.build_adapter()
    assert adapter is not None
    assert (adapter.r, adapter.top_k, adapter.density, adapter.gate_dim, adapter.lora_alpha) == (
        32,
        8,
        0.25,
        64,
        16,
    )
    assert adapter.orthogonality_weight == 0.1
    assert (train.learning_rate, train.gate_learning_rate, train.weight_decay) == (2e-4, 5e-4, 0.01)
    assert (train.adam_beta1, train.adam_beta2, train.lr_scheduler_type) == (0.9, 0.95, "cosine")
    assert (train.warmup_steps, train.num_train_epochs) == (0.03, 3.0)
    assert (train.per_device_train_batch_size, train.gradient_accumulation_steps) == (16, 4)


def test_flags_override_the_file_and_both_spellings_are_one(tmp_path: Path) -> None:
    path = write(tmp_path, "model:\n  model_name_or_path: world\ndata:\n  task: gsm8k\ntrain:\n  seed: 3\n")
    config = load_config(path, {"learning-rate": "1e-4", "train.seed": 7, "adapter.r": 16})
    assert (config.train.learning_rate, config.train.seed, config.adapter.settings["r"]) == (1e-4, 7, 16)
    assert config.data.task == "gsm8k"


def test_keys_may_stand_flat_as_trl_writes_them(tmp_path: Path) -> None:
    path = write(tmp_path, "model_name_or_path: world\ntask: gsm8k\nlearning_rate: 1e-3\nr: 4\ntop_k: 2\n")
    config = load_config(path)
    assert (config.train.learning_rate, config.adapter.settings) == (1e-3, {"r": 4, "top_k": 2})


def test_all_problems_in_one_message_with_their_lines(tmp_path: Path) -> None:
    text = (
        "model:\n  model_name_or_path: world\n"
        "train:\n  learning_rat: 1e-4\n  seed: -1\n  bf16: maybe\n"
        "adapter:\n  r: 4\n  top_k: 8\n"
        "surprise: 3\n"
    )
    message = problems_of(write(tmp_path, text), lora_rank=3)
    assert "train.learning_rat (line 4): unknown key; did you mean train.learning_rate?" in message
    assert "train.seed (line 5)" in message
    assert "train.bf16 (line 6)" in message
    assert "`top_k` (8) must not be larger than `r` (4)" in message
    assert "surprise (line 10): unknown key" in message
    assert "lora_rank (flag): unknown key" in message
    assert "data.task: needed" in message
    assert "7 problems" in message


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr", "train.learning_rate"),
        ("lora_r", "adapter.r"),
        ("torch_dtype", "model.dtype"),
        ("per_device_batch_size", "train.per_device_"),
        ("train.ouput_dir", "output.output_dir"),
        ("gate-dims", "adapter.gate_dim"),
        ("max_seq_length", "data.max_length"),
    ],
)
def test_the_nearest_name_is_suggested(typed: str, meant: str) -> None:
    assert f"did you mean {meant}" in problems_of(None, **NEEDED, **{typed: 1})


def test_a_setting_of_another_method_is_refused_by_name() -> None:
    message = problems_of(None, **NEEDED, method="lora", top_k=3)
    assert "adapter.top_k: the method lora has no such setting" in message
    assert "adapter.r: the method full has no such setting" in problems_of(None, **NEEDED, method="full", r=3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"density": 0}, "`density` must be in (0, 1]"),
        ({"r": "many"}, "adapter.r: Input should be a valid integer"),
        ({"projection": "dense"}, "adapter.projection"),
        ({"bf16": True, "fp16": True}, "bf16 and fp16 exclude each other"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "exclude each other"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"learning_rate": float("nan")}, "train.learning_rate"),
        ({"warmup_ratio": 0.1, "train.warmup_steps": 5}, None),
        ({"num_train_epochs": 0}, "train.num_train_epochs"),
        ({"overlong": "cut"}, "data.overlong"),
        ({"save_strategy": "best"}, "output.save_strategy"),
    ],
)
def test_values_that_cannot_work(settings: dict[str, Any], words: str | None) -> None:
    if words is None:  # later flags win over earlier ones, also under another name
        assert load_config(None, {**NEEDED, **settings}).train.warmup_steps == 5
        return
    assert words in problems_of(None, **NEEDED, **settings)


def test_warmup_ratio_is_accepted_for_warmup_steps() -> None:
    assert load_config(None, {**NEEDED, "warmup_ratio": 0.1}).train.warmup_steps == 0.1


def test_a_name_and_its_alias_in_one_file_are_one_key_given_twice(tmp_path: Path) -> None:
    text = "train:\n  warmup_steps: 5\n  warmup_ratio: 0.1\n"
    assert "train.warmup_ratio (line 3): train.warmup_steps is given twice" in problems_of(
        write(tmp_path, text), **NEEDED
    )


def test_yaml_no_means_no(tmp_path: Path) -> None:
    path = write(tmp_path, "train:\n  eval_strategy: no\noutput:\n  save_strategy: no\n")
    config = load_config(path, NEEDED)
    assert (config.train.eval_strategy, config.output.save_strategy) == ("no", "no")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train:\n  seed: [1\n", "line 3"),
        ("train:\n\tseed: 1\n", "line 2"),
        ("- a\n- b\n", "line 1 starts a list"),
        ("train:\n  seed: 1\n  seed: 2\n", "train.seed stands on line 2 and again on line 3"),
        ("train: 5\n", "train: a section"),
    ],
)
def test_bad_yaml_names_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    message = problems_of(write(tmp_path, text), **NEEDED)
    assert words in message
    assert "run.yaml" in message


def test_a_config_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"seed: \xff\xfe")
    assert "not UTF-8" in problems_of(path)
    assert "No such file" in problems_of(tmp_path / "none.yaml")
    assert "Is a directory" in problems_of(tmp_path)


@pytest.mark.parametrize("method", ["neurolora", "flylora", "lora", "full"])
def test_the_resolved_config_is_a_config_that_gives_itself(tmp_path: Path, method: str) -> None:
    config = load_config(None, {**NEEDED, "method": method, "seed": 5})
    path = write(tmp_path, to_yaml(config.resolved()))
    assert load_config(path).resolved() == config.resolved()


def test_the_gate_starts_from_the_seed_and_a_does_not() -> None:
    adapter = load_config(None, {**NEEDED, "seed": 9}).build_adapter()
    assert adapter is not None
    assert (adapter.init_seed, adapter.projection_seed) == (9, 0)
    assert load_config(None, {**NEEDED, "seed": 9, "init_seed": 1}).build_adapter().init_seed == 1


def test_no_key_stands_in_two_sections() -> None:
    names = [key.rpartition(".")[2] for key in known_keys()]
    assert len(names) == len(set(names))
    assert all(full_key(name) for name in names)


def test_a_config_is_frozen() -> None:
    config = load_config(None, NEEDED)
    with pytest.raises(ValueError, match="frozen"):
        config.train.seed = 1  # type: ignore[misc]
    assert isinstance(config, TrainingConfig)


def test_a_wrong_type_hides_no_other_problem_of_the_adapter() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(
            None,
            {
                "model_name_or_path": "world",
                "task": "world-recall",
                "gate": "tokne",
                "density": 1.5,
                "no_such": 1,
            },
        )
    for said in ("tokne", "density", "no_such"):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "taken"), [("q_proj", ["q_proj"]), ("all-linear", "all-linear"), (r".*\.q_proj", r".*\.q_proj")]
)
def test_one_word_is_one_name_and_an_expression_stays_one(given: str, taken: Any) -> None:
    values = {"model_name_or_path": "world", "task": "world-recall", "target_modules": given}
    assert load_config(None, values).adapter.settings["target_modules"] == taken
