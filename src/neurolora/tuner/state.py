"""From the model to the adapter's file and back: A packed, its fingerprint beside it, nothing missing.

Room: tuner. Called by `model.py` from the two hooks that PEFT has for this. In the file, for each module:
`neurolora_B` (o, r), `neurolora_gate_*` (a shared gate once), `neurolora_A` (uint8, a ternary A at two bits
an entry; float32 otherwise; absent with `save_projection=False`), `neurolora_A_scale` (float64) and
`neurolora_A_fingerprint` (32 bytes).
"""

from __future__ import annotations

import difflib
import warnings
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from neurolora.core.projection import Projection, fingerprint, pack_ternary, unpack_ternary
from neurolora.errors import AdapterError, FingerprintMismatchError, explain
from neurolora.tuner.auxiliary import adapter_layers
from neurolora.tuner.config import NeuroLoraConfig
from neurolora.tuner.fingerprint import base_difference, base_fingerprint, combined_fingerprint
from neurolora.tuner.layer import NeuroLoraLayer

A, SCALE, FINGERPRINT = "neurolora_A", "neurolora_A_scale", "neurolora_A_fingerprint"
PEFT_PREFIX = "base_model.model."
State = dict[str, Tensor]


def pack_state(model: nn.Module, config: NeuroLoraConfig, adapter: str, state: State) -> State:
    """What goes into the file: `state` with A packed or left out, and the fingerprints added.

    Writes the fingerprints of A and of the base, and the package's version, into `config` as well.

    Raises:
        AdapterError: a tensor is empty (a sharded weight that was not gathered), or A was changed (rounded
            to a lower precision) and only its seed was to be saved.
    """
    state = dict(state)
    parts = {}
    for path, layer in _layers_with(model, adapter):
        projection = _projection_of(layer, adapter, state.pop(_key(path, A, adapter), None))
        parts[layer.name] = fingerprint(projection)
        state.update(_projection_entries(path, layer, adapter, projection, config.save_projection))
    _refuse_empty(state, "saving the adapter", "Gather sharded weights before saving (ZeRO-3, FSDP)")
    config.projection_fingerprint = combined_fingerprint(parts)
    config.base_fingerprint = base_fingerprint(_base(model))
    config.neurolora_version = version("neurolora")
    return state


def _projection_of(layer: NeuroLoraLayer, adapter: str, saved: Tensor | None) -> Projection:
    """A from the state dict that is being saved (a distributed one may differ from the layer's), else own."""
    own = layer.projection(adapter)
    return own if saved is None else Projection(saved, own.scale)


def _projection_entries(
    path: str, layer: NeuroLoraLayer, adapter: str, projection: Projection, save_projection: bool
) -> State:
    own = fingerprint(projection)
    entries = {_key(path, FINGERPRINT, adapter): torch.tensor(list(bytes.fromhex(own)), dtype=torch.uint8)}
    if layer.settings[adapter].train_projection:
        return entries
    if save_projection:
        packed = pack_ternary(projection.values) if projection.values.dtype == torch.int8 else projection.values
        entries[_key(path, A, adapter)] = packed
        entries[_key(path, SCALE, adapter)] = torch.tensor(projection.scale, dtype=torch.float64)
        return entries
    drawn = fingerprint(layer.settings[adapter].make_projection())
    if drawn != own:
        raise AdapterError(
            explain(
                f"saving only the seed of A for {layer.name}",
                f"A is {own[:16]}, but its seed gives {drawn[:16]}: it was loaded from elsewhere or rounded",
                "Save with save_projection=True",
            )
        )
    return entries


def unpack_state(model: nn.Module, config: NeuroLoraConfig, adapter: str, state: State) -> State:
    """What a file's tensors are to the model: A unpacked and checked, everything there, nothing left over.

    Raises:
        FingerprintMismatchError: A is not what the file says it is, or not what the seed gives.
        AdapterError: missing, unknown, empty or misshapen tensors, each named.
    """
    state = dict(state)
    _refuse_empty(state, "loading the adapter", "Save the adapter again from gathered weights")
    problems: list[str] = []
    consumed: set[str] = set()
    for path, layer in _layers_with(model, adapter):
        _take_projection(path, layer, adapter, state, problems, consumed)
        problems += _shape_problems(path, layer, adapter, state, consumed)
    strangers = [key for key in state if ".neurolora_" in key and key not in consumed]
    problems += [f"{key} belongs to no adapted module{_nearest(key, consumed)}" for key in strangers]
    if problems:
        shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
        raise AdapterError(
            explain(
                f"loading the tensors of adapter {adapter!r}",
                "; ".join(shown),
                "The file is incomplete, or was trained on another model or with another configuration",
            )
        )
    _warn_of_other_base(model, config)
    return state


