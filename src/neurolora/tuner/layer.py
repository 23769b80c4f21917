"""The adapted linear layer: it holds state and calls `core` for the maths.

Room: tuner. Made by `model.py` only. Holds, for each adapter by name: the frozen A (a buffer: the signs of a
ternary A as int8, or float32), B and the gate. A gate that is shared lives in the first module of its group
(the lender); the others hold a reference to that module and no parameters, so that it exists once, in memory,
in the optimizer and in the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from torch import Tensor, nn

from neurolora.core.gate import initial_gate, initial_static_gate, modulation, static_modulation
from neurolora.core.orthogonality import coactivation_sums
from neurolora.core.projection import Projection, make_projection, private_generator
from neurolora.core.routing import active_counts, load_balance_step
from neurolora.core.update import adapter_update
from neurolora.errors import UnsupportedOperationError, explain
from neurolora.tuner.config import NeuroLoraConfig
from neurolora.tuner.context import ForwardContext, RoutingRecord

GATE_PARTS = ("W1", "W2", "gamma", "beta")
BASE = "__base__"  # PEFT's name for "no adapter" in a mixed batch


@dataclass(frozen=True)
class AdapterSettings:
    """Plain values of one adapter in one module; the configuration stays outside."""

    r: int
    top_k: int
    scaling: float
    routing: Literal["abs", "signed"]
    gate: Literal["token", "static", "none"]
    orthogonality_weight: float
    load_balance_rate: float
    train_projection: bool
    make_projection: Callable[[], Projection]
    initial_B: Callable[[], Tensor]
    initial_gate: Callable[[], dict[str, Tensor]]


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
        "neurolora_A", "neurolora_bias", "projection_scale", "settings", "gate_lender", "records", "pending",
    )  # fmt: skip

    def __init__(self, base_layer: nn.Module, name: str, context: ForwardContext, from_encoder: bool) -> None:
        self.base_layer = base_layer
        self.name = name
        self.context = context
        self.from_encoder = from_encoder
        self.neurolora_A = BufferDict(persistent=True)
        self.neurolora_bias = BufferDict(persistent=True)
        for container in self.adapter_layer_names:
            setattr(self, container, nn.ParameterDict())
        self.projection_scale: dict[str, float] = {}
        self.settings: dict[str, AdapterSettings] = {}
        self.gate_lender: dict[str, NeuroLoraLayer | None] = {}
        self.records: dict[str, RoutingRecord] = {}
        self.pending: dict[str, tuple[Tensor, Tensor]] = {}
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
        self.settings[adapter_name] = self._settings(config, gate_name)
        self.gate_lender[adapter_name] = lender
        self._fill(adapter_name, lent=_lent_parts(config) if lender is not None else ())
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _settings(self, config: NeuroLoraConfig, gate_name: str) -> AdapterSettings:
        return AdapterSettings(
            r=config.r,
            top_k=config.top_k,
            scaling=config.scaling,
            routing=config.routing,
            gate=config.gate,
            orthogonality_weight=config.orthogonality_weight,
            load_balance_rate=config.load_balance_rate,
            train_projection=config.train_projection,
            make_projection=_Draw(
                make_projection,
                (config.r, self.in_features),
                {
                    "kind": config.projection,
                    "density": config.density,
                    "scale": config.projection_scale,
                    "seed": config.projection_seed,
                    "name": self.name,
                },
            ),
            initial_B=_Draw(
                initial_up_projection,
                (self.out_features, config.r),
                {"init": config.init_weights, "seed": config.init_seed, "name": self.name},
            ),
            initial_gate=_gate_start(config, self.in_features, gate_name),
        )

    def _fill(self, adapter_name: str, lent: tuple[str, ...]) -> None:
        settings = self.settings[adapter_name]
        projection = settings.make_projection()
        self.projection_scale[adapter_name] = projection.scale
        if settings.train_projection:
            self.neurolora_A_trained[adapter_name] = nn.Parameter(projection.dense())
        else:
            self.neurolora_A[adapter_name] = projection.values
        if settings.load_balance_rate > 0:
            self.neurolora_bias[adapter_name] = torch.tensor(0.0, device="cpu").repeat(settings.r)
        self.neurolora_B[adapter_name] = nn.Parameter(settings.initial_B())
        for part, start in settings.initial_gate().items():
            if part not in lent:
                self.gate_container(part)[adapter_name] = nn.Parameter(start)

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """As PEFT's, but A and the routing bias keep their bits: PEFT would round them to the base's dtype."""
        exact = {
            container: container[adapter_name]
            for container in (self.neurolora_A, self.neurolora_bias)
            if adapter_name in container
        }
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)
        for container, value in exact.items():
            container[adapter_name] = value.to(container[adapter_name].device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """As torch's; an adapter that leaves the meta device is started again, for it had no values there."""
        was_meta = [name for name, B in self.neurolora_B.items() if B.is_meta]
        result = super()._apply(fn, recurse)  # type: ignore[misc]
        for name in was_meta:
            if not self.neurolora_B[name].is_meta:
                self._restart(name)
        return result

    @torch.no_grad()
    def _restart(self, adapter_name: str) -> None:
        settings = self.settings[adapter_name]
        projection = settings.make_projection()
        if adapter_name in self.neurolora_A:
            device = self.neurolora_B[adapter_name].device
            self.neurolora_A[adapter_name] = projection.values.to(device)
        else:
            self.neurolora_A_trained[adapter_name].copy_(projection.dense())
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

    def projection_matrix(self, adapter_name: str, dtype: torch.dtype) -> Tensor:
        """A (r, d), dense, in `dtype`."""
        if adapter_name in self.neurolora_A_trained:
            trained: Tensor = self.neurolora_A_trained[adapter_name]
            return trained.to(dtype)
        return self.neurolora_A[adapter_name].to(dtype) * self.projection_scale[adapter_name]

    def projection(self, adapter_name: str) -> Projection:
        """A as it is stored, for saving and for its fingerprint."""
        if adapter_name in self.neurolora_A_trained:
            return Projection(self.neurolora_A_trained[adapter_name].detach(), 1.0)
        return Projection(self.neurolora_A[adapter_name], self.projection_scale[adapter_name])

    def is_recording(self, adapter_name: str) -> bool:
        """Whether this forward is one whose routing the loss or the balancing needs."""
        settings = self.settings[adapter_name]
        needs = settings.orthogonality_weight > 0 or settings.load_balance_rate > 0
        trains = self.training and self.neurolora_B[adapter_name].requires_grad  # type: ignore[attr-defined]
        return bool(self.context.is_open and needs and trains)

    def record(self, adapter_name: str, mask: Tensor, keep: Tensor | None) -> None:
        """Keep this forward's routing, in place of whatever the last one left."""
        sums, tokens = coactivation_sums(mask, keep)
        counts, _ = active_counts(mask, keep)
        self.records[adapter_name] = RoutingRecord(sums, counts, tokens)

    def add_to_balance(self) -> None:
        """Add the forward's counts to those of the optimizer step, which may have several forwards."""
        for name, record in self.records.items():
            if self.settings[name].load_balance_rate > 0:
                counts, tokens = self.pending.get(name, (0, 0))
                self.pending[name] = (counts + record.counts, tokens + record.tokens)

    def balance(self, adapter_name: str) -> None:
        """One step of the routing bias from the counts since the last; none were counted, none is made."""
        if adapter_name not in self.pending:
            return
        settings = self.settings[adapter_name]
        counts, tokens = _sum_over_processes(*self.pending.pop(adapter_name))
        bias = self.neurolora_bias[adapter_name]
        bias.copy_(load_balance_step(bias, counts, tokens, settings.top_k, settings.load_balance_rate))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused: see `merge_error`."""
        raise merge_error("merging a NeuroLoRA adapter into the base layer")

    def unmerge(self) -> None:
        """Nothing is ever merged, so there is nothing to take out."""

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Refused: see `merge_error`."""
        raise merge_error("computing one delta weight for a NeuroLoRA adapter")


