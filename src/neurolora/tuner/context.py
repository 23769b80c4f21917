"""What one forward of the whole model tells its adapted layers, and what they leave behind.

Room: tuner. One `ForwardContext` is shared by all adapted layers of a model; `hooks.py` opens it before a
forward and closes it after. A forward that is run again for activation checkpointing finds the context
closed and records nothing: nothing is ever counted twice, and nothing is kept of padding masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from neurolora.core.kernels import fast_paths_apply
from neurolora.tuner.grouping import Handover

if TYPE_CHECKING:
    from neurolora.tuner.layer import NeuroLoraLayer


@dataclass(frozen=True)
class RoutingRecord:
    """The routing of one adapter in one module over one forward, padding left out.

    coactivation: (r, r) float32, sum over tokens of a_t (1 - a_t)^T (see core/orthogonality.py).
    tokens: int64 (), over how many tokens. counts: (r) int64, how often each rank was active; for load
    balancing. probabilities: (E) a learned router's, summed over tokens. Only the last has a gradient.
    """

    coactivation: Tensor
    tokens: Tensor
    counts: Tensor | None
    probabilities: Tensor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of a model has no part in the graph of the model's last forward."""
        probabilities = None if self.probabilities is None else self.probabilities.detach()
        return RoutingRecord, (self.coactivation, self.tokens, self.counts, probabilities)


class Observer(Protocol):
    """Something that watches the routing during a forward, such as `RoutingStatistics`."""

    def observe(
        self,
        layer: NeuroLoraLayer,
        adapter: str,
        mask: Tensor,
        modulation: Tensor | None,
        keep: Tensor | None,
    ) -> None:
        """Take note of a module's routing: mask bool (..., r), modulation (..., r) or (r), keep (...)."""


@dataclass
class ForwardContext:
    """State of the forward that is running, if one is.

    decoding: one token a row, without gradient and with nobody watching.
    two_sided: the model has an encoder and a decoder, whose tokens have padding masks of their own.
    listens: each adapted layer keeps how loud its update was (tuner/silence.py).
    adds_loss: a PEFT wrapper runs this forward, so the loss in its outputs gets the auxiliary loss.
    auxiliary_scale: what that loss is multiplied with: as the caller asks, else as `hooks.py` finds.
    task_loss, orthogonality_loss: the parts of the last loss, for those who log them.
    untaken: the last forward had an auxiliary loss that nobody has taken; has_warned: somebody was told.
    ranks_likelihoods: the trainer's loss lowers some log-likelihoods (likelihoods.py).
    """

    two_sided: bool = False
    layers: list[NeuroLoraLayer] = field(default_factory=list)
    is_open: bool = False
    is_cached: bool = False
    decoding: bool = False
    encoder_keep: Tensor | None = None
    decoder_keep: Tensor | None = None
    observer: Observer | None = None
    adds_loss: bool = False
    listens: bool = False
    auxiliary_scale: Tensor | float | None = None
    task_loss: Tensor | None = None
    orthogonality_loss: Tensor | None = None
    untaken: bool = False
    has_warned: bool = False
    ranks_likelihoods: bool = False
    handover: Handover = field(default_factory=Handover)
    families: dict[tuple[object, ...], list[NeuroLoraLayer]] = field(default_factory=dict)
    grouped: int = 0

    def family(self, layer: NeuroLoraLayer) -> list[NeuroLoraLayer]:
        """The adapted modules that read what `layer` reads, itself among them, in the model's order."""
        if self.grouped != len(self.layers):
            self.families, self.grouped = {}, len(self.layers)
            for each in self.layers:
                self.families.setdefault(each.reads, []).append(each)
        return self.families[layer.reads]

    def begin(self, inputs: Mapping[str, Any]) -> None:
        """Open the context: forget the last forward's records and take the padding masks from its inputs."""
        self.decoding = self.observer is None and _is_decoding(inputs, self.two_sided)
        self.handover.begin(self.decoding)
        for layer in self.layers:
            layer.records.clear()
            layer.loudness.clear()
        self.encoder_keep = _as_keep(inputs.get("attention_mask"))
        self.decoder_keep = _decoder_keep(inputs) if self.two_sided else None
        self.is_cached = inputs.get("past_key_values") is not None
        self.is_open = True

    def end(self) -> None:
        """Close the context; the records stay until the next forward or until the loss is taken."""
        self.is_open = self.decoding = False
        self.handover.end()
        self.encoder_keep = self.decoder_keep = None
        for layer in self.layers:
            layer.add_to_balance()

    def keep(self, shape: torch.Size, from_encoder: bool) -> Tensor | None:
        """Which of the tokens of a layer's input are real: bool of `shape`, or None where no mask fits.

        `shape` is the input's without its last dimension. With a key-value cache the mask may be longer: its
        first part belongs to the cached tokens. Tokens flattened into one dimension are understood.
        """
        mask = self.decoder_keep if self.two_sided and not from_encoder else self.encoder_keep
        if mask is None:
            return None
        if self.is_cached and len(shape) == 2 and mask.shape[1] > shape[1]:
            mask = mask[:, mask.shape[1] - shape[1] :]
        if mask.shape == shape:
            return mask
        return mask.reshape(-1) if len(shape) == 1 and mask.numel() == shape[0] else None


def real_tokens(inputs: Mapping[str, Any]) -> Tensor | int | None:
    """How many tokens of a batch are not padding, as C counts them; None if it holds no tokens.

    Of an encoder-decoder model's batch, those of the encoder.
    """
    keep = _as_keep(inputs.get("attention_mask"))
    if keep is not None:
        return keep.sum()
    for name, dims in (("input_ids", 2), ("inputs_embeds", 3)):
        value = inputs.get(name)
        if isinstance(value, Tensor) and value.dim() == dims:
            return value.shape[0] * value.shape[1]
    return None


def _is_decoding(inputs: Mapping[str, Any], two_sided: bool) -> bool:
    tokens = inputs.get("decoder_input_ids" if two_sided else "input_ids")
    if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.shape[1] != 1:
        return False
    return not torch.is_grad_enabled() and fast_paths_apply(tokens)


def _as_keep(mask: Any) -> Tensor | None:
    """A 2-d padding mask as bool; anything else (a 4-d additive mask, a dict of masks) says nothing here."""
    return mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None


def _decoder_keep(inputs: Mapping[str, Any]) -> Tensor | None:
    """The decoder's mask; without one, the positions that have a label, since labels are padded with -100."""
    mask, labels = _as_keep(inputs.get("decoder_attention_mask")), inputs.get("labels")
    if mask is None and isinstance(labels, Tensor) and labels.dim() == 2:
        return labels.ne(-100)
    return mask
