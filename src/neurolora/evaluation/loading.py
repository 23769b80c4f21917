"""From a folder or a name to a model that can be run: an adapter on its base, or a plain model.

Room: evaluation. The commands `eval` and `generate` call it, and whoever wants to use a saved adapter. It
reads the folder it is given, and the hub for names that are no folders. No pickle is ever loaded.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from neurolora.errors import (
    AdapterError,
    ConfigError,
    FingerprintMismatchError,
    NeuroLoraError,
    explain,
)
from neurolora.evaluation.adapter_folder import AdapterFolder, find_source, open_adapter, reason_of
from neurolora.tasks import TASK_FILE, SavedTask, prepare_tokenizer, read_task
from neurolora.world import resolve_model_name

DTYPES = ("auto", "float32", "bfloat16", "float16")
CAUSAL, CLASSIFIER = "CAUSAL_LM", "SEQ_CLS"
_CLASSES = {
    None: "AutoModelForCausalLM",
    CAUSAL: "AutoModelForCausalLM",
    CLASSIFIER: "AutoModelForSequenceClassification",
}


class Loaded(NamedTuple):
    """A model in eval mode on its device, its tokenizer, and the task saved with its adapter, if any."""

    model: Any
    tokenizer: Any
    task: SavedTask | None


def load_for_inference(
    adapter_or_model: Path | str,
    base_model: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    allow_base_mismatch: bool = False,
    base: Any = None,
) -> Loaded:
    """Load an adapter (unmerged, on its base) or a plain model.

    - `adapter_or_model`: a folder with `adapter_config.json` or `config.json`, a name on the hub, or `world`.
    - `base_model`: in place of the base that the adapter names.
    - `dtype`: of the base's weights, one of `DTYPES`; None = as they were saved. Adapters stay float32.
    - `device`: such as "cpu" or "cuda:0"; None = a GPU if there is one.
    - `allow_base_mismatch`: use the adapter although its base has other weights than it was trained on.
    - `base`: of an adapter, the base as a model that is loaded already, with a revision, a dtype or a
      quantisation of the caller's; it takes up the adapter.

    Raises `AdapterError` for a folder that is no adapter or is damaged, a method that is not registered, or
    a base that cannot be found; `FingerprintMismatchError` for another base; `ConfigError` for the rest.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(explain("dtype", f"{dtype!r}", f"Use one of {', '.join(DTYPES)}"))
    source = find_source(resolve_model_name(str(adapter_or_model)))
    if not source.is_adapter:
        if base_model is not None:
            found = f"{adapter_or_model} is a whole model, not an adapter"
            raise ConfigError(explain(f"base model {base_model}", found, "Leave out the base model"))
        return _load_plain(source.name, dtype, device)
    adapter = open_adapter(Path(source.name), base_model)
    model = _load_adapted(adapter, dtype, device, allow_base_mismatch, base)
    tokenizer = _load_tokenizer(adapter)
    prepare_tokenizer(tokenizer, model.config)
    task = read_task(adapter.path) if (adapter.path / TASK_FILE).is_file() else None
    return Loaded(model, tokenizer, task)


def _load_plain(name: str, dtype: str | None, device: str | None) -> Loaded:
    import transformers

    try:
        model_class = _plain_class(transformers.AutoConfig.from_pretrained(name))
        model = model_class.from_pretrained(name, dtype=dtype or "auto")
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        do = "Give a model folder, an adapter folder, a name on the hub, or world"
        raise ConfigError(explain(f"loading {name}", reason_of(error), do)) from error
    prepare_tokenizer(tokenizer, model.config)
    return Loaded(placed(model, device), tokenizer, None)


def _plain_class(config: Any) -> Any:
    """A classifier if the config says that its weights are one, else a causal model."""
    import transformers

    named = getattr(config, "architectures", None) or [""]
    kind = CLASSIFIER if named[0].endswith("ForSequenceClassification") else CAUSAL
    return getattr(transformers, _CLASSES[kind])