class NeuroLoraLinear(nn.Module, NeuroLoraLayer):
    """A linear layer (or anything that acts as one, quantised or transposed) with routed adapters beside it."""

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, name: str, context: ForwardContext, from_encoder: bool
    ) -> None:
        nn.Module.__init__(self)
        NeuroLoraLayer.__init__(self, base_layer, name, context, from_encoder)
        self._active_adapter = adapter_name

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """W0 x + the sum of the active adapters' updates (Eq. 1); x (..., d) -> (..., o)."""
        adapter_names = kwargs.pop("adapter_names", None)
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        if adapter_names is not None:
            return self._mixed(x, result, adapter_names)
        for adapter in self.active_adapters:
            if adapter in self.neurolora_B:
                result = result + self.update(x, adapter).to(result.dtype)
        return result

    def update(self, x: Tensor, adapter: str) -> Tensor:
        """dy (..., o) of one adapter (Eqs. 2-6), in the adapter's dtype (under autocast: autocast's)."""
        settings = self.settings[adapter]
        B = self.neurolora_B[adapter]
        x = self._cast_input_dtype(x, B.dtype)
        m = self.modulation(x, adapter)
        dy, mask = adapter_update(
            x,
            self.projection_matrix(adapter, B.dtype),
            B,
            modulation=m,
            top_k=settings.top_k,
            scaling=settings.scaling,
            routing=settings.routing,
            bias=self.neurolora_bias[adapter] if adapter in self.neurolora_bias else None,
        )
        self._note(adapter, mask, m)
        return dy

    def modulation(self, x: Tensor, adapter: str) -> Tensor | None:
        """The gate's m (Eq. 3) for the gate's input; here the token itself (docs/method.md, context)."""
        kind = self.settings[adapter].gate
        if kind == "none":
            return None
        if kind == "static":
            return static_modulation(self.gate_parameter("gamma", adapter))
        return modulation(x, *(self.gate_parameter(part, adapter) for part in GATE_PARTS))

    def _note(self, adapter: str, mask: Tensor, m: Tensor | None) -> None:
        recording, observer = self.is_recording(adapter), self.context.observer
        if not recording and observer is None:
            return
        keep = self.context.keep(mask.shape[:-1], self.from_encoder)
        if recording:
            self.record(adapter, mask, keep)
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
            rows = torch.tensor([i for i, name in enumerate(adapter_names) if name == adapter], device=x.device)
            result.index_add_(0, rows, self.update(x[rows], adapter).to(result.dtype))
        return result

    def __repr__(self) -> str:
        return "neurolora." + super().__repr__()


