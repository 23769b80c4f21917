"""What an adapted layer holds, and its life cycle; the forward is in `linear.py`.

Room: tuner. Holds, for each adapter by name: the frozen A (a buffer: a ternary A packed to two bits an entry,
or float32), B and the gate. A gate that is shared lives in the first module of its group (the lender); the
others hold a reference to that module and no parameters, so that it exists once, in memory, in the optimizer
and in the file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import Tensor, nn

from neurolora.adapter_file import GATE_PARTS as GATE_KIND_PARTS
from neurolora.core.orthogonality import coactivation_sums
from neurolora.core.projection import Projection, dense_projection, fingerprint
from neurolora.core.router import summed_probabilities
from neurolora.core.routing import active_counts
from neurolora.errors import UnsupportedOperationError, explain
from neurolora.tuner.config import NeuroLoraConfig
from neurolora.tuner.context import ForwardContext, RoutingRecord
from neurolora.tuner.settings import AdapterSettings, adapter_settings

GATE_PARTS = ("W1", "W2", "gamma", "beta")


def merge_error(what: str) -> UnsupportedOperationError:
    """The error of docs/method.md: the update depends on the input, so W0 cannot take it up."""
    return UnsupportedOperationError(
        explain(
            what,
            "NeuroLoRA routes each token to its own ranks, so its update is a function of the input and no "
            "constant matrix added to W0 equals it",
            "Keep the adapter beside the base (PeftModel.from_pretrained, generate and evaluation work so); "
            "to take it off again use unload() or disable_adapter()",
        )
    )


class NeuroLoraLayer(BaseTunerLayer):
    """State and life cycle of the adapters of one module."""

    adapter_layer_names: tuple[str, ...] = (
        "neurolora_B",
        "neurolora_A_trained",
        *(f"neurolora_gate_{part}" for part in GATE_PARTS),
    )
    other_param_names: tuple[str, ...] = (
        "neurolora_A", "neurolora_A_scale", "neurolora_A_fingerprint", "neurolora_bias", "projection_scale",
        "settings", "gate_lender", "records", "pending", "loudness",
    )  # fmt: skip
    base_layer: nn.Module
    neurolora_B: nn.ParameterDict  # noqa: N815 - the paper's names
    neurolora_A_trained: nn.ParameterDict  # noqa: N815

    def __init__(
        self,
        base_layer: nn.Module,
        name: str,
        context: ForwardContext,
        from_encoder: bool,
        reads: tuple[object, ...],
    ) -> None:
        self.base_layer = base_layer
        self.name = name
        self.context = context
        self.from_encoder = from_encoder
        self.reads = reads
        self.neurolora_A = BufferDict(persistent=True)
        self.neurolora_A_scale = BufferDict(persistent=True)
        self.neurolora_A_fingerprint = BufferDict(persistent=True)
        self.neurolora_bias = BufferDict(persistent=True)
        for container in self.adapter_layer_names:
            setattr(self, container, nn.ParameterDict())
        self.projection_scale: dict[str, float] = {}
        self.settings: dict[str, AdapterSettings] = {}
        self.gate_lender: dict[str, NeuroLoraLayer | None] = {}
        self.records: dict[str, RoutingRecord] = {}
        self.pending: dict[str, Tensor] = {}
        self.loudness: dict[str, Tensor] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.in_features, self.out_features = _get_in_out_features(self.get_base_layer())
        context.layers.append(self)

    def update_layer(
        self, adapter_name: str, config: NeuroLoraConfig, gate_name: str, lender: NeuroLoraLayer | None
    ) -> None:
        """Add an adapter, at its start, on the device of the base layer.

        `gate_name` keys the gate's start; `lender` is the module whose gate is shared, None for an own gate.
        """
        self.settings[adapter_name] = adapter_settings(
            config,
            in_features=self.in_features,
            out_features=self.out_features,
            name=self.name,
            gate_name=gate_name,
        )
        self.gate_lender[adapter_name] = lender
        self._fill(adapter_name, lent=_lent_parts(config) if lender is not None else ())
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _fill(self, adapter_name: str, lent: tuple[str, ...]) -> None:
        settings = self.settings[adapter_name]
        projection = settings.initial_projection()
        if settings.train_projection:
            self.neurolora_A_trained[adapter_name] = nn.Parameter(projection.values)
        else:
            self.neurolora_A[adapter_name] = projection.stored()
        if settings.load_balance_rate > 0:
            zeros = torch.tensor([0.0] * settings.r, dtype=torch.float32, device="cpu")
            self.neurolora_bias[adapter_name] = zeros
        self.neurolora_B[adapter_name] = nn.Parameter(settings.initial_B())
        self.note_projection(adapter_name, projection)
        for part, start in settings.initial_gate().items():
            if part not in lent:
                self.gate_container(part)[adapter_name] = nn.Parameter(start)

    def note_projection(self, adapter_name: str, projection: Projection) -> None:
        """Take A's scale, and write down both it and A's fingerprint for the file."""
        B = self.neurolora_B[adapter_name]
        device = "cpu" if B.is_meta else B.device
        digest = list(bytes.fromhex(fingerprint(projection)))
        self.projection_scale[adapter_name] = projection.scale
        scale = torch.tensor(projection.scale, dtype=torch.float64, device=device)
        _write(self.neurolora_A_scale, adapter_name, scale)
        _write(
            self.neurolora_A_fingerprint, adapter_name, torch.tensor(digest, dtype=torch.uint8, device=device)
        )

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """As PEFT's, but A and the routing bias keep their bits, which PEFT would round."""
        exact = self._exact_buffers()
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)
        _put_back(exact)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """As torch's, with two differences.

        A and the routing bias keep their dtype, so that `model.half()` does not make it another A. And an
        adapter that leaves the meta device is started again, for it had no values there.
        """
        was_meta = [name for name, B in self.neurolora_B.items() if B.is_meta]
        exact = self._exact_buffers()
        result = super()._apply(fn, recurse)
        _put_back(exact)
        for name in was_meta:
            if not self.neurolora_B[name].is_meta:
                self._restart(name)
        return result

    def _exact_buffers(self) -> list[tuple[BufferDict, str, Tensor]]:
        containers = (self.neurolora_A, self.neurolora_A_scale, self.neurolora_bias)
        return [(container, name, value) for container in containers for name, value in container.items()]

    @torch.no_grad()
    def _restart(self, adapter_name: str) -> None:
        settings = self.settings[adapter_name]
        projection = settings.initial_projection()
        if settings.train_projection:
            self.neurolora_A_trained[adapter_name].copy_(projection.values)
        else:
            self.neurolora_A[adapter_name] = projection.stored().to(self.neurolora_B[adapter_name].device)
        self.note_projection(adapter_name, projection)
        if adapter_name in self.neurolora_bias:
            self.neurolora_bias[adapter_name].zero_()
        self.neurolora_B[adapter_name].copy_(settings.initial_B())
        for part, start in settings.initial_gate().items():
            if adapter_name in self.gate_container(part):
                self.gate_container(part)[adapter_name].copy_(start)

    def gate_container(self, part: str) -> nn.ParameterDict:
        """The container of one part of the gates: `W1`, `W2`, `gamma` or `beta`."""
        container: nn.ParameterDict = getattr(self, f"neurolora_gate_{part}")
        return container

    def gate_parameter(self, part: str, adapter_name: str) -> Tensor:
        """One part of an adapter's gate, this module's own or the lender's."""
        container = self.gate_container(part)
        if adapter_name in container:
            own: Tensor = container[adapter_name]
            return own
        lender = self.gate_lender[adapter_name]
        assert lender is not None, f"{self.name}: gate of {adapter_name} is neither here nor lent"
        lent: Tensor = lender.gate_container(part)[adapter_name]
        return lent.to(self.neurolora_B[adapter_name].device)

    def gate_parameters(self, adapter_name: str) -> list[Tensor]:
        """All parts of an adapter's gate, in the order of Eq. 3: four for a token gate, one or none else."""
        parts = GATE_KIND_PARTS[self.settings[adapter_name].gate]
        return [self.gate_parameter(part, adapter_name) for part in parts]

    def routing_bias(self, adapter_name: str) -> Tensor | None:
        """Load balancing's bias of the routing score (r), if the adapter balances."""
        if adapter_name not in self.neurolora_bias:
            return None
        bias: Tensor = self.neurolora_bias[adapter_name]
        return bias

    def projection_matrix(self, adapter_name: str, dtype: torch.dtype) -> Tensor:
        """A (r, d), dense, in `dtype`."""
        if adapter_name in self.neurolora_A_trained:
            trained: Tensor = self.neurolora_A_trained[adapter_name]
            return trained.to(dtype)
        stored, scale = self.neurolora_A[adapter_name], self.projection_scale[adapter_name]
        return dense_projection(stored, self.in_features, scale, dtype)

    def projection(self, adapter_name: str) -> Projection:
        """A with its entries apart from its scale, for saving and for its fingerprint."""
        if adapter_name in self.neurolora_A_trained:
            return Projection(self.neurolora_A_trained[adapter_name].detach(), 1.0)
        stored, scale = self.neurolora_A[adapter_name], self.projection_scale[adapter_name]
        return Projection.from_stored(stored, self.in_features, scale)

    def is_recording(self, adapter_name: str) -> bool:
        """Whether this forward is one whose routing the loss or the balancing needs."""
        settings = self.settings[adapter_name]
        needs = settings.orthogonality_weight + settings.load_balance_rate + settings.balance_weight > 0
        trains = self.training and self.neurolora_B[adapter_name].requires_grad
        return bool(self.context.is_open and needs and trains)

    def record(self, adapter_name: str, mask: Tensor, keep: Tensor | None, p: Tensor | None = None) -> None:
        """Keep this forward's routing, in place of whatever the last one left; p (..., E) is a router's."""
        sums, tokens = coactivation_sums(mask, keep)
        counted = adapter_name in self.neurolora_bias or p is not None
        counts = active_counts(mask, keep)[0] if counted else None
        probabilities = None if p is None else summed_probabilities(p, keep)
        self.records[adapter_name] = RoutingRecord(sums, tokens, counts, probabilities)

    def add_to_balance(self) -> None:
        """Add the forward's counts to those of the optimizer step, which may have several forwards."""
        for name, record in self.records.items():
            if record.counts is not None and name in self.neurolora_bias:
                counted = torch.cat([record.counts, record.tokens.reshape(1)])
                self.pending[name] = self.pending[name] + counted if name in self.pending else counted

    def take_pending(self, adapter_name: str) -> Tensor:
        """Hand over what `add_to_balance` has added up: (r + 1) int64, each rank's count, then the tokens."""
        if adapter_name in self.pending:
            return self.pending.pop(adapter_name)
        nothing = self.settings[adapter_name].r + 1
        return torch.zeros(nothing, dtype=torch.int64, device=self.neurolora_bias[adapter_name].device)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused: see `merge_error`."""
        raise merge_error("merging a NeuroLoRA adapter into the base layer")

    def unmerge(self) -> None:
        """Nothing is ever merged, so there is nothing to take out."""

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Refused: see `merge_error`."""
        raise merge_error("computing one delta weight for a NeuroLoRA adapter")


def _lent_parts(config: NeuroLoraConfig) -> tuple[str, ...]:
    """Which parts of the gate a group shares: W1 where the input is shared, else the whole gate."""
    return ("W1",) if config.gate_sharing == "input" else GATE_PARTS


def _put_back(exact: list[tuple[BufferDict, str, Tensor]]) -> None:
    """Undo a change of dtype, from the values before it; a change of device stays."""
    for container, name, value in exact:
        if container[name].dtype != value.dtype and not value.is_meta:
            container[name] = value.to(container[name].device)


def _write(container: BufferDict, name: str, value: Tensor) -> None:
    """Put a value in place, so that a state dict taken before sees it; else put a new tensor there."""
    if name in container and not container[name].is_meta:
        container[name].copy_(value)
    else:
        container[name] = value
