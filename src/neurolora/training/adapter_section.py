"""The adapter section: PEFT's own fields, taken from the config dataclasses and typed nowhere twice.

Room: training. `config` embeds it; `run` and `plan` ask it for the PEFT config.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import typing
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from neurolora.training.names import nearest

#: AdaLoRA's total_step where it is not given: as many as the run has. PEFT makes no config without a number.
UNKNOWN_STEPS = 2**31 - 1

Method = Literal["neurolora", "flylora", "mole", "lora", "dora", "adalora", "full"]


@dataclasses.dataclass(frozen=True)
class MethodRow:
    """One way to fine-tune: where its PEFT config lives, and the values we set when the user does not."""

    module: str
    config: str
    defaults: dict[str, Any]


#: Rank and alpha of PEFT's methods are those of Table 5, so that runs can be compared; AdaLoRA ends at that
#: rank on average, from half as much again (arXiv 2303.10512). `full` has no adapter.
METHODS: dict[str, MethodRow] = {
    "neurolora": MethodRow("neurolora.tuner", "NeuroLoraConfig", {}),
    "flylora": MethodRow("neurolora.tuner", "FlyLoraConfig", {}),
    "mole": MethodRow("neurolora.tuner", "MoleConfig", {}),
    "lora": MethodRow("peft", "LoraConfig", {"r": 32, "lora_alpha": 16}),
    "dora": MethodRow("peft", "LoraConfig", {"r": 32, "lora_alpha": 16, "use_dora": True}),
    "adalora": MethodRow(
        "peft",
        "AdaLoraConfig",
        {"init_r": 48, "target_r": 32, "lora_alpha": 16, "total_step": UNKNOWN_STEPS},
    ),
}

#: Fields that PEFT fills in itself; they are no settings of a run.
NOT_SETTINGS = frozenset(
    {
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "task_type",
        "runtime_config",
    }
)


def config_class(method: str) -> type[Any]:
    """The dataclass that holds the settings of `method`."""
    row = METHODS[method]
    found: type[Any] = getattr(importlib.import_module(row.module), row.config)
    return found


def setting_names(method: str) -> list[str]:
    """Names that the adapter section takes for `method`."""
    if method not in METHODS:
        return []
    fields = dataclasses.fields(config_class(method))
    return [field.name for field in fields if field.init and not _is_bookkeeping(field)]


def _is_bookkeeping(field: dataclasses.Field[Any]) -> bool:
    return field.name in NOT_SETTINGS or str(field.metadata.get("help", "")).startswith("written when saved")


def all_setting_names() -> list[str]:
    """Names that the adapter section takes for any method, each once."""
    return list(dict.fromkeys(name for method in METHODS for name in setting_names(method)))


class AdapterSection(BaseModel):
    """`method`, and the fields of that method's PEFT config under PEFT's names."""

    model_config = ConfigDict(frozen=True, extra="allow")

    method: Method = "neurolora"

    @property
    def settings(self) -> dict[str, Any]:
        """What was set, over this method's defaults."""
        defaults = METHODS[self.method].defaults if self.method in METHODS else {}
        return {**defaults, **(self.__pydantic_extra__ or {})}

    @model_validator(mode="before")
    @classmethod
    def _types_of_the_dataclass(cls, values: Any) -> Any:
        method = values.get("method", "neurolora") if isinstance(values, dict) else None
        if method not in (*METHODS, "full"):
            return values
        given = {name: value for name, value in values.items() if name != "method"}
        problems = _unknown(method, given)
        known = {name: value for name, value in given.items() if name in setting_names(method)}
        known = {name: _as_list(name, value) for name, value in known.items()}
        typed, mistyped = _coerce(method, known)
        problems |= mistyped
        if "r" not in mistyped:  # without it `top_k` cannot be judged
            problems |= _refusal(method, typed)
        if problems:
            raise PydanticCustomError("adapter_settings", "unusable settings", {"problems": problems})
        return {"method": method, **typed}

    def build(self, seed: int, task_type: str | None = "CAUSAL_LM") -> Any | None:
        """The PEFT config of this section; None for full fine-tuning.

        `seed` starts the gate (and a random B) where the section has no `init_seed`; the frozen A follows
        `projection_seed` alone, since A says which adapters can be merged.
        """
        if self.method == "full":
            return None
        seeded = {"init_seed": seed} if "init_seed" in setting_names(self.method) else {}
        return config_class(self.method)(task_type=task_type, **{**seeded, **self.settings})

    def resolved(self, seed: int) -> dict[str, Any]:
        """The section with every simple default written out, ready for YAML."""
        if self.method == "full":
            return {"method": self.method}
        built = self.build(seed)
        values = {name: _plain(getattr(built, name)) for name in setting_names(self.method)}
        shown = {name: value for name, value in values.items() if value is None or _is_plain(value)}
        return {"method": self.method, **shown}


def _unknown(method: str, given: dict[str, Any]) -> dict[str, str]:
    names = setting_names(method)
    return {
        str(name): f"the method {method} has no such setting{nearest(str(name), names)}"
        for name in given
        if name not in names
    }


def _as_list(name: str, value: Any) -> Any:
    """A single word that names modules is one name, as in a list; PEFT would take it for a whole path."""
    is_name = isinstance(value, str) and re.fullmatch(r"\w+", value) is not None
    return [value] if name in ("target_modules", "exclude_modules") and is_name else value


def _coerce(method: str, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values as the dataclass' annotations want them, and what could not be made so."""
    if not given:
        return {}, {}
    hints = typing.get_type_hints(config_class(method))
    typed: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, value in given.items():
        try:
            typed[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            problems[name] = f"{error.errors()[0]['msg']}, found {value!r}"
        except PydanticUserError:
            typed[name] = value
    return typed, problems


def _refusal(method: str, settings: dict[str, Any]) -> dict[str, str]:
    """What the config's own checks say; they may report several problems in one message."""
    if method == "full":
        return {}
    try:
        config_class(method)(**{**METHODS[method].defaults, **settings})
    except (TypeError, ValueError) as error:
        return {"": str(error)}
    return {}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    return isinstance(value, str | int | float | bool)
