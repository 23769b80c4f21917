"""The one step that PEFT does not offer as public API: a new member of its `PeftType`.

Room: tuner. Called once, when `neurolora` is imported. Everything else that the tuner needs from PEFT is
`register_peft_method`, `BaseTuner` and `BaseTunerLayer`. If PEFT changes what is assumed here,
`tests/unit/tuner/test_registration.py` names the assumption that broke.
"""

from __future__ import annotations

from typing import Any

from peft.utils.peft_types import PeftType, register_peft_method

from neurolora.errors import NeuroLoraError, explain

NAME = "neurolora"
PREFIX = "neurolora_"
SUPPORTED_PEFT = ">=0.21,<0.22"


def peft_type() -> PeftType:
    """The member `NEUROLORA` of PEFT's enum, which is added on the first call.

    `PeftType` is a `str` enum that PEFT indexes by name (`PeftType["X"]`), by value (`PeftType("X")`) and
    by iteration (`"X" in list(PeftType)`), so all three tables of the enum get the new member.
    """
    value = NAME.upper()
    if value not in PeftType.__members__:
        member: Any = str.__new__(PeftType, value)
        member._name_ = value
        member._value_ = value
        PeftType._member_map_[value] = member
        PeftType._value2member_map_[value] = member
        PeftType._member_names_.append(value)
        type.__setattr__(PeftType, value, member)
    return PeftType[value]


def register(config_class: type, model_class: type) -> None:
    """Make `config_class` and `model_class` known to PEFT; doing it again changes nothing.

    Raises:
        NeuroLoraError: if this PEFT does not take a method from outside as the supported versions do.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type()) is config_class:
        return
    try:
        register_peft_method(
            name=NAME,
            config_cls=config_class,
            model_cls=model_class,
            prefix=PREFIX,
            is_mixed_compatible=False,
        )
    except (KeyError, ValueError, TypeError) as error:
        import peft

        raise NeuroLoraError(
            explain(
                "registering NeuroLoRA with PEFT",
                f"peft {peft.__version__} refused it ({error})",
                f"Install a supported version: peft{SUPPORTED_PEFT}",
            )
        ) from error
