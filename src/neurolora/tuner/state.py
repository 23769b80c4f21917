"""From the model to the adapter's file and back: A packed, its fingerprint beside it, nothing missing.

Room: tuner. Called by `model.py` from the two hooks that PEFT has for this. In the file, for each module:
`neurolora_B` (o, r), `neurolora_gate_*` (a shared gate once), `neurolora_A` (uint8, a ternary A at two bits
an entry; float32 otherwise, a trained A too; absent with `save_projection=False`), `neurolora_A_scale`
(float64) and `neurolora_A_fingerprint` (32 bytes).
"""

from __future__ import annotations

import difflib
import warnings

import torch
from torch import Tensor, nn

import neurolora
from neurolora.core.projection import Projection, fingerprint, pack_ternary, unpack_ternary
from neurolora.errors import AdapterError, FingerprintMismatchError, explain
from neurolora.tuner.auxiliary import adapter_layers
from neurolora.tuner.config import NeuroLoraConfig
from neurolora.tuner.fingerprint import base_difference, base_fingerprint, combined_fingerprint
from neurolora.tuner.layer import NeuroLoraLayer

A, SCALE, FINGERPRINT = "neurolora_A", "neurolora_A_scale", "neurolora_A_fingerprint"
FINGERPRINT_BYTES = 32
TRAINED_A = "neurolora_A_trained"  # where the layer keeps an A that is a parameter; in the file it is `A`
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
        own = TRAINED_A if layer.settings[adapter].train_projection else A
        projection = _projection_of(layer, adapter, state.pop(_key(path, own, adapter), None))
        parts[layer.name] = fingerprint(projection)
        state.update(_projection_entries(path, layer, adapter, projection, config.save_projection))
    _refuse_empty(state, "saving the adapter", "Gather sharded weights before saving (ZeRO-3, FSDP)")
    config.projection_fingerprint = combined_fingerprint(parts)
    config.base_fingerprint = base_fingerprint(_base(model))
    config.neurolora_version = neurolora.__version__
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
    if save_projection:
        packed = (
            pack_ternary(projection.values) if projection.values.dtype == torch.int8 else projection.values
        )
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

    A state that is only a part is refused, whatever PEFT was told of mismatched sizes: an adapter with the A
    of one file and the B of another computes something that nobody trained.

    Raises:
        FingerprintMismatchError: A is not what the file says it is, or not what the seed gives.
        AdapterError: missing, unknown, empty or misshapen tensors, each named.
    """
    state = dict(state)
    _refuse_empty(state, "loading the adapter", "Save the adapter again from gathered weights")
    problems: list[str] = []
    consumed: set[str] = set()
    paths_in_file = {key.rpartition(".neurolora_")[0] for key in state}
    for path, layer in _layers_with(model, adapter):
        prefix = _file_prefix(path, paths_in_file)
        own = _own_tensors(layer, adapter)
        problem = _take_projection(prefix, layer, adapter, state)
        if problem:
            problems.append(problem)
            own.pop(TRAINED_A if TRAINED_A in own else A)
        problems += _shape_problems(prefix, own, state)
        consumed |= {f"{prefix}.{name}" for name in (*own, A)}
    problems += _strangers(model, state, consumed)
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


def _take_projection(prefix: str, layer: NeuroLoraLayer, adapter: str, state: State) -> str | None:
    """Put A into `state` as the layer keeps it, from the file or the seed; a problem in words, if any."""
    key = f"{prefix}.{A}"
    recorded = state.pop(f"{prefix}.{FINGERPRINT}", None)
    scale = state.pop(f"{prefix}.{SCALE}", None)
    stored = state.pop(key, None)
    if recorded is None or recorded.numel() != FINGERPRINT_BYTES:
        return f"{prefix}.{FINGERPRINT} is missing, or not of {FINGERPRINT_BYTES} bytes"
    if stored is None:
        if layer.settings[adapter].train_projection:
            return f"{key} is missing"
        projection = layer.settings[adapter].make_projection()
        origin = f"seed and name {layer.name!r} give"
    else:
        problem = _projection_problem(key, stored, scale, layer, adapter)
        if problem or scale is None:
            return problem
        projection = _unpacked(stored, float(scale), layer)
        origin = "file holds"
    _check_fingerprint(layer, projection, recorded, origin)
    if layer.settings[adapter].train_projection:
        state[f"{prefix}.{TRAINED_A}"] = projection.values
    else:
        layer.projection_scale[adapter] = projection.scale
        state[key] = projection.values
    return None


def _projection_problem(
    key: str, stored: Tensor, scale: Tensor | None, layer: NeuroLoraLayer, adapter: str
) -> str | None:
    if scale is None or scale.numel() != 1:
        return f"{key.removesuffix(A)}{SCALE} is missing, or not one number"
    is_packed = stored.dtype == torch.uint8
    wanted = (layer.settings[adapter].r, -(-layer.in_features // 4) if is_packed else layer.in_features)
    if tuple(stored.shape) != wanted:
        return f"{key} has shape {tuple(stored.shape)}, this model needs {wanted}"
    own = layer.neurolora_A[adapter].dtype if adapter in layer.neurolora_A else torch.float32
    if is_packed != (own == torch.int8):
        return f"{key} is {stored.dtype}, which is not how projection={_kind_kept_as(own)!r} is stored"
    return None


def _kind_kept_as(dtype: torch.dtype) -> str:
    """Which `projection` a layer keeps in this dtype."""
    return "ternary" if dtype == torch.int8 else "gaussian"


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


def _own_tensors(layer: NeuroLoraLayer, adapter: str) -> dict[str, Tensor]:
    """The tensors of an adapter that one module holds, by the name of their container."""
    names = (A, "neurolora_bias", *layer.adapter_layer_names)
    return {name: getattr(layer, name)[adapter] for name in names if adapter in getattr(layer, name)}


def _shape_problems(prefix: str, own: State, state: State) -> list[str]:
    problems = []
    for name, tensor in own.items():
        key, wanted = f"{prefix}.{name}", tuple(tensor.shape)
        if key not in state:
            problems.append(f"{key} is missing")
        elif tuple(state[key].shape) != wanted:
            problems.append(f"{key} has shape {tuple(state[key].shape)}, this model needs {wanted}")
    return problems


def _strangers(model: nn.Module, state: State, consumed: set[str]) -> list[str]:
    """Tensors that belong to nothing: not to an adapted module, nor to one that is saved in full."""
    rest = [key for key in state if key not in consumed]
    known = _names_of_tensors(model) if rest else set()
    strange = [key for key in rest if key.removeprefix(PEFT_PREFIX) not in known]
    return [f"{key} belongs to no module of this model{_nearest(key, consumed)}" for key in strange]


def _names_of_tensors(model: nn.Module) -> set[str]:
    tensors = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return {_in_file(name).removeprefix(PEFT_PREFIX) for group in tensors for name, _ in group}


def _in_file(path: str) -> str:
    """A path without the segments that FSDP adds, which are not in its state dict either."""
    return ".".join(part for part in path.split(".") if part != "_fsdp_wrapped_module")


def _file_prefix(path: str, paths_in_file: set[str]) -> str:
    """The module's path as the file has it: as a rule with PEFT's prefix, wrapper or not."""
    bare = path.removeprefix(PEFT_PREFIX)
    return bare if bare in paths_in_file else PEFT_PREFIX + bare


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
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def _key(path: str, name: str, adapter: str) -> str:
    return f"{path}.{name}.{adapter}" if path else f"{name}.{adapter}"


def _layers_with(model: nn.Module, adapter: str) -> list[tuple[str, NeuroLoraLayer]]:
    return [(_in_file(path), layer) for path, layer in adapter_layers(model) if adapter in layer.neurolora_B]