def _load_adapted(
    adapter: AdapterFolder, dtype: str | None, device: str | None, allow_base_mismatch: bool, base: Any
) -> Any:
    base = _load_base(adapter, dtype) if base is None else base
    _check_base(adapter, base, allow_base_mismatch)
    return placed(_attach(adapter, base), device)


def _load_base(adapter: AdapterFolder, dtype: str | None) -> Any:
    import transformers

    if adapter.task_type not in _CLASSES:
        found = f"its task type is {adapter.task_type}"
        do = f"This command runs {CAUSAL} and {CLASSIFIER}; load others with peft.PeftModel"
        raise ConfigError(explain(f"loading {adapter.path}", found, do))
    name = resolve_model_name(adapter.base)
    options: dict[str, Any] = {"revision": adapter.revision} if adapter.revision else {}
    if adapter.task_type == CLASSIFIER and adapter.labels is not None:
        options["num_labels"] = adapter.labels
    try:
        model_class = getattr(transformers, _CLASSES[adapter.task_type])
        return model_class.from_pretrained(name, dtype=dtype or "auto", **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        found = f"its base model {adapter.base!r} cannot be loaded ({reason_of(error)})"
        raise AdapterError(
            explain(f"loading {adapter.path}", found, "Give the base with --base-model PATH_OR_NAME")
        ) from error


def _check_base(adapter: AdapterFolder, base: Any, allow_base_mismatch: bool) -> None:
    from neurolora.tuner import base_difference

    saved = adapter.config.get("base_fingerprint")
    difference = None if allow_base_mismatch else base_difference(saved, base)
    if difference:
        do = "Give the right base with --base-model, or allow this one with --allow-base-mismatch"
        raise FingerprintMismatchError(explain(f"loading {adapter.path}", difference, do))


def _attach(adapter: AdapterFolder, base: Any) -> Any:
    """The adapter on its base. What PEFT only warns of, tensors that the file lacks, is an error here."""
    from peft import PeftModel
    from safetensors import SafetensorError

    asked = f"loading {adapter.path}"
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(base, str(adapter.path))
    except (SafetensorError, RuntimeError, KeyError, ValueError, TypeError, OSError) as error:
        if isinstance(error, NeuroLoraError):
            raise
        do = "Save or copy the adapter again; if the base is another, give the right one with --base-model"
        raise AdapterError(explain(asked, reason_of(error), do)) from error
    for one in seen:
        if "missing adapter keys" in str(one.message):
            found = str(one.message).strip()[:400]
            raise AdapterError(explain(asked, found, "Save or copy the adapter again"))
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return model


def _load_tokenizer(adapter: AdapterFolder) -> Any:
    import transformers

    own = (adapter.path / "tokenizer_config.json").is_file()
    name = str(adapter.path) if own else resolve_model_name(adapter.base)
    try:
        return transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        found = f"no tokenizer could be loaded from {name} ({reason_of(error)})"
        raise AdapterError(
            explain(
                f"loading {adapter.path}", found, "Put the base's tokenizer files into the adapter folder"
            )
        ) from error


def placed(model: Any, device: str | None) -> Any:
    """The model on the device asked for, in eval mode."""
    import torch

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # A quantised base is where it is.
        found = model if getattr(model, "is_quantized", False) else model.to(chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(explain(f"device {chosen}", reason_of(error), "Use another device")) from error
    return found.eval()


def describe_model(model: Any) -> dict[str, Any]:
    """What was run, for a result file: name, size and dtype, and the active adapter with its fingerprints."""
    described = {
        "name": getattr(model.config, "_name_or_path", ""),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "dtype": str(model.dtype),
        "adapter": None,
    }
    configs = getattr(model, "peft_config", None) or {}
    active = getattr(model, "active_adapter", None)
    config = configs.get(active) if isinstance(active, str) else None
    if config is not None:
        saved = getattr(config, "base_fingerprint", None) or {}
        described["adapter"] = {
            "name": active,
            "method": str(getattr(config.peft_type, "value", config.peft_type)),
            "base": config.base_model_name_or_path,
            "base_fingerprint": saved.get("digest"),
            "projection_fingerprint": getattr(config, "projection_fingerprint", None),
        }
    return described
