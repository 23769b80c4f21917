"""NeuroLoRA as a PEFT tuner: which modules are adapted, what a forward adds, what is refused.

Room: tuner. PEFT makes one `NeuroLoraModel` around a base model; users reach it through `get_peft_model`,
`PeftModel.from_pretrained` and transformers' `add_adapter`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _get_in_out_features
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from neurolora.errors import ConfigError, NeuroLoraError, TargetError, explain
from neurolora.tuner.auxiliary import adapter_layers
from neurolora.tuner.config import NeuroLoraConfig
from neurolora.tuner.hooks import attach_context, detach_context
from neurolora.tuner.layer import NeuroLoraLayer, merge_error
from neurolora.tuner.linear import BASE, NeuroLoraLinear
from neurolora.tuner.naming import ATTENTION_MODULES, canonical_name, gate_group, reads_encoder
from neurolora.tuner.registration import PREFIX
from neurolora.tuner.state import pack_state, unpack_state

UNSUPPORTED = (
    nn.Embedding, nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.modules.batchnorm._BatchNorm,
    nn.LayerNorm, nn.ModuleList, nn.Sequential,
)  # fmt: skip


class NeuroLoraModel(BaseTuner):
    """A base model with NeuroLoRA or FlyLoRA adapters (`NeuroLoraConfig`, `FlyLoraConfig`)."""

    prefix: str = PREFIX
    tuner_layer_cls = NeuroLoraLayer
    target_module_mapping = {  # noqa: RUF012 - PEFT declares it as an instance attribute
        name: targets if isinstance(targets, str) else list(targets)
        for name, targets in ATTENTION_MODULES.items()
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._first_of_group: dict[tuple[str, tuple[object, ...]], NeuroLoraLayer] = {}
        super().__init__(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base model's forward; in training, with labels, the loss has lambda * L_orth added (Eq. 8).

        `auxiliary_scale`, an extra keyword, multiplies the added term. By default it is the micro-batch's
        share of the optimizer step where `num_items_in_batch` tells it, else 1, so that accumulation does not
        change its weight.
        """
        with self._adding_the_loss():
            return self.model(*args, **kwargs)

    @contextlib.contextmanager
    def _adding_the_loss(self) -> Iterator[None]:
        """Inside, a forward of the base model is a wrapper's, and its loss gets the auxiliary loss."""
        context = attach_context(self.model)
        before, context.adds_loss = context.adds_loss, True
        try:
            yield
        finally:
            context.adds_loss = before

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As PEFT's, with a check of the adapter's name before, and errors of our kinds.

        Raises:
            ConfigError: the adapter's name cannot be told apart from names in the model's state.
            TargetError: no module matches, or a module of an unsupported kind does.
        """
        _refuse_name(adapter_name, model)
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except ValueError as error:
            if isinstance(error, NeuroLoraError):
                raise
            raise TargetError(explain("choosing the modules to adapt", str(error), _offer(model))) from error

    def _create_and_replace(
        self,
        peft_config: NeuroLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **optional_kwargs: Any,
    ) -> None:
        if isinstance(target, NeuroLoraLayer):
            layer = target
        else:
            _refuse_unsupported(target, parent, current_key)
            layer = self._wrap(adapter_name, target, current_key)
        group = gate_group(current_key, layer.in_features, peft_config.gate_sharing)
        lender = self._lender(group, layer, adapter_name, peft_config)
        own_start = peft_config.gate_sharing in ("module", "input")
        layer.update_layer(
            adapter_name, peft_config, gate_name=layer.name if own_start else repr(group), lender=lender
        )
        if layer is not target:
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)

    def _wrap(self, adapter_name: str, target: nn.Module, current_key: str) -> NeuroLoraLinear:
        name = canonical_name(current_key, getattr(self.model, "base_model_prefix", ""))
        context = attach_context(self.model)
        in_features, _ = _get_in_out_features(target)
        return NeuroLoraLinear(
            target,
            adapter_name,
            name,
            context,
            from_encoder=reads_encoder(current_key),
            reads=gate_group(current_key, in_features, "input"),
        )

    def _lender(
        self, group: tuple[object, ...], layer: NeuroLoraLayer, adapter: str, config: NeuroLoraConfig
    ) -> NeuroLoraLayer | None:
        """The module whose gate this one shares: the first of its group, in the model's order."""
        if config.gate_sharing == "module" or config.gate == "none":
            return None
        if config.gate == "static" and config.gate_sharing == "input":
            return None  # a static gate reads no input
        first = self._first_of_group.setdefault((adapter, group), layer)
        if first is layer or adapter not in first.settings:  # or that one's adapter was deleted
            self._first_of_group[(adapter, group)] = layer
            return None
        return first

    def _check_merge_allowed(self) -> None:
        raise merge_error("merging a NeuroLoRA adapter into the base model")

    def merge_and_unload(self, *args: Any, **kwargs: Any) -> torch.nn.Module:
        """Refused, with the reason and what to do instead (docs/method.md, no exact fold into W0)."""
        raise merge_error("merge_and_unload of a NeuroLoRA adapter")

    def unload(self) -> torch.nn.Module:
        """Give the base model back, without adapters and without the tuner's hooks."""
        model: nn.Module = super().unload()
        detach_context(model)
        return model

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Around every forward of a `PeftModel`: hand its `adapter_names`, if any, to the adapted layers."""
        names = kwargs.get("adapter_names")
        handles = [] if names is None else self._hook_names(names, kwargs.get("num_beams"))
        try:
            with self._adding_the_loss():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook_names(self, names: Sequence[str], num_beams: Any) -> list[Any]:
        """Hooks that pass the names on; beam search repeats each row, but not in an encoder."""
        self._check_adapter_names(names)
        beams = num_beams if isinstance(num_beams, int) else 1
        repeated = [name for name in names for _ in range(beams)]
        encoder = self.model.get_encoder() if hasattr(self.model, "get_encoder") else self.model
        in_encoder = set() if encoder is self.model else set(encoder.modules())
        return [
            module.register_forward_pre_hook(
                partial(_add_adapter_names, adapter_names=list(names) if module in in_encoder else repeated),
                with_kwargs=True,
            )
            for module in self.model.modules()
            if isinstance(module, (NeuroLoraLayer, AuxiliaryTrainingWrapper))
        ]

    def _check_adapter_names(self, names: Sequence[str]) -> None:
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        unknown = set(names) - {BASE} - set(self.peft_config)
        if unknown:
            raise ValueError(
                f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}; "
                f"this model has {', '.join(sorted(self.peft_config))}"
            )

    @classmethod
    def _get_adapter_state_dict(
        cls, model: Any, config: Any, adapter_name: str, state_dict: Any, unwanted_adapter_names: list[str]
    ) -> dict[str, Tensor]:
        selected = super()._get_adapter_state_dict(
            model=model,
            config=config,
            adapter_name=adapter_name,
            state_dict=state_dict,
            unwanted_adapter_names=unwanted_adapter_names,
        )
        return pack_state(model, config, adapter_name, selected)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: Any, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        checked = unpack_state(model, config, adapter_name, state_dict)
        return dict(
            super()._remap_adapter_state_dict_for_load(
                model=model, config=config, adapter_name=adapter_name, state_dict=checked
            )
        )


def _add_adapter_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], adapter_names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "adapter_names": adapter_names}


def _refuse_name(name: str, model: nn.Module) -> None:
    """Refuse names that PEFT could not tell apart from the rest of a key when it saves."""
    taken = {segment for path, _ in model.named_modules() for segment in path.split(".")}
    if any(name in layer.settings for _, layer in adapter_layers(model)):
        taken.discard(name)  # it is in the paths because an adapter of that name is, which is no clash
    if not name or "." in name or name == BASE or name in taken or name in PREFIX or name.startswith(PREFIX):
        raise ConfigError(
            explain(
                f"naming an adapter {name!r}",
                "the name is empty, holds a dot, or is part of the names in the model's state, "
                "so that saving could not tell them apart",
                "Choose another adapter name, such as 'default' or the task's name",
            )
        )


def _refuse_unsupported(target: nn.Module, parent: nn.Module, path: str) -> None:
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    found = f"it is a {type(base).__name__}"
    if isinstance(parent, nn.MultiheadAttention):
        found = "nn.MultiheadAttention uses its weight without calling it"
    elif not isinstance(base, UNSUPPORTED) and _get_in_out_features(base) != (None, None):
        return
    raise TargetError(
        explain(
            f"adapting the module {path!r}",
            f"{found}, and NeuroLoRA adapts linear layers (nn.Linear and its subclasses, Conv1D, quantised "
            "linear layers)",
            "Choose other target_modules, or name this one in exclude_modules",
        )
    )


def _offer(model: nn.Module) -> str:
    """The names that a user could have meant."""
    linear = {
        path.rpartition(".")[2] for path, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))
    }
    return f"Linear layers of this model end in: {', '.join(sorted(linear)[:12]) or '(there are none)'}"