def _take_projection(
    path: str, layer: NeuroLoraLayer, adapter: str, state: State, problems: list[str], consumed: set[str]
) -> None:
    prefix = _file_prefix(path, state)
    recorded = state.pop(f"{prefix}.{FINGERPRINT}", None)
    scale = state.pop(f"{prefix}.{SCALE}", None)
    if layer.settings[adapter].train_projection:
        return
    key = f"{prefix}.{A}"
    consumed.add(key)
    stored = state.pop(key, None)
    if stored is None and recorded is None:
        problems.append(f"{key} is missing, and so is its fingerprint")
        return
    if stored is None:
        projection = layer.settings[adapter].make_projection()
        origin = f"seed and name {layer.name!r} give"
    else:
        if scale is None:
            problems.append(f"{prefix}.{SCALE} is missing")
            return
        problem = _projection_shape_problem(key, stored, layer, adapter)
        if problem:
            problems.append(problem)
            return
        projection = _unpacked(stored, float(scale), layer)
        origin = "file holds"
    _check_fingerprint(layer, projection, recorded, origin)
    layer.projection_scale[adapter] = projection.scale
    state[key] = projection.values


def _projection_shape_problem(key: str, stored: Tensor, layer: NeuroLoraLayer, adapter: str) -> str | None:
    columns = -(-layer.in_features // 4) if stored.dtype == torch.uint8 else layer.in_features
    wanted = (layer.settings[adapter].r, columns)
    if tuple(stored.shape) == wanted:
        return None
    return f"{key} has shape {tuple(stored.shape)}, this model needs {wanted}"


def _unpacked(stored: Tensor, scale: float, layer: NeuroLoraLayer) -> Projection:
    values = unpack_ternary(stored, layer.in_features) if stored.dtype == torch.uint8 else stored
    return Projection(values, scale)


def _check_fingerprint(
    layer: NeuroLoraLayer, projection: Projection, recorded: Tensor | None, origin: str
) -> None:
    found = fingerprint(projection)
    wanted = bytes(recorded.tolist()).hex() if recorded is not None else None
    if wanted is not None and wanted != found:
        raise FingerprintMismatchError(
            explain(
                f"loading the projection A of {layer.name}",
                f"the adapter was trained with A {wanted[:16]}, but the {origin} A {found[:16]}",
                "The file is damaged, or projection_seed, density or the modules' names differ from training",
            )
        )


def _shape_problems(
    path: str, layer: NeuroLoraLayer, adapter: str, state: State, consumed: set[str]
) -> list[str]:
    problems = []
    prefix = _file_prefix(path, state)
    for name in (*layer.adapter_layer_names, "neurolora_bias"):
        container: Any = getattr(layer, name)
        if adapter not in container:
            continue
        key = f"{prefix}.{name}"
        consumed.add(key)
        wanted = tuple(container[adapter].shape)
        if key not in state:
            problems.append(f"{key} is missing")
        elif tuple(state[key].shape) != wanted:
            problems.append(f"{key} has shape {tuple(state[key].shape)}, this model needs {wanted}")
    return problems


def _file_prefix(path: str, state: State) -> str:
    """The module's path as the file has it; PEFT's prefix is there, whether the model has a wrapper or not."""
    wrapped = path if path.startswith(PEFT_PREFIX) else PEFT_PREFIX + path
    bare = path.removeprefix(PEFT_PREFIX)
    return bare if any(key.startswith(f"{bare}.neurolora_") for key in state) else wrapped


def _warn_of_other_base(model: nn.Module, config: NeuroLoraConfig) -> None:
    difference = base_difference(config.base_fingerprint, _base(model))
    if difference:
        warnings.warn(f"Loading a NeuroLoRA adapter: {difference}.", UserWarning, stacklevel=2)


def _refuse_empty(state: State, asked: str, do: str) -> None:
    empty = [key for key, tensor in state.items() if isinstance(tensor, Tensor) and tensor.numel() == 0]
    if empty:
        raise AdapterError(explain(asked, f"these tensors have no elements: {', '.join(empty[:8])}", do))


def _nearest(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _base(model: nn.Module) -> nn.Module:
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator,no-any-return]


def _key(path: str, name: str, adapter: str) -> str:
    return f"{path}.{name}.{adapter}" if path else f"{name}.{adapter}"


def _layers_with(model: nn.Module, adapter: str) -> list[tuple[str, NeuroLoraLayer]]:
    return [(path, layer) for path, layer in adapter_layers(model) if adapter in layer.neurolora_B]
