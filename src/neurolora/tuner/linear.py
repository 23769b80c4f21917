"""The adapted linear layer's forward: it calls `core` for the maths.

Room: tuner. Made by `model.py` only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neurolora.core.gate import modulation, static_modulation
from neurolora.core.kernels import MAX_DECODE_TOKENS, Routed, add_update, fast_paths_apply
from neurolora.core.router import chosen_experts, expert_probabilities
from neurolora.core.silence import loudness, routed_loudness
from neurolora.core.update import adapter_update
from neurolora.tuner.context import ForwardContext
from neurolora.tuner.grouping import add_while_decoding, compute_dtype, routed
from neurolora.tuner.layer import NeuroLoraLayer

BASE = "__base__"  # PEFT's name for "no adapter" in a mixed batch


class NeuroLoraLinear(NeuroLoraLayer, nn.Module):
    """A linear layer, or anything that acts as one (quantised, transposed), with routed adapters.

    The bases stand in this order, unlike PEFT's own, so that torch does not hide `NeuroLoraLayer._apply`.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        name: str,
        context: ForwardContext,
        from_encoder: bool,
        reads: tuple[object, ...],
    ) -> None:
        nn.Module.__init__(self)
        NeuroLoraLayer.__init__(self, base_layer, name, context, from_encoder, reads)
        self._active_adapter = adapter_name

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """W0 x + the sum of the active adapters' updates (Eq. 1); x (..., d) -> (..., o)."""
        adapter_names = kwargs.pop("adapter_names", None)
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        if adapter_names is not None:
            return self._mixed(x, result, adapter_names)
        active: list[str] = self.active_adapters  # type: ignore[assignment]
        for adapter in active:
            if adapter not in self.settings:
                continue
            if self._is_heard(adapter):
                result = self._overheard(result, x, adapter)
            elif self._decodes(x, adapter):
                result = add_while_decoding(result, self, adapter, x, in_place=self._owns(result))
            else:
                result = self._with_update(result, x, adapter)
        return result

    def _with_update(self, result: Tensor, x: Tensor, adapter: str) -> Tensor:
        """result + dy, by a fast path where one applies."""
        if not self._has_fast_path(x, adapter):
            return result + self.update(x, adapter).to(result.dtype)
        found = routed(self, adapter, x)
        self._note(adapter, _unflatten(found.mask, x), _unflatten(found.modulation, x))
        return self._with_routed(result, found, x, adapter)

    def _with_routed(self, result: Tensor, found: Routed, x: Tensor, adapter: str) -> Tensor:
        """result + dy of tokens that are routed already."""
        B = self.neurolora_B[adapter]
        return add_update(
            result,
            found,
            B,
            self.settings[adapter].scaling,
            compute=compute_dtype(x, B.dtype),
            in_place=self._owns(result),
        )

    def _has_fast_path(self, x: Tensor, adapter: str) -> bool:
        """Whether x can be routed with its group; some are for the readable version alone."""
        return not self.settings[adapter].is_readable_only and fast_paths_apply(x)

    def _decodes(self, x: Tensor, adapter: str) -> bool:
        """Whether `x` is a step of generation, which is short enough for every line here to count."""
        return (
            self.context.decoding
            and not self.training
            and x.numel() <= MAX_DECODE_TOKENS * self.in_features
            and not torch.compiler.is_compiling()
            and not self.settings[adapter].is_readable_only
        )

    def _is_heard(self, adapter: str) -> bool:
        """Whether somebody listens to this adapter; frozen ones are not listened to, as they cannot learn."""
        listens = self.context.listens and self.context.is_open
        return listens and bool(self.neurolora_B[adapter].requires_grad)

    def _owns(self, result: Tensor) -> bool:
        """Whether nobody else can hold the base layer's result, so that it may be added to in place."""
        base = self.base_layer
        return type(base) is nn.Linear and not base._forward_hooks and not result._is_view()

    def _overheard(self, result: Tensor, x: Tensor, adapter: str) -> Tensor:
        """result + dy, and how loud dy was kept for `take_silence_loss`."""
        keep = self.context.keep(x.shape[:-1], self.from_encoder)
        if not self._has_fast_path(x, adapter):
            dy = self.update(x, adapter)
            self.loudness[adapter] = loudness(dy, result, keep)
            return result + dy.to(result.dtype)
        found = routed(self, adapter, x)
        self.loudness[adapter] = routed_loudness(
            found.selected, self.neurolora_B[adapter], self.settings[adapter].scaling, result, keep
        )
        return self._with_routed(result, found, x, adapter)

    def update(self, x: Tensor, adapter: str) -> Tensor:
        """dy (..., o) of one adapter (Eqs. 2-6), in the adapter's dtype (under autocast: autocast's)."""
        settings = self.settings[adapter]
        B = self.neurolora_B[adapter]
        x = self._cast_input_dtype(x, B.dtype)  # type: ignore[operator]
        m, chosen, p = self._gated(x, adapter)
        dy, mask = adapter_update(
            x,
            self.projection_matrix(adapter, B.dtype),
            B,
            modulation=m,
            top_k=settings.top_k,
            scaling=settings.scaling,
            routing=settings.routing,
            bias=self.routing_bias(adapter),
            blocks=settings.blocks,
            mask=chosen,
        )
        self._note(adapter, mask, m, p)
        return dy

    def _gated(self, x: Tensor, adapter: str) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """m, and what a learned router has beside it: the ranks that it chose, its probabilities (..., E)."""
        settings = self.settings[adapter]
        if settings.gate != "router":
            return self.modulation(x, adapter), None, None
        p = expert_probabilities(x, *self.gate_parameters(adapter))
        each = settings.r // settings.experts
        m, chosen = chosen_experts(p, settings.top_k // each, each)
        return m.to(x.dtype), chosen, p

    def modulation(self, x: Tensor, adapter: str) -> Tensor | None:
        """The gate's m (Eq. 3) for the gate's input; here the token itself (docs/method.md, context)."""
        kind = self.settings[adapter].gate
        if kind == "none":
            return None
        if kind == "static":
            return static_modulation(*self.gate_parameters(adapter))
        W1, W2, gamma, beta = self.gate_parameters(adapter)
        return modulation(x, W1, W2, gamma, beta, self.settings[adapter].blocks)

    def _note(self, adapter: str, mask: Tensor, m: Tensor | None, p: Tensor | None = None) -> None:
        recording, observer = self.is_recording(adapter), self.context.observer
        if not self.context.is_open or self.context.listens or not (recording or observer):
            return  # text of no task, or a forward run again for activation checkpointing: counts for nothing
        keep = self.context.keep(mask.shape[:-1], self.from_encoder)
        if recording:
            self.record(adapter, mask, keep, p)
        if observer is not None:
            observer.observe(self, adapter, mask, m, keep)

    def _mixed(self, x: Tensor, result: Tensor, adapter_names: list[str]) -> Tensor:
        """A batch whose rows belong to different adapters: PEFT's `adapter_names`, one name for each row."""
        if len(adapter_names) != len(x):
            raise ValueError(
                f"Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively."
            )
        result = result.clone()
        for adapter in dict.fromkeys(adapter_names):
            if adapter == BASE or adapter not in self.neurolora_B:
                continue
            rows = torch.tensor(
                [i for i, name in enumerate(adapter_names) if name == adapter], device=x.device
            )
            result.index_add_(0, rows, self.update(x[rows], adapter).to(result.dtype))
        return result

    def __repr__(self) -> str:
        return "neurolora." + super().__repr__()


def _unflatten(rows: Tensor | None, x: Tensor) -> Any:
    """(N, r) with the leading dimensions of x (..., d); what is not a value for each token stays."""
    return rows if rows is None or rows.dim() == 1 else rows.view(*x.shape[:-1], rows.shape[-1])
