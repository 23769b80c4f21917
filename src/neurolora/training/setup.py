"""From a config to the things a run needs: tokenizer, model, adapter, rows, arguments.

Room: training; used by `run` and `plan`. Reads the model and the data; writes nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from neurolora.errors import ConfigError, NeuroLoraError, TargetError, explain
from neurolora.provenance import fingerprint_rows
from neurolora.tasks import (
    CompletionCollator,
    EncodingReport,
    TaskRequest,
    encode_all,
    make_example,
    pin_labels,
    prepare_tokenizer,
    template_of,
)
from neurolora.tasks import load_rows as read_rows
from neurolora.training.config import TrainingConfig
from neurolora.world import resolve_model_name

#: What is trained is float32, an adapter or all: AdamW's steps would be lost in 8 bits of mantissa.
FULL_DTYPE = "float32"


@dataclasses.dataclass(frozen=True)
class Rows:
    """Encoded examples of one split, what became of the raw ones, and the request that finds them again."""

    rows: list[dict[str, Any]]
    report: EncodingReport
    request: TaskRequest

    def describe(self) -> dict[str, Any]:
        """Counts and a fingerprint, as plain values."""
        return {**self.report.to_dict(), "fingerprint": fingerprint_rows(self.rows)}


def task_request(config: TrainingConfig, limit: int | None = None) -> TaskRequest:
    """The data section as the tasks room takes it."""
    names = {field.name for field in dataclasses.fields(TaskRequest)}
    values = {name: value for name, value in config.data.model_dump().items() if name in names}
    return TaskRequest(**{**values, "limit": limit})


def load_tokenizer(config: TrainingConfig, model_config: Any) -> tuple[Any, tuple[str, ...]]:
    """The model's tokenizer with an end and a padding token, and in words what had to be done for that."""
    from transformers import AutoTokenizer

    with _model_errors(config):
        tokenizer = AutoTokenizer.from_pretrained(_name(config), **_hub(config))
    return tokenizer, prepare_tokenizer(tokenizer, model_config)


def load_model_config(config: TrainingConfig) -> Any:
    """The base model's config alone: shapes without weights."""
    from transformers import AutoConfig

    with _model_errors(config):
        return AutoConfig.from_pretrained(_name(config), **_hub(config))


def load_base_model(config: TrainingConfig) -> Any:
    """The base with its weights, quantised if asked."""
    from transformers import AutoModelForCausalLM

    section = config.model
    dtype = FULL_DTYPE if config.adapter.method == "full" else section.dtype
    options: dict[str, Any] = {**_hub(config), "dtype": dtype}
    if section.attn_implementation:
        options["attn_implementation"] = section.attn_implementation
    quantised = section.load_in_4bit or section.load_in_8bit
    if quantised:
        options["quantization_config"] = _quantisation(config)
    with _model_errors(config):
        model = AutoModelForCausalLM.from_pretrained(_name(config), **options)
    if quantised:
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=config.train.gradient_checkpointing
        )
    return model


def _quantisation(config: TrainingConfig) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=config.model.load_in_4bit,
        load_in_8bit=config.model.load_in_8bit,
        bnb_4bit_quant_type="nf4",
    )


def add_adapter(model: Any, config: TrainingConfig) -> Any:
    """`model` under the adapter of the config; as it is for full fine-tuning."""
    adapter = config.build_adapter()
    if adapter is None:
        return model.requires_grad_(True)
    from peft import get_peft_model

    try:
        return get_peft_model(model, adapter, revision=config.model.model_revision)
    except NeuroLoraError:
        raise
    except ValueError as error:
        do = "Correct target_modules: names of the model's linear modules, a regular expression or all-linear"
        raise TargetError(explain("adding the adapter", str(error), do)) from error


def load_finished(
    config: TrainingConfig, folder: Path | None = None, is_trainable: bool = False
) -> tuple[Any, Any]:
    """Model and tokenizer of a finished run, from its folder or another one that it was published to.

    The adapter is frozen unless `is_trainable`; a whole model is float32, as it was trained.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place, trusted = str(folder or config.output_dir), {"trust_remote_code": config.model.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(place, **trusted)
    if config.adapter.method == "full":
        return AutoModelForCausalLM.from_pretrained(place, dtype=FULL_DTYPE, **trusted), tokenizer
    from peft import PeftModel

    import neurolora.tuner  # noqa: F401  (PEFT must know the method)

    base = load_base_model(config)
    return PeftModel.from_pretrained(base, place, is_trainable=is_trainable), tokenizer


def load_rows(config: TrainingConfig, tokenizer: Any, split: str) -> Rows:
    """The split as token ids and labels; `max_train_samples` or `max_eval_samples` of its rows."""
    limit = config.data.max_train_samples if split == "train" else config.data.max_eval_samples
    request = task_request(config, limit)
    raw = read_rows(request, split)
    request = pin_labels(request, raw)
    template = template_of(request)
    examples = [make_example(template, row) for row in raw]
    rows, report = encode_all(examples, tokenizer, config.data.max_length, config.data.overlong)
    return Rows(rows, report, dataclasses.replace(request, limit=None))


def join_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of several tasks as one training set; its request is that of the first."""
    reports = [part.report for part in parts]
    return Rows([row for part in parts for row in part.rows], EncodingReport.join(reports), parts[0].request)


def collator(tokenizer: Any, device: Any) -> Callable[[list[Any]], dict[str, Any]]:
    """Encoded rows to a batch on a device, as training makes them."""
    collate = CompletionCollator(tokenizer)
    return lambda rows: {name: value.to(device) for name, value in collate(rows).items()}


def training_arguments(config: TrainingConfig, evaluate: bool) -> Any:
    """transformers' TrainingArguments: the settings of the same name, and what the house decides."""
    from transformers import TrainingArguments

    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    sections = itertools.chain(config.train.model_dump().items(), config.output.model_dump().items())
    values = {name: value for name, value in sections if name in known and value is not None}
    checkpointing = (
        "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    )
    values.pop("gradient_checkpointing")
    if config.train.gradient_checkpointing:
        values |= {checkpointing: True, f"{checkpointing}_kwargs": {"use_reentrant": False}}
    values |= {
        "output_dir": str(config.output_dir),
        "eval_strategy": config.train.eval_strategy if evaluate else "no",
        "resume_from_checkpoint": None,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "save_only_model": False,
    }
    try:
        arguments = TrainingArguments(**values)
        arguments.n_gpu  # noqa: B018  (finds the devices)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            explain("the train section", str(error), "Correct it, or train on the CPU")
        ) from error
    arguments.dataloader_pin_memory &= arguments.device.type != "cpu"
    arguments._n_gpu = min(arguments._n_gpu, 1)  # several GPUs are driven by processes, never by DataParallel
    return arguments


def _name(config: TrainingConfig) -> str:
    return str(resolve_model_name(config.model.model_name_or_path))


def _hub(config: TrainingConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"trust_remote_code": config.model.trust_remote_code}
    return options | ({"revision": config.model.model_revision} if config.model.model_revision else {})


class _model_errors:  # noqa: N801  (reads as a statement)
    """Turns what transformers raises for a model that is not there or not readable into `ConfigError`."""

    def __init__(self, config: TrainingConfig):
        self.name = config.model.model_name_or_path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError | ValueError | ImportError) and not isinstance(error, NeuroLoraError):
            do = "Give a folder with config.json and safetensors, a name on the hub, or `world`"
            first = str(error).strip().split("\n")[0]
            here = "" if Path(self.name).exists() else " (no such folder here)"
            raise ConfigError(explain(f"loading the model {self.name}", f"{first}{here}", do)) from error