@dataclass(frozen=True)
class _Draw:
    """A call kept for later, comparable and picklable, where a lambda is neither."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        return self.function(*self.args, **self.kwargs)


def initial_up_projection(
    out_features: int, r: int, *, init: bool | Literal["gaussian"], seed: int, name: str
) -> Tensor:
    """B's start (o, r), float32 on the CPU: zeros (True), Kaiming uniform (False) or N(0, 1/o) ("gaussian")."""
    generator = private_generator("B", int(seed), name, out_features, r)
    if init is True:
        return torch.tensor(0.0, dtype=torch.float32, device="cpu").repeat(out_features, r)
    if init == "gaussian":
        normal = torch.randn(out_features, r, generator=generator, dtype=torch.float32, device="cpu")
        return normal / math.sqrt(out_features)
    uniform = torch.rand(out_features, r, generator=generator, dtype=torch.float32, device="cpu")
    return (2.0 * uniform - 1.0) / math.sqrt(r)


def _gate_start(config: NeuroLoraConfig, in_features: int, name: str) -> _Draw:
    if config.gate == "none":
        return _Draw(dict, (), {})
    if config.gate == "static":
        return _Draw(initial_static_gate, (config.r,), {})
    return _Draw(
        initial_gate,
        (config.gate_dim, in_features, config.r),
        {"init": config.gate_init, "seed": config.init_seed, "name": name},
    )


def _lent_parts(config: NeuroLoraConfig) -> tuple[str, ...]:
    """Which parts of the gate a group shares: W1 where the input is shared, else the whole gate."""
    return ("W1",) if config.gate_sharing == "input" else GATE_PARTS


def _sum_over_processes(counts: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        counts, tokens = counts.clone(), tokens.clone()
        torch.distributed.all_reduce(counts)
        torch.distributed.all_reduce(tokens)
    return counts, tokens
