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
from torch import Tensor, nn

from neurolora.errors import ConfigError, TargetError, explain
from neurolora.tuner.auxiliary import adapter_layers, auxiliary_share, context_of, get_auxiliary_loss
from neurolora.tuner.config import NeuroLoraConfig
from neurolora.tuner.context import attach_context, detach_context
from neurolora.tuner.layer import BASE, NeuroLoraLayer, NeuroLoraLinear, merge_error
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

    def forward(self, *args: Any, auxiliary_scale: Tensor | float | None = None, **kwargs: Any) -> Any:
        """The base model's forward; in training, with labels, the loss has lambda * L_orth added (Eq. 8).

        `auxiliary_scale` multiplies the added term. By default it is the micro-batch's share of the optimizer
        step where `num_items_in_batch` tells it, else 1, so that accumulation does not change its weight.
        """
        outputs = self.model(*args, **kwargs)
        context = context_of(self.model)
        task_loss = _loss_of(outputs, kwargs)
        if context is None or task_loss is None:
            return outputs
        context.task_loss, context.orthogonality_loss = task_loss.detach(), None
        if not any(layer.records for layer in context.layers):
            return outputs
        auxiliary = get_auxiliary_loss(self.model)
        context.orthogonality_loss = auxiliary.detach()
        if auxiliary_scale is None:
            auxiliary_scale = auxiliary_share(kwargs, self._shifts_labels())
        return _with_loss(outputs, task_loss + (auxiliary * auxiliary_scale).to(task_loss))

    def _shifts_labels(self) -> bool:
        """Whether the model's loss leaves out the first label, as those of decoders do."""
        config = getattr(self.model, "config", None)
        loss_type = getattr(self.model, "loss_type", None)
        return loss_type == "ForCausalLM" and not getattr(config, "is_encoder_decoder", False)

    def _check_new_adapter_config(self, config: Any) -> None:
        super()._check_new_adapter_config(config)
        name = next(key for key, value in self.peft_config.items() if value is config)
        paths = [path for path, _ in self.model.named_modules()]
        taken = {segment for path in paths for segment in path.split(".")} - self._adapter_segments(name)
        if not name or "." in name or name == BASE or name in taken or name in PREFIX:
            raise ConfigError(
                explain(
                    f"naming an adapter {name!r}",
                    "the name is empty, holds a dot, or is part of the names in the model's state, "
                    "so that saving could not tell them apart",
                    "Choose another adapter name, such as 'default' or the task's name",
                )
            )

    def _adapter_segments(self, name: str) -> set[str]:
        """Path segments that are there only because an adapter of that name was, which is no clash."""
        return {name} if any(name in layer.settings for _, layer in adapter_layers(self.model)) else set()

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
        layer = target if isinstance(target, NeuroLoraLayer) else self._wrap(adapter_name, target, current_key)
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
        _refuse_unsupported(target, current_key)
        name = canonical_name(current_key, getattr(self.model, "base_model_prefix", ""))
        context = attach_context(self.model)
        return NeuroLoraLinear(target, adapter_name, name, context, from_encoder=reads_encoder(current_key))

    def _lender(
        self, group: tuple[object, ...], layer: NeuroLoraLayer, adapter: str, config: NeuroLoraConfig
    ) -> NeuroLoraLayer | None:
        """The module whose gate this one shares: the first of its group, in the model's order."""
        if config.gate != "token" and (config.gate == "none" or config.gate_sharing == "input"):
            return None
        for path, other in adapter_layers(self.model):
            if other is layer or adapter not in other.settings or other.gate_lender[adapter] is not None:
                continue
            if gate_group(path, other.in_features, config.gate_sharing) == group:
                return other
        return None

    def _check_merge_allowed(self) -> None:
        raise merge_error("merging a NeuroLoRA adapter into the base model")

    def merge_and_unload(self, *args: Any, **kwargs: Any) -> torch.nn.Module:
        """Refused, with the reason and what to do instead (docs/method.md, no exact fold into W0)."""
        raise merge_error("merge_and_unload of a NeuroLoRA adapter")

    def unload(self) -> torch.nn.Module:
        """Give the base model back, without adapters and without the tuner's hooks."""
        model = super().unload()
        detach_context(model)
        return model

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand PEFT's `adapter_names` (one for each row of the batch) to the adapted layers."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        names = self._checked_adapter_names(names, kwargs.get("num_beams"))
        hook = partial(_add_adapter_names, adapter_names=names)
        handles = [
            layer.register_forward_pre_hook(hook, with_kwargs=True)  # type: ignore[attr-defined]
            for _, layer in adapter_layers(self.model)
        ]
        handles += self._hooks_of_wrappers(hook)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks_of_wrappers(self, hook: Any) -> list[Any]:
        from peft.utils.other import AuxiliaryTrainingWrapper

        wrappers = (m for m in self.model.modules() if isinstance(m, AuxiliaryTrainingWrapper))
        return [wrapper.register_forward_pre_hook(hook, with_kwargs=True) for wrapper in wrappers]

    def _checked_adapter_names(self, names: Sequence[str], num_beams: Any) -> list[str]:
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        unknown = set(names) - {BASE} - set(self.peft_config)
        if unknown:
            raise ValueError(
                f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}; "
                f"this model has {', '.join(sorted(self.peft_config))}"
            )
        beams = num_beams if isinstance(num_beams, int) else 1
        return [name for name in names for _ in range(beams)]

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


def _refuse_unsupported(target: nn.Module, path: str) -> None:
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    fits = not isinstance(base, UNSUPPORTED)
    if fits and _get_in_out_features(base) != (None, None):
        return
    raise TargetError(
        explain(
            f"adapting the module {path!r}",
            f"it is a {type(base).__name__}, and NeuroLoRA adapts linear layers (nn.Linear and its subclasses, "
            "Conv1D, quantised linear layers)",
            "Choose other target_modules, or name this one in exclude_modules",
        )
    )


def _loss_of(outputs: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """The loss in a model's outputs: an attribute, or the first of a tuple when labels were given."""
    if isinstance(outputs, tuple):
        first = outputs[0] if outputs and kwargs.get("labels") is not None else None
        return first if isinstance(first, Tensor) and first.dim() == 0 else None
    loss = getattr(outputs, "loss", None)
    return loss if isinstance(loss, Tensor) else None


def _with_loss(outputs: Any, loss: Tensor) -> Any:
    if isinstance(outputs, tuple):
        return (loss, *outputs[1:])
    outputs.loss = loss
    return outputs
